"""Ranges hold and draw what ClearML's do, and jobs are due when ClearML's are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from minipipe.sdk.automation import parameters
from minipipe.sdk.automation.schedule import ScheduleJob
from minipipe.sdk.automation.searches import combinations
from tests.conformance import oracle

pytestmark = pytest.mark.conformance

RANGES: list[list[Any]] = [
    ["UniformParameterRange", {"name": "a", "min_value": 0, "max_value": 1, "step_size": step, "include_max_value": last}]
    for step in (None, 0.1, 0.3, 0.25)
    for last in (True, False)
]
RANGES += [
    ["LogUniformParameterRange", {"name": "a", "min_value": -3, "max_value": 1, "base": base, "step_size": step}]
    for base in (10, 2)
    for step in (None, 0.5)
]
RANGES += [
    ["UniformIntegerParameterRange", {"name": "a", "min_value": 1, "max_value": 10, "step_size": step, "include_max_value": last}]
    for step in (1, 3, 4)
    for last in (True, False)
]
RANGES += [
    ["DiscreteParameterRange", {"name": "a", "values": [1, "two", None, 4.5]}],
    [
        "ParameterSet",
        {
            "parameter_combinations": [
                {"x": 1, "y": ["UniformIntegerParameterRange", {"name": "y", "min_value": 0, "max_value": 2}]},
                {"x": 2, "y": ["DiscreteParameterRange", {"name": "y", "values": [7, 8]}], "z": 3},
            ]
        },
    ],
]
JOBS: list[dict[str, Any]] = [
    {"minute": 15},
    {"hour": 1},
    {"hour": 2},
    {"hour": 1, "minute": 30},
    {"hour": 3, "minute": 5},
    {"day": 1, "hour": 22, "minute": 30},
    {"day": 1, "hour": 7},
    {"day": 2, "hour": 7, "minute": 30},
    {"day": 0, "hour": 8, "minute": 30, "weekdays": ["saturday"]},
    {"day": 1, "hour": 8, "weekdays": ["wednesday"]},
    {"month": 1, "day": 5},
    {"month": 2, "day": 20, "hour": 4},
    {"year": 1, "month": 3, "day": 4},
    {"year": 1, "month": 1, "day": 4},
    {"year": 2031, "month": 2, "day": 3, "hour": 1},
    {"hour": 1, "recurring": False},
]
START, COUNT = "2026-01-28T10:10:30", 6


def made(spec: Any) -> Any:
    if isinstance(spec, list) and len(spec) == 2 and isinstance(spec[0], str) and hasattr(parameters, spec[0]):
        return getattr(parameters, spec[0])(**{name: made(value) for name, value in spec[1].items()})
    if isinstance(spec, dict):
        return {name: made(value) for name, value in spec.items()}
    return [made(each) for each in spec] if isinstance(spec, list) else spec


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    asked = {"ranges": RANGES, "seed": 7, "draws": 20, "jobs": JOBS, "start": START, "count": COUNT}
    found: dict[str, Any] = oracle.ask("ranges_and_times.py", asked, tmp_path_factory.mktemp("real"))
    return found


def test_ranges_hold_what_clearmls_do(real: dict[str, Any]) -> None:
    assert [list(made(spec).to_list()) for spec in RANGES] == real["lists"]


def test_ranges_draw_what_clearmls_draw_in_the_same_order(real: dict[str, Any]) -> None:
    parameters.RandomSeed.set_random_seed(7)

    assert [[made(spec).get_value() for _ in range(20)] for spec in RANGES] == real["drawn"]
    parameters.RandomSeed.set_random_seed()


def test_ranges_are_described_as_clearmls_are(real: dict[str, Any]) -> None:
    assert [made(spec).to_dict() for spec in RANGES if spec[0] != "ParameterSet"] == real["dicts"]
    assert len(list(combinations([made(spec) for spec in RANGES[-2:]]))) == 4 * 5


@pytest.mark.parametrize("number", range(len(JOBS)), ids=[str(job) for job in JOBS])
def test_jobs_are_due_when_clearmls_are(number: int, real: dict[str, Any]) -> None:
    start = datetime.fromisoformat(START).replace(tzinfo=UTC)
    job = ScheduleJob(name="n", base_task_id="x", queue="q", starting_time=start, **JOBS[number])
    found = []
    for _ in range(COUNT):
        time = job.next_run()
        if time is None:
            break
        found.append(time.isoformat())
        job.last_executed = time + timedelta(seconds=0.1)

    assert found == real["times"][number][: len(found)] and len(found) == len(real["times"][number])


def test_the_checks_of_this_file_bite(tmp_path: Path) -> None:
    assert made(RANGES[0]).to_list() != made(RANGES[1]).to_list()
