"""Upkeep that is killed at any statement or file operation leaves a store that the next try finishes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from minipipe.store import attempts, edits, retention
from minipipe.store.home import Store
from tests.faults.forked import Forked
from tests.faults.killing import armed
from tests.faults.sane import sane
from tests.store import making

BIG = 20_000


@pytest.fixture
def littered(tmp_path: Path, copy_store: Callable[[Path], Store]) -> Path:
    """A closed store: two runs that go, one that stays and was served from a third that therefore stays, and litter."""
    store = copy_store(tmp_path / "littered")
    worker = making.agent(store)
    for number, facts in enumerate(({}, {}, {"key_base": "k", "use_cache": True}, {"key_base": "k", "use_cache": True})):
        run = making.run(store)
        attempts.start_here(store, run.id, worker.id)
        step = making.step(store, parent_id=run.id, **facts)
        if making.status(store, step) == "queued":
            making.work(store, worker, value=bytes([number]) * BIG)
        edits.move(store, run.id, "completed")
    for name in ("tmp/" + "ab" * 16 + ".0", "workers/" + "cd" * 16 + ".lock"):
        (store.path / name).write_bytes(b"x")
        (store.path / name).chmod(0o600)
    assert len(retention.plan(store, retention.Rule(keep_runs=1)).runs) == 2
    worker.lock.release()
    store.close()
    return store.path


def _dies_and_recovers(forked: Forked, littered: Path, folder: Path, kind: str, when: str, n: int) -> bool:
    """One round; False once gc has less than n points."""
    shutil.copytree(littered, folder)
    mark = folder.with_suffix(".dead")
    kill = armed("cli", kind, n, when, mark=mark)
    first = forked(folder, "gc", "--keep-runs", "1", "--yes", **kill)
    assert (first.returncode == -9) == mark.exists(), first.stderr.decode()
    assert sane(folder) == []
    again = forked(folder, "gc", "--keep-runs", "1", "--yes")
    assert again.returncode == 0, again.stderr.decode()
    assert sane(folder, after_gc=True) == []
    store = Store.open(folder, create=False)
    assert len(store.database.rows("SELECT 1 FROM task WHERE run_name IS NOT NULL")) == 2
    store.close()
    return mark.exists()


@pytest.mark.parametrize(("kind", "when", "points"), [("sql", "before", (45,)), ("os", "after", (3,))])
def test_gc_survives_a_death_at_some_points(
    forked: Forked, littered: Path, tmp_path: Path, kind: str, when: str, points: tuple[int, ...]
) -> None:
    for n in points:
        assert _dies_and_recovers(forked, littered, tmp_path / f"{kind}{n}", kind, when, n), n


@pytest.mark.faults
@pytest.mark.parametrize(("kind", "when", "least"), [("sql", "before", 75), ("os", "before", 3), ("os", "after", 3)])
def test_gc_survives_a_death_at_every_point(
    forked: Forked, littered: Path, tmp_path: Path, kind: str, when: str, least: int
) -> None:
    for n in itertools.count(1):
        if not _dies_and_recovers(forked, littered, tmp_path / str(n), kind, when, n):
            break
        shutil.rmtree(tmp_path / str(n))
    assert n > least
