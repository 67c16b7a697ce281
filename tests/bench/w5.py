"""W5: how long one waits for the command line, and for the first result in an empty folder."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench import history, measure
from tests.bench.measure import Plan, Row

BARS = {"--version": 1.6, "status": 2.5}
_BASELINE = "import click, sqlite3"
_TURNS = 15


def run(plan: Plan) -> list[Row]:
    """Commands as ratio to ``python -c "import click, sqlite3"``; the first three-step pipeline as whole process time."""
    runs = plan.size(10_000, 300)
    home = plan.home()
    history.fill(home, runs, steps=4)
    rows = []
    for command, where in (("--version", None), ("status", home)):
        label = f"W5 {command}" + (f", {runs:,} runs" if where else "")
        reason = measure.missing(plan, command, home=where)
        if reason:
            rows.append(Row(label, skipped=reason))
            continue

        def baseline() -> float | None:
            return measure.run([sys.executable, "-c", _BASELINE], plan.folder, measure.environment(project=False)).wall_s * 1e3

        def ours(command: str = command, where: Path | None = where) -> float | None:
            finished = measure.cli(plan, command, home=where)
            plan.expect(f"W5: exit status of {command}", finished.code, 0)
            if where is not None:
                plan.expect("W5: the newest run is listed", f"calm-otter-{runs - 1}" in finished.out, True)
            return finished.wall_s * 1e3

        low, high = measure.in_turns(plan, baseline, ours, reps=3 if plan.smoke else max(_TURNS, plan.reps))
        rows.append(Row(label, "ms", high, low, BARS[command]))

    def first() -> float | None:
        finished = measure.script(plan, "first", home=plan.home())
        plan.expect("W5: value of the first pipeline", finished.figures.get("value"), 3)
        return finished.wall_s

    (cold,) = measure.in_turns(plan, first)
    return [*rows, Row("W5 first 3-step pipeline, new store", "s", cold)]
