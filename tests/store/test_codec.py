"""Values become bytes and come back equal; what cannot travel is refused in words."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import json
import math
import os
import reprlib
import socket
import stat
import subprocess
import sys
import tarfile
import textwrap
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minipipe import errors
from minipipe.store import blobs, codec
from minipipe.store.home import Store

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(codec.__file__).parents[2])}
quickly = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stored(store: Store, value: object) -> codec.Encoded:
    """Encode a value and publish its bytes."""
    encoded = codec.encode(store, value)
    with store.database.write() as connection:
        blobs.publish(store, connection, encoded.staged)
    assert encoded.writer is not None
    encoded.writer.close()
    return encoded


def loaded(store: Store, encoded: codec.Encoded) -> Any:
    data = blobs.load(store, encoded.staged.digest)
    return codec.decode(data, encoded.codec, encoded.metadata, store.folder("tmp") / ("0" * 32 + ".d"), "artifact 'a'")


def back(store: Store, value: object, wanted: str) -> Any:
    """The value after a round trip through the codec that is expected for it."""
    encoded = stored(store, value)
    assert encoded.codec == wanted
    return loaded(store, encoded)


def same(a: object, b: object) -> bool:
    """Equal in type and content, NaN included, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b) if a == a else b != b
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))  # type: ignore[arg-type]
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)  # type: ignore[index, call-overload]
    return a == b


# -- round trips --------------------------------------------------------------------------------------------------------

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(st.characters(categories=["Cs", "L"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@quickly
@given(value=plain)
def test_plain_values_come_back_from_json_unchanged(store: Store, value: object) -> None:
    assert same(back(store, value, "json"), value)


@quickly
@given(
    value=st.recursive(
        st.tuples(st.integers(), st.binary()) | st.sets(st.integers()) | st.complex_numbers(allow_nan=False) | st.datetimes(),
        lambda inner: st.lists(inner, min_size=1) | st.dictionaries(st.integers(), inner, min_size=1) | st.tuples(inner),
        max_leaves=10,
    )
)
def test_other_builtins_come_back_from_a_pickle_unchanged(store: Store, value: object) -> None:
    assert same(back(store, value, "pickle"), value)


@quickly
@given(value=st.binary(max_size=40_000))
def test_bytes_are_stored_as_they_are(store: Store, value: bytes) -> None:
    encoded = stored(store, value)
    assert encoded.codec == "bytes"
    assert encoded.staged.size == len(value)
    assert loaded(store, encoded) == value


@dataclasses.dataclass
class Point:
    x: int


class Loud(int):
    pass


@pytest.mark.parametrize(
    "value",
    [
        True,
        Loud(3),
        [Loud(3)],
        {"a": (1, 2)},
        {1: "a"},
        {True: "a"},
        collections.OrderedDict(a=1),
        collections.Counter("abc"),
        Point(1),
        datetime.date(2024, 1, 1),
        bytearray(b"x" * 20_000),
        10**5000,
        [10**5000],
        range(5),
        int,
        Point,
        len,
    ],
    ids=repr if sys.version_info < (3, 11) else lambda value: type(value).__name__,
)
def test_a_value_keeps_its_type(store: Store, value: object) -> None:
    result = loaded(store, stored(store, value))
    assert type(result) is type(value)
    assert result == value


def test_one_object_in_two_places_of_a_pickle_stays_one(store: Store) -> None:
    shared = {1, 2}
    first, second = back(store, (shared, shared), "pickle")
    assert first is second


def test_a_list_that_holds_itself_comes_back(store: Store) -> None:
    value: list[object] = [1]
    value.append(value)
    result = back(store, value, "pickle")
    assert result[1] is result


def test_a_lambda_and_a_local_class_come_back(store: Store) -> None:
    class Local:
        def twice(self, number: int) -> int:
            return 2 * number

    assert back(store, lambda number: number + 1, "pickle")(1) == 2
    assert back(store, Local(), "pickle").twice(4) == 8


def test_a_large_list_is_pickled_rather_than_printed(store: Store) -> None:
    value = list(range(200_000))
    assert back(store, value, "pickle") == value


# -- arrays -------------------------------------------------------------------------------------------------------------

BASE = np.arange(24, dtype="f8").reshape(2, 3, 4)
ARRAYS = {
    "C": BASE,
    "F": np.asfortranarray(BASE),
    "0-d": np.array(3.5),
    "empty": np.empty((0, 3)),
    "empty F": np.asfortranarray(np.empty((3, 0, 2), dtype="i2")),
    "strided": BASE[:, ::2, 1:],
    "reversed": BASE[::-1],
    "transposed": BASE.T,
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "big endian": np.arange(5, dtype=">i4"),
    "bool": np.array([True, False]),
    "complex": np.array([1 + 2j, np.nan]),
    "half": np.array([1.5, np.inf], dtype="f2"),
    "text": np.array(["a", "äöü€"]),
    "bytes": np.array([b"a", b"bc"]),
    "no bytes": np.array([b"", b""], dtype="S0"),
    "dates": np.array(["2024-01-01", "NaT"], dtype="M8[ns]"),
    "spans": np.array([1, 2], dtype="m8[s]"),
    "structured": np.array([(1, 2.5, "x")], dtype=[("a", "i4"), ("b", "f8"), ("c", "U3")]),
    "nested": np.zeros(2, dtype=[("a", [("b", "i2", (2, 2))])]),
    "padded": np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "large": np.random.default_rng(0).normal(size=(300, 100)),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS.keys())
def test_arrays_come_back_without_pickle(store: Store, array: np.ndarray) -> None:
    result = back(store, array, "npy")
    assert type(result) is np.ndarray
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    np.testing.assert_array_equal(result, array)
    if array.size and not (array.flags.c_contiguous or array.flags.f_contiguous):
        assert result.flags.c_contiguous
    else:
        assert (result.flags.c_contiguous, result.flags.f_contiguous) == (array.flags.c_contiguous, array.flags.f_contiguous)


@pytest.mark.parametrize("name", ["C", "large"])
def test_an_array_may_be_written_to_and_what_is_stored_stays(store: Store, name: str) -> None:
    encoded = stored(store, ARRAYS[name])
    result = loaded(store, encoded)
    result[:] = 0
    np.testing.assert_array_equal(loaded(store, encoded), ARRAYS[name])


def test_an_array_that_was_stored_is_what_numpy_writes(store: Store, tmp_path: Path) -> None:
    encoded = stored(store, ARRAYS["F"])
    (tmp_path / "a.npy").write_bytes(blobs.load(store, encoded.staged.digest))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), ARRAYS["F"])


def test_a_memory_map_is_an_array(store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BASE)
    np.testing.assert_array_equal(back(store, np.load(tmp_path / "a.npy", mmap_mode="r"), "npy"), BASE)


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, "a", None], dtype=object),
        np.zeros(2, dtype=[("λ", "i4")]),
        np.zeros(2, dtype=[(f"field_{number:04}", "i4") for number in range(900)]),
        np.array(["a", "long enough to be elsewhere"], dtype=np.dtypes.StringDType()),
        np.ma.masked_array([1, 2], [True, False]),
    ],
    ids=["objects", "Greek field", "900 fields", "StringDType", "masked"],
)
def test_arrays_beyond_the_file_format_are_pickled(store: Store, array: np.ndarray) -> None:
    result = back(store, array, "pickle")
    assert type(result) is type(array)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(np.ma.getdata(result), np.ma.getdata(array))


def test_an_array_of_objects_in_the_file_format_is_not_loaded(store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([print, None], dtype=object), allow_pickle=True)
    with pytest.raises(errors.ArtifactError, match="cannot be read back") as caught:
        codec.decode(memoryview((tmp_path / "a.npy").read_bytes()), "npy", {}, tmp_path)
    assert "refused" in caught.value.cause


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"a": [1, 2], "b": ["x", None], "c": [1.5, float("nan")]}),
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": pd.Categorical(["x", "y"], ordered=True)}),
        pd.DataFrame({"t": pd.to_datetime(["2024-01-01", None]).tz_localize("Europe/Berlin"), "d": pd.to_timedelta([1, 2], "s")}),
        pd.DataFrame({("a", 1): [1], ("b", 2): [2.0]}, index=pd.MultiIndex.from_tuples([("x", 1)], names=["p", "q"])),
        pd.DataFrame(index=pd.RangeIndex(3)),
        pd.Series([1, 2], name="s", dtype="i2"),
    ],
    ids=["mixed", "extension", "times", "levels", "no columns", "series"],
)
def test_frames_keep_values_dtypes_and_labels(store: Store, frame: pd.DataFrame | pd.Series) -> None:
    encoded = stored(store, frame)
    assert encoded.type == "pandas"
    result = loaded(store, encoded)
    compare = pd.testing.assert_series_equal if isinstance(frame, pd.Series) else pd.testing.assert_frame_equal
    compare(result, frame)  # type: ignore[operator]


# -- paths --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 100_000, 5_000_000])
def test_a_file_comes_back_as_a_read_only_copy_of_its_name(store: Store, tmp_path: Path, size: int) -> None:
    source = tmp_path / "data file.csv"
    source.write_bytes(os.urandom(size))
    encoded = stored(store, source)
    first, second = loaded(store, encoded), loaded(store, encoded)
    assert encoded.codec == "file"
    assert first.name == second.name == "data file.csv"
    assert first != second
    assert first.read_bytes() == source.read_bytes()
    assert stat.S_IMODE(first.stat().st_mode) == 0o444
    assert first.is_relative_to(store.path)


def test_a_folder_comes_back_with_all_that_is_in_it(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "model"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "sub" / "b.bin").write_bytes(b"b" * 50_000)
    (source / "link").symlink_to("sub/b.bin")
    os.link(source / "a.txt", source / "z hard link.txt")
    result = back(store, source, "folder")
    assert result.name == "model"
    assert sorted(str(path.relative_to(result)) for path in result.rglob("*")) == sorted(
        ["sub", "sub/empty", "a.txt", "sub/b.bin", "link", "z hard link.txt"]
    )
    assert (result / "z hard link.txt").read_text() == "a"
    assert (result / "link").read_bytes() == b"b" * 50_000


def test_equal_folders_have_equal_bytes(store: Store, tmp_path: Path) -> None:
    digests = set()
    for number, names in enumerate((["a", "b", "c"], ["c", "b", "a"])):
        folder = tmp_path / str(number) / "same"
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(name)
            os.utime(folder / name, (number, number))
        digests.add(stored(store, folder).staged.digest)
    assert len(digests) == 1


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "sub/../../outside"])
def test_a_folder_with_a_link_that_leads_out_is_refused_when_stored(store: Store, tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "link").symlink_to(target)
    with pytest.raises(errors.CannotTravel, match="leads out of it") as caught:
        codec.encode(store, tmp_path / "folder")
    assert target in caught.value.cause


@pytest.mark.parametrize("name", ["../escape", "/tmp/minipipe-escape", "a/../../escape"])
def test_an_archive_cannot_write_outside(store: Store, tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        member = tarfile.TarInfo(name)
        archive.addfile(member)
    with contextlib.suppress(errors.ArtifactError):  # refused, or, for an absolute name, made relative
        codec.decode(memoryview((tmp_path / "evil.tar").read_bytes()), "folder", {"name": "x"}, tmp_path / "a" / "b" / "scratch")
    assert all(path.is_relative_to(tmp_path / "a" / "b" / "scratch") for path in tmp_path.rglob("*escape*"))
    assert not Path("/tmp/minipipe-escape").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", ""])
def test_a_files_name_cannot_lead_outside(store: Store, tmp_path: Path, name: str) -> None:
    path = codec.decode(memoryview(b"data"), "file", {"name": name}, tmp_path / "scratch")
    assert path.parent.parent == tmp_path / "scratch"
    assert path.read_bytes() == b"data"


def test_a_path_that_is_not_there_is_only_a_path(store: Store, tmp_path: Path) -> None:
    assert back(store, tmp_path / "missing", "pickle") == tmp_path / "missing"


# -- classes of a script ------------------------------------------------------------------------------------------------

SCRIPT = """
import sys
from minipipe.store import blobs, codec
from minipipe.store.home import Store

class Base:
    def __init__(self, x): self.x = x

class Model(Base):
    class Part: pass
    def __init__(self, x):
        super().__init__(x)
        self.part = Model.Part()
    def twice(self): return 2 * self.x

store = Store.open(sys.argv[1], create=False)
if len(sys.argv) == 2:
    encoded = codec.encode(store, Model(21))
    with store.database.write() as connection:
        blobs.publish(store, connection, encoded.staged)
    print(encoded.staged.digest)
else:
    value = codec.load(blobs.load(store, sys.argv[2]))
    assert type(value) is Model, type(value)
    assert isinstance(value, Base) and type(value.part) is Model.Part
    print(value.twice())
"""


@pytest.fixture
def script(store: Store, tmp_path: Path) -> Callable[..., str]:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))

    def run(*arguments: str) -> str:
        command = [sys.executable, str(tmp_path / "script.py"), str(store.path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout.strip()

    return run


def test_an_instance_of_a_scripts_class_is_one_again_in_that_script_and_works_elsewhere(
    store: Store, script: Callable[..., str]
) -> None:
    digest = script()
    assert script(digest) == "42"
    value = codec.load(blobs.load(store, digest))
    assert type(value).__name__ == "Model"
    assert value.twice() == 42


# -- what cannot travel -------------------------------------------------------------------------------------------------


def opened() -> Any:
    return open(__file__)


REFUSED: dict[str, Callable[[], object]] = {
    "generator": lambda: (number for number in range(3)),
    "lock": threading.Lock,
    "socket": socket.socket,
    "file": opened,
    "thread": lambda: threading.Thread(target=print),
    "lock in a list": lambda: [1, {"a": threading.Lock()}],
}


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_what_lives_in_one_process_is_refused_and_leaves_nothing(store: Store, make: Callable[[], Any]) -> None:
    value = make()
    with pytest.raises(errors.CannotTravel, match="cannot leave its process") as caught:
        codec.encode(store, value)
    assert type(value).__name__ in caught.value.message
    assert caught.value.cause
    assert list(store.folder("tmp").iterdir()) == []
    if hasattr(value, "close"):
        value.close()


def test_the_standard_streams_travel_as_names_and_other_streams_do_not(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w") as stream:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert back(store, {"out": sys.stdout, "not plain": {1}}, "pickle")["out"] is stream
        with pytest.raises(errors.CannotTravel, match="cannot leave"):
            codec.encode(store, {"log": stream})


def test_a_refusal_in_the_middle_of_a_large_value_leaves_nothing(store: Store) -> None:
    with pytest.raises(errors.CannotTravel):
        codec.encode(store, [b"x" * 100_000, threading.Lock()])
    assert list(store.folder("tmp").iterdir()) == []


def nested(kind: str) -> object:
    value: object = None
    for _ in range(100_000):
        value = [value] if kind == "list" else {"a": value} if kind == "dict" else (value,)
    return value


@pytest.mark.parametrize("kind", ["list", "dict", "tuple"])
def test_very_deep_nesting_is_refused_in_words(store: Store, kind: str) -> None:
    with pytest.raises((errors.CannotTravel, RecursionError), match="recursion"):
        codec.encode(store, nested(kind))
    assert list(store.folder("tmp").iterdir()) == []


def test_a_class_that_fails_while_it_is_pickled_is_refused(store: Store) -> None:
    class Stubborn:
        def __reduce__(self) -> str:
            raise KeyError("no")

    with pytest.raises(errors.CannotTravel, match="Stubborn") as caught:
        codec.encode(store, Stubborn())
    assert "KeyError" in caught.value.cause


@pytest.mark.parametrize(
    ("name", "data"), [("pickle", b"no pickle"), ("json", b"{"), ("npy", b"\x93NUMPY"), ("folder", b"no tar"), ("unknown", b"")]
)
def test_bytes_that_cannot_be_decoded_are_a_typed_error(tmp_path: Path, name: str, data: bytes) -> None:
    with pytest.raises(errors.ArtifactError, match="artifact 'a' cannot be read back") as caught:
        codec.decode(memoryview(data), name, {}, tmp_path, "artifact 'a'")
    assert caught.value.hint


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.ArtifactError) as caught:
        codec.decode(memoryview(b"cnot_there\nName\n."), "pickle", {}, tmp_path)
    assert "not_there" in caught.value.cause


# -- keys and previews --------------------------------------------------------------------------------------------------


def test_the_key_of_a_value_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "import sys, tempfile, pathlib; from minipipe.store import codec; from minipipe.store.home import Store;"
        "s = Store.open(pathlib.Path(tempfile.mkdtemp()) / 's', durability='fast');"
        "print(codec.encode(s, {'a', 'b', 'c', 'd'}).key, codec.encode(s, {'x': 1}).key, codec.encode(s, b'x' * 9).key)"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**ENVIRONMENT, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(keys) == 1


def test_values_of_another_type_have_another_key(store: Store) -> None:
    values = [1, 1.0, True, "1", b"1", [1], {"1": 1}, (1,), np.array([1]), np.array([1.0])]
    assert len({codec.encode(store, value).key for value in values}) == len(values)


class Hostile:
    """Raises whatever is asked of it."""

    def __init__(self, error: Exception) -> None:
        object.__setattr__(self, "error", error)

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__reduce_ex__", "__reduce__"):
            return object.__getattribute__(self, name)
        raise object.__getattribute__(self, "error")

    def __repr__(self) -> str:
        raise object.__getattribute__(self, "error")


class Shaped:
    shape, dtype = (2, 2), "f8"

    def ravel(self) -> object:
        raise ValueError


HARD_TO_SHOW = [
    Hostile(ValueError("x")),
    Hostile(RecursionError()),
    [Hostile(OSError())],
    Shaped(),
    10**5000,
    {"a": [[[[[[1]]]]]]},
    "x" * 10**6,
    "\ud800",
    "\x1b[2J\x00",
    np.zeros((3, 0)),
    np.array("x"),
    pd.DataFrame({"a": [1]}),
    Path("/"),
    {number: number for number in range(10_000)},
]


@pytest.mark.parametrize("value", HARD_TO_SHOW, ids=lambda value: type(value).__name__)
def test_a_preview_is_short_text_and_never_raises(value: object) -> None:
    shown = codec.preview(value)
    assert 0 < len(shown) <= codec.PREVIEW_CHARACTERS
    shown.encode()


@quickly
@given(value=plain | st.binary() | st.tuples(st.floats(), st.text()))
def test_every_preview_can_be_stored(value: object) -> None:
    assert len(codec.preview(value)) <= codec.PREVIEW_CHARACTERS
    codec.preview(value).encode()


def test_previews_say_what_a_value_is() -> None:
    assert codec.preview("text") == "text"
    assert codec.preview(list(range(100))).startswith("100 items: [0, 1, 2")
    assert codec.preview(np.zeros((3, 4))).startswith("float64 3x4: [0.0")
    assert codec.preview(pd.DataFrame({"a": [1], "b": [2]})) == "1 rows x 2 columns: a, b"


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_huge_value_of_bytes_is_shown_keyed_and_read_without_copies_of_it(
    store: Store, kind: Callable[[bytes], object]
) -> None:
    value = kind(b"\xff" * (8 << 20))
    assert codec.preview(value) == reprlib_of(value)
    tracemalloc.start()
    try:
        encoded = codec.encode(store, value)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        data = encoded.staged.path.read_bytes()  # type: ignore[union-attr]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        assert codec.decode(memoryview(data), encoded.codec, encoded.metadata, store.path) == value
        assert tracemalloc.get_traced_memory()[1] - before < 9 << 20
    finally:
        tracemalloc.stop()
    assert encoded.writer is not None
    encoded.writer.discard()


def reprlib_of(value: object) -> str:
    """What the standard library makes of it, with our limit."""
    short = reprlib.Repr()
    short.maxother = 120
    return short.repr(value)


def test_metadata_and_preview_of_a_user_do_not_hide_what_decoding_needs(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    encoded = codec.described(codec.encode(store, tmp_path / "x.txt"), {"name": "mine", "note": "n"}, "p" * 500)
    assert encoded.metadata == {"name": "x.txt", "note": "n"}
    assert len(encoded.preview) == codec.PREVIEW_CHARACTERS
    assert json.loads(json.dumps(encoded.metadata)) == encoded.metadata
