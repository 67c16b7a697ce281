"""What counts of a file, a folder, an array and a frame, told in plain values; and where a value holds another.

numpy and pandas are never imported here: a value of theirs can only be there if they are.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import stat
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

from blake3 import blake3

from minipipe.scalars import ENCODERS

Content = Iterator[object]
"""Plain values in a fixed order; arrays and frames also give the objects that they hold."""

_CHUNK = 1 << 20
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


def reader_of(kind: type) -> Callable[[Any], Content] | None:
    """What reads the content of values of a type; None if the type is not known here.

    Subclasses of arrays are left to their own way to be pickled, for they may have more content.
    """
    if issubclass(kind, PurePath):
        return of_path
    if (kind.__module__, kind.__name__) in (("numpy", "ndarray"), ("numpy", "memmap")):
        return of_array
    names = [(str(base.__module__).partition(".")[0], base.__name__) for base in kind.__mro__]
    if names[0][0] == "numpy" and ("numpy", "generic") in names:
        return of_scalar
    return next((_PANDAS[name] for name in names if name in _PANDAS), None)


# -- files and folders -------------------------------------------------------------------------------------------------


def of_path(path: PurePath) -> Content:
    """An existing file or folder tree by its content, whatever it is called; anything else by its text.

    Raises:
        OSError: it cannot be read.
        ValueError: it is or holds a pipe, socket or device.
    """
    if not isinstance(path, Path):
        yield from ("pure path", str(path))
        return
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        if isinstance(error, OSError) and error.errno not in _MISSING:
            raise
        yield from ("path", str(path))
        return
    if stat.S_ISDIR(found.st_mode):
        yield "folder"
        yield from sorted(_entries(str(path), found))
    else:
        yield from ("file", _file(str(path), found))


def _file(path: str, found: os.stat_result) -> bytes:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is a pipe, socket or device")
    hasher = blake3()
    buffer = memoryview(bytearray(min(_CHUNK, found.st_size + 1)))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            hasher.update(buffer[:size])
    return hasher.digest()


def _entries(top: str, found: os.stat_result) -> Iterator[tuple[bytes, str, bytes]]:
    """What is below a folder: name, kind, content. Links are followed, except into a folder that holds them."""
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
                yield relative, "link", os.fsencode(os.readlink(path))
                continue
            here = (found.st_dev, found.st_ino)
            if not stat.S_ISDIR(found.st_mode):
                yield relative, "file", _file(path, found)
            elif here in above:
                yield relative, "loop", b"%d" % (len(above) - above.index(here))
            else:
                yield relative, "folder", b""
                waiting.append((path, relative + b"/", (*above, here)))


# -- numpy -------------------------------------------------------------------------------------------------------------


def of_array(value: Any) -> Content:
    """Dtype, shape and items of an array in any memory layout, without the padding between fields and in long doubles."""
    array = value.view(sys.modules["numpy"].ndarray)
    dtype = array.dtype
    yield "array"
    yield dtype.str if dtype.kind in "biufcmMSU" else str(dtype)
    yield array.shape
    if dtype.names is not None:
        for name in dtype.names:
            yield name
            yield from of_array(array[name])
    elif dtype.hasobject:
        yield from array.ravel().tolist()
    elif dtype.char in "gG":
        yield from map(repr, array.ravel().tolist())
    elif array.nbytes < _CHUNK:
        yield array.tobytes()
    else:
        flat = sys.modules["numpy"].ascontiguousarray(array).reshape(-1)
        yield blake3(flat.view("u1").data).digest()


def of_scalar(value: Any) -> Content:
    """A numpy scalar: its array, marked."""
    yield "scalar"
    yield from of_array(sys.modules["numpy"].asarray(value))


# -- pandas ------------------------------------------------------------------------------------------------------------


def _of_index(value: Any) -> Content:
    if value.nlevels > 1:
        yield from ("levels", list(value.names), *map(value.get_level_values, range(value.nlevels)))
    else:
        yield from ("index", value.name, getattr(value, "freqstr", None))
        yield from _column(value.array)


def _of_series(value: Any) -> Content:
    yield from ("series", value.name, value.index, *_added(value))
    yield from _column(value.array)


def _of_frame(value: Any) -> Content:
    yield from ("frame", value.columns, value.index, *_added(value))
    for at in range(value.shape[1]):
        yield from _column(value.iloc[:, at].array)


def _added(value: Any) -> Content:
    """What users and subclasses add to a frame or series: pandas' documented ways to keep attributes."""
    own = {name: getattr(value, name, None) for name in value._metadata if name != "_name"}
    yield from (type(value), value.attrs, own)


def _column(array: Any) -> Content:
    """Dtype and values of a pandas array; text counts the same whichever library holds it."""
    numpy, dtype = sys.modules["numpy"], array.dtype
    if isinstance(dtype, numpy.dtype):
        yield from of_array(numpy.asarray(array))  # a view: a frame shares one block between columns of a type
        return
    yield str(dtype)
    if dtype.name == "category":
        yield from (array.categories, array.ordered)
        yield from of_array(array.codes)
    elif dtype.kind in "mM":
        yield from of_array(array.view("i8"))
    else:
        yield len(array)
        yield from array.astype(object).tolist()


_PANDAS: dict[tuple[str, str], Callable[[Any], Content]] = {
    ("pandas", "Index"): _of_index,
    ("pandas", "Series"): _of_series,
    ("pandas", "DataFrame"): _of_frame,
}


# -- where a value holds another ---------------------------------------------------------------------------------------


def type_name(kind: type) -> str:
    """A type as people know it: with its module, builtins without."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def place_in(holder: Any, child: object) -> str:
    """How a path goes on from an object to one in it, like ``['key']``, ``.name`` or ``[3]``; "" if that is not known."""
    kind = type(holder)
    if issubclass(kind, (set, frozenset)):
        return "{...}"
    found = [f".{name}" for name, item in _attributes(holder) if item is child]
    if issubclass(kind, dict):
        found += (f"[{_shown(key)}]" for key, item in dict.items(holder) if item is child)
        found += (".keys()" for key in dict.keys(holder) if key is child)
    elif (kind.__module__, kind.__name__) == ("numpy", "ndarray"):
        holder = holder.ravel().tolist()
    elif hasattr(kind, "iloc") and hasattr(kind, "columns"):
        found += (f"[{_shown(name)}]" for name, column in holder.items() if any(item is child for item in column.array))
    if isinstance(holder, (list, tuple, collections.deque)):
        found += (f"[{at}]" for at, item in enumerate(tuple(holder)) if item is child)
    return found[0] if found else ""


def _attributes(holder: Any) -> Iterator[tuple[str, object]]:
    """Attributes as they are stored: nothing of the object's own code runs."""
    kind = type(holder)
    if issubclass(kind, tuple):
        yield from zip(getattr(kind, "_fields", ()), holder, strict=False)
    with contextlib.suppress(AttributeError):
        yield from object.__getattribute__(holder, "__dict__").items()
    for name, member in (item for base in kind.__mro__ for item in vars(base).items()):
        if isinstance(member, types.MemberDescriptorType):
            with contextlib.suppress(AttributeError):
                yield name, member.__get__(holder)


def _shown(key: object) -> str:
    # A key of another type could be anything, and its repr could do anything.
    try:
        return repr(key)[:80] if type(key) in ENCODERS else f"<{type_name(type(key))}>"
    except ValueError:  # an int of more digits than Python prints
        return "<int>"
