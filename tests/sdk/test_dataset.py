"""Data sets: versions of folders whose files are stored once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from minipipe import errors
from minipipe.sdk.api_client import APIClient
from minipipe.sdk.dataset import Dataset
from minipipe.sdk.task import Task
from minipipe.store import collect, removal
from minipipe.store.home import Store

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name, text in (("a.csv", "1"), ("b.txt", "2"), ("sub/c.csv", "3" * 40_000), ("sub/deep/d.csv", "1")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def final(name: str, files: Path, **more: Any) -> Dataset:
    data = Dataset.create(name, "sets", **more)
    data.add_files(files)
    assert data.upload() and data.finalize()
    return data


def blobs(home: Store) -> int:
    row = home.database.row("SELECT count(*) FROM blob")
    assert row is not None
    return int(row[0])


def test_a_folder_becomes_a_version_and_a_folder_again(files: Path) -> None:
    data = Dataset.create("digits", "sets", dataset_tags=["t"], description="words")

    assert data.add_files(files) == 4 and data.add_files(files) == 0 and not data.is_final()
    assert data.finalize() and data.is_final()
    assert (data.name, data.project, data.version, data.tags) == ("digits", "sets", "1.0.0", ["t"])
    assert data.list_files() == ["a.csv", "b.txt", "sub/c.csv", "sub/deep/d.csv"]
    copy = Path(data.get_local_copy())
    assert (copy / "sub/c.csv").read_text() == "3" * 40_000 and os.stat(copy / "a.csv").st_mode & 0o222 == 0
    assert data.get_local_copy() == str(copy)
    assert sorted(path.name for path in Path(data.get_local_copy(part=1, num_parts=2)).rglob("*.*")) == ["b.txt", "d.csv"]
    assert [path.name for path in Path(data.get_local_copy(files=["b.txt"])).rglob("*.*")] == ["b.txt"]


def test_what_is_equal_is_stored_once(files: Path, home: Store) -> None:
    first = final("digits", files)
    stored = blobs(home)
    (files / "a.csv").write_text("new")
    second = Dataset.create("digits", "sets", parent_datasets=[first.id])
    assert second.sync_folder(files) == (0, 0, 1)
    second.finalize()
    copied = final("copy", files)

    assert stored == 3  # a.csv and sub/deep/d.csv are equal
    assert blobs(home) == stored + 1
    assert second.version == "1.0.1" and second.list_files(dataset_id=first.id) == ["b.txt", "sub/c.csv", "sub/deep/d.csv"]
    assert (Path(first.get_local_copy()) / "a.csv").read_text() == "1"
    assert (Path(copied.get_local_copy()) / "a.csv").read_text() == "new"


def test_files_are_added_by_pattern_and_place_and_taken_out(files: Path) -> None:
    data = Dataset.create("digits", "sets")

    assert data.add_files(files, wildcard="*.csv", dataset_path="in/side") == 3
    assert data.add_files(files, wildcard=["*.txt"], recursive=False) == 1
    assert data.add_files(files / "sub" / "c.csv", local_base_folder=str(files)) == 1
    assert data.list_files() == ["b.txt", "in/side/a.csv", "in/side/sub/c.csv", "in/side/sub/deep/d.csv", "sub/c.csv"]
    assert data.list_files("in/side/*.csv", recursive=False) == ["in/side/a.csv"]
    assert data.list_files("in/side/*.csv") == ["in/side/a.csv", "in/side/sub/c.csv", "in/side/sub/deep/d.csv"]
    assert data.remove_files("in/side/sub") == 2 and data.remove_files("*.txt") == 1
    assert data.list_files() == ["in/side/a.csv", "sub/c.csv"]


def test_a_synced_folder_is_equal_to_the_local_one(files: Path) -> None:
    data = Dataset.create("digits", "sets")
    data.add_files(files, dataset_path="x")
    data.add_files(files / "a.csv", dataset_path="y")
    (files / "b.txt").unlink()
    (files / "a.csv").write_text("changed")
    (files / "e.csv").write_text("5")

    assert data.sync_folder(files, "x") == (1, 1, 1)
    assert data.list_files() == ["x/a.csv", "x/e.csv", "x/sub/c.csv", "x/sub/deep/d.csv", "y/a.csv"]


def test_versions_are_found_and_listed(files: Path) -> None:
    one, two = final("digits", files), final("digits", files, dataset_version="2.0")
    open_one = Dataset.create("digits", "sets", dataset_tags=["open"])

    assert open_one.version == "2.1"
    assert Dataset.get(dataset_name="digits", dataset_project="sets").id == open_one.id
    assert Dataset.get(dataset_name="digits", only_completed=True).id == two.id
    assert Dataset.get(dataset_name="digits", dataset_version="1.0.0").id == one.id
    assert Dataset.get(dataset_project="sets", dataset_tags=["open"]).id == open_one.id
    assert [facts["version"] for facts in Dataset.list_datasets("sets")] == ["2.0", "1.0.0"]
    assert next(iter(Dataset.list_datasets(partial_name="dig", only_completed=False)))["id"] == open_one.id
    assert Dataset.get(dataset_name="fresh", dataset_project="sets", auto_create=True).list_files() == []
    assert Dataset.get(dataset_id=two.id, writable_copy=True).list_files() == two.list_files()


def test_a_task_notes_which_version_it_used_and_a_clone_may_use_another(files: Path, as_worker: Any) -> None:
    one, two = final("digits", files), final("digits", files)
    task = Task.create("tests", "user")
    as_worker(task)

    assert Dataset.get(dataset_name="digits", alias="input", overridable=True).id == two.id
    assert task.get_parameter("Datasets/input") == two.id
    task.set_parameter("Datasets/input", one.id)
    assert Dataset.get(dataset_name="digits", alias="input", overridable=True).id == one.id


def test_a_mutable_copy_may_be_changed(files: Path, tmp_path: Path) -> None:
    data = final("digits", files)
    target = tmp_path / "work"

    assert data.get_mutable_local_copy(target) == str(target)
    (target / "a.csv").write_text("mine")
    with pytest.raises(errors.UsageError, match="not empty"):
        data.get_mutable_local_copy(target)
    assert data.get_mutable_local_copy(target, raise_on_error=False) is None
    data.get_mutable_local_copy(target, overwrite=True)
    assert (target / "a.csv").read_text() == "1"


def test_a_final_version_cannot_change(files: Path) -> None:
    data = final("digits", files)

    for change in (lambda: data.add_files(files), data.remove_files, data.finalize, lambda: data.sync_folder(files)):
        with pytest.raises(errors.IllegalMove, match="is final"):
            change()
    assert data.finalize(raise_on_error=False) is False and data.publish() and data.publish()


def test_versions_are_removed_unless_others_need_them(files: Path) -> None:
    one = final("digits", files)
    two = final("digits", files, parent_datasets=[one])

    with pytest.raises(errors.UsageError, match="is a parent of"):
        Dataset.delete(one.id)
    with pytest.raises(errors.UsageError, match="2 versions fit"):
        Dataset.delete(dataset_project="sets", dataset_name="digits")
    Dataset.delete(one.id, force=True)
    assert (Path(two.get_local_copy()) / "a.csv").read_text() == "1"
    two.publish()
    with pytest.raises(errors.UsageError, match="is published"):
        Dataset.delete(two.id)
    Dataset.delete(dataset_name="digits", entire_dataset=True, force=True)
    assert Dataset.list_datasets(only_completed=False) == []


def test_the_local_copy_of_a_version_that_is_gone_is_collected(files: Path, home: Store) -> None:
    kept, gone = final("kept", files), final("gone", files)
    copies = [Path(data.get_local_copy()) for data in (kept, gone)]
    removal.delete(home, gone._task.row_id)
    freed = collect.sweep(home)

    assert [copy.exists() for copy in copies] == [True, False] and freed.number["folders of tasks"] == 1


def test_bad_input_is_told_in_words(files: Path, tmp_path: Path) -> None:
    data = Dataset.create("digits", "sets")

    for call, words in (
        (lambda: Dataset.create(), "a name and a project"),
        (lambda: Dataset.create("a", "b", dataset_version="x y"), "PEP 440"),
        (lambda: Dataset.create("a", "b", parent_datasets=[data]), "is not final"),
        (lambda: Dataset.get(), "nothing to look for"),
        (lambda: Dataset.get(dataset_name="nothing"), "no data set"),
        (lambda: Dataset.get(dataset_id=Task.create("a", "b").id), "is no data set"),
        (lambda: data.add_files(tmp_path / "missing"), "no file or folder"),
        (lambda: data.add_files(None), "path is None"),  # type: ignore[arg-type]
        (lambda: data.add_files(files, dataset_path="../out"), "leads out"),
        (lambda: data.add_files(files, local_base_folder="/etc"), "does not lie in"),
        (lambda: data.get_local_copy(), "is not final"),
        (lambda: data.get_mutable_local_copy(tmp_path / "w"), "is not final"),
        (lambda: data.publish(), "is not final"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    odd = tmp_path / "odd"
    odd.mkdir()
    (odd / os.fsdecode(b"\xff.txt")).write_text("1")
    with pytest.raises(errors.UsageError, match="is no text"):
        data.add_files(odd)
    with pytest.raises(errors.NotSupported, match=r"Dataset\.squash"):
        data.squash()
    with pytest.warns(UserWarning, match="nothing to add"):
        assert data.add_files(files, wildcard="*.none") == 0


# -- the API client -----------------------------------------------------------------------------------------------------


def test_the_api_client_answers_from_the_store() -> None:
    client = APIClient()
    one, two = Task.create("a", "one"), Task.create("a/.pipelines/p", "two")
    two.set_archived(True)
    Task.enqueue(one, "gpu")

    assert [
        entry.id for entry in client.tasks.get_all(system_tags=["archived"], only_fields=["id"], order_by=["-last_update"])
    ] == [two.id]
    assert client.tasks.get_by_id(one.id).name == "one" and client.tasks.get_by_id(task=one.id).data.status == "queued"
    (entry,) = client.tasks.get_all(name="^one$", only_fields=["id", "project.name"], page=0, page_size=5)
    assert entry.project.name == "a" and entry.to_dict().keys() == {"id", "project"}
    assert client.tasks.get_all(status_changed=["<2001-01-01 00:00:00.5"], page_size=100, page=0) == []
    assert [project.name for project in client.projects.get_all()] == ["a"]
    assert len(client.projects.get_all(search_hidden=True)) == 2 and client.projects.get_all(name="zz") == []
    assert {queue.name: queue.entries for queue in client.queues.get_all()} == {"default": [], "gpu": [one.id], "services": []}


def test_what_the_api_client_does_not_offer_it_says() -> None:
    client = APIClient()

    for call in (lambda: client.events.get_all(), lambda: client.tasks.delete("x"), lambda: client.workers):
        with pytest.raises(errors.NotSupported, match="is not offered"):
            call()
    with pytest.raises(errors.UsageError):
        client.tasks.get_all(nonsense=1)
    with pytest.raises(errors.UsageError):
        client.projects.get_all(nonsense=1)
    with pytest.raises(errors.NotFound):
        client.tasks.get_by_id("0" * 32)
    Task.create("a", "b")
    (entry,) = client.tasks.get_all(only_fields=["id"])
    with pytest.raises(AttributeError, match="no field 'name'"):
        _ = entry.name
