"""Services: `python serving.py schedule|trigger|monitor`; each notes what it does in files and ends when its task is aborted."""

import sys
from pathlib import Path

from minipipe import Model, Task, TaskScheduler, TriggerScheduler
from minipipe.sdk.automation.monitor import Monitor


def note(*words: object) -> None:
    """Add a line to what was noted."""
    with open("noted", "a") as file:
        print(*words, file=file)


def schedule(template: Task) -> None:
    scheduler = TaskScheduler()
    facts = {"queue": "default", "minute": 30, "hour": 10, "day": 1, "execute_immediately": True}
    scheduler.add_task(template, name="copy", task_parameters={"General/x": 5}, target_project="scheduled", **facts)
    scheduler.add_task(template.id, name="later", queue="default", hour=1)
    scheduler.add_task(template.id, name="again", reuse_task=True, **facts)
    scheduler.add_task("0" * 32, name="unknown", **facts)
    scheduler.add_task(
        schedule_function=lambda: note("called"), name="function", minute=1, execute_immediately=True, recurring=False
    )
    scheduler.add_task(template.id, name="once", queue="default", year=2001)
    assert scheduler.remove_task(template.id) and not scheduler.remove_task(note)
    scheduler.add_task(template, name="copy", task_parameters={"General/x": 5}, target_project="scheduled", **facts)
    scheduler.start()


def trigger(template: Task) -> None:
    triggers = TriggerScheduler(pooling_frequency_minutes=1.0)
    facts = {"schedule_task_id": template.id, "schedule_queue": "default"}
    triggers.add_task_trigger(
        name="failed",
        trigger_on_status=["failed"],
        task_parameters={"General/of": "${task.id}"},
        trigger_project="watched",
        **facts,
    )
    triggers.add_task_trigger(
        name="high", schedule_function=lambda uid: note("high", uid), trigger_on_metric="t", trigger_on_variant="s",
        trigger_on_sign="max", trigger_on_threshold=0.9,
    )  # fmt: skip
    triggers.add_task_trigger(name="tagged", schedule_function=lambda uid: note("tagged", uid), trigger_on_tags=["a", "b"])
    triggers.add_dataset_trigger(name="data", schedule_function=lambda uid: note("data", uid), trigger_project="sets")
    triggers.add_model_trigger(
        name="model", schedule_function=lambda uid: note("model", Model(model_id=uid).id), trigger_on_tags=["deploy"]
    )
    note("ready")
    triggers.start()


def monitor(template: Task) -> None:
    class Mine(Monitor):
        def get_query_parameters(self) -> dict[str, object]:
            return {"status": ["failed", "completed"], "system_tags": ["-archived"]}

        def process_task(self, task: Task) -> None:
            note("seen", task.name, task.status)
            if task.name == "bad":
                raise ValueError("the monitor goes on")

    watcher = Mine()
    watcher.set_projects(project_names_re=["^watch"], project_names=["nowhere"])
    watcher.set_task_name_filter("bad|good")
    watcher.monitor_step()
    note("ready")
    watcher.monitor(pool_period=60)


if __name__ == "__main__":
    service = sys.argv[1]
    Path("template.py").write_text(
        "from minipipe import Task\ntask = Task.init('a', 'b')\ntask.connect({'x': 1})\nprint('ran')\n"
    )
    if service == "monitor":
        Task.init("services", "Monitor", "monitor")
    base = Task.create("tests", "template", script="template.py")
    {"schedule": schedule, "trigger": trigger, "monitor": monitor}[service](base)
