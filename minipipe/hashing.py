"""Digests that are equal in every process, machine and hash seed: of bytes, of named parts, of Python values.

Pickle bytes cannot serve as a cache key: a pickled set of strings has other bytes under every hash seed. So a value is
walked by its typed content and each object becomes a short, self-delimiting *code*: tag, length, payload; from 255 bytes
on tag, 0xff, BLAKE3 of the payload. Dicts and sets sort the codes of what they hold. Everything that is no builtin goes
through the same door as in pickle: ``copyreg.dispatch_table``, then ``__reduce_ex__(4)``.

The walk is a stack of generators, one per container, so that depth costs memory and not recursion. Without cycles,
sharing is invisible: ``[a, a]`` is ``[a, copy of a]``. In a cycle, an object met again while it is open becomes the
distance to it, counted in open objects. Tarjan's algorithm tells where a cycle is closed: its first object then has a
code of its own, and the others become places in it.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import decimal
import enum
import errno
import fractions
import functools
import itertools
import math
import operator
import os
import pathlib
import stat
import struct
import sys
import types
import uuid
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from blake3 import blake3

from minipipe.errors import MinipipeError

FORMAT = 1
"""Version of all digests; to be raised when the digest of any value changes, so that no old cache entry is hit."""

_INLINE = 255  # payloads shorter than this stand in the code itself
_DEEPEST = 200_000  # a __reduce_ex__ that makes a new object of itself for ever must end somewhere
_AGAIN = 100_000  # a set of objects that know each other is walked from each of them: factorial at worst, so bounded
_CHUNK = 1 << 20

_Callback = Callable[[object], str | None]
# A container's walk: yields (child, scoped), is sent the child's code, returns its own.
_Branch = Generator[tuple[object, bool], bytes, bytes]


class Unstable(MinipipeError):
    """A value has no stable digest: it lives in one process, or it shows other content each time it is asked.

    Attributes:
        path: where it was found, like ``config['model'].lock``.
        type_name: its type with the module, like ``_thread.lock``; builtins without.
    """

    path: str
    type_name: str


class _Refused(Exception):
    """Why one object has no digest; `_Walk.run` knows where it is and turns this into `Unstable`."""


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
    first = _Walk(reference, code, name)
    found = first.run(value)
    if first.doubtful:
        # Asked twice: what differs within one process differs between two.
        _Walk(reference, code, name, first).run(value)
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


class _Frame:
    """One open container: its generator, its place among the open objects, and the lowest place it refers back to."""

    __slots__ = ("branch", "cyclic", "first", "index", "kind", "low", "mark", "scoped", "value")

    def __init__(
        self, value: object, kind: str, branch: _Branch, first: tuple[object, bool], index: int, scoped: bool, mark: int
    ) -> None:
        self.value = value
        self.kind = kind
        self.branch = branch
        self.first = first  # what the branch yielded when it was started
        self.index = self.low = index
        self.scoped = scoped
        self.mark = mark  # how many cyclic codes were known before
        self.cyclic = False  # it is part of a cycle or holds one


class _Walk:
    """One pass over a value.

    A *scoped* child is an element of a set or a key. Sets have no order, so what was met in one element must not colour
    the next: when it is left, its open objects and all codes that hang on cycles are forgotten.
    """

    def __init__(self, reference: _Callback | None, code: _Callback | None, name: str, before: _Walk | None = None) -> None:
        self.quick = _scalar_code if reference is None else functools.partial(_ask, reference)
        self.code = code
        self.name = name
        self.codes: dict[int, bytes] = {}  # by id, of finished objects
        self.cyclic: dict[int, None] = {}  # the ids among them that are part of a cycle or hold one
        self.kept: dict[int, object] = {}  # by id: an object that died in between would leave its id to another
        self.open: dict[int, int] = {}  # id -> place; insertion order is the order of places
        self.stack: list[_Frame] = []
        self.again = 0
        self.doubtful = False
        self.trail: list[bytes] = []  # codes of reduced objects, in the order in which they were finished
        self.expected: Iterator[bytes] | None = iter(before.trail) if before else None
        self.bulk: dict[int, tuple[object, bytes]] = before.bulk if before else {}

    def run(self, root: object) -> bytes:
        """The code of the value."""
        answer = self.quick(root)
        if answer is None:
            answer = self.enter(root, False)
        stack = self.stack
        while stack:
            frame = stack[-1]
            try:
                child, scoped = frame.first if answer is None else frame.branch.send(answer)
            except StopIteration as stop:
                answer = self.leave(frame, stop.value)
                continue
            except _Refused as refused:
                raise self.unstable(None, refused) from refused.__cause__
            answer = self.enter(child, scoped)
        assert answer is not None
        return answer

    def enter(self, value: object, scoped: bool) -> bytes | None:
        """The code of an object that is no scalar if it is at hand, else None: its frame is on the stack."""
        key = id(value)
        place = self.open.get(key)
        if place is not None:
            parent = self.stack[-1]
            parent.low, parent.cyclic = min(parent.low, place), True
            return _pack(b"@", b"%d" % (parent.index - place))
        known = self.codes.get(key)
        if known is not None:
            if key in self.cyclic:
                self.stack[-1].cyclic = True
            return known
        if key in self.kept:
            self.again += 1
        self.kept[key] = value
        try:
            if self.again > _AGAIN or len(self.stack) > _DEEPEST:
                raise _Refused("its objects are too entangled" if self.again > _AGAIN else "it is nested too deeply")
            kind = _kind(type(value))
            leaf = _LEAVES.get(kind)
            if leaf is not None:
                found = self.codes[key] = leaf(self, value)
                return found
            branch = _BRANCHES[kind](self, value)
            first = next(branch)
        except StopIteration as stop:  # it holds only scalars
            self.codes[key] = stop.value
            return self.codes[key]
        except _Refused as refused:
            raise self.unstable(value, refused) from refused.__cause__
        index = self.open[key] = len(self.open)
        self.stack.append(_Frame(value, kind, branch, first, index, scoped, len(self.cyclic)))
        return None

    def leave(self, frame: _Frame, found: bytes) -> bytes:
        """Take the finished frame from the stack."""
        if frame.kind == "object":
            self.trail.append(found)
            if self.expected is not None and next(self.expected, None) != found:
                raise self.unstable(None, _Refused("it shows other content each time it is asked (__reduce_ex__)"))
        self.stack.pop()
        if frame.low == frame.index:
            self.close(frame, found)
        if self.stack:
            parent = self.stack[-1]
            parent.low, parent.cyclic = min(parent.low, frame.low), parent.cyclic or frame.cyclic
        if frame.scoped:
            while len(self.open) > frame.index:
                self.open.popitem()
            while len(self.cyclic) > frame.mark:
                del self.codes[self.cyclic.popitem()[0]]
        return found

    def close(self, frame: _Frame, found: bytes) -> None:
        """Give codes to a finished object that refers to nothing above it, and to what its cycle left open."""
        while len(self.open) > frame.index:
            key, place = self.open.popitem()
            self.codes[key] = _pack(b"#", found + b"%d" % (place - frame.index)) if place > frame.index else found
            if frame.cyclic:
                self.cyclic[key] = None

    def unstable(self, value: object, refused: _Refused) -> Unstable:
        """The error for the object that is being entered, or for the innermost open one (None)."""
        chain = [frame.value for frame in self.stack] + ([] if value is None else [value])
        path = self.name + "".join(itertools.starmap(_label, itertools.pairwise(chain)))
        if len(path) > 500:
            path = f"{path[:240]}...{path[-240:]}"
        kind = _type_name(type(chain[-1]))
        hint = "open or make it inside the step, or pass plain data or a path"
        return Unstable(f"{path} ({kind}) has no stable digest", str(refused), hint, path=path, type_name=kind)

    def once(self, value: object, compute: Callable[[], bytes]) -> bytes:
        """The code of a large leaf, computed once for both passes."""
        found = self.bulk.get(id(value))
        if found is None:
            found = self.bulk[id(value)] = (value, compute())
        return found[1]


def _scalar_code(value: object) -> bytes | None:
    encode = _SCALARS.get(type(value))
    return None if encode is None else encode(value)


def _ask(reference: _Callback, value: object) -> bytes | None:
    found = reference(value)
    return _scalar_code(value) if found is None else _pack(b"R", _utf8(found))


# -- containers --------------------------------------------------------------------------------------------------------


def _ordered(walk: _Walk, values: Iterable[object]) -> _Branch:
    parts = []
    quick = walk.quick
    for value in values:
        part = quick(value)
        parts.append((yield value, False) if part is None else part)
    return b"".join(parts)


def _unordered(walk: _Walk, values: Iterable[object]) -> _Branch:
    parts = []
    quick = walk.quick
    for value in values:
        part = quick(value)
        parts.append((yield value, True) if part is None else part)
    parts.sort()
    return b"".join(parts)


def _pairs(walk: _Walk, pairs: Iterable[tuple[object, object]]) -> _Branch:
    """Keys first, then values in the order of the keys' codes: the order of the walk must not be that of insertion."""
    quick = walk.quick
    entries = []
    for key, value in pairs:
        part = quick(key)
        entries.append(((yield key, True) if part is None else part, value))
    entries.sort(key=_first)
    parts = []
    for at, (head, value) in enumerate(entries):
        part = quick(value)
        if part is None:
            # Keys that are not equal but have equal content (identity hash): only their values can order them.
            twin = entries[at - 1][0] == head if at else False
            twin = twin or (at + 1 < len(entries) and entries[at + 1][0] == head)
            part = yield value, twin
        parts.append(head + part)
    parts.sort()
    return b"".join(parts)


_first = operator.itemgetter(0)


def _list(walk: _Walk, value: list[object]) -> _Branch:
    return _pack(b"l", (yield from _ordered(walk, tuple(value))))


def _tuple(walk: _Walk, value: tuple[object, ...]) -> _Branch:
    return _pack(b"t", (yield from _ordered(walk, value)))


def _dict(walk: _Walk, value: dict[object, object]) -> _Branch:
    return _pack(b"d", (yield from _pairs(walk, tuple(value.items()))))


def _mapping(walk: _Walk, value: Mapping[object, object]) -> _Branch:
    return _pack(b"M", (yield from _pairs(walk, tuple(value.items()))))


def _set(walk: _Walk, value: set[object]) -> _Branch:
    return _pack(b"S", (yield from _unordered(walk, tuple(value))))


def _frozenset(walk: _Walk, value: frozenset[object]) -> _Branch:
    return _pack(b"F", (yield from _unordered(walk, tuple(value))))


def _member(walk: _Walk, value: enum.Enum) -> _Branch:
    content = (type(value), value._name_, value._value_)
    return _pack(b"e", (yield from _ordered(walk, content)))


# -- objects -----------------------------------------------------------------------------------------------------------


def _reduced(walk: _Walk, value: object) -> _Branch:
    """Any other object, by what pickle would store of it."""
    kind = type(value)
    if _root(kind) not in _TRUSTED:
        walk.doubtful = True
    made = _reduce(value, kind)
    if isinstance(made, str):
        # A global (a ufunc, pandas.NA, a function under functools.cache): what it wraps is content too.
        wrapped = getattr(value, "__dict__", {}).get("__wrapped__")
        return _pack(b"G", _global(value, made) + (yield from _ordered(walk, (wrapped,))))
    maker, arguments, state, items, pairs, setter = made
    if issubclass(kind, (set, frozenset)):
        arguments = [each for each in arguments if type(each) is not list]  # what set.__reduce__ gives, in hash order
        elements = yield from _unordered(walk, tuple(value))  # type: ignore[arg-type]
    else:
        elements = yield from _ordered(walk, items)
    walk_pairs = _flat if issubclass(kind, collections.OrderedDict) else _pairs
    head = yield from _ordered(walk, (maker, setter))
    given = yield from _ordered(walk, arguments)
    entries = yield from walk_pairs(walk, pairs)
    kept = yield from _state(walk, state)
    return _pack(b"o", b"".join(map(_pack, (b"h", b"a", b"l", b"d", b"s"), (head, given, elements, entries, kept))))


def _reduce(value: object, kind: type) -> Any:
    try:
        special = copyreg.dispatch_table.get(kind)
        made = special(value) if special else value.__reduce_ex__(4)
        if isinstance(made, str):
            return made
        maker, arguments, state, items, pairs, setter = (*made, None, None, None, None)[:6]
        return maker, tuple(arguments), state, tuple(items or ()), tuple(pairs or ()), setter
    except (MinipipeError, MemoryError):
        raise
    except Exception as error:
        raise _Refused(f"{type(error).__name__}: {error}") from error


def _state(walk: _Walk, state: object) -> _Branch:
    """The state of an object: its own dict is no object of its own, so that paths read ``.name``."""
    if type(state) is dict:
        return _pack(b"d", (yield from _pairs(walk, tuple(state.items()))))
    if type(state) is tuple and len(state) == 2 and type(state[1]) is dict and type(state[0]) in (dict, type(None)):
        both = yield from _state(walk, state[0])
        return both + _pack(b"d", (yield from _pairs(walk, tuple(state[1].items()))))
    if type(state) is list:  # of a frozen dataclass with slots
        return _pack(b"l", (yield from _ordered(walk, tuple(state))))
    return (yield from _ordered(walk, (state,)))


def _flat(walk: _Walk, pairs: Iterable[tuple[object, object]]) -> _Branch:
    return (yield from _ordered(walk, itertools.chain.from_iterable(pairs)))


def _class_or_function(walk: _Walk, value: Any) -> bytes:
    found = walk.code(value) if walk.code is not None else None
    return _global(value, value.__qualname__) if found is None else _pack(b"C", _utf8(found))


def _global(value: Any, name: str) -> bytes:
    module = getattr(value, "__module__", None) or type(value).__module__
    if "<" in name:
        raise _Refused(f"{name} has no name that another process could find, and its code is not known")
    return _named("global", str(module), name)


def _range(walk: _Walk, value: range) -> bytes:
    size = len(value)
    return _pack(b"r", b"".join(map(_int, (size, *value[:1], value.step if size > 1 else 0))))


def _view(walk: _Walk, value: memoryview) -> bytes:
    try:
        flat = value.cast("B") if value.c_contiguous and value.nbytes else value.tobytes()
        return _pack(b"m", _str(value.format) + b"".join(map(_int, value.shape or ())) + _pack(b"y", flat))
    except ValueError as error:  # released
        raise _Refused(str(error)) from error


# -- files -------------------------------------------------------------------------------------------------------------


def _path(walk: _Walk, value: pathlib.PurePath) -> bytes:
    if not isinstance(value, pathlib.Path):
        return _pack(b"p", b"pure" + _str(str(value)))
    try:
        return walk.once(value, lambda: _pack(b"p", _content(str(value))))
    except OSError as error:
        raise _Refused(f"{type(error).__name__}: {error}") from error


_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def _content(path: str) -> bytes:
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in _MISSING:
            raise
        return b"text" + _str(path)
    return b"tree" + _folder(path, found) if stat.S_ISDIR(found.st_mode) else b"file" + _file(path, found)


def _file(path: str, found: os.stat_result) -> bytes:
    if not stat.S_ISREG(found.st_mode):
        raise _Refused(f"{path} is a pipe, socket or device")
    hasher = blake3()
    buffer = memoryview(bytearray(min(_CHUNK, found.st_size + 1)))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            hasher.update(buffer[:size])
    return hasher.digest()


def _folder(top: str, found: os.stat_result) -> bytes:
    """The names below a folder with their content; links are followed, except into a folder that holds them."""
    entries = []
    waiting: list[tuple[str, bytes, tuple[tuple[int, int], ...]]] = [(top, b"", ((found.st_dev, found.st_ino),))]
    while waiting:
        folder, prefix, above = waiting.pop()
        for name in os.listdir(folder):
            path, relative = os.path.join(folder, name), prefix + os.fsencode(name)
            try:
                found = os.stat(path)
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
                content = b"link" + _str(os.readlink(path))
            else:
                here = (found.st_dev, found.st_ino)
                if not stat.S_ISDIR(found.st_mode):
                    content = b"file" + _file(path, found)
                elif here in above:
                    content = b"loop" + _int(len(above) - above.index(here))
                else:
                    content = b"tree"
                    waiting.append((path, relative + b"/", (*above, here)))
            entries.append(_pack(b"y", relative) + content)
    return _pack(b"y", b"".join(sorted(entries)))


# -- numpy and pandas --------------------------------------------------------------------------------------------------
# Never imported here: a value of theirs can only be there if they are.


def _array(walk: _Walk, value: Any) -> _Branch:
    plain = sys.modules["numpy"].ndarray
    return _pack(b"a", (yield from _items(walk, value if type(value) is plain else value.view(plain))))


def _scalar(walk: _Walk, value: Any) -> _Branch:
    return _pack(b"A", (yield from _items(walk, sys.modules["numpy"].asarray(value))))


def _items(walk: _Walk, array: Any) -> _Branch:
    """Dtype, shape and items of an array, without the padding between fields and in long doubles."""
    dtype = array.dtype
    if dtype.names is not None:
        parts = []
        for name in dtype.names:
            parts.append(_str(name) + (yield from _items(walk, array[name])))
        content = _pack(b"n", b"".join(parts))
    elif dtype.hasobject:
        content = _pack(b"l", (yield from _ordered(walk, array.ravel().tolist())))
    elif dtype.char in "gG":
        content = _pack(b"l", b"".join(_str(repr(item)) for item in array.ravel().tolist()))
    elif array.nbytes < _CHUNK:
        content = _pack(b"y", array.tobytes())
    else:
        content = walk.once(array, lambda: _pack(b"y", _contiguous(array)))
    text = dtype.str if dtype.kind in "biufcmMSU" else str(dtype)
    return _str(text) + _pack(b"t", b"".join(map(_int, array.shape))) + content


def _contiguous(array: Any) -> memoryview:
    data: memoryview = sys.modules["numpy"].ascontiguousarray(array).reshape(-1).view("u1").data
    return data


def _index(walk: _Walk, value: Any) -> _Branch:
    if value.nlevels > 1:
        levels = (list(value.names), *map(value.get_level_values, range(value.nlevels)))
        return _pack(b"I", (yield from _ordered(walk, levels)))
    head = yield from _ordered(walk, (value.name, getattr(value, "freqstr", None)))
    return _pack(b"x", head + (yield from _column(walk, value.array)))


def _series(walk: _Walk, value: Any) -> _Branch:
    head = yield from _ordered(walk, (type(value), value.name, value.index, value.attrs, _metadata(value)))
    return _pack(b"V", head + (yield from _column(walk, value.array)))


def _frame(walk: _Walk, value: Any) -> _Branch:
    parts = [(yield from _ordered(walk, (type(value), value.columns, value.index, value.attrs, _metadata(value))))]
    for at in range(value.shape[1]):
        parts.append((yield from _column(walk, value.iloc[:, at].array)))
    return _pack(b"P", b"".join(parts))


def _metadata(value: Any) -> dict[str, object]:
    """What a subclass adds: pandas' documented way to keep attributes."""
    return {name: getattr(value, name, None) for name in value._metadata if name != "_name"}


def _column(walk: _Walk, array: Any) -> _Branch:
    """Dtype and values of a pandas array; text counts the same whichever library holds it."""
    numpy, dtype = sys.modules["numpy"], array.dtype
    if isinstance(dtype, numpy.dtype):
        # A frame shares one block between columns of a type: view it, do not copy it.
        return (yield from _items(walk, numpy.asarray(array)))
    name = _str(str(dtype))
    if dtype.name == "category":
        content = yield from _ordered(walk, (array.categories, array.ordered))
        return name + content + (yield from _items(walk, array.codes))
    if dtype.kind in "mM":
        return name + (yield from _items(walk, array.view("i8")))
    return name + _pack(b"l", (yield from _ordered(walk, array.astype(object).tolist())))


# -- which walk for which type -----------------------------------------------------------------------------------------

_LEAVES: dict[str, Callable[[_Walk, Any], bytes]] = {
    "class": _class_or_function,
    "function": _class_or_function,
    "module": lambda walk, value: _named("module", value.__name__),
    "path": _path,
    "range": _range,
    "memoryview": _view,
}

_BRANCHES: dict[str, Callable[[_Walk, Any], _Branch]] = {
    "list": _list,
    "tuple": _tuple,
    "dict": _dict,
    "mapping": _mapping,
    "set": _set,
    "frozenset": _frozenset,
    "enum": _member,
    "array": _array,
    "scalar": _scalar,
    "index": _index,
    "series": _series,
    "frame": _frame,
    "object": _reduced,
}

_EXACT: dict[type, str] = {
    **{kind: kind.__name__ for kind in (list, tuple, dict, set, frozenset, range, memoryview)},
    types.MappingProxyType: "mapping",
    types.FunctionType: "function",
}
_BASES = ((type, "class"), (types.ModuleType, "module"), (enum.Enum, "enum"), (pathlib.PurePath, "path"))
_ARRAYS = dict.fromkeys((("numpy", "ndarray"), ("numpy", "memmap")), "array")
_FRAMES = {("pandas", "Index"): "index", ("pandas", "Series"): "series", ("pandas", "DataFrame"): "frame"}
_TRUSTED = sys.stdlib_module_names | {"numpy", "pandas"}  # theirs give the same content twice: no need to ask


_KINDS: weakref.WeakKeyDictionary[type, str] = weakref.WeakKeyDictionary()


def _kind(kind: type) -> str:
    found = _EXACT.get(kind) or _KINDS.get(kind)
    if found is None:
        found = _KINDS[kind] = _classify(kind)
    return found


def _classify(kind: type) -> str:
    for ancestor, name in _BASES:
        if issubclass(kind, ancestor):
            return name
    found = _ARRAYS.get((_root(kind), kind.__name__), "")  # not of subclasses: they have content of their own
    for base in () if found else kind.__mro__:
        key = (_root(base), base.__name__)
        if key == (_root(kind), "generic") == ("numpy", "generic"):
            return "scalar"
        found = found or _FRAMES.get(key, "")
    return found or "object"


def _root(kind: type) -> str:
    return str(kind.__module__).partition(".")[0]


# -- where an object was found -----------------------------------------------------------------------------------------


def _type_name(kind: type) -> str:
    module = str(kind.__module__)
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _label(parent: Any, child: object) -> str:
    """How a path goes on from an object to one that it holds; only sought when there is an error to tell."""
    kind = _kind(type(parent))
    if kind in ("set", "frozenset"):
        return "{...}"
    if kind == "frame":
        holders = (at for at in range(parent.shape[1]) if _holds(parent.iloc[:, at], child))
        return next((f"[{_shown(parent.columns[at])}]" for at in holders), "")
    if kind == "array":
        return next((f"[{at}]" for at, item in enumerate(parent.ravel().tolist()) if item is child), "")
    if kind == "enum":
        return ".value"
    for name, item in _attributes(parent):
        if item is child:
            return f".{name}"
    if kind == "mapping" or issubclass(type(parent), dict):
        for key, item in tuple(parent.items() if kind == "mapping" else dict.items(parent)):
            if item is child:
                return f"[{_shown(key)}]"
            if key is child:
                return ".keys()"
    if issubclass(type(parent), (list, tuple, collections.deque)):
        return next((f"[{at}]" for at, item in enumerate(tuple(parent)) if item is child), "")
    return ""


def _holds(series: Any, child: object) -> bool:
    return series.dtype.kind == "O" and any(item is child for item in series.array)


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
