"""Every signal that people and systems send, to every kind of process, before, during and after a step: nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minipipe.engine.worker import sweep
from minipipe.store import workers
from tests.engine.real import QUICK, ROOT, Serving, Shop, processes_of

pytestmark = pytest.mark.faults

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
MOMENTS = ["before", "during", "after"]


def assert_clean(shop: Shop) -> None:
    """No running row, no process, no held lock, and all invariants."""
    workers.reap(shop.store, shop.max_crashes, sweep)
    assert shop.store.database.rows("SELECT name FROM task WHERE status = 'in_progress'") == []
    shop.wait(lambda: not list(processes_of(shop.store.store_id)), 10)
    assert workers.alive(shop.store) == []
    shop.check()


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    return []


def target(shop: Shop, role: str, worker: Serving) -> int:
    """The process of that role: for a child the one that runs a step, else the one that waits for the next."""
    if role == "worker":
        return worker.pid
    host = shop.host_of(worker)
    if role == "host":
        return host
    shop.wait(lambda: children(host), 20)
    return children(host)[0]


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("role", ["worker", "host", "child"])
def test_a_signal_to_an_engine_process_costs_at_most_an_attempt(
    shop: Shop, role: str, moment: str, number: signal.Signals
) -> None:
    worker = shop.worker()
    shop.finished(shop.step("one"))  # a worker starts its host with its first step
    if moment == "before":
        pid = target(shop, role, worker)
        os.kill(pid, number)
        task = shop.step("stay", file="go")
    else:
        task = shop.step("stay", file="go")
        child = shop.running(task)
        shop.wait(lambda: shop.lines("spans"))
        if moment == "after":
            (shop.folder / "go").touch()
            shop.finished(task)
        pid = child if (role, moment) == ("child", "during") else target(shop, role, worker)
        os.kill(pid, number)
    (shop.folder / "go").touch()
    if role == "worker":
        code = worker.process.wait(20)
        assert code == (-number if number == signal.SIGKILL else 0), worker.said()
        shop.drain()
    row = shop.finished(task)
    if (role, moment, number) == ("child", "during", signal.SIGINT):  # Python makes it an exception of the step's own
        assert (row["status"], row["reason"], row["attempt"]) == ("failed", "KeyboardInterrupt", 1)
        assert worker.end() == 0
        assert_clean(shop)
        return
    crashes = int(moment == "during" and (role == "child" or number == signal.SIGKILL))
    assert (row["status"], row["retries"]) == ("completed", 0)
    assert row["crashes"] <= max(crashes, int(role == "host" and moment == "during"))
    if (role, moment) == ("child", "during"):
        assert (row["attempt"], row["crashes"]) == (2, 1)
    assert row["attempt"] == 1 + row["crashes"] + row["returns"]
    if role != "worker":
        assert worker.process.poll() is None, worker.said()
        assert worker.end() == 0
    assert "Traceback" not in worker.said()
    assert_clean(shop)


FLOW = """
import os, time
from minipipe import PipelineDecorator

def say(name):
    open(name, "w").close()

def hold(name):
    while not os.path.exists(name): time.sleep(0.002)

@PipelineDecorator.component(return_values=["x"])
def step():
    say("during")
    hold("go")
    return 1

@PipelineDecorator.pipeline(name="flow", project="faults", version="1.0.0")
def flow():
    say("before")
    hold("start")
    int(step())
    say("after")
    hold("finish")

if __name__ == "__main__":
    PipelineDecorator.run_locally()
    flow()
"""


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_to_a_controller_ends_its_run_and_all_that_it_started(shop: Shop, moment: str, number: signal.Signals) -> None:
    (shop.folder / "flow.py").write_text(FLOW)
    for name in {"before": (), "during": ("start",), "after": ("start", "go")}[moment]:
        (shop.folder / name).touch()
    environment = {**os.environ, **QUICK, "PYTHONPATH": str(ROOT), "MINIPIPE_HOME": str(shop.store.path)}
    with subprocess.Popen(
        [sys.executable, "-m", "minipipe", "run", "flow.py"],
        cwd=shop.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as controller:
        try:
            shop.wait(lambda: (shop.folder / moment).exists(), 30)
            controller.send_signal(number)
            said = controller.communicate(timeout=30)[1].decode()
        finally:
            controller.kill()
    assert controller.returncode == (-number if number == signal.SIGKILL else 130), said
    assert "Traceback" not in said
    workers.reap(shop.store, shop.max_crashes, sweep)
    (run,) = shop.store.database.rows("SELECT status, reason FROM task WHERE controller = 1")
    assert run["status"] == "stopped"
    shop.wait(lambda: not workers.alive(shop.store), 10)  # the workers of the run see that nobody is left to serve
    steps = [row["status"] for row in shop.store.database.rows("SELECT status FROM task WHERE controller = 0")]
    assert steps in ({"before": ([],), "during": (["stopped"], ["queued"]), "after": (["completed"],)}[moment])
    assert_clean(shop)
