"""Every way in which minipipe says no: one root, one class per cause.

    MinipipeError                       message, cause, hint; data as attributes
    ├── UsageError                2     the call or command cannot be carried out as written
    │   ├── BadSetting                  a setting has a value nobody can use
    │   ├── BadParameter                a pipeline parameter is unknown or cannot be read
    │   ├── AmbiguousName               a prefix matches more than one task
    │   ├── BadPipeline                 a pipeline that cannot be built (cycle, unknown parent, double name)
    │   ├── BadCall                     a component or a pipeline does not take these arguments
    │   ├── CannotTravel                an argument, global or result cannot cross a process border
    │   └── IllegalMove                 a status change that the life cycle does not know
    ├── NotFound                  3     no such run, step, artifact, queue or script
    ├── StoreError                4     the store cannot be used
    │   ├── StoreMissing                there is no store, and the command may not make one
    │   ├── StoreNewer                  written by a newer minipipe
    │   ├── StoreForeign                a file that is not ours
    │   ├── StoreDamaged                SQLite or our own check found damage
    │   ├── StoreUntrusted              owned or writable by somebody else
    │   ├── StoreUnwritable             permission or read-only file system
    │   ├── StoreMoved                  renamed, replaced or deleted under a running process
    │   ├── NetworkDisk                 a file system without working locks
    │   ├── BundleError                 a file to import cannot be used or is not trusted
    │   ├── DiskFull                    no space left
    │   ├── SqliteTooOld                the SQLite library lacks what the store needs
    │   └── ForkedConnection            a connection was used in a process that did not open it
    ├── StoreBusy                 5     somebody else kept the database locked past the deadline
    ├── WaitTimeout               5     a wait ran out
    ├── WorkFailed                1     the work itself failed or was stopped
    │   ├── StepFailed                  the result of a failed step was used
    │   └── RunFailed                   a run ended badly
    ├── AttemptLost               1     this attempt was fenced out: somebody else owns the task now
    ├── ArtifactError             1     stored bytes are missing, damaged or cannot be decoded
    ├── EngineError               1     the step host cannot be started
    ├── MissingModule             1     a step imports what this Python does not have
    ├── RepositoryError           2     the code of a step cannot be had: no git, repository, branch, commit or access
    └── NotSupported              2     a ClearML name that minipipe does not offer

The numbers are exit codes; a class without one takes its parent's.
"""

from __future__ import annotations

from typing import Any

from minipipe.escaping import escape_lines


class MinipipeError(Exception):
    """The root of all errors that minipipe raises on purpose.

    Args:
        message: what happened, naming the thing.
        cause: why, with file and line or the offending value.
        hint: a command or line of code to paste.
        data: facts for programs, readable as attributes of the error.
    """

    exit_code = 1

    def __init__(self, message: str, cause: str = "", hint: str = "", **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.hint = hint
        self.data = data

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        # Python prints this text itself when a script ends with the error: what it names must not steer the terminal.
        cause, hint = f"\n  cause: {self.cause}" if self.cause else "", f"\n  hint: {self.hint}" if self.hint else ""
        return escape_lines(f"{self.message}{cause}{hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword arguments do not survive pickling by default (python/cpython#79492).
        return _rebuild, (type(self), self.message, self.cause, self.hint, self.data)


def _rebuild(cls: type[MinipipeError], message: str, cause: str, hint: str, data: dict[str, Any]) -> MinipipeError:
    return cls(message, cause, hint, **data)


class UsageError(MinipipeError, ValueError):
    """The call or command cannot be carried out as written; nothing was changed."""

    exit_code = 2


class BadSetting(UsageError):
    """A setting has a value that cannot be used."""


class BadParameter(UsageError):
    """A pipeline parameter is unknown, or its value cannot be read as the declared type."""


class AmbiguousName(UsageError):
    """An id prefix matches more than one task."""


class BadPipeline(UsageError):
    """A pipeline that cannot be built: a cycle, an unknown parent, a name taken twice."""


class CannotTravel(UsageError, TypeError):
    """A value that lives in one process (a lock, a connection, an open file) was to be sent to another."""


class BadCall(UsageError, TypeError):
    """A component or a pipeline is called with arguments that it does not take."""


class IllegalMove(UsageError):
    """A status change that the life cycle does not know; nothing was changed."""


class NotFound(MinipipeError, ValueError):
    """No run, step, artifact, queue or script of that name."""

    exit_code = 3


class StoreError(MinipipeError):
    """The store cannot be used; what is in it was not changed."""

    exit_code = 4


class StoreMissing(StoreError):
    """There is no store here, and the command that asked does not make one."""


class StoreNewer(StoreError):
    """The store was written by a newer minipipe."""


class StoreForeign(StoreError):
    """The file is a SQLite database of something else, or no database at all."""


class StoreDamaged(StoreError):
    """SQLite, or a check of our own, found the store damaged."""


class StoreUntrusted(StoreError):
    """The store belongs to another user or is writable by others: loading from it could run their code."""


class StoreUnwritable(StoreError):
    """No permission to write, or a read-only file system."""


class StoreMoved(StoreError):
    """The store was renamed, replaced or deleted while this process had it open."""


class NetworkDisk(StoreError):
    """The store lies on a file system on which SQLite's locks cannot be trusted."""


class BundleError(StoreError):
    """A file to import is no bundle, was cut or altered, is newer, or holds pickles and is not trusted; nothing was stored."""


class DiskFull(StoreError):
    """No space left on the device that holds the store."""


class SqliteTooOld(StoreError):
    """The SQLite library of this Python lacks STRICT tables (3.37)."""


class ForkedConnection(StoreError):
    """A database connection was used in a process that did not open it."""


class StoreBusy(MinipipeError):
    """Another process kept the database locked until the deadline ran out."""

    exit_code = 5


class WaitTimeout(MinipipeError, TimeoutError):
    """What was waited for did not happen in time."""

    exit_code = 5


class WorkFailed(MinipipeError):
    """The work itself failed or was stopped; minipipe did what it should."""


class StepFailed(WorkFailed, ValueError):
    """The result of a step that failed or was stopped was used (ClearML's rule: a ValueError)."""


class RunFailed(WorkFailed):
    """A run ended badly: a step failed, or somebody stopped it."""


class AttemptLost(MinipipeError):
    """This attempt does not own its task any more; nothing was stored."""


class ArtifactError(MinipipeError):
    """Stored bytes are missing, are not what was stored, or cannot be decoded."""


class EngineError(MinipipeError):
    """The step host cannot be started, so no step can run here."""


class NotSupported(MinipipeError, NotImplementedError):
    """A ClearML name or argument that minipipe does not offer; the hint names what to use instead."""

    exit_code = 2


class MissingModule(MinipipeError):
    """A step imports a module that is not installed where it would run; nothing was queued."""


class RepositoryError(MinipipeError, ValueError):
    """The code that a step names cannot be had: no git, no such repository, branch or commit, or no access."""

    exit_code = 2


__all__ = [name for name, value in list(globals().items()) if isinstance(value, type) and issubclass(value, MinipipeError)]
