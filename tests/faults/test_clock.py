"""Clocks that jump and machines that sleep: nobody loses a task, nothing times out, no wait is endless, no duration is negative."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from minipipe.engine import tree
from tests.engine.real import Shop
from tests.faults.killing import SHIM

pytestmark = pytest.mark.faults

DAY = 86_400.0


def _set(clock: Path, seconds: float) -> None:
    draft = clock.with_suffix(".new")
    draft.write_text(str(seconds))
    os.replace(draft, clock)


@pytest.mark.parametrize("jump", [-DAY, DAY])
def test_a_clock_that_jumps_a_day_in_mid_run_changes_nothing(shop: Shop, jump: float) -> None:
    """Among the tasks: one that runs across the jump, one that waits for its retry, one with a limit, one that comes later."""
    clock = shop.folder / "clock"
    _set(clock, 0)
    environment = {"PYTHONPATH": SHIM, "MINIPIPE_TEST_CLOCK": str(clock)}
    across = shop.step("stay", name="across", file="go")
    limited = shop.step("stay", name="limited", file="go", time_limit_s=60.0)
    retried = shop.step("stumble", name="retried", file="falls", failures=3, crashes=0, max_retries=5)
    first, second = (shop.worker(environment, slots=4) for _ in range(2))
    shop.wait(
        lambda: all(shop.status(step) == "in_progress" for step in (across, limited)) and shop.row(retried)["retries"] >= 1, 30
    )
    _set(clock, jump)
    later = shop.step("one", name="later")
    shop.wait(lambda: shop.status(later) == shop.status(retried) == "completed", 60)
    _set(clock, jump / 2)
    (shop.folder / "go").touch()
    shop.wait(lambda: shop.status(across) == shop.status(limited) == "completed", 30)
    for step, attempt in ((across, 1), (limited, 1), (retried, 4), (later, 1)):
        row = shop.row(step)
        assert (row["attempt"], row["crashes"]) == (attempt, 0), row["name"]
        assert row["duration_s"] >= 0
    assert first.end() == second.end() == 0
    shop.check()


def test_a_machine_that_slept_for_ten_minutes_goes_on_where_it_was(shop: Shop) -> None:
    """Every process stopped, the wall clock moved on, all continued: nothing is requeued, nothing times out, each step runs once."""
    clock = shop.folder / "clock"
    _set(clock, 0)
    environment = {"PYTHONPATH": SHIM, "MINIPIPE_TEST_CLOCK": str(clock)}
    steps = [shop.step("stay", name=f"s{number}", file="go", time_limit_s=120.0) for number in range(3)]
    waiting = [shop.step("add_one", name=f"w{number}", value=number) for number in range(3)]
    workers = [shop.worker(environment, slots=2) for _ in range(2)]
    shop.wait(lambda: all(shop.status(step) == "in_progress" for step in steps), 30)
    mark = f"MINIPIPE_STORE_ID={shop.store.store_id}".encode()
    asleep = {worker.pid for worker in workers} | {
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if _has(path, mark)
    }
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    _set(clock, 600)
    stopped_at = time.monotonic()
    shop.wait(lambda: time.monotonic() - stopped_at > 2.5, 5)  # longer than two ticks of a worker that would be awake
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    (shop.folder / "go").touch()
    shop.wait(lambda: all(shop.status(step) == "completed" for step in (*steps, *waiting)), 30)
    for step in (*steps, *waiting):
        assert (shop.row(step)["attempt"], shop.row(step)["crashes"]) == (1, 0)
    assert len(shop.lines("count")) == 3
    assert all(worker.end() == 0 for worker in workers)
    assert not tree.members([shop.row(step)["token"] or "" for step in steps])
    shop.check()


def _has(path: Path, mark: bytes) -> bool:
    try:
        return mark in path.read_bytes().split(b"\0")
    except OSError:
        return False
