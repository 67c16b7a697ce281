"""The reference run of the report page: 20 steps, each with 40 log lines, 30 lines of code, 2 series of 50 points, 2 artifacts."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
import time
from pathlib import Path

from minipipe.report import facts, page
from minipipe.store import attempts, codec, lookup, tasks, workers
from minipipe.store.home import Store

STEPS, LINES, CODE, POINTS = 20, 40, 30, 50
SERIES = (("loss", "train"), ("loss", "validation"))


def fill(store: Store, steps: int = STEPS, separate: bool = False) -> sqlite3.Row:
    """Make the reference run; `separate` gives its two series a chart each.

    Four stages of five steps; each step needs one of the stage before.
    """
    worker = workers.register(store, workers.AGENT, slots=4, queues=("default",))
    entry = {"kind": "here", "cwd": "/", "roots": []}
    run = tasks.submit(
        store,
        tasks.NewTask(
            type="controller",
            name="reference",
            project="examples/.pipelines/reference",
            controller=True,
            is_run=True,
            version="1.0.0",
            queue="services",
            entry=entry,
            parameters=tuple(
                tasks.Parameter("Args", name, text, "float", text) for name, text in (("lr", "0.1"), ("decay", "0.5"))
            ),
        ),
    )
    attempts.start_here(store, run.id, worker.id)
    stages = ("load", "clean", "train", "evaluate")
    made: list[tasks.Submitted] = []
    for number in range(steps):
        stage, place = stages[number * len(stages) // steps], number % (steps // len(stages) or 1)
        name = f"{stage}_{place}" if place else stage
        parent = made[number - steps // len(stages)] if number >= steps // len(stages) else None
        source = "\n".join([f"def {name}(rows):", *(f"    value_{line} = rows[{line}] * {number}" for line in range(CODE - 1))])
        made.append(
            tasks.submit(
                store,
                tasks.NewTask(
                    type="training",
                    name=name,
                    project="examples/.pipelines/reference",
                    parent_id=run.id,
                    queue="default",
                    entry={**entry, "returns": ["rows", "model"]},
                    code=(f"{number:064x}", name, source, json.dumps([{"name": name, "kind": "function", "digest": "0"}])),
                    parameters=(tasks.Parameter("kwargs", "seed", str(number), "int", str(number)),),
                    parents=((parent.id, "data"),) if parent else (),
                    links=(tasks.Link("reference", "rows", None, parent.id, "rows"),) if parent else (),
                ),
                durable=False,
            )
        )
    while (claim := attempts.claim_next(store, attempts.Claimant(worker.id, ("default",)))) is not None:
        _run(store, claim, separate)
    with store.database.write() as connection:
        connection.execute(
            "UPDATE task SET status = 'completed', worker_id = NULL, ended_at = started_at + 9.5 WHERE id = ?", (run.id,)
        )
    worker.lock.release()
    return lookup.find_run(store, run.uid)


def _run(store: Store, claim: attempts.Claim, separate: bool) -> None:
    lease = claim.lease
    path = store.log_path(lease.uid, 1)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    head = f"minipipe: {claim.name} {lease.uid[:8]} attempt 1 token {lease.token[:8]}\n"
    path.write_text(
        head + "".join(f"epoch {n:2d}  loss {2 / (n + 1):.4f}  validation {2.2 / (n + 1):.4f}\n" for n in range(LINES))
    )
    with store.database.write(durable=False) as connection:
        connection.executemany(
            "INSERT INTO metric (task_id, attempt, title, series, iteration, value, at) VALUES (?, 1, ?, ?, ?, ?, 0)",
            [
                (lease.task, f"{title} {name}" if separate else title, name, n, 2 * math.exp(-n / (9 + shift)) + math.sin(n) / 20)
                for shift, (title, name) in enumerate(SERIES)
                for n in range(POINTS)
            ],
        )
    outputs = tuple(
        attempts.Output(name, None, codec.encode(store, [[n / 7, n * 3.1] for n in range(200)])) for name in ("rows", "model")
    )
    attempts.finish(store, lease, attempts.Outcome(attempts.DONE, "", None, outputs, 0.4))


def main() -> None:
    """Print bytes and seconds of the page: ``python -m tests.report.reference FOLDER``."""
    folder = Path(sys.argv[1])
    for separate in (False, True):
        store = Store.open(folder / f"store-{separate}", durability="fast")
        run = fill(store, separate=separate)
        page.run_page(facts.of_run(store, run))  # imports and templates are not what is measured
        began = time.perf_counter()
        text = page.run_page(facts.of_run(store, run))
        print(
            f"{'two charts' if separate else 'one chart'} a step: {len(text.encode())} bytes, {time.perf_counter() - began:.2f} s"
        )
        (folder / f"reference-{separate}.html").write_text(text)


if __name__ == "__main__":
    main()
