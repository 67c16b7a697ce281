"""``doctor`` finds and names each kind of damage, repairs the safe part, and copies a store that works on."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from minipipe.store import cache, home, locks, workers
from minipipe.store.home import Store
from tests.cli.conftest import Filled
from tests.faults.sane import sane

Invoke = Callable[..., Result]


@pytest.fixture
def step(filled: Filled) -> str:
    """A completed step with a large and a small output; the store is whole."""
    home.restore_ballast(filled.store.path)
    run = filled.run()
    filled.step(run, "train", key_base="k")
    filled.finish(filled.claim(), model=b"m" * 30_000, small=[1, 2])
    filled.end(run)
    return f"{run.uid[:8]}/train"


def findings(result: Result) -> list[tuple[str, str, str]]:
    return [(one["state"], one["name"], one["text"]) for one in json.loads(result.stdout)["checks"]]


def bad(cli: Invoke, *arguments: str) -> list[str]:
    """The bad lines; there must be some exactly if the exit code is 4."""
    result = cli("doctor", "--json", *arguments)
    found = [f"{name}: {text}" for state, name, text in findings(result) if state == "bad"]
    assert result.exit_code == (4 if found else 0), result.output
    return found


def large(filled: Filled) -> Path:
    (path,) = (filled.store.path / "blobs").glob("*/*")
    path.chmod(0o644)
    return path


def test_a_whole_store_has_nothing_bad_in_any_depth(filled: Filled, step: str, cli: Invoke) -> None:
    assert bad(cli) == bad(cli, "--deep") == []
    assert {name for state, name, _ in findings(cli("doctor", "--json")) if state == "warn"} <= {"sqlite"}


@pytest.mark.parametrize(
    ("damage", "words", "deep"),
    [
        (lambda path: path.unlink(), "is missing", False),
        (lambda path: os.truncate(path, 100), "has 100 bytes, 30000 were stored", False),
        (lambda path: os.truncate(path, 0), "has 0 bytes, 30000 were stored", False),
        (lambda path: (path.unlink(), path.mkdir()), "is no regular file", False),
        (lambda path: (path.unlink(), path.symlink_to("/etc/passwd")), "is no regular file", False),
        (lambda path: path.write_bytes(b"n" + b"m" * 29_999), "its bytes have digest", True),
    ],
)
def test_a_damaged_blob_is_named_with_the_artifact_it_serves_and_what_to_do(
    filled: Filled, step: str, cli: Invoke, damage: Callable[[Path], object], words: str, deep: bool
) -> None:
    damage(large(filled))
    found = [one for one in bad(cli, "--deep") if one.startswith("blob")]
    run, name = step.split("/")
    assert len(found) == 1
    assert words in found[0] and f"used by {step}/model" in found[0] and f"minipipe resume {run} --from {name}" in found[0]
    assert any(one.startswith("blob") for one in bad(cli)) is not deep


def test_a_flipped_value_inside_the_database_is_found_by_deep(filled: Filled, step: str, cli: Invoke) -> None:
    with filled.store.database.write() as connection:
        connection.execute("UPDATE blob SET bytes = CAST('[1,3]' AS BLOB) WHERE bytes IS NOT NULL AND size = 5")
    (found,) = bad(cli, "--deep")
    assert f"used by {step}/small" in found


def test_modes_owners_and_missing_folders_are_named_and_the_safe_part_is_repaired(filled: Filled, step: str, cli: Invoke) -> None:
    large(filled)
    (filled.store.path / "minipipe.db-wal").chmod(0o664)
    filled.store.folder("tmp").rmdir()
    filled.store.folder("logs").chmod(0o755)
    (filled.store.path / "ballast").unlink()
    found = bad(cli)
    assert any("folder tmp is missing" in one for one in found)
    assert any("minipipe.db-wal can be written, mode 0664" in one for one in found)
    text = cli("doctor").stdout
    assert "can be written, mode 0644" in text and "logs can be read by others, mode 0755" in text and "reserve" in text
    repaired = cli("doctor", "--repair")
    assert repaired.exit_code == 0, repaired.output
    for words in ("made folder tmp", "set 3 modes", "took room for the reserve (4 MB)"):
        assert f"ok    repair    {words}" in repaired.stdout
    assert sane(filled.store.path) == []
    assert "nothing to repair" in cli("doctor", "--repair").stdout


def test_what_belongs_to_somebody_else_is_bad_and_stays(filled: Filled, step: str, cli: Invoke) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    path = large(filled)
    path.chmod(0o444)
    os.chown(path, 12345, -1)
    (found,) = bad(cli, "--repair")
    assert "belongs to uid 12345" in found and "do not load from it" in found
    assert path.stat().st_uid == 12345


def test_counts_that_do_not_fit_are_bad_and_counted_anew(filled: Filled, step: str, cli: Invoke) -> None:
    with filled.store.database.write() as connection:
        connection.execute("UPDATE blob SET refs = refs + 1 WHERE size = 5")
        connection.execute("UPDATE tally SET n = n + 4 WHERE scope = 0")
        connection.execute("DELETE FROM tally WHERE scope <> 0")
    found = bad(cli)
    assert any("1 blobs count their references wrongly" in one for one in found)
    assert any("counts of tasks by status are wrong" in one for one in found)
    assert cli("doctor", "--repair").exit_code == 0
    assert sane(filled.store.path) == []


def test_repair_makes_the_cache_forget_what_is_damaged(filled: Filled, step: str, cli: Invoke) -> None:
    with filled.store.database.write() as connection:
        assert connection.execute("SELECT count(*) FROM cache").fetchone()[0] == 1
    path = large(filled)
    info = path.stat()
    path.write_bytes(b"n" * 30_000)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))  # a lookup would not see it
    path.chmod(0o444)
    result = cli("doctor", "--deep", "--repair")
    assert result.exit_code == 4
    assert "forgot 1 cache entry that led to damaged bytes" in result.stdout
    assert filled.store.database.rows("SELECT * FROM cache") == []


def test_tasks_and_locks_of_the_dead_are_told_and_given_back(filled: Filled, cli: Invoke) -> None:
    task = filled.step(filled.run(), "train")
    dead = workers.register(filled.store, workers.AGENT, slots=1, queues=("default",))
    filled.claim(worker=dead)
    dead.lock.release()
    stranger = locks.hold(filled.store.folder("workers") / f"{'ab' * 16}.lock")
    assert stranger is not None
    text = cli("doctor").stdout
    assert "1 task belongs to dead workers" in text
    assert f"workers/{'ab' * 16}.lock is held by a process that no row knows" in text
    assert "gave 1 task of dead workers back" in cli("doctor", "--repair").stdout
    assert filled.row(task)["status"] == "queued"
    stranger.release()
    assert "1 lock files" in cli("doctor").stdout


def _newer(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path / home.DATABASE)) as connection:
        connection.execute("PRAGMA user_version = 99")


def _foreign(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path / home.DATABASE)) as connection:
        connection.execute("PRAGMA application_id = 7")


def _garbage(path: Path) -> None:
    (path / home.DATABASE).write_bytes(b"no database " * 1000)


def _empty(path: Path) -> None:
    (path / home.DATABASE).write_bytes(b"")


def _folder(path: Path) -> None:
    (path / home.DATABASE).unlink()
    (path / home.DATABASE).mkdir()


def _cut(path: Path) -> None:
    os.truncate(path / home.DATABASE, 10_000)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_newer, "store has schema 99"),
        (_foreign, "is not a minipipe store"),
        (_garbage, "is damaged"),
        (_empty, "the database file is empty"),
        (_folder, "it is a directory"),
        (_cut, "malformed"),
    ],
)
def test_a_database_that_cannot_be_used_is_bad_named_and_left_byte_for_byte(
    tmp_path: Path, cli: Invoke, copy_store: Callable[[Path], Store], damage: Callable[[Path], None], words: str
) -> None:
    copy_store(tmp_path / ".minipipe").close()
    (tmp_path / ".minipipe" / "ballast").unlink()
    damage(tmp_path / ".minipipe")
    path = tmp_path / ".minipipe" / home.DATABASE
    before = path.read_bytes() if path.is_file() else b""
    assert any(words in one for one in bad(cli))
    if words != "malformed":
        assert cli("status").exit_code == 4
    assert (path.read_bytes() if path.is_file() else b"") == before
    assert any(words in one for one in bad(cli, "--repair"))
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_file_in_the_place_of_the_store_is_bad(tmp_path: Path, cli: Invoke) -> None:
    (tmp_path / ".minipipe").write_text("")
    assert "is not a folder" in bad(cli, "--home", str(tmp_path / ".minipipe"))[0]
    assert "is not a folder" in cli("status", "--home", str(tmp_path / ".minipipe")).stderr


def test_a_store_that_cannot_be_made_is_said_to_be_that(cli: Invoke) -> None:
    result = cli("worker", "--home", "/proc/nothing", "--until-idle")
    assert (result.exit_code, "error: cannot make /proc/nothing\n" in result.stderr) == (4, True), result.stderr


def test_which_clearml_is_meant_is_said(filled: Filled, cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    from minipipe import clearml

    monkeypatch.setattr(clearml, "hidden", lambda: None)
    assert "clearml   minipipe run: import clearml means minipipe; python SCRIPT: there is none" in cli("doctor").stdout
    monkeypatch.setattr(clearml, "hidden", lambda: "/usr/lib/clearml")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.1.12")
    assert "import clearml means minipipe; python SCRIPT: clearml 2.1.12" in cli("doctor").stdout
    monkeypatch.setenv("MINIPIPE_CLEARML_ALIAS", "false")
    assert "clearml_alias is off: scripts get clearml 2.1.12" in cli("doctor").stdout


def test_a_bundle_names_nobody_and_no_folder(filled: Filled, step: str, cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "sesame")
    large(filled).unlink()
    assert cli("doctor", "--deep", "--bundle", "bug.zip").exit_code == 4
    with zipfile.ZipFile("bug.zip") as archive:
        data = b"".join(archive.read(name) for name in archive.namelist())
    for word in (b"sesame", b"train", str(filled.store.path.parent).encode()):
        assert word not in data
    assert b"bad blob" in data and b"is missing" in data


def test_a_backup_is_a_store_of_its_own_and_never_overwrites(filled: Filled, step: str, cli: Invoke, tmp_path: Path) -> None:
    run = filled.run()
    filled.step(run, "running")
    filled.claim()
    target = tmp_path / "copy"
    done = cli("doctor", "--backup", "copy")
    assert (done.exit_code, done.stdout) == (0, "copy\n")
    assert sane(target, only=["I1", "I2", "I4", "I6", "I7", "I8"]) == []
    assert cli("--home", str(target), "get", f"{step}/model", "-o", "model.bin").exit_code == 0
    assert Path("model.bin").read_bytes() == b"m" * 30_000
    copy = Store.open(target)
    workers.reap(copy, 3)  # nobody works there: what ran here waits there
    (row,) = copy.database.rows("SELECT status, token FROM task WHERE name = 'running'")
    assert tuple(row) == ("queued", None) and copy.store_id != filled.store.store_id
    assert filled.store.database.rows("SELECT status FROM task WHERE name = 'running'")[0][0] == "in_progress"
    with copy.database.write() as connection:
        assert cache.lookup(copy, connection, connection.execute("SELECT key FROM cache").fetchone()[0], 0) is not None
    copy.close()
    again = cli("doctor", "--backup", str(target))
    assert again.exit_code == 2 and "exists" in again.stderr


def test_a_backup_of_damaged_bytes_is_refused_and_leaves_nothing(filled: Filled, step: str, cli: Invoke, tmp_path: Path) -> None:
    large(filled).write_bytes(b"n" * 30_000)
    result = cli("doctor", "--backup", str(tmp_path / "copy"))
    assert result.exit_code == 1 and f"{step}/model" in result.stderr
    assert not (tmp_path / "copy").exists()


@pytest.mark.faults
def test_a_backup_under_write_load_has_all_that_was_acknowledged_before_it(filled: Filled, cli: Invoke, tmp_path: Path) -> None:
    """Steps end, outputs are replaced and gc runs while the copy is made."""
    told: dict[str, str] = {}
    stop = threading.Event()
    problems: list[BaseException] = []

    def work() -> None:
        try:
            mine = Filled(Store.open(filled.store.path), filled.worker)
            run = mine.run()
            for number in range(10_000):
                if stop.is_set():
                    break
                step = mine.step(run, f"s{number}")
                mine.finish(mine.claim(), out=os.urandom(20_000), small=number)
                told[step.uid] = "completed"
            mine.store.close()
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(3):
            while len(told) < 20 * (number + 1):
                time.sleep(0.005)
            before = dict(told)
            assert cli("doctor", "--backup", str(tmp_path / f"copy{number}"), "-q").exit_code == 0
            assert cli("gc", "-q").exit_code == 0
            wrong = sane(tmp_path / f"copy{number}", acknowledged=before, only=["I1", "I2", "I4", "I6", "I7", "I8"])
            assert wrong == []
    finally:
        stop.set()
        thread.join()
    assert problems == [] and len(told) >= 60
