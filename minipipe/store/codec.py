"""How values become bytes and back: formats that cannot run code come first, pickle is the fallback and is flagged.

| codec    | for                                                     | bytes                                   |
|----------|---------------------------------------------------------|-----------------------------------------|
| `json`   | None, bool, int, float, str, lists and dicts of these   | JSON                                    |
| `bytes`  | bytes                                                   | themselves                              |
| `npy`    | numpy arrays without objects                            | NumPy's .npy (version 1 to 3)           |
| `file`   | a Path that is a file                                   | its content, the name beside it         |
| `folder` | a Path that is a folder                                 | tar, names sorted, no owners, no times  |
| `pickle` | everything else                                         | cloudpickle, protocol 5                 |

Encoding also makes the preview (at most 200 characters), so that no listing ever has to decode, and the *key*: a digest of the
value that is equal in every process and goes into cache keys. Pickle bytes do not qualify: a pickled set differs with the hash
seed. Decoding a mapped array copies nothing: the array is a private view of the blob, so a step may write into its input
without changing what is stored.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import pickle
import reprlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType
from typing import IO, Any, cast

from minipipe import errors, hashing, imports
from minipipe.store import blobs
from minipipe.store.home import Store

PREVIEW_CHARACTERS = 200
OWN = "minipipe."  # metadata that is ours, not the user's
_HEADER_BYTES = 10_000  # NumPy refuses to read a longer one
_JSON_NODES = 100_000  # larger containers pickle faster than they print

PersistentId = Callable[[object], object]
PersistentLoad = Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value as bytes, with what is shown and keyed without decoding it.

    Attributes:
        staged: the bytes.
        codec: how to decode them.
        type: what people see ("list", "numpy", "pandas", "pickle" …).
        key: digest of the value, None if it has no stable one (then the digest of the bytes serves).
        preview: at most 200 characters.
        metadata: what decoding needs beside the bytes, such as a file's name.
        writer: holds the file and its lock until the bytes are linked; close it then.
    """

    staged: blobs.Staged
    codec: str
    type: str
    key: str
    preview: str
    metadata: dict[str, str] = field(default_factory=dict)
    writer: blobs.Writer | None = None


def encode(store: Store, value: object, name: str | None = None) -> Encoded:
    """Stage a value.

    Args:
        store: where to.
        value: any object that can leave its process.
        name: stem of the file under ``tmp/``, see `minipipe.store.blobs.Writer`.

    Raises:
        CannotTravel: the value lives in one process (a lock, a generator, an open file); names its type.
        DiskFull: no room.
    """
    writer = blobs.Writer(store, name)
    try:
        codec, label, metadata = _write(value, writer)
        staged = writer.finish()
    except BaseException:
        writer.discard()
        raise
    return Encoded(staged, codec, label, key_of(value, codec, staged), preview(value), metadata, writer)


def decode(data: memoryview, codec: str, metadata: dict[str, str], scratch: Path, what: str = "") -> Any:
    """The value of verified bytes.

    Args:
        data: from `minipipe.store.blobs.read`, so already verified.
        codec: from `Encoded`.
        metadata: from `Encoded`.
        scratch: folder for copies of files and folders.
        what: the artifact, for the error.

    Raises:
        ArtifactError: the bytes cannot be decoded here; the cause names the missing module or the reason.
    """
    try:
        return _READERS[codec](data, metadata, scratch)
    except errors.MinipipeError:
        raise
    except Exception as error:
        raise errors.ArtifactError(
            f"{what or 'an artifact'} cannot be read back ({codec}){_told_of(metadata)}",
            f"{type(error).__name__}: {error}",
            "use the environment that wrote it, or run the step again",
        ) from error


def _told_of(metadata: dict[str, str]) -> str:
    """What is known of a value that cannot be read: its class, and the versions of its package there and here."""
    written, kind = metadata.get(f"{OWN}package", ""), metadata.get(f"{OWN}class", "")
    if not written:
        return ""
    top = written.partition(" ")[0]
    here = f"{top} {found}" if (found := imports.version(top)) else f"no {top}"
    return f": it is a {kind}, written with {written}, and here is {here}"


# -- writing ------------------------------------------------------------------------------------------------------------


def _write(value: object, writer: blobs.Writer) -> tuple[str, str, dict[str, str]]:
    kind = type(value)
    if kind is bytes:
        writer.write(cast(bytes, value))
        return "bytes", "bytes", {}
    if _is_plain(value):
        try:
            writer.write(json.dumps(value, separators=(",", ":")).encode())
            return "json", "string" if kind is str else kind.__name__ if value is not None else "None", {}
        except ValueError:  # integers beyond the interpreter's limit for decimal text
            pass
    if _is_array(value) and _write_array(value, writer):
        return "npy", "numpy", {}
    if isinstance(value, Path) and value.exists():
        return _write_path(value, writer)
    dump(value, writer)
    return "pickle", label_of(value), _maker_of(value)


def _maker_of(value: object) -> dict[str, str]:
    """The class of a value and the package that it comes from, for the error of whoever cannot read it."""
    kind = type(value)
    top = kind.__module__.partition(".")[0]
    version = getattr(sys.modules.get(top), "__version__", None)
    if top in sys.stdlib_module_names or not isinstance(version, str):
        return {}
    return {f"{OWN}class": f"{kind.__module__}.{kind.__qualname__}", f"{OWN}package": f"{top} {version}"}


def _is_plain(value: object) -> bool:
    """Exactly what JSON gives back unchanged, not too large. Iterative: deep nesting must not exhaust the stack."""
    todo, seen = [(value, 0)], 0
    while todo:
        item, depth = todo.pop()
        kind = type(item)
        if kind is str or item is None or kind is int or kind is float or kind is bool:
            continue
        seen += len(item) if kind is list or kind is dict else 0  # type: ignore[arg-type]
        if seen > _JSON_NODES or depth > 100:
            return False
        if kind is list:
            todo.extend((part, depth + 1) for part in cast("list[object]", item))
        elif kind is dict:
            mapping = cast("dict[object, object]", item)
            if not all(type(key) is str for key in mapping):
                return False
            todo.extend((part, depth + 1) for part in mapping.values())
        else:
            return False
    return True


def _is_array(value: object) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and type(value) in (numpy.ndarray, numpy.memmap) and not value.dtype.hasobject  # type: ignore[attr-defined]


def _write_array(value: Any, writer: blobs.Writer) -> bool:
    """Write an array as .npy; False, and nothing written, if its field names are beyond what NumPy's header holds."""
    numpy = sys.modules["numpy"]
    array = numpy.asarray(value)
    if not array.flags.c_contiguous and not array.flags.f_contiguous:
        array = numpy.ascontiguousarray(array)
    head = io.BytesIO()
    try:
        numpy.lib.format.write_array_header_2_0(head, numpy.lib.format.header_data_from_array_1_0(array))
    except UnicodeEncodeError:
        return False
    if head.tell() > _HEADER_BYTES:
        return False
    writer.write(head.getvalue())
    if array.nbytes:
        flat = array.ravel(order="K") if array.ndim else array.reshape(1)
        writer.write(memoryview(flat.view(numpy.uint8)).cast("B"))
    return True


def _write_path(value: Path, writer: blobs.Writer) -> tuple[str, str, dict[str, str]]:
    if value.is_dir():
        tarfile = importlib.import_module("tarfile")  # with its compressors too heavy for every child
        with tarfile.open(fileobj=cast(IO[bytes], writer), mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for path in sorted(value.rglob("*")):
                _refuse_link_outward(path, value)
                archive.inodes.clear()  # each hard link as a file of its own
                archive.add(path, str(path.relative_to(value)), recursive=False, filter=_anonymous)
        return "folder", "archive", {"name": value.resolve().name}
    with open(value, "rb") as source:
        while chunk := source.read(4 << 20):
            writer.write(chunk)
    return "file", "custom", {"name": value.name}


def _refuse_link_outward(path: Path, folder: Path) -> None:
    """Reading back refuses such links (PEP 706's "data" filter), so they are refused while somebody can still change it."""
    if path.is_symlink() and (os.path.isabs(os.readlink(path)) or not path.resolve().is_relative_to(folder.resolve())):
        raise errors.CannotTravel(
            f"the folder {folder} cannot be stored: {path.relative_to(folder)} is a link that leads out of it",
            f"it points to {os.readlink(path)}",
            "copy what it points to into the folder, or make it a relative link inside",
        )


def _anonymous(member: Any) -> Any:
    """Equal content gives equal bytes: no owner, no time. Devices and sockets are left out."""
    if not (member.isfile() or member.isdir() or member.issym()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member


def load_main_class(name: str, definition: bytes) -> object:
    """The class `name` of this process's ``__main__``; where there is none, the one that travelled with the value.

    So an instance made in a step is an instance of the same class again in the script that defines it.
    """
    found: object = sys.modules.get("__main__")
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else pickle.loads(definition)


def load_code(file: str, make: Callable[..., CodeType], arguments: tuple[Any, ...]) -> CodeType:
    """A code object with the name of the file that it came from."""
    return make(*arguments).replace(co_filename=file)


def dump(value: object, file: IO[bytes] | blobs.Writer, persistent_id: PersistentId | None = None) -> None:
    """Pickle a value with cloudpickle, protocol 5.

    Args:
        value: what to write.
        file: where to; large buffers are written without a copy.
        persistent_id: called for each object; a result other than None is stored instead of it (`load` gives it back).

    Raises:
        CannotTravel: something in it lives in one process; names the type.
    """
    cloudpickle = importlib.import_module("cloudpickle")

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc, name-defined]
        def persistent_id(self, item: object) -> object:
            return persistent_id(item) if persistent_id is not None else None

        def reducer_override(self, item: object) -> Any:
            if isinstance(item, type) and item.__module__ == "__main__" and "<locals>" not in item.__qualname__:
                return load_main_class, (item.__qualname__, cloudpickle.dumps(item, protocol=5))
            if type(item) is CodeType:  # cloudpickle forgets the file (3.1.3), and tracebacks would show no source line
                return load_code, (item.co_filename, *cloudpickle.Pickler.dispatch_table[CodeType](item))
            if type(item) is io.TextIOWrapper and item is not sys.stdout and item is not sys.stderr:
                raise TypeError("an open file stays in its process")  # cloudpickle would make a StringIO of it
            return super().reducer_override(item)

    try:
        Pickler(file, protocol=5).dump(value)
    except errors.MinipipeError:
        raise
    except (RecursionError, MemoryError):
        raise
    except Exception as error:
        kind = type(value)
        raise errors.CannotTravel(
            f"a value of type {kind.__module__}.{kind.__qualname__} cannot leave its process",
            f"{type(error).__name__}: {error}",
            "open it inside the step that uses it, or pass the path or the plain data",
        ) from error


def load(data: memoryview | bytes, persistent_load: PersistentLoad | None = None) -> Any:
    """The value of pickled bytes; `persistent_load` gets what `dump` was given in place of an object."""
    if persistent_load is None:
        return pickle.loads(data)  # without the copy that a file in memory would be
    unpickler = pickle.Unpickler(io.BytesIO(data))
    unpickler.persistent_load = persistent_load  # type: ignore[method-assign]
    return unpickler.load()


def key_of(value: object, codec: str, staged: blobs.Staged) -> str:
    """Digest of a value for cache keys."""
    if codec != "pickle":
        return hashing.combine(codec, staged.digest)
    try:
        return hashing.value_digest(value)
    except hashing.Unstable:
        # Equal bytes are equal values, so this is sound; it only misses when the value was made anew.
        return hashing.combine(codec, staged.digest)


# -- reading ------------------------------------------------------------------------------------------------------------


def _read_json(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    return json.loads(bytes(data))


def _read_bytes(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    return bytes(data)


def _read_array(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    numpy = importlib.import_module("numpy")
    head = io.BytesIO(bytes(data[: min(len(data), 1 << 16)]))
    version = numpy.lib.format.read_magic(head)
    reader = numpy.lib.format.read_array_header_2_0 if version >= (2, 0) else numpy.lib.format.read_array_header_1_0
    shape, fortran, dtype = reader(head)
    if dtype.hasobject:
        raise ValueError("an array of objects would be unpickled; refused")
    buffer = data[head.tell() :]
    if buffer.readonly:
        buffer = memoryview(bytearray(buffer))
    if not buffer.nbytes:
        return numpy.empty(shape, dtype)
    return numpy.frombuffer(buffer, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _read_file(data: memoryview, metadata: dict[str, str], scratch: Path) -> Path:
    target = _fresh(scratch) / Path(metadata.get("name") or "file").name
    with open(target, "xb") as file:
        file.write(data)
    target.chmod(0o444)
    return target


def _read_folder(data: memoryview, metadata: dict[str, str], scratch: Path) -> Path:
    target = _fresh(scratch) / Path(metadata.get("name") or "folder").name
    target.mkdir()
    tarfile = importlib.import_module("tarfile")
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        # The "data" filter (PEP 706) refuses members that leave the folder, links that point out of it, and devices.
        archive.extractall(target, filter="data")
    for folder, _, names in os.walk(target):
        for name in names:
            path = Path(folder) / name
            if not path.is_symlink():
                path.chmod(0o444)
    return target


def _fresh(scratch: Path) -> Path:
    tempfile = importlib.import_module("tempfile")
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Path(tempfile.mkdtemp(dir=scratch))


def _read_pickle(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    return load(data)


_READERS: dict[str, Callable[[memoryview, dict[str, str], Path], Any]] = {
    "json": _read_json,
    "bytes": _read_bytes,
    "npy": _read_array,
    "file": _read_file,
    "folder": _read_folder,
    "pickle": _read_pickle,
}
UNSAFE_CODECS = frozenset({"pickle"})  # decoding them can run code


def teach(readers: dict[str, Callable[[memoryview, dict[str, str], Path], Any]]) -> None:
    """Add codecs that `decode` knows."""
    _READERS.update(readers)


# -- previews -----------------------------------------------------------------------------------------------------------


class _Short(reprlib.Repr):
    """As in the standard library, and bytes are cut before they become text: that is up to four characters for each."""

    def repr_bytes(self, value: bytes, level: int) -> str:
        most = self.maxother
        return self.repr_instance(value if len(value) <= 2 * most else value[:most] + value[-most:], level)

    repr_bytearray = repr_bytes


def _short_repr() -> reprlib.Repr:
    short = _Short()
    short.maxlist = short.maxtuple = short.maxdict = short.maxset = 6
    short.maxstring, short.maxother, short.maxlevel = 80, 120, 3
    return short


_SHORT = _short_repr()


def preview(value: object) -> str:
    """At most 200 characters that say what a value is; never raises, whatever its ``__repr__`` does."""
    try:
        text = _describe(value)
    except Exception as error:
        text = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
    text = text if len(text) <= PREVIEW_CHARACTERS else text[: PREVIEW_CHARACTERS - 1] + "…"
    return text.encode(errors="replace").decode()  # a lone surrogate cannot be stored as text


def _describe(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return cast(str, value[:PREVIEW_CHARACTERS])
    short = _SHORT
    if kind in (list, tuple, set, frozenset, dict) and len(value) > 6:
        return f"{len(value)} items: {short.repr(value)}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None and shape:
        return f"{dtype} {'x'.join(map(str, shape))}: {short.repr(value.ravel()[:4].tolist()) if hasattr(value, 'ravel') else ''}"
    if isinstance(shape, tuple) and len(shape) == 2:
        columns = ", ".join(map(str, list(value.columns)[:8])) if hasattr(value, "columns") else ""
        return f"{shape[0]} rows x {shape[1]} columns: {columns}"
    return short.repr(value)


def described(encoded: Encoded, metadata: dict[str, str], preview: str | None = None) -> Encoded:
    """The same bytes with a user's metadata and preview."""
    shown = encoded.preview if preview is None else preview[:PREVIEW_CHARACTERS]
    return replace(encoded, metadata={**metadata, **encoded.metadata}, preview=shown)


def scalar_key(kind: str, value: str) -> str:
    """Digest of a scalar result by type and value, for cache keys."""
    return hashing.combine("scalar", kind, value)


def has_own_format(value: object) -> bool:
    """True if a value is stored in a format of its own rather than as a pickle."""
    return type(value) is bytes or _is_plain(value) or _is_array(value) or (isinstance(value, Path) and value.exists())


def label_of(value: object) -> str:
    """What people see as the type of a pickled value."""
    return "pandas" if type(value).__module__.partition(".")[0] == "pandas" else "pickle"


def as_serialized(encoded: Encoded) -> Encoded:
    """The same bytes, marked as what a user's own function made of a value (ClearML's type ``custom``)."""
    return replace(encoded, type="custom", metadata={**encoded.metadata, "serialized": "1"})


def as_structure(encoded: Encoded) -> Encoded:
    """The same bytes, marked as a container with holes for the results of other steps."""
    return replace(encoded, codec="structure", type="structure")
