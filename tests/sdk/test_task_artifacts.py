"""Artifacts: what uploaded objects become and how they come back (the contract's 3.5)."""

from __future__ import annotations

import datetime
import hashlib
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

from minipipe import StorageManager, Task, errors
from minipipe.sdk.artifact import Artifact
from minipipe.store import blobs
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import python

FRAME = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=["one", "two"])


@pytest.fixture
def task(home: Store) -> Task:
    """A task that runs."""
    made = Task.create("artifacts", "it")
    made.mark_started()
    return made


def upload(task: Task, value: Any, name: str = "it", **more: Any) -> Artifact:
    """Upload a value and give the artifact as another process would see it."""
    assert task.upload_artifact(name, value, **more)
    return Task.get_task(task.id).artifacts[name]


def copy_of(artifact: Artifact, **more: Any) -> Path:
    path = artifact.get_local_copy(**more)
    assert path is not None
    return Path(path)


class Thing:
    """An object without a format of its own."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and other.value == self.value


@pytest.mark.parametrize(
    ("value", "type_", "file"),
    [
        ({"b": 1, "a": [1, {"c": None}]}, "dict", "it.json"),
        ({}, "dict", "it.json"),
        ("some text", "string", "it.txt"),
        ("x" * 5_000, "string", "it.txt"),
        ("", "pickle", "it.pkl"),
        (None, "pickle", "it.pkl"),
        (3, "pickle", "it.pkl"),
        ([1, 2], "pickle", "it.pkl"),
        ((1, "a"), "pickle", "it.pkl"),
        (b"bytes", "pickle", "it.pkl"),
        ({1, 2}, "pickle", "it.pkl"),
        (Thing(5), "pickle", "it.pkl"),
    ],
)
def test_an_object_is_stored_by_type_and_comes_back(task: Task, value: Any, type_: str, file: str) -> None:
    artifact = upload(task, value)
    assert (artifact.type, copy_of(artifact).name) == (type_, file)
    assert artifact.get() == value
    assert type(artifact.get()) is type(value)


def test_a_pickle_and_a_text_are_files_that_any_program_reads(task: Task) -> None:
    assert pickle.loads(copy_of(upload(task, [1, {2}])).read_bytes()) == [1, {2}]
    assert copy_of(upload(task, "täxt\n")).read_text() == "täxt\n"


@pytest.mark.parametrize(
    "array",
    [
        numpy.arange(6).reshape(2, 3),
        numpy.asfortranarray(numpy.ones((3, 2))),
        numpy.array(5.0),
        numpy.zeros((0, 2)),
        numpy.array(["a", "bc"]),
    ],
    ids=["int", "fortran", "scalar", "empty", "text"],
)
def test_an_array_is_an_npz_under_the_artifacts_name(task: Task, array: Any) -> None:
    artifact = upload(task, array, "arr")
    assert (artifact.type, copy_of(artifact).name) == ("numpy", "arr.npz")
    with numpy.load(copy_of(artifact)) as found:
        assert found.files == ["arr"]
        numpy.testing.assert_array_equal(found["arr"], array)
    back = artifact.get()
    numpy.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


def test_an_array_as_csv_on_request_and_one_of_objects_as_a_pickle(task: Task) -> None:
    artifact = upload(task, numpy.array([[1.5, 2.0], [3.0, 4.0]]), extension_name=".csv.gz")
    assert (artifact.type, copy_of(artifact).name) == ("numpy", "it.csv.gz")
    numpy.testing.assert_array_equal(artifact.get(), [[1.5, 2.0], [3.0, 4.0]])
    artifact = upload(task, numpy.array([{1}, None], dtype=object))
    assert (artifact.type, artifact.get().tolist()) == ("pickle", [{1}, None])


def test_a_frame_is_csv_with_its_first_column_as_index(task: Task) -> None:
    artifact = upload(task, FRAME)
    assert (artifact.type, copy_of(artifact).name) == ("pandas", "it.csv.gz")
    pandas.testing.assert_frame_equal(artifact.get(), FRAME)
    pandas.testing.assert_frame_equal(pandas.read_csv(copy_of(artifact), index_col=0), FRAME)


def test_a_frame_with_a_multi_index_or_on_request_is_pickled(task: Task) -> None:
    multi = FRAME.set_index(["a", "b"])
    artifact = upload(task, multi)
    assert copy_of(artifact).suffix == ".pkl"
    pandas.testing.assert_frame_equal(artifact.get(), multi)
    artifact = upload(task, FRAME, extension_name=".pickle")
    assert (artifact.type, copy_of(artifact).suffix) == ("pandas", ".pickle")
    pandas.testing.assert_frame_equal(artifact.get(), FRAME)


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_a_frame_is_parquet_or_feather_on_request(task: Task, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As pandas does it with pyarrow, which need not be installed: what matters is who is asked, and the name of the file.
    monkeypatch.setattr(pandas.DataFrame, f"to_{kind}", lambda self, file: file.write(kind.encode() + pickle.dumps(self)))
    monkeypatch.setattr(pandas, f"read_{kind}", lambda file: pickle.loads(file.read().removeprefix(kind.encode())))
    artifact = upload(task, FRAME, extension_name=f".{kind}")
    assert (artifact.type, copy_of(artifact).name) == ("pandas", f"it.{kind}")
    assert copy_of(artifact).read_bytes().startswith(kind.encode())
    pandas.testing.assert_frame_equal(artifact.get(), FRAME)


def test_an_image_is_a_png_or_what_was_asked_for(task: Task) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = image.new("RGB", (2, 3), (200, 10, 10))
    artifact = upload(task, picture)
    assert (artifact.type, copy_of(artifact).name, copy_of(artifact).read_bytes()[:4]) == ("image", "it.png", b"\x89PNG")
    assert (artifact.get().size, artifact.get().getpixel((1, 1))) == ((2, 3), (200, 10, 10))
    artifact = upload(task, picture, extension_name=".bmp")
    assert (artifact.type, copy_of(artifact).name, copy_of(artifact).read_bytes()[:2]) == ("image", "it.bmp", b"BM")


def test_a_dict_is_yaml_on_request(task: Task) -> None:
    yaml = pytest.importorskip("yaml")
    value = {"b": [1, {"c": None}], "a": "x"}
    artifact = upload(task, value, extension_name=".yaml")
    assert (artifact.type, copy_of(artifact).name) == ("dict", "it.yaml")
    assert yaml.safe_load(copy_of(artifact).read_text()) == artifact.get() == value


def test_a_dict_has_sorted_keys_unless_told_otherwise_and_keys_come_back_as_str(task: Task) -> None:
    assert list(json.loads(copy_of(upload(task, {"b": 1, "a": 2})).read_text())) == ["a", "b"]
    assert list(upload(task, {"b": 1, "a": 2}, sort_keys=False).get()) == ["b", "a"]
    artifact = upload(task, OrderedDict([(2, "x"), (1, "y")]))
    assert (artifact.type, artifact.get()) == ("dict", {"1": "y", "2": "x"})


def test_a_dict_that_is_not_serialisable_is_pickled_with_a_warning(task: Task) -> None:
    with pytest.warns(UserWarning, match="'it': the dict is pickled"):
        artifact = upload(task, {"a": {1}})
    assert (artifact.type, artifact.get()) == ("pickle", {"a": {1}})


def test_extension_pkl_pickles_anything_and_an_unknown_one_warns(task: Task) -> None:
    artifact = upload(task, {"a": 1}, extension_name=".pkl")
    assert (artifact.type, pickle.loads(copy_of(artifact).read_bytes())) == ("pickle", {"a": 1})
    with pytest.warns(UserWarning, match=r"no '\.xyz' for its type, stored as \.json"):
        assert upload(task, {"a": 1}, extension_name=".xyz").get() == {"a": 1}


def test_without_auto_pickle_what_could_only_be_pickled_is_a_value_error(task: Task) -> None:
    for value in (Thing(1), None, [1], numpy.array([None])):
        with pytest.raises(ValueError, match="auto_pickle is False"):
            task.upload_artifact("it", value, auto_pickle=False)
    assert dict(task.artifacts) == {}
    assert upload(task, {"a": 1}, auto_pickle=False).get() == {"a": 1}


def test_with_a_serializer_it_is_custom_and_comes_back_as_a_path_or_by_its_counterpart(task: Task) -> None:
    artifact = upload(task, Thing(7), serialization_function=lambda thing: str(thing.value).encode(), extension_name=".num")
    assert artifact.type == "custom"
    path = artifact.get()
    assert (isinstance(path, Path), path.name, path.read_bytes()) == (True, "it.num", b"7")
    again = Task.get_task(task.id).artifacts["it"]
    assert again.get(deserialization_function=lambda data: Thing(int(data))) == Thing(7)


# -- files --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a file, a sub-folder with two."""
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    (folder / "a.csv").write_text("a")
    (folder / "below" / "b.csv").write_text("b")
    (folder / "below" / "c.txt").write_text("c")
    return folder


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("kind", [Path, str])
def test_a_path_or_a_str_that_exists_is_stored_as_its_file(task: Task, files: Path, kind: Callable[[Any], Any]) -> None:
    artifact = upload(task, kind(files / "a.csv"))
    assert (artifact.type, artifact.size, artifact.metadata) == ("custom", 1, {})
    path = artifact.get()
    assert (path.name, path.read_text()) == ("a.csv", "a")
    assert path != files / "a.csv"


def test_a_folder_a_wildcard_and_a_list_of_paths_are_archives_with_relative_names(task: Task, files: Path) -> None:
    everything = {"a.csv": "a", "below/b.csv": "b", "below/c.txt": "c"}
    for value, expected in (
        (files, everything),
        (str(files), everything),
        (str(files / "*"), everything),
        (str(files / "**" / "*.csv"), {"a.csv": "a", "below/b.csv": "b"}),
        ([files / "a.csv", files / "below" / "c.txt"], {"a.csv": "a", "below/c.txt": "c"}),
    ):
        artifact = upload(task, value)
        assert artifact.type == "archive"
        assert tree(artifact.get()) == tree(copy_of(artifact)) == expected
        packed = copy_of(artifact, extract_archive=False)
        assert (packed.name, sorted(zipfile.ZipFile(packed).namelist())) == ("it.zip", sorted(expected))


def test_a_path_that_is_not_there_is_a_value_error_and_a_text_is_a_text(task: Task, files: Path) -> None:
    for missing in (files / "none", [files / "a.csv", files / "none"]):
        with pytest.raises(ValueError, match="none"):
            task.upload_artifact("it", missing)
    assert upload(task, str(files / "none")).get() == str(files / "none")


def test_delete_after_upload_removes_what_was_uploaded(task: Task, files: Path) -> None:
    upload(task, files / "a.csv", delete_after_upload=True)
    upload(task, str(files / "below"), delete_after_upload=True)
    upload(task, "just a text", delete_after_upload=True)
    assert tree(files) == {}


def test_a_url_is_registered_only(task: Task, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = upload(task, "https://example.com/a.csv")
    assert (artifact.type, artifact.url) == ("custom", "https://example.com/a.csv")
    monkeypatch.setenv("MINIPIPE_URL_MAP", json.dumps({"https://example.com": str(files)}))
    assert artifact.get().read_text() == "a"
    assert copy_of(artifact).read_text() == "a"


# -- facts --------------------------------------------------------------------------------------------------------------


def test_a_second_upload_replaces_the_first_and_artifacts_are_in_upload_order(task: Task) -> None:
    for name, value in (("b", 1), ("a", 2), ("b", 3)):
        task.upload_artifact(name, value)
    found = Task.get_task(task.id).artifacts
    assert [(name, artifact.get()) for name, artifact in found.items()] == [("a", 2), ("b", 3)]
    assert ("a" in found, "c" in found, len(found)) == (True, False, 2)
    with pytest.raises(KeyError):
        found["c"]


def test_the_facts_of_an_artifact(task: Task) -> None:
    artifact = upload(task, {"a": 1}, metadata={"k": 1, "name": "own"}, preview="shown" * 20_000)
    assert artifact.metadata == {"k": "1", "name": "own"}
    assert (artifact.name, artifact.mode, len(artifact.preview)) == ("it", "output", 65_536)
    assert isinstance(artifact.timestamp, datetime.datetime)
    content = copy_of(artifact).read_bytes()
    assert (artifact.size, artifact.hash) == (len(content), hashlib.sha256(content).hexdigest())
    artifact.verify_pickle_file_integrity(str(copy_of(artifact)))
    assert artifact.get() is artifact.get(), "memoised"
    assert artifact.get(force_download=True) is not None


@pytest.mark.parametrize(
    "value", [{"a": 1}, numpy.arange(3), FRAME, "text", [1, 2]], ids=["dict", "array", "frame", "text", "list"]
)
def test_the_url_names_content_not_task(home: Store, value: Any) -> None:
    urls = []
    for name in ("one", "two"):
        task = Task.create("artifacts", name)
        task.mark_started()
        urls.append(upload(task, value).url)
    assert urls[0] == urls[1]
    assert Path(StorageManager.get_local_copy(urls[0]) or "").exists()


def test_a_folder_packs_to_the_same_bytes_wherever_and_whenever(task: Task, files: Path, tmp_path: Path) -> None:
    first = upload(task, files)
    moved = files.rename(tmp_path / "elsewhere")
    (moved / "a.csv").touch()
    assert upload(task, moved).url == first.url


def test_a_preview_is_never_produced_by_unpickling(task: Task) -> None:
    class Boom:
        def __reduce__(self) -> Any:
            return (exit, (3,))

    artifact = upload(task, Boom())
    assert "Boom" in artifact.preview
    with pytest.raises(errors.ArtifactError, match="block_unsafe_artifacts"):
        artifact.get(block_unsafe_artifacts=True)


def test_bytes_are_verified_before_decoding(task: Task, home: Store) -> None:
    artifact = upload(task, "x" * 100_000)
    path = blobs.path_of(home, artifact.url.partition("://")[2])
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"x", b"y", 1))
    with pytest.raises(errors.ArtifactError, match="damaged"):
        artifact.get()


def test_an_artifact_of_every_type_is_read_back_by_another_process(task: Task, home: Store, files: Path, tmp_path: Path) -> None:
    values = {"array": numpy.arange(3), "frame": FRAME, "dict": {"a": 1}, "text": "words", "pickle": {1, 2}, "folder": files}
    for name, value in values.items():
        task.upload_artifact(name, value)
    task.mark_completed()
    code = (
        "import sys; from minipipe import StorageManager, Task\n"
        "a = Task.get_task(project_name='artifacts', task_name='it', task_filter={'status': ['completed']}).artifacts\n"
        "print(a['array'].get().tolist(), a['frame'].get().to_dict('list'), a['dict'].get(), a['text'].get(), a['pickle'].get())\n"
        "print(sorted(p.name for p in a['folder'].get().rglob('*.*')))\n"
        "print([StorageManager.get_local_copy(a[n].url).rpartition('/')[2] for n in ('array', 'frame', 'dict', 'text', 'pickle')])"
    )
    done = python(tmp_path, "-c", code, MINIPIPE_HOME=str(home.path))
    assert done.out.splitlines() == [
        "[0, 1, 2] {'a': [1, 2], 'b': ['x', 'y']} {'a': 1} words {1, 2}",
        "['a.csv', 'b.csv', 'c.txt']",
        "['array.npz', 'frame.csv.gz', 'dict.json', 'text.txt', 'pickle.pkl']",
    ]
