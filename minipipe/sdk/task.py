"""A task, as code that runs in it or looks at it sees it (ClearML's `Task`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minipipe import errors, meter, states
from minipipe.sdk import display, inline, logger, session
from minipipe.sdk.artifact import Artifacts
from minipipe.sdk.task_create import TaskCreate
from minipipe.sdk.task_data import TaskData
from minipipe.sdk.task_facts import TaskFacts
from minipipe.sdk.task_forked import TaskForked
from minipipe.sdk.task_life import TaskLife
from minipipe.sdk.task_models import TaskModels
from minipipe.sdk.task_needs import TaskNeeds
from minipipe.sdk.task_parameters import TaskParameters
from minipipe.sdk.task_recorded import TaskRecorded
from minipipe.sdk.task_registered import TaskRegistered
from minipipe.sdk.task_reported import TaskReported
from minipipe.sdk.task_search import TaskSearch
from minipipe.sdk.task_steering import TaskSteering
from minipipe.store import blobs, formats, records


class Task(
    TaskLife,
    TaskCreate,
    TaskSearch,
    TaskData,
    TaskFacts,
    TaskParameters,
    TaskReported,
    TaskModels,
    TaskRegistered,
    TaskNeeds,
    TaskRecorded,
    TaskSteering,
    TaskForked,
):
    """One task of the store. Make one with `Task.init`, `Task.current_task` or `Task.get_task`.

    Facts are read when asked for, so a `Task` object never goes stale.
    """

    TaskTypes = states.TaskTypes
    TaskStatusEnum = states.TaskStatusEnum
    NotSet = object()
    DeleteError = errors.IllegalMove  # what `delete` raises

    # -- finding ------------------------------------------------------------------------------------------------------

    @classmethod
    def current_task(cls) -> Task:
        """The task that this process (or thread) executes, None if there is none."""
        current = session.current()
        if current is None:
            return None  # type: ignore[return-value]  # ClearML's signature promises a task; scripts rely on it for types
        return cls(current.store, current.row_id, current.uid, current.lease)

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
            artifact_object: any value that can leave its process; what becomes of it says `minipipe.store.formats`. A Path, a short
                str that is one, and lists of Paths travel as content.
            metadata: shown with the artifact, as text.
            delete_after_upload: remove the file that was uploaded.
            auto_pickle: False refuses values without a format of their own.
            preview: shown instead of minipipe's own preview, at most 64 KiB.
            wait_on_upload, retries: uploads are never in the background, so there is nothing to wait for or to repeat.
            extension_name: of the file, where its type has a choice (``.csv.gz``, ``.parquet`` …); ``.pkl`` pickles anything.
            serialization_function: turns the value into bytes, stored as they are.
            sort_keys: False keeps the order of a dict.

        Returns:
            True.

        Raises:
            ValueError: `auto_pickle` is False and the value could only be pickled; a Path that does not exist; a registered frame has
                the name.
            CannotTravel: the value lives in one process.
            AttemptLost: this attempt does not own its task any more.
        """
        self._refuse_registered(str(name))
        wish = formats.Wish(extension_name or "", serialization_function, auto_pickle is not False, sort_keys)
        texts = {str(key): str(item) for key, item in (metadata or {}).items()}
        shown = None if preview is None else str(preview)
        with meter.Meter(str(name), 0, -1) as line, blobs.watched(line.show):
            records.upload_object(self.store, self.lease, self.row_id, str(name), artifact_object, wish, texts, shown)
        if delete_after_upload:
            _remove(artifact_object)
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

        inline.wait(self.store, done)
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
        return display.task_line(self.store, self.row_id, self._uid)

    def _repr_html_(self) -> str | None:
        return display.task_block(self.store, self.row_id)


def _remove(uploaded: Any) -> None:
    """Remove files that were uploaded; a str that named none is left alone."""
    for each in uploaded if isinstance(uploaded, (list, tuple)) else [uploaded]:
        path = Path(each) if isinstance(each, (str, Path)) else None
        if path is not None and formats.exists(path):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
