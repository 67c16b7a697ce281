"""Frames that a task keeps up to date as artifacts, and the removal of artifacts (ClearML's `Task.register_artifact`)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from minipipe import context, errors
from minipipe.mutex import Mutex
from minipipe.sdk import session
from minipipe.sdk.task_base import TaskBase
from minipipe.shown import tell, tell_lines
from minipipe.store import codec, formats, recorded, records

KIND = "data-audit-table"  # ClearML's word
_EVERY_S = 10.0


@dataclass(slots=True)
class _Registered:
    """A frame that is kept up to date.

    Attributes:
        current: whose it is.
        seen: what it was when it was stored last.
    """

    current: session.Current
    name: str
    frame: Any
    metadata: dict[str, str]
    columns: bool | Sequence[str]
    seen: Any = None

    def store(self) -> None:
        """Store it if it has changed. Transaction effect: one durable commit, none if it is as it was."""
        frame = self.frame.copy()
        now = _digest(frame, self.columns)
        if now == self.seen:
            return
        encoded = formats.encode(self.current.store, self.name, frame, formats.Wish(".csv.gz"))
        described = replace(codec.described(encoded, self.metadata), type=KIND)
        records.store_artifact(self.current.store, self.current.lease, self.current.row_id, self.name, described)
        self.seen = now


_registered: dict[tuple[str, str], _Registered] = {}
_lock = Mutex()
_stop: threading.Event | None = None


class TaskRegistered(TaskBase):
    """Registered frames, and artifacts that go."""

    def register_artifact(
        self,
        name: str,
        artifact: Any,
        metadata: Mapping[str, Any] | None = None,
        uniqueness_columns: bool | Sequence[str] = True,
    ) -> None:
        """Keep a DataFrame as an artifact: it is stored now, again when it has changed (looked at every 10 s), and at the end.

        Args:
            name: of the artifact; a second frame under it replaces the first.
            artifact: a pandas DataFrame.
            metadata: shown with the artifact, as text.
            uniqueness_columns: a frame has changed if these columns have; True: any.

        Raises:
            ValueError: no DataFrame, or a column that it does not have.
            AttemptLost: this attempt does not own its task any more.
        """
        if not hasattr(artifact, "to_csv") or not hasattr(artifact, "columns"):
            raise errors.UsageError(
                f"register_artifact takes a pandas DataFrame, not {type(artifact).__name__}",
                hint="upload_artifact takes any value",
            )
        if not isinstance(uniqueness_columns, bool):
            missing = [column for column in uniqueness_columns if column not in artifact.columns]
            if missing:
                raise errors.UsageError(
                    f"the frame has no column {missing[0]!r}", f"it has {', '.join(map(str, artifact.columns))}"
                )
        texts = {str(key): str(value) for key, value in (metadata or {}).items()}
        found = _Registered(self._current, str(name), artifact, texts, uniqueness_columns)
        with _lock:
            found.store()
            _registered[self.id, str(name)] = found
            _watch()

    def unregister_artifact(self, name: str) -> None:
        """Stop keeping a frame up to date; what was stored of it last stays.

        Raises:
            ValueError: none is registered under this name.
        """
        with _lock:
            found = _registered.pop((self.id, str(name)), None)
            if found is None:
                raise errors.NotFound(f"no frame is registered as {name!r}")
            found.store()

    def get_registered_artifacts(self) -> dict[str, Any]:
        """The registered frames by name."""
        with _lock:
            return {name: found.frame for (uid, name), found in _registered.items() if uid == self.id}

    def _refuse_registered(self, name: str) -> None:
        """Raises:
        ValueError: a frame is registered under this name (ClearML's rule).
        """
        if (self.id, name) in _registered:
            raise errors.UsageError(f"artifact {name!r} is a registered frame", hint=f"unregister_artifact({name!r}) first")

    def delete_artifacts(
        self,
        artifact_names: Sequence[str],
        raise_on_errors: bool = True,
        delete_from_storage: bool = True,
        silent_on_errors: bool = False,
    ) -> bool:
        """Remove artifacts; the task serves no cached steps then.

        Args:
            artifact_names: their names.
            raise_on_errors: raise if there is none of a name; the others are removed all the same.
            delete_from_storage: without effect: content that nothing else has goes with the next clean-up.
            silent_on_errors: say nothing on stderr.

        Returns:
            True if all of them were there.

        Raises:
            ValueError: with `raise_on_errors`, if one was not there.

        Transaction effect: one durable commit, fenced.
        """
        names = [artifact_names] if isinstance(artifact_names, str) else [str(name) for name in artifact_names]
        missing = recorded.delete_artifacts(self.store, self.lease, self.row_id, names)
        if not missing:
            return True
        message = f"task {self.id[:8]} has no artifact {', '.join(map(repr, missing))}"
        if raise_on_errors:
            raise errors.NotFound(message, hint="task.artifacts lists them")
        if not silent_on_errors:
            tell(f"error: {message}")
        return False


def _digest(frame: Any, columns: bool | Sequence[str]) -> Any:
    chosen = frame if isinstance(columns, bool) else frame[list(columns)]
    return chosen.to_csv().encode() if chosen.size < 1_000_000 else hash(chosen.to_csv())


def _watch() -> None:
    global _stop
    if _stop is None:
        _stop = threading.Event()
        threading.Thread(target=_look, args=(_stop,), daemon=True, name="minipipe-registered").start()
        context.before_end(settle)


def _look(stop: threading.Event) -> None:
    while not stop.wait(_EVERY_S):
        settle(False)


def settle(ending: bool = True) -> None:
    """Store what has changed of all registered frames; at the end of a task they are forgotten."""
    global _stop
    with _lock:
        for key, found in list(_registered.items()):
            try:
                found.store()
            except (errors.MinipipeError, ValueError, RuntimeError) as error:  # changed while it was read, or the task is lost
                if ending:
                    tell_lines(f"error: artifact {found.name!r} was not stored: {error}")
            if ending:
                del _registered[key]
        if ending and _stop is not None:
            _stop.set()
            _stop = None
