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
    """Why the innermost open object has no digest, where no other exception says it."""


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
        reference: asked first for every object reached that is no scalar, before it is touched in any way but `type` and
            `id`; what it returns stands for the object. For lazy results.
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
        reference: as given to `value_digest`, like the next two.
        code: see there.
        name: see there.
        expected: the codes of the reduced objects in an earlier pass, all to be found again.
    """

    def __init__(self, reference: _Callback | None, code: _Callback | None, name: str, expected: Iterable[bytes] = ()) -> None:
        self.reference = reference
        self.code = code
        self.name = name
        self.expected = iter(expected)
        self.trail: list[bytes] = []  # codes of reduced objects, in the order in which they were finished
        self.doubtful = False
        # By id, with the code once it is known to hold no cycle; an object that died would leave its id to another.
        self.met: dict[int, tuple[object, bytes | None]] = {}
        self.places: dict[int, int] = {}  # by id, of open objects
        self.stack: list[_Frame] = []
        self.low = _NO_CYCLE  # of the code that was answered last
        self.again = 0

    def run(self, root: object) -> bytes:
        """The code of the value."""
        encode = _SCALARS.get(type(root))
        answer = encode(root) if encode is not None else self.enter(root)
        stack = self.stack
        while stack:
            try:
                child = stack[-1].steps.send(answer)  # type: ignore[arg-type]  # None starts a generator
            except StopIteration as stop:
                answer = self.leave(stop.value)
            except (MinipipeError, MemoryError):
                raise
            except Exception as error:
                raise self.unstable(error) from error
            else:
                answer = self.enter(child)
        assert answer is not None
        return answer

    def enter(self, value: object) -> bytes | None:
        """The code of an object that is no scalar if it is at hand, else None: it is open now."""
        self.low = _NO_CYCLE
        if self.reference is not None:
            reference = self.reference(value)
            if reference is not None:
                return _pack(b"R", _utf8(reference))
        key = id(value)
        stack = self.stack
        place = self.places.get(key)
        if place is not None:
            self.low = place
            stack[-1].low = min(stack[-1].low, place)
            return _pack(b"@", b"%d" % (len(stack) - 1 - place))
        met = self.met.get(key)
        if met is not None:
            if met[1] is not None:
                return met[1]
            self.again += 1
        self.met[key] = value, None
        self.places[key] = len(stack)
        stack.append(_Frame(value, _steps(self, value)))
        if self.again > _AGAIN or len(stack) > _DEEPEST:
            raise self.unstable(_Refused("it is nested too deeply" if self.again <= _AGAIN else "its objects are too entangled"))
        return None

    def leave(self, found: bytes) -> bytes:
        """Close the innermost open object."""
        frame = self.stack.pop()
        key = id(frame.value)
        del self.places[key]
        self.low = low = frame.low
        if low == _NO_CYCLE:
            self.met[key] = frame.value, found
        elif self.stack:
            self.stack[-1].low = min(self.stack[-1].low, low)
        return found

    def unstable(self, error: Exception) -> Unstable:
        """The error for the innermost open object."""
        chain = [frame.value for frame in self.stack]
        path = self.name + "".join(itertools.starmap(_label, itertools.pairwise(chain)))
        if len(path) > 500:
            path = f"{path[:240]}...{path[-240:]}"
        kind = _type_name(type(chain[-1]))
        cause = str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}"
        hint = "open or make it inside the step, or pass plain data or a path"
        return Unstable(f"{path} ({kind}) has no stable digest", cause, hint, path=path, type_name=kind)


# -- containers --------------------------------------------------------------------------------------------------------


def _codes(walk: _Walk, values: Iterable[object], alone: bool = False) -> Generator[object, bytes, list[bytes]]:
    """The codes of values; of those without an order (`alone`) none may refer to what is around it."""
    encoder_of = _SCALARS.get
    codes = []
    for value in values:
        encode = encoder_of(type(value))
        if encode is not None:
            codes.append(encode(value))
            continue
        codes.append((yield value))
        if alone and walk.low < len(walk.stack):
            raise _Refused("it contains itself through a set or the key of a dict")
    return codes


def _ordered(walk: _Walk, values: Iterable[object]) -> _Steps:
    return b"".join((yield from _codes(walk, values)))


def _unordered(walk: _Walk, values: Iterable[object]) -> _Steps:
    return b"".join(sorted((yield from _codes(walk, values, alone=True))))


def _pairs(walk: _Walk, pairs: Mapping[Any, object]) -> _Steps:
    keys = yield from _codes(walk, tuple(pairs), alone=True)
    values = yield from _codes(walk, tuple(pairs.values()))
    return b"".join(sorted(map(bytes.__add__, keys, values)))


def _read(tag: bytes, read: Callable[[Any], Iterable[object]]) -> Callable[[_Walk, Any], _Steps]:
    """The walk of what counts by its parts in their order."""

    def steps(walk: _Walk, value: object) -> _Steps:
        return _pack(tag, b"".join((yield from _codes(walk, tuple(read(value))))))

    return steps


def _set(walk: _Walk, value: set[object]) -> _Steps:
    return _pack(b"S", (yield from _unordered(walk, tuple(value))))


def _frozenset(walk: _Walk, value: frozenset[object]) -> _Steps:
    return _pack(b"F", (yield from _unordered(walk, tuple(value))))


def _dict(walk: _Walk, value: dict[object, object]) -> _Steps:
    return _pack(b"d", (yield from _pairs(walk, value)))


# -- objects -----------------------------------------------------------------------------------------------------------


def _class_or_function(walk: _Walk, value: Any) -> _Steps:
    found = walk.code(value) if walk.code is not None else None
    yield from ()
    return _global(value, value.__qualname__) if found is None else _pack(b"C", _utf8(found))


def _global(value: Any, name: str) -> bytes:
    module = getattr(value, "__module__", None) or type(value).__module__
    if "<" in name:
        raise _Refused(f"{name} has no name that another process could find, and its code is not known")
    return _pack(b"g", _str(str(module)) + _str(name))


def _object(walk: _Walk, value: object) -> _Steps:
    """Any other object, by what pickle would store of it."""
    kind = type(value)
    walk.doubtful = walk.doubtful or _reduces_itself(kind)
    special = copyreg.dispatch_table.get(kind)
    made = special(value) if special else value.__reduce_ex__(4)
    if isinstance(made, str):
        # A global (a ufunc, pandas.NA, a function under functools.cache): what it wraps is content too.
        wrapped = getattr(value, "__dict__", {}).get("__wrapped__")
        code = _pack(b"G", _global(value, made) + (yield from _ordered(walk, (wrapped,))))
    else:
        code = yield from _reduced(walk, value, *made)
    walk.trail.append(code)
    if next(walk.expected, code) != code:
        raise _Refused("it shows other content each time it is asked (__reduce_ex__)")
    return code


def _reduced(
    walk: _Walk, value: object, maker: object, arguments: Any, state: object = None, items: Any = (), pairs: Any = (), setter: object = None
) -> _Steps:
    parts = [(yield from _ordered(walk, (maker, setter)))]
    if isinstance(value, (set, frozenset)):
        arguments = [each for each in arguments if type(each) is not list]  # what set.__reduce__ gives, in hash order
        parts.append((yield from _unordered(walk, tuple(value))))
    else:
        parts.append((yield from _ordered(walk, tuple(items or ()))))
    parts.append((yield from _ordered(walk, arguments)))
    if isinstance(value, collections.OrderedDict):
        parts.append((yield from _ordered(walk, itertools.chain.from_iterable(pairs or ()))))
    else:
        pairs = tuple(pairs or ())
        keys = yield from _codes(walk, [key for key, _ in pairs], alone=True)
        values = yield from _codes(walk, [value for _, value in pairs])
        parts.append(b"".join(sorted(map(bytes.__add__, keys, values))))
    parts.append((yield from _state(walk, state)))
    return _pack(b"o", b"".join(_pack(b"p", part) for part in parts))


def _state(walk: _Walk, state: object) -> _Steps:
    """The state of an object, with its dict and slots as no objects of their own, so that paths read ``.name``."""
    parts = [_str(type(state).__name__)]
    for part in state if isinstance(state, (tuple, list)) else (state,):
        if type(part) is dict:
            parts.append(_pack(b"d", (yield from _pairs(walk, part))))
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
    **{list: _read(b"l", tuple), tuple: _read(b"t", tuple), dict: _dict, set: _set, frozenset: _frozenset},
    types.MappingProxyType: _read(b"M", lambda value: (dict(value),)),
    range: _read(b"r", lambda value: (len(value), *value[:1], value.step if len(value) > 1 else 0)),
    memoryview: _read(b"m", lambda value: (value.format, value.shape, value.tobytes())),
}
_BASES: tuple[tuple[Any, Callable[[_Walk, Any], _Steps]], ...] = (
    ((type, types.FunctionType), _class_or_function),
    (types.ModuleType, _read(b"W", lambda value: (value.__name__,))),
    (enum.Enum, _read(b"e", lambda value: (type(value), value._name_, value._value_))),
)
_KNOWN: weakref.WeakKeyDictionary[type, Callable[[_Walk, Any], _Steps]] = weakref.WeakKeyDictionary()


def _steps(walk: _Walk, value: object) -> _Steps:
    kind = type(value)
    found = _EXACT.get(kind) or _KNOWN.get(kind)
    if found is None:
        found = next((steps for base, steps in _BASES if issubclass(kind, base)), None)
        read = contents.reader_of(kind)
        found = _KNOWN[kind] = found or (_read(b"v", read) if read else _object)
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
