"""Every case of ``flows/copies.py``, with its controller in its own process and as a task of a worker.

A case is a sentence of the contract; its assertions stand in the flow script.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.sdk.sdk_scripts import FLOWS, Left, cases_of, python, work

CASES = {name: ends for name, (ends, _) in cases_of("copies").items()}


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Left]]:
    """Runs all cases in one mode, once; gives what they left."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    found: dict[Path, Left] = {}

    def run(mode: str) -> Left:
        folder = shared / f"copies-{mode}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                folder.mkdir()
                python(folder, str(FLOWS / "template.py"))
                python(folder, str(FLOWS / "copies.py"), "template")
                python(folder, str(FLOWS / "copies.py"), "inner")
                done = python(folder, str(FLOWS / "copies.py"), mode, check=None)
                (folder / "said").write_text(done.out + done.err)
                if mode == "remote":
                    work(folder)
        return found.setdefault(folder, Left(folder))

    yield run
    for left in found.values():
        left.store.close()


@pytest.mark.parametrize("mode", ["local", "remote"])
@pytest.mark.parametrize(("case", "ends"), CASES.items(), ids=CASES)
def test_case(case: str, ends: str, mode: str, ran: Callable[[str], Left]) -> None:
    left = ran(mode)

    run = left.run(case)
    steps = {name: (step["status"], step["reason"]) for name, step in left.steps(case).items()}
    logic = left.folder / f"{case}.logic"
    assert logic.exists(), (
        run["status"],
        run["reason"],
        steps,
        left.log(run)[-3000:],
        (left.folder / "said").read_text()[-3000:],
    )
    assert logic.read_text().strip() == "", (run["reason"], steps)
    assert run["status"] == ends, (run["reason"], steps)


@pytest.mark.parametrize("mode", ["local", "remote"])
def test_the_reason_of_a_run_names_its_time_limit(mode: str, ran: Callable[[str], Left]) -> None:
    run = ran(mode).run("a_pipeline_over_its_time_limit_stops_its_steps_and_fails")

    assert "ran over its time limit" in run["reason"]
