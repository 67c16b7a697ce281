"""The two plain searches: all combinations in order, and combinations at random (ClearML's `GridSearch` and `RandomSearch`)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from minipipe.sdk.automation.job import ClearmlJob
from minipipe.sdk.automation.objective import Objective
from minipipe.sdk.automation.parameters import Parameter
from minipipe.sdk.automation.strategy import SearchStrategy

_DRAWS = 42  # in a row without a new combination: then all are taken to be known (ClearML's number)


class GridSearch(SearchStrategy):
    """Every combination of all values, in order; the last range changes fastest."""

    def __init__(
        self,
        base_task_id: str,
        hyper_parameters: Sequence[Parameter],
        objective_metric: Objective,
        execution_queue: str,
        num_concurrent_workers: int,
        pool_period_min: float = 2.0,
        time_limit_per_job: float | None = None,
        compute_time_limit: float | None = None,
        max_iteration_per_job: int | None = None,
        total_max_jobs: int | None = None,
        **_: Any,
    ) -> None:
        super().__init__(
            base_task_id,
            hyper_parameters,
            objective_metric,
            execution_queue,
            num_concurrent_workers,
            pool_period_min,
            time_limit_per_job,
            compute_time_limit,
            max_iteration_per_job=max_iteration_per_job,
            total_max_jobs=total_max_jobs,
            **_,
        )
        self._combinations = combinations(self._hyper_parameters)

    def create_job(self) -> ClearmlJob | None:
        """The next combination; None after the last one."""
        told = next(self._combinations, None)
        return None if told is None else self.helper_create_job(self._base_task_id, told)


class RandomSearch(SearchStrategy):
    """Combinations at random, none twice; it ends when new ones get rare, if no budget ends it before."""

    def __init__(
        self,
        base_task_id: str,
        hyper_parameters: Sequence[Parameter],
        objective_metric: Objective,
        execution_queue: str,
        num_concurrent_workers: int,
        pool_period_min: float = 2.0,
        time_limit_per_job: float | None = None,
        compute_time_limit: float | None = None,
        max_iteration_per_job: int | None = None,
        total_max_jobs: int | None = None,
        **_: Any,
    ) -> None:
        super().__init__(
            base_task_id,
            hyper_parameters,
            objective_metric,
            execution_queue,
            num_concurrent_workers,
            pool_period_min,
            time_limit_per_job,
            compute_time_limit,
            max_iteration_per_job=max_iteration_per_job,
            total_max_jobs=total_max_jobs,
            **_,
        )
        self._drawn: set[str] = set()

    def create_job(self) -> ClearmlJob | None:
        """A combination that was not drawn before; None if 42 draws in a row brought none."""
        told = draw(self._hyper_parameters, self._drawn)
        return None if told is None else self.helper_create_job(self._base_task_id, told)


SEARCHES: dict[str, type[SearchStrategy]] = {"GridSearch": GridSearch, "RandomSearch": RandomSearch}
"""By the name under which a search is recorded; what other modules offer enters itself."""


def combinations(ranges: Sequence[Parameter]) -> Iterator[Mapping[str, Any]]:
    """Every combination of all values, in order."""
    for parts in itertools.product(*(each.to_list() for each in ranges)):
        yield {name: value for part in parts for name, value in part.items()}


def draw(ranges: Sequence[Parameter], drawn: set[str]) -> Mapping[str, Any] | None:
    """A combination at random that is not in `drawn`, and is from then on; None if 42 draws in a row brought none."""
    for _ in range(_DRAWS):
        told = {name: value for each in ranges for name, value in each.get_value().items()}
        text = json.dumps(told, sort_keys=True, default=str)
        if told and text not in drawn:
            drawn.add(text)
            return told
    return None
