"""How things look: one gate through which all text reaches a terminal, a pipe or a program.

Data goes to stdout, everything else to stderr. Not a terminal: no colour, no glyph, no truncation. Names, messages and log lines
come from outside and are shown with their control characters escaped.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

import click

from minipipe import settings, states
from minipipe.errors import StoreMissing
from minipipe.shown import ago as ago
from minipipe.shown import clock as clock
from minipipe.shown import duration as duration
from minipipe.shown import escape as escape
from minipipe.shown import escape_lines as escape_lines
from minipipe.shown import iso as iso
from minipipe.shown import sign_of
from minipipe.shown import size as size
from minipipe.store.home import Store

FORMATS = ("table", "tsv", "github", "json", "jsonl")
_META = "minipipe.options"

P = ParamSpec("P")
R = TypeVar("R")

# -- colour and glyphs --------------------------------------------------------------------------------------------------

_COLORS = {
    states.COMPLETED: "32",
    states.PUBLISHED: "32",
    states.FAILED: "31",
    states.STOPPED: "33",
    states.SKIPPED: "2",
    states.IN_PROGRESS: "36",
    "error": "1;31",
    "warning": "33",
    "note": "2",
    "ok": "32",
    "warn": "33",
    "bad": "31",
}


_COLOR_CODE = re.compile("\x1b\\[[0-9;]*m")


def is_terminal(stream: IO[str]) -> bool:
    """True if `stream` is a terminal; a closed one is none."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def terminal_size(stream: IO[str]) -> tuple[int, int]:
    """(columns, rows) of the terminal behind a stream; COLUMNS and LINES come first, 80 by 24 last."""
    try:
        found = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        found = os.terminal_size((80, 24))
    wanted = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
    columns, rows = (
        int(text) if text.isdigit() and int(text) else size or other
        for text, size, other in zip(wanted, found, (80, 24), strict=True)
    )
    return columns, rows


def visible_width(text: str) -> int:
    """Number of characters without colour codes."""
    return len(_COLOR_CODE.sub("", text))


def can_redraw(stream: IO[str]) -> bool:
    """True for a terminal that lets its cursor be moved."""
    return is_terminal(stream) and os.environ.get("TERM", "dumb") not in ("dumb", "")


def can_encode(text: str, stream: IO[str]) -> bool:
    """True if the stream's encoding has all characters of `text`."""
    try:
        text.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def glyph(status: str, stream: IO[str] | None = None) -> str:
    """The sign of a status, to stand beside its word; empty off a terminal or if the encoding lacks it."""
    stream = stream or sys.stdout
    sign = sign_of(status)
    return sign if is_terminal(stream) and can_encode(sign, stream) else ""


def bar(done: int, running: int, total: int, stream: IO[str] | None = None) -> str:
    """A short progress bar (at most ten cells), for terminals that have the signs; else empty."""
    stream = stream or sys.stdout
    if not total or not is_terminal(stream) or not can_encode("▇░", stream):
        return ""
    cells = min(total, 10)
    filled = (done + running) * cells // total
    return "▇" * filled + "░" * (cells - filled)


def wants_color(choice: str = "auto", stream: IO[str] | None = None) -> bool:
    """Whether `stream` gets colour: the flag or setting first, then NO_COLOR, FORCE_COLOR, then whether it is a terminal."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream or sys.stdout) and os.environ.get("TERM") != "dumb"


def style(text: str, status: str, stream: IO[str] | None = None, color: str | None = None) -> str:
    """`text` in the colour of a status (or of error, warning, note, ok, warn, bad) where colour is wanted.

    Args:
        text: already escaped.
        status: which colour.
        stream: where it goes, default stdout.
        color: auto, always or never; default what the command was told.
    """
    code = _COLORS.get(status)
    if code is None or not wants_color(color or _given().get("color") or "auto", stream):
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


# -- what the command was told ------------------------------------------------------------------------------------------


def _given() -> dict[str, Any]:
    context = click.get_current_context(silent=True)
    return context.meta.setdefault(_META, {}) if context is not None else {}


def remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Callback of the options that every verb has: given before or after the verb, the last one holds."""
    if value is None or value is False or parameter.name is None:
        return
    given = context.meta.setdefault(_META, {})
    if parameter.name == "json":
        given["format"] = "json"
    else:
        given[parameter.name] = value


@dataclass(frozen=True, slots=True)
class Output:
    """Where and how a verb answers.

    Attributes:
        home: store directory from ``--home``, None for the usual search.
        format: "table", "tsv", "github", "json" or "jsonl".
        quiet: ids only.
        color: "auto", "always" or "never".
        utc: times in tables are UTC, not local.
    """

    home: str | None = None
    format: str = "table"
    quiet: bool = False
    color: str = "auto"
    utc: bool = False

    @classmethod
    def current(cls) -> Output:
        """What the running command was told, completed from the settings."""
        given = _given()
        found = settings.load_settings(color=given.get("color"), utc=given.get("utc"))
        given.setdefault("color", found.color)
        return cls(given.get("home"), given.get("format", "table"), bool(given.get("quiet")), found.color, found.utc)

    @property
    def json(self) -> bool:
        """True if stdout takes JSON (one document or one per line)."""
        return self.format in ("json", "jsonl")

    def open_store(self, create: bool = False) -> Store:
        """Open the store; reading verbs never make one.

        Raises:
            StoreMissing: there is none.
        """
        return Store.open(self.home, create=create)

    def store_or_none(self) -> Store | None:
        """The store, or None after saying that there is none yet."""
        try:
            return self.open_store()
        except StoreMissing:
            note("no store here yet: the first `minipipe run` makes one", kind="")
            return None


def pass_output(function: Callable[Concatenate[Output, P], R]) -> Callable[P, R]:
    """Decorator for verbs: the first argument is the `Output`."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(Output.current(), *args, **kwargs)

    return call


pipeline_option = click.option("--pipeline", metavar="P", help="@last, @-2 and @last-failed: of this pipeline.")


# -- writing ------------------------------------------------------------------------------------------------------------


def write(text: str) -> None:
    """One piece of data on stdout, with a line end."""
    print(text, flush=is_terminal(sys.stdout))


def silence(descriptor: int) -> None:
    """Whatever is written there from now on goes nowhere, as Python's documentation of SIGPIPE advises."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


def leave_closed_terminal() -> None:
    """Silence the standard streams if their terminal was closed: a word to it would be an error that hides what happened."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")  # nothing to anybody, but an error where nobody will ever read
        except OSError:
            silence(descriptor)


def note(text: str, kind: str = "note") -> None:
    """One line of chatter on stderr: ``note: …``, ``warning: …``, or bare with ""."""
    prefix = f"{style(kind, kind, sys.stderr)}: " if kind else ""
    with contextlib.suppress(BrokenPipeError):
        print(prefix + escape(text), file=sys.stderr, flush=True)


def plain(document: Any) -> Any:
    """A value as JSON can hold it: NaN and infinities as text."""
    if isinstance(document, float) and not math.isfinite(document):
        return "nan" if math.isnan(document) else "inf" if document > 0 else "-inf"
    if isinstance(document, Mapping):
        return {str(key): plain(value) for key, value in document.items()}
    if isinstance(document, (list, tuple)):
        return [plain(value) for value in document]
    return document


def print_json(document: Any, line: bool = False) -> None:
    """Write one JSON document, over several lines or (`line`) as one. ASCII only, so it is safe on every terminal."""
    print(json_text(document, line), flush=line)


def json_text(document: Any, line: bool = False) -> str:
    """What `print_json` writes, without the line end."""
    return json.dumps(plain(document), indent=None if line else 2, separators=(",", ":") if line else None, default=str)


def print_table(
    rows: Sequence[Sequence[object]],
    headers: Sequence[str],
    format: str = "table",
    records: Sequence[Mapping[str, Any]] | None = None,
    notes: Mapping[int, tuple[str, str]] | None = None,
) -> None:
    """Write a table to stdout.

    Args:
        rows: cells, not yet escaped; None is an empty cell.
        headers: column names.
        format: one of `FORMATS`.
        records: what JSON gets instead of the cells: full ids, raw numbers.
        notes: row number -> (header, text): a line under that row, starting at that column (tables only).
    """
    if format in ("json", "jsonl"):
        found = records if records is not None else [dict(zip(map(str.lower, headers), row, strict=True)) for row in rows]
        if format == "json":
            print_json(list(found))
        for record in found if format == "jsonl" else ():
            print_json(record, line=True)
        return
    cells = [["" if cell is None else escape(cell) for cell in row] for row in rows]
    if format == "tsv":  # tabulate would pad
        lines = ["\t".join(row) for row in (list(headers), *cells)]
    elif format == "github":
        cells = [[cell.replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in cells]
        lines = _tabulate(cells, headers, "github")
    else:
        lines = _with_notes(_tabulate(_clipped(cells, headers), headers, "plain"), headers, notes or {})
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))
    sys.stdout.flush()


def _tabulate(cells: list[list[str]], headers: Sequence[str], form: str) -> list[str]:
    import tabulate  # only tables pay for it

    tabulate.MIN_PADDING = 0  # else a short column is two characters wider than its header
    if form == "plain" and "STATUS" in headers:
        column = list(headers).index("STATUS")
        cells = [[*row[:column], style(row[column], row[column]), *row[column + 1 :]] for row in cells]
    if not cells:
        return ["  ".join(headers)] if form == "plain" else tabulate.tabulate([], list(headers), form).splitlines()
    # disable_numparse: one id in 26 reads as a number, such as 1e500012.
    text: str = tabulate.tabulate(cells, list(headers), form, disable_numparse=True)
    return text.split("\n")


def _clipped(cells: list[list[str]], headers: Sequence[str]) -> list[list[str]]:
    """On a terminal the last column gives way."""
    if not is_terminal(sys.stdout) or not cells:
        return cells
    before = sum(max(len(headers[i]), *(len(row[i]) for row in cells)) + 2 for i in range(len(headers) - 1))
    room = max(len(headers[-1]), 12, shutil.get_terminal_size().columns - before)
    return [[*row[:-1], row[-1] if len(row[-1]) <= room else row[-1][: room - 1] + ellipsis()] for row in cells]


def ellipsis(stream: IO[str] | None = None) -> str:
    """The sign for "more follows", one character wide."""
    return "…" if can_encode("…", stream or sys.stdout) else "~"


def clipped(text: str, most: int | None) -> str:
    """At most so many characters of a text; all of it for None."""
    return text if most is None or len(text) <= most else text[: most - 1] + ellipsis()


def _with_notes(lines: list[str], headers: Sequence[str], notes: Mapping[int, tuple[str, str]]) -> list[str]:
    result = lines[:1]
    for number, line in enumerate(lines[1:]):
        result.append(line)
        if number in notes:
            header, text = notes[number]
            result.append(" " * lines[0].index(header) + escape(text))
    return result


def shown_path(path: str | os.PathLike[str]) -> str:
    """A path as people type it: relative if it lies below the current folder."""
    path = Path(path)
    try:
        return f"./{path.relative_to(Path.cwd())}"
    except (ValueError, OSError):
        return str(path)
