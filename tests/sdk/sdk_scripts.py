"""Scripts as real processes in a folder and a store of their own, and what they left behind."""

from __future__ import annotations

import ast
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from minipipe.store.home import Store

FLOWS = Path(__file__).parent / "flows"
ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60.0
_DEFAULTS = (("ends", "completed"), ("raises", ""))
QUEUES = ("default", "services", "other", "third")

_WORKER = """
import sys
from minipipe.engine.worker import Options, Worker
from minipipe.store.home import Store
queues = tuple(sys.argv[1:])
sys.exit(Worker(Store.open(), Options(queues=queues, slots=4, until_idle=True), lambda line: print(line, flush=True)).run())
"""


@dataclass(frozen=True, slots=True)
class Done:
    """A process that ended."""

    code: int
    out: str
    err: str


def surroundings(folder: Path, **environment: str) -> dict[str, str]:
    """The environment of a process whose store is ``.minipipe`` in a folder."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MINIPIPE_")}
    ours = {"MINIPIPE_HOME": str(folder / ".minipipe"), "MINIPIPE_DURABILITY": "fast", "MINIPIPE_JOBS": "4"}
    return {**clean, "PYTHONPATH": str(ROOT), **ours, **environment}


def start(folder: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Start Python in a folder."""
    pipe = subprocess.PIPE
    command, env = (sys.executable, *arguments), surroundings(folder, **environment)
    return subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)


def python(folder: Path, *arguments: str, check: int | None = 0, **environment: str) -> Done:
    """Run Python in a folder; `check` is the exit code that it must have."""
    command, env = (sys.executable, *arguments), surroundings(folder, **environment)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert check is None or done.returncode == check, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return Done(done.returncode, done.stdout, done.stderr)


def work(folder: Path, *queues: str, **environment: str) -> Done:
    """Serve queues until nothing is queued or running."""
    return python(folder, "-c", _WORKER, *(queues or QUEUES), **environment)


def cases_of(flow: str) -> dict[str, tuple[str, str]]:
    """The cases of a flow script, with the status of the run and the exception of the logic that each must end with."""
    tree = ast.parse((FLOWS / f"{flow}.py").read_text())
    found = {}
    for node in tree.body:
        for decorator in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
            if isinstance(call.func, ast.Name) and call.func.id == "case":
                words = {word.arg: word.value for word in call.keywords}
                ends, raises = (ast.literal_eval(words.get(key, ast.Constant(or_else))) for key, or_else in _DEFAULTS)
                found[node.name] = (ends, raises)
    return found


# Flows whose cases run remotely by default only in part: what they are about (arguments, results, reports) is the same code in a
# worker's child, and each case is a process there. The rest has the marker `exhaustive`.
IN_PART = ("arrays", "calls", "data", "reporting")
_LOOKED_AT = (  # by test_endings
    "edges_come_from_data_and_from_nothing_else",
    "return_value_stores_the_result_of_the_logic_as_an_artifact_of_the_pipeline",
    "a_result_that_is_none_is_not_stored",
)


def remote_cases(flow: str, rest: bool = False) -> list[str]:
    """The cases of a flow that run remotely by default, or the rest of them."""
    names = list(cases_of(flow))
    default = [name for number, name in enumerate(names) if flow not in IN_PART or number % 3 == 0 or name in _LOOKED_AT]
    return [name for name in names if name not in default] if rest else default


class Left:
    """What processes left in a folder and its store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def store(self) -> Store:
        """The store, opened when first needed."""
        return Store.open(self.folder / ".minipipe", create=False)

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """Rows of a SELECT."""
        return self.store.database.rows(sql, values)

    def runs(self, name: str) -> list[sqlite3.Row]:
        """The runs of a pipeline, oldest first."""
        sql = "SELECT t.* FROM task t JOIN project p ON p.id = t.project_id WHERE t.run_name IS NOT NULL AND p.name = ?"
        return self.rows(f"{sql} ORDER BY t.id", f"tests/.pipelines/{name}")

    def run(self, name: str) -> sqlite3.Row:
        """The only run of a pipeline."""
        (found,) = self.runs(name)
        return found

    def steps(self, name: str) -> dict[str, sqlite3.Row]:
        """The steps of the newest run of a pipeline, by name."""
        found = self.rows("SELECT * FROM task WHERE parent_id = ? ORDER BY id", self.runs(name)[-1]["id"])
        return {row["name"]: row for row in found}

    def statuses(self, name: str) -> dict[str, str]:
        """Step name -> status of the newest run of a pipeline."""
        return {name: row["status"] for name, row in self.steps(name).items()}

    def log(self, row: sqlite3.Row, attempt: int | None = None) -> str:
        """What an attempt of a task printed; default its last."""
        path = self.store.log_path(row["uid"], attempt or row["attempt"])
        return path.read_text() if path.exists() else ""

    def end(self, name: str) -> dict[str, Any]:
        """How the call of a case ended in the process that made it."""
        found: dict[str, Any] = json.loads((self.folder / f"{name}.end").read_text())
        return found

    def logic(self, name: str) -> tuple[str, str]:
        """How the logic of a case ended: name of the exception ("" if it returned), and its traceback."""
        kind, _, text = (self.folder / f"{name}.logic").read_text().partition("\n")
        return kind, text

    def noted(self, file: str) -> list[str]:
        """The lines that steps noted."""
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []


@dataclass(frozen=True)
class Ran:
    """A flow script whose cases have all been run."""

    mode: str
    left: Left
    done: Done
    worker: Done | None

    def explain(self, name: str) -> str:
        """All that is known of a case, for the message of a failed assertion."""
        row = self.left.run(name)
        steps = {step: (one["status"], one["reason"]) for step, one in self.left.steps(name).items()}
        return "\n".join((f"{row['status']}: {row['reason']}", str(steps), self.left.logic(name)[1], self.left.log(row)[-3000:]))


def run_flow(folder: Path, flow: str, mode: str, names: Sequence[str] = ()) -> Done | None:
    """Run the cases of a flow script; in remote mode a worker serves them afterwards. Leaves ``done.json`` behind."""
    done = python(folder, str(FLOWS / f"{flow}.py"), mode, *names)
    worker = work(folder) if mode == "remote" else None
    facts = [[one.code, one.out, one.err] for one in (done, worker) if one]
    (folder / "done.json").write_text(json.dumps(facts))
    return worker


def read_flow(folder: Path, mode: str) -> Ran:
    """What `run_flow` left behind."""
    done, *rest = (Done(*facts) for facts in json.loads((folder / "done.json").read_text()))
    return Ran(mode, Left(folder), done, rest[0] if rest else None)
