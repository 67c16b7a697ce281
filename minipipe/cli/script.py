"""Running a script as ``python SCRIPT ARGS`` would, in this process, and telling how it ended."""

from __future__ import annotations

import difflib
import importlib.machinery
import linecache
import os
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minipipe import errors


@dataclass(frozen=True, slots=True)
class Ended:
    """How a script ended.

    Attributes:
        code: its exit code as the system would see it.
        error: what it raised; None for a normal end and for `sys.exit`.
        interrupted: the error is a KeyboardInterrupt.
    """

    code: int = 0
    error: BaseException | None = None

    @property
    def interrupted(self) -> bool:
        """True if Ctrl-C, SIGTERM or SIGHUP ended it."""
        return isinstance(self.error, KeyboardInterrupt)


def find_script(given: str) -> Path:
    """The script of that name.

    Raises:
        NotFound: there is no such file; names those that are spelt alike.
    """
    path = Path(given)
    if path.is_file():
        return path
    try:
        there = sorted(entry.name for entry in os.scandir(path.parent) if entry.name.endswith(".py"))
    except OSError:
        there = []
    near = difflib.get_close_matches(path.name, there, 3) or difflib.get_close_matches(path.name + ".py", there, 3)
    hint = "did you mean " + " or ".join(str(path.parent / name) for name in near) + "?" if near else ""
    cause = "it is a directory" if path.is_dir() else f"no such file in {os.path.abspath(path.parent)}"
    raise errors.NotFound(f"no script {given!r}", cause, hint or "minipipe run SCRIPT", path=given)


def run(path: Path, arguments: Sequence[str], source: str | None = None) -> Ended:
    """Run a script as ``__main__``; it sees what ``python SCRIPT ARGS`` would show it.

    With a `source` that text runs, not the file. The module stays in ``sys.modules`` afterwards: lazy values and exit handlers of
    the script still need it.
    """
    module = types.ModuleType("__main__")
    file = os.path.abspath(path)
    module.__dict__.update(
        __file__=file,
        __builtins__=__builtins__,
        __cached__=None,
        __annotations__={},
        __loader__=importlib.machinery.SourceFileLoader("__main__", file),
    )
    sys.argv = [str(path), *arguments]
    _put_first(os.path.dirname(os.path.realpath(path)))
    sys.modules["__main__"] = module
    try:
        if source is not None:  # tracebacks and inspect show the text that runs
            linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(path.read_bytes() if source is None else source, file, "exec", dont_inherit=True), module.__dict__)
    except SystemExit as stop:
        return Ended(_exit_code(stop))
    except BaseException as error:
        return Ended(130 if isinstance(error, KeyboardInterrupt) else 1, error)
    return Ended()


def _put_first(folder: str) -> None:
    """The script's folder takes the place of what Python put first for us: the folder of the command, or the current one."""
    if sys.flags.safe_path or not sys.path:
        sys.path.insert(0, folder)
    else:
        sys.path[0] = folder


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF if stop.code else 0
    print(stop.code, file=sys.stderr)  # Python's rule for sys.exit("text")
    return 1
