"""Digests that are equal in every process, machine and hash seed: of bytes, of named parts, of Python values.

Pickle bytes cannot serve as a cache key: a pickled set of strings has other bytes under every hash seed. So a value is
walked by its typed content and each object becomes a short, self-delimiting *code*: tag, length, payload; from 255 bytes
on tag, 0xff, BLAKE3 of the payload. Dicts and sets sort the codes of what they hold. Everything that is no builtin goes
through the same door as in pickle: ``copyreg.dispatch_table``, then ``__reduce_ex__(4)``.

The walk is a stack of generators, one per open object, so that depth costs memory and not recursion. Sharing is
invisible: ``[a, a]`` is ``[a, copy of a]``. An object that is met inside itself becomes its distance up the stack; sets
and the keys of dicts have no order that could tell such distances apart, so a cycle through them is refused.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import decimal
import enum
import fractions
import functools
import itertools
import math
import struct
import sys
import types
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from minipipe import contents
from minipipe.errors import MinipipeError

FORMAT = 1
"""Version of all digests; to be raised when the digest of any value changes, so that no old cache entry is hit."""

_INLINE = 255  # payloads shorter than this stand in the code itself
_DEEPEST = 200_000  # a __reduce_ex__ that makes a new object of itself for ever must end somewhere
_AGAIN = 100_000  # what holds a cycle is walked at each place where it is met: factorial at worst, so bounded
_NO_CYCLE = sys.maxsize

_Callback = Callable[[object], str | None]
_Steps = Generator[object, bytes, bytes]
"""The walk of one object: yields what it holds, is sent its code, returns the object's own code."""


class Unstable(MinipipeError):
    """A value has no stable digest: it lives in one process, or it shows other content each time it is asked.

    Attributes:
        path: where it was found, like ``config['model'].lock``.
        type_name: its type with the module, like ``_thread.lock``; builtins without.
    """

    path: str
    type_name: str


class _Refused(Exception):
    """Why the innermost open object has no digest; `_Walk.run` turns this into `Unstable`."""


# -- bytes and parts ---------------------------------------------------------------------------------------------------


def digest_bytes(data: bytes | memoryview, tag: str = "") -> str:
    """The digest of bytes, other for every tag: 64 hexadecimal digits.

    Args:
        data: any contiguous bytes; a memoryview is not copied.
        tag: what the bytes are; equal bytes of two kinds never have the same digest.
    """
    name = _utf8(tag)
    head = b"minipipe %d %d:" % (FORMAT, len(name)) + name
    if len(data) < 1024 and isinstance(data, bytes):
        return blake3(head + data).hexdigest()
    hasher = blake3(head)
    hasher.update(data)
    return hasher.hexdigest()


def combine(tag: str, *parts: str | bytes) -> str:
    """The digest of a list of parts: other borders, order, number or types of parts give another digest."""
    pieces: list[bytes] = []
    for part in parts:
        data, kind = (_utf8(part), b"s") if isinstance(part, str) else (part, b"b")
        pieces += (b"%b%d:" % (kind, len(data)), data)
    return digest_bytes(b"".join(pieces), "combine:" + tag)


def value_digest(
    value: object,
    *,
    reference: _Callback | None = None,
    code: _Callback | None = None,
    name: str = "value",
) -> str:
    """The digest of a value by its typed content: 1, True and 1.0 differ, the order of a dict or set does not count.

    An existing `Path` counts by the content of the file or folder tree, a missing one by its text. NaNs are all one,
    -0.0 is not 0.0. Arrays count by dtype, shape and items in any memory layout, frames by labels, dtypes and values.

    >>> value_digest({"rate": 0.1, "layers": [8, 4]}) == value_digest({"layers": [8, 4], "rate": 0.1})
    True

    Args:
        value: anything that can be pickled, and some things that cannot.
        reference: asked first for every object reached, before it is touched in any way but `type` and `id`; what it
            returns stands for the object. For lazy results.
        code: asked for every class and Python function; without an answer they count by module and qualified name.
        name: what messages call the value: the first part of `Unstable.path`.

    Raises:
        Unstable: something in the value has no stable digest.
    """
    walk = _Walk(reference, code, name)
    found = walk.run(value)
    if walk.doubtful:
        # Asked twice: what differs within one process differs between two.
        _Walk(reference, code, name, walk.trail).run(value)
    return digest_bytes(found, "value")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# -- scalars -----------------------------------------------------------------------------------------------------------


def _pack(tag: bytes, payload: bytes | memoryview) -> bytes:
    """A self-delimiting code; tags are one byte."""
    if len(payload) < _INLINE:
        return tag + _SIZES[len(payload)] + payload
    hasher = blake3(tag)
    hasher.update(payload)
    return tag + b"\xff" + hasher.digest()


_SIZES = [b"%c" % size for size in range(_INLINE)]
_STR_HEADS, _INT_HEADS = ([tag + size for size in _SIZES] for tag in (b"s", b"i"))
_NAN = b"f\x03nan"
_double = struct.Struct("<2sd").pack


def _str(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return _STR_HEADS[len(data)] + data if len(data) < _INLINE else _pack(b"s", data)


def _int(value: int) -> bytes:
    size = (value.bit_length() >> 3) + 1
    data = value.to_bytes(size, "little", signed=True)
    return _INT_HEADS[size] + data if size < _INLINE else _pack(b"i", data)


def _float(value: float) -> bytes:
    return _double(b"f\x08", value) if not math.isnan(value) else _NAN


_TRUE, _FALSE, _NONE = _pack(b"b", b"1"), _pack(b"b", b"0"), _pack(b"N", b"")

_SCALARS: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: _NONE,
    bool: lambda value: _TRUE if value else _FALSE,
    int: _int,
    float: _float,
    complex: lambda value: _pack(b"c", _float(value.real) + _float(value.imag)),
    str: _str,
    bytes: lambda value: _pack(b"y", value),
    bytearray: lambda value: _pack(b"Y", bytes(value)),
    decimal.Decimal: lambda value: _pack(b"D", str(value).encode()),
    fractions.Fraction: lambda value: _pack(b"q", _int(value.numerator) + _int(value.denominator)),
    uuid.UUID: lambda value: _pack(b"U", value.bytes),  # without is_safe, which tells how it was made
}


def _named(kind: str, *texts: str) -> bytes:
    return _pack(b"g", b"".join(map(_str, (kind, *texts))))


# -- the walk ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Frame:
    """One open object: its walk, and the lowest place on the stack that something in it refers back to."""

    value: object
    steps: _Steps
    low: int = _NO_CYCLE


class _Walk:
    """One pass over a value.

    Args:
        reference, code, name: as given to `value_digest`.
        expected: the codes of the reduced objects in an earlier pass, all to be found again.
    """

    def __init__(self, reference: _Callback | None, code: _Callback | None, name: str, expected: Iterable[bytes] = ()) -> None:
        self.quick = _scalar_code if reference is None else functools.partial(_ask, reference)
        self.code = code
        self.name = name
        self.expected = iter(expected)
        self.trail: list[bytes] = []  # codes of reduced objects, in the order in which they were finished
        self.doubtful = False
        self.codes: dict[int, bytes] = {}  # by id, of finished objects without a cycle
        self.kept: dict[int, object] = {}  # by id: an object that died in between would leave its id to another
        self.places: dict[int, int] = {}  # by id, of open objects
        self.stack: list[_Frame] = []
        self.low = _NO_CYCLE  # of the code that was answered last
        self.again = 0

    def run(self, root: object) -> bytes:
        """The code of the value."""
        answer = self.quick(root)
        if answer is None:
            answer = self.enter(root)
        stack = self.stack
        while stack:
            try:
                answer = self.enter(stack[-1].steps.send(answer))  # type: ignore[arg-type]  # None starts a generator
            except StopIteration as stop:
                answer = self.leave(stop.value)
            except _Refused as refused:
                raise self.unstable(refused) from refused.__cause__
        assert answer is not None
        return answer

    def enter(self, value: object) -> bytes | None:
        """The code of an object that is no scalar if it is at hand, else None: it is open now."""
        key = id(value)
        stack = self.stack
        place = self.places.get(key)
        if place is not None:
            self.low = place
            stack[-1].low = min(stack[-1].low, place)
            return _pack(b"@", b"%d" % (len(stack) - 1 - place))
        known = self.codes.get(key)
        if known is not None:
            self.low = _NO_CYCLE
            return known
        if key in self.kept:
            self.again += 1
        if self.again > _AGAIN or len(stack) > _DEEPEST:
            raise _Refused("what it holds is nested too deeply" if self.again <= _AGAIN else "its objects are too entangled")
        self.kept[key] = value
        self.places[key] = len(stack)
        stack.append(_Frame(value, _steps(self, value)))
        return None

    def leave(self, found: bytes) -> bytes:
        """Close the innermost open object."""
        frame = self.stack.pop()
        key = id(frame.value)
        del self.places[key]
        self.low = low = frame.low
        if low == _NO_CYCLE:
            self.codes[key] = found
        elif self.stack:
            self.stack[-1].low = min(self.stack[-1].low, low)
        return found

    def unstable(self, refused: _Refused) -> Unstable:
        """The error for the innermost open object."""
        chain = [frame.value for frame in self.stack]
        path = self.name + "".join(itertools.starmap(_label, itertools.pairwise(chain)))
        if len(path) > 500:
            path = f"{path[:240]}...{path[-240:]}"
        kind = _type_name(type(chain[-1]))
        hint = "open or make it inside the step, or pass plain data or a path"
        return Unstable(f"{path} ({kind}) has no stable digest", str(refused), hint, path=path, type_name=kind)


def _scalar_code(value: object) -> bytes | None:
    encode = _SCALARS.get(type(value))
    return None if encode is None else encode(value)


def _ask(reference: _Callback, value: object) -> bytes | None:
    found = reference(value)
    return _scalar_code(value) if found is None else _pack(b"R", _utf8(found))


# -- containers --------------------------------------------------------------------------------------------------------


def _codes(walk: _Walk, values: Iterable[object], alone: bool = False) -> Generator[object, bytes, list[bytes]]:
    """The codes of values; of those without an order each must make sense alone."""
    quick = walk.quick
    codes = []
    for value in values:
        code = quick(value)
        if code is None:
            code = yield value
            if alone and walk.low < len(walk.stack):
                raise _Refused("it contains itself through a set or the key of a dict")
        codes.append(code)
    return codes


def _ordered(walk: _Walk, values: Iterable[object]) -> _Steps:
    return b"".join((yield from _codes(walk, values)))


def _unordered(walk: _Walk, values: Iterable[object]) -> _Steps:
    return b"".join(sorted((yield from _codes(walk, values, alone=True))))


def _pairs(walk: _Walk, keys: Iterable[object], values: Iterable[object]) -> _Steps:
    heads = yield from _codes(walk, keys, alone=True)
    tails = yield from _codes(walk, values)
    return b"".join(sorted(map(bytes.__add__, heads, tails)))


def _list(walk: _Walk, value: list[object]) -> _Steps:
    return _pack(b"l", b"".join((yield from _codes(walk, tuple(value)))))


def _tuple(walk: _Walk, value: tuple[object, ...]) -> _Steps:
    return _pack(b"t", b"".join((yield from _codes(walk, value))))


def _dict(walk: _Walk, value: dict[object, object]) -> _Steps:
    return _pack(b"d", (yield from _pairs(walk, tuple(value), tuple(value.values()))))


def _mapping(walk: _Walk, value: Mapping[object, object]) -> _Steps:
    return _pack(b"M", (yield from _pairs(walk, tuple(value), tuple(value.values()))))


def _set(walk: _Walk, value: set[object]) -> _Steps:
    return _pack(b"S", (yield from _unordered(walk, tuple(value))))


def _frozenset(walk: _Walk, value: frozenset[object]) -> _Steps:
    return _pack(b"F", (yield from _unordered(walk, tuple(value))))


def _member(walk: _Walk, value: enum.Enum) -> _Steps:
    return _pack(b"e", (yield from _ordered(walk, (type(value), value._name_, value._value_))))


def _range(walk: _Walk, value: range) -> _Steps:
    return _pack(b"r", (yield from _ordered(walk, (len(value), *value[:1], value.step if len(value) > 1 else 0))))


# -- objects -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _foreign() -> Iterator[None]:
    """Around code of others: what it raises is why there is no digest."""
    try:
        yield
    except (MinipipeError, MemoryError):
        raise
    except Exception as error:
        raise _Refused(f"{type(error).__name__}: {error}") from error


def _read(read: Callable[[Any], Iterable[object]], walk: _Walk, value: object) -> _Steps:
    """A value that `contents` tells in plain values."""
    with _foreign():
        content = tuple(read(value))
    return _pack(b"v", (yield from _ordered(walk, content)))


def _view(value: memoryview) -> Iterable[object]:
    return value.format, value.shape, value.tobytes()


def _module(walk: _Walk, value: types.ModuleType) -> _Steps:
    return _named("module", value.__name__)
    yield


def _class_or_function(walk: _Walk, value: Any) -> _Steps:
    found = walk.code(value) if walk.code is not None else None
    return _global(value, value.__qualname__) if found is None else _pack(b"C", _utf8(found))
    yield


def _global(value: Any, name: str) -> bytes:
    module = getattr(value, "__module__", None) or type(value).__module__
    if "<" in name:
        raise _Refused(f"{name} has no name that another process could find, and its code is not known")
    return _named("global", str(module), name)


def _reduced(walk: _Walk, value: object) -> _Steps:
    """Any other object, by what pickle would store of it."""
    kind = type(value)
    walk.doubtful = walk.doubtful or _reduces_itself(kind)
    with _foreign():
        special = copyreg.dispatch_table.get(kind)
        made = special(value) if special else value.__reduce_ex__(4)
        if not isinstance(made, str):
            maker, arguments, state, items, entries, setter = (*made, None, None, None, None)[:6]
            items, entries = tuple(items or ()), tuple(entries or ())
    if isinstance(made, str):
        # A global (a ufunc, pandas.NA, a function under functools.cache): what it wraps is content too.
        wrapped = getattr(value, "__dict__", {}).get("__wrapped__")
        code = _pack(b"G", _global(value, made) + (yield from _ordered(walk, (wrapped,))))
    else:
        if isinstance(value, (set, frozenset)):
            arguments = [each for each in arguments if type(each) is not list]  # what set.__reduce__ gives, in hash order
            elements = yield from _unordered(walk, tuple(value))
        else:
            elements = yield from _ordered(walk, items)
        head = yield from _ordered(walk, (maker, setter))
        given = yield from _ordered(walk, arguments)
        if isinstance(value, collections.OrderedDict):
            held = yield from _ordered(walk, itertools.chain.from_iterable(entries))
        else:
            held = yield from _pairs(walk, [key for key, _ in entries], [item for _, item in entries])
        kept = yield from _state(walk, state)
        code = _pack(b"o", b"".join(map(_pack, (b"h", b"a", b"l", b"d", b"s"), (head, given, elements, held, kept))))
    walk.trail.append(code)
    if next(walk.expected, code) != code:
        raise _Refused("it shows other content each time it is asked (__reduce_ex__)")
    return code


def _state(walk: _Walk, state: object) -> _Steps:
    """The state of an object: its dict, dict and slots, or values of slots; no objects of their own, so that paths read ``.name``."""
    parts = [_str(type(state).__name__)]
    for part in state if type(state) in (tuple, list) else (state,):  # type: ignore[attr-defined]
        if type(part) is dict:
            parts.append(_pack(b"d", (yield from _pairs(walk, tuple(part), tuple(part.values())))))
        else:
            parts.append((yield from _ordered(walk, (part,))))
    return b"".join(parts)


_REDUCERS = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs_ex__", "__getnewargs__")
_TRUSTED = sys.stdlib_module_names | {"numpy", "pandas"}  # theirs give the same content twice: no need to ask


def _reduces_itself(kind: type) -> bool:
    """True if code of others tells the content of such objects."""
    methods = [getattr(kind, name) for name in _REDUCERS if hasattr(kind, name)]
    makers = [copyreg.dispatch_table.get(kind, object), *(getattr(each, "__objclass__", each) for each in methods)]
    return any(_root(each) not in _TRUSTED for each in makers)


# -- which walk for which type -----------------------------------------------------------------------------------------

_EXACT: dict[type, Callable[[_Walk, Any], _Steps]] = {
    **{list: _list, tuple: _tuple, dict: _dict, set: _set, frozenset: _frozenset, range: _range},
    **{types.MappingProxyType: _mapping, types.FunctionType: _class_or_function},
    memoryview: functools.partial(_read, _view),
}
_BASES: dict[type, Callable[[_Walk, Any], _Steps]] = {type: _class_or_function, types.ModuleType: _module, enum.Enum: _member}
_KNOWN: weakref.WeakKeyDictionary[type, Callable[[_Walk, Any], _Steps]] = weakref.WeakKeyDictionary()


def _steps(walk: _Walk, value: object) -> _Steps:
    kind = type(value)
    found = _EXACT.get(kind) or _KNOWN.get(kind)
    if found is None:
        found = next((steps for base, steps in _BASES.items() if issubclass(kind, base)), None)
        if found is None:
            read = contents.reader_of(kind)
            found = functools.partial(_read, read) if read else _reduced
        _KNOWN[kind] = found
    return found(walk, value)


def _root(thing: Any) -> str:
    return str(getattr(thing, "__module__", None)).partition(".")[0]


# -- where an object was found -----------------------------------------------------------------------------------------


def _type_name(kind: type) -> str:
    module = str(kind.__module__)
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _label(parent: Any, child: object) -> str:
    """How a path goes on from an object to one that it holds; only sought when there is an error to tell."""
    kind = type(parent)
    if issubclass(kind, (set, frozenset)):
        return "{...}"
    for name, item in _attributes(parent):
        if item is child:
            return f".{name}"
    if issubclass(kind, (dict, types.MappingProxyType)):
        for key, item in tuple(parent.items()):
            if item is child or key is child:
                return f"[{_shown(key)}]" if item is child else ".keys()"
    if issubclass(kind, (list, tuple, collections.deque)):
        return next((f"[{at}]" for at, item in enumerate(tuple(parent)) if item is child), "")
    return contents.place_in(parent, child)


def _attributes(parent: Any) -> Iterator[tuple[str, object]]:
    kind = type(parent)
    if issubclass(kind, tuple):
        yield from zip(getattr(kind, "_fields", ()), parent, strict=False)
    with contextlib.suppress(AttributeError):
        yield from tuple(object.__getattribute__(parent, "__dict__").items())
    for base in kind.__mro__:
        for name, member in tuple(vars(base).items()):
            if isinstance(member, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):
                    yield name, member.__get__(parent)


def _shown(key: object) -> str:
    # A key of another type could be anything, and its repr could do anything.
    try:
        return repr(key)[:80] if type(key) in _SCALARS else f"<{_type_name(type(key))}>"
    except ValueError:  # an int of more digits than Python prints
        return "<int>"
