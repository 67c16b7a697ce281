"""What the flow scripts share: their cases, what steps note, how they are started.

A case is a pipeline whose logic asserts one sentence of the contract; the function's name is the sentence. A script runs its
cases in one process (``SCRIPT local``), or puts each on a queue (``SCRIPT remote``), where a worker runs ``SCRIPT remote CASE``.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minipipe import PipelineDecorator, Task
from minipipe.sdk import session

CASES: dict[str, Callable[..., Any]] = {}
PATIENCE_S = 30.0


def case(_function: Any = None, *, ends: str = "completed", raises: str = "", **options: Any) -> Any:
    """Make a function the logic of a case; ``NAME.logic`` says how the logic ended, whatever becomes of the run.

    Args:
        ends: status that its run must end with; the reader of the script takes it from the text.
        raises: the exception that the logic must end with, "" if it must return.
        options: of the pipeline.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__

        @functools.wraps(function)
        def logic(*args: Any, **kwargs: Any) -> Any:
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                Path(f"{name}.logic").write_text(f"{type(error).__name__}\n{traceback.format_exc()}")
                raise
            Path(f"{name}.logic").write_text("\n")
            return result

        options.setdefault("version", "1.0")
        CASES[name] = PipelineDecorator.pipeline(name=name, project="tests", **options)(logic)
        return CASES[name]

    return decorate(_function) if _function is not None else decorate


def main() -> None:
    """Run cases as the command line says: ``local|remote [CASE ...]``."""
    mode, *names = sys.argv[1:]
    if mode == "local":
        PipelineDecorator.run_locally()
    where = "end" if Task.running_locally() else "end.worker"
    for name in names or CASES:
        sys.argv[1:] = [mode, name]
        try:
            CASES[name]()
            end = {"type": None}
        except SystemExit as left:
            end = {"type": "SystemExit", "code": left.code}
        except Exception as error:
            end = {"type": type(error).__name__, "text": str(error)}
            if not Task.running_locally():
                raise
        with open(f"{name}.{where}", "w") as file:
            json.dump(end, file)


# -- what steps and logic do ------------------------------------------------------------------------------------------


def wait_for(path: str) -> None:
    """Wait until a file is there."""
    end = time.monotonic() + PATIENCE_S
    while not os.path.exists(path):
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.005)


def note(file: str, text: object = "x") -> int:
    """Append a line to a file of the run's folder; returns how many lines it has now."""
    with open(file, "a") as opened:
        opened.write(f"{text}\n")
    return len(noted(file))


def noted(file: str) -> list[str]:
    """The lines of a file, none if it is not there."""
    return Path(file).read_text().splitlines() if os.path.exists(file) else []


def raised(kind: type[BaseException], call: Callable[[], object]) -> Any:
    """The exception of that kind that a call raises."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


# -- what the logic sees of its own run -------------------------------------------------------------------------------


def rows(sql: str) -> list[dict[str, Any]]:
    """Rows of the running pipeline; ``:run`` is its row id."""
    found = session.current_run()
    assert found is not None
    return [dict(row) for row in found.store.database.rows(sql, {"run": found.row_id})]


def edges() -> set[tuple[str, str, str]]:
    """(parent, kind, child) of the running pipeline's steps so far."""
    found = rows(
        "SELECT p.name AS parent, e.kind, c.name AS child FROM edge e JOIN task p ON p.id = e.parent_id"
        " JOIN task c ON c.id = e.child_id WHERE c.parent_id = :run"
    )
    return {(row["parent"], row["kind"], row["child"]) for row in found}


def steps() -> dict[str, dict[str, Any]]:
    """The running pipeline's steps by name, in order."""
    return {row["name"]: row for row in rows("SELECT * FROM task WHERE parent_id = :run ORDER BY id")}


def parameters(step: str) -> dict[str, str]:
    """Texts of a step's parameters."""
    found = rows(
        "SELECT t.name AS step, p.section, p.name, p.text FROM parameter p JOIN task t ON t.id = p.task_id"
        " WHERE t.parent_id = :run ORDER BY p.id"
    )
    return {f"{row['section']}/{row['name']}": row["text"] for row in found if row["step"] == step}


def ended(step: str) -> dict[str, Any]:
    """The row of a step once it has ended."""
    end = time.monotonic() + PATIENCE_S
    while (row := steps()[step])["ended_at"] is None:
        assert time.monotonic() < end, f"{step} never ended"
        time.sleep(0.005)
    return row


def log_of(step: str) -> str:
    """What the last attempt of a step printed."""
    found = session.current_run()
    row = steps()[step]
    assert found is not None
    return found.store.log_path(row["uid"], row["attempt"]).read_text()
