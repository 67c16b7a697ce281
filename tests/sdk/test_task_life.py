"""How a task follows the process that began it, and how it changes hands (the contract's 3.7 to 3.9)."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from minipipe import Task, errors, seeds, states
from minipipe.sdk import session
from minipipe.store import edits, workers
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import FLOWS, Left, python, start, work

ENDINGS = {
    "the end": (0, "completed", ""),
    "sys.exit(0)": (0, "completed", ""),
    "raise SystemExit": (0, "completed", ""),
    "caught": (0, "completed", ""),
    "thread": (0, "completed", ""),
    "close": (3, "completed", ""),
    "mark_completed": (3, "completed", ""),
    "sys.exit(3)": (3, "failed", "exited with code 3"),
    "exit(3)": (3, "failed", "exited with code 3"),
    "raise SystemExit(3)": (3, "failed", "exited with code 3"),
    "sys.exit(words)": (1, "failed", "exited with code 1"),
    "argparse": (2, "failed", "exited with code 2"),
    "error": (1, "failed", "ZeroDivisionError: division by zero"),
    "mark_failed": (0, "failed", "no luck"),
    "Ctrl-C": (-2, "stopped", "interrupted"),
    "SIGTERM": (143, "stopped", "stopped by SIGTERM"),
    "mark_stopped": (0, "stopped", "enough"),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Left, dict[str, int]]:
    """All endings, each in a process of its own."""
    folder = tmp_path_factory.mktemp("lives")
    Store.open(folder / ".minipipe", durability="fast").close()
    running = {how: start(folder, str(FLOWS / "lives.py"), how) for how in (*ENDINGS, "SIGKILL")}
    codes = {}
    for how, process in running.items():
        process.communicate(timeout=60)
        codes[how] = process.returncode
    return Left(folder), codes


def row_of(left: Left, name: str) -> Any:
    (found,) = left.rows("SELECT * FROM task WHERE name = ?", name)
    return found


@pytest.mark.parametrize("how", ENDINGS)
def test_end_of_process_decides_the_status(how: str, ended: tuple[Left, dict[str, int]]) -> None:
    left, codes = ended
    code, status, reason = ENDINGS[how]
    row = row_of(left, how)
    assert (row["status"], row["reason"], codes[how]) == (status, reason, code)


def test_a_killed_process_is_stopped_by_the_next_reaper(ended: tuple[Left, dict[str, int]]) -> None:
    left, codes = ended
    assert (row_of(left, "SIGKILL")["status"], codes["SIGKILL"]) == ("in_progress", -9)
    workers.reap(left.store, 3)
    assert row_of(left, "SIGKILL")["status"] == "stopped"


@pytest.mark.parametrize(
    ("how", "code", "status"),
    [("the end", 0, "completed"), ("raise SystemExit(3)", 1, "failed"), ("error", 1, "failed"), ("Ctrl-C", 130, "stopped")],
)
def test_under_minipipe_run_the_task_ends_with_its_script(folder: Path, how: str, code: int, status: str) -> None:
    python(folder, "-m", "minipipe", "run", str(FLOWS / "lives.py"), "--", how, check=code)
    assert row_of(Left(folder), how)["status"] == status


def test_what_a_script_prints_goes_to_its_log_and_a_traceback_to_the_task(ended: tuple[Left, dict[str, int]]) -> None:
    left, _ = ended
    row = row_of(left, "the end")
    assert "the end runs" in left.log(row).splitlines()
    shown = python(left.folder, "-m", "minipipe", "logs", row["uid"], "--raw").out
    assert shown.startswith("minipipe: the end ")
    assert python(left.folder, "-m", "minipipe", "logs", row["uid"]).out.splitlines()[-1] == "the end runs"
    assert "token" not in python(left.folder, "-m", "minipipe", "logs", row["uid"]).out
    assert "ZeroDivisionError" in left.log(row_of(left, "error"))
    assert "print(1 / 0)" in json.loads(row_of(left, "error")["error"])["traceback"]


def test_child_processes_get_the_parents_task_and_never_end_it(folder: Path) -> None:
    done = python(folder, str(FLOWS / "family.py"), str(folder / "other"))
    left = Left(folder)
    row = row_of(left, "parent")
    assert (row["status"], "the family is complete" in done.out) == ("completed", True)
    cells = left.rows("SELECT name, text FROM parameter WHERE task_id = ? AND section = 'General' ORDER BY text", row["id"])
    assert [tuple(cell) for cell in cells] == [("fork", "1"), ("pool", "2"), ("spawned", "3"), ("program", "4")]
    assert len(left.rows("SELECT 1 FROM metric WHERE task_id = ?", row["id"])) == 4
    assert len(left.rows("SELECT 1 FROM artifact WHERE task_id = ?", row["id"])) == 4
    other = Left(folder / "other")
    assert [task["status"] for task in Store.open(folder / "other").database.rows("SELECT status FROM task")] == ["completed"], (
        other
    )


INIT = """
import random, sys
from minipipe import Task
seed, *names = sys.argv[1:]
if seed != "default":
    Task.set_random_seed(None if seed == "None" else int(seed))
random.seed(99)
task = Task.init(*names)
import numpy
print(task.id, task.name, task.get_project_name(), random.random(), numpy.random.rand(), task.get_random_seed())
"""


def test_init_names_the_task_after_the_script_and_the_repository_and_seeds_random_and_numpy(folder: Path) -> None:
    (folder / "repo" / ".git").mkdir(parents=True)
    (folder / "repo" / "code").mkdir()
    script = folder / "repo" / "code" / "train.py"
    script.write_text(INIT)
    first = python(folder, str(script), "default").out.split()
    again = python(folder, str(script), "1337").out.split()
    off = python(folder, str(script), "None").out.split()
    expected = random.Random(1337).random()
    assert first[1:3] == ["train", "repo"]
    assert float(first[3]) == expected
    assert first[3:] == again[3:]
    assert first[5] == "1337"
    assert (float(off[3]), off[5]) == (random.Random(99).random(), "None")


MANY = """
import sys
from minipipe import Task, errors
first = Task.init("many", "first")
assert Task.init("many", "first").id == Task.init().id == Task.init(task_name="first").id == first.id
try:
    Task.init("many", "second")
    sys.exit("no error")
except errors.UsageError as error:
    assert "first" in str(error) and isinstance(error, ValueError)
for number in range(3):
    Task.current_task().close()
    other = Task.init("many", f"number {number}")
    params = other.connect({"number": number})
    other.upload_artifact("it", {"number": number})
assert [one.status for one in Task.get_tasks(project_name="many")].count("in_progress") == 1
other.close()
params["later"] = 1
found = Task.get_task(project_name="many", task_name="number 1", task_filter={"status": ["completed"]})
assert found.artifacts["it"].get() == {"number": 1}
"""


def test_several_tasks_one_after_the_other_in_one_process_and_only_one_at_a_time(folder: Path) -> None:
    (folder / "many.py").write_text(MANY)
    done = python(folder, "many.py")
    rows = Left(folder).rows("SELECT name, status FROM task ORDER BY id")
    assert [tuple(row) for row in rows] == [(name, "completed") for name in ("first", "number 0", "number 1", "number 2")]
    assert done.err.count("General/later: not stored") == 1


AGAIN = """
import sys
from minipipe import Logger, Task
what = sys.argv[1]
task = Task.init("again", "it", continue_last_task=what == "continue", reuse_last_task_id=what != "new")
task.connect({what: 1})
Logger.current_logger().report_scalar("a", "b", 1.0, 0)
Logger.current_logger().report_scalar("a", "b", 2.0, 1)
if what == "keep":
    task.upload_artifact("kept", 1)
print(task.id, sorted(task.get_parameters()), task.get_reported_scalars()["a"]["b"]["x"], task.get_last_iteration())
"""


def test_init_uses_the_last_task_again_unless_it_holds_something(folder: Path) -> None:
    (folder / "again.py").write_text(AGAIN)

    def run(what: str) -> tuple[str, str]:
        task, rest = python(folder, "again.py", what).out.split(" ", 1)
        return task, rest.strip()

    first, _ = run("first")
    assert run("second") == (first, "['General/second'] [0, 1] 1"), "reset and reused"
    assert run("continue") == (first, "['General/continue', 'General/second'] [0, 1, 2, 3] 3"), "goes on at last + 1"
    other, _ = run("new")
    assert other != first
    assert run("keep")[0] == other
    assert run("third")[0] not in (first, other), "the last one holds an artifact"


@pytest.mark.parametrize(
    ("change", "used"),
    [
        ("", True),
        ("UPDATE task SET created_at = created_at - 71 * 3600", True),
        ("UPDATE task SET created_at = created_at - 73 * 3600", False),
        ("UPDATE task SET archived = 1", False),
        ("UPDATE task SET status = 'published'", False),
        ("UPDATE task SET type = 'testing'", False),
        ("UPDATE task SET name = 'other'", False),
    ],
)
def test_init_uses_only_a_young_task_that_has_ended_and_is_neither_archived_nor_published(
    folder: Path, change: str, used: bool
) -> None:
    (folder / "again.py").write_text(AGAIN)
    first = python(folder, "again.py", "first").out.split()[0]
    if change:
        store = Store.open(folder / ".minipipe", create=False)
        with store.database.write() as connection:
            connection.execute(change)
        store.close()

    assert (python(folder, "again.py", "second").out.split()[0] == first) == used


def test_init_never_uses_a_draft_a_queued_task_or_one_that_a_worker_ran(folder: Path) -> None:
    (folder / "remote.py").write_text(REMOTE)
    python(folder, "remote.py", "draft")
    python(folder, "remote.py", "default")
    work(folder, "default")
    python(folder, "remote.py", "default")

    rows = Left(folder).rows("SELECT status FROM task ORDER BY id")
    assert [row["status"] for row in rows] == ["created", "completed", "queued"]


REMOTE = """
import sys
from minipipe import Task
queue, *words = sys.argv[1:]
task = Task.init("remote", "it")
params = task.connect({"lr": 0.1, "layers": [1, 2]})
assert task.get_progress() is None
task.upload_artifact("before", 1)
result = task.execute_remotely(None if queue == "draft" else queue, clone="clone" in words, exit_process="stay" not in words)
print("after the call:", params["lr"], params["layers"], Task.running_locally(), result and result.status)
"""


def test_execute_remotely_leaves_a_draft_or_enqueues_and_nothing_after_it_runs_here(folder: Path) -> None:
    (folder / "remote.py").write_text(REMOTE)
    left = Left(folder)
    draft = python(folder, "remote.py", "draft")
    (row,) = left.rows("SELECT * FROM task")
    assert (draft.out, row["status"], left.rows("SELECT * FROM artifact")) == ("", "created", [])
    copy = python(folder, "remote.py", "default", "clone", "stay")
    assert copy.out == "after the call: 0.1 [1, 2] True queued\n"
    assert "exit_process=False needs clone=True" in python(folder, "remote.py", "default", "stay", check=1).err
    queued = python(folder, "remote.py", "default")
    assert (queued.out, [one["status"] for one in left.rows("SELECT status FROM task WHERE queue = 'default'")]) == (
        "",
        ["queued"] * 2,
    )
    work(folder, "default")
    done = left.rows("SELECT * FROM task WHERE queue = 'default'")
    assert [one["status"] for one in done] == ["completed"] * 2
    assert [left.log(one).splitlines()[-1] for one in done] == ["after the call: 0.1 [1, 2] False None"] * 2


# -- in this process ----------------------------------------------------------------------------------------------------


def draft(name: str = "draft") -> Task:
    return Task.create("life", name)


def begun(task: Task) -> Task:
    task.mark_started()
    return task


def in_status(status: str) -> Task:
    """A task that came to a status the ordinary way."""
    task = draft(status)
    if status == "queued":
        Task.enqueue(task, "nobody")
    elif status != "created":
        begun(task)
    if status in ("completed", "published"):
        task.mark_completed()
    elif status == "failed":
        task.mark_failed(status_message="bad")
    elif status == "stopped":
        edits.move(task.store, task.row_id, "stopped")
    if status == "published":
        task.publish()
    assert task.status == status
    return task


@pytest.mark.parametrize("old", ["created", "queued", "in_progress", "completed", "failed", "stopped", "published"])
@pytest.mark.parametrize("new", ["completed", "failed", "stopped", "published", "created"])
def test_anything_else_is_a_value_error_naming_both_statuses_and_nothing_changes(home: Store, old: str, new: str) -> None:
    task = in_status(old)
    free, forced = states.MOVES[old]
    for force in (False, True):
        if new == old or new in free or (force and new in forced):
            edits.move(home, task.row_id, new, force=force)
            assert task.status == new
            return
        with pytest.raises(ValueError, match=rf"is {old} and cannot become {new}"):
            edits.move(home, task.row_id, new, force=force)
        assert task.status == old


def test_each_change_is_an_event_with_time_and_reason(home: Store) -> None:
    task = begun(draft())
    task.mark_failed(status_reason="no luck")
    rows = home.database.rows("SELECT old, new, detail, at FROM event WHERE task_id = ? ORDER BY id", (task.row_id,))
    assert [(row["old"], row["new"], row["detail"]) for row in rows] == [
        (None, "created", ""),
        ("created", "in_progress", ""),
        ("in_progress", "failed", "no luck"),
    ]
    assert rows[0]["at"] <= rows[1]["at"] <= rows[2]["at"]


def test_enqueue_takes_created_failed_and_stopped_and_with_force_resets_others_first(home: Store, capsys: Any) -> None:
    for status in ("created", "failed", "stopped"):
        assert Task.enqueue(in_status(status).id, "default") == {"queued": 1, "updated": 1}
    assert "no worker serves queue 'default'" in capsys.readouterr().err
    for status in ("completed", "published", "in_progress"):
        with pytest.raises(ValueError, match=f"is {status}"):
            Task.enqueue(in_status(status), "default")
    task = in_status("completed")
    Task.enqueue(task, queue_id="second", force=True)
    assert (task.status, task.get_executed_queue(return_name=True)) == ("queued", "second")
    with pytest.raises(ValueError, match="is published"):
        Task.enqueue(in_status("published"), "default", force=True)
    with pytest.raises(ValueError, match="name the queue"):
        Task.enqueue(draft())


def test_dequeue_makes_a_draft_again_and_a_queue_counts_what_waits(home: Store) -> None:
    task = in_status("queued")
    assert (Task.get_num_enqueued_tasks("nobody"), Task.get_num_enqueued_tasks("default")) == (1, 0)
    assert Task.get_num_enqueued_tasks(queue_id=task.get_executed_queue()) == 1
    assert Task.get_num_enqueued_tasks(queue_id="unknown") == 0
    Task.dequeue(task)
    assert (task.status, Task.get_num_enqueued_tasks("nobody")) == ("created", 0)
    with pytest.raises(ValueError, match="not queued"):
        Task.dequeue(task)


def test_delete_of_a_task_in_progress_needs_an_abort_first(home: Store) -> None:
    task = begun(draft())
    with pytest.raises(ValueError, match="in progress"):
        task.delete()
    with pytest.raises(Task.DeleteError):
        task.delete(raise_on_error=True)
    task.mark_completed()
    assert task.delete()
    with pytest.raises(ValueError, match="deleted"):
        _ = task.status


def test_parameters_configuration_change_only_in_created_pending_and_in_progress(home: Store) -> None:
    for status in ("created", "in_progress"):
        task = in_status(status)
        task.set_parameter("a", 1)
        task.set_configuration_object("c", "text")
    for status in ("queued", "completed", "failed", "stopped", "published"):
        task = in_status(status)
        for change in (
            lambda task: task.set_parameter("a", 1),
            lambda task: task.set_parameters({}),
            lambda task: task.delete_parameter("a"),
            lambda task: task.connect({"a": 1}),
            lambda task: task.set_configuration_object("c", "text"),
            lambda task: task.connect_configuration({"a": 1}),
        ):
            with pytest.raises(ValueError, match=f"is {status}"):
                change(task)
        assert (task.get_parameters(), task.get_configuration_objects()) == ({}, {})


def test_a_clone_is_a_draft_with_code_parameters_configuration_and_tags_and_without_results(home: Store) -> None:
    source = begun(draft("source"))
    source.connect({"a": 1, "b": {"c": [1, 2]}})
    source.set_user_properties(p=1)
    source.connect_configuration({"x": 1}, "model")
    source.add_tags(["t"])
    source.set_comment("why")
    source.upload_artifact("art", 1)
    source.get_logger().report_scalar("t", "s", 1, 1)
    source.mark_completed()
    copy = Task.clone(source)
    assert (copy.status, copy.name, copy.parent, copy.get_project_name(), copy.comment) == (
        "created",
        "source",
        source.id,
        "life",
        "why",
    )
    assert copy.get_parameters() == source.get_parameters()
    assert copy.get_configuration_objects() == source.get_configuration_objects()
    assert (copy.get_tags(), copy.get_script()) == (["t"], source.get_script())
    assert (dict(copy.artifacts), copy.get_reported_scalars()) == ({}, {})
    again = Task.clone(copy.id, name="again", comment="c", project="elsewhere")
    assert (again.name, again.parent, again.get_project_name(), again.comment) == ("again", source.id, "elsewhere", "c")
    other = draft("other")
    assert Task.clone(source, parent=other.id).parent == other.id
    with pytest.raises(ValueError, match="no task is running here"):
        Task.clone()


def test_reset_forgets_results_and_keeps_parameters(home: Store) -> None:
    task = begun(draft())
    task.connect({"a": 1})
    task.upload_artifact("art", 1)
    task.get_logger().report_single_value("v", 1)
    with pytest.raises(ValueError, match="in_progress and cannot be reset"):
        task.reset()
    task.mark_completed()
    task.reset()
    assert (task.status, dict(task.artifacts), task.get_reported_single_values()) == ("created", {}, {})
    assert task.get_parameters() == {"General/a": "1"}
    task.reset(set_started_on_success=True)
    assert task.status == "in_progress"
    with pytest.raises(ValueError, match="published"):
        in_status("published").reset(force=True)


def test_what_a_reset_attempt_still_reports_is_refused(home: Store) -> None:
    task = begun(draft())
    task.reset(force=True)
    with pytest.raises(errors.AttemptLost):
        task.upload_artifact("late", 1)
    assert dict(task.artifacts) == {}


def test_started_completed_and_stopped_are_short_for_the_marks(home: Store) -> None:
    task = draft()
    task.started()
    assert task.status == "in_progress"
    task.completed()
    assert task.status == "completed"
    task.started(force=True)
    assert task.status == "in_progress"
    other = draft()
    with pytest.raises(ValueError, match="force=True does it"):
        other.stopped()
    other.stopped(force=True, status_reason="why")
    assert (other.status, other.get_status_message()) == ("stopped", "why")


def test_wait_for_status_returns_at_once_and_raises_for_what_it_was_told(home: Store) -> None:
    in_status("completed").wait_for_status(check_interval_sec=3600)
    failed = in_status("failed")
    with pytest.raises(RuntimeError, match="failed: bad"):
        failed.wait_for_status()
    failed.wait_for_status(status=["failed"], raise_on_status=None)


def test_a_task_that_nobody_executes_is_neither_current_nor_main(home: Store) -> None:
    task = draft()
    assert Task.current_task() is None
    assert not task.is_current_task()
    assert not task.is_main_task()
    task.close()
    assert task.status == "created"
    assert Task.running_locally()


def test_a_worker_mode_process_is_told_so(home: Store, as_worker: Any) -> None:
    task = as_worker(draft())
    assert (task.is_current_task(), Task.running_locally(), task.execute_remotely("default")) == (True, False, None)
    assert session.current() is not None


def test_the_seed_is_1337_unless_said(home: Store) -> None:
    assert draft().get_random_seed() == seeds.DEFAULT == 1337
    try:
        Task.set_random_seed(5)
        assert draft().get_random_seed() == 5
    finally:
        Task.set_random_seed(1337)
