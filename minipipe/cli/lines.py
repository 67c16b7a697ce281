"""Runs and steps in one line each, as ``show`` prints them and as the live block redraws them.

A line is a list of pieces, each with the status that colours it: so it can be cut to a terminal's width before it is coloured.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Sequence
from typing import IO

from minipipe import states
from minipipe.cli import VERBS, output
from minipipe.store import details, lookup, presence, reasons
from minipipe.store.details import elapsed_s, error_of
from minipipe.store.home import Store

Line = list[tuple[str, str]]
_BAR = 10


# -- pieces -------------------------------------------------------------------------------------------------------------


def width_of(text: str) -> int:
    """Columns that a text takes on a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(one) else 2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def clipped(line: Line, columns: int, stream: IO[str]) -> Line:
    """The line cut to so many columns, with a sign at its end if something was cut."""
    if sum(width_of(text) for text, _ in line) <= columns:
        return line
    room = columns - 1
    result: Line = []
    for text, status in line:
        kept = ""
        for one in text:
            if width_of(one) > room:
                return [*result, (kept + output.ellipsis(stream), status)]
            kept += one
            room -= width_of(one)
        result.append((kept, status))
    return result


def painted(line: Line, stream: IO[str] | None = None, color: str | None = None) -> str:
    """The line as text, coloured where that is wanted."""
    return "".join(output.style(text, status, stream, color) for text, status in line).rstrip()


def meter(percent: int | None, stream: IO[str] | None = None) -> str:
    """``[=====>    ] 54%``; empty for None."""
    if percent is None:
        return ""
    done = min(max(percent, 0), 100) * _BAR // 100
    return f"[{('=' * done + ('>' if done < _BAR else ''))[:_BAR]:<{_BAR}}] {percent}%"


def following(*commands: str) -> str:
    """``minipipe show x | minipipe logs x``: what to type next."""
    return " | ".join(f"minipipe {command}" for command in commands if command.split()[0] in VERBS)


# -- a run --------------------------------------------------------------------------------------------------------------


def headline(store: Store, run: sqlite3.Row, now: float, tail: str) -> Line:
    """``run 9c21e07a  brave-finch  digits-demo 1.0.0 (examples)  in_progress  41s  TAIL``."""
    pipeline, project = lookup.pipeline_of(run["name"], details.project_of(store, run))
    title = f"{pipeline} {run['version'] or ''}".strip()
    word = "run" if run["run_name"] else "task"
    parts: Line = [
        (output.escape(f"{word} {run['uid'][:8]}"), ""),
        (run["run_name"] or "", ""),
        (output.escape(f"{title} ({project})"), ""),
        (run["status"], run["status"]),
        (output.duration(elapsed_s(run, now)), ""),
        (output.escape(tail), ""),
    ]
    return joined(parts)


def joined(parts: Sequence[tuple[str, str]]) -> Line:
    """Pieces with two spaces between those that are not empty."""
    result: Line = []
    for part in parts:
        if part[0]:
            result += [("  ", ""), part] if result else [part]
    return result


def arguments(store: Store, task_id: int) -> str:
    """``lr=0.2 n=900``: the values that a run was given."""
    return " ".join(f"{name}={text}" for _, name, text in details.arguments_of(store, task_id))


# -- a step -------------------------------------------------------------------------------------------------------------


def step_line(name: str, status: str, notes: Sequence[str], widths: tuple[int, int], stream: IO[str] | None = None) -> Line:
    """``  ✔ load      completed  0.2s``.

    Args:
        name: of the step, not yet escaped.
        status: its word.
        notes: what there is to say, not yet escaped; empty ones are left out.
        widths: of the columns of names and of status words.
        stream: where it will go; default stdout.
    """
    shown, sign = output.escape(name), output.glyph(status, stream)
    line: Line = [(f"  {sign + ' ' if sign else ''}{shown}{' ' * (widths[0] - width_of(shown))}  ", "")]
    line.append((f"{status:<{widths[1]}}", status))
    text = output.escape("  ".join(note for note in notes if note))
    if text:
        line.append((f"  {text}", ""))
    return line


def notes_of(store: Store, step: sqlite3.Row, living: Sequence[presence.LiveWorker], now: float, values: str = "") -> list[str]:
    """What there is to say of a step beside its name and status, not yet escaped.

    Args:
        store: where it is.
        step: a row of `views.steps_of`.
        living: the living workers.
        now: for times.
        values: numbers that it reported.
    """
    status = step["status"]
    if step["cached_from"]:
        return [f"cached from {(step['source_run'] or '')[:8]}"]
    spent, attempt = output.duration(elapsed_s(step, now)), attempt_of(step)
    if status == states.IN_PROGRESS:
        return [spent, attempt, meter(step["progress"]), values, reasons.waiting_reason(store, step, living)]
    if status in states.GOOD:
        return [spent, attempt if step["attempt"] > 1 else "", values]
    if status in states.BAD:
        where = error_of(step).get("where", "").partition(", in ")[0]
        return [spent, attempt, step["reason"], where]
    return [reasons.waiting_reason(store, step, living) or step["reason"]]


def attempt_of(step: sqlite3.Row) -> str:
    """``attempt 2/2`` of a task that may be tried more than once, else empty."""
    number, tries = step["attempt"], max(step["max_retries"] + 1, step["attempt"])
    return f"attempt {number}/{tries}" if number and tries > 1 else ""
