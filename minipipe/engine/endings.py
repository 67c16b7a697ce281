"""How an attempt ended, as plain data that its process can say to the worker: outputs, or an exception as text."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipipe import errors, limits

LIMIT_BYTES = 32 << 20
_TEXT_LIMIT = 64 << 10


@dataclass(slots=True)
class Result:
    """What goes into the outcome message, as plain data."""

    head: dict[str, Any]
    payloads: list[bytes]
    exit_code: int


def failed(reason: str, error: dict[str, str] | None, exit_code: int = 1) -> Result:
    """A result that says why there is none."""
    return Result({"ending": "failed", "reason": _clip(reason, 500), "error": error or {}, "outputs": []}, [], exit_code)


def failed_by(error: BaseException, entry: dict[str, Any]) -> Result:
    """An exception as text, which the log gets too."""
    result = failure_of(error, entry)
    flush()
    with contextlib.suppress(OSError):  # by number: the step may have replaced or closed the streams
        os.write(2, result.head["error"].get("traceback", "").encode("utf-8", "backslashreplace"))
    return result


def failure_of(error: BaseException, entry: dict[str, Any]) -> Result:
    """An exception as text. The object never leaves this process: not every exception survives pickling."""
    try:
        return _told_by(error, entry)
    except BaseException as second:  # its own code runs when it is asked for its code or its words
        kind = type(error).__name__
        return failed(f"{kind}, which cannot be shown ({type(second).__name__})", {"type": kind, "message": ""})


def _told_by(error: BaseException, entry: dict[str, Any]) -> Result:
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return failed("exited without a result", {"type": "SystemExit", "message": "exit code 0"})
        code = error.code if isinstance(error.code, int) else 1
        note = "" if 0 <= code < 256 else f" (the system keeps {code & 255})"
        return failed(f"exited with code {code}{note}", {"type": "SystemExit", "message": str(code)}, code & 255 or 1)
    kind, said = type(error).__name__, _message(error)
    why = limits.words(entry.get("limits", {}), kind)
    message = f"{said}{why}".strip()
    text = _clip(_traceback_text(error), _TEXT_LIMIT)
    return failed(
        f"{kind}: {message}" if said else f"{kind}{why}",
        {"type": kind, "message": _clip(message, 4_000), "where": _where(error, entry), "traceback": text},
    )


def _message(error: BaseException) -> str:
    try:
        # A plain copy: what `__str__` gives may be of a class with ideas of its own.
        return str.__str__(error.message if isinstance(error, errors.MinipipeError) else str(error))
    except BaseException as second:
        return f"<its message raised {type(second).__name__}>"


def _traceback_text(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException:
        return "".join(traceback.format_tb(error.__traceback__)) + f"{type(error).__name__}\n"


def _where(error: BaseException, entry: dict[str, Any]) -> str:
    """file:line, function and source line of the user's innermost frame."""
    package = Path(__file__).resolve().parent.parent
    example = str(package / "demo")  # the built-in example counts as the user's code
    best = ""
    for frame in traceback.extract_tb(error.__traceback__):
        elsewhere = frame.filename.startswith((str(package), "<frozen", sys.base_prefix)) or "site-packages" in frame.filename
        if not elsewhere or frame.filename.startswith(example):
            path = frame.filename
            with contextlib.suppress(ValueError):
                path = str(Path(path).relative_to(entry["roots"][0] if entry["roots"] else entry["cwd"]))
            best = f"{path}:{frame.lineno}, in {frame.name}:  {frame.line or ''}".rstrip(": ")
    return best


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit // 2] + f"\n… {len(text) - limit} characters …\n" + text[-limit // 2 :]


def flush() -> None:
    """Write out what the step has printed, whatever it made of its streams."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
