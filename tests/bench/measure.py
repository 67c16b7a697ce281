"""Running things and turning what they took into table rows.

Times on a shared machine drift, so what is compared is run in turns and the ratio is taken within each turn.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minipipe.store.home import DATABASE

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).resolve().parent / "scripts"
_TIMEOUT_S = 600.0
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


@dataclass(slots=True)
class Plan:
    """How thoroughly to measure, where to, and what was found to be wrong on the way.

    Attributes:
        reps: turns per comparison.
        smoke: small sizes; checks that everything still works, its figures mean nothing.
        folder: scratch folder on the disk that the figures are about.
        problems: wrong results, one line each; any makes the command fail.
    """

    reps: int
    smoke: bool
    folder: Path
    problems: list[str] = field(default_factory=list)
    _homes: int = 0

    def size(self, full: int, small: int) -> int:
        """The full size, or the small one for a smoke run."""
        return small if self.smoke else full

    def home(self) -> Path:
        """Path of a store that does not exist yet."""
        self._homes += 1
        return self.folder / f"store-{self._homes}"

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Note a wrong result."""
        if found != wanted:
            self.problems.append(f"{what}: {found!r} instead of {wanted!r}")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        label: workload and what is measured.
        unit: of `ours` and `floor`.
        ours: one figure per turn.
        floor: the same of the floor, turn by turn; empty if there is none.
        bar: highest allowed ratio, or highest allowed value where there is no floor.
        per_second: more is better; the ratio is then floor / ours, so that it always means times the floor's time.
        skipped: why there are no figures.
    """

    label: str
    unit: str = ""
    ours: tuple[float, ...] = ()
    floor: tuple[float, ...] = ()
    bar: float | None = None
    per_second: bool = False
    skipped: str = ""

    @property
    def ratios(self) -> tuple[float, ...]:
        """How many times the floor's time (or memory) each turn took."""
        pairs = zip(self.ours, self.floor, strict=True) if self.floor else ()
        return tuple(floor / ours if self.per_second else ours / floor for ours, floor in pairs)

    def cells(self) -> tuple[str, str, str, str, str]:
        """workload, floor, minipipe, ratio, bar as text."""
        if self.skipped:
            return self.label, "-", f"skipped: {self.skipped}", "", ""
        judged = self.ratios or self.ours
        bar = "-"
        if self.bar is not None:
            bar = f"<= {self.bar:g}  {'ok' if statistics.median(judged) <= self.bar else 'OVER'}"
        return self.label, spread(self.floor, self.unit), spread(self.ours, self.unit), spread(self.ratios), bar


def spread(values: Sequence[float], unit: str = "") -> str:
    """Median [min-max] with three significant digits."""
    if not values:
        return "-"
    middle, low, high = (_short(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} [{low}-{high}] {unit}".rstrip()


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> str:
    """Rows as aligned text columns."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


# -- running --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that has ended.

    Attributes:
        code: exit status.
        wall_s: from its start to its end.
        peak_bytes: highest resident size of any one process of its tree (the kernel's own high-water mark, handed up by wait).
        out, err: what it printed.
    """

    code: int
    wall_s: float
    peak_bytes: int
    out: str
    err: str

    @property
    def figures(self) -> dict[str, Any]:
        """The JSON line that it printed, empty if there is none."""
        lines = [line for line in self.out.splitlines() if line.startswith("{")]
        return dict(json.loads(lines[-1])) if lines else {}


def environment(home: Path | None = None, project: bool = True) -> dict[str, str]:
    """The environment of a measured process: none of the caller's settings, two step slots.

    Args:
        home: its store.
        project: make `minipipe` importable from this checkout; False for an installed command.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MINIPIPE_", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH"))
    }
    if project:
        kept["PYTHONPATH"] = str(ROOT)
    if home is not None:
        kept |= {"MINIPIPE_HOME": str(home), "MINIPIPE_JOBS": "2"}
    return kept


def run(command: Sequence[str], folder: Path, variables: dict[str, str]) -> Finished:
    """Run a command to its end and measure it from outside."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        timer = threading.Timer(_TIMEOUT_S, process.kill)
        timer.start()
        # wait4 and not wait: it gives the peak of this tree alone, where getrusage gives that of all children ever.
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        texts = [file.read().decode(errors="replace") for file in (out, err)]
    return Finished(process.returncode, wall_s, usage.ru_maxrss * _RSS_UNIT, *texts)


def script(plan: Plan, name: str, *arguments: object, home: Path | None = None) -> Finished:
    """Run one of `SCRIPTS` in a fresh process; a failure is noted as a problem."""
    command = [sys.executable, str(SCRIPTS / f"{name}.py"), *map(str, arguments)]
    finished = run(command, plan.folder, environment(home))
    if finished.code or not finished.figures:
        last = (finished.err.strip().splitlines() or ["no words"])[-1]
        plan.problems.append(f"{name} {' '.join(map(str, arguments))} ended with {finished.code}: {last}")
    return finished


def in_turns(plan: Plan, *measured: Callable[[], float | None], reps: int | None = None) -> list[tuple[float, ...]]:
    """Call each once per turn, in an order that is reversed from turn to turn.

    Returns:
        one series per callable; a turn in which one of them gave None (a noted problem) is left out.
    """
    turns = []
    for turn in range(reps or plan.reps):
        order = list(enumerate(measured))
        found = dict.fromkeys(range(len(measured)), None) | {
            index: action() for index, action in (reversed(order) if turn % 2 else order)
        }
        if None not in found.values():
            turns.append(tuple(found[index] for index in range(len(measured))))
    return [tuple(float(value) for value in series) for series in zip(*turns, strict=True)] or [()] * len(measured)


# -- the installed command ------------------------------------------------------------------------------------------------


def installed_command() -> tuple[list[str], bool]:
    """The `minipipe` command beside this interpreter, else ``python -m minipipe``; and whether it needs this checkout's path."""
    beside = Path(sys.executable).with_name("minipipe")
    return ([str(beside)], False) if beside.exists() else ([sys.executable, "-m", "minipipe"], True)


def cli(plan: Plan, *arguments: str, home: Path | None = None) -> Finished:
    """Run the installed command."""
    command, project = installed_command()
    return run([*command, *arguments], plan.folder, environment(home, project))


def missing(plan: Plan, *arguments: str, home: Path | None = None) -> str:
    """Why a command line cannot be measured, "" if it works."""
    finished = cli(plan, *arguments, home=home)
    if finished.code == 0:
        return ""
    last = (finished.err.strip().splitlines() or [f"exit status {finished.code}"])[-1]
    return f"`minipipe {' '.join(arguments)}`: {last}"


def drop(home: Path) -> None:
    """Remove a store that has been measured."""
    shutil.rmtree(home, ignore_errors=True)


# -- checking -------------------------------------------------------------------------------------------------------------


def last_run(home: Path) -> dict[str, int]:
    """What the last run of a store did: its steps by how they ended ("ran", "cached", or a status); nothing without a store."""
    if not (home / DATABASE).exists():
        return {}
    connection = sqlite3.connect(f"{(home / DATABASE).as_uri()}?mode=ro", uri=True)
    try:
        rows = connection.execute(
            "SELECT CASE WHEN status <> 'completed' THEN status WHEN cached_from IS NULL THEN 'ran' ELSE 'cached' END, count(*)"
            " FROM task WHERE parent_id = (SELECT max(id) FROM task WHERE parent_id IS NULL) GROUP BY 1"
        ).fetchall()
    finally:
        connection.close()
    return {str(how): int(number) for how, number in rows}
