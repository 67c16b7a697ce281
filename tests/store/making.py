"""Short ways to put tasks into a store and to work them off by hand."""

from __future__ import annotations

import sqlite3
from typing import Any

from minipipe.store import attempts, codec, records, tasks, workers
from minipipe.store.home import Store


def run(store: Store, **facts: Any) -> tasks.Submitted:
    """A run, in status created."""
    return tasks.submit(store, tasks.NewTask("controller", "run", "p/.pipelines/run", {}, is_run=True, **facts))


def new_step(name: str = "step", after: list[int] | None = None, of: list[int] | None = None, **facts: Any) -> tasks.NewTask:
    """A step; it is ordered behind `after` and takes the outputs ``out`` of `of`."""
    facts.setdefault("queue", "default")
    parents = [*[(parent, "data") for parent in of or []], *[(parent, "order") for parent in after or []]]
    links = [tasks.Link("reference", f"p{number}", None, parent, "out") for number, parent in enumerate(of or [])]
    return tasks.NewTask("training", name, "p", {}, parents=tuple(parents), links=(*facts.pop("links", ()), *links), **facts)


def step(store: Store, name: str = "step", after: list[int] | None = None, of: list[int] | None = None, **facts: Any) -> int:
    """Submit a step; its row id."""
    return tasks.submit(store, new_step(name, after, of, **facts)).id


def task(store: Store, number: int) -> sqlite3.Row:
    """The row of a task."""
    row = store.database.row("SELECT * FROM task WHERE id = ?", (number,))
    assert row is not None
    return row


def status(store: Store, number: int) -> str:
    """The status of a task."""
    return str(task(store, number)["status"])


def statuses(store: Store, *numbers: int) -> list[str]:
    """The statuses of tasks."""
    return [status(store, number) for number in numbers]


def agent(store: Store, **facts: Any) -> workers.Registration:
    """A living worker in this process."""
    return workers.register(store, workers.AGENT, slots=1, queues=("default",), **facts)


def claim(store: Store, worker: workers.Registration) -> attempts.Claim:
    """The next task; there must be one."""
    found = attempts.claim_next(store, attempts.Claimant(worker.id, ("default",), worker.session))
    assert found is not None, "nothing to claim"
    return found


def outcome(store: Store, ending: str = attempts.DONE, value: Any = None, **facts: Any) -> attempts.Outcome:
    """An ending, with `value` as output ``out`` unless it is None."""
    outputs = () if value is None else (attempts.Output("out", encoded=codec.encode(store, value)),)
    return attempts.Outcome(ending, facts.pop("reason", ""), outputs=outputs, **facts)


def finish(store: Store, found: attempts.Claim, ending: str = attempts.DONE, value: Any = None, **facts: Any) -> str | None:
    """End an attempt; the task's status."""
    return attempts.finish(store, found.lease, outcome(store, ending, value, **facts)).status


def work(store: Store, worker: workers.Registration, ending: str = attempts.DONE, value: Any = None, **facts: Any) -> int:
    """Claim the next task and end it; its row id."""
    found = claim(store, worker)
    finish(store, found, ending, value, **facts)
    return found.lease.task


def value(store: Store, number: int) -> Any:
    """The output ``out`` of a task."""
    return records.value_of(store, number, "out", store.folder("tmp") / ("0" * 32 + ".d"))


def outputs(store: Store, number: int) -> list[str]:
    """Names of a task's outputs."""
    sql = "SELECT name FROM artifact WHERE task_id = ? AND role = 'output' ORDER BY id"
    return [row["name"] for row in store.database.rows(sql, (number,))]


def warnings(store: Store, number: int) -> list[str]:
    """What the history of a task warns of."""
    sql = "SELECT detail FROM event WHERE task_id = ? AND kind = 'warning' ORDER BY id"
    return [row["detail"] for row in store.database.rows(sql, (number,))]
