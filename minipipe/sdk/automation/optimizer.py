"""A search for good parameters of a task, in the background of a script (ClearML's `HyperParameterOptimizer`)."""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from minipipe import errors, settings, states
from minipipe.sdk.automation.job import ClearmlJob, LocalClearmlJob
from minipipe.sdk.automation.objective import MultiObjective, Objective
from minipipe.sdk.automation.parameters import Parameter
from minipipe.sdk.automation.searches import SEARCHES, RandomSearch
from minipipe.sdk.automation.strategy import SearchStrategy
from minipipe.sdk.automation.summary import Summary
from minipipe.sdk.task import Task
from minipipe.shown import warn
from minipipe.store import waiting

JobCallback = Callable[[str, float, int, dict[str, Any], str], None]

_TICK_S = 0.05
_JOIN_S = 60.0
_SETTLE_S = 5.0  # beyond the grace: for whoever has to notice
_SPACE = "parameter_optimization_space"
_SIGNS = ("min", "max", "min_global", "max_global")


class HyperParameterOptimizer:
    """Copies a task again and again, each time with other parameters, and keeps track of the best.

    Args:
        base_task_id: id of the task to copy.
        hyper_parameters: ranges to search.
        objective_metric_title, objective_metric_series: the metric that counts; lists for several (with Optuna).
        objective_metric_sign: "min", "max", or "min_global", "max_global" for the best value ever reported instead of the last.
        optimizer_class: `GridSearch`, `RandomSearch`, `OptimizerOptuna`, a class of your own, or an object of one.
        max_number_of_concurrent_tasks: copies at a time.
        execution_queue: where they go.
        optimization_time_limit: minutes; then the search stops what runs and ends.
        compute_time_limit: minutes of all copies together.
        auto_connect_task: record the search on the current task (True) or on the one given, where a clone of it can change it.
        always_create_task: begin a task for the search if there is none.
        spawn_project: project of the copies; default that of the search's task.
        save_top_k_tasks_only: archive all but the best so many.
        optimizer_kwargs: of the search: ``total_max_jobs``, ``time_limit_per_job`` (minutes), ``max_iteration_per_job``,
            ``pool_period_min`` …

    Raises:
        TypeError: title, series and sign are not all texts or all lists.
        UsageError: lists of different lengths, an unknown sign, several objectives without Optuna.
        NotFound: no such task.

    Transaction effect: some durable commits (the search is recorded).
    """

    _tag = "optimization"

    def __init__(
        self,
        base_task_id: str,
        hyper_parameters: Sequence[Parameter],
        objective_metric_title: str | Sequence[str],
        objective_metric_series: str | Sequence[str],
        objective_metric_sign: str | Sequence[str] = "min",
        optimizer_class: SearchStrategy | type[SearchStrategy] = RandomSearch,
        max_number_of_concurrent_tasks: int = 10,
        execution_queue: str = "default",
        optimization_time_limit: float | None = None,
        compute_time_limit: float | None = None,
        auto_connect_task: bool | Task = True,
        always_create_task: bool = False,
        spawn_project: str | None = None,
        save_top_k_tasks_only: int | None = None,
        **optimizer_kwargs: Any,
    ) -> None:
        titles, series, signs = _as_lists(objective_metric_title, objective_metric_series, objective_metric_sign)
        self._task = _task_of(auto_connect_task, always_create_task, base_task_id)
        options: dict[str, Any] = {
            "base_task_id": base_task_id,
            "objective_metric_title": titles,
            "objective_metric_series": series,
            "objective_metric_sign": signs,
            "max_number_of_concurrent_tasks": max_number_of_concurrent_tasks,
            "execution_queue": execution_queue,
            "optimization_time_limit": optimization_time_limit,
            "compute_time_limit": compute_time_limit,
            "optimizer_kwargs": optimizer_kwargs,
        }
        if self._task is not None and self._task.status in (states.CREATED, states.IN_PROGRESS):
            self._task.add_tags([self._tag])
            if auto_connect_task:
                optimizer_class, hyper_parameters, options = _connected(self._task, optimizer_class, hyper_parameters, options)
        self.base_task_id = str(options["base_task_id"])
        self.hyper_parameters = hyper_parameters
        self.max_number_of_concurrent_tasks = int(options["max_number_of_concurrent_tasks"])
        self.execution_queue = str(options["execution_queue"])
        self._objective_metric = _objective(options)
        if self._objective_metric.len > 1 and not getattr(optimizer_class, "_many_objectives", False):
            raise errors.UsageError(
                "several objectives need Optuna", hint="optimizer_class=OptimizerOptuna (pip install 'minipipe-runner[hpo]')"
            )
        self.optimizer = self._search(optimizer_class, options)
        if self._task is not None:
            self.optimizer.set_optimizer_task(self._task)
        self.optimizer.set_job_default_parent(self._task.id if self._task else None, spawn_project or None)
        self.optimization_timeout: float | None = None
        self.optimization_start_time: float | None = None
        self._keep = max(0, save_top_k_tasks_only or 0)
        self._report_period_min = 5.0
        self._stop_event = threading.Event()
        self._thread: threading.Thread | None = None
        self._reporter: threading.Thread | None = None
        self._error: BaseException | None = None
        self.set_time_limit(options["optimization_time_limit"])

    def _search(self, wanted: Any, options: dict[str, Any]) -> SearchStrategy:
        if not isinstance(wanted, type):
            found: SearchStrategy = wanted
            return found
        made: SearchStrategy = wanted(
            base_task_id=self.base_task_id,
            hyper_parameters=self.hyper_parameters,
            objective_metric=self._objective_metric,
            execution_queue=self.execution_queue,
            num_concurrent_workers=self.max_number_of_concurrent_tasks,
            compute_time_limit=options["compute_time_limit"],
            **(options["optimizer_kwargs"] or {}),
        )
        return made

    # -- running ------------------------------------------------------------------------------------------------------

    def start_locally(self, job_complete_callback: JobCallback | None = None) -> bool:
        """As `start`, but the copies run on this machine without a worker or queue."""
        self.optimizer.set_job_class(LocalClearmlJob)  # type: ignore[arg-type]
        return self.start(job_complete_callback)

    def start(self, job_complete_callback: JobCallback | None = None) -> bool:
        """Begin the search in the background and return at once.

        Args:
            job_complete_callback: called in a thread of its own for each copy that ended with a value:
                ``(job_id, objective_value, objective_iteration, job_parameters, top_performance_job_id)``; lists of values and
                iterations if there are several objectives.

        Returns:
            True.
        """
        if self._thread is not None:
            return True
        self.optimization_start_time = time.time()
        self._stop_event.clear()
        summary = Summary(self.optimizer, self._objective_metric, self._task, job_complete_callback, self._keep)
        self._thread = threading.Thread(target=self._run, name="minipipe-search", daemon=True)
        self._reporter = threading.Thread(
            target=self._report, args=(summary, self._thread), name="minipipe-search-report", daemon=True
        )
        self._thread.start()
        self._reporter.start()
        return True

    def _run(self) -> None:
        try:
            self.optimizer.start()
        except errors.AttemptLost:
            pass  # the search's own task was stopped
        except BaseException as error:
            self._error = error

    def _report(self, summary: Summary, search: threading.Thread) -> None:
        """Tell of what ended, until the search is over; stop it at its time limit."""
        store = Task.by_id(self.base_task_id).store

        def news() -> bool:
            return not search.is_alive() or self._stop_event.is_set() or summary.has_news() or self.reached_time_limit()

        try:
            while search.is_alive():
                waiting.wait(store, news, self._report_period_min * 60.0, lambda: None, _TICK_S)
                if self.reached_time_limit():
                    self._end(search)
                summary.update(self._time_left())
            summary.update(self._time_left(), last=True)
        except errors.AttemptLost:
            self._end(search)  # the search's own task has ended: nobody wants to know

    def _end(self, search: threading.Thread, timeout_s: float | None = None) -> None:
        self._stop_event.set()
        self.optimizer.stop()
        if timeout_s is not None:
            search.join(timeout_s)
        if threading.current_thread() is not search:
            search.join(_JOIN_S)  # it launches nothing any more
        self.optimizer._abort("its search was stopped")
        store, grace_s = self.optimizer._base.store, settings.load_settings().grace_s
        waiting.wait(store, lambda: not self.optimizer.get_running_jobs(), grace_s + _SETTLE_S)

    def stop(self, timeout: float | None = None, wait_for_reporter: bool | None = True) -> None:
        """End the search: copies that wait or run are stopped. Does nothing if it has ended.

        Args:
            timeout: minutes that running copies are given to end by themselves first.
            wait_for_reporter: return only when the last summary is written.
        """
        search, reporter = self._thread, self._reporter
        if search is not None:
            self._end(search, None if timeout is None else timeout * 60.0)
            self._thread = None
        if reporter is not None and wait_for_reporter and threading.current_thread() is not reporter:
            reporter.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the search (its time limit ends it, too).

        Args:
            timeout: minutes, None waits for ever.

        Returns:
            True if it has ended.

        Raises:
            Exception: what the search died of, as it was raised.
        """
        end = None if timeout is None else time.monotonic() + timeout * 60.0
        for thread in (self._thread, self._reporter):
            if thread is not None and thread is not threading.current_thread():
                thread.join(None if end is None else max(0.0, end - time.monotonic()))
                if thread.is_alive():
                    return False
        self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return True

    def is_active(self) -> bool:
        """True before the start and while it runs (ClearML's rule)."""
        return self.optimization_start_time is None or self.is_running()

    def is_running(self) -> bool:
        """True from `start` until the search has ended or was stopped."""
        return self._thread is not None and self._thread.is_alive()

    def elapsed(self) -> float:
        """Minutes since the start; -1 before."""
        return -1.0 if self.optimization_start_time is None else (time.time() - self.optimization_start_time) / 60.0

    # -- limits -------------------------------------------------------------------------------------------------------

    def set_time_limit(self, in_minutes: float | None = None, specific_time: datetime.datetime | None = None) -> None:
        """Stop the search after so many minutes from now, or at a time of day; None for no limit."""
        if specific_time is not None:
            self.optimization_timeout = specific_time.timestamp()
        else:
            self.optimization_timeout = time.time() + float(in_minutes) * 60.0 if in_minutes else None

    def get_time_limit(self) -> datetime.datetime:
        """When the search is stopped, local time; None without a limit."""
        if self.optimization_timeout is None:
            return None  # type: ignore[return-value]  # ClearML's signature promises a time
        return datetime.datetime.fromtimestamp(self.optimization_timeout)

    def reached_time_limit(self) -> bool:
        """True if it runs and its time is over."""
        return self.optimization_timeout is not None and self.is_running() and time.time() > self.optimization_timeout

    def _time_left(self) -> float | None:
        """The part of the time that is left, 0 to 1; None without a limit."""
        if self.optimization_timeout is None or self.optimization_start_time is None:
            return None
        whole = self.optimization_timeout - self.optimization_start_time
        return max(0.0, (self.optimization_timeout - time.time()) / whole) if whole > 0 else 0.0

    def set_report_period(self, report_period_minutes: float) -> None:
        """Write the summary so often at least; it is also written when a copy ends."""
        self._report_period_min = float(report_period_minutes)

    # -- results ------------------------------------------------------------------------------------------------------

    def get_num_active_experiments(self) -> int:
        """How many copies were launched and have not ended."""
        return len(self.optimizer.get_running_jobs())

    def get_active_experiments(self) -> Sequence[Task]:
        """Copies that were launched and have not ended."""
        return [job.task for job in self.optimizer.get_running_jobs()]

    def get_top_experiments(self, top_k: int) -> Sequence[Task]:
        """The best copies, best first."""
        return self.optimizer.get_top_experiments(top_k)

    def get_top_experiments_details(
        self,
        top_k: int,
        all_metrics: bool = False,
        all_hyper_parameters: bool = False,
        only_completed: bool = False,
    ) -> Sequence[str | dict[str, Any]]:
        """See `SearchStrategy.get_top_experiments_details`."""
        return self.optimizer.get_top_experiments_details(top_k, all_metrics, all_hyper_parameters, only_completed)

    def get_optimizer(self) -> SearchStrategy:
        """The search."""
        return self.optimizer

    def set_default_job_class(self, job_class: ClearmlJob) -> None:
        """See `SearchStrategy.set_job_class`."""
        self.optimizer.set_job_class(job_class)

    @classmethod
    def get_optimizer_top_experiments(
        cls,
        objective_metric_title: str | list[str],
        objective_metric_series: str | list[str],
        objective_metric_sign: str | list[str],
        optimizer_task_id: str,
        top_k: int,
    ) -> Sequence[Task]:
        """The best copies of a search that may be over long since, best first.

        Args:
            objective_metric_title, objective_metric_series, objective_metric_sign: as for the class.
            optimizer_task_id: the search's task.
            top_k: at most so many.
        """
        titles, series, signs = _as_lists(objective_metric_title, objective_metric_series, objective_metric_sign)
        facts = {"objective_metric_title": titles, "objective_metric_series": series, "objective_metric_sign": signs}
        return _objective(facts).get_top_tasks(top_k, optimizer_task_id)

    @property
    def objective_metric(self) -> Objective | MultiObjective:
        """What should be large or small."""
        return self._objective_metric.objectives[0] if self._objective_metric.len == 1 else self._objective_metric


def _connected(task: Task, wanted: Any, ranges: Sequence[Parameter], options: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """What the search is, as the task has it: where a worker runs a clone, what was changed there wins."""
    space = task.connect_configuration({_SPACE: [each.to_dict() for each in ranges]})
    ranges = [Parameter.from_dict(each) for each in space[_SPACE]]
    extra = options.pop("optimizer_kwargs")
    plain = {name: value for name, value in extra.items() if isinstance(value, (str, int, float, list, tuple, dict, type(None)))}
    told = {**options, "optimizer_kwargs": plain}
    if isinstance(wanted, type):
        told["optimizer_class"] = wanted.__name__
    told = task.connect({"opt": told})["opt"]
    name = told.get("optimizer_class")
    if isinstance(wanted, type) and name != wanted.__name__:
        if name not in SEARCHES:
            warn(f"no search is called {name!r}: {wanted.__name__} is used", stacklevel=4)
        wanted = SEARCHES.get(str(name), wanted)
    kept = {name: value for name, value in extra.items() if name not in plain}
    return wanted, ranges, {**dict(told), "optimizer_kwargs": {**dict(told.get("optimizer_kwargs") or {}), **kept}}


def _as_lists(title: Any, series: Any, sign: Any) -> tuple[list[str], list[str], list[str]]:
    if len({isinstance(each, str) for each in (title, series, sign)}) != 1:
        raise TypeError("objective_metric_title, _series and _sign have to be all texts (one objective) or all lists (several)")
    lists = tuple([each] if isinstance(each, str) else list(each) for each in (title, series, sign))
    if len({len(each) for each in lists}) != 1:
        raise errors.UsageError("objective_metric_title, _series and _sign have to be as many as each other")
    for each in lists[2]:
        if each not in _SIGNS:
            raise errors.UsageError(f"objective_metric_sign {each!r} is unknown", f"known are {', '.join(_SIGNS)}")
    return lists  # type: ignore[return-value]


def _objective(options: dict[str, Any]) -> MultiObjective:
    signs = options["objective_metric_sign"]
    return MultiObjective(
        options["objective_metric_title"],
        options["objective_metric_series"],
        [sign.partition("_")[0] for sign in signs],
        [sign.endswith("_global") for sign in signs],
    )


def _task_of(given: bool | Task, always: bool, base_task_id: str) -> Task | None:
    found: Task | None = given if isinstance(given, Task) else Task.current_task()
    if found is None and always:
        base = Task.by_id(str(base_task_id))
        found = Task.init(base.get_project_name(), f"Optimizing: {base.name}", "optimizer")
    return found
