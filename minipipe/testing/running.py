"""Running what a test names: a script, a decorated pipeline or a controller, in this process or with real ones."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipipe import clearml, context, errors, frames, told
from minipipe.chance import fresh_id
from minipipe.cli import script
from minipipe.sdk import inline, maintask, session
from minipipe.sdk.controller import PipelineController
from minipipe.sdk.decorator import PipelineDecorator
from minipipe.store import sessions
from minipipe.store.home import Store
from minipipe.testing.run import Run

Target = str | os.PathLike[str] | Callable[..., Any] | PipelineController


@dataclass(frozen=True, slots=True, repr=False)
class Runner:
    """Runs pipelines in one test's store.

    Attributes:
        store: where.
        folders: where a script that is named by a relative path is looked for, in this order.
        timeout_s: seconds that one run may take.
        seen: is told each run, good or bad.
    """

    store: Store
    folders: tuple[Path, ...]
    timeout_s: float
    seen: Callable[[Run], None]

    def __call__(self, target: Target, /, **params: Any) -> Run:
        """See `inline`."""
        __tracebackhide__ = True
        return self.inline(target, **params)

    def inline(self, target: Target, /, **params: Any) -> Run:
        """Run in this process: logic and steps, one after the other, recorded, cache read; what the test has replaced is replaced.

        Args:
            target: path of a script, a function under ``@PipelineDecorator.pipeline``, or a `PipelineController`.
            params: its arguments; names with a slash (``**{"General/lr": 0.1}``) are stored parameters.

        Returns:
            What came of it, also when it failed.

        Raises:
            MinipipeError: it cannot be run at all: no such script, an unknown parameter, a pipeline that cannot be built.
            WaitTimeout: it took longer than the marker's ``timeout_s``.
        """
        __tracebackhide__ = True
        return self._run(self._inline, target, params)

    def local(self, target: Target, /, **params: Any) -> Run:
        """Run with a real worker and a process for each step; a script as ``minipipe run`` runs it. Else as `inline`."""
        __tracebackhide__ = True
        return self._run(self._command if isinstance(target, (str, os.PathLike)) else self._local, target, params)

    def __repr__(self) -> str:
        return f"<run_pipeline in {self.store.path}>"

    # -- the ways -----------------------------------------------------------------------------------------------------

    def _run(self, way: Callable[[Any, dict[str, Any]], _Ended], target: Target, params: dict[str, Any]) -> Run:
        __tracebackhide__ = True
        what: Any = self._find(target) if isinstance(target, (str, os.PathLike)) else target
        if not isinstance(what, (Path, PipelineController)) and not callable(what):
            raise errors.UsageError(
                f"run_pipeline cannot run a {type(what).__name__}",
                "it takes a script's path, a decorated pipeline or a controller",
            )
        before = sessions.last_event(self.store)
        # A command tells its script itself; a decorated pipeline gets its arguments by its call.
        passed = way == self._command if isinstance(what, Path) else not isinstance(what, PipelineController)
        wanted = _told({name: value for name, value in params.items() if not passed or ("/" in name and callable(what))})
        with _undone(what.resolve().parent if isinstance(what, Path) else None), told.telling(wanted):
            ended = way(what, params)
            complaint = told.complaint(_name(what))
        made = sessions.changed_since(self.store, before)
        if complaint is not None and ended.code == 0:
            raise complaint
        usage = isinstance(ended.error, errors.UsageError | errors.NotFound | TypeError)
        if ended.error is not None and (isinstance(ended.error, errors.WaitTimeout) or (usage and not made)):
            raise ended.error.with_traceback(None) if isinstance(ended.error, errors.MinipipeError) else ended.error
        run = Run(self.store, made, ended.code, ended.console, ended.error, ended.value)
        self.seen(run)
        return run

    def _find(self, given: str | os.PathLike[str]) -> Path:
        __tracebackhide__ = True
        for folder in self.folders:
            if (folder / given).is_file():
                return folder / given
        searched = ", ".join(dict.fromkeys(str(folder) for folder in self.folders))
        raise errors.NotFound(f"no script {os.fspath(given)!r}", f"looked for in {searched}", "give its full path")

    def _inline(self, target: Any, params: dict[str, Any]) -> _Ended:
        mine = os.environ[session.SESSION_VARIABLE] = fresh_id()
        scope = sessions.scope_from_now(self.store, mine)
        with inline.executing(mine), _captured() as console, _limit(self.timeout_s):
            ended = self._call(target, params)
            if ended.code == 0:
                store = session.open_store()
                try:
                    inline.wait(store, lambda: not sessions.open_runs(store, scope))
                except BaseException as error:
                    ended = _ended_by(error)
        return ended.with_console(console.getvalue())

    def _local(self, target: Any, params: dict[str, Any]) -> _Ended:
        with _captured() as console, _limit(self.timeout_s):
            ended = self._call(target, params)
        return ended.with_console(console.getvalue())

    def _command(self, path: Path, params: dict[str, Any]) -> _Ended:
        command = [sys.executable, "-P", "-m", "minipipe", "run", str(path), "--timeout", f"{self.timeout_s:g}"]
        for name, value in params.items():
            command += ["--set", f"{name}:={_json(name, value)}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="backslashreplace")
        error: errors.MinipipeError | None = None
        if done.returncode == errors.WaitTimeout.exit_code:
            error = errors.WaitTimeout(f"{path.name} took longer than {self.timeout_s:g} s", done.stdout[-2000:])
        elif done.returncode == errors.UsageError.exit_code:
            error = errors.UsageError(f"{path.name} was not run", done.stdout.strip()[-2000:])
        return _Ended(done.returncode, done.stdout, error)

    def _call(self, target: Any, params: dict[str, Any]) -> _Ended:
        """Run the target's own part in this process."""
        try:
            if isinstance(target, Path):
                if "clearml" not in sys.modules:  # else the test has imported one
                    clearml.install()  # as `minipipe run` does
                return _run_script(target)
            PipelineDecorator._mode = "local"
            if isinstance(target, PipelineController):
                target.start_locally(run_pipeline_steps_locally=True)
                return _Ended(0 if target.task.status in ("completed", "published") else 1)
            return _Ended(value=target(**{name: value for name, value in params.items() if "/" not in name}))
        except SystemExit as stop:
            return _Ended(stop.code if isinstance(stop.code, int) else int(stop.code is not None))
        except Exception as error:
            if not isinstance(error, errors.WorkFailed):  # a step's own words stand in its log
                sys.stderr.write(frames.traceback_text(error))
            return _ended_by(error)


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a target ended: exit code, what was printed, what it raised, what it returned."""

    code: int = 0
    console: str = ""
    error: BaseException | None = None
    value: Any = None

    def with_console(self, console: str) -> _Ended:
        return _Ended(self.code, console, self.error, self.value)


def _ended_by(error: BaseException) -> _Ended:
    return _Ended(getattr(error, "exit_code", 1), "", error)


def _run_script(path: Path) -> _Ended:
    sys.path.insert(0, "")  # the place that the script's folder takes
    ended = script.run(path, ())
    if ended.error is not None:
        sys.stderr.write(frames.traceback_text(ended.error))
        maintask.note_error(ended.error)
    elif maintask.main_task() is not None:
        maintask.note_exit(ended.code)
    maintask.close()
    if ended.interrupted:
        raise ended.error or KeyboardInterrupt
    return _Ended(ended.code, "", ended.error)


def _told(params: dict[str, Any]) -> dict[str, Any]:
    return {name: {"json": json.loads(_json(name, value))} for name, value in params.items()}


def _json(name: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise errors.BadParameter(
            f"parameter {name!r}: a {type(value).__name__} cannot be passed to a script", str(error), "pass what JSON can hold"
        ) from None


def _name(target: Any) -> str:
    return target.name if isinstance(target, Path) else getattr(target, "__name__", type(target).__name__)


# -- leaving no trace in the test's process -------------------------------------------------------------------------------


@contextlib.contextmanager
def _undone(folder: Path | None) -> Iterator[None]:
    """What a run changes in this process is changed back; modules of the script's folder that it imported are forgotten, because
    another test may have others of these names."""
    modules = set(sys.modules)
    mode, queue = PipelineDecorator._mode, PipelineDecorator._default_queue
    kept = (sys.modules["__main__"], sys.argv, sys.path[:], os.getcwd())
    environment, aliased = dict(os.environ), clearml.is_installed()
    try:
        yield
    finally:
        if not aliased:
            clearml.uninstall()
        maintask.forget()
        context.set_running(None)
        PipelineDecorator._mode, PipelineDecorator._default_queue, PipelineDecorator._current = mode, queue, None
        sys.modules["__main__"], sys.argv, sys.path[:] = kept[0], kept[1], kept[2]
        os.chdir(kept[3])
        for name in sys.modules.keys() - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if folder is not None and file and folder in Path(file).parents:
                del sys.modules[name]
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


class _Tee(io.TextIOBase):
    """What is printed is shown as ever and kept."""

    def __init__(self, stream: Any, kept: io.StringIO) -> None:
        self.stream = stream
        self.kept = kept

    def write(self, text: str) -> int:
        """Write to both."""
        self.kept.write(text)
        return int(self.stream.write(text))

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def _captured() -> Iterator[io.StringIO]:
    kept = io.StringIO()
    with contextlib.redirect_stdout(_Tee(sys.stdout, kept)), contextlib.redirect_stderr(_Tee(sys.stderr, kept)):
        yield kept


@contextlib.contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Raise `WaitTimeout` in the main thread after so long; elsewhere there is no such limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: Any) -> None:
        raise errors.WaitTimeout(f"the run took longer than {seconds:g} s", "@pytest.mark.minipipe(timeout_s=…) sets the limit")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
