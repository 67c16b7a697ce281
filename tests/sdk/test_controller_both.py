"""Failures, retries, limits, callbacks, cache and monitors: each case as a decorated pipeline and as a controller.

The cases are data and stand in ``flows/both.py``.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from minipipe.sdk.task import Task
from tests.sdk.sdk_scripts import FLOWS, Left, python, work

WAYS = (
    ("decorator", "local"),
    ("controller", "local"),
    # A process for each case; that controllers run on workers at all, test_cases, test_controller_copies and test_controller_modes
    # show.
    pytest.param("decorator", "remote", marks=pytest.mark.exhaustive),
    pytest.param("controller", "remote", marks=pytest.mark.exhaustive),
)
WAY_NAMES = ["decorator-local", "controller-local", "decorator-remote", "controller-remote"]
WORDS = {"stopped": "aborted"}  # what nodes call a status


def cases() -> tuple[Any, ...]:
    """The cases of the flow script."""
    sys.path.insert(0, str(FLOWS))
    try:
        found: tuple[Any, ...] = runpy.run_path(str(FLOWS / "both.py"))["CASES"]
    finally:
        sys.path.remove(str(FLOWS))
        sys.modules.pop("cases", None)
    return found


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Left]]:
    """Runs all cases in one front end and mode, once; gives what they left."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    found: dict[Path, Left] = {}

    def run(front: str, mode: str) -> Left:
        folder = shared / f"both-{front}-{mode}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                done = python(folder, str(FLOWS / "both.py"), front, mode, check=None)
                (folder / "code").write_text(str(done.code))
                (folder / "err").write_text(done.err)
                if mode == "remote":
                    work(folder)
        return found.setdefault(folder, Left(folder))

    yield run
    for left in found.values():
        left.store.close()


@pytest.mark.parametrize(("front", "mode"), WAYS, ids=WAY_NAMES)
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.says)
def test_case(case: Any, front: str, mode: str, ran: Callable[[str, str], Left]) -> None:
    left = ran(front, mode)

    run = left.run(case.says)
    steps = left.steps(case.says)
    told = {name: (step["status"], step["reason"]) for name, step in steps.items()}
    assert {name: step["status"] for name, step in steps.items()} == case.statuses, (run["reason"], told, left.log(run)[-2000:])
    assert (run["status"], case.reason in run["reason"]) == (case.ends, True), (run["reason"], told)
    assert {name: steps[name]["attempt"] for name in case.attempts} == case.attempts
    assert {file: left.noted(file) for file in case.notes} == case.notes
    task = Task(left.store, run["id"], run["uid"])
    scalars = {
        f"{title}/{name}": [list(point) for point in zip(series["x"], series["y"], strict=True)]
        for title, group in task.get_reported_scalars().items()
        for name, series in group.items()
    }
    assert scalars == case.metrics
    assert {name: task.artifacts[name].get() for name in case.artifacts} == case.artifacts
    output = task.models["output"]
    assert {name: Path(output[name].get_weights(raise_on_error=True)).read_text() for name in output.keys()} == case.models  # noqa: SIM118


def test_nodes_speak_clearmls_words_for_how_their_steps_ended(ran: Callable[[str, str], Left]) -> None:
    left = ran("controller", "local")

    for case in cases():
        nodes = json.loads((left.folder / f"{case.says}.nodes").read_text())
        cached = {name for name, step in left.steps(case.says).items() if step["cached_from"]}
        expected = {name: "cached" if name in cached else WORDS.get(status, status) for name, status in case.statuses.items()}
        assert nodes == expected, case.says


def test_a_failed_start_locally_returns_and_the_process_exits_with_1(ran: Callable[[str, str], Left]) -> None:
    left = ran("controller", "local")

    assert (left.folder / "code").read_text() == "1"
    assert list(left.folder.glob("*.raised")) == []
    assert "error: run " in (left.folder / "err").read_text()
