"""Upkeep beside real work: four workers, a collector and a backup in a loop, and nothing is missing afterwards."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.engine.real import Shop
from tests.faults.machine import command
from tests.faults.sane import sane

pytestmark = pytest.mark.faults


def test_gc_and_backups_in_a_loop_beside_four_workers_lose_nothing(shop: Shop, tmp_path: Path) -> None:
    steps = [shop.step("produce", name=f"s{number}", size=17_000 + 8 * (number % 5), number=number % 9) for number in range(300)]
    stop, problems, rounds = threading.Event(), [], []

    def keep() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for verb in (("gc", "-q"), ("doctor", "--backup", str(tmp_path / f"copy{number}"), "-q")):
                done = command(shop.store.path, *verb)
                if done.returncode:
                    problems.append(done.stderr.decode())
            wrong = sane(tmp_path / f"copy{number}", only=["I1", "I2", "I4", "I7"])
            problems.extend(wrong)
            rounds.append(number)

    thread = threading.Thread(target=keep)
    workers = [shop.worker(slots=1) for _ in range(4)]
    thread.start()
    try:
        shop.wait(lambda: all(shop.status(step) == "completed" for step in steps) and len(rounds) >= 3, 120)
    finally:
        stop.set()
        thread.join()
    assert problems == []
    assert all(worker.end() == 0 for worker in workers)
    assert command(shop.store.path, "gc").returncode == 0
    assert sane(shop.store.path, after_gc=True) == []
    assert all(shop.row(step)["attempt"] == 1 for step in steps)
