"""Death of a reaper, of who checkpoints, of a worker with a retry or an abort in its hands: at every point the next one repairs it."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minipipe.store import attempts, steering, workers
from minipipe.store.home import Store
from tests.engine.real import ROOT, Shop
from tests.faults.killing import armed
from tests.faults.sane import sane
from tests.store import making

pytestmark = pytest.mark.faults

REAP = "import sys; from minipipe.store.home import Store; from minipipe.store import workers\n" + (
    "from minipipe.engine.worker import sweep; workers.reap(Store.open(sys.argv[1], create=False), 3, sweep)"
)
CHECKPOINT = "import sys; from minipipe.store.home import Store; from minipipe.store import upkeep\n" + (
    "store = Store.open(sys.argv[1], create=False); store.database.checkpoint(empty=True); store.close()"
)
VERBS = {"reap": REAP, "checkpoint": CHECKPOINT}
ROLES = {"reap": "worker", "checkpoint": "cli"}  # as the shim tells them apart: by what they import


def _left(store: Store) -> tuple[int, int]:
    """A finished step with a file, and one in the hands of a worker that is dead; the row ids."""
    worker = making.agent(store)
    done = making.step(store, "done")
    making.work(store, worker, value=b"d" * 20_000)
    lost = making.step(store, "lost")
    making.step(store, "child", after=[lost])
    making.claim(store, worker)
    worker.lock.release()
    return done, lost


def _python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    path = ":".join(filter(None, [environment.pop("PYTHONPATH", ""), str(ROOT)]))
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": path, "MINIPIPE_DURABILITY": "fast", "PATH": "/usr/bin:/bin", **environment},
    )


@pytest.mark.parametrize(("kind", "when"), [("sql", "before"), ("os", "before"), ("os", "after")])
@pytest.mark.parametrize("verb", VERBS)
def test_a_death_anywhere_in_it_is_repaired_by_the_next(
    tmp_path: Path, copy_store: Callable[[Path], Store], verb: str, kind: str, when: str
) -> None:
    template = copy_store(tmp_path / "left")
    done, lost = _left(template)
    template.close()
    points = 0
    for n in itertools.count(1):
        folder, mark = tmp_path / str(n), tmp_path / f"{n}.dead"
        shutil.copytree(tmp_path / "left", folder)
        hurt = _python(VERBS[verb], folder, **armed(ROLES[verb], kind, n, when, mark=mark))
        assert hurt.returncode == (-9 if mark.exists() else 0), (n, hurt.stderr.decode())
        again = _python(VERBS[verb], folder)
        assert again.returncode == 0, (n, again.stderr.decode())
        store = Store.open(folder, create=False, durability="fast")
        workers.reap(store, 3)
        row = making.task(store, lost)
        assert (row["status"], row["crashes"], making.status(store, done)) == ("queued", 1, "completed"), n
        worker = making.agent(store)
        for _ in range(2):
            making.work(store, worker, value=b"e" * 20_000)
        assert [row["status"] for row in store.database.rows("SELECT DISTINCT status FROM task")] == ["completed"]
        workers.leave(store, worker)
        store.close()
        assert sane(folder) == [], n
        shutil.rmtree(folder)
        if not mark.exists():
            break
        points += 1
    assert points >= (1 if kind == "sql" or verb == "reap" else 0)


@pytest.mark.parametrize("scenario", ["a failing step with retry", "an abort"])
def test_a_worker_that_dies_at_any_statement_of_it_loses_nothing(
    tmp_path: Path, copy_store: Callable[[Path], Store], wait_for: Callable[..., None], scenario: str
) -> None:
    points = 0
    for n in itertools.count(1, 3):
        folder = tmp_path / str(n)
        folder.mkdir()
        shop = Shop(copy_store(folder / "store"), folder, wait_for)
        mark = folder / "dead"
        quick = "import minipipe.store.attempts as attempts\nattempts.RETRY_BASE_S = 0.01\n"
        try:
            if scenario == "an abort":
                task = shop.step("stay", file="never")
                worker = shop.worker(armed("worker", "sql", n, mark=mark), until_idle=True)
                shop.wait(lambda mark=mark, shop=shop: mark.exists() or shop.lines("spans"))  # type: ignore[misc]
                steering.abort(shop.store, [task.id])
            else:
                task = shop.step("stumble", file="tries", failures=1, crashes=0, max_retries=1)
                worker = shop.worker(armed("worker", "sql", n, mark=mark), before=quick, until_idle=True)
            code = worker.process.wait(30)
            assert (code == -9) == mark.exists(), worker.said()
            shop.drain(before=quick)
            row = shop.row(task)
            assert row["status"] == ("stopped" if scenario == "an abort" else "completed"), n
            assert row["crashes"] <= 1 and row["retries"] <= 1
            if scenario != "an abort":
                assert 2 <= len(shop.lines("tries")) <= 3
            shop.check()
            if not mark.exists():
                break
            points += 1
        finally:
            shop.close()
            shop.store.close()
    assert points >= 5
    assert attempts.RETRY_BASE_S > 0.01
