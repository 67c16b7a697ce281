"""W3: the runs of W1 and W2 again, with every step served from the cache."""

from __future__ import annotations

from tests.bench import measure
from tests.bench.measure import Plan, Row

BARS_MS = {"chain": 1.0, "fan": 0.5}


def run(plan: Plan) -> list[Row]:
    """Milliseconds per cached step, each turn a fresh process on a store that holds all results."""
    sizes = {"chain": plan.size(100, 20), "fan": plan.size(1000, 60)}
    homes = {name: plan.home() for name in sizes}
    for name, steps in sizes.items():
        measure.script(plan, name, steps, home=homes[name])

    def again(name: str) -> float | None:
        steps = sizes[name]
        figures = measure.script(plan, name, steps, home=homes[name]).figures
        plan.expect(f"W3: steps of the {name}", measure.last_run(homes[name]), {"cached": steps + 1})
        plan.expect(f"W3: value of the {name}", figures.get("value"), steps if name == "chain" else steps * (steps + 1) // 2)
        return figures.get("ms_per_step")

    def commit() -> float | None:
        return measure.script(plan, "floor", "commit", sizes["fan"]).figures.get("ms_per_step")

    chain, fan, commits = measure.in_turns(plan, lambda: again("chain"), lambda: again("fan"), commit)
    return [
        Row(f"W3 cached chain of {sizes['chain']}, per step", "ms", chain, (), BARS_MS["chain"]),
        Row(f"W3 cached {sizes['fan']:,} steps, per step", "ms", fan, (), BARS_MS["fan"]),
        Row("W3 for comparison: one synced commit", "ms", commits),
    ]
