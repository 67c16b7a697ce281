"""Stores filled directly, so that a test of words takes milliseconds; and the command in this process or as a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from minipipe import clearml
from minipipe.cli import root
from minipipe.store import attempts, codec, tasks, workers
from minipipe.store.home import BALLAST_BYTES, Store

PYTHON = (sys.executable, "-m", "minipipe")


@dataclass
class Filled:
    """A store with one living worker and shorthands for filling it."""

    store: Store
    worker: workers.Registration
    made: list[tasks.Submitted] = field(default_factory=list)

    def run(self, name: str = "digits-demo", start: bool = True, **facts: Any) -> tasks.Submitted:
        """A run; started by this process unless told otherwise."""
        parameters = facts.pop("parameters", (tasks.Parameter("Args", "lr", "0.1", "float", "0.1"),))
        project = facts.pop("project", f"examples/.pipelines/{name}")
        facts = {"version": "1.0.0", "queue": "services", "entry": {"kind": "here", "cwd": "/", "roots": []}, **facts}
        made = tasks.submit(
            self.store,
            tasks.NewTask(
                type="controller", name=name, project=project, controller=True, is_run=True, parameters=parameters, **facts
            ),
        )
        if start:
            attempts.start_here(self.store, made.id, self.worker.id)
        return made

    def step(self, run: tasks.Submitted, name: str, parents: tuple[tasks.Submitted, ...] = (), **facts: Any) -> tasks.Submitted:
        """A step of a run, submitted."""
        facts = {"queue": "default", "entry": {"kind": "import", "cwd": "/", "roots": [], "returns": []}, **facts}
        return tasks.submit(
            self.store,
            tasks.NewTask(
                type="training",
                name=name,
                project="examples/.pipelines/digits-demo",
                parent_id=run.id,
                parents=tuple((parent.id, "data") for parent in parents),
                **facts,
            ),
        )

    def claim(self, *queues: str, worker: workers.Registration | None = None) -> attempts.Claim:
        """The next queued step, claimed by the worker."""
        who = attempts.Claimant((worker or self.worker).id, queues or ("default", "services"))
        claim = attempts.claim_next(self.store, who)
        assert claim is not None
        return claim

    def finish(self, claim: attempts.Claim, **outputs: Any) -> None:
        """End an attempt well, with these values as outputs."""
        made = []
        for name, value in outputs.items():
            if isinstance(value, (int, float, str, bool)):
                kind = type(value).__name__
                made.append(attempts.Output(name, tasks.Parameter("return", name, str(value), kind, json.dumps(value))))
            else:
                made.append(attempts.Output(name, None, codec.encode(self.store, value)))
        attempts.finish(self.store, claim.lease, attempts.Outcome(attempts.DONE, "", None, tuple(made), 0.9))

    def fail(self, claim: attempts.Claim, message: str = "loss is nan") -> None:
        """End an attempt with an exception."""
        error = {
            "type": "ValueError",
            "message": message,
            "where": "flow.py:31, in train:  raise",
            "traceback": f"Traceback\nValueError: {message}\n",
        }
        attempts.finish(self.store, claim.lease, attempts.Outcome(attempts.FAILED, f"ValueError: {message}", error, (), 3.1))

    def end(self, run: tasks.Submitted, status: str = "completed", reason: str = "") -> None:
        """End a run that `run` started."""
        with self.store.database.write() as connection:
            connection.execute(
                "UPDATE task SET status = ?, reason = ?, worker_id = NULL, ended_at = started_at + 1.4 WHERE id = ?",
                (status, reason, run.id),
            )

    def log(self, task: tasks.Submitted, text: bytes, attempt: int = 1, name: str = "train") -> Path:
        """What an attempt printed, with minipipe's own first line."""
        path = self.store.log_path(task.uid, attempt)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(f"minipipe: {name} {task.uid[:8]} attempt {attempt} token 0123abcd\n".encode() + text)
        path.chmod(0o600)
        return path

    def row(self, task: tasks.Submitted) -> dict[str, Any]:
        """The task's row."""
        found = self.store.database.row("SELECT * FROM task WHERE id = ?", (task.id,))
        assert found is not None
        return dict(found)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder and no setting from outside."""
    for name in list(os.environ):
        if name.startswith("MINIPIPE_") or name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    monkeypatch.setenv("MINIPIPE_DURABILITY", "fast")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def filled(surroundings: Path, copy_store: Callable[[Path], Store]) -> Iterator[Filled]:
    """An empty store at ./.minipipe with one living worker, w1, that serves default and services with 4 slots."""
    store = copy_store(surroundings / ".minipipe")
    os.truncate(store.path / "ballast", BALLAST_BYTES)
    worker = workers.register(store, workers.AGENT, slots=4, queues=("default", "services"))
    yield Filled(store, worker)
    worker.lock.release()
    store.close()


@pytest.fixture
def cli() -> Iterator[Callable[..., Result]]:
    """The command in this process. What ``minipipe run`` leaves in a process that does not end with it is taken back."""

    def invoke(*args: str) -> Result:
        return CliRunner().invoke(root, list(args))

    yield invoke
    clearml.uninstall()


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """The command as a process of its own."""

    def call(*args: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run((*PYTHON, *args), capture_output=True, timeout=60, env={**os.environ, **environment}, check=False)

    return call
