"""Digests that are equal in every process, machine and hash seed: of bytes, of named parts, of Python values.

Pickle bytes cannot serve as a cache key: a pickled set of strings has other bytes under every hash seed. So a value is
walked by its typed content, and each object becomes a short code (`scalars`). Dicts and sets sort the codes of what they
hold. Everything that is no builtin goes through the same door as in pickle: ``copyreg.dispatch_table``, then
``__reduce_ex__(4)``.

The walk is a stack of generators, one per open object, so that depth costs memory and not recursion. Sharing is
invisible: ``[a, a]`` is ``[a, copy of a]``. An object that is met inside itself becomes its distance up the stack; sets
and the keys of dicts have no order that could tell such distances apart, so a cycle through them is refused.
"""

from __future__ import annotations

import collections
import copyreg
import enum
import itertools
import sys
import types
import weakref
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from minipipe import contents
from minipipe.errors import MinipipeError
from minipipe.scalars import ENCODERS, pack, str_code, utf8

FORMAT = 1
"""Version of all digests; to be raised when the digest of any value changes, so that no old cache entry is hit."""

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
    name = utf8(tag)
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
        data, kind = (utf8(part), b"s") if isinstance(part, str) else (part, b"b")
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
        reference, code, name: those of `value_digest`.
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
        encode = ENCODERS.get(type(root))
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
                return pack(b"R", utf8(reference))
        key = id(value)
        stack = self.stack
        place = self.places.get(key)
        if place is not None:
            self.low = place
            stack[-1].low = min(stack[-1].low, place)
            return pack(b"@", b"%d" % (len(stack) - 1 - place))
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
        path = self.name + "".join(itertools.starmap(contents.place_in, itertools.pairwise(chain)))
        if len(path) > 500:
            path = f"{path[:240]}...{path[-240:]}"
        kind = contents.type_name(type(chain[-1]))
        cause = str(error) if isinstance(error, _Refused) else f"{type(error).__name__}: {error}"
        hint = "open or make it inside the step, or pass plain data or a path"
        return Unstable(f"{path} ({kind}) has no stable digest", cause, hint, path=path, type_name=kind)


# -- containers --------------------------------------------------------------------------------------------------------


def _codes(walk: _Walk, values: Iterable[object], alone: bool = False) -> Generator[object, bytes, list[bytes]]:
    """The codes of values; of those without an order (`alone`) none may refer to what is around it."""
    encoder_of = ENCODERS.get
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


def _pairs(walk: _Walk, keys: Iterable[object], values: Iterable[object]) -> _Steps:
    heads = yield from _codes(walk, keys, alone=True)
    tails = yield from _codes(walk, values)
    return b"".join(sorted(map(bytes.__add__, heads, tails)))


def _listed(tag: bytes, parts_of: Callable[[Any], Iterable[object]]) -> Callable[[_Walk, Any], _Steps]:
    """The walk of what counts by its parts in their order."""

    def steps(walk: _Walk, value: object) -> _Steps:
        return pack(tag, b"".join((yield from _codes(walk, tuple(parts_of(value))))))

    return steps


def _set(walk: _Walk, value: set[object] | frozenset[object]) -> _Steps:
    return pack(b"S" if type(value) is set else b"F", (yield from _unordered(walk, tuple(value))))


def _dict(walk: _Walk, value: dict[object, object]) -> _Steps:
    return pack(b"d", (yield from _pairs(walk, tuple(value), tuple(value.values()))))


# -- objects -----------------------------------------------------------------------------------------------------------


def _class_or_function(walk: _Walk, value: Any) -> _Steps:
    found = walk.code(value) if walk.code is not None else None
    yield from ()
    return _global(value, value.__qualname__) if found is None else pack(b"C", utf8(found))


def _global(value: Any, name: str) -> bytes:
    module = getattr(value, "__module__", None) or type(value).__module__
    if "<" in name:
        raise _Refused(f"{name} has no name that another process could find, and its code is not known")
    return pack(b"g", str_code(str(module)) + str_code(name))


def _object(walk: _Walk, value: object) -> _Steps:
    """Any other object, by what pickle would store of it."""
    special = copyreg.dispatch_table.get(type(value))
    made = special(value) if special else value.__reduce_ex__(4)
    if isinstance(made, str):
        # A global (a ufunc, pandas.NA, a function under functools.cache): what it wraps is content too.
        wrapped = getattr(value, "__dict__", {}).get("__wrapped__")
        code = pack(b"G", _global(value, made) + (yield from _ordered(walk, (wrapped,))))
    else:
        code = pack(b"o", (yield from _reduced(walk, value, made)))
    walk.trail.append(code)
    if next(walk.expected, code) != code:
        raise _Refused("it shows other content each time it is asked (__reduce_ex__)")
    return code


def _reduced(walk: _Walk, value: object, made: tuple[Any, ...]) -> _Steps:
    kind = type(value)  # `isinstance` would ask a proxy for the class of its value
    maker, arguments, state, items, pairs, setter = (*made, None, None, None, None)[:6]
    items, pairs = tuple(items or ()), tuple(pairs or ())
    parts = [(yield from _ordered(walk, (maker, setter)))]
    if issubclass(kind, (set, frozenset)):
        arguments = [each for each in arguments if type(each) is not list]  # what set.__reduce__ gives, in hash order
        parts.append((yield from _unordered(walk, tuple(value))))  # type: ignore[arg-type]
    else:
        parts.append((yield from _ordered(walk, items)))
    parts.append((yield from _ordered(walk, arguments)))
    if issubclass(kind, collections.OrderedDict):
        parts.append((yield from _ordered(walk, itertools.chain.from_iterable(pairs))))
    else:
        parts.append((yield from _pairs(walk, [key for key, _ in pairs], [item for _, item in pairs])))
    # Its dict and slots are no objects of their own, so that paths read ``.name``.
    for part in state if type(state) in (tuple, list) else (state,):
        own = part if type(part) is dict else {}
        parts.append((yield from _pairs(walk, tuple(own), tuple(own.values()))))
        parts.append((yield from _ordered(walk, () if own is part else (part,))))
    return b"".join(pack(b"p", part) for part in (type(state).__name__.encode(), *parts))


def _foreign(walk: _Walk, value: object) -> _Steps:
    """An object whose content is told by code that might tell something else the next time."""
    walk.doubtful = True
    return _object(walk, value)


_REDUCERS = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs_ex__", "__getnewargs__")
_TRUSTED = sys.stdlib_module_names | {"numpy", "pandas"}


def _is_foreign(kind: type) -> bool:
    methods = [getattr(kind, name) for name in _REDUCERS if hasattr(kind, name)]
    tellers = [copyreg.dispatch_table.get(kind, object), *(getattr(each, "__objclass__", each) for each in methods)]
    return any(str(getattr(each, "__module__", None)).partition(".")[0] not in _TRUSTED for each in tellers)


# -- which walk for which type -----------------------------------------------------------------------------------------

_EXACT: dict[type, Callable[[_Walk, Any], _Steps]] = {
    list: _listed(b"l", tuple),
    tuple: _listed(b"t", tuple),
    dict: _dict,
    set: _set,
    frozenset: _set,
    types.MappingProxyType: _listed(b"M", lambda value: (dict(value),)),
    range: _listed(b"r", lambda value: (len(value), *value[:1], value.step if len(value) > 1 else 0)),
    memoryview: _listed(b"m", lambda value: (value.format, value.shape, value.tobytes())),
}
_BASES: tuple[tuple[Any, Callable[[_Walk, Any], _Steps]], ...] = (
    ((type, types.FunctionType), _class_or_function),
    (types.ModuleType, _listed(b"W", lambda value: (value.__name__,))),
    (enum.Enum, _listed(b"e", lambda value: (type(value), value._name_, value._value_))),
)
_KNOWN: weakref.WeakKeyDictionary[type, Callable[[_Walk, Any], _Steps]] = weakref.WeakKeyDictionary()


def _steps(walk: _Walk, value: object) -> _Steps:
    kind = type(value)
    found = _EXACT.get(kind) or _KNOWN.get(kind)
    if found is None:
        found = _KNOWN[kind] = _chosen(kind)
    return found(walk, value)


def _chosen(kind: type) -> Callable[[_Walk, Any], _Steps]:
    for base, steps in _BASES:
        if issubclass(kind, base):
            return steps
    read = contents.reader_of(kind)
    if read is not None:
        return _listed(b"v", read)
    return _foreign if _is_foreign(kind) else _object
