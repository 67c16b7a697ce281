"""Every case of ``flows/copies.py``, with its controller in its own process and as a task of a worker.

A case is a sentence of the contract; its assertions stand in the flow script.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.sdk.sdk_scripts import FLOWS, Left, cases_of, python, work

CASES = {name: ends for name, (ends, _) in cases_of("copies").items()}
LIMITED = "a_pipeline_over_its_time_limit_stops_its_steps_and_fails"
# Each remote case is a process, and what most are about is the same code in a worker's child: by default every third runs.
REMOTE = [name for number, name in enumerate(CASES) if number % 3 == 0 or name == LIMITED]
REST = [name for name in CASES if name not in REMOTE]


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Left]]:
    """Runs the cases of a mode (local, remote; "rest" for those that run remotely only when all are asked for), once; gives what
    they left."""
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
                words = {"local": ["local"], "remote": ["remote", *REMOTE], "rest": ["remote", *REST]}[mode]
                done = python(folder, str(FLOWS / "copies.py"), *words, check=None)
                (folder / "said").write_text(done.out + done.err)
                if mode != "local":
                    work(folder)
        return found.setdefault(folder, Left(folder))

    yield run
    for left in found.values():
        left.store.close()


def everywhere() -> Iterator[Any]:
    """Each case in each mode."""
    for case in CASES:
        yield pytest.param(case, "local", id=f"{case}-local")
        if case in REMOTE:
            yield pytest.param(case, "remote", id=f"{case}-remote")
        else:
            yield pytest.param(case, "rest", id=f"{case}-remote", marks=pytest.mark.exhaustive)


@pytest.mark.parametrize(("case", "mode"), list(everywhere()))
def test_case(case: str, mode: str, ran: Callable[[str], Left]) -> None:
    left, ends = ran(mode), CASES[case]

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
    run = ran(mode).run(LIMITED)

    assert "ran over its time limit" in run["reason"]
