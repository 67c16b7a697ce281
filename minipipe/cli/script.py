"""Running a script as ``python SCRIPT ARGS`` would, in this process, and telling how it ended."""

from __future__ import annotations

import difflib
import importlib.machinery
import linecache
import os
import re
import sys
import sysconfig
import traceback
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from minipipe import errors

_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
_DEMO = os.path.join(_PACKAGE, "demo") + os.sep
_STANDARD = str(Path(sysconfig.get_paths()["stdlib"])) + os.sep


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
        """True if Ctrl-C or SIGTERM ended it."""
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


# -- tracebacks ---------------------------------------------------------------------------------------------------------


def is_user_frame(file: str) -> bool:
    """True for code of the user (the built-in example included): not minipipe's, not the import machinery's."""
    if file.startswith(_DEMO):
        return True
    return not file.startswith((_PACKAGE, "<frozen ", os.path.join(_STANDARD, "importlib") + os.sep))


def where(error: BaseException) -> str:
    """``file:line, in name:  text`` of the innermost frame of the project's own code; "" if there is none."""
    best = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if is_user_frame(frame.filename) and "site-packages" not in frame.filename and not frame.filename.startswith(_STANDARD):
            best = f"{shown_path(frame.filename)}:{frame.lineno}, in {frame.name}:  {frame.line or ''}".rstrip(": ")
    return best


def last_line(error: BaseException) -> str:
    """``ValueError: loss is nan``: type and message, on one line."""
    text = "".join(traceback.format_exception_only(error)).strip()
    return text.splitlines()[-1] if text else type(error).__name__


def shown_path(file: str) -> str:
    """The path as a person would type it from here."""
    here = os.getcwd() + os.sep
    return file[len(here) :] if file.startswith(here) else file


def traceback_text(error: BaseException, full: bool = False) -> str:
    """The traceback of an error, as Python prints it, without minipipe's frames and those of the import machinery.

    Args:
        error: with its causes and contexts.
        full: leave nothing out.
    """
    report = traceback.TracebackException.from_exception(error)
    cut = 0 if full else sum(_cut(part) for part in _parts(report))
    text = "".join(report.format())
    return text + f"… {cut} minipipe {'frame' if cut == 1 else 'frames'}, --traceback full\n" if cut else text


_FRAME = re.compile(r'^  File "(.*)", line \d+')


def user_traceback(text: str) -> str:
    """A traceback that was written down, without minipipe's frames and those of the import machinery; how many is said."""
    kept: list[str] = []
    cut, skipping = 0, False
    for line in text.splitlines():
        match = _FRAME.match(line)
        if match is not None:
            skipping = not is_user_frame(match[1])
            cut += skipping
        elif not line.startswith("    "):
            skipping = False
        if not skipping:
            kept.append(line)
    note = [f"… {cut} minipipe {'frame' if cut == 1 else 'frames'}, all of them in its log"] if cut else []
    return "\n".join([*kept, *note])


def _parts(report: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """An error, what caused it, and what it was raised in; exceptions of groups too."""
    work = [report]
    while work:
        part = work.pop()
        yield part
        work += [each for each in (part.__cause__, part.__context__) if each is not None]
        work += part.exceptions or []


def _cut(report: traceback.TracebackException) -> int:
    kept = [frame for frame in report.stack if is_user_frame(frame.filename)]
    cut = len(report.stack) - len(kept)
    report.stack[:] = kept
    return cut
