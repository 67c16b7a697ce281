"""Schedules, triggers and monitors as processes beside a worker; all end when their task is aborted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minipipe import errors
from minipipe.sdk.automation.scheduler import TaskScheduler
from minipipe.sdk.automation.service import BaseScheduler
from minipipe.sdk.automation.trigger import TriggerScheduler
from minipipe.sdk.dataset import Dataset
from minipipe.sdk.model import OutputModel
from minipipe.sdk.task import Task
from minipipe.store import records, steering, workers
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import FLOWS, python, start, surroundings

pytestmark = pytest.mark.exhaustive  # real searches, services and examples, each with processes of its own

Serve = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def serve(folder: Path, home: Store) -> Iterator[Serve]:
    """Starts a service; its task is aborted at the end, and it must then end by itself."""
    started: list[subprocess.Popen[str]] = []

    def begin(name: str) -> subprocess.Popen[str]:
        started.append(start(folder, str(FLOWS / "serving.py"), name))
        return started[-1]

    yield begin
    ids = [row["id"] for row in rows(home, "t.status = 'in_progress' AND p.name IN ('DevOps', 'services')")]
    assert len(ids) == len(started)
    steering.abort(home, ids)
    for process in started:
        out, err = process.communicate(timeout=20)
        assert process.returncode == 1 and err.count("Traceback") == err.count("process_task failed"), out + err
    assert {row["status"] for row in rows(home, f"t.id IN ({','.join(map(str, ids))})")} == {"stopped"}


@pytest.fixture
def worker(folder: Path, home: Store, wait_for: Callable[..., None]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker for everybody."""
    command = ("-m", "minipipe", "worker", "-j", "2")
    process = subprocess.Popen(
        (sys.executable, *command), cwd=folder, env=surroundings(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: workers.served_queues(home))
    yield process
    process.terminate()
    assert process.wait(20) == 0


def rows(home: Store, where: str) -> list[Any]:
    """Rows of tasks, with their projects."""
    return home.database.rows(
        f"SELECT t.*, p.name AS project FROM task t JOIN project p ON p.id = t.project_id WHERE {where} ORDER BY t.id"
    )


def noted(folder: Path) -> list[str]:
    path = folder / "noted"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.usefixtures("worker")
def test_a_schedule_launches_what_is_due_now(serve: Serve, folder: Path, home: Store, wait_for: Callable[..., None]) -> None:
    process = serve("schedule")
    wait_for(lambda: rows(home, "p.name = 'scheduled' AND t.status = 'completed'"), 30)
    wait_for(lambda: noted(folder), 10)

    (copy,) = rows(home, "p.name = 'scheduled'")
    assert {row["name"]: row["text"] for row in records.parameters(home, copy["id"])} == {"x": "5"}
    assert noted(folder) == ["called"]
    (own,) = rows(home, "t.name = 'Scheduler'")
    text = home.log_path(own["uid"], 1).read_text()
    assert "'unknown' was not launched: no task" in text and "next: " in text
    assert process.poll() is None
    stored = Task.of(own["uid"]).get_configuration_objects()
    assert '"name": "copy"' in stored["schedule"] and "last_executed" in stored["state"]


@pytest.mark.usefixtures("worker")
def test_triggers_fire_once_for_each_thing_that_fits(
    serve: Serve, folder: Path, home: Store, wait_for: Callable[..., None]
) -> None:
    serve("trigger")
    wait_for(lambda: noted(folder) == ["ready"] and rows(home, "t.name = 'Scheduler' AND t.status = 'in_progress'"), 20)
    wait_for(lambda: "models" in Task.get_task(project_name="DevOps", task_name="Scheduler").get_configuration_objects(), 10)
    failed, high, low = (Task.create("watched", name) for name in ("bad", "high", "low"))
    failed.mark_failed(force=True, status_message="as asked")
    for task, value in ((high, 0.95), (low, 0.5)):
        task.get_logger().report_scalar("t", "s", value, 1)
        task.add_tags(["a", "b"] if task is high else ["a"])
    data = Dataset.create("digits", "sets")
    data.finalize()
    model = OutputModel(task=high, name="net", tags=["deploy"])
    model.update_weights(register_uri="https://example.com/weights")
    wanted = {f"high {high.id}", f"tagged {high.id}", f"data {data.id}", f"model {model.id}", "ready"}
    wait_for(lambda: set(noted(folder)) == wanted, 30)
    wait_for(lambda: rows(home, "t.name = 'template' AND t.status = 'completed'"), 30)

    (copy,) = rows(home, "t.name = 'template' AND t.status <> 'created'")
    told = {row["name"]: row["text"] for row in records.parameters(home, copy["id"])}
    assert told["of"] == failed.id and Task.of(copy["uid"]).get_tags() == ["failed"]
    assert sorted(noted(folder)) == sorted(wanted)


def test_a_monitor_sees_each_change_of_what_fits(serve: Serve, folder: Path, home: Store, wait_for: Callable[..., None]) -> None:
    serve("monitor")
    wait_for(lambda: noted(folder) == ["ready"], 20)
    for project, name in (("watched", "bad"), ("elsewhere", "good"), ("watched", "other"), ("watched", "good")):
        Task.create(project, name).mark_failed(force=True)
    wait_for(lambda: len(noted(folder)) == 3, 20)
    Task.get_task(project_name="watched", task_name="good").mark_completed(force=True)
    wait_for(lambda: len(noted(folder)) == 4, 20)

    assert sorted(noted(folder)[:3]) == ["ready", "seen bad failed", "seen good failed"]
    assert noted(folder)[3:] == ["seen good completed"]


def test_start_remotely_leaves_the_service_to_a_worker_without_taking_its_slot(folder: Path, home: Store) -> None:
    (folder / "remote.py").write_text(
        "from minipipe import TaskScheduler\n"
        "s = TaskScheduler()\n"
        "s.add_task('0' * 32, queue='default', hour=1)\n"
        "s.start_remotely()\n"
        "print('not here')\n"
    )
    done = python(folder, "remote.py")

    (row,) = rows(home, "t.name = 'Scheduler'")
    assert "not here" not in done.out
    assert (row["status"], row["queue"], row["controller"]) == ("queued", "services", 1)


# -- in this process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def scheduler(home: Store, as_worker: Any) -> TaskScheduler:
    as_worker(Task.create("tests", "service"))
    return TaskScheduler()


def test_a_service_started_again_goes_on_where_it_was(scheduler: TaskScheduler, home: Store) -> None:
    called: list[int] = []
    scheduler.add_task(schedule_function=lambda: called.append(1), name="f", hour=1, execute_immediately=True)
    scheduler._write()
    assert scheduler._step() > 0
    again = TaskScheduler()
    again.add_task(schedule_function=lambda: called.append(2), name="f", hour=1, execute_immediately=True)
    again._read(scheduler._task.get_configuration_objects())

    (job,) = again.get_scheduled_tasks()
    assert job.last_executed == scheduler.get_scheduled_tasks()[0].last_executed is not None
    assert again._step() > 0 and called == [1]


def test_what_is_changed_on_the_task_counts(scheduler: TaskScheduler, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler.add_task("0" * 32, name="n", queue="default", hour=1)
    scheduler._write()
    text = scheduler._task.get_configuration_objects()["schedule"]
    assert not BaseScheduler._news(scheduler)
    scheduler._task.set_configuration_object("schedule", text.replace('"hour": 1', '"hour": 3'))
    assert scheduler._news()
    scheduler._hear()
    assert [job.hour for job in scheduler.get_scheduled_tasks()] == [3]
    scheduler._task.set_configuration_object("schedule", text.replace('"hour": 1', '"hour": -3'))
    scheduler._hear()
    assert [job.hour for job in scheduler.get_scheduled_tasks()] == [3] and "is left out" in capsys.readouterr().out


def test_bad_jobs_are_refused(scheduler: TaskScheduler) -> None:
    for facts, words in (
        ({}, "a task or a function"),
        ({"schedule_task_id": "x", "schedule_function": print}, "not both"),
        ({"schedule_task_id": "x", "hour": 1}, "needs a queue"),
        ({"schedule_function": print, "hour": 1}, "needs a name"),
        ({"schedule_task_id": "x", "queue": "default"}, "has no time"),
        ({"schedule_task_id": "x", "queue": "default", "minute": 1.5}, "is no number of minutes"),
        ({"schedule_task_id": "x", "queue": "default", "day": 2, "weekdays": ["monday"]}, "contradict"),
        ({"schedule_task_id": "x", "queue": "default", "hour": 1, "weekdays": ["Monday"]}, "no weekday"),
    ):
        with pytest.raises(errors.UsageError, match=words):
            scheduler.add_task(**facts)
    scheduler.add_task("x", queue="default", hour=1)
    with pytest.raises(errors.UsageError, match="scheduled already"):
        scheduler.add_task("x", queue="default", hour=2)


def test_bad_triggers_are_refused(home: Store, as_worker: Any) -> None:
    as_worker(Task.create("tests", "service"))
    triggers = TriggerScheduler()
    for facts, words in (
        ({"trigger_on_metric": "t"}, "belong together"),
        ({"trigger_on_status": ["done"]}, "'done' is no status"),
        ({"trigger_on_sign": "up"}, "'up' is no sign"),
        ({"trigger_on_tags": "a"}, "list of texts"),
        ({"trigger_name": "("}, "regular expression"),
    ):
        with pytest.raises(errors.UsageError, match=words):
            triggers.add_task_trigger(schedule_function=print, name="n", **facts)
    triggers.add_task_trigger(schedule_function=print, name="n")
    with pytest.raises(errors.UsageError, match="already"):
        triggers.add_model_trigger(schedule_function=print, name="n")
    assert [type(one).__name__ for one in triggers.get_triggers()] == ["TaskTrigger"]
