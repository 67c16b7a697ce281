"""What a search writes down while it goes on: its best value, its budget, a table of all copies; and whom it tells."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from minipipe import states
from minipipe.sdk.automation.objective import MultiObjective, dominates
from minipipe.sdk.automation.strategy import SearchStrategy
from minipipe.sdk.logger import Logger
from minipipe.sdk.task import Task
from minipipe.shown import tell_lines
from minipipe.store import objectives, workers

ARTIFACT = "summary"


@dataclass(frozen=True, slots=True)
class _Ended:
    """A copy that ended with a value."""

    values: list[float]
    iterations: list[int]
    told: dict[str, Any]


class Summary:
    """The record of one search, on its task if it has one.

    Args:
        search: what goes on.
        objective: what counts.
        task: the search's own task, None if it has none.
        callback: told of each copy that ended with a value.
        keep: archive all but the best so many; 0 keeps all.
    """

    def __init__(
        self,
        search: SearchStrategy,
        objective: MultiObjective,
        task: Task | None,
        callback: Callable[..., None] | None,
        keep: int,
    ) -> None:
        self.search, self.objective, self.task, self.callback, self.keep = search, objective, task, callback, keep
        self.ended: dict[str, _Ended] = {}
        self.without: set[str] = set()  # ended without a value
        self.told: list[str] = []
        self.count = 0

    def has_news(self) -> bool:
        """True if a copy has ended that was not told of yet."""
        known = self.ended.keys() | self.without
        jobs = list(self.search.get_created_jobs_tasks().items())
        waiting = [job.task.row_id for task_id, job in jobs if task_id not in known]  # type: ignore[attr-defined]
        return objectives.anything_ended(self.search._base.store, waiting)

    def update(self, time_left: float | None, last: bool = False) -> None:
        """Tell of what ended and write the record.

        Args:
            time_left: part of the search's time, None without a limit.
            last: the search is over.
        """
        news = [task_id for task_id in self._newly_ended() if task_id in self.ended]
        self.count += 1
        if self.task is not None and self.task.status == states.IN_PROGRESS:
            self._report(self.task.get_logger(), time_left)
            if news or last:
                self._draw(self.task.get_logger())
                self.task.upload_artifact(ARTIFACT, {"table": self.table()})
        self._archive()
        for task_id in news:
            self._tell(task_id)

    def _newly_ended(self) -> list[str]:
        found = []
        for task_id, job in list(self.search.get_created_jobs_tasks().items()):
            if task_id in self.ended or task_id in self.without or not job.is_stopped():  # type: ignore[attr-defined]
                continue
            values = self.objective.get_objective(job)  # type: ignore[arg-type]
            points = self.objective.get_current_raw_objective(job)  # type: ignore[arg-type]
            if values is None or points is None:
                self.without.add(task_id)
            else:
                told = {"status": job.status(), **self.search.get_created_jobs_ids()[task_id]}  # type: ignore[attr-defined]
                self.ended[task_id] = _Ended(values, [point[0] for point in points], told)
            found.append(task_id)
        return found

    # -- the best -----------------------------------------------------------------------------------------------------

    def ranked(self, among: Sequence[str] | None = None) -> list[str]:
        """Ids of the copies that ended with a value (or of those among them), best first."""
        ids = list(self.ended if among is None else among)
        if self.objective.len > 1:
            return [str(key) for key in self.objective._ranked({key: self.ended[key].values for key in ids})]
        sign = self.objective.objectives[0].sign
        return sorted(ids, key=lambda key: sign * self.ended[key].values[0], reverse=True)

    def _tell(self, task_id: str) -> None:
        if self.callback is None:
            return
        self.told.append(task_id)  # a better one that ended meanwhile has its own turn
        one, best = self.ended[task_id], self.ranked(self.told)[0]
        if self.objective.len > 1 and not self._dominates(best, task_id):
            best = task_id
        single = self.objective.len == 1
        try:
            values, iterations = (one.values[0], one.iterations[0]) if single else (one.values, one.iterations)
            self.callback(task_id, values, iterations, dict(one.told), best)
        except Exception:
            tell_lines(f"job_complete_callback failed for {task_id[:8]}:\n{traceback.format_exc()}")

    def _dominates(self, one: str, other: str) -> bool:
        signs = self.objective.get_objective_sign()
        a, b = ([sign * value for sign, value in zip(signs, self.ended[key].values, strict=True)] for key in (one, other))
        return dominates(a, b)

    def _archive(self) -> None:
        if not self.keep:
            return
        for place, task_id in enumerate(self.ranked()):
            task = Task.by_id(task_id)
            if task.get_archived() != (place >= self.keep):
                task.set_archived(place >= self.keep)

    # -- the record ---------------------------------------------------------------------------------------------------

    def table(self) -> list[list[Any]]:
        """A head and a row for each copy that ended with a value, best first (ClearML's columns)."""
        names = sorted({name for one in self.ended.values() for name in one.told})
        if self.objective.len == 1:
            heads = ["objective", "iteration"]
        else:
            heads = [
                head for title, series in self.objective.get_objective_metric() for head in (f"{title}/{series}", "iteration")
            ]
        rows: list[list[Any]] = [["task id", *heads, *names]]
        for task_id in self.ranked():
            one = self.ended[task_id]
            reached = [each for pair in zip(one.values, one.iterations, strict=True) for each in pair]
            rows.append([task_id, *reached, *(one.told.get(name, "") for name in names)])
        return rows

    def _draw(self, logger: Logger) -> None:
        """The table, and the value of each copy in the order in which they were made (ClearML's plots)."""
        titles = [f"{title}/{series}" for title, series in self.objective.get_objective_metric()]
        logger.report_table("summary", "job", 0, self.table(), extra_layout={"title": f"objective: {', '.join(titles)}"})
        made = [task_id for task_id in self.search.get_created_jobs_ids() if task_id in self.ended]
        for number, title in enumerate(titles if made else ()):
            points = [(place, self.ended[task_id].values[number]) for place, task_id in enumerate(made)]
            words = [", ".join(f"{name}={value}" for name, value in self.ended[task_id].told.items()) for task_id in made]
            logger.report_scatter2d("Optimization Objective", title, points, 0, "job #", "objective", words, "markers")

    def _report(self, logger: Logger, time_left: float | None) -> None:
        for name, part in self.search.budget.to_dict().items():
            if part["limit"]:
                logger.report_scalar("remaining budget", f"{name} %", round(100 - 100 * part["used"], 1), self.count)
        if time_left is not None:
            logger.report_scalar("remaining budget", "time %", round(100 * time_left, 1), self.count)
        jobs = self.search.get_running_jobs()
        running = sum(job.is_running() for job in jobs)
        agents = [row for row in workers.alive(self.search._base.store) if row["kind"] == workers.AGENT]
        served = sum(bool(row["session"]) or self.search._execution_queue in json.loads(row["queues"]) for row in agents)
        for series, value in (
            ("queue workers", served),
            ("running tasks", running),
            ("pending tasks", len(jobs) - running),
        ):
            logger.report_scalar("resources", series, value, self.count)
        for number, one in enumerate(self.objective.objectives):
            values = [ended.values[number] for ended in self.ended.values()]
            if values:
                best, word = (max(values), "max") if one.sign > 0 else (min(values), "min")
                title = f"{one.title}/{one.series}"
                logger.report_scalar(title, word, best, self.count)
                logger.report_scalar(title, "last reported", values[-1], self.count)
