"""A run whose every text tries to become something else than text."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

from minipipe.store import attempts, codec, edits, lookup, models, plots, records, tasks, workers
from minipipe.store.blobs import Writer
from minipipe.store.home import Store

BAD = (
    "\"'><img src=x onerror=alert(1)></style></script></title></svg>"
    "<script>alert(2)</script>&lt;\u202egnp\u200b\x1b[31m\x07{{12345*6789}}"
)
MARK = "onerror=alert(1)"
PLAIN = "p" * 200  # as long, so that the same is cut short


def fill(store: Store, bad: str = BAD) -> sqlite3.Row:
    """A finished run with `bad` in its name, project, parameters, logs, errors, artifacts, plots, models, tags, code …"""
    worker = workers.register(store, workers.AGENT, slots=1, queues=("default",))
    with store.database.write() as connection:
        connection.execute("UPDATE worker SET name = ?", (bad,))
    entry = {"kind": "script", "file": f"/{bad}", "cwd": bad, "argv": [bad, bad], "roots": [], "source": bad, "commit": bad}
    cell = tasks.Parameter("Args", bad, bad, bad, json.dumps(bad), None, bad)
    run = tasks.submit(
        store,
        tasks.NewTask(
            type="controller",
            name=bad,
            project=f"{bad}/.pipelines/{bad}",
            controller=True,
            is_run=True,
            version=bad,
            queue="services",
            entry=entry,
            parameters=(cell,),
            configurations=((bad, bad),),
            tags=(bad,),
        ),
    )
    attempts.start_here(store, run.id, worker.id)
    first = _step(store, run, bad, entry)
    _step(store, run, f"{bad} 2", entry, first)
    _end(store, attempts.claim_next(store, attempts.Claimant(worker.id, ("default",))), bad, fails=False)
    _end(store, attempts.claim_next(store, attempts.Claimant(worker.id, ("default",))), bad, fails=True)
    edits.label(store, run.id, comment=bad)
    with store.database.write() as connection:
        connection.execute(
            "UPDATE task SET status = 'failed', reason = ?, worker_id = NULL, ended_at = started_at + 1 WHERE id = ?",
            (bad, run.id),
        )
    # Times that are the same for all texts, or the drawings differ by themselves.
    with store.database.write() as connection:
        connection.execute("DROP TRIGGER event_kept")
        connection.execute("UPDATE event SET at = 1e9 + id")
        connection.execute("UPDATE task SET created_at = 1e9, started_at = 1e9 + 1, ended_at = 1e9 + 2")
    worker.lock.release()
    return lookup.find_run(store, run.uid)


def _step(
    store: Store, run: tasks.Submitted, name: str, entry: dict[str, object], parent: tasks.Submitted | None = None
) -> tasks.Submitted:
    bad = str(entry["cwd"])
    return tasks.submit(
        store,
        tasks.NewTask(
            type="training",
            name=name,
            project=bad,
            parent_id=run.id,
            queue="default",
            entry={**entry, "returns": [bad]},
            code=(bad + name, bad, bad, json.dumps([{"name": bad, "kind": bad, "digest": bad, "file": bad, "line": 1}] * 2)),
            parameters=(tasks.Parameter("kwargs", bad, bad, bad, json.dumps(bad)),),
            parents=((parent.id, "data"),) if parent else (),
            links=(tasks.Link("reference", bad, None, parent.id, bad),) if parent else (),
            tags=(bad,),
        ),
    )


def _end(store: Store, claim: attempts.Claim | None, bad: str, fails: bool) -> None:
    assert claim is not None
    lease = claim.lease
    path = store.log_path(lease.uid, 1)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_bytes(f"{bad}\n\xff{bad}".encode("utf-8", "surrogateescape"))
    for iteration in range(3):
        records.report(store, lease, lease.task, bad, bad, iteration / 7, iteration)
    records.report(store, lease, lease.task, bad, bad + "single", 0.5, None)
    figures: list[dict[str, object]] = [
        {"data": [{"type": "bar", "x": [bad, "b"], "y": [1, 2], "name": bad}], "layout": {"xaxis": {"title": bad}}},
        {"data": [{"type": "table", "header": {"values": [bad]}, "cells": {"values": [[bad, 1]]}}]},
        {"data": [{"type": "heatmap", "z": [[1, 2]], "x": [bad, bad], "y": [bad]}]},
        {"data": [{"type": bad, "x": [bad]}]},
    ]
    for number, figure in enumerate(figures):
        _report(store, lease, plots.FIGURE, bad, str(number), json.dumps(figure).encode())
    _report(store, lease, "text/plain", bad, "text", bad.encode())
    _report(store, lease, "image/png", bad, "picture", b"\x89PNG not really")
    _report(store, lease, f"audio/{bad}", bad, "sound", b"RIFF")
    model = models.create(store, lease, models.NewModel(bad, bad, lease.task, bad, bad, tags=(bad,), url=f"javascript:{bad}"))
    models.set_metadata(store, model.id, {bad: {"value": bad, "type": bad}})
    models.link(store, lease, lease.task, model.id, models.OUTPUT, bad)
    edits.label(store, lease.task, comment=bad)
    encoded = replace(codec.encode(store, bad), preview=bad)
    outputs = (
        attempts.Output(bad, None, encoded),
        attempts.Output("scalar", tasks.Parameter("return", bad + "s", bad, bad, "1")),
    )
    error = {"type": bad, "message": bad, "where": f"{bad}, in x: y", "traceback": f"{bad}\n{bad}"}
    outcome = (
        attempts.Outcome(attempts.FAILED, bad, error, (), 1.0)
        if fails
        else attempts.Outcome(attempts.DONE, "", None, outputs, 1.0)
    )
    attempts.finish(store, lease, outcome)


def _report(store: Store, lease: attempts.Lease, kind: str, title: str, series: str, data: bytes) -> None:
    writer = Writer(store)
    writer.write(data)
    plots.report(store, lease, plots.NewPlot(plots.PLOT, title, series, 0, kind, title, writer), lease.task)
