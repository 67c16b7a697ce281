"""Each flow script runs once per mode, whatever number of test processes there is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from minipipe import Task, context
from minipipe.sdk import session
from minipipe.store import edits
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import Left, Ran, read_flow, remote_cases, run_flow


@pytest.fixture(scope="session")
def flow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Ran]]:
    """Runs a flow script in a mode (local, remote; "rest" for the cases that run remotely only when all are asked for), or reads
    what another test process has run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    found: dict[tuple[str, str], Ran] = {}

    def ran(name: str, mode: str) -> Ran:
        if (name, mode) not in found:
            folder = shared / f"{name}-{mode}"
            with FileLock(shared / f"{name}-{mode}.lock"):
                if not (folder / "done.json").exists():
                    folder.mkdir()
                    names = () if mode == "local" else remote_cases(name, rest=mode == "rest")
                    run_flow(folder, name, "local" if mode == "local" else "remote", names)
            found[name, mode] = read_flow(folder, mode)
        return found[name, mode]

    yield ran
    for one in found.values():
        one.left.store.close()


@pytest.fixture
def home(tmp_path: Path, copy_store: Callable[[Path], Store], monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store that `Task` and its like use in this very process."""
    path = tmp_path / ".minipipe"
    opened = Store.open(path) if path.exists() else copy_store(path)  # `folder` has made it
    for name, value in (("HOME", str(opened.path)), ("DURABILITY", "fast"), ("PROGRESS", "off")):
        monkeypatch.setenv(f"MINIPIPE_{name}", value)
    yield opened
    context.set_running(None)
    session.open_store().close()
    opened.close()


@pytest.fixture
def as_worker(home: Store) -> Callable[[Task], Task]:
    """`as_worker(task)`: from here on this process executes the task as a worker's child would; gives the task as code sees it."""

    def become(task: Task) -> Task:
        lease = edits.start(home, task.row_id, session.registration(session.open_store()).id)
        context.set_running(context.Running(home.path, lease, lease.uid, lease.uid, True))
        return Task.current_task()

    return become


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """A folder for one test's scripts, with an empty store: each process that makes one has to load what makes stores."""
    if not (tmp_path / ".minipipe").exists():  # `home` has not made it
        shutil.copytree(empty_store, tmp_path / ".minipipe")
    return tmp_path


@pytest.fixture
def left(folder: Path) -> Iterator[Left]:
    """What scripts leave in the test's folder."""
    found = Left(folder)
    yield found
    if "store" in vars(found):
        found.store.close()
