"""``worker``, ``abort`` and ``doctor``, with real processes where they matter."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import stat
import subprocess
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from minipipe.store import attempts, waiting, workers
from tests.cli.conftest import PYTHON, Filled

Invoke = Callable[..., Result]
Command = Callable[..., subprocess.CompletedProcess[bytes]]


def importable(module: str, name: str, returns: tuple[str, ...] = ()) -> dict[str, object]:
    return {"kind": "import", "module": module, "qualname": name, "cwd": "/", "roots": [], "returns": list(returns)}


# -- worker -------------------------------------------------------------------------------------------------------------


def test_a_worker_serves_no_queue_without_a_name(cli: Invoke) -> None:
    result = cli("worker", "--queue", "", "--until-idle")

    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "error: the queue name '' cannot be used")


def test_a_worker_says_who_it_is_what_it_starts_and_how_it_ends(filled: Filled, command: Command, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "whoami", entry=importable("os", "getpid", ("pid",)))
    done = command("worker", "--until-idle", "-j", "2", "--name", "tester")
    assert (done.returncode, done.stderr) == (0, b"")
    first, started, ended = done.stdout.decode().splitlines()
    assert re.fullmatch(r"tester \(pid \d+\) serves default, services; 2 slots; store ./.minipipe", first)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {run.uid[:8]}/whoami started, attempt 1", started)
    assert re.fullmatch(rf"\d\d:\d\d:\d\d {run.uid[:8]}/whoami completed \d+\.\ds", ended)
    assert cli("logs", "@last/whoami").stdout == ""


def test_a_worker_makes_the_store_serves_the_named_queues_and_leaves_on_sigterm(tmp_path: Path) -> None:
    process = subprocess.Popen(
        (*PYTHON, "worker", "--queue", "a", "--queue", "b"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert b"serves a, b;" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, b"minipipe: new store .minipipe (MINIPIPE_HOME moves it)\n")
    finally:
        process.kill()
        process.wait()


def test_a_worker_whose_reader_is_gone_works_on(filled: Filled) -> None:
    run = filled.run()
    step = filled.step(run, "whoami", entry=importable("os", "getpid"))
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as stdout:
        done = subprocess.run((*PYTHON, "worker", "--until-idle"), stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert filled.row(step)["status"] == "completed"


def test_a_worker_whose_terminal_closes_leaves_in_order(filled: Filled, wait_for: Callable[..., None]) -> None:
    """Every word to such a terminal is an error; its steps go back uncounted all the same."""
    run = filled.run()
    step = filled.step(run, "sleep", entry=importable("signal", "pause"))
    parent, child = pty.openpty()
    process = subprocess.Popen(
        (*PYTHON, "worker"), stdout=child, stderr=child, stdin=child, env={**os.environ, "MINIPIPE_DRAIN_S": "0.2"}
    )
    os.close(child)
    try:
        wait_for(lambda: filled.row(step)["status"] == "in_progress", 60)
        os.close(parent)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
        row = filled.row(step)
        assert (row["status"], row["crashes"], row["returns"]) == ("queued", 0, 1)
    finally:
        process.kill()
        process.wait()


def test_json_of_a_worker_is_one_document_and_jsonl_is_a_stream(filled: Filled, command: Command) -> None:
    run = filled.run()
    filled.step(run, "one", entry=importable("os", "getpid"))
    assert json.loads(command("worker", "--until-idle", "--json").stdout)["queues"] == ["default", "services"]
    filled.step(run, "two", entry=importable("os", "getpid"))
    lines = command("worker", "--once", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line).get("text", "").split(" ")[0] for line in lines] == ["", *[f"{run.uid[:8]}/two"] * 2]


# -- abort --------------------------------------------------------------------------------------------------------------


def test_waiting_tasks_stop_at_once_one_line_each_and_ended_ones_are_left_alone(filled: Filled, cli: Invoke) -> None:
    run = filled.run(start=False)
    done = filled.step(run, "done")
    filled.finish(filled.claim())
    filled.step(run, "train")
    result = cli("abort", str(run.run_name))
    assert result.exit_code == 0
    assert sorted(result.stdout.splitlines()) == sorted([f"{run.uid[:8]} stopped", f"{run.uid[:8]}/train stopped"])
    assert filled.row(done)["status"] == "completed"
    again = cli("abort", str(run.run_name))
    assert (again.exit_code, again.stdout) == (0, "")
    assert "has ended (stopped): left alone" in again.stderr


def test_a_wrong_name_among_several_changes_nothing(filled: Filled, cli: Invoke) -> None:
    run = filled.run(start=False)
    assert cli("abort", str(run.run_name), "nope-nope").exit_code == 3
    assert filled.row(run)["status"] == "created"


def test_a_running_step_ends_with_the_signal_and_the_time_it_took(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "train")
    claim = filled.claim()

    def worker() -> None:
        store = type(filled.store).open(filled.store.path)
        who = attempts.aborted
        waiting.wait(store, lambda: claim.lease.task in who(store, filled.worker.id), 20)
        attempts.finish(store, claim.lease, attempts.Outcome(attempts.CRASHED, "killed"))
        store.close()

    thread = threading.Thread(target=worker)
    thread.start()
    result = cli("abort", "@last/train", "--json")
    thread.join()
    assert result.exit_code == 0, result.output
    (document,) = json.loads(result.stdout)["stopped"]
    assert (document["task"], document["status"], document["signal"]) == (f"{run.uid[:8]}/train", "stopped", "SIGTERM")


def test_a_task_of_a_dead_worker_is_stopped_without_any_worker(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    step = filled.step(run, "train")
    dead = workers.register(filled.store, workers.AGENT, slots=1, queues=("default",))
    filled.claim(worker=dead)
    dead.lock.release()
    result = cli("abort", "@last/train")
    assert result.exit_code == 0, result.output
    assert filled.row(step)["status"] == "stopped"


def test_what_does_not_end_in_time_is_exit_5_and_named(filled: Filled, cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIPIPE_GRACE_S", "0")
    run = filled.run()
    filled.step(run, "train")
    filled.claim()
    result = cli("abort", "@last/train")
    assert result.exit_code == 5
    assert f"{run.uid[:8]}/train still in progress after 1 s" in result.stderr
    assert f"w1 (pid {os.getpid()})" in result.stderr


# -- doctor -------------------------------------------------------------------------------------------------------------


def test_a_sound_store_is_exit_0_and_every_line_has_a_state(filled: Filled, cli: Invoke) -> None:
    filled.run()
    result = cli("doctor", "--deep")
    assert result.exit_code == 0
    assert {line.split()[0] for line in result.stdout.splitlines()} <= {"ok", "warn"}
    assert "ok    workers   w1 default, services, 0 of 4 busy" in result.stdout
    assert "mode 0700" in result.stdout


def test_the_old_sqlite_is_a_warning_and_a_new_one_is_fine(filled: Filled, cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 40, 1))
    monkeypatch.setattr("sqlite3.sqlite_version", "3.40.1")
    assert "warn  sqlite    3.40.1 has a rare WAL fault (fixed in 3.51.3)" in cli("doctor").stdout
    monkeypatch.setattr("sqlite3.sqlite_version_info", (3, 51, 3))
    assert "warn" not in cli("doctor").stdout


def test_a_store_that_cannot_be_used_is_bad_and_exit_4(filled: Filled, cli: Invoke) -> None:
    filled.store.database.path.chmod(0o622)
    result = cli("doctor", "--json")
    assert result.exit_code == 4
    bad = [one for one in json.loads(result.stdout)["checks"] if one["state"] == "bad"]
    assert "can be written by others" in bad[0]["text"]
    assert cli("status").exit_code == 4
    filled.store.database.path.chmod(0o600)


def test_open_modes_and_dead_workers_are_warnings(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "train")
    dead = workers.register(filled.store, workers.AGENT, slots=1, queues=("default",))
    filled.claim(worker=dead)
    dead.lock.release()
    filled.store.folder("logs").chmod(0o755)
    text = cli("doctor").stdout
    assert "warn  modes     logs can be read by others, mode 0755; minipipe doctor --repair" in text
    assert "warn  tasks     1 task belongs to dead workers" in text
    assert stat.S_IMODE(filled.store.folder("logs").stat().st_mode) == 0o755  # looked at, not changed


def test_path_and_settings_alone(filled: Filled, cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("doctor", "--path").stdout == f"{filled.store.database.path}\n"
    monkeypatch.setenv("MINIPIPE_JOBS", "3")
    rows = {one["setting"]: one for one in json.loads(cli("doctor", "--settings", "--json").stdout)}
    assert (rows["jobs"]["value"], rows["jobs"]["origin"]) == ("3", "MINIPIPE_JOBS")
    assert rows["queue"]["origin"] == "default"
    assert rows["keep_runs"]["value"] == "-1"
    monkeypatch.delenv("MINIPIPE_JOBS")
    told = dict(re.findall(r"^(\w+) +(\S.*?) +default$", cli("doctor", "--settings").stdout, re.MULTILINE))
    assert (told["jobs"], told["keep_runs"]) == (f"{len(os.sched_getaffinity(0))}, one per CPU", "all"), "words, no codes"
    assert rows["home"]["value"] == str(filled.store.path)


def test_a_bundle_holds_no_names_or_values_and_overwrites_nothing(filled: Filled, cli: Invoke) -> None:
    filled.run("secret-pipeline")
    assert cli("doctor", "--bundle", "bug.zip").exit_code == 0
    assert json.loads(cli("doctor", "--bundle", "second.zip", "--json").stdout) == {"path": "second.zip"}
    with zipfile.ZipFile("bug.zip") as archive:
        assert b"secret" not in b"".join(archive.read(name) for name in archive.namelist())
    assert cli("doctor", "--bundle", "bug.zip").exit_code == 2
