"""Runs travel as one file: what arrives is what left, and what was cut, altered or is not trusted stores nothing."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from minipipe import errors
from minipipe.context import Lease
from minipipe.store import (
    attempts,
    blobs,
    bundle,
    bundle_reading,
    bundle_rows,
    codec,
    collect,
    edits,
    models,
    records,
    tasks,
    unbundle,
    workers,
)
from minipipe.store.home import Store
from tests.faults.sane import sane
from tests.store import making

Copy = Callable[[Path], Store]


@pytest.fixture
def other(tmp_path: Path, copy_store: Copy) -> Store:
    """Another store, as on another machine; it has one task already, so that row ids differ."""
    store = copy_store(tmp_path / "other")
    making.step(store, name="here before")
    return store


def filled_run(store: Store, worker: workers.Registration, **facts: Any) -> int:
    """A run that has a row in every table that travels; its second step is served from an earlier run's."""
    run = making.run(store, parameters=(tasks.Parameter("Args", "lr", "0.1", "float", "0.1"),))
    attempts.start_here(store, run.id, worker.id)
    first = making.step(store, "first", parent_id=run.id, key_base="first", **facts)
    lease: Lease | None = None
    if making.status(store, first) == "queued":
        claim = making.claim(store, worker)
        lease = claim.lease
        records.report(store, lease, first, "loss", "train", 0.5, 1)
        making.finish(store, claim, value=list(range(9_000)))
    making.step(store, "second", of=[first], parent_id=run.id)
    claim = making.claim(store, worker)
    making.finish(store, claim, attempts.FAILED, reason="ValueError: no")
    path = store.log_path(claim.lease.uid, 1)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(b"minipipe: second\nhello \xff\n")
    path.chmod(0o600)
    edits.set_configuration(store, run.id, "yaml", "a: 1", "dict")
    edits.set_tags(store, run.id, ["good"])
    model = models.create(store, None, models.NewModel("net", "p", task_id=run.id))
    writer = blobs.Writer(store)
    writer.write(b"w" * 20_000)
    models.set_weights(store, None, model.id, writer=writer, file="net.pt")
    models.link(store, None, run.id, model.id, "output", "net")
    with store.database.write() as connection:
        connection.execute("INSERT INTO code VALUES (?, 'f', 'def f(): pass', '[]')", (f"code{run.id}",))
        connection.execute("UPDATE task SET code_key = ? WHERE id = ?", (f"code{run.id}", first))
        connection.execute(
            "INSERT INTO model_metric (model_id, title, series, value, at) VALUES (?, 'a', 'b', 1.5, 2)", (model.id,)
        )
        digest = connection.execute("SELECT digest FROM model").fetchone()[0]
        connection.execute(
            "INSERT INTO plot (task_id, attempt, kind, title, series, type, digest, at) VALUES (?, 1, 'plot', 't', 's', 'image/png', ?, 3)",
            (first, digest),
        )
    edits.move(store, run.id, "failed", "a step failed")
    return run.id


@pytest.fixture
def run(store: Store) -> int:
    return filled_run(store, making.agent(store))


@pytest.fixture
def file(store: Store, run: int, tmp_path: Path) -> Path:
    return bundle.export(store, [run], tmp_path / "run.zip", False).path


def content(store: Store, *runs: int) -> list[tuple[str, Any]]:
    """All rows that travel, comparable between stores."""
    with store.database.snapshot():
        chosen = bundle_rows.select(store, runs)
        return sorted((table, json.dumps(row, sort_keys=True)) for table, row in bundle_rows.rows_of(store, chosen))


def everything(store: Store) -> dict[str, Any]:
    """All rows and all files."""
    tables = [row[0] for row in store.database.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    rows = {
        table: [tuple(row) for row in store.database.rows(f"SELECT * FROM {table}") if row[0] != "synced_at"] for table in tables
    }
    files = sorted(str(path.relative_to(store.path)) for path in store.path.rglob("*") if "minipipe.db" not in path.name)
    return {**rows, "": files}


def id_of(store: Store, uid: str) -> int:
    return int(store.database.rows("SELECT id FROM task WHERE uid = ?", (uid,))[0]["id"])


def rewritten(file: Path, change: Callable[[dict[str, bytes], dict[str, Any]], None], reseal: bool = True) -> Path:
    """A copy of a bundle with other members; its list is made to fit unless the change did that."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members.pop(bundle.MANIFEST))
    change(members, manifest)
    if reseal:
        manifest["members"] = {name: [len(data), blake3(data).hexdigest()] for name, data in members.items()}
        manifest["seal"] = bundle.seal(manifest)
    target = file.with_name("changed.zip")
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(bundle.MANIFEST, json.dumps(manifest))
    return target


def edited_rows(change: Callable[[str, dict[str, Any]], None]) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def edit(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        rows = [json.loads(line) for line in members["rows.jsonl"].splitlines()]
        for table, row in rows:
            change(table, row)
        members["rows.jsonl"] = b"".join(json.dumps(row).encode() + b"\n" for row in rows)

    return edit


# -- round trip ---------------------------------------------------------------------------------------------------------


def test_what_arrives_is_what_left_in_every_table_and_again_changes_nothing(
    store: Store, other: Store, run: int, file: Path
) -> None:
    assert {table for table, _ in content(store, run)} == {*bundle_rows.TABLES} - {"environment", "monitor", "placeholder"}
    (found,) = unbundle.take_in(other, bundle_reading.read(file, trust_pickle=True))
    task = making.task(store, run)
    assert found == unbundle.Run(task["uid"], task["run_name"], True)
    arrived = id_of(other, task["uid"])
    assert arrived != run
    assert content(other, arrived) == content(store, run)
    first = other.database.rows("SELECT id FROM task WHERE name = 'first'")[0]["id"]
    assert making.value(other, first) == list(range(9_000))
    second = other.database.rows("SELECT uid FROM task WHERE name = 'second'")[0]["uid"]
    assert other.log_path(second, 1).read_bytes() == b"minipipe: second\nhello \xff\n"
    assert sane(other.path) == []
    before = everything(other)
    (again,) = unbundle.take_in(other, bundle_reading.read(file, trust_pickle=True))
    assert again == unbundle.Run(task["uid"], task["run_name"], False)
    assert everything(other) == before


def test_what_served_a_cached_step_comes_along(store: Store, other: Store, tmp_path: Path) -> None:
    worker = making.agent(store)
    origin = filled_run(store, worker)
    served = filled_run(store, worker, use_cache=True)
    done = bundle.export(store, [served], tmp_path / "run.zip", False)
    assert (done.runs, done.along) == ((making.task(store, served)["uid"],), (making.task(store, origin)["uid"],))
    unbundle.take_in(other, bundle_reading.read(done.path, trust_pickle=True))
    arrived = id_of(other, done.runs[0])
    assert content(other, arrived) == content(store, served)
    step = other.database.rows("SELECT cached_from FROM task WHERE parent_id = ? AND name = 'first'", (arrived,))[0]
    assert making.task(other, step["cached_from"])["parent_id"] == id_of(other, done.along[0])
    assert sane(other.path) == []


def test_a_part_that_is_here_already_is_not_stored_again(store: Store, other: Store, tmp_path: Path) -> None:
    worker = making.agent(store)
    origin = filled_run(store, worker)
    served = filled_run(store, worker, use_cache=True)
    for number, runs in enumerate(([origin], [served])):
        path = bundle.export(store, runs, tmp_path / f"{number}.zip", False).path
        found = unbundle.take_in(other, bundle_reading.read(path, trust_pickle=True))
        assert [one.new for one in found] == ([True] if number == 0 else [True, False])
    assert content(other, id_of(other, making.task(store, served)["uid"])) == content(store, served)
    assert sane(other.path) == []


def test_a_name_that_is_taken_gives_way(store: Store, other: Store, run: int, file: Path) -> None:
    name = making.task(store, run)["run_name"]
    mine = making.run(other)
    with other.database.write() as connection:
        connection.execute("UPDATE task SET run_name = ? WHERE id = ?", (name, mine.id))
    (found,) = unbundle.take_in(other, bundle_reading.read(file, trust_pickle=True))
    assert found.name != name
    assert making.task(other, id_of(other, found.uid))["run_name"] == found.name


def test_what_is_not_trusted_serves_no_cache_and_what_is_does(store: Store, other: Store, tmp_path: Path) -> None:
    worker = making.agent(store)
    run = making.run(store)
    attempts.start_here(store, run.id, worker.id)
    making.step(store, parent_id=run.id, key_base="k")
    making.work(store, worker, value={"plain": "json"})
    edits.move(store, run.id, "completed")
    path = bundle.export(store, [run.id], tmp_path / "run.zip", False).path
    unbundle.take_in(other, bundle_reading.read(path))
    mine = making.step(other, "mine", key_base="k", use_cache=True)
    assert making.status(other, mine) == "queued"
    trusting = Store.open(tmp_path / "trusting")
    unbundle.take_in(trusting, bundle_reading.read(path, trust_pickle=True))
    assert making.status(trusting, making.step(trusting, "mine", key_base="k", use_cache=True)) == "completed"
    trusting.close()


def test_only_what_has_ended_can_be_exported_and_nothing_is_overwritten(store: Store, run: int, file: Path) -> None:
    data = file.read_bytes()
    with pytest.raises(errors.UsageError, match="exists"):
        bundle.export(store, [run], file, False)
    assert file.read_bytes() == data
    bundle.export(store, [run], file, True)
    assert file.read_bytes() == data  # the same runs give the same bytes
    making.step(store, parent_id=run)
    with pytest.raises(errors.UsageError, match="is queued"):
        bundle.export(store, [run], file.with_name("new.zip"), False)
    assert sorted(path.name for path in file.parent.glob("*.zip")) == ["run.zip"]


def test_damaged_bytes_are_not_exported(store: Store, run: int, tmp_path: Path) -> None:
    victim = next((store.path / "blobs").glob("*/*"))
    victim.chmod(0o644)
    victim.write_bytes(b"x" + victim.read_bytes()[1:])
    with pytest.raises(errors.ArtifactError, match="damaged"):
        bundle.export(store, [run], tmp_path / "run.zip", False)
    assert list(tmp_path.glob("*.zip")) + list(tmp_path.glob(".*.part")) == []


# -- refused ------------------------------------------------------------------------------------------------------------


def _cut(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
    members["rows.jsonl"] = members["rows.jsonl"][:-40]


def _flipped(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
    name = next(name for name in members if name.startswith("blobs/"))
    members[name] = bytes([members[name][0] ^ 1]) + members[name][1:]


def _newer_format(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
    manifest["format"] = 99


def _newer_schema(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
    manifest["schema"] = 99


def _missing(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
    del members[next(name for name in members if name.startswith("blobs/"))]


def _member(name: str) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def add(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        members[name] = b"outside"

    return add


def _deep(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
    members["rows.jsonl"] += b'["task",' + b"[" * 200_000 + b"]" * 200_000 + b"]\n"


def _column(table: str, column: str, value: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def set_one(found: str, row: dict[str, Any]) -> None:
        if found == table:
            row[column] = value

    return edited_rows(set_one)


HOSTILE = {
    "rows cut": (_cut, "altered|no end"),
    "a bit flipped": (_flipped, "digest"),
    "newer format": (_newer_format, "format 99"),
    "newer schema": (_newer_schema, "schema 99"),
    "bytes missing": (_missing, "not there"),
    "climbing": (_member("../../outside"), "none that a bundle has"),
    "absolute": (_member("/tmp/outside"), "none that a bundle has"),
    "other folder": (_member("blobs/../../x"), "none that a bundle has"),
    "unknown member": (_member("minipipe.db"), "none that a bundle has"),
    "log of nobody": (_member("logs/" + "a" * 32 + ".1.log"), "without a task"),
    "deep": (_deep, "altered"),
    "id": (_column("task", "uid", "../../x"), "altered"),
    "status": (_column("task", "status", "in_progress"), "altered"),
    "history": (_column("event", "new", "completed"), "altered"),
    "entry": (_column("task", "entry", "[]"), "altered"),
    "entry no json": (_column("task", "entry", "{"), "altered"),
    "served from nowhere": (_column("task", "cached_from", "b" * 32), "altered"),
    "digest": (_column("artifact", "digest", "../../../etc/passwd"), "altered"),
    "a list for a text": (_column("task", "name", ["x"] * 70_000), "altered"),
}


def test_what_was_altered_is_refused_whole_and_stores_nothing(other: Store, file: Path) -> None:
    before = everything(other)
    for what, (change, words) in HOSTILE.items():
        with pytest.raises(errors.BundleError, match=words) as caught:
            unbundle.take_in(other, bundle_reading.read(rewritten(file, change), trust_pickle=True))
        assert caught.value.exit_code == 4 and "nothing was stored" in caught.value.cause, what
        assert everything(other) == before, what


def test_a_value_of_a_wrong_type_in_any_table_stores_nothing(other: Store, file: Path) -> None:
    """What the checks let through, the schema refuses: the whole transaction goes."""
    before = everything(other)
    for table in (one for one in bundle_rows.TABLES if one not in ("environment", "monitor", "placeholder")):
        for value in ({"a": 1}, 1 << 70):
            done: list[str] = []

            def spoil(found: str, row: dict[str, Any], table: str = table, value: Any = value, done: list[str] = done) -> None:
                if found == table and not done:
                    done.append(next(one for one in row if one not in ("digest", "uid", "task_id", "child_id", "model_id")))
                    row[done[0]] = value

            changed = rewritten(file, edited_rows(spoil))
            with pytest.raises(errors.BundleError) as caught:
                unbundle.take_in(other, bundle_reading.read(changed, trust_pickle=True))
            assert caught.value.exit_code == 4 and done
            after = everything(other)
            assert {**after, "blob": [], "": []} == {**before, "blob": [], "": []}, (table, value)
    collect.sweep(other)  # bytes that came before the rows are litter
    assert sane(other.path, after_gc=True) == []


def test_a_cut_file_is_refused(file: Path) -> None:
    data = file.read_bytes()
    for length in (0, 10, 1000, -1, -30):
        file.write_bytes(data[:length])
        with pytest.raises(errors.BundleError):
            bundle_reading.read(file, trust_pickle=True)


def test_any_flipped_byte_is_refused_or_changes_nothing_that_counts(store: Store, run: int, file: Path) -> None:
    data = file.read_bytes()
    wanted = bundle_reading.read(file, trust_pickle=True)
    for place in range(0, len(data), max(1, len(data) // 150)):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            found = bundle_reading.read(file, trust_pickle=True)
        except errors.BundleError:
            continue
        assert (found.rows, found.manifest) == (wanted.rows, wanted.manifest)


def test_an_altered_list_of_contents_is_refused(file: Path) -> None:
    def lie(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest["pickles"] = 7

    with pytest.raises(errors.BundleError, match="list of contents"):
        bundle_reading.read(rewritten(file, lie, reseal=False), trust_pickle=True)


def test_a_member_twice_and_a_bomb_are_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("rows.jsonl", b"")
    with pytest.raises(errors.BundleError, match="not those that it lists"):
        bundle_reading.read(file, trust_pickle=True)

    bomb = file.with_name("bomb.zip")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(bundle.MANIFEST, b" " * (65 << 20))
    with pytest.raises(errors.BundleError, match="larger than any real one"):
        bundle_reading.read(bomb, trust_pickle=True)


@pytest.mark.parametrize(("data", "words"), [(b"no zip", "no bundle"), (b"", "no bundle")])
def test_other_files_are_refused_by_name(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(errors.BundleError, match=r"cannot import .*x\.zip") as caught:
        bundle_reading.read(tmp_path / "x.zip")
    assert words in caught.value.cause
    with zipfile.ZipFile(tmp_path / "y.zip", "w") as archive:
        archive.writestr("README", "hello")
    with pytest.raises(errors.BundleError) as caught:
        bundle_reading.read(tmp_path / "y.zip")
    assert "no minipipe bundle" in caught.value.cause
    with pytest.raises(errors.NotFound):
        bundle_reading.read(tmp_path / "none.zip")
    with pytest.raises(errors.BundleError):
        bundle_reading.read(tmp_path)


class Canary:
    """Unpickling it leaves a mark."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["CANARY"],)


@pytest.mark.parametrize("codec_name", ["pickle", "structure", "from-the-future"])
def test_pickles_need_trust_and_importing_them_runs_nothing(
    store: Store, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec_name: str
) -> None:
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    worker = making.agent(store)
    run = making.run(store)
    attempts.start_here(store, run.id, worker.id)
    making.step(store, parent_id=run.id)
    making.work(store, worker, value=Canary())
    edits.move(store, run.id, "completed")
    with store.database.write() as connection:
        connection.execute("UPDATE artifact SET codec = ?", (codec_name,))
    done = bundle.export(store, [run.id], tmp_path / "run.zip", False)
    assert done.pickles == 1
    before = everything(other)
    with pytest.raises(errors.BundleError, match="1 pickled value") as caught:
        bundle_reading.read(done.path)
    assert caught.value.exit_code == 4 and "--trust-pickle" in caught.value.hint and "step/out" in caught.value.cause
    assert everything(other) == before
    unbundle.take_in(other, bundle_reading.read(done.path, trust_pickle=True))
    assert not (tmp_path / "canary").exists()


def test_a_file_that_hides_its_pickles_in_a_lie_is_refused_too(store: Store, other: Store, tmp_path: Path) -> None:
    """The rows decide, not what the manifest says."""
    worker = making.agent(store)
    run = making.run(store)
    attempts.start_here(store, run.id, worker.id)
    making.step(store, parent_id=run.id)
    making.work(store, worker, value={1, 2})
    edits.move(store, run.id, "completed")
    path = bundle.export(store, [run.id], tmp_path / "run.zip", False).path

    def lie(members: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest["pickles"] = 0

    with pytest.raises(errors.BundleError, match="pickled"):
        bundle_reading.read(rewritten(path, lie))


def test_every_codec_is_known_to_be_harmless_or_counts_as_a_pickle() -> None:
    assert set(codec._READERS) - bundle.HARMLESS == {"pickle"}
    assert not bundle.is_harmless("structure") and not bundle.is_harmless("")


def test_no_room_is_said_before_anything_is_stored(other: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(other)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(errors.DiskFull, match="no space left"):
        unbundle.take_in(other, bundle_reading.read(file, trust_pickle=True))
    assert everything(other) == before


def test_a_file_that_changes_while_it_is_read_stores_no_rows(store: Store, other: Store, file: Path) -> None:
    found = bundle_reading.read(file, trust_pickle=True)
    name = next(name for name in found.manifest["members"] if name.startswith("blobs/"))
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as archive:
        members = {one: archive.read(one) for one in archive.namelist()}
    members[name] = b"z" * len(members[name])
    with zipfile.ZipFile(file, "w") as archive:
        for one, data in members.items():
            archive.writestr(one, data)
    with pytest.raises(errors.BundleError, match="changed while it was read"):
        unbundle.take_in(other, found)
    assert len(other.database.rows("SELECT 1 FROM task")) == 1
    collect.sweep(other)
    assert sane(other.path, after_gc=True) == []
