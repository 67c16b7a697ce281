"""What ranges of parameters hold, and when scheduled jobs are due."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from minipipe import errors
from minipipe.sdk.automation.parameters import (
    DiscreteParameterRange,
    LogUniformParameterRange,
    Parameter,
    ParameterSet,
    RandomSeed,
    UniformIntegerParameterRange,
    UniformParameterRange,
)
from minipipe.sdk.automation.schedule import ScheduleJob

RANGES = {
    "numbers": UniformParameterRange("a/x", 0.0, 1.0, step_size=0.25),
    "open numbers": UniformParameterRange("a/x", 0.0, 1.0, 0.5, include_max_value=False),
    "powers": LogUniformParameterRange("a/x", -1, 1, base=2, step_size=1),
    "integers": UniformIntegerParameterRange("a/x", 1, 8, 3),
    "values": DiscreteParameterRange("a/x", ["u", None, 2.5]),
    "sets": ParameterSet([{"a/x": 1, "a/y": UniformIntegerParameterRange("a/y", 0, 1)}, {"a/x": 2}]),
}
LISTS: dict[str, list[Any]] = {
    "numbers": [0.0, 0.25, 0.5, 0.75, 1.0],
    "open numbers": [0.0, 0.5],
    "powers": [0.5, 1, 2],
    "integers": [1, 4, 7, 8],
    "values": ["u", None, 2.5],
}


@pytest.mark.parametrize("name", LISTS)
def test_a_range_lists_its_values(name: str) -> None:
    assert RANGES[name].to_list() == [{"a/x": value} for value in LISTS[name]]


def test_a_set_lists_the_combinations_of_its_ranges() -> None:
    assert RANGES["sets"].to_list() == [{"a/x": 1, "a/y": 0}, {"a/x": 1, "a/y": 1}, {"a/x": 2}]


@pytest.mark.parametrize("name", RANGES)
def test_what_is_drawn_lies_in_the_range_and_follows_from_the_seed(name: str) -> None:
    RandomSeed.set_random_seed(5)
    first = [dict(RANGES[name].get_value()) for _ in range(50)]
    RandomSeed.set_random_seed(5)

    assert first == [dict(RANGES[name].get_value()) for _ in range(50)]
    known = [dict(each) for each in RANGES[name].to_list()]
    extra = [{"a/x": 10}] if name == "integers" else []  # ClearML's rule: steps may reach beyond the last value
    assert all(each in [*known, *extra] for each in first) and RandomSeed.get_random_seed() == 5
    RandomSeed.set_random_seed()


@pytest.mark.parametrize("name", RANGES)
def test_a_range_survives_being_written_as_json(name: str) -> None:
    again = Parameter.from_dict(json.loads(json.dumps(RANGES[name].to_dict())))

    assert type(again) is type(RANGES[name]) and again.to_list() == RANGES[name].to_list()


def test_bad_ranges_are_refused() -> None:
    assert Parameter.from_dict({"type": "Nothing"}) is None
    for make in (
        lambda: UniformParameterRange("x", 2, 1),
        lambda: UniformIntegerParameterRange("x", 0, 5, 0),
        lambda: UniformParameterRange("x", 0, 1, -0.1),
        lambda: DiscreteParameterRange("x", []).get_value(),
        lambda: ParameterSet([]).get_value(),
    ):
        with pytest.raises(errors.UsageError):
            make()


# -- times --------------------------------------------------------------------------------------------------------------


def due(start: str, count: int = 4, late: float = 0.1, **fields: Any) -> list[str]:
    """The first times of a job that is added at `start` and launched `late` seconds after each."""
    job = ScheduleJob(
        name="n", base_task_id="x", queue="q", starting_time=datetime.fromisoformat(start).replace(tzinfo=UTC), **fields
    )
    job.verify()
    found = []
    for _ in range(count):
        time = job.next_run()
        if time is None:
            break
        found.append(f"{time:%Y-%m-%d %H:%M}")
        job.last_executed = time + timedelta(seconds=late)
    return found


START = "2026-01-31T10:10:30"  # a Saturday


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({"minute": 15}, ["2026-01-31 10:25", "2026-01-31 10:40", "2026-01-31 10:55", "2026-01-31 11:10"]),
        ({"hour": 1}, ["2026-01-31 11:00", "2026-01-31 12:00", "2026-01-31 13:00", "2026-01-31 14:00"]),
        ({"hour": 1, "minute": 30}, ["2026-01-31 10:30", "2026-01-31 11:30", "2026-01-31 12:30", "2026-01-31 13:30"]),
        ({"day": 1, "hour": 22, "minute": 30}, ["2026-01-31 22:30", "2026-02-01 22:30", "2026-02-02 22:30", "2026-02-03 22:30"]),
        ({"day": 1, "hour": 7}, ["2026-02-01 07:00", "2026-02-02 07:00", "2026-02-03 07:00", "2026-02-04 07:00"]),
        ({"day": 2, "hour": 7, "minute": 30}, ["2026-02-02 07:30", "2026-02-04 07:30", "2026-02-06 07:30", "2026-02-08 07:30"]),
        ({"month": 1, "day": 5}, ["2026-02-05 00:00", "2026-03-05 00:00", "2026-04-05 00:00", "2026-05-05 00:00"]),
        ({"month": 1, "day": 31}, ["2026-02-28 00:00", "2026-03-31 00:00", "2026-04-30 00:00", "2026-05-31 00:00"]),
        ({"year": 1, "month": 3, "day": 4}, ["2026-03-04 00:00", "2027-03-04 00:00", "2028-03-04 00:00", "2029-03-04 00:00"]),
        ({"year": 2030, "month": 2, "day": 3, "hour": 4}, ["2030-02-03 04:00"]),
        ({"recurring": False, "hour": 1}, ["2026-01-31 11:00"]),
        (
            {"day": 0, "hour": 8, "weekdays": ["saturday"]},
            ["2026-02-07 08:00", "2026-02-14 08:00", "2026-02-21 08:00", "2026-02-28 08:00"],
        ),
        (
            {"day": 0, "hour": 12, "weekdays": ["saturday", "monday"]},
            ["2026-01-31 12:00", "2026-02-02 12:00", "2026-02-07 12:00", "2026-02-09 12:00"],
        ),
        (
            {"hour": 8, "weekdays": ["saturday", "sunday"]},
            ["2026-01-31 18:00", "2026-02-01 08:00", "2026-02-01 16:00", "2026-02-07 08:00"],
        ),
    ],
    ids=lambda value: " ".join(f"{key}={each}" for key, each in value.items()) if isinstance(value, dict) else "",
)
def test_the_fields_say_when(fields: dict[str, Any], wanted: list[str]) -> None:
    assert due(START, **fields) == wanted


def test_what_was_missed_is_done_once_and_not_made_up_for() -> None:
    assert due(START, 2, late=5 * 3600, hour=1) == ["2026-01-31 11:00", "2026-01-31 17:00"]


def test_facts_and_state_survive_being_written_as_json() -> None:
    job = ScheduleJob(name="n", base_task_id="x", queue="q", hour=2, weekdays=("monday",), starting_time=datetime.now(UTC))
    job.last_executed = datetime(2026, 1, 1, tzinfo=UTC)
    again = ScheduleJob()
    again.update(json.loads(json.dumps({**job.facts(), **job.state()})))

    assert again.to_dict(full=True) == {**job.to_dict(full=True), "weekdays": ["monday"]}
    assert again.last_executed == job.last_executed
