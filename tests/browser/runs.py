"""A run worth looking at, made directly in a store: a fan-out, a retry, a failure, a cached and a skipped step, plots of all kinds."""

from __future__ import annotations

import json
import math
import random
import sqlite3
import struct
import zlib

from minipipe.store import attempts, codec, lookup, models, plots, records, tasks, workers
from minipipe.store.blobs import Writer
from minipipe.store.home import Store

_CODE = '''def {name}(rows, seed=7):
    """One step of the example."""
    chosen = [row for row in rows if row.kind == "{name}"]
    return sorted(chosen, key=lambda row: row.value)
'''


def fill(store: Store, parent: sqlite3.Row | None = None, lr: str = "0.1", good: bool = True) -> sqlite3.Row:
    """The run; with `parent` a copy of it whose `lr` differs; not `good`: its last step but one fails and the last is skipped."""
    worker = workers.register(store, workers.AGENT, slots=3, queues=("default",))
    with store.database.write() as connection:
        connection.execute("UPDATE worker SET name = 'w1' WHERE id = ?", (worker.id,))
    entry = {
        "kind": "script",
        "file": "/project/flow.py",
        "cwd": "/project",
        "argv": ["flow.py"],
        "roots": [],
        "source": "flow()\n",
    }
    cells = (("lr", lr, "float"), ("epochs", "40", "int"), ("seed", "7", "int"), ("backbone", "resnet18", "str"))
    run = tasks.submit(
        store,
        tasks.NewTask(
            type="controller",
            name="birds",
            project="vision/.pipelines/bird classifier",
            controller=True,
            is_run=True,
            version="2.3.0",
            queue="services",
            entry=entry,
            template_id=parent["id"] if parent is not None else None,
            parameters=tuple(tasks.Parameter("Args", name, text, kind, json.dumps(text)) for name, text, kind in cells),
            tags=("baseline", "nightly"),
        ),
    )
    attempts.start_here(store, run.id, worker.id)
    load = _step(store, run, "load images", entry, ())
    clean = _step(store, run, "clean", entry, ((load, "images"),))
    split = _step(store, run, "split", entry, ((clean, "rows"),))
    folds = [_step(store, run, f"train_{n}" if n else "train", entry, ((split, "folds"),)) for n in range(3)]
    choose = _step(store, run, "choose", entry, (*((fold, "model") for fold in folds), (split, "test_rows")))
    _step(store, run, "publish", entry, ((choose, "best"),))
    while (claim := attempts.claim_next(store, attempts.Claimant(worker.id, ("default",)))) is not None:
        _end(store, claim, float(lr), good or claim.name != "choose")
    _times(store, run, good)
    worker.lock.release()
    return lookup.find_run(store, run.uid)


def _step(
    store: Store, run: tasks.Submitted, name: str, entry: dict[str, object], parents: tuple[tuple[tasks.Submitted, str], ...]
) -> tasks.Submitted:
    source = _CODE.format(name=name.replace(" ", "_"))
    return tasks.submit(
        store,
        tasks.NewTask(
            type="training" if name.startswith("train") else "data_processing",
            name=name,
            project="vision",
            parent_id=run.id,
            queue="default",
            entry={"kind": "here", "cwd": "/project", "roots": [], "returns": []},
            code=(f"{zlib.crc32(source.encode()):064x}", name, source, "[]"),
            parameters=(tasks.Parameter("kwargs", "seed", "7", "int", "7"),),
            parents=tuple((parent.id, "data") for parent, _ in parents),
            links=tuple(
                tasks.Link("reference", f"rows{n or ''}", None, parent.id, output) for n, (parent, output) in enumerate(parents)
            ),
            max_retries=1 if name == "train_1" else 0,
        ),
        durable=False,
    )


_OUTPUTS = {
    "load images": ("images",),
    "clean": ("rows",),
    "split": ("folds", "test_rows"),
    "choose": ("best",),
    "publish": ("url",),
}


def _end(store: Store, claim: attempts.Claim, lr: float, good: bool) -> None:
    lease = claim.lease
    path = store.log_path(lease.uid, lease.attempt)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    lines = (
        [f"epoch {n:2d}  loss {2.1 * math.exp(-n / 8):.4f}" for n in range(40)] if claim.name.startswith("train") else ["done"]
    )
    path.write_text("\n".join(lines) + "\n")
    if claim.name.startswith("train"):
        chance = random.Random(claim.name)
        for n in range(40):
            decay = math.exp(-n * (6 + 10 * lr) / 60)
            records.report(store, lease, lease.task, "loss", "train", 2.1 * decay + chance.gauss(0, 0.03) + 0.1, n)
            records.report(store, lease, lease.task, "loss", "validation", 2.0 * decay + chance.gauss(0, 0.05) + 0.25, n)
            records.report(store, lease, lease.task, "accuracy", "validation", 0.95 - 0.8 * decay + chance.gauss(0, 0.01), n)
    if not good:
        error = {
            "type": "ValueError",
            "message": "no model is better than chance",
            "where": "flow.py:57, in choose: raise ValueError(…)",
            "traceback": "Traceback (most recent call last):\n  File 'flow.py', line 57, in choose\nValueError: no model …",
        }
        reason = "ValueError: no model is better than chance"
        attempts.finish(store, lease, attempts.Outcome(attempts.FAILED, reason, error, (), 1.4))
        return
    if claim.name == "choose":
        records.report(store, lease, lease.task, "Summary", "accuracy", 0.934, None)
        records.report(store, lease, lease.task, "Summary", "f1", 0.921, None)
        _plots(store, lease)
    names = _OUTPUTS.get(claim.name, ("model",))
    outputs = tuple(attempts.Output(name, None, codec.encode(store, [[n / 7, n % 5] for n in range(120)])) for name in names)
    attempts.finish(store, lease, attempts.Outcome(attempts.DONE, "", None, outputs, 0.9))


def _plots(store: Store, lease: attempts.Lease) -> None:
    chance = random.Random(1)
    kinds = ("wren", "robin", "finch", "owl")
    matrix = [[42, 1, 0, 2], [3, 38, 4, 0], [0, 2, 47, 1], [1, 0, 3, 40]]
    clouds = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": kind,
            "x": [chance.gauss(x, 1) for _ in range(70)],
            "y": [chance.gauss(y, 1) for _ in range(70)],
        }
        for kind, x, y in (("wren", 0, 0), ("robin", 3, 1), ("owl", 1, 4))
    ]
    axes = {"xaxis": {"title": {"text": "predicted"}}, "yaxis": {"title": {"text": "true"}}}
    figure(store, lease, "confusion matrix", {"data": [{"type": "heatmap", "z": matrix, "x": kinds, "y": kinds}], "layout": axes})
    figure(
        store,
        lease,
        "embedding",
        {"data": clouds, "layout": {"xaxis": {"title": "component 1"}, "yaxis": {"title": "component 2"}}},
    )
    figure(store, lease, "residuals", {"data": [{"type": "histogram", "x": [chance.gauss(0, 1) for _ in range(800)]}]})
    counts = [
        {"type": "bar", "name": name, "x": kinds, "y": y}
        for name, y in (("train", [120, 93, 54, 60]), ("test", [30, 21, 12, 17]))
    ]
    figure(store, lease, "class balance", {"data": counts})
    columns = [list(kinds), [0.93, 0.91, 0.97, 0.94], [0.95, 0.88, 0.93, 0.97], [45, 45, 50, 44]]
    header = {"values": ["class", "precision", "recall", "support"]}
    figure(store, lease, "per class", {"data": [{"type": "table", "header": header, "cells": {"values": columns}}]})
    writer = Writer(store)
    writer.write(_png(96, 64))
    plots.report(
        store, lease, plots.NewPlot(plots.SAMPLE, "samples", "predicted wren", 3, "image/png", "wren.png", writer), lease.task
    )
    tags = ("best", "resnet18")
    model = models.create(store, lease, models.NewModel("bird classifier", "vision", lease.task, "PyTorch", tags=tags))
    weights = Writer(store)
    weights.write(b"w" * 48_000)
    models.set_weights(store, lease, model.id, writer=weights, file="model.pt")
    models.link(store, lease, lease.task, model.id, models.OUTPUT, "best model")


def figure(store: Store, lease: attempts.Lease, title: str, found: dict[str, object]) -> None:
    """Report a figure."""
    writer = Writer(store)
    writer.write(json.dumps(found).encode())
    plots.report(store, lease, plots.NewPlot(plots.PLOT, title, title, 0, plots.FIGURE, "", writer), lease.task)


def _png(width: int, height: int) -> bytes:
    rows = b"".join(
        b"\0" + bytes(part for x in range(width) for part in (60 + x, 90 + 2 * y % 120, 150 - x // 2)) for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# When each step was queued, started and ended, in seconds of the run.
_PLAN = {
    "load images": (0.1, 0.5, 2.4),
    "clean": (2.4, 2.5, 3.6),
    "split": (3.6, 3.6, 4.1),
    "train": (4.1, 4.2, 11.3),
    "train_1": (4.1, 4.2, 13.0),
    "train_2": (4.1, 5.9, 12.2),
    "choose": (13.0, 13.2, 14.6),
    "publish": (14.6, 14.7, 15.2),
}


def _times(store: Store, run: tasks.Submitted, good: bool) -> None:
    """Put the run on a timetable, so that its page looks the same on any machine. History is not meant to be changed."""
    start = 1_795_000_000.0
    with store.database.write() as connection:
        connection.execute("DROP TRIGGER IF EXISTS event_kept")
        for name, (queued, started, ended) in _PLAN.items():
            row = connection.execute("SELECT id FROM task WHERE parent_id = ? AND name = ?", (run.id, name)).fetchone()
            for status, at in (("queued", queued), ("in_progress", started), ("completed", ended), ("failed", ended)):
                connection.execute("UPDATE event SET at = ? WHERE task_id = ? AND new = ?", (start + at, row["id"], status))
            connection.execute(
                "UPDATE task SET started_at = ?, ended_at = ?, duration_s = ? WHERE id = ? AND started_at IS NOT NULL",
                (start + started, start + ended, ended - started, row["id"]),
            )
        connection.execute(
            "UPDATE task SET status = ?, reason = ?, worker_id = NULL, started_at = ?, ended_at = ? WHERE id = ?",
            ("completed" if good else "failed", "" if good else "choose failed", start, start + 15.4, run.id),
        )
