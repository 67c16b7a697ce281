"""``minipipe timeline``: when each step of a run waited in its queue and when it ran."""

from __future__ import annotations

import shutil
import sys
from typing import Any

import click

from minipipe import states
from minipipe.cli import output
from minipipe.cli.graph import find_run
from minipipe.cli.output import Output
from minipipe.drawing import lanes
from minipipe.drawing.lanes import Row
from minipipe.store import picture

_NARROWEST, _WIDEST = 10, 60
_PIPE = 80


@click.command()
@click.argument("name", metavar="[RUN]", default="@last")
@output.pass_output
def timeline(out: Output, name: str) -> None:
    """Show when each step waited and ran.

    A bar is ░ while the step waits in its queue and ▇ while it runs. Steps that are alike share a row where there are many; its bar
    is where at least one of them ran.

    \b
    Examples:
      minipipe timeline
      minipipe timeline calm-otter --json
    """
    store = out.open_store()
    run = find_run(store, name)
    found = picture.of_run(store, run)
    if out.json:
        output.print_json(document(found), line=out.format == "jsonl")
        return
    if out.quiet:
        for node in found.nodes:
            output.write(node.uid)
        return
    rows, length = lanes.rows_of(found)
    names = [output.escape(row.box.name) for row in rows]
    widest = max(map(len, names), default=0)
    said = [_said(row) for row in rows]
    total = shutil.get_terminal_size((_PIPE, 24)).columns if output.is_terminal(sys.stdout) else _PIPE
    columns = max(_NARROWEST, min(_WIDEST, total - widest - 4 - max(map(len, said), default=0)))
    for row, shown, text in zip(rows, names, said, strict=True):
        bar = _written(lanes.cells(row, length, columns))
        output.write(f"{shown:<{widest}}  {output.style(f'{bar:<{columns}}', row.box.status)}  {output.escape(text)}".rstrip())
    served = sum(bool(node.cached_from) for node in found.nodes)
    if served:
        output.note(f"{served} served from the cache, without time", kind="")
    if not found.nodes:
        output.note(f"{run['uid'][:8]} has no steps", kind="")


def _written(cells: str) -> str:
    if output.can_encode("▇░", sys.stdout):
        return cells
    return cells.replace("▇", "#").replace("░", ".")


def _said(row: Row) -> str:
    parts = [output.duration(row.ran_s)] if any(bar.start is not None for bar in row.bars) else []
    if row.waited_s >= 0.05:
        parts.append(f"queued {output.duration(row.waited_s)}")
    attempts = max((bar.span.number for bar in row.bars if bar.start is not None), default=0)
    if attempts > 1 and not row.box.folded:
        parts.append(f"{attempts} attempts")
    if row.box.folded or row.box.status not in states.GOOD:
        parts.append(row.box.note if row.box.folded else row.box.status)
    return ", ".join(parts)


def document(found: picture.Picture) -> dict[str, Any]:
    """The timeline as JSON: every attempt of every step, nothing folded."""
    return {
        "run": found.run["uid"],
        "name": found.run["run_name"],
        "steps": [
            {
                "id": node.uid,
                "name": node.name,
                "status": node.status,
                "cached_from": node.cached_from or None,
                "attempts": [
                    {
                        "attempt": span.number,
                        "queued_at": output.iso(span.queued_at),
                        "started_at": output.iso(span.started_at),
                        "ended_at": output.iso(span.ended_at),
                        "became": span.became,
                        "worker": span.worker or None,
                        "queued_s": _between(span.queued_at, span.started_at),
                        "running_s": _between(span.started_at, span.ended_at),
                    }
                    for span in node.spans
                ],
            }
            for node in found.nodes
        ],
    }


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
