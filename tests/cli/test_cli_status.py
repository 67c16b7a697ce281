"""``status`` and ``queue``: what is listed, why it waits, and what listing costs."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable

import pytest
from click.testing import Result

from minipipe.store import attempts, details, locks, presence, queues, reasons, tasks, views, workers
from tests.cli.conftest import PYTHON, Filled

Invoke = Callable[..., Result]


def listed(cli: Invoke, *args: str) -> list[str]:
    return [one["name"] or one["task_name"] for one in json.loads(cli("status", "--json", *args).stdout)["runs"]]


def test_runs_are_listed_newest_first_with_steps_time_and_parameters(filled: Filled, cli: Invoke) -> None:
    first = filled.run(
        parameters=(tasks.Parameter("Args", "lr", "0.1", "float", "0.1"), tasks.Parameter("Args", "n", "9", "int", "9"))
    )
    filled.step(first, "load")
    filled.finish(filled.claim())
    filled.end(first)
    second = filled.run("nightly")
    lines = cli("status").stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "PIPELINE", "STATUS", "STEPS", "TIME", "STARTED", "PARAMS"]
    assert lines[1].split()[:4] == [second.uid[:8], second.run_name, "nightly", "in_progress"]
    assert lines[2].split() == [
        first.uid[:8],
        first.run_name,
        "digits-demo",
        "completed",
        "1/1",
        "1.4s",
        "0s",
        "ago",
        "lr=0.1",
        "n=9",
    ]
    assert cli("status", "-q").stdout.split() == [second.uid, first.uid]


def test_what_is_not_listed_is_said_and_a_long_parameter_is_cut_in_tables(filled: Filled, cli: Invoke) -> None:
    long = tasks.Parameter("Args", "text", "x" * 500, "", "")
    runs = [filled.run(parameters=(long,)) for _ in range(3)]

    some = cli("status", "-n", "2")
    assert "there are more than 2: minipipe status -n 4 shows more\n" in some.stderr
    assert [line.split()[0] for line in some.stdout.splitlines()[1:]] == [run.uid[:8] for run in runs[:0:-1]]
    assert f"text={'x' * 39}…\n" in some.stdout
    assert "x" * 500 in cli("status", "-n", "2", "--format", "tsv").stdout
    for all_of_them in (("-n", "3"), ()):
        assert "more than" not in cli("status", *all_of_them).stderr


def test_ids_get_longer_where_eight_characters_do_not_tell_them_apart(filled: Filled, cli: Invoke) -> None:
    for last in "ab":
        run = filled.run()
        with filled.store.database.write() as connection:
            connection.execute("UPDATE task SET uid = ? WHERE id = ?", (f"12345678{last}".ljust(32, "0"), run.id))
    assert [line.split()[0] for line in cli("status").stdout.splitlines()] == ["ID", "12345678b", "12345678a"]


def test_the_footer_names_workers_queues_and_store_on_stderr(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "a")
    filled.step(run, "b")
    filled.step(run, "c", queue="gpu")
    filled.claim()
    result = cli("status")
    assert result.stderr == "workers: w1 default, services, 1 of 4 busy   queues: default 1, gpu 1   store: ./.minipipe\n"
    assert "workers:" not in result.stdout


def test_filters_choose_runs(filled: Filled, cli: Invoke) -> None:
    red = filled.run("one", tags=("red",), parameters=(tasks.Parameter("Args", "lr", "0.2", "float", "0.2"),))
    failed = filled.run("two", project="other/.pipelines/two")
    filled.end(failed, "failed")
    assert listed(cli) == [failed.run_name, red.run_name]
    assert listed(cli, "-n", "1") == [failed.run_name]
    assert listed(cli, "--status", "failed") == [failed.run_name]
    assert listed(cli, "--status", "failed", "--status", "in_progress") == [failed.run_name, red.run_name]
    assert listed(cli, "--pipeline", "one") == [red.run_name]
    assert listed(cli, "--project", "other") == [failed.run_name]
    assert listed(cli, "--project", "o%") == []
    assert listed(cli, "--tag", "red") == [red.run_name]
    assert listed(cli, "--param", "lr=0.2") == listed(cli, "--param", "Args/lr=0.2") == [red.run_name]
    assert listed(cli, "--since", "1h") == [failed.run_name, red.run_name]
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET created_at = created_at - 7200 WHERE id = ?", (red.id,))
    assert listed(cli, "--since", "1h") == [failed.run_name]


def test_steps_and_templates_are_listed_on_request(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "load")
    filled.step(run, "draft", draft=True)
    assert listed(cli) == [run.run_name]
    assert listed(cli, "--all") == ["draft", "load", run.run_name]
    assert "template" in cli("status", "--all").stdout


def reason(filled: Filled, task: tasks.Submitted) -> str:
    row = details.task_by_id(filled.store, task.id)
    assert row is not None
    return reasons.waiting_reason(filled.store, row, presence.living(filled.store), views.step_counts(filled.store, task.id))


def test_a_run_whose_queue_nobody_serves_says_so_and_what_to_type(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    step = filled.step(run, "train", queue="gpu")
    text = "no worker serves queue 'gpu'; start one: minipipe worker --queue gpu"
    assert reason(filled, run) == reason(filled, step) == text
    lines = cli("status").stdout.splitlines()
    assert lines[2] == " " * lines[0].index("STATUS") + f"waiting: {text}"
    assert cli("status", "--format", "tsv").stdout.splitlines()[1].endswith(f"\t{text}")


def test_every_way_to_wait_has_its_reason(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    load = filled.step(run, "load")
    assert reason(filled, load) == ""  # about to be taken
    assert reason(filled, filled.step(run, "train", (load,))) == "waits for load"
    assert reason(filled, filled.step(run, "held", hold="launch")) == "waits until its run calls back"
    assert reason(filled, filled.step(run, "gone", private=True, session="s")) == "the command that would run it is gone"
    cli("queue", "pause", "default")
    assert reason(filled, load) == "queue 'default' is paused; go on: minipipe queue resume default"
    cli("queue", "resume", "default")
    assert reason(filled, load) == ""
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET not_before = ?, reason = 'boom' WHERE id = ?", (time.time() + 20, load.id))
    assert reason(filled, load) in ("tries again in 20s (boom)", "tries again in 19s (boom)")


def test_full_slots_are_a_reason(filled: Filled) -> None:
    run = filled.run()
    for name in "abcd":
        filled.step(run, name)
        filled.claim()
    assert reason(filled, filled.step(run, "e")) == "all 4 slots of w1 are busy"


def test_a_process_without_slots_is_no_worker_that_is_busy(filled: Filled) -> None:
    run = filled.run()
    own = workers.register(filled.store, workers.AGENT, slots=1, queues=(), session="mine")
    script = workers.register(filled.store, workers.PROCESS, session="mine")
    filled.step(run, "a", session="mine")
    who = attempts.Claimant(own.id, (), "mine")
    assert attempts.claim_next(filled.store, who) is not None
    assert reason(filled, filled.step(run, "b", session="mine")) == f"the slot of {own.name} is busy"
    own.lock.release()
    script.lock.release()


def test_a_held_step_whose_run_is_away_says_how_to_go_on(filled: Filled) -> None:
    run = filled.run()
    step = filled.step(run, "train", hold="launch")
    filled.end(run, "stopped")
    assert reason(filled, step) == f"its run is stopped and calls back no more; go on: minipipe resume {run.run_name}"


def test_a_task_of_a_dead_worker_is_seen_as_such(filled: Filled) -> None:
    run = filled.run()
    step = filled.step(run, "train")
    dead = workers.register(filled.store, workers.AGENT, slots=1, queues=("default",))
    filled.claim(worker=dead)
    assert reason(filled, step) == ""
    dead.lock.release()
    assert not locks.is_held(filled.store.folder("workers") / f"{dead.uid}.lock")
    assert reason(filled, step) == "its worker died; the next one takes it up: minipipe worker"


def test_a_worker_of_one_command_counts_for_its_session_only(filled: Filled) -> None:
    run = filled.run()
    own = workers.register(filled.store, workers.AGENT, slots=1, queues=(), session="mine")
    mine = filled.step(run, "mine", queue="gpu", session="mine")
    other = filled.step(run, "other", queue="gpu", session="other")
    assert reason(filled, mine) == ""
    assert reason(filled, other).startswith("no worker serves queue 'gpu'")
    own.lock.release()


def _steps(filled: Filled, action: Callable[[], object]) -> int:
    """Virtual machine steps of SQLite, in hundreds: a measure of work that no clock disturbs."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connection = filled.store.database.connection()
    connection.set_progress_handler(tick, 100)
    try:
        action()
    finally:
        connection.set_progress_handler(None, 0)
    return count


def _many(filled: Filled, runs: int, steps: int) -> None:
    """Finished runs, written straight into the table."""
    with filled.store.database.write() as connection:
        for number in range(runs):
            uid = f"a{number:031x}"
            connection.execute(
                "INSERT INTO task (uid, type, name, project_id, run_name, status, created_at, updated_at)"
                " VALUES (?, 'controller', 'old', 1, ?, 'completed', 0, 0)",
                (uid, f"old-{number}"),
            )
            run = connection.execute("SELECT id FROM task WHERE uid = ?", (uid,)).fetchone()[0]
            connection.executemany(
                "INSERT INTO task (uid, type, name, project_id, parent_id, status, created_at, updated_at)"
                " VALUES (?, 'training', 's', 1, ?, 'completed', 0, 0)",
                [(f"b{number:015x}{step:016x}", run) for step in range(steps)],
            )


def test_listing_costs_the_same_whatever_the_history(filled: Filled) -> None:
    run = filled.run()
    filled.step(run, "load")

    def look() -> None:
        living = presence.living(filled.store)
        views.tasks_of(filled.store, views.Filter(limit=10), living)
        views.tasks_of(filled.store, views.Filter(limit=10, everything=True), living)
        queues.queued_counts(filled.store)
        queues.queues(filled.store, living)

    _many(filled, 20, 20)
    before = _steps(filled, look)
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET uid = 'x' || uid, run_name = 'x' || run_name WHERE name IN ('old', 's')")
    _many(filled, 200, 20)
    after = _steps(filled, look)
    assert before > 0
    assert after <= before * 1.3 + 5


def test_the_queue_table_shows_state_counts_age_and_workers(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "train", queue="gpu")
    filled.step(run, "load")
    filled.claim("default")
    rows = {one["queue"]: one for one in json.loads(cli("queue", "--json").stdout)}
    assert (rows["gpu"]["queued"], rows["gpu"]["in_progress"], rows["gpu"]["workers"]) == (1, 0, [])
    assert (rows["default"]["queued"], rows["default"]["in_progress"], rows["default"]["workers"]) == (0, 1, ["w1"])
    table = cli("queue").stdout
    assert table == cli("queue", "list").stdout
    assert "none: minipipe worker --queue gpu" in table


def test_a_paused_queue_gives_nothing_until_it_is_resumed(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "load")
    assert cli("queue", "pause", "default").stdout == "queue default is paused; 1 queued\n"
    who = attempts.Claimant(filled.worker.id, ("default",))
    assert attempts.claim_next(filled.store, who) is None
    assert cli("queue", "resume", "default").stdout == "queue default is open; 1 queued\n"
    assert attempts.claim_next(filled.store, who) is not None


def test_an_unknown_queue_is_exit_3_with_a_suggestion(filled: Filled, cli: Invoke) -> None:
    result = cli("queue", "pause", "defualt")
    assert result.exit_code == 3
    assert "no queue 'defualt'" in result.stderr
    assert "did you mean default?" in result.stderr


@pytest.mark.skipif(not hasattr(pty, "openpty"), reason="no pseudo-terminal")
def test_on_a_terminal_it_redraws_at_most_four_times_a_second_until_ctrl_c(filled: Filled) -> None:
    run = filled.run()
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "100", "LINES": "30", "NO_COLOR": "1"}
    process = subprocess.Popen((*PYTHON, "status", "--watch"), stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    start = time.monotonic()
    try:
        while seen.count(b"\x1b[H") < 6 and time.monotonic() < start + 30:
            # Each change asks for a redraw; far more come than it may draw.
            with filled.store.database.write() as connection:
                connection.execute("UPDATE task SET progress = coalesce(progress, 0) + 1 WHERE id = ?", (run.id,))
            if select.select([ours], [], [], 0.01)[0]:
                seen += os.read(ours, 65536)
                if seen.count(b"\x1b[H") == 1 and b"store:" not in seen:
                    start = time.monotonic()
        spent = time.monotonic() - start
        assert seen.count(b"\x1b[H") >= 6
        assert spent >= 0.8  # five pauses of a quarter; the first may be seen late
        assert str(run.run_name).encode() in seen
        assert seen.count(b"\x1b[2J") == 1, "cleared once, then overwritten"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
