"""Files of a store that are cut, flipped, deleted or in the wrong place: words, never wrong bytes, never a traceback."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from minipipe import errors
from minipipe.cli import root
from minipipe.engine import tree
from minipipe.store import attempts, blobs, edits, home
from minipipe.store.home import Store
from tests.engine.real import ROOT, Shop
from tests.faults.machine import command
from tests.faults.sane import sane
from tests.store import making

BIG = b"v" * 20_000


def filled(store: Store) -> None:
    """Some runs with results of both kinds, logs and metrics."""
    worker = making.agent(store)
    for number in range(8):
        run = making.run(store)
        attempts.start_here(store, run.id, worker.id)
        for name in ("a", "b"):
            making.step(store, name, parent_id=run.id)
            making.work(store, worker, value=BIG if name == "a" else {"n": number})
        edits.move(store, run.id, "completed")
    worker.lock.release()
    store.close()


# -- the database -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [12, pytest.param(120, marks=pytest.mark.faults)])
def test_flipped_bytes_anywhere_in_the_database_give_words_and_never_a_wrong_value(
    tmp_path: Path, copy_store: Callable[[Path], Store], capfd: pytest.CaptureFixture[str], rounds: int
) -> None:
    store = copy_store(tmp_path / "store")
    filled(store)
    size = store.database.path.stat().st_size
    chance = random.Random(7)
    refused = 0
    for round_number in range(rounds):
        folder = tmp_path / "flipped"
        shutil.copytree(store.path, folder)
        with open(folder / home.DATABASE, "r+b") as file:
            place = chance.randrange(100, size - 8)
            file.seek(place)
            old = file.read(8)
            file.seek(place)
            file.write(bytes(byte ^ 0x55 for byte in old))
        for verb in (
            ["status", "--all"],
            ["show", "@last"],
            ["logs", "@last"],
            ["get", "@last/a/out", "-o", str(tmp_path / "out"), "--force"],
        ):
            result = CliRunner().invoke(root, ["--home", str(folder), *verb])
            told = result.stderr
            assert result.exit_code in (0, 1, 2, 3, 4), (round_number, place, verb, told)
            assert "Traceback" not in told and "this is a bug" not in told, (round_number, place, verb, told)
            refused += result.exit_code == 4
        if (tmp_path / "out").exists():
            assert (tmp_path / "out").read_bytes() == BIG
            (tmp_path / "out").unlink()
        shutil.rmtree(folder)
    assert refused > 0
    capfd.readouterr()


@pytest.mark.faults
def test_a_log_that_was_deleted_at_rest_leaves_an_older_state_that_is_consistent(
    tmp_path: Path, copy_store: Callable[[Path], Store]
) -> None:
    store = copy_store(tmp_path / "store")
    first = making.step(store, "kept")
    store.database.checkpoint(now=True)
    making.step(store, "lost")
    shutil.copytree(store.path, tmp_path / "killed")  # as a kill leaves it: the log was not moved into the database
    store.close()
    killed = Store(tmp_path / "killed", "full")
    assert os.stat(f"{killed.database.path}-wal").st_size
    for end in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{killed.database.path}{end}")
    assert [row["id"] for row in killed.database.rows("SELECT id FROM task")] == [first]
    killed.close()
    assert sane(tmp_path / "killed") == []


@pytest.mark.parametrize(
    "ends",
    [("-wal", "-shm"), pytest.param(("-wal",), marks=pytest.mark.faults), pytest.param(("-shm",), marks=pytest.mark.faults)],
)
def test_files_deleted_beside_a_living_worker_end_it_and_nothing_is_written_twice(shop: Shop, ends: tuple[str, ...]) -> None:
    """P: whoever opens the store next begins another log; the worker must not write on into the old one."""
    step = shop.step("ignore_term_until", file="never")
    serving = shop.worker()
    shop.wait(lambda: shop.store.log_path(step.uid, 1).exists(), 20)
    child = next(pid for pid in tree.members([shop.row(step)["token"]]))
    shop.store.close()
    for end in ends:
        os.unlink(f"{shop.store.database.path}{end}")
    assert serving.process.wait(20) == 4
    assert "was moved or deleted" in serving.said()
    shop.wait(lambda: not Path(f"/proc/{child}").exists())
    assert sane(shop.store.path, only=["I1", "I2", "I4", "I7"]) == []


# -- blobs --------------------------------------------------------------------------------------------------------------


def _flip(path: Path) -> None:
    path.write_bytes(b"X" + path.read_bytes()[1:])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": _flip,
    "cut": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_output_is_a_miss_with_a_warning_and_is_healed_by_the_step_that_runs_again(store: Store, damage: str) -> None:
    worker = making.agent(store)
    same = {"key_base": "k", "use_cache": True}
    first = making.step(store, **same)
    making.work(store, worker, value=BIG)
    digest = store.database.rows("SELECT digest FROM artifact WHERE task_id = ?", (first,))[0][0]
    path = blobs.path_of(store, digest)
    path.chmod(0o600)
    DAMAGES[damage](path)
    second = making.step(store, **same)
    assert making.status(store, second) == "queued"
    assert making.warnings(store, first) == ["an output is missing or damaged: no longer served from the cache"]
    if damage == "a folder":
        path.rmdir()
    making.work(store, worker, value=BIG)
    assert making.value(store, first) == making.value(store, second) == BIG
    assert making.status(store, making.step(store, **same)) == "completed"
    assert sane(store.path) == []


def test_damage_that_keeps_size_and_time_is_caught_at_the_first_read_and_then_is_a_miss(store: Store) -> None:
    worker = making.agent(store)
    same = {"key_base": "k", "use_cache": True}
    first = making.step(store, **same)
    making.work(store, worker, value=BIG)
    path = blobs.path_of(store, store.database.rows("SELECT digest FROM artifact WHERE task_id = ?", (first,))[0][0])
    info = path.stat()
    path.chmod(0o600)
    _flip(path)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    served = making.step(store, **same)
    assert making.status(store, served) == "completed"
    with pytest.raises(errors.ArtifactError, match="damaged"):
        making.value(store, served)
    again = making.step(store, **same)
    assert making.status(store, again) == "queued"
    making.work(store, worker, value=BIG)
    path.chmod(0o444)
    assert making.value(store, first) == making.value(store, served) == BIG
    assert sane(store.path) == []


# -- which store --------------------------------------------------------------------------------------------------------


def test_flag_then_variable_then_the_nearest_folder_upward_and_ids_of_one_are_unknown_in_the_other(
    tmp_path: Path, copy_store: Callable[[Path], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = {name: copy_store(tmp_path / name / ".minipipe") for name in ("flag", "variable", "here")}
    runs = {name: making.run(store).uid for name, store in stores.items()}
    for store in stores.values():
        store.close()
    below = tmp_path / "here" / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    def seen(*arguments: str) -> list[str]:
        result = CliRunner().invoke(root, [*arguments, "status", "-q"])
        assert result.exit_code == 0, result.output
        return result.stdout.split()

    assert seen() == [runs["here"]]
    monkeypatch.setenv("MINIPIPE_HOME", str(stores["variable"].path))
    assert seen() == [runs["variable"]]
    assert seen("--home", str(stores["flag"].path)) == [runs["flag"]]
    found = CliRunner().invoke(root, ["show", runs["here"]])
    assert (found.exit_code, "no run matches" in found.stderr) == (3, True)


# -- readers ------------------------------------------------------------------------------------------------------------


@pytest.mark.faults
def test_a_reader_that_is_blocked_in_its_output_keeps_no_checkpoint_waiting(
    tmp_path: Path, copy_store: Callable[[Path], Store], wait_for: Callable[..., None]
) -> None:
    store = copy_store(tmp_path / "store")
    for number in range(400):
        making.step(store, f"step {number} " + "x" * 400)
    assert store.database.checkpoint(empty=True)
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "minipipe", "--home", str(store.path), "status", "--all", "-n", "1000", "--format", "jsonl"],
        stdout=writer,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(writer)
    try:
        wait_for(lambda: "pipe_w" in Path(f"/proc/{process.pid}/wchan").read_text(), 30)
        for number in range(900):
            making.step(store, f"more {number} " + "y" * 4_000)
            store.database.checkpoint()
        assert os.stat(f"{store.database.path}-wal").st_size < 8 << 20
        assert process.poll() is None
    finally:
        os.close(reader)
        process.wait(20)
    assert sane(store.path) == []


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "folder"])
def test_a_database_that_is_none_is_named_by_every_verb_and_stays_as_it_is(
    tmp_path: Path, copy_store: Callable[[Path], Store], damage: str
) -> None:
    store = copy_store(tmp_path / "store")
    filled(store)
    path = store.database.path
    if damage == "cut":
        os.truncate(path, 3_000)
    elif damage == "garbage":
        path.write_bytes(b"garbage " * 5_000)
    elif damage == "empty":
        os.truncate(path, 0)
    else:
        path.unlink()
        path.mkdir()
    before = path.read_bytes() if path.is_file() else None
    for verb in (("status",), ("gc",), ("worker", "--until-idle"), ("import", "none.zip"), ("export", "@last")):
        found = command(store.path, *verb)
        if verb[0] == "import":
            assert found.returncode == 3
            continue
        text = found.stderr.decode()
        assert found.returncode == 4, (verb, text)
        assert "damaged" in text and "minipipe doctor" in text and "Traceback" not in text
    assert (path.read_bytes() if path.is_file() else None) == before
    bad = json.loads(command(store.path, "doctor", "--json").stdout)["checks"]
    assert any(one["state"] == "bad" for one in bad)
