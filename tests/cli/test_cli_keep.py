"""``gc`` and ``du``: the plan first, then the deed; what takes how much room."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minipipe import Task
from minipipe.cli import meter, output, root
from minipipe.store import edits, workers
from minipipe.store.home import BALLAST_BYTES
from tests.cli.conftest import Filled
from tests.faults.sane import sane

Invoke = Callable[..., Result]


def ended(filled: Filled, number: int) -> str:
    run = filled.run()
    step = filled.step(run, "train")
    filled.finish(filled.claim(), model=bytes([number]) * 30_000)
    filled.log(step, b"hello\n")
    filled.end(run)
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET ended_at = ended_at - 60 WHERE id = ?", (run.id,))
    return run.uid


@pytest.fixture
def runs(filled: Filled) -> list[str]:
    return [ended(filled, number) for number in range(3)]


def test_without_a_rule_only_litter_goes_and_nobody_is_asked(filled: Filled, runs: list[str], cli: Invoke) -> None:
    (filled.store.folder("tmp") / f"{'ab' * 16}.0").write_bytes(b"x" * 500)
    seen = cli("gc", "--dry-run")
    assert (seen.exit_code, seen.stdout) == (0, "litter: 1 temporary file, 500 B\n")
    done = cli("gc")
    assert done.exit_code == 0
    assert re.fullmatch(r"collected 1 temporary file(, \d+\.\d kB of the database)?; freed \S+ k?B\n", done.stdout)
    assert cli("gc").stdout == "nothing to collect\n"
    assert len(json.loads(cli("status", "--json").stdout)["runs"]) == 3


def test_off_a_terminal_a_rule_without_yes_only_reports(filled: Filled, runs: list[str], cli: Invoke) -> None:
    result = cli("gc", "--keep-runs", "1")
    assert result.exit_code == 0
    head, litter = result.stdout.splitlines()
    assert re.fullmatch(r"2 runs \(oldest \d{4}-\d\d-\d\d\), 2 logs, 60\.0 kB of blobs go; 1 run stays", head)
    assert litter == "litter: none"
    assert result.stderr == "nothing was deleted: minipipe gc --yes deletes\n"
    assert cli("gc", "--keep-runs", "1", "-q").stdout.split() == runs[1::-1]
    assert len(json.loads(cli("status", "--json").stdout)["runs"]) == 3


def test_with_yes_they_go_and_the_store_is_sane(filled: Filled, runs: list[str], cli: Invoke) -> None:
    result = cli("gc", "--keep-runs", "1", "--yes", "--json")
    found = json.loads(result.stdout)
    assert (found["runs"], found["kept"], found["deleted"], found["logs"], found["blob_bytes"]) == (
        runs[1::-1],
        1,
        True,
        2,
        60_000,
    )
    assert found["freed"]["blobs"] == 2 and found["freed_bytes"] > 60_000
    assert [one["id"] for one in json.loads(cli("status", "--json").stdout)["runs"]] == runs[2:]
    assert sane(filled.store.path, after_gc=True) == []
    assert (filled.store.path / "ballast").stat().st_size == BALLAST_BYTES


def test_on_a_terminal_it_asks_and_no_deletes_nothing(
    filled: Filled, runs: list[str], cli: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    no = CliRunner().invoke(root, ["gc", "--keep-runs", "0"], input="n\n")
    assert "3 runs (oldest" in no.stderr and "0 runs stay. Delete? [y/N]" in no.stderr
    assert len(json.loads(cli("status", "--json").stdout)["runs"]) == 3
    yes = CliRunner().invoke(root, ["gc", "--keep-runs", "0"], input="y\n")
    assert "collected 3 runs, 3 blobs, 3 logs" in yes.stdout
    assert json.loads(cli("status", "--json").stdout)["runs"] == []


def test_what_stays_although_the_rule_names_it_is_said(filled: Filled, runs: list[str], cli: Invoke) -> None:
    task = filled.store.database.rows("SELECT id FROM task WHERE uid = ?", (runs[0],))[0]["id"]
    edits.move(filled.store, task, "published")
    assert "2 runs" in (text := cli("gc", "--keep-runs", "0").stdout)
    assert "1 run, 1 of them published stays" in text


def test_the_rule_may_come_from_settings_and_a_bad_one_is_exit_2(
    filled: Filled, runs: list[str], cli: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIPIPE_KEEP_RUNS", "1")
    assert len(cli("gc", "-q").stdout.split()) == 2
    monkeypatch.setenv("MINIPIPE_OLDER_THAN", "1d")
    assert cli("gc", "-q").stdout == ""
    assert cli("gc", "--keep-runs", "1", "--older-than", "0s", "-q").stdout.split() == runs[1::-1]
    bad = cli("gc", "--older-than", "soon")
    assert bad.exit_code == 2 and "--older-than 30d" in bad.stderr
    assert cli("gc", "--keep-runs", "-1").exit_code == 2


def test_the_tasks_of_the_dead_go_back_before_their_locks_go(filled: Filled, cli: Invoke) -> None:
    step = filled.step(filled.run(), "train")
    dead = workers.register(filled.store, workers.AGENT, slots=1, queues=("default",))
    filled.claim(worker=dead)
    dead.lock.release()
    assert cli("gc").exit_code == 0
    assert filled.row(step)["status"] == "queued"
    assert not dead.lock.path.exists()


def test_what_takes_long_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    with meter.Meter("collecting") as quick:
        quick.tell("blobs", 1)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(meter, "AFTER_S", 0.0)
    with meter.Meter("collecting") as long:
        long.tell("blobs", 100)
        long.tell("blobs", 200)  # at most four times a second
    assert capfd.readouterr().err == "\r\x1b[Kcollecting: 100 blobs\r\x1b[K"


def test_without_a_store_they_say_so_and_make_none(surroundings: Path, cli: Invoke) -> None:
    for arguments in (["gc"], ["du"], ["du", "--runs"]):
        result = cli(*arguments)
        assert (result.exit_code, result.stdout) == (0, "")
        assert "no store here yet" in result.stderr
    assert list(surroundings.iterdir()) == []


def test_du_tells_kinds_apart_and_its_total_is_their_sum(filled: Filled, runs: list[str], cli: Invoke) -> None:
    found = {one["kind"]: one for one in json.loads(cli("du", "--json").stdout)}
    assert found["blobs"]["files"] == 3 and found["blobs"]["bytes"] >= 90_000
    assert found["logs"]["files"] == 3 and found["database"]["files"] == 3
    assert found["total"]["bytes"] == sum(one["bytes"] for kind, one in found.items() if kind != "total")
    table = cli("du").stdout.splitlines()
    assert table[0].split() == ["KIND", "FILES", "SIZE", "HOLDS"] and table[-1].startswith("total")


def test_du_by_run_tells_shared_bytes_from_own_ones(filled: Filled, runs: list[str], cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "train")
    filled.finish(filled.claim(), model=bytes([0]) * 30_000)  # the bytes of the first run again
    found = json.loads(cli("du", "--runs", "--json").stdout)
    assert [one["id"] for one in found] == [run.uid, *reversed(runs)]
    assert [(one["blob_bytes"], one["own_bytes"]) for one in found] == [
        (30_000, 0),
        (30_000, 30_000),
        (30_000, 30_000),
        (30_000, 0),
    ]
    assert found[0]["status"] == "in_progress" and found[1]["log_bytes"] > 0


# -- export, import -----------------------------------------------------------------------------------------------------


def test_a_run_travels_to_another_store_by_two_commands(filled: Filled, runs: list[str], cli: Invoke, tmp_path: Path) -> None:
    name = filled.store.database.rows("SELECT run_name FROM task WHERE uid = ?", (runs[0],))[0][0]
    done = cli("export", name)
    path = f"minipipe-{name}-{runs[0][:8]}.zip"
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{path}\n", "")
    assert cli("export", name).exit_code == 2
    assert cli("export", name, "--force", "-q").stdout == f"{path}\n"
    there = str(tmp_path / "there")
    arrived = cli("--home", there, "import", path)
    assert (arrived.exit_code, arrived.stdout) == (0, f"{runs[0][:8]} {name}, imported\n")
    assert cli("--home", there, "import", path).stdout == f"{runs[0][:8]} {name}, already here, nothing changed\n"
    assert json.loads(cli("--home", there, "import", path, "--json").stdout) == {
        "runs": [{"id": runs[0], "name": name, "new": False}]
    }
    assert cli("--home", there, "logs", f"{name}/train").stdout == "hello\n"
    assert cli("--home", there, "get", f"{name}/train/model", "-o", "model.bin").exit_code == 0
    assert Path("model.bin").read_bytes() == bytes([0]) * 30_000


def test_a_task_that_a_script_began_itself_travels_too(filled: Filled, cli: Invoke, tmp_path: Path) -> None:
    task = Task.create("p", "my train/1")
    task.set_parameter("General/rate", 0.1)
    task.upload_artifact("scores", {"f1": 0.5})
    task.mark_started()
    task.mark_completed()

    exported = cli("export", task.id[:8])
    assert (exported.exit_code, exported.stdout) == (0, f"minipipe-my-train-1-{task.id[:8]}.zip\n"), exported.stderr
    there = str(tmp_path / "there")
    arrived = cli("--home", there, "import", exported.stdout.strip())
    assert arrived.stdout == f"{task.id[:8]} my train/1, imported\n", arrived.stderr
    assert "rate=0.1" in cli("--home", there, "status").stdout
    assert json.loads(cli("--home", there, "get", f"{task.id[:8]}/scores", "-o", "-").stdout) == {"f1": 0.5}


def test_several_runs_go_into_one_file(filled: Filled, runs: list[str], cli: Invoke) -> None:
    found = json.loads(cli("export", runs[2], runs[0], "-o", "two.zip", "--json").stdout)
    assert (found["path"], found["runs"], found["along"], found["pickles"]) == ("two.zip", [runs[2], runs[0]], [], 0)


def test_a_file_that_is_refused_makes_no_store_and_is_exit_4(
    filled: Filled, runs: list[str], cli: Invoke, tmp_path: Path
) -> None:
    run = filled.run()
    filled.step(run, "train")
    filled.finish(filled.claim(), model={1, 2})
    filled.end(run)
    exported = cli("export", run.uid, "-o", "pickled.zip")
    assert "note: 1 pickled value" in exported.stderr.replace("values", "value")
    there = tmp_path / "there"
    for path, words in (("pickled.zip", "minipipe import pickled.zip --trust-pickle"), ("model.bin", "export it again")):
        Path("model.bin").write_bytes(b"no zip")
        refused = cli("--home", str(there), "import", path)
        assert (refused.exit_code, refused.stdout) == (4, "") and words in refused.stderr
    assert cli("--home", str(there), "import", "none.zip").exit_code == 3
    assert not there.exists()
    assert cli("--home", str(there), "import", "pickled.zip", "--trust-pickle").exit_code == 0


def test_a_folder_that_is_not_there_is_exit_3_and_named(filled: Filled, runs: list[str], cli: Invoke) -> None:
    for arguments in (("export", "@last", "-o", "nowhere/x.zip"), ("doctor", "--bundle", "nowhere/x.zip")):
        result = cli(*arguments)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "cannot write nowhere/x.zip" in result.stderr and "there is no folder nowhere" in result.stderr
