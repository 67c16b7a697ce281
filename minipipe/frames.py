"""Tracebacks as their reader needs them: the user's own frames, without minipipe's and the import machinery's."""

from __future__ import annotations

import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parent) + os.sep
_DEMO = os.path.join(_PACKAGE, "demo") + os.sep
_STANDARD = str(Path(sysconfig.get_paths()["stdlib"])) + os.sep


def is_user_frame(file: str) -> bool:
    """True for code of the user (the built-in example included): not minipipe's, not the import machinery's."""
    if file.startswith(_DEMO):
        return True
    return not file.startswith((_PACKAGE, "<frozen ", os.path.join(_STANDARD, "importlib") + os.sep))


def where(error: BaseException) -> str:
    """``file:line, in name:  text`` of the innermost frame of the project's own code; "" if there is none."""
    best = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if _is_of_project(frame.filename):
            best = f"{shown_path(frame.filename)}:{frame.lineno}, in {frame.name}:  {frame.line or ''}".rstrip(": ")
    return best


_DEAD_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


def where_it_died(stack: str) -> str:
    """As `where`, from what Python writes when a signal such as SIGSEGV ends it: the innermost frame comes first."""
    for file, line, name in _DEAD_FRAME.findall(stack.partition("Current thread ")[2]):
        if _is_of_project(file):
            return f"{shown_path(file)}:{line}, in {name}:  {linecache.getline(file, int(line)).strip()}".rstrip(": ")
    return ""


def _is_of_project(file: str) -> bool:
    return is_user_frame(file) and "site-packages" not in file and not file.startswith(_STANDARD)


def last_line(error: BaseException) -> str:
    """``ValueError: loss is nan``: type and message, on one line."""
    text = "".join(traceback.format_exception_only(error)).strip()
    return text.splitlines()[-1] if text else type(error).__name__


def shown_path(file: str) -> str:
    """The path as a person would type it from here."""
    here = os.getcwd() + os.sep
    return file[len(here) :] if file.startswith(here) else file


def traceback_text(error: BaseException, full: bool = False, how: str = "--traceback full") -> str:
    """The traceback of an error, as Python prints it, without minipipe's frames and those of the import machinery.

    Args:
        error: with its causes and contexts.
        full: leave nothing out.
        how: what shows the rest.
    """
    report = traceback.TracebackException.from_exception(error)
    cut = 0 if full else sum(_cut(part) for part in _parts(report))
    text = "".join(report.format())
    return text + f"… {cut} minipipe {'frame' if cut == 1 else 'frames'}, {how}\n" if cut else text


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
