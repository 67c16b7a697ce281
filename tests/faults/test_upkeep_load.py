"""Upkeep beside real work: four workers, a collector and a backup in a loop, and nothing is missing afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from minipipe.store import attempts, bundle, collect, edits, workers
from minipipe.store.home import Store
from tests.engine.real import ROOT, Shop
from tests.faults.machine import command
from tests.faults.sane import sane
from tests.store import making

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


# Each takes the store, a number of rounds and a file; says at the end how many rounds did something. Who collects goes on until the
# imports are through.
COLLECTING = """
import itertools, os, sys
from minipipe.store import collect, upkeep, workers
from minipipe.store.home import Store
store, did = Store.open(sys.argv[1], create=False), 0
for number in itertools.count():
    if number >= int(sys.argv[2]) and os.path.exists("through"):
        break
    workers.reap(store, 3)
    with upkeep.alone(store):
        did += bool(sum(collect.sweep(store).number.values()))
print(did)
"""
IMPORTING = """
import sys
from pathlib import Path
from minipipe.store import bundle_reading, lookup, retention, unbundle
from minipipe.store.home import Store
store, did = Store.open(sys.argv[1], create=False), 0
for _ in range(int(sys.argv[2])):
    (run,) = unbundle.take_in(store, bundle_reading.read(Path(sys.argv[3]), trust_pickle=True))
    did += run.new
    row = store.database.row("SELECT id FROM task WHERE uid = ?", (run.uid,))
    assert retention.remove(store, row["id"])
Path("through").touch()
print(did)
"""


def test_a_hundred_collections_beside_each_other_and_beside_imports_and_runs_take_nothing_that_is_used(
    shop: Shop, tmp_path: Path, copy_store: Callable[[Path], Store]
) -> None:
    """The runs that are imported go again at once; half of what they bring is what the steps produce, too."""
    other = copy_store(tmp_path / "other")
    worker, run = making.agent(other), making.run(other)
    attempts.start_here(other, run.id, worker.id)
    for number in range(4):
        making.step(other, f"s{number}", parent_id=run.id)
        making.work(other, worker, value=(number + 2).to_bytes(8, "little") * 2_500)
    edits.move(other, run.id, "completed")
    bundle.export(other, [run.id], tmp_path / "run.zip", False)
    workers.leave(other, worker)
    other.close()

    rounds = 100
    serving = [shop.worker(slots=1) for _ in range(2)]
    loops = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(shop.store.path), str(number), str(tmp_path / "run.zip")],
            env={**os.environ, "PYTHONPATH": str(ROOT), "MINIPIPE_DURABILITY": "fast"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            text=True,
        )
        for code, number in ((COLLECTING, rounds), (COLLECTING, rounds), (IMPORTING, rounds // 2))
    ]
    steps = []
    try:
        while any(loop.poll() is None for loop in loops):
            new = [shop.step("produce", size=20_000, number=number) for number in range(4)]
            shop.finished(*new, timeout=60)
            steps += new
        said = [loop.communicate(timeout=60) for loop in loops]
    finally:
        for loop in loops:
            loop.kill()
    assert [(loop.returncode, err) for loop, (_, err) in zip(loops, said, strict=True)] == [(0, "")] * 3
    assert int(said[2][0]) == rounds // 2
    took = [int(out) for out, _ in said[:2]]
    assert sum(took) > 20  # there was something to take
    assert all(worker.end() == 0 for worker in serving)
    assert {(shop.status(step), shop.row(step)["attempt"]) for step in steps} == {("completed", 1)}
    print(f"{len(steps)} steps beside {said[2][0].strip()} imports; collections that took something: {took}")
    collect.sweep(shop.store)
    shop.check(after_gc=True)
