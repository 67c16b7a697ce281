"""A task, as code that runs in it or looks at it sees it (ClearML's `Task`)."""

from __future__ import annotations

import datetime
import itertools
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minipipe import errors, states
from minipipe.sdk import logger, maintask, notice, session
from minipipe.sdk.artifact import Artifacts
from minipipe.sdk.task_life import TaskLife
from minipipe.sdk.task_parameters import TaskParameters
from minipipe.store import codec, records, tasks


class Task(TaskLife, TaskParameters):
    """One task of the store. Make one with `Task.init`, `Task.current_task` or `Task.get_task`.

    Facts are read when asked for, so a `Task` object never goes stale.
    """

    TaskTypes = states.TaskTypes
    TaskStatusEnum = states.TaskStatusEnum

    # -- finding ------------------------------------------------------------------------------------------------------

    @classmethod
    def current_task(cls) -> Task:
        """The task that this process (or thread) executes, None if there is none."""
        current = session.current()
        if current is None:
            return None  # type: ignore[return-value]  # ClearML's signature promises a task; scripts rely on it for types
        return cls(current.store, current.row_id, current.uid, current.lease)

    @classmethod
    def get_task(
        cls,
        task_id: str | None = None,
        project_name: str | None = None,
        task_name: str | None = None,
        tags: Sequence[str] | None = None,
        allow_archived: bool = True,
        task_filter: dict[str, Any] | None = None,
    ) -> Task:
        """A task by id, or the newest of exactly that project and name (ClearML's rule: None if no task matches).

        Args:
            task_id: 32 hex digits.
            project_name: exact name.
            task_name: exact name.
            tags: it must have one of these.
            allow_archived: take an archived one if nothing else matches.
            task_filter: not offered yet.

        Raises:
            NotFound: no task of that id, or no such project.
            NotSupported: a `task_filter` was given.
        """
        if task_filter:
            raise errors.NotSupported("Task.get_task(task_filter=…) is not offered yet", hint="use project_name, task_name and tags")
        if task_id is not None:
            return cls.by_id(task_id)
        store = session.open_store()
        if project_name and store.database.row("SELECT 1 FROM project WHERE name = ?", (project_name,)) is None:
            raise errors.NotFound(f"no project {project_name!r}")
        rows = store.database.rows(
            "SELECT t.id, t.uid FROM task t JOIN project p ON p.id = t.project_id"
            " WHERE (:project IS NULL OR p.name = :project) AND (:name IS NULL OR t.name = :name)"
            " AND (:archived OR t.archived = 0) AND (:tags = '[]' OR EXISTS (SELECT 1 FROM tag g WHERE g.task_id = t.id"
            " AND g.name IN (SELECT value FROM json_each(:tags)))) ORDER BY t.archived, t.updated_at DESC, t.id DESC LIMIT 1",
            {
                "project": project_name,
                "name": task_name,
                "archived": int(allow_archived),
                "tags": json.dumps(list(tags or ())),
            },
        )
        return cls(store, rows[0]["id"], rows[0]["uid"]) if rows else None  # type: ignore[return-value]

    # -- facts --------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self._column("name"))

    def get_status(self) -> str:
        """See `status`."""
        return self.status

    def get_status_message(self) -> str:
        """Why it is in that status."""
        return str(self._column("reason"))

    @property
    def task_type(self) -> str:
        """One of `TaskTypes`."""
        return str(self._column("type"))

    @property
    def parent(self) -> str | None:
        """Id of the run that a step belongs to."""
        row = self.store.database.row("SELECT uid FROM task WHERE id = ?", (self._column("parent_id"),))
        return row["uid"] if row else None

    def get_project_name(self) -> str:
        """Name of its project."""
        row = self.store.database.row("SELECT name FROM project WHERE id = ?", (self._column("project_id"),))
        return str(row["name"]) if row else ""

    def get_tags(self) -> list[str]:
        """Its tags, sorted."""
        rows = self.store.database.rows("SELECT name FROM tag WHERE task_id = ? AND system = 0 ORDER BY name", (self.row_id,))
        return [row["name"] for row in rows]

    def add_tags(self, tags: Sequence[str] | str) -> None:
        """Add tags. Transaction effect: one durable commit."""
        records.add_tags(self.store, self.row_id, [tags] if isinstance(tags, str) else list(tags))

    # -- results ------------------------------------------------------------------------------------------------------

    @property
    def artifacts(self) -> Artifacts:
        """Its artifacts by name, in upload order."""
        return Artifacts(self.store, self.row_id)

    def upload_artifact(
        self,
        name: str,
        artifact_object: Any,
        metadata: Mapping[str, Any] | None = None,
        delete_after_upload: bool = False,
        auto_pickle: bool | None = None,
        preview: Any = None,
        wait_on_upload: bool = False,
        extension_name: str | None = None,
        serialization_function: Callable[[Any], bytes | bytearray] | None = None,
        retries: int = 0,
        sort_keys: bool = True,
    ) -> bool:
        """Store a value under a name; it is durable when the call returns.

        Args:
            name: a second upload under it replaces the first.
            artifact_object: any value that can leave its process; an existing Path travels as its content.
            metadata: shown with the artifact, as text.
            delete_after_upload: remove the file that was uploaded.
            auto_pickle: False refuses values without a format of their own.
            preview: shown instead of minipipe's own preview, at most 200 characters.
            wait_on_upload, retries: uploads are never in the background, so there is nothing to wait for or to repeat.
            extension_name: recorded.
            serialization_function: turns the value into bytes, stored as they are.
            sort_keys: recorded; dicts keep their order.

        Returns:
            True.

        Raises:
            ValueError: `auto_pickle` is False and the value could only be pickled.
            CannotTravel: the value lives in one process.
            AttemptLost: this attempt does not own its task any more.
        """
        if extension_name is not None:
            notice.recorded("Task.upload_artifact(extension_name=…)", "the format follows from the type of the value")
        value = artifact_object if serialization_function is None else bytes(serialization_function(artifact_object))
        if auto_pickle is False and not codec.has_own_format(value):
            raise ValueError(f"artifact {name!r}: a {type(value).__name__} can only be pickled, and auto_pickle is False")
        texts = {str(key): str(item) for key, item in (metadata or {}).items()}
        records.upload(self.store, self.lease, self.row_id, name, value, texts, None if preview is None else str(preview))
        if delete_after_upload and isinstance(artifact_object, Path):
            shutil.rmtree(artifact_object) if artifact_object.is_dir() else artifact_object.unlink()
        return True

    def get_logger(self) -> logger.Logger:
        """Reports for this task."""
        return logger.Logger(session.Current(self.store, self.row_id, self._uid, self.lease))

    @property
    def logger(self) -> logger.Logger:
        """See `get_logger`."""
        return self.get_logger()

    def set_progress(self, progress: int) -> None:
        """Note how far the task is, in percent (0 to 100; anything else is ignored, ClearML's rule)."""
        if 0 <= int(progress) <= 100:
            records.set_progress(self.store, self.lease, self.row_id, int(progress))

    def get_progress(self) -> int | None:
        """What `set_progress` noted last."""
        value = self._column("progress")
        return None if value is None else int(value)

    def get_reported_scalars(self, max_samples: int = 0, x_axis: str = "iter") -> dict[str, dict[str, dict[str, list[float]]]]:
        """All points: ``{title: {series: {"x": iterations, "y": values}}}``.

        Args:
            max_samples: at most so many points per series, each the mean of its window (ClearML's rule); 0 for all of them.
            x_axis: "iter", "timestamp" (milliseconds since 1970) or "iso_time" (text, UTC).

        Raises:
            ValueError: another `x_axis`.
        """
        if x_axis not in _PLACES:
            raise ValueError(f"x_axis is {x_axis!r}, not one of {', '.join(_PLACES)}")
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for row in records.points(self.store, self.row_id):
            if row["iteration"] is None:
                continue
            series = found.setdefault(row["title"], {}).setdefault(row["series"], {"name": row["series"], "x": [], "y": []})
            series["x"].append(_PLACES[x_axis](row))
            series["y"].append(math.nan if row["value"] is None else row["value"])
        for group in found.values():
            for series in group.values():
                _thin_out(series, max_samples)
        return found

    def get_last_scalar_metrics(self) -> dict[str, dict[str, dict[str, float]]]:
        """``{title: {series: {"last", "min", "max"}}}`` of what was reported."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for title, group in self.get_reported_scalars().items():
            for name, series in group.items():
                y = series["y"]
                found.setdefault(title, {})[name] = {"last": y[-1], "min": min(y), "max": max(y)}
        for name, value in self.get_reported_single_values().items():
            found.setdefault("Summary", {})[name] = {"last": value, "min": value, "max": value}
        return found

    def get_reported_single_values(self) -> dict[str, float]:
        """The last reported single value of each name."""
        rows = [row for row in records.points(self.store, self.row_id) if row["iteration"] is None]
        return {row["series"]: math.nan if row["value"] is None else row["value"] for row in rows}

    def get_reported_single_value(self, name: str) -> float | None:
        """The last reported single value of that name, None if there is none."""
        return self.get_reported_single_values().get(name)

    def wait_for_status(
        self,
        status: Sequence[str] = ("completed", "stopped", "closed"),
        raise_on_status: Sequence[str] | None = ("failed",),
        check_interval_sec: float = 60.0,
    ) -> None:
        """Wait until one of the statuses is reached; woken by change, whatever `check_interval_sec` says.

        Raises:
            RuntimeError: one of `raise_on_status` was reached (ClearML's rule).
        """
        good, bad = {str(one) for one in status}, {str(one) for one in raise_on_status or ()}
        found = {"status": ""}

        def done() -> bool:
            found["status"] = self.status
            return found["status"] in good | bad

        tasks.wait(self.store, done)
        if found["status"] in bad:
            raise RuntimeError(f"task {self._uid[:8]} has status {found['status']}: {self.get_status_message()}")

    def reload(self) -> None:
        """Nothing is kept in memory: facts are always current."""

    def flush(self, wait_for_uploads: bool = False) -> bool:
        """Nothing is buffered: returns True at once."""
        return True

    def is_current_task(self) -> bool:
        """True if this process executes it."""
        running = session.within()
        return running is not None and running.uid == self._uid

    def __repr__(self) -> str:
        try:
            row = self.store.database.row(
                "SELECT name, status, duration_s, attempt, max_retries FROM task WHERE id = ?", (self.row_id,)
            )
        except errors.MinipipeError:
            row = None
        if row is None:
            return f"<Task {self._uid[:8]}>"
        spent = f" {row['duration_s']:.1f}s" if row["duration_s"] is not None else ""
        again = f" attempt {row['attempt']}/{row['max_retries'] + 1}" if row["attempt"] > 1 else ""
        return f"<Task {self._uid[:8]} {row['name']!r} {row['status']}{spent}{again}>"


_PLACES: dict[str, Callable[[Any], Any]] = {
    "iter": lambda row: row["iteration"],
    "timestamp": lambda row: int(row["at"] * 1000),
    "iso_time": lambda row: datetime.datetime.fromtimestamp(row["at"], datetime.UTC).isoformat(),
}


def _thin_out(series: dict[str, Any], most: int) -> None:
    """Replace windows of points by the first place and the mean value of each."""
    x, y = series["x"], series["y"]
    if most <= 0 or len(x) <= most:
        return
    borders = [len(x) * i // most for i in range(most + 1)]
    series["x"] = [x[first] for first in borders[:-1]]
    series["y"] = [sum(y[a:b]) / (b - a) for a, b in itertools.pairwise(borders)]
