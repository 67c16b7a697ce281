"""Files that uploaded objects become: by type, in formats that other programs read, too (ClearML's rules for `upload_artifact`).

| object                         | type      | codec, file                                                        |
|--------------------------------|-----------|--------------------------------------------------------------------|
| anything, with a serializer    | `custom`  | `file`, under the artifact's name with the extension               |
| numpy array                    | `numpy`   | `npz` (`loadtxt` for ``.csv.gz``)                                  |
| DataFrame                      | `pandas`  | `csv` (``.csv.gz``), `parquet`, `feather`, `pickle`                |
| PIL image                      | `image`   | `png` …                                                            |
| dict                           | `dict`    | `json`, keys sorted; `yaml`                                        |
| Path or short str that exists  | `custom`, `archive` | `file`: as it is, or a zip of a folder, wildcard or list |
| URL                            | `custom`  | `url`: only the text                                               |
| other str                      | `string`  | `json`                                                             |
| everything else                | `pickle`  | `pickle`                                                           |

Equal content gives equal bytes: no times, no owners, sorted names. Results of steps take another way, `minipipe.store.codec.encode`,
which loses nothing of a value.
"""

from __future__ import annotations

import glob
import importlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from minipipe import errors
from minipipe.shown import warn
from minipipe.store import blobs, codec
from minipipe.store.codec import Encoded
from minipipe.store.home import Store

IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+\Z")
_LONGEST_PATH = 2_048
_EPOCH = (1980, 1, 1, 0, 0, 0)
Serializer = Callable[[Any], bytes | bytearray]


@dataclass(frozen=True, slots=True)
class Wish:
    """How a caller wants an object stored.

    Attributes:
        extension: of the file, "" for the type's own.
        serializer: makes bytes of it.
        may_pickle: False refuses what has no format of its own.
        sort_keys: of a dict.
    """

    extension: str = ""
    serializer: Serializer | None = None
    may_pickle: bool = True
    sort_keys: bool = True


def encode(store: Store, name: str, value: Any, wish: Wish) -> Encoded:
    """Stage an object under the artifact's name.

    Raises:
        UsageError: a Path that does not exist, or only a pickle would do and may not.
        CannotTravel: the value lives in one process.
    """
    writer = blobs.Writer(store)
    try:
        how, label, metadata = _write(name, value, wish, writer)
        staged = writer.finish()
    except BaseException:
        writer.discard()
        raise
    return Encoded(staged, how, label, codec.key_of(value, how, staged), codec.preview(value), metadata, writer)


def _write(name: str, value: Any, wish: Wish, writer: blobs.Writer) -> tuple[str, str, dict[str, str]]:
    if wish.serializer is not None:
        writer.write(bytes(wish.serializer(value)))
        return "file", "custom", {"name": _file_name(name, wish.extension)}
    if wish.extension != ".pkl":
        for own in (_array, _frame, _image, _dict, _path, _text):
            found = own(name, value, wish, cast(IO[bytes], writer))
            if found is not None:
                return found
    if not wish.may_pickle:
        raise errors.UsageError(f"artifact {name!r}: a {type(value).__name__} can only be pickled, and auto_pickle is False")
    codec.dump(value, writer)
    return "pickle", "pickle", {}


_Written = tuple[str, str, dict[str, str]] | None


def _file_name(name: str, extension: str) -> str:
    base = name.replace("/", "_")
    return base if not extension or base.endswith(extension) else base + extension


def _choose(name: str, wish: Wish, choices: tuple[str, ...]) -> str:
    """The extension that is wished, if the type has it; else its first, with a warning."""
    if wish.extension and wish.extension not in choices:
        warn(f"artifact {name!r}: no {wish.extension!r} for its type, stored as {choices[0]}", stacklevel=6)
    return wish.extension if wish.extension in choices else choices[0]


def _array(name: str, value: Any, wish: Wish, file: IO[bytes]) -> _Written:
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray) or value.dtype.hasobject:
        return None
    if _choose(name, wish, (".npz", ".csv.gz")) == ".csv.gz":
        with _gzip(file) as zipped:
            numpy.savetxt(zipped, value, delimiter=",")
        return "loadtxt", "numpy", {}
    member = _member(f"{name.replace('/', '_')}.npy", packed=False)
    with _zip_file(file) as archive, archive.open(member, "w", force_zip64=True) as inside:
        numpy.lib.format.write_array(inside, numpy.asanyarray(value), allow_pickle=False)
    return "npz", "numpy", {}


def _frame(name: str, value: Any, wish: Wish, file: IO[bytes]) -> _Written:
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(value, pandas.DataFrame):
        return None
    if isinstance(value.index, pandas.MultiIndex) or isinstance(value.columns, pandas.MultiIndex):
        return None
    extension = _choose(name, wish, (".csv.gz", ".parquet", ".feather", ".pickle"))
    if extension == ".pickle":
        codec.dump(value, cast(Any, file))
        return "pickle", "pandas", {}
    if extension == ".csv.gz":
        with _gzip(file) as zipped:
            zipped.write(value.to_csv().encode())
        return "csv", "pandas", {}
    data = io.BytesIO()
    value.to_parquet(data) if extension == ".parquet" else value.to_feather(data)
    file.write(data.getvalue())
    return extension[1:], "pandas", {}


def _image(name: str, value: Any, wish: Wish, file: IO[bytes]) -> _Written:
    image = getattr(sys.modules.get("PIL.Image"), "Image", None)
    if image is None or not isinstance(value, image):
        return None
    extension, data = _choose(name, wish, IMAGES), io.BytesIO()
    value.save(data, format=importlib.import_module("PIL.Image").registered_extensions()[extension])
    file.write(data.getvalue())
    return extension[1:], "image", {}


def _dict(name: str, value: Any, wish: Wish, file: IO[bytes]) -> _Written:
    if not isinstance(value, dict):
        return None
    try:
        text = json.dumps(value, sort_keys=wish.sort_keys, indent=4)
    except (TypeError, ValueError) as error:
        warn(f"artifact {name!r}: the dict is pickled, it is not serialisable: {error}", stacklevel=6)
        return None
    if _choose(name, wish, (".json", ".yaml", ".yml")) != ".json":
        yaml = _yaml()  # without it JSON, which is YAML too
        file.write((yaml.safe_dump(json.loads(text), sort_keys=wish.sort_keys) if yaml is not None else text).encode())
        return "yaml", "dict", {}
    file.write(text.encode())
    return "json", "dict", {}


def _text(name: str, value: Any, wish: Wish, file: IO[bytes]) -> _Written:
    if not isinstance(value, str) or not value:
        return None
    file.write(json.dumps(str(value)).encode())
    return "json", "string", {}


# -- files --------------------------------------------------------------------------------------------------------------


def _path(name: str, value: Any, wish: Wish, file: IO[bytes]) -> _Written:
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, Path) for each in value):
        missing = [str(each) for each in value if not each.exists()]
        if missing:
            raise errors.UsageError(f"artifact {name!r}: {', '.join(missing)} does not exist")
        root = Path(os.path.commonpath([each.absolute().parent for each in value]))
        return _zip(name, _below(value), root, file)
    if isinstance(value, str) and _URL.match(value) and not value.startswith("file://"):
        file.write(value.encode())
        return "url", "custom", {}
    if not isinstance(value, Path) and not (isinstance(value, str) and 0 < len(value) < _LONGEST_PATH):
        return None
    text = str(value).removeprefix("file://")
    path = Path(os.path.expanduser(text))  # Path's own refuses ~NAME of a user that does not exist
    if _is_file(path):
        with open(path, "rb") as source:
            while chunk := source.read(4 << 20):
                file.write(chunk)
        return "file", "custom", {"name": path.name}
    if exists(path):
        return _zip(name, _below([path]), path, file)
    found = [Path(each) for each in sorted(glob.glob(text, recursive=True))] if glob.has_magic(text) and "\n" not in text else []
    if found:
        return _zip(name, _below(found), _fixed_part(path), file)
    if isinstance(value, Path):
        raise errors.UsageError(f"artifact {name!r}: there is no file or folder {value}")
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a text that no path can be
        return False


def exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first wildcard: names in the archive are relative to it."""
    while glob.has_magic(str(pattern)):
        pattern = pattern.parent
    return pattern


def _below(paths: Iterable[Path]) -> list[Path]:
    found: dict[Path, None] = {}
    for path in paths:
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if each.is_file():
                found[each] = None
    return list(found)


def _zip(name: str, files: list[Path], root: Path, file: IO[bytes]) -> _Written:
    with _zip_file(file) as archive:
        for path in files:
            member = os.path.relpath(path.absolute(), root.absolute())
            with open(path, "rb") as source, archive.open(_member(member), "w", force_zip64=True) as target:
                while chunk := source.read(4 << 20):
                    target.write(chunk)
    return "file", "archive", {"name": _file_name(name, ".zip")}


def _gzip(file: IO[bytes]) -> Any:
    return importlib.import_module("gzip").GzipFile(fileobj=file, mode="wb", mtime=0, filename="")


def _zip_file(file: IO[bytes]) -> Any:
    return importlib.import_module("zipfile").ZipFile(_Forward(file), "w")  # too heavy, with its compressors, to be always there


def _member(name: str, packed: bool = True) -> Any:
    zipfile = importlib.import_module("zipfile")
    member = zipfile.ZipInfo(name, _EPOCH)
    member.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    member.external_attr = 0o644 << 16
    return member


class _Forward(io.RawIOBase):
    """A file that can only be appended to: zipfile then writes sizes behind the data."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def writable(self) -> bool:
        """True."""
        return True

    def write(self, data: Any) -> int:
        """Append."""
        return self.file.write(data)


# -- reading ------------------------------------------------------------------------------------------------------------


def _read_npz(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    with importlib.import_module("numpy").load(io.BytesIO(data), allow_pickle=False) as found:
        return found[found.files[0]]


def _unzipped(data: memoryview) -> bytes:
    found: bytes = importlib.import_module("gzip").decompress(data)
    return found


def _read_loadtxt(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    return importlib.import_module("numpy").loadtxt(io.BytesIO(_unzipped(data)), delimiter=",")


def _read_csv(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    return importlib.import_module("pandas").read_csv(io.BytesIO(_unzipped(data)), index_col=[0])


def _read_parquet(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    return importlib.import_module("pandas").read_parquet(io.BytesIO(data))


def _read_feather(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    return importlib.import_module("pandas").read_feather(io.BytesIO(data))


def _read_image(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    image = importlib.import_module("PIL.Image").open(io.BytesIO(data))
    image.load()
    return image


def _read_yaml(data: memoryview, metadata: dict[str, str], scratch: Path) -> Any:
    yaml = _yaml()
    if yaml is not None:
        return yaml.safe_load(bytes(data))
    try:
        return json.loads(bytes(data))
    except ValueError:
        raise errors.ArtifactError("a YAML artifact cannot be read", "there is no module 'yaml'", "pip install pyyaml") from None


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        return None


EXTENSIONS = {
    "npz": ".npz",
    "loadtxt": ".csv.gz",
    "csv": ".csv.gz",
    "parquet": ".parquet",
    "feather": ".feather",
    "yaml": ".yaml",
    **{each[1:]: each for each in IMAGES},
}
codec.teach(
    {
        "npz": _read_npz,
        "loadtxt": _read_loadtxt,
        "csv": _read_csv,
        "parquet": _read_parquet,
        "feather": _read_feather,
        "yaml": _read_yaml,
        **{each[1:]: _read_image for each in IMAGES},
    }
)
