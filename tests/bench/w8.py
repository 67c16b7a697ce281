"""W8: steps in environments of their own, next to the same steps in this Python: the build, a worker's first step, every further one."""

from __future__ import annotations

from tests.bench import measure
from tests.bench.measure import Plan, Row


def run(plan: Plan) -> list[Row]:
    """Seconds of the first step of a run, once with the build and once without; milliseconds of each further step."""
    number = plan.size(50, 3)
    home = plan.home()
    built = measure.script(plan, "places", number, home=home)
    if built.code:
        plan.problems.pop()
        return [Row("W8 a step in an environment", skipped="the package index cannot be reached")]
    found: dict[str, list[float]] = {}

    def one() -> float | None:
        figures = measure.script(plan, "places", number, home=home).figures
        plan.expect("W8: value of the chain", figures.get("inside_value"), number + 1)
        for name, value in figures.items():
            found.setdefault(name, []).append(float(value))
        return figures.get("inside_step_ms")

    measure.in_turns(plan, one)
    series = {name: tuple(values) for name, values in found.items()}
    return [
        Row("W8 first step with the build of its environment", "s", (float(built.figures["inside_first_s"]),)),
        Row("W8 first step of a worker in it", "s", series["inside_first_s"], series["here_first_s"]),
        Row(f"W8 each of {number} further steps in it", "ms", series["inside_step_ms"], series["here_step_ms"]),
    ]
