"""W1: a chain of trivial dependent steps, each in a process of its own with its result persisted."""

from __future__ import annotations

from tests.bench import measure
from tests.bench.measure import Plan, Row

BAR: float | None = None


def run(plan: Plan) -> list[Row]:
    """Milliseconds per step, beside one fork and one synced commit per step."""
    steps = plan.size(100, 20)

    def floor() -> float | None:
        return measure.script(plan, "floor", "chain", steps).figures.get("ms_per_step")

    def ours() -> float | None:
        home = plan.home()
        figures = measure.script(plan, "chain", steps, home=home).figures
        plan.expect("W1: value at the end of the chain", figures.get("value"), steps)
        plan.expect("W1: steps", measure.last_run(home), {"ran": steps + 1})
        return figures.get("ms_per_step")

    low, high = measure.in_turns(plan, floor, ours)
    return [Row(f"W1 chain of {steps}, per step", "ms", high, low, BAR)]
