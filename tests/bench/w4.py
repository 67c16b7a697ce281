"""W4: a large array made by one step and summed by the next."""

from __future__ import annotations

from tests.bench import measure
from tests.bench.measure import Finished, Plan, Row

BAR_TIME: float | None = None
BAR_PEAK: float | None = None


def run(plan: Plan) -> list[Row]:
    """Seconds, beside raw bytes written and mapped again; peak memory of any process, beside the array's size."""
    elements = plan.size(50_000_000, 1_000_000)
    array_bytes = elements * 8
    total = float(elements) * (elements - 1) / 2
    peaks: dict[str, list[float]] = {"floor": [], "array": []}
    cold: list[float] = []

    def checked(name: str, finished: Finished) -> float | None:
        value = finished.figures.get("value", 0.0)
        plan.expect(f"W4: the sum of the {name} is right to 1e-9", abs(value - total) <= 1e-9 * total, True)
        peaks[name].append(finished.peak_bytes / 1e6)
        return finished.figures.get("seconds")

    def floor() -> float | None:
        return checked("floor", measure.script(plan, "floor", "array", elements))

    def ours() -> float | None:
        home = plan.home()
        finished = measure.script(plan, "handover", elements, home=home)
        plan.expect("W4: steps", measure.last_run(home), {"ran": 3})
        cold.append(finished.figures.get("cold_seconds", 0.0))
        measure.drop(home)
        return checked("array", finished)

    low, high = measure.in_turns(plan, floor, ours)
    size = f"{array_bytes / 1e6:.0f} MB"
    sizes = {name: (array_bytes / 1e6,) * len(found) for name, found in peaks.items()}
    return [
        Row(f"W4 {size} array between two steps", "s", high, low, BAR_TIME),
        Row("W4 the same with the worker's start", "s", tuple(cold)),
        Row("W4 peak memory of a process; floor: the array", "MB", tuple(peaks["array"]), sizes["array"], BAR_PEAK),
        Row("W4 for comparison: the floor's peak", "MB", tuple(peaks["floor"]), sizes["floor"]),
    ]
