"""Random death of everything, and many workers at once."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from minipipe.engine.worker import sweep
from minipipe.store import upkeep, workers
from minipipe.store.tasks import Submitted
from tests.engine.real import ROOT, Serving, Shop, hosts_of
from tests.faults.sane import sane

SEED = int(os.environ.get("MINIPIPE_STORM_SEED") or random.SystemRandom().randrange(1_000_000))
MANY = 1_000_000  # no task may fail for its crashes here


@dataclass
class Storm:
    """Four workers, chains of short steps, and somebody who kills."""

    shop: Shop
    chance: random.Random
    crew: list[Serving] = field(default_factory=list)
    made: list[Submitted] = field(default_factory=list)
    gc: subprocess.Popen[bytes] | None = None
    collected: int = 0

    def feed(self) -> None:
        """Keep work waiting: chains of four, whose first two share a result that is a file."""
        row = self.shop.store.database.row("SELECT count(*) FROM task WHERE status IN ('queued', 'pending')")
        assert row is not None
        for _ in range(max(0, 40 - row[0]) // 4):
            number, seconds = len(self.made), self.chance.uniform(0.0, 0.08)
            fails = self.chance.random() < 0.1  # its own failure at the first try, then a retry
            cached = {"key_base": f"weather {number % 5}", "use_cache": True} if self.chance.random() < 0.2 else {}
            first = self.shop.step(
                "weather", number=number, seconds=seconds, size=8_000, fails=fails, max_retries=int(fails), **cached
            )
            self.made.append(first)
            for place in range(3):
                source = self.made[-1] if place != 1 else first
                step = self.shop.step("weather", number=number, seconds=seconds, size=place * 4_000, needs={"value": source})
                self.made.append(step)

    def completed(self) -> int:
        """How many tasks are done."""
        row = self.shop.store.database.row("SELECT count(*) FROM task WHERE status = 'completed'")
        assert row is not None
        return int(row[0])

    def man(self) -> None:
        """Start workers in the place of those that are gone."""
        self.crew = [one for one in self.crew if one.process.poll() is None]
        while len(self.crew) < 4:
            self.crew.append(self.shop.worker({"MINIPIPE_MAX_CRASHES": str(MANY)}, slots=2))

    def collect(self) -> None:
        """gc in a loop: a process beside everything else, started again whenever it has ended; it may be killed too."""
        if self.gc is not None and self.gc.poll() is None:
            return
        if self.gc is not None:
            assert self.gc.returncode in (0, -signal.SIGKILL)
            self.collected += self.gc.returncode == 0
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MINIPIPE_DURABILITY": "fast", "MINIPIPE_MAX_CRASHES": str(MANY)}
        arguments = [sys.executable, "-m", "minipipe", "--home", str(self.shop.store.path), "gc"]
        self.gc = subprocess.Popen(arguments, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def strike(self, everybody: bool) -> str:
        """Kill a worker, a host or a child; or all workers. Says whom."""
        victims: dict[str, list[int]] = {"worker": [one.pid for one in self.crew], "host": [], "child": [], "gc": []}
        if self.gc is not None and self.gc.poll() is None:
            victims["gc"] = [self.gc.pid]
        for one in self.crew:
            victims["host"] += hosts_of(one.pid)
        for host in victims["host"]:
            with contextlib.suppress(OSError):
                victims["child"] += map(int, Path(f"/proc/{host}/task/{host}/children").read_text().split())
        kind = self.chance.choice([kind for kind in victims if victims[kind]])
        chosen = victims["worker"] if everybody else [self.chance.choice(victims[kind])]
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for one in self.crew:
            if one.pid in chosen:
                one.process.wait(10)
        return "all" if everybody else kind

    def check(self) -> None:
        """Nothing is wrong that stays wrong: `sane` may look while a worker settles the affairs of a dead one."""
        found: list[str] = []

        def look() -> bool:
            workers.reap(self.shop.store, MANY, sweep)
            try:
                found[:] = sane(self.shop.store.path, max_crashes=MANY)
            except FileNotFoundError as error:  # a staged file was published under its eyes
                found[:] = [str(error)]
            return not found

        end = time.monotonic() + 5
        while not look():
            assert time.monotonic() < end, found
        assert self.shop.lines("overlaps") == []


def weather_a_storm(shop: Shop, rounds: int) -> None:
    print(f"MINIPIPE_STORM_SEED={SEED}")
    (shop.folder / "stamps").mkdir()
    shop.max_crashes = MANY
    storm, struck = Storm(shop, random.Random(SEED)), []
    for number in range(1, rounds + 1):
        storm.feed()
        storm.man()
        if rounds > 10:
            storm.collect()
        if number % 25 == 0:
            with upkeep.alone(shop.store):
                shop.store.database.checkpoint(now=True)
        seen = storm.completed()
        calm = time.monotonic() + storm.chance.uniform(0.02, 0.35)
        shop.wait(lambda calm=calm: time.monotonic() >= calm)  # type: ignore[misc]
        if rounds > 10 and number % 2:  # on a slow machine, too, something is done between two strikes
            shop.wait(lambda seen=seen: storm.completed() > seen, 60)  # type: ignore[misc]
        struck.append(storm.strike(number % 9 == 0))
        if number % 10 == 0:
            storm.check()
    storm.man()
    if storm.gc is not None:
        assert storm.gc.wait(60) in (0, -signal.SIGKILL)
    shop.wait(lambda: not shop.store.database.row("SELECT 1 FROM task WHERE ended_at IS NULL"), 120)
    for one in storm.crew:
        assert one.end() in (0, -signal.SIGTERM)  # the latter: told to leave before it had begun
    storm.check()
    rows = shop.store.database.rows("SELECT status, count(*), sum(crashes) FROM task GROUP BY status")
    assert [row["status"] for row in rows] == ["completed"]
    retries, hits = shop.store.database.rows("SELECT sum(retries), sum(cached_from IS NOT NULL) FROM task")[0]
    print(f"{rows[0][1]} steps, {rows[0][2]} crashes, {retries} retries, {hits} cache hits, {storm.collected} collections")
    print(f"struck: { {kind: struck.count(kind) for kind in sorted(set(struck))} }")
    if rounds > 10:
        assert min(retries, hits, storm.collected) > 0
    for serving in shop.started:
        assert "Traceback" not in serving.said()


def test_all_work_is_done_once_through_ten_kills(shop: Shop) -> None:
    weather_a_storm(shop, 10)


@pytest.mark.faults
def test_all_work_is_done_once_through_two_hundred_kills(shop: Shop) -> None:
    weather_a_storm(shop, 200)


def crowd(shop: Shop, count: int) -> None:
    made = [shop.step("ran") for _ in range(count)]
    crew = [shop.worker(slots=2, until_idle=True) for _ in range(8)]
    begun = time.monotonic()
    shop.wait(lambda: not shop.store.database.row("SELECT 1 FROM task WHERE ended_at IS NULL"), 300)
    print(f"{count} tasks, 8 workers: {count / (time.monotonic() - begun):.0f} per s, with the start of the workers")
    assert [one.process.wait(30) for one in crew] == [0] * 8
    assert [one.said() for one in crew] == [""] * 8  # no lock error, no other complaint
    rows = shop.store.database.rows("SELECT DISTINCT status, attempt, crashes, returns FROM task")
    assert [tuple(row) for row in rows] == [("completed", 1, 0, 0)]
    assert sorted(shop.lines("ran")) == sorted(task.uid for task in made)
    shares = shop.store.database.rows("SELECT worker_id, count(*) FROM event WHERE new = 'completed' GROUP BY worker_id")
    assert len(shares) > 4 or count < 1_000  # a few are done before the last worker has started


def test_eight_workers_run_each_of_100_tasks_once(shop: Shop) -> None:
    crowd(shop, 100)


@pytest.mark.faults
def test_eight_workers_run_each_of_5000_tasks_once(shop: Shop) -> None:
    crowd(shop, 5_000)
