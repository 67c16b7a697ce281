"""How a command that ran something ends: job table, closing line, the failure in words, the JSON document."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minipipe import errors, frames, states
from minipipe.cli import output
from minipipe.cli.lines import following
from minipipe.sdk.needs import package_of
from minipipe.store import details, lookup, naming, records, sessions
from minipipe.store.details import elapsed_s
from minipipe.store.home import Store

_FEW = 12  # names that get a row of their own
_LOG_BYTES = 64 << 10
_LOG_LINES = 3
_TRACEBACK = "Traceback (most recent call last):\n"
_DIED = "Fatal Python error: "
_CHAINED = (  # how Python joins a traceback to the one before
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_HEADERS = ("STEP", "TOTAL", "COMPLETED", "CACHED", "FAILED", "SKIPPED", "STOPPED", "TIME")
_NUMBERED = re.compile(r"(.+)_\d+\Z")


# -- the job table ------------------------------------------------------------------------------------------------------


def job_rows(steps: Sequence[sqlite3.Row]) -> list[list[str]]:
    """Rows of the job table: one per step name if these are few, then ALL. CACHED is part of COMPLETED."""
    names = {step["name"] for step in steps}
    groups: dict[str, list[sqlite3.Row]] = {}
    for step in steps:
        match = _NUMBERED.match(step["name"])
        groups.setdefault(match[1] if match and match[1] in names else step["name"], []).append(step)
    rows = [_job_row(name, group) for name, group in groups.items()] if len(groups) <= _FEW else []
    return [*rows, _job_row("ALL", steps)]


def _job_row(name: str, steps: Sequence[sqlite3.Row]) -> list[str]:
    def count(*statuses: str) -> int:
        return sum(step["status"] in statuses for step in steps)

    numbers = [
        len(steps),
        count(states.COMPLETED, states.PUBLISHED),
        sum(step["cached_uid"] is not None for step in steps),
        count(states.FAILED),
        count(states.SKIPPED),
        count(states.STOPPED),
    ]
    spent = sum(step["duration_s"] or 0.0 for step in steps)
    return [name, *(str(number or "-") for number in numbers), output.duration(spent)]


def print_table(steps: Sequence[sqlite3.Row]) -> None:
    """Write the job table to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        output.print_table(job_rows(steps), _HEADERS)


def closing_line(store: Store, run: sqlite3.Row, steps: Sequence[sqlite3.Row], several: bool) -> str:
    """``completed in 1.4s (2 cached)   next: minipipe show @last | …``; with the run's names if there are `several`."""
    cached = sum(step["cached_uid"] is not None for step in steps)
    text = f"{run['status']} in {output.duration(elapsed_s(run, time.time())) or '0.0s'}" + (
        f" ({cached} cached)" if cached else ""
    )
    if several:
        text = f"{run['uid'][:8]}  {output.escape(run['run_name'] or run['name'])}  {text}"
    if run["status"] == states.CREATED and run["run_name"] is None:
        place = f"base_task_project={run['project']!r}, base_task_name={run['name']!r}"
        if json.loads(run["entry"]).get("kind") == "here":  # nothing that could run: a data set that is still open, say
            return output.escape(f"draft {run['uid'][:8]} {run['name']}")
        return output.escape(f"template {run['uid'][:8]}   next: pipe.add_step(name=…, {place})")
    newest = sessions.is_newest_run(store, run["id"])
    if run["status"] not in states.GOOD or (several and not newest):
        return text
    source = details.task_by_id(store, run["template_id"])
    if source is not None and source["run_name"] is not None:
        return f"{text}   next: minipipe diff {source['uid'][:8]} {run['uid'][:8]}"
    last = newest and lookup.find_task(store, "@last")["id"] == run["id"]  # a script may leave a task of its own after its run
    called = "@last" if last else run["run_name"] or run["uid"][:8]
    report = "report --open" if called == "@last" else f"report {called} --open"
    changed = _another_value(store, run["id"])
    words = [f"show {called}", report, *([f"rerun {called} --set {changed}"] if changed and steps else [])]
    return f"{text}   next: {following(*words)}"


def _another_value(store: Store, run_id: int) -> str:
    """``lr=0.2`` where the run had 0.1: an example of what to try; "" if no argument of it is a number."""
    cells = [cell for cell in records.parameters(store, run_id) if cell["section"] == "Args"]
    for kind in ("float", "int"):
        for cell in cells:
            value = json.loads(cell["value"]) if cell["type"] == kind else 0
            if value and math.isfinite(value):
                return f"{cell['name']}={2 * value:g}" if kind == "float" else f"{cell['name']}={2 * value}"
    return ""


# -- failures -----------------------------------------------------------------------------------------------------------


def failure(store: Store, run: sqlite3.Row, steps: Sequence[sqlite3.Row]) -> errors.RunFailed:
    """What made a run end badly, as an error: the first step that failed, else the run itself."""
    shown = run["uid"][:8]
    bad = [
        step
        for step in steps
        if step["status"] in states.BAD and not step["tolerates_abort" if step["status"] == states.STOPPED else "tolerated"]
    ]
    bad.sort(key=lambda step: (step["status"] != states.FAILED, step["ended_at"] or 0.0))
    if bad and bad[0]["status"] != states.FAILED and run["status"] == states.FAILED and not run["reason"].startswith("step "):
        bad = []  # its own logic or a callback failed; the steps were stopped because of it
    resume = f"minipipe {naming.again(run)} {shown}"
    if run["status"] == states.STOPPED:
        return errors.RunFailed(f"run {shown} was stopped", run["reason"], resume, run=run["uid"])
    task = bad[0] if bad else run
    place = f"{shown}/{task['name']}" if bad else shown
    facts = json.loads(task["error"]) if task["error"] else {}
    what = f"step {task['name']!r}" if bad else f"run {shown}"
    message, cause, hint = _words(what, task, facts)
    path = store.log_path(task["uid"], task["attempt"])
    log = [f"log: {line}" for line in log_tail(path)]
    where = facts.get("where", "") or frames.where_it_died(_end_of(path).rpartition(_DIED)[2])
    look = following(f"step {place} --pdb") if bad and task["status"] == states.FAILED and facts.get("traceback") else ""
    look = look or (f"minipipe logs {place}" if log or (bad and not facts.get("traceback")) else "")
    look = hint or look
    look = f"{look}   or, after a fix:  {resume}" if look else f"after a fix:  {resume}"
    return errors.RunFailed(message, "\n".join(filter(None, [cause, where, *log])), look, run=run["uid"])


def _words(what: str, task: sqlite3.Row, facts: dict[str, str]) -> tuple[str, str, str]:
    """(message, cause, hint) of a failed task; the last two are empty where its line and its log say it all."""
    reason = task["reason"]
    if facts.get("type") == "ModuleNotFoundError" and (module := re.search(r"'([\w.]+)'", facts.get("message", ""))):
        package = package_of(module[1].partition(".")[0])
        python = "" if task["environment"] else f"python: {sys.executable}"
        return f"{what}: no module named {module[1]!r}", python, f'pip install {package}, or packages=["{package}"]'
    if reason.startswith("killed by "):
        return f"{what} was {reason}", facts.get("message", ""), ""
    own = re.split(r"\nminipipe\.errors\.\w+: ", facts.get("traceback", ""))
    if len(own) > 1 and facts.get("type") != "StepFailed":  # an error of ours, raised where the step ran: it has its own words
        parts = dict(re.findall(r"^  (cause|hint): (.*)$", own[-1], re.MULTILINE))
        said = facts.get("message", "").splitlines()[0] if facts.get("message") else reason
        said = said if said.startswith(what) else f"{what} {task['status']}: {said}"
        return said, parts.get("cause", ""), parts.get("hint", "")
    return f"{what} {task['status']}" + (f": {reason}" if reason else ""), "", ""


def log_tail(path: Path, lines: int = _LOG_LINES) -> list[str]:
    """The last lines that a task printed itself, without the traceback, or the stack, that ended it."""
    text = _end_of(path)
    before, died, _ = text.rpartition(_DIED)
    text = before if died else text
    while (place := text.rfind(_TRACEBACK)) >= 0:
        text = text[:place].rstrip()
        if not text.endswith(_CHAINED):
            break
    found = [line.rstrip() for line in text.splitlines() if line.strip() and line not in _CHAINED]
    found = found[1:] if found and found[0].startswith("minipipe: ") else found
    return found[-lines:]


def _end_of(path: Path) -> str:
    """The last part of a log, "" if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LOG_BYTES))
            return file.read().decode("utf-8", "backslashreplace")
    except OSError:
        return ""


def tell(error: errors.MinipipeError, color: str) -> None:
    """Write an error's three parts to stderr."""
    for word, text in (("error", error.message), ("cause", error.cause), ("hint", error.hint)):
        lines = [output.escape(line) for line in text.splitlines()]
        if lines:
            indent = "" if word == "error" else "  "
            print(f"{indent}{output.style(f'{word}:', word, sys.stderr, color)} " + "\n         ".join(lines), file=sys.stderr)


# -- JSON ---------------------------------------------------------------------------------------------------------------


def document(store: Store | None, runs: Sequence[sqlite3.Row], error: errors.MinipipeError | None, code: int) -> dict[str, Any]:
    """What ``--json`` prints: the facts of the newest run, the ids of all, how the command ended."""
    found: dict[str, Any] = {"id": None, "status": None, "steps": []}
    if store is not None and runs:
        found = _run_facts(store, runs[-1])
    found["runs"] = [run["uid"] for run in runs]
    found["exit_code"] = code
    if error is not None:
        found["error"] = {
            "code": code,
            "kind": type(error).__name__,
            "message": error.message,
            "cause": error.cause,
            "hint": error.hint,
        }
    return found


def _run_facts(store: Store, run: sqlite3.Row) -> dict[str, Any]:
    pipeline, project = lookup.pipeline_of(run["name"], run["project"])
    cells = [cell for cell in records.parameters(store, run["id"]) if cell["section"] != "return"]
    return {
        "id": run["uid"],
        "name": run["run_name"],
        "pipeline": pipeline,
        "project": project,
        "version": run["version"],
        "status": run["status"],
        "reason": run["reason"],
        "parameters": {f"{cell['section']}/{cell['name']}": json.loads(cell["value"]) for cell in cells},
        "duration_s": run["duration_s"],
        "started_at": output.iso(run["started_at"]),
        "ended_at": output.iso(run["ended_at"]),
        "steps": [
            {
                "id": step["uid"],
                "name": step["name"],
                "status": step["status"],
                "reason": step["reason"],
                "cached_from": step["cached_uid"],
                "attempt": step["attempt"],
                "duration_s": step["duration_s"],
            }
            for step in sessions.steps(store, run["id"])
        ],
    }
