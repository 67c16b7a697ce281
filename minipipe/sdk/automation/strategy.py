"""How a search goes on: which values the next task is told, how many run at once, when to stop (ClearML's `SearchStrategy`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minipipe import errors, states
from minipipe.sdk.automation.job import ClearmlJob
from minipipe.sdk.automation.objective import MultiObjective, Objective
from minipipe.sdk.automation.parameters import Parameter
from minipipe.sdk.task import Task
from minipipe.sdk.values import tags_of
from minipipe.shown import warn
from minipipe.store import objectives, records, waiting

_TICK_S = 0.05  # how soon `stop` is heard
_ITERATIONS_S = 0.5  # how soon an iteration limit is seen: metrics come without a change of status


class Budget:
    """What a search may use, and what each of its tasks has used.

    Args:
        jobs_limit: number of tasks.
        iterations_limit: sum of their iterations.
        compute_time_limit: sum of their minutes.
    """

    class Field:
        """One kind of use: task -> amount, and the limit of their sum."""

        def __init__(self, limit: float | None = None) -> None:
            self.limit = limit
            self.current: dict[str, float] = {}

        def update(self, uid: str | int, value: float) -> None:
            """Say how much a task has used so far."""
            if value is not None:
                self.current[str(uid)] = float(value)

        @property
        def used(self) -> float | None:
            """The part of the limit that is used, 1.0 for all of it; None without a limit or use (ClearML's rule)."""
            return sum(self.current.values()) / float(self.limit) if self.limit and self.current else None

    def __init__(self, jobs_limit: int | None, iterations_limit: int | None, compute_time_limit: float | None) -> None:
        self.jobs = self.Field(jobs_limit)
        self.iterations = self.Field(iterations_limit)
        self.compute_time = self.Field(compute_time_limit)

    def to_dict(self) -> Mapping[str, Mapping[str, float]]:
        """``{"jobs": {"limit": …, "used": …}, …}``."""
        fields = {"jobs": self.jobs, "iterations": self.iterations, "compute_time": self.compute_time}
        return {name: {"limit": field.limit, "used": field.used or 0} for name, field in fields.items()}  # type: ignore[dict-item]


class SearchStrategy:
    """What all searches have in common; a search says in `create_job` what comes next.

    Args:
        base_task_id: id of the task to copy.
        hyper_parameters: ranges.
        objective_metric: what should be large or small.
        execution_queue: where the copies go.
        num_concurrent_workers: copies at a time.
        pool_period_min: minutes between two looks at the latest; an ending is seen at once.
        time_limit_per_job: minutes; a longer one is stopped.
        compute_time_limit: minutes of all copies together; then none starts any more and the running ones are stopped.
        min_iteration_per_job: for strategies that stop hopeless copies early.
        max_iteration_per_job: a copy that reports more is stopped.
        total_max_jobs: copies in all.

    Raises:
        ValueError: no such task, or less than one copy at a time.
    """

    _tag = "optimization"

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
        min_iteration_per_job: int | None = None,
        max_iteration_per_job: int | None = None,
        total_max_jobs: int | None = None,
        **_: Any,
    ) -> None:
        if num_concurrent_workers < 1:
            raise errors.UsageError(f"{num_concurrent_workers} copies at a time are none", hint="at least 1")
        self.pool_period_minutes = pool_period_min
        self.time_limit_per_job = time_limit_per_job
        self.compute_time_limit = compute_time_limit
        self.min_iteration_per_job = min_iteration_per_job
        self.max_iteration_per_job = max_iteration_per_job
        self.total_max_jobs = total_max_jobs
        most = total_max_jobs * max_iteration_per_job if total_max_jobs and max_iteration_per_job else None
        self.budget = Budget(total_max_jobs, most, compute_time_limit)
        self._base_task_id = base_task_id
        self._hyper_parameters = list(hyper_parameters)
        one = isinstance(objective_metric, Objective)
        self._objective_metric: MultiObjective = _as_many(objective_metric) if one else objective_metric  # type: ignore[assignment]
        self._execution_queue = execution_queue
        self._num_concurrent_workers = num_concurrent_workers
        self._job_class: type[ClearmlJob] = ClearmlJob
        self._parent: str | None = None
        self._project: str | None = None
        self._naming: Callable[[str, dict[str, Any]], str] | None = None
        self._optimizer_task: Task | None = None
        self._stop = threading.Event()
        self._running: list[ClearmlJob] = []
        self._created: dict[str, tuple[ClearmlJob, dict[str, Any]]] = {}
        self._aborted: set[str] = set()
        self._launched = 0
        self._base = Task.by_id(str(base_task_id))
        self._check_base()

    def _check_base(self) -> None:
        """Say what looks like a typing error; what a task does not report yet it may report later."""
        names = {f"{row['section']}/{row['name']}" for row in records.parameters(self._base.store, self._base.row_id)}
        unknown = [each.name for each in self._hyper_parameters if each.name and each.name not in names]
        if unknown:
            known = ", ".join(sorted(names)) or "none"
            warn(f"task {self._base.id[:8]} has no parameter {', '.join(unknown)}; it has {known}", stacklevel=4)

    # -- the loop -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Search until nothing is left to do or `stop` is called; blocks."""
        while self.process_step():
            waiting.wait(self._base.store, self._something_ended, self._patience_s(), lambda: None, _TICK_S)
            if self._stop.is_set():
                break

    def _something_ended(self) -> bool:
        return self._stop.is_set() or objectives.anything_ended(self._base.store, [job.task.row_id for job in self._running])

    def _patience_s(self) -> float:
        """Seconds until the next look if nothing ends."""
        waits = [self.pool_period_minutes * 60.0]
        if self.max_iteration_per_job:
            waits.append(_ITERATIONS_S)
        if self.time_limit_per_job:
            waits += [self.time_limit_per_job * 60.0 - job.elapsed() for job in self._running if job.started()]
        if self.compute_time_limit:
            waits.append((self.compute_time_limit - sum(self.budget.compute_time.current.values())) * 60.0)
        return max(min(waits), 0.02)

    def stop(self) -> None:
        """End `start` soon. What runs goes on (`HyperParameterOptimizer.stop` ends it)."""
        self._stop.set()

    def process_step(self) -> bool:
        """Look at the running copies and launch new ones. Returns False if nothing runs any more."""
        self._running = [job for job in self._running if self.monitor_job(job)]
        for task_id, (job, _) in self._created.items():
            if task_id not in self.budget.jobs.current and not job.is_pending():
                self.budget.jobs.update(task_id, 1)
        if self._used_up():
            self._abort("the time of all copies is used up")
        elif not self._stop.is_set():
            self._launch_more()
        return bool(self._running)

    def _launch_more(self) -> None:
        while len(self._running) < self._num_concurrent_workers:
            if self.total_max_jobs and self._launched >= self.total_max_jobs:
                break
            job = self.create_job()
            if not job:
                break
            if job.launch(self._execution_queue):
                self._running.append(job)
            elif not job.is_cached_task():
                job.abort()
                raise errors.UsageError(
                    f"copy {job.task_id()[:8]} could not be launched into queue {self._execution_queue!r}", "a warning said why"
                )
            self._launched += 1

    def _abort(self, reason: str) -> None:
        """Stop what waits or runs, each once; it counts as running until it has ended."""
        for job in self._running:
            if job.task_id() not in self._aborted:
                self._aborted.add(job.task_id())
                job._stop(reason)

    def _used_up(self) -> bool:
        used = self.budget.compute_time.used
        return bool(self.compute_time_limit and used is not None and used >= 1.0)

    def create_job(self) -> ClearmlJob | None:
        """The next copy, not launched yet; None if there is none (now). Made with `helper_create_job`."""
        return None

    def monitor_job(self, job: ClearmlJob) -> bool:
        """Stop a copy that used too much. Returns True while it has not ended."""
        if self.update_budget_per_job(job) and job.task_id() not in self._aborted:
            self._aborted.add(job.task_id())
            job._stop("it took longer, or reported more, than its search allows")
        return not job.is_stopped()

    def update_budget_per_job(self, job: ClearmlJob) -> bool:
        """Note what a copy has used. Returns True if that is too much for one."""
        too_much = False
        minutes = job.elapsed() / 60.0
        if minutes > 0 and (self.time_limit_per_job or self.compute_time_limit):
            self.budget.compute_time.update(job.task_id(), minutes)
            too_much = bool(self.time_limit_per_job and minutes > self.time_limit_per_job)
        if self.max_iteration_per_job:
            iterations = self._iterations(job)
            if iterations > 0:
                self.budget.iterations.update(job.task_id(), iterations)
                too_much = too_much or iterations > self.max_iteration_per_job
        return too_much and not job.is_stopped()

    def _iterations(self, job: ClearmlJob) -> int:
        """The iteration of the objective's last point, -1 without one."""
        points = [one.get_current_raw_objective(job) for one in self._objective_metric.objectives]
        return max((point[0] for point in points if point is not None), default=-1)

    # -- what there is ------------------------------------------------------------------------------------------------

    def get_running_jobs(self) -> Sequence[ClearmlJob]:
        """Copies that were launched and have not ended."""
        return [job for job in list(self._running) if not job.is_stopped()]

    def get_created_jobs_ids(self) -> Mapping[str, dict[str, Any]]:
        """Task id -> what it was told, of all copies."""
        return {task_id: told for task_id, (_, told) in self._created.items()}

    def get_created_jobs_tasks(self) -> Mapping[str, dict[str, Any]]:
        """Task id -> job, of all copies."""
        return {task_id: job for task_id, (job, _) in self._created.items()}  # type: ignore[misc]  # ClearML's signature says dict

    def get_top_experiments(self, top_k: int) -> Sequence[Task]:
        """The best tasks, best first."""
        return self._objective_metric.get_top_tasks(top_k, self._parent or self._base_task_id)

    def get_top_experiments_id_metrics_pair(
        self, top_k: int, all_metrics: bool = False, only_completed: bool = False
    ) -> Sequence[str | dict[str, Any]]:
        """[(task id, {"title/series": facts})], best first.

        Args:
            top_k: at most so many.
            all_metrics: all metrics, not only the objective's.
            only_completed: leave out tasks that did not complete.
        """
        found = self.get_top_experiments_details(top_k, all_metrics, only_completed=only_completed)
        return [(one["task_id"], one["metrics"]) for one in found]  # type: ignore[index,misc]

    def get_top_experiments_details(
        self,
        top_k: int,
        all_metrics: bool = False,
        all_hyper_parameters: bool = False,
        only_completed: bool = False,
    ) -> Sequence[str | dict[str, Any]]:
        """[{"task_id": …, "hyper_parameters": {…}, "metrics": {"title/series": facts}}], best first.

        Args:
            top_k: at most so many.
            all_metrics: all metrics, not only the objective's.
            all_hyper_parameters: all parameters, not only those that are searched.
            only_completed: leave out tasks that did not complete.
        """
        wanted = {"status": [states.COMPLETED]} if only_completed else None
        best = self._objective_metric.get_top_tasks(top_k, self._parent or self._base_task_id, wanted)
        metrics = objectives.reached(self._base.store, [task.row_id for task in best])
        pairs = set(self._objective_metric.get_objective_metric())
        searched = {each.name for each in self._hyper_parameters}
        return [
            {
                "task_id": task.id,
                "hyper_parameters": {
                    name: text for name, text in task.get_parameters().items() if all_hyper_parameters or name in searched
                },
                "metrics": {
                    f"{one.title}/{one.series}": _facts(one)
                    for one in metrics.get(task.row_id, ())
                    if all_metrics or (one.title, one.series) in pairs
                },
            }
            for task in best
        ]

    def get_objective_metric(self) -> tuple[str, str] | list[tuple[str, str]]:
        """(title, series); a list of them if there are several objectives."""
        found = self._objective_metric.get_objective_metric()
        return found[0] if len(found) == 1 else found

    # -- making copies ------------------------------------------------------------------------------------------------

    def helper_create_job(
        self,
        base_task_id: str,
        parameter_override: Mapping[str, str] | None = None,
        task_overrides: Mapping[str, str] | None = None,
        tags: Sequence[str] | None = None,
        parent: str | None = None,
        **kwargs: Any,
    ) -> ClearmlJob:
        """A copy of a task under the optimiser, named after what it is told and tagged ``optimization``.

        Args:
            base_task_id, parameter_override, task_overrides, tags, parent, kwargs: as for `ClearmlJob`.

        Transaction effect: some durable commits; the copy is a draft.
        """
        told = dict(parameter_override or {})
        words = [f"{name}={told[name]}" for name in sorted(told)]
        names: dict[str, Any] = {}
        if told:
            name = self._naming(self._base.name, told) if self._naming else f"{self._base.name}: {' '.join(words)}"
            names = {"name": name, "comment": "\n".join(words)}
        owner = parent or self._parent
        labels = [*tags_of(tags), self._tag, f"opt: {self._parent}" if self._parent else "opt"]
        project = self._project or (Task.by_id(owner).get_project_name() if owner else None)
        job = self._job_class(
            base_task_id,
            parameter_override=told or None,
            task_overrides=task_overrides,
            tags=labels,
            parent=owner,
            **{**names, "project": project, **kwargs},
        )
        self._created[job.task_id()] = (job, told)
        return job

    def set_job_class(self, job_class: ClearmlJob) -> None:
        """What copies are: `ClearmlJob`, `LocalClearmlJob` or a class of your own."""
        self._job_class = job_class  # type: ignore[assignment]  # ClearML's signature says an object, and means a class

    def set_job_default_parent(self, job_parent_task_id: str | None, project_name: str | None = None) -> None:
        """Under which task copies are put, and in which project (default the parent's)."""
        self._parent, self._project = job_parent_task_id, project_name

    def set_job_naming_scheme(self, naming_function: Callable[[str, dict[str, Any]], str] | None) -> None:
        """How copies are called: (name of the task, what it is told) -> name."""
        self._naming = naming_function

    def set_optimizer_task(self, task: Task) -> None:
        """The task that the search itself belongs to."""
        self._optimizer_task = task


def _as_many(one: Objective) -> MultiObjective:
    many = MultiObjective([one.title], [one.series], ["min" if one.sign < 0 else "max"], [one.extremum])
    many.objectives = [one]
    return many


def _facts(one: objectives.Reached) -> dict[str, Any]:
    """A metric in ClearML's words."""
    return {
        "metric": one.title,
        "variant": one.series,
        "value": one.last,
        "min_value": one.smallest,
        "max_value": one.largest,
        "count": one.count,
    }
