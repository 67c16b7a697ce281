"""Run by the Python of the real ClearML's environment: what its ranges hold and draw, and when its scheduled jobs are due.

It reads ``{"ranges": [[class, arguments]], "seed": …, "draws": …, "jobs": [fields], "start": …, "count": …}``.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from clearml.automation import parameters
from clearml.automation.scheduler import ScheduleJob


def made(spec: Any) -> Any:
    """A range, or a set of them, from ``[class, arguments]``."""
    if isinstance(spec, list) and len(spec) == 2 and isinstance(spec[0], str) and hasattr(parameters, spec[0]):
        return getattr(parameters, spec[0])(**{name: made(value) for name, value in spec[1].items()})
    if isinstance(spec, dict):
        return {name: made(value) for name, value in spec.items()}
    return [made(each) for each in spec] if isinstance(spec, list) else spec


def times(fields: dict[str, Any], start: str, count: int) -> list[str]:
    """The first times of a job that is launched a tenth of a second after each."""
    begin = datetime.fromisoformat(start).replace(tzinfo=UTC)
    job = ScheduleJob(name="n", base_task_id="x", queue="q", starting_time=begin, **fields)
    job.verify()
    found = []
    for _ in range(count):
        time = job.next()
        if time is None:
            break
        found.append(time.isoformat())
        job._schedule_counter += 1
        job._last_executed = time + timedelta(seconds=0.1)
    return found


def main() -> None:
    """Answer."""
    asked = json.load(sys.stdin)
    parameters.RandomSeed.set_random_seed(asked["seed"])
    ranges = [made(spec) for spec in asked["ranges"]]
    answer = {
        "lists": [one.to_list() for one in ranges],
        "drawn": [[one.get_value() for _ in range(asked["draws"])] for one in ranges],
        "dicts": [one.to_dict() for one in ranges if not isinstance(one, parameters.ParameterSet)],
        "times": [times(fields, asked["start"], asked["count"]) for fields in asked["jobs"]],
    }
    print("READ:" + json.dumps(answer))


if __name__ == "__main__":
    main()
