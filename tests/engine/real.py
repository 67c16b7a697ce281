"""Real workers for tests: submit a step of `steplib`, start a worker process, look at what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minipipe.engine import tree
from minipipe.engine.worker import sweep
from minipipe.store import tasks, workers
from minipipe.store.home import Store
from minipipe.store.tasks import Submitted
from tests.faults.sane import sane

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROJECT = HERE / "project"
QUICK = {"MINIPIPE_GRACE_S": "0.4", "MINIPIPE_DRAIN_S": "0.6", "MINIPIPE_DURABILITY": "fast"}


@dataclass
class Serving:
    """A worker process, and what it printed."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def said(self) -> str:
        """Everything it printed on stderr."""
        return self.err.read_text(errors="replace")

    def kill(self) -> None:
        """End it without a word and collect it."""
        self.process.kill()
        self.process.wait(10)

    def end(self, number: int = signal.SIGTERM, timeout: float = 20) -> int:
        """Signal it, wait, return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)


@dataclass
class Shop:
    """A store with its workers. Everything that it starts ends with `close`."""

    store: Store
    folder: Path
    wait: Callable[..., None]
    started: list[Serving] = field(default_factory=list)
    max_crashes: int = 3

    # -- work ---------------------------------------------------------------------------------------------------------

    def step(
        self,
        function: str,
        *,
        name: str = "",
        returns: tuple[str, ...] = ("x",),
        needs: dict[str, Submitted] | None = None,
        entry: dict[str, Any] | None = None,
        queue: str = "default",
        **facts: Any,
    ) -> Submitted:
        """Submit a function of `steplib`.

        Args:
            function: its name.
            needs: argument -> the step whose result ``x`` it gets.
            facts: fields of `NewTask`; every other name is an argument of the step.
        """
        known = {key: facts.pop(key) for key in list(facts) if key in tasks.NewTask.__dataclass_fields__}
        parameters = [
            tasks.Parameter("kwargs", key, str(value), type(value).__name__, json.dumps(value)) for key, value in facts.items()
        ]
        needs = needs or {}
        return tasks.submit(
            self.store,
            tasks.NewTask(
                type="custom",
                name=name or function,
                project="faults",
                queue=queue,
                entry={
                    "kind": "import",
                    "module": "steplib",
                    "qualname": function,
                    "cwd": str(self.folder),
                    "roots": [str(PROJECT)],
                    "returns": list(returns),
                    **(entry or {}),
                },
                parameters=tuple(parameters),
                links=tuple(tasks.Link("reference", key, None, source.id, "x") for key, source in needs.items()),
                parents=(*((source.id, "data") for source in needs.values()), *known.pop("parents", ())),
                **known,
            ),
        )

    def worker(self, environment: dict[str, str] | None = None, **options: Any) -> Serving:
        """Start a worker; see `serve.py`."""
        number = len(self.started)
        out, err = self.folder / f"worker{number}.out", self.folder / f"worker{number}.err"
        outside = {key: value for key, value in os.environ.items() if not key.startswith("MINIPIPE_")}
        python_path = os.pathsep.join(
            [*([environment["PYTHONPATH"]] if environment and "PYTHONPATH" in environment else []), str(ROOT)]
        )
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "serve.py"), str(self.store.path), json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=self.folder,
                env={
                    **outside,
                    **QUICK,
                    **(environment or {}),
                    "PYTHONPATH": python_path,
                    "MINIPIPE_HOME": str(self.store.path),
                },
                process_group=0,
            )
        serving = Serving(process, out, err)
        self.started.append(serving)
        return serving

    def drain(self, timeout: float = 30, environment: dict[str, str] | None = None, **options: Any) -> None:
        """Have a worker do everything that waits."""
        code = self.worker(environment, until_idle=True, **options).process.wait(timeout)
        assert code == 0, self.started[-1].said()

    def chain(self, last: str = "close") -> tuple[Submitted, Submitted, Submitted]:
        """Three steps in a row: an inline result, a file, a number."""
        first = self.step("begin")
        second = self.step("grow", needs={"value": first})
        return first, second, self.step(last, needs={"value": second})

    # -- what became of it --------------------------------------------------------------------------------------------

    def row(self, task: Submitted) -> dict[str, Any]:
        """The task's row."""
        found = self.store.database.row("SELECT * FROM task WHERE id = ?", (task.id,))
        assert found is not None
        return dict(found)

    def status(self, task: Submitted) -> str:
        return str(self.row(task)["status"])

    def error(self, task: Submitted) -> dict[str, str]:
        """Its last failure as data."""
        return dict(json.loads(self.row(task)["error"] or "{}"))

    def finished(self, *made: Submitted, timeout: float = 20) -> dict[str, Any]:
        """Wait until these tasks have ended; the row of the last."""
        self.wait(lambda: all(self.row(task)["ended_at"] for task in made), timeout)
        return self.row(made[-1])

    def running(self, task: Submitted) -> int:
        """Wait until a task runs; the process id of its child."""
        found: list[int] = []

        def look() -> bool:
            row = self.row(task)
            found[:] = [pid for pid in tree.members([row["token"]]) if row["status"] == "in_progress"] if row["token"] else []
            return bool(found)

        self.wait(look, 20)
        return min(found)

    def value(self, task: Submitted, name: str = "x") -> Any:
        """A scalar result."""
        row = self.store.database.row(
            "SELECT value FROM parameter WHERE task_id = ? AND section = 'return' AND name = ?", (task.id, name)
        )
        assert row is not None, self.row(task)["reason"]
        return json.loads(row[0])

    def log(self, task: Submitted, attempt: int = 1) -> bytes:
        return self.store.log_path(task.uid, attempt).read_bytes()

    def lines(self, name: str) -> list[str]:
        """What steps appended to a file of the folder."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def events(self, task: Submitted) -> list[str]:
        rows = self.store.database.rows("SELECT new FROM event WHERE task_id = ? AND kind = 'status' ORDER BY id", (task.id,))
        return [row["new"] for row in rows]

    def host_of(self, worker: Serving) -> int:
        """The process id of a worker's step host, once it has one."""
        self.wait(lambda: hosts_of(worker.pid), 20)
        return hosts_of(worker.pid)[0]

    def check(self, **options: Any) -> None:
        """The store is what it should be, once dead workers are settled."""
        workers.reap(self.store, self.max_crashes, sweep)
        assert sane(self.store.path, max_crashes=self.max_crashes, **options) == []

    # -- the end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End all workers; no process of the store may be left."""
        for serving in self.started:
            if serving.process.poll() is None:
                serving.process.send_signal(signal.SIGTERM)
        for serving in self.started:
            try:
                serving.process.wait(15)
            except subprocess.TimeoutExpired:
                serving.kill()
                raise
        left = list(processes_of(self.store.store_id))
        tree.send(left, signal.SIGKILL)
        assert left == []


def hosts_of(pid: int) -> list[int]:
    """Step hosts among the children of a process."""
    found = []
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            if b"minipipe.engine.host" in command_of(child):
                found.append(child)
    return found


def command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def processes_of(store_id: str) -> Iterator[int]:
    """Living processes that were started for a store."""
    mark = f"MINIPIPE_STORE_ID={store_id}".encode()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                state = (entry / "stat").read_bytes().rpartition(b")")[2].split()[0]
                if state != b"Z":
                    yield int(entry.name)


def gone(pid: int) -> bool:
    """True if a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
