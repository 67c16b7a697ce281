"""Every case of every flow script, with its controller in its own process and as a task of a worker.

A case is a sentence of the contract; its assertions stand in the flow script, in the logic of a pipeline.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sdk.sdk_scripts import Ran, cases_of, remote_cases

FLOWS = ("arrays", "callbacks", "calls", "control", "data", "nested", "reporting")
CASES = [(flow, name, *ends) for flow in FLOWS for name, ends in cases_of(flow).items()]
every_case = pytest.mark.parametrize(("name", "case", "ends", "raises"), CASES, ids=[case for _, case, *_ in CASES])


@every_case
def test_in_local_mode(name: str, case: str, ends: str, raises: str, flow: Callable[[str, str], Ran]) -> None:
    ran = flow(name, "local")

    assert ran.left.logic(case)[0] == raises, ran.explain(case)
    assert ran.left.run(case)["status"] == ends, ran.explain(case)
    assert (ran.left.end(case)["type"] is None) == (ends == "completed"), ran.left.end(case)


def check_remotely(ran: Ran, case: str, ends: str, raises: str) -> None:
    assert ran.left.logic(case)[0] == raises, ran.explain(case)
    assert ran.left.run(case)["status"] == ends, ran.explain(case)
    assert ran.left.end(case) == {"type": "SystemExit", "code": 0}


REST = [one for one in CASES if one[1] in remote_cases(one[0], rest=True)]
DEFAULT = [one for one in CASES if one not in REST]


@pytest.mark.parametrize(("name", "case", "ends", "raises"), DEFAULT, ids=[case for _, case, *_ in DEFAULT])
def test_in_remote_mode(name: str, case: str, ends: str, raises: str, flow: Callable[[str, str], Ran]) -> None:
    check_remotely(flow(name, "remote"), case, ends, raises)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "case", "ends", "raises"), REST, ids=[case for _, case, *_ in REST])
def test_in_remote_mode_too(name: str, case: str, ends: str, raises: str, flow: Callable[[str, str], Ran]) -> None:
    check_remotely(flow(name, "rest"), case, ends, raises)
