"""The live block: the steps of one command's runs, as many lines as the terminal has room for.

What would not fit is folded: steps of one name into one line (``train 34/100``), ended runs into their headline, and of what is
still too much the most telling lines stay.
"""

from __future__ import annotations

import re
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from minipipe import states
from minipipe.cli import lines, output
from minipipe.cli.lines import Line
from minipipe.store import presence, reasons, records, sessions, views, workers
from minipipe.store.details import elapsed_s
from minipipe.store.home import Store

_NUMBERED = re.compile(r"(.+)_\d+\Z")
_LOG_BYTES = 4096
_PATIENCE_S = 1.0  # what holds for less is no reason to tell anybody
_FEW = 4  # failed members of a group that are named
_LEAST = 30  # columns that a step's last words need beside it; else they get a line below
_SHOWN_TYPES = frozenset({"int", "float", "bool", "str"})
# What a folded group is, and what stays when there is no room: trouble first, then what moves.
_TELLING = (
    states.FAILED,
    states.STOPPED,
    states.IN_PROGRESS,
    states.QUEUED,
    states.PENDING,
    states.CREATED,
    states.SKIPPED,
    states.COMPLETED,
    states.PUBLISHED,
)
_OPEN_FIRST = (states.IN_PROGRESS, states.QUEUED, states.PENDING, *(word for word in _TELLING if word in states.ENDED), "created")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the block: a step, or several of one name.

    Attributes:
        name: of the step or the group.
        members: narrow rows, see `sessions.brief_steps`.
    """

    name: str
    members: tuple[sqlite3.Row, ...]

    @property
    def status(self) -> str:
        """That of the step; of a group what it is as a whole: it moves, it waits, it failed, it is done."""
        found = {member["status"] for member in self.members}
        return next(word for word in _OPEN_FIRST if word in found)

    @property
    def rank(self) -> int:
        """Place among the telling ones, smallest first."""
        return min(_TELLING.index(member["status"]) for member in self.members)


def fold(steps: Sequence[sqlite3.Row], room: int) -> tuple[list[Entry], list[Entry]]:
    """(entries that are shown, entries for which there is no room), both in the order of the steps."""
    entries = [Entry(step["name"], (step,)) for step in steps]
    if len(entries) > room:
        names = {step["name"] for step in steps}
        groups: dict[str, list[sqlite3.Row]] = {}
        for step in steps:
            match = _NUMBERED.match(step["name"])
            groups.setdefault(match[1] if match and match[1] in names else step["name"], []).append(step)
        entries = [Entry(name, tuple(group)) for name, group in groups.items()]
    if len(entries) <= room:
        return entries, []
    last = len(entries)
    chosen = sorted(range(last), key=lambda place: (entries[place].rank, -place))[: max(room - 1, 0)]
    return [entries[place] for place in sorted(chosen)], [entries[place] for place in range(last) if place not in set(chosen)]


class Block:
    """Lays out the block; see the module.

    Args:
        store: where the runs are.
        scope: which runs.
        headed: each run has its headline, even a single one.
        color: "auto", "always" or "never".
        stream: the terminal; default stderr.
        served: the command has workers of its own for what nobody serves.
    """

    def __init__(
        self, store: Store, scope: sessions.Scope, headed: bool, color: str, stream: IO[str] | None = None, served: bool = False
    ) -> None:
        self.store = store
        self.scope = scope
        self.headed = headed
        self.color = color
        self.stream = stream or sys.stderr
        self.served = served
        self._here: set[int] = set()  # tasks that ordinary processes execute
        self._values: dict[int, str] = {}
        self._reasons: dict[int, tuple[str, float]] = {}  # why a run does not move, and since when

    def lines(self, columns: int, rows: int, final: bool = False, footer: str = "") -> list[str]:
        """What the terminal shows now.

        Args:
            columns, rows: size of the terminal.
            final: nothing will change any more: no line about what is going on.
            footer: said last, in place of what is going on.
        """
        with self.store.database.snapshot():
            found = self._lay_out(max(rows - 2, 3), columns - 1, final, footer)
        return [lines.painted(lines.clipped(line, columns - 1, self.stream), self.stream, self.color) for line in found]

    def _lay_out(self, room: int, columns: int, final: bool, footer: str) -> list[Line]:
        now, living = time.time(), presence.living(self.store)
        tasks = sessions.runs(self.store, self.scope)
        self._here = {task["id"] for task in tasks if task["executor"] == workers.PROCESS}
        below = {task["id"]: sessions.brief_steps(self.store, task["id"]) for task in tasks}
        runs = [task for task in tasks if task["run_name"] is not None or below[task["id"]]]
        alone = [task for task in tasks if task not in runs and task["status"] != states.CREATED]
        headed = self.headed or len(runs) > 1
        room -= 0 if final else 1
        found: list[Line] = []
        open_runs = [run for run in runs if run["status"] not in states.ENDED]
        all_steps = {run["id"]: below[run["id"]] for run in runs}
        needed = sum(len(steps) + headed for steps in all_steps.values()) + len(alone)
        bodies = runs if needed <= room else open_runs or runs[-1:]
        heads = runs if len(runs) * headed + len(bodies) <= room else bodies[: max(room // 3, 1)]
        bodies = [run for run in bodies if run in heads]
        share = max((room - len(heads) * headed - min(len(alone), room // 4)) // max(len(bodies), 1), 1)
        for run in heads:
            if headed:
                found.append(lines.headline(self.store, run, now, lines.arguments(self.store, run["id"])))
            if run in bodies:
                limit = room - len(found) if needed <= room else share
                found += self._body(all_steps[run["id"]], limit, columns, living, now)
        if alone:
            found += self._body(alone, max(room - len(found), 1), columns, living, now)
        if len(heads) < len(runs):
            counts = Counter(run["status"] for run in runs if run not in heads)
            found.append([(f"  {output.ellipsis(self.stream)} {sum(counts.values())} more runs: {_counted(counts)}", "note")])
        if footer:
            found.append([(footer, "warning")])
        elif not final and runs:
            found.append(self._footer(open_runs or runs[-1:], all_steps, living, now, headed))
        return [line for line in found if line]

    def _footer(
        self,
        runs: Sequence[sqlite3.Row],
        steps: dict[int, list[sqlite3.Row]],
        living: list[presence.LiveWorker],
        now: float,
        headed: bool,
    ) -> Line:
        counts = Counter(step["status"] for run in runs for step in steps[run["id"]])
        for run in runs:
            reason = reasons.waiting_reason(self.store, run, living, counts)
            if self.served and reason.startswith(reasons.UNSERVED):
                reason = ""
            held, since = self._reasons.get(run["id"], ("", now))
            self._reasons[run["id"]] = (reason, since if reason == held else now)
            if reason and reason == held and now - since >= _PATIENCE_S:
                return [(output.escape(f"  waiting: {reason}"), "warning")]
        if headed:
            return []
        done = sum(counts[word] for word in states.ENDED)
        spent = output.duration(elapsed_s(runs[0], now))
        text = [f"{done} of {sum(counts.values())} done" if counts else runs[0]["status"], spent]
        return [(f"  {'  '.join(part for part in text if part)}", "note")]

    # -- steps --------------------------------------------------------------------------------------------------------

    def _body(
        self, steps: Sequence[sqlite3.Row], room: int, columns: int, living: list[presence.LiveWorker], now: float
    ) -> list[Line]:
        entries, hidden = fold(steps, room)
        texts = [self._words(entry) for entry in entries]
        widths = (
            max((lines.width_of(output.escape(name)) for name, _ in texts), default=0),
            max(len(states.COMPLETED), *(len(word) for _, word in texts)) if texts else 0,
        )
        found, spare = [], room - len(entries) - bool(hidden)
        for entry, (name, word) in zip(entries, texts, strict=True):
            notes, said = self._notes(entry, living, now)
            line = lines.step_line(name, word, notes, widths, self.stream)
            free = columns - sum(lines.width_of(text) for text, _ in line) - 2
            found.append(line)
            if said and free >= min(lines.width_of(output.escape(said)), _LEAST):
                line.append((f"  {output.escape(said)}", "note"))
            elif said and spare > 0:
                spare -= 1
                found.append([(f"{' ' * (widths[0] + 6)}{output.escape(said)}", "note")])
            inner = self._telling(entry, spare, living, now)
            spare -= len(inner)
            found += inner
        if hidden:
            counts = Counter(member["status"] for entry in hidden for member in entry.members)
            found.append([(f"  {output.ellipsis(self.stream)} {sum(counts.values())} more: {_counted(counts)}", "note")])
        return found

    def _telling(self, entry: Entry, spare: int, living: list[presence.LiveWorker], now: float) -> list[Line]:
        """Of a folded group the members that failed and those that run, as far as there is room."""
        if len(entry.members) == 1:
            return []
        failed = [member for member in entry.members if member["status"] == states.FAILED][:_FEW]
        running = [member for member in entry.members if member["status"] == states.IN_PROGRESS]
        chosen = (failed + running)[: max(min(spare, 2 * _FEW), 0)]
        width = max((lines.width_of(output.escape(member["name"])) for member in chosen), default=0)
        word = max((len(member["status"]) for member in chosen), default=0)
        found: list[Line] = []
        for member in chosen:
            notes, said = self._notes(Entry(member["name"], (member,)), living, now)
            line = lines.step_line(member["name"], member["status"], notes, (width, word), self.stream)
            found.append([("  ", ""), *line, *([(f"  {output.escape(said)}", "note")] if said else [])])
        return found

    def _words(self, entry: Entry) -> tuple[str, str]:
        if len(entry.members) == 1:
            return entry.name, entry.status
        done = sum(member["status"] in states.ENDED for member in entry.members)
        return f"{entry.name} {done}/{len(entry.members)}", entry.status

    def _notes(self, entry: Entry, living: list[presence.LiveWorker], now: float) -> tuple[list[str], str]:
        """(what there is to say, the last line that it printed)."""
        if len(entry.members) > 1:
            return _group_notes(entry, now, self.stream), ""
        step = views.step_row(self.store, entry.members[0]["id"])
        if step is None:
            return [], ""
        if step["status"] == states.QUEUED and now - (step["queued_at"] or now) < _PATIENCE_S:
            return [], ""
        if step["status"] == states.IN_PROGRESS:
            values = " ".join(f"{name}={_short(value)}" for name, value in sessions.newest_values(self.store, step["id"]))
            # What a task of this very process prints stands on the terminal already.
            said = "" if step["id"] in self._here else last_words(self.store, step)
            return lines.notes_of(self.store, step, living, now, values), said
        values = ""
        if step["status"] in states.GOOD and not step["cached_from"]:
            if step["id"] not in self._values:
                self._values[step["id"]] = shown_values(self.store, step["id"])
            values = self._values[step["id"]]
        notes = lines.notes_of(self.store, step, living, now, values)
        return [note for note in notes if not (self.served and note.startswith(reasons.UNSERVED))], ""


def _group_notes(entry: Entry, now: float, stream: IO[str]) -> list[str]:
    counts = Counter(member["status"] for member in entry.members)
    done = sum(counts[word] for word in states.ENDED)
    starts = [member["started_at"] for member in entry.members if member["started_at"] is not None]
    ends = [member["ended_at"] for member in entry.members if member["ended_at"] is not None]
    spent = (max(ends, default=now) if done == len(entry.members) else now) - min(starts) if starts else None
    percent = 100 * done // len(entry.members)
    others = Counter({word: number for word, number in counts.items() if word not in states.GOOD})
    cached = sum(member["cached_from"] is not None for member in entry.members)
    parts = [_counted(others), f"{cached} cached" if cached else ""]
    bar = lines.meter(percent).partition("]")[0] + "]" if done < len(entry.members) else ""
    return [output.duration(spent), bar, ", ".join(part for part in parts if part)]


def last_words(store: Store, step: sqlite3.Row) -> str:
    """The last line that a running step has printed, "" if there is none."""
    try:
        with open(store.log_path(step["uid"], step["attempt"]), "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    last = next((line.strip() for line in reversed(re.split(r"[\r\n]", text)) if line.strip()), "")
    return "" if last.startswith("minipipe: ") else f"| {last}"


def shown_values(store: Store, task_id: int) -> str:
    """``accuracy=0.93``: at most two values that a step reported without an iteration, else scalar results."""
    found = [(row["name"], row["value"]) for row in sessions.single_values(store, task_id)]
    if not found:
        cells = records.parameters(store, task_id)
        found = [(cell["name"], _read(cell)) for cell in cells if cell["section"] == "return" and cell["type"] in _SHOWN_TYPES]
    return " ".join(f"{name}={_short(value)}" for name, value in found[:2])


def _short(value: float | str | None) -> str:
    if value is None:
        return "nan"
    return f"{value:.4g}" if isinstance(value, float) else value if len(value) <= 40 else value[:39] + "…"


def _read(cell: sqlite3.Row) -> float | str:
    try:
        return float(cell["text"]) if cell["type"] == "float" else str(cell["text"])
    except ValueError:
        return str(cell["text"])


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in _TELLING if counts[word])
