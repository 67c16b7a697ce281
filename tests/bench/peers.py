"""Other tools on the same workloads: runs a folder of peer scripts and puts their medians beside ours.

The folder holds one sub-folder per tool with a ``run.sh`` that obeys ``ONLY`` (workloads), ``REPS`` and ``RESULTS`` and
leaves one JSON line per run in ``RESULTS/<tool>.jsonl``; a tool whose virtual environment is missing is left out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench import measure
from tests.bench.measure import Plan, Row


def _inner(record: dict[str, Any], name: str) -> float | None:
    value = (record.get("inner") or {}).get(name)
    return None if value is None else float(value)


def _per_second(record: dict[str, Any]) -> float | None:
    spent = _inner(record, "ms_per_step")
    return None if not spent else 1e3 / spent


# workload: (beginning of our row's label, unit, how to read a record)
_READERS: dict[str, tuple[str, str, Callable[[dict[str, Any]], float | None]]] = {
    "w1": ("W1 chain", "ms", lambda record: _inner(record, "ms_per_step")),
    "w2": ("W2 ", "steps/s", _per_second),
    "w3": ("W3 cached chain", "ms", lambda record: _inner(record, "ms_per_step")),
    "w4": ("W4 the same with the worker's start", "s", lambda record: _inner(record, "total_s")),
    "w5": ("W5 first", "s", lambda record: record["wall_s"] if record["variant"].startswith("first") else None),
}


def environments() -> Path:
    """Where the tools' virtual environments are."""
    return Path(os.environ.get("VENVS") or Path(tempfile.gettempdir()) / "peer-venvs")


def installed(folder: Path) -> list[str]:
    """Names of the tools that can run here."""
    names = sorted(path.parent.name for path in folder.glob("*/run.sh"))
    return [name for name in names if (environments() / name / "bin" / "python").exists()]


def compare(plan: Plan, folder: Path, wanted: Sequence[str], ours: Sequence[Row]) -> str:
    """Run every installed tool; a table of their medians beside ours."""
    wanted = [name for name in wanted if name in _READERS]
    rows: list[tuple[str, ...]] = []
    for tool in installed(folder):
        print(f"peer {tool} ...", file=sys.stderr, flush=True)
        rows += _rows_of(_records(plan, folder, tool, wanted), tool, ours)
    if not rows:
        return f"no peer of {folder} is installed (looked in {environments()})"
    return measure.table(rows, ("workload", "tool", "variant", "tool's figure", "minipipe"))


def _records(plan: Plan, folder: Path, tool: str, wanted: Sequence[str]) -> list[dict[str, Any]]:
    results = plan.folder / "peers"
    results.mkdir(exist_ok=True)
    variables = measure.environment(project=False) | {
        "ONLY": " ".join(wanted),
        "REPS": str(plan.reps),
        "RESULTS": str(results),
        "SCRATCH": str(plan.folder / "peer-scratch"),
        "VENVS": str(environments()),
    }
    subprocess.run([str(folder / tool / "run.sh")], env=variables, stdout=subprocess.DEVNULL, check=False)
    path = results / f"{tool}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _rows_of(records: list[dict[str, Any]], tool: str, ours: Sequence[Row]) -> list[tuple[str, ...]]:
    found: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record["rc"] == 0 and record["workload"] in _READERS:
            value = _READERS[record["workload"]][2](record)
            if value is not None:
                found.setdefault((record["workload"], record["variant"]), []).append(value)
    rows = []
    for (workload, variant), values in sorted(found.items()):
        label, unit, _ = _READERS[workload]
        mine = next((row for row in ours if row.label.startswith(label)), Row(label))
        rows.append((workload, tool, variant, measure.spread(values, unit), measure.spread(mine.ours, unit)))
    return rows
