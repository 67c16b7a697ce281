"""Steps and people that kill: a parent, a group, a host under descendants, the whole foreground group of a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from minipipe.engine import tree
from minipipe.store import steering
from tests.cli import flows
from tests.engine.real import QUICK, ROOT, Shop, gone, processes_of
from tests.faults.sane import sane


@pytest.mark.faults
@pytest.mark.parametrize(("function", "neighbours_crashes"), [("kill_parent_once", 1), ("kill_group_once", 0)])
def test_a_step_that_kills_its_parent_or_its_group_costs_a_crash_and_the_neighbours_end_well(
    shop: Shop, function: str, neighbours_crashes: int
) -> None:
    neighbours = [shop.step("stay_alone", file="go", number=number) for number in range(2)]
    worker = shop.worker(slots=3)
    for number in range(2):
        shop.wait(lambda number=number: shop.lines(f"alone{number}"))  # type: ignore[misc]
    host = shop.host_of(worker)
    killer = shop.step(function, entry={"module": "wreckers"})
    shop.wait(lambda: shop.row(killer)["crashes"] == 1)
    (shop.folder / "go").touch()
    shop.finished(killer, *neighbours)
    row = shop.row(killer)
    assert (row["status"], row["attempt"], row["crashes"], row["retries"]) == ("completed", 2, 1, 0)
    for neighbour in neighbours:
        row = shop.row(neighbour)
        assert (row["status"], row["crashes"], row["attempt"]) == ("completed", neighbours_crashes, 1 + neighbours_crashes)
    assert (shop.host_of(worker) != host) == bool(neighbours_crashes)
    assert worker.end() == 0


@pytest.mark.faults
def test_descendants_of_every_kind_are_gone_before_the_task_of_a_killed_host_goes_back(shop: Shop) -> None:
    task = shop.step("breed_and_stay", entry={"module": "wreckers"})
    worker = shop.worker()
    shop.running(task)
    shop.wait(lambda: len(shop.lines("brood")) == 1)
    token, daemon = shop.row(task)["token"], int(shop.lines("brood")[0])
    brood = tree.members([token])
    assert daemon in brood and len(brood) >= 5
    os.kill(shop.host_of(worker), signal.SIGKILL)
    shop.wait(lambda: shop.row(task)["crashes"] == 1)
    assert [pid for pid in brood if not gone(pid)] == []
    steering.abort(shop.store, [task.id])
    assert shop.finished(task)["status"] == "stopped"
    assert worker.end() == 0
    assert list(processes_of(shop.store.store_id)) == []


@pytest.mark.faults
def test_a_retrys_wait_outlives_its_worker_and_is_neither_lost_nor_cut_short(shop: Shop) -> None:
    task = shop.step("stumble", file="tries", failures=1, crashes=0, max_retries=1)
    slow = "import minipipe.store.attempts as attempts\nattempts.RETRY_BASE_S = 3.0\n"
    first = shop.worker(before=slow)
    shop.wait(lambda: shop.row(task)["retries"] == 1)
    waits_until = shop.row(task)["not_before"]
    first.kill()
    shop.worker()
    row = shop.finished(task)
    assert (row["status"], row["attempt"], row["retries"], row["crashes"]) == ("completed", 2, 1, 0)
    assert row["started_at"] >= waits_until > row["created_at"] + 1


@pytest.mark.faults
@pytest.mark.parametrize("cached", [False, True])
def test_sixteen_equal_steps_at_once_have_equal_results_and_one_blob(shop: Shop, cached: bool) -> None:
    facts = {"key_base": "k", "use_cache": True} if cached else {}
    made = [shop.step("meet", file="meeting", number=16, **facts) for _ in range(16)]
    shop.worker(slots=16)
    shop.finished(*made, timeout=60)
    assert {shop.status(task) for task in made} == {"completed"}
    assert len(shop.lines("meeting")) == 16  # all were there at once: each waited for the others
    found = shop.store.database.rows("SELECT DISTINCT digest FROM artifact WHERE role = 'output'")
    assert len(found) == 1
    assert len(shop.store.database.rows("SELECT task_id FROM artifact WHERE role = 'output'")) == 16
    assert [path.name for path in (shop.store.path / "blobs").glob("*/*")] == [found[0]["digest"]]


@pytest.mark.faults
def test_a_poison_task_fails_after_three_crashes_and_fifty_others_complete(shop: Shop) -> None:
    poison = shop.step("kill_self", returns=())
    others = [shop.step("one") for _ in range(50)]
    shop.worker(slots=2)
    row = shop.finished(*others, poison)
    assert (row["status"], row["reason"], row["crashes"], row["attempt"]) == ("failed", "killed by SIGKILL, 3 times", 3, 3)
    assert {(shop.status(other), shop.row(other)["attempt"]) for other in others} == {("completed", 1)}
    assert len(shop.lines("count")) == 3


@pytest.mark.parametrize(
    "start", [pytest.param(flows.START, marks=pytest.mark.faults), flows.LOCALLY], ids=["workers", "locally"]
)
def test_an_interrupt_of_the_terminal_ends_every_process_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    monkeypatch.chdir(tmp_path)
    flows.write(flows.hanging() + start)
    ours, theirs = pty.openpty()

    def take_the_terminal() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    environment = {**os.environ, **QUICK, "PYTHONPATH": str(ROOT), "MINIPIPE_HOME": str(tmp_path / ".minipipe")}
    process = subprocess.Popen(
        [sys.executable, "-m", "minipipe", "run", "flow.py"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=take_the_terminal,
        env=environment,
    )
    os.close(theirs)
    text, pressed = b"", False
    try:
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:  # how Linux says that nobody has the other end open any more
                break
            if not pressed and "second" in flows.ran():
                os.write(ours, b"\x03")  # the terminal sends SIGINT to its whole foreground group
                pressed = True
        assert process.wait(30) == 130, text.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    shown = text.decode(errors="replace")
    assert "Traceback" not in shown and "KeyboardInterrupt" not in shown, shown
    assert "minipipe resume" in shown
    for log in (tmp_path / ".minipipe" / "logs").glob("*/*"):
        assert b"Traceback" not in log.read_bytes(), log
    assert flows.processes() == set()
    assert sane(tmp_path / ".minipipe") == []
