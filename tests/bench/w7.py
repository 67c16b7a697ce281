"""W7: scripts that say ``import clearml``: a toy task, the import itself, and ClearML's own decorated example where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench import measure
from tests.bench.measure import Plan, Row

_EXAMPLE = Path("examples/pipeline/pipeline_from_decorator.py")


def run(plan: Plan) -> list[Row]:
    """Whole process times, in seconds; the import in milliseconds inside a fresh process."""
    return [*_toy(plan), *_import(plan), *_example(plan)]


def _toy(plan: Plan) -> list[Row]:
    home = plan.home()
    measure.cli(plan, "run", str(measure.SCRIPTS / "toy.py"), home=home)

    def one() -> float | None:
        finished = measure.cli(plan, "run", str(measure.SCRIPTS / "toy.py"), home=home)
        plan.expect("W7: what the toy task prints", "Example_Param is 1" in finished.out, True)
        return finished.wall_s

    (times,) = measure.in_turns(plan, one)
    return [Row("W7 minipipe run, a script with one task", "s", times, bar=0.5)]


def _import(plan: Plan) -> list[Row]:
    figures: dict[str, list[float]] = {"import_ms": [], "names_ms": []}

    def one() -> float | None:
        found = measure.script(plan, "alias").figures
        for name, values in figures.items():
            if name in found:
                values.append(float(found[name]))
        return found.get("import_ms")

    measure.in_turns(plan, one)
    return [
        Row("W7 import clearml (the alias)", "ms", tuple(figures["import_ms"]), bar=60),
        Row("W7 first use of its Task and PipelineDecorator", "ms", tuple(figures["names_ms"])),
    ]


def _example(plan: Plan) -> list[Row]:
    folder = os.environ.get("CLEARML_CHECKOUT", "")
    label = "W7 ClearML's pipeline_from_decorator.py"
    url_map = os.environ.get("MINIPIPE_URL_MAP", "")
    if not folder or not url_map or plan.smoke:
        return [Row(label, skipped="CLEARML_CHECKOUT and MINIPIPE_URL_MAP name the scripts and the iris file")]
    cold, cached = [], []
    for _ in range(plan.reps):
        home = plan.home()
        for times in (cold, cached):
            command, project = measure.installed_command()
            variables = {**measure.environment(home, project), "MINIPIPE_URL_MAP": url_map}
            finished = measure.run([*command, "run", str(Path(folder, _EXAMPLE))], plan.folder, variables)
            plan.expect("W7: the example's exit status", finished.code, 0)
            times.append(finished.wall_s)
        measure.drop(home)
    return [Row(f"{label}, new store", "s", tuple(cold), bar=4), Row(f"{label}, all cached", "s", tuple(cached), bar=1)]
