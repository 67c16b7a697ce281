"""What every test may ask for: a store of its own, a way to wait, an environment without settings."""

from __future__ import annotations

import compileall
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import minipipe
from minipipe.store.home import Store
from tests.faults.shim import writes

_stray: list[str] = []  # writes outside BEGIN IMMEDIATE since the test began


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once. The tests start hundreds of processes; in a fresh checkout with ``PYTHONDONTWRITEBYTECODE`` set
    each of them would compile it anew, which takes longer than what most of them do."""
    writes.watch(_stray.append)
    if not hasattr(config, "workerinput"):  # not in the processes of pytest-xdist
        compileall.compile_dir(Path(minipipe.__file__).parent, quiet=2, workers=0)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the test modules with their rewritten assertions as well: to make them anew takes each process five seconds."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, False
    try:
        return (yield)
    finally:
        sys.dont_write_bytecode = before


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One process more than CPUs: most cases wait for processes of their own."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test sees the defaults, and what it sets ends with it."""
    for name in [name for name in os.environ if name.startswith("MINIPIPE_")]:
        monkeypatch.delenv(name)
    yield
    for name in [name for name in os.environ if name.startswith("MINIPIPE_")]:
        del os.environ[name]
    if "minipipe.sdk.pipeline" in sys.modules:
        sys.modules["minipipe.sdk.pipeline"].write_down(None)  # a controller that it built here is not the next one's pipeline


@pytest.fixture(autouse=True)
def _no_write_outside_a_transaction() -> Iterator[None]:
    """Whatever a test does in this process: each write of minipipe is inside BEGIN IMMEDIATE."""
    _stray.clear()
    yield
    assert _stray == []


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed, empty store, made once; making one imports sqlite-utils and syncs, copying one does not."""
    path = tmp_path_factory.mktemp("template") / "store"
    Store.open(path, durability="fast").close()
    os.truncate(path / "ballast", 0)
    return path


@pytest.fixture(scope="session")
def copy_store(empty_store: Path) -> Callable[[Path], Store]:
    """`copy_store(path)` opens a fresh store there, with an id of its own."""

    def copy(path: Path) -> Store:
        shutil.copytree(empty_store, path)
        store = Store.open(path, create=False, durability="fast")
        store.become_another()
        return store

    return copy


@pytest.fixture
def store(tmp_path: Path, copy_store: Callable[[Path], Store]) -> Iterator[Store]:
    """A fresh store in the test's folder; not synced to the disk."""
    opened = copy_store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """`wait_for(condition, timeout=10)`: return once `condition()` is true, fail the test when the seconds run out."""

    def wait(condition: Callable[[], object], timeout: float = 10.0) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() >= end:
                pytest.fail(f"still waiting after {timeout:g} s")
            time.sleep(0.005)

    return wait
