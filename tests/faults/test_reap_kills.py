"""Death of a reaper, of who checkpoints, of a worker with a retry or an abort in its hands: at every point the next one repairs it."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minipipe.store import steering, workers
from minipipe.store.home import Store
from tests.engine.real import ROOT, Shop, gone, processes_of
from tests.faults.killing import armed
from tests.faults.machine import command
from tests.faults.sane import sane
from tests.store import making

pytestmark = pytest.mark.faults

# A loop around real workers takes a second or two a point: it takes every fifth one, each time from another on. 1 takes them all.
STRIDE = int(os.environ.get("MINIPIPE_FAULTS_STRIDE", "5"))

REAP = "import sys; from minipipe.store.home import Store; from minipipe.store import workers\n" + (
    "from minipipe.engine.worker import sweep; workers.reap(Store.open(sys.argv[1], create=False), 3, sweep)"
)
CHECKPOINT = "import sys; from minipipe.store.home import Store; from minipipe.store import upkeep\n" + (
    "store = Store.open(sys.argv[1], create=False); store.database.checkpoint(now=True); store.close()"
)
VERBS = {"reap": REAP, "checkpoint": CHECKPOINT, "emptying": CHECKPOINT.replace("now", "empty")}
ROLES = {"reap": "worker", "checkpoint": "cli", "emptying": "cli"}  # as the shim tells them apart: by what they import


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


RETRY, ABORT, BROOD = "a failing step with retry", "an abort", "an abort of a step with descendants"
QUICK_RETRY = "import minipipe.store.attempts as attempts\nattempts.RETRY_BASE_S = 0.01\n"


@pytest.mark.parametrize("scenario", [RETRY, ABORT, BROOD])
def test_a_worker_that_dies_at_any_statement_of_it_loses_nothing(
    tmp_path: Path, copy_store: Callable[[Path], Store], wait_for: Callable[..., None], scenario: str
) -> None:
    first = random.SystemRandom().randint(1, STRIDE)
    print(f"every {STRIDE}. statement from the {first}. on")
    points = 0
    for n in itertools.count(first, STRIDE):
        folder = tmp_path / str(n)
        folder.mkdir()
        shop = Shop(copy_store(folder / "store"), folder, wait_for)
        mark = folder / "dead"
        kill = armed("worker", "sql", n, mark=mark)
        try:
            if scenario == RETRY:
                task = shop.step("stumble", file="tries", failures=1, crashes=0, max_retries=1)
                child = shop.step("add_one", needs={"value": task})
                worker = shop.worker(kill, before=QUICK_RETRY, until_idle=True)
            else:
                sign = "brood" if scenario == BROOD else "spans"
                function = {"entry": {"module": "wreckers"}} if scenario == BROOD else {"file": "never"}
                task = shop.step("breed_and_stay" if scenario == BROOD else "stay", **function)
                child = shop.step("add_one", needs={"value": task})
                worker = shop.worker(kill, until_idle=True)
                shop.wait(lambda mark=mark, shop=shop, sign=sign: mark.exists() or shop.lines(sign), 20)  # type: ignore[misc]
                steering.abort(shop.store, [task.id])
            code = worker.process.wait(60)
            assert (code == -9) == mark.exists(), worker.said()
            shop.drain(60, before=QUICK_RETRY)
            row = shop.row(task)
            ended = ("completed", "completed") if scenario == RETRY else ("stopped", "skipped")
            assert (row["status"], shop.status(child)) == ended, n
            assert row["crashes"] <= 1
            assert row["retries"] <= 1
            if scenario == RETRY:
                assert 2 <= len(shop.lines("tries")) <= 3
            assert [pid for pid in map(int, shop.lines("brood")) if not gone(pid)] == []
            assert list(processes_of(shop.store.store_id)) == []
            shop.check()
            if not mark.exists():
                break
            points += 1
        finally:
            shop.close()
            shop.store.close()
    print(f"{scenario}: {points} deaths")
    assert points * STRIDE >= 20


@pytest.mark.parametrize("running", [False, True])
def test_a_command_that_dies_in_an_abort_has_done_it_or_can_be_repeated(
    tmp_path: Path, copy_store: Callable[[Path], Store], wait_for: Callable[..., None], running: bool
) -> None:
    points = 0
    for n in itertools.count(1):
        folder = tmp_path / str(n)
        folder.mkdir()
        shop = Shop(copy_store(folder / "store"), folder, wait_for)
        mark = folder / "dead"
        try:
            task = shop.step("stay", file="never")
            child = shop.step("add_one", needs={"value": task})
            worker = shop.worker() if running else None
            if running:
                shop.wait(lambda shop=shop: shop.lines("spans"), 20)  # type: ignore[misc]
            hurt = command(shop.store.path, "abort", task.uid[:8], **armed("cli", "sql", n, mark=mark))
            assert hurt.returncode == (-9 if mark.exists() else 0), (n, hurt.stderr.decode())
            again = command(shop.store.path, "abort", task.uid[:8])
            assert again.returncode == 0, (n, again.stderr.decode())
            shop.finished(task, child)
            assert (shop.status(task), shop.status(child)) == ("stopped", "skipped"), n
            assert worker is None or worker.end() == 0
            shop.check()
            if not mark.exists():
                break
            points += 1
        finally:
            shop.close()
            shop.store.close()
    print(f"{points} deaths")
    assert points >= 5
