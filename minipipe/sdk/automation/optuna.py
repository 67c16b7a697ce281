"""A search by Optuna (ClearML's `OptimizerOptuna`): needs the package ``optuna``, else importing this module fails.

Optuna is asked for values and told what came of them; copies are launched, watched and ended as by every other search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna

from minipipe import errors, states
from minipipe.sdk.automation.job import ClearmlJob
from minipipe.sdk.automation.objective import Objective
from minipipe.sdk.automation.parameters import (
    DiscreteParameterRange,
    LogUniformParameterRange,
    Parameter,
    UniformIntegerParameterRange,
    UniformParameterRange,
)
from minipipe.sdk.automation.searches import SEARCHES
from minipipe.sdk.automation.strategy import SearchStrategy

_DRAWS = 42  # in a row without a new combination: then all are taken to be known


class OptimizerOptuna(SearchStrategy):
    """Values that look promising after what the others reached.

    Args:
        optuna_sampler, optuna_pruner: of the study; the pruner may stop a copy after each point of the objective (of one objective).
        min_iteration_per_job: none is pruned before.
        continue_previous_study: go on with this study.
        optuna_kwargs: accepted for ClearML.

    The others are those of `SearchStrategy`.
    """

    _many_objectives = True

    def __init__(
        self,
        base_task_id: str,
        hyper_parameters: Sequence[Parameter],
        objective_metric: Objective,
        execution_queue: str,
        num_concurrent_workers: int,
        max_iteration_per_job: int | None,
        total_max_jobs: int | None,
        pool_period_min: float = 2.0,
        min_iteration_per_job: int | None = None,
        time_limit_per_job: float | None = None,
        compute_time_limit: float | None = None,
        optuna_sampler: Any = None,
        optuna_pruner: Any = None,
        continue_previous_study: Any = None,
        **optuna_kwargs: Any,
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
            min_iteration_per_job,
            max_iteration_per_job,
            total_max_jobs,
        )
        for each in self._hyper_parameters:
            _check(each)
        directions: Any = ["minimize" if sign < 0 else "maximize" for sign in self._objective_metric.get_objective_sign()]
        self._study = continue_previous_study or optuna.create_study(
            directions=directions, sampler=optuna_sampler, pruner=optuna_pruner
        )
        self._trials: dict[str, Any] = {}
        self._pruned: set[str] = set()
        self._told: list[dict[str, Any]] = []

    def create_job(self) -> ClearmlJob | None:
        """A copy with the values of a new trial; None if 42 trials in a row repeat earlier ones."""
        for _ in range(_DRAWS):
            trial = self._study.ask()
            told = {str(each.name): _suggest(trial, each) for each in self._hyper_parameters}
            if told not in self._told:
                self._told.append(told)
                job = self.helper_create_job(self._base_task_id, told)
                self._trials[job.task_id()] = trial
                return job
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return None

    def monitor_job(self, job: ClearmlJob) -> bool:
        """See `SearchStrategy.monitor_job`; the trial hears of new points and of the end."""
        goes_on = super().monitor_job(job)
        trial = self._trials.get(job.task_id())
        if trial is None:
            return goes_on
        if goes_on and self._objective_metric.len == 1 and self._is_hopeless(job, trial):
            self._pruned.add(job.task_id())
            job._stop("Optuna expects nothing good of it")
        if not goes_on:
            del self._trials[job.task_id()]
            values = self._objective_metric.get_objective(job)
            usable = values is not None and all(map(math.isfinite, values)) and job.status() != states.FAILED
            if job.task_id() in self._pruned:
                self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            elif usable:
                self._study.tell(trial, values)
            else:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return goes_on

    def _is_hopeless(self, job: ClearmlJob, trial: Any) -> bool:
        point = self._objective_metric.objectives[0].get_current_raw_objective(job)
        if point is None or not math.isfinite(point[1]) or job.task_id() in self._pruned:
            return False
        trial.report(point[1], point[0])
        return bool(trial.should_prune()) and point[0] >= (self.min_iteration_per_job or 0)

    def _patience_s(self) -> float:
        """A pruner has to see points soon."""
        return min(super()._patience_s(), 0.5)


SEARCHES[OptimizerOptuna.__name__] = OptimizerOptuna


def _suggest(trial: Any, each: Parameter) -> Any:
    name = str(each.name)
    if isinstance(each, LogUniformParameterRange):
        return trial.suggest_float(name, each.base**each.min_value, each.base**each.max_value, log=True)
    if isinstance(each, UniformParameterRange):
        high = _last_step(each.min_value, each.max_value, each.step_size, each.include_max)
        return trial.suggest_float(name, each.min_value, high, step=each.step_size)
    if isinstance(each, UniformIntegerParameterRange):
        high = int(_last_step(each.min_value, each.max_value, each.step_size, each.include_max))
        return trial.suggest_int(name, each.min_value, high, step=each.step_size)
    assert isinstance(each, DiscreteParameterRange)
    values = list(each.values)
    return values[trial.suggest_categorical(name, range(len(values)))]


def _last_step(low: float, high: float, step: float | None, include: bool) -> float:
    """The largest value that is a whole number of steps away from `low`: Optuna wants its limit to be one."""
    if not step:
        return high
    count = math.floor((high - low) / step + 1e-9)
    reached = low + count * step
    return reached - step if not include and count and math.isclose(reached, high) else reached


def _check(each: Parameter) -> None:
    known = (UniformParameterRange, UniformIntegerParameterRange, DiscreteParameterRange)
    if not isinstance(each, known):
        raise errors.UsageError(
            f"Optuna cannot search a {type(each).__name__}", hint="ranges of numbers, or DiscreteParameterRange"
        )
    if isinstance(each, DiscreteParameterRange) and not each.values:
        raise errors.UsageError(f"range {each.name!r} has no values")
