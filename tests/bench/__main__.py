"""``python -m tests.bench [w1 w2 ...] [--reps N] [--smoke] [--peers DIR]``: one table, floor and minipipe measured in turns."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minipipe.store.home import file_system
from tests.bench import measure, peers, w1, w2, w3, w4, w5, w6, w7, w8
from tests.bench.measure import Plan, Row

WORKLOADS: dict[str, Callable[[Plan], list[Row]]] = {
    "w1": w1.run,
    "w2": w2.run,
    "w3": w3.run,
    "w4": w4.run,
    "w5": w5.run,
    "w6": w6.run,
    "w7": w7.run,
    "w8": w8.run,
}

_NOTES = """\
Medians [min-max]. Floor and minipipe run in turns; the ratio is taken within each turn and says how many times the
floor's time (or memory) minipipe needs. A bar holds for the ratio, or for the value where there is no floor.
Floors: W1 one fork and one synced commit (SQLite WAL, synchronous=FULL) per step, in a process of 28 MB; W2 the same,
two children at a time; W4 an array's raw bytes written to a new file by one child, without hashing or sync, mapped and
summed by the next; W5 `python -c "import click, sqlite3"`; W6 the same with the shortest history; W8 the same step in
this Python.
minipipe: real scripts (tests/bench/scripts) with PipelineDecorator.run_locally(), a fresh process and a new store each
turn (W3: a store that holds all results), two slots, default settings. In W1, W2 and W4 one step runs before the clock
starts, which starts the private worker; times go from the first call to the last value."""

_SMOKE = "A smoke run: small sizes, one turn; only the results were checked, the figures mean nothing."


def main() -> int:
    """Measure, print, and say whether all results were right (0) or not (1)."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("workloads", nargs="*", metavar="workload", help=f"of {', '.join(WORKLOADS)}; default all")
    parser.add_argument("--reps", type=int, default=0, help="turns per comparison (5; a smoke run 1; commands of W5 at least 15)")
    parser.add_argument("--smoke", action="store_true", help="small sizes, under a minute: does it all still work?")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="run other tools' scripts from this folder too")
    given = parser.parse_args()
    unknown = [name for name in given.workloads if name not in WORKLOADS]
    if unknown:
        parser.error(f"unknown workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    wanted = given.workloads or list(WORKLOADS)
    with tempfile.TemporaryDirectory(prefix="minipipe-bench-") as folder:
        plan = Plan(given.reps or (1 if given.smoke else 5), given.smoke, Path(folder))
        rows = _measure(plan, wanted)
        print(measure.table([row.cells() for row in rows], ("workload", "floor", "minipipe", "ratio", "bar")))
        print(f"\n{_SMOKE if plan.smoke else _NOTES}\n{_machine(plan.folder)}")
        if given.peers:
            print("\n" + peers.compare(plan, given.peers.absolute(), wanted, rows))
    for problem in dict.fromkeys(plan.problems):
        print(f"wrong: {problem}", file=sys.stderr)
    return int(bool(plan.problems))


def _measure(plan: Plan, wanted: list[str]) -> list[Row]:
    rows = []
    for name in wanted:
        start, load = time.perf_counter(), os.getloadavg()[0]
        rows += WORKLOADS[name](plan)
        print(f"{name} took {time.perf_counter() - start:.0f} s, load before {load:.1f}", file=sys.stderr, flush=True)
    return rows


def _machine(folder: Path) -> str:
    disk = file_system(folder) or "unknown"
    busy = os.getloadavg()[0] > 2 * (os.cpu_count() or 1)
    return (
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs, {disk} file system,"
        f" load {os.getloadavg()[0]:.1f} at the end."
        f"{' The machine was busy with other things: measure again before quoting a figure.' if busy else ''}"
    )


if __name__ == "__main__":
    sys.exit(main())
