"""W2: independent trivial steps on two slots."""

from __future__ import annotations

from tests.bench import measure
from tests.bench.measure import Plan, Row

BAR: float | None = None


def run(plan: Plan) -> list[Row]:
    """Steps per second, beside two forks at a time and one synced commit per step."""
    steps = plan.size(1000, 60)

    def floor() -> float | None:
        return measure.script(plan, "floor", "fan", steps).figures.get("steps_per_s")

    def ours() -> float | None:
        home = plan.home()
        figures = measure.script(plan, "fan", steps, home=home).figures
        plan.expect("W2: sum of the results", figures.get("value"), steps * (steps + 1) // 2)
        plan.expect("W2: steps", measure.last_run(home), {"ran": steps + 1})
        return figures.get("steps_per_s")

    low, high = measure.in_turns(plan, floor, ours)
    return [Row(f"W2 {steps:,} steps on 2 slots", "steps/s", high, low, BAR, per_second=True)]
