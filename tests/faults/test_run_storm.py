"""Random death around whole pipelines: of the command, of its logic, of workers, hosts and children, in any combination.

A run of sixty steps (some fail at first, some are served from the cache, some results are rows and some files) is struck at random
moments. After each strike the store is what it should be; after the death of a command nothing of it is left, and its run can be
resumed to the right result. ``MINIPIPE_STORM_ROUNDS`` says how many strikes, ``MINIPIPE_STORM_SEED`` repeats a storm.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from minipipe.engine import tree
from minipipe.engine.worker import sweep
from minipipe.store import workers
from tests.engine.real import QUICK, ROOT, Serving, Shop, hosts_of, processes_of
from tests.faults.machine import command
from tests.faults.sane import ENDED, sane

ROUNDS = int(os.environ.get("MINIPIPE_STORM_ROUNDS", "30"))
SEED = int(os.environ.get("MINIPIPE_STORM_SEED") or random.SystemRandom().randrange(1_000_000))
MANY = 1_000_000  # no task may fail for its crashes here
LEAVES, LEVELS = 12, 3
STEPS = LEAVES * (1 + LEVELS) + (LEAVES - 1) + 1
SMALL, LARGE = 100, 20_000  # bytes; the larger are files

FLOW = f"""
import os, sys, time
from minipipe import PipelineDecorator

def lives(pid):
    try:
        return open(f"/proc/{{pid}}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False

def note(name, text):
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{{text}}\\n".encode())
    os.close(descriptor)

def begin():
    path = os.path.join("stamps", os.environ["MINIPIPE_TASK"])
    if os.path.exists(path) and any(map(lives, open(path).read().split())):
        note("overlaps", path)
    note(path, os.getpid())

@PipelineDecorator.component(return_values=["data"], cache=True)
def leaf(number):
    begin()
    return bytes([number]) * ({LARGE} if number % 2 else {SMALL})

@PipelineDecorator.component(return_values=["data"], retry_on_failure=1)
def grow(data, number, level, run):
    begin()
    time.sleep(number % 4 * 0.02)
    failed = f"stamps/failed-{{run}}-{{number}}-{{level}}"
    if (number + level) % 7 == 0 and not os.path.exists(failed):
        open(failed, "w").close()
        raise ValueError("a failure of its own")
    return data + bytes([level]) * ({LARGE} if (number + level) % 3 == 0 else {SMALL})

@PipelineDecorator.component(return_values=["total"])
def join(one, other):
    begin()
    return sum(part if isinstance(part, int) else sum(part) for part in (one, other))

@PipelineDecorator.component(return_values=["answer"])
def report(total, run):
    begin()
    return total * 1_000 + run

@PipelineDecorator.pipeline(name="sixty", project="faults", version="1.0.0")
def sixty(run):
    left = [leaf(number) for number in range({LEAVES})]
    for level in range(1, {LEVELS} + 1):
        left = [grow(data, number, level, run) for number, data in enumerate(left)]
    while len(left) > 1:
        left = [*left[2:], join(left[0], left[1])]
    print("answer", int(report(left[0], run)))

if __name__ == "__main__":
    if sys.argv[2] == "here":
        PipelineDecorator.run_locally()
    sixty(int(sys.argv[1]))
"""


def right_total() -> int:
    total = sum(number * (LARGE if number % 2 else SMALL) for number in range(LEAVES))
    for level in range(1, LEVELS + 1):
        total += sum(level * (LARGE if (number + level) % 3 == 0 else SMALL) for number in range(LEAVES))
    return total


@dataclass
class Siege:
    """Runs, one after the other, and somebody who kills."""

    shop: Shop
    chance: random.Random
    strikes: int = 0
    runs: int = 0
    struck: Counter[str] = field(default_factory=Counter)
    told: dict[str, int] = field(default_factory=dict)  # steps seen as completed -> attempts they took
    before: int = 0  # the last row of earlier runs
    process: subprocess.Popen[bytes] | None = None  # the command that was begun last
    crew: list[Serving] = field(default_factory=list)
    slowest: float = 0.0  # seconds until nothing of a killed command was left
    resumed: int = 0

    # -- one run ------------------------------------------------------------------------------------------------------

    def one_run(self, rounds: int) -> None:
        """From its start to its right result, through some strikes."""
        self.runs += 1
        place = self.chance.choice(["here", "worker"])  # where its logic runs
        manned = self.chance.random() < 0.3  # other workers are there too, and stay when the command goes
        row = self.shop.store.database.row("SELECT coalesce(max(id), 0) FROM task")
        self.before = row[0] if row else 0
        strikes = self.chance.randint(1, 5)
        process = self._begin("run", "-j", "4", "flow.py", "--", str(self.runs), place)
        while True:
            self._man(manned)
            alive = self._pause(process) if strikes and self.strikes < rounds else self._end(process)
            if alive:
                strikes, self.strikes = strikes - 1, self.strikes + 1
                killed = self._strike(process)
                if process.pid not in killed:
                    self._check()
                    continue
            self._settle(manned)
            run = self._run()
            if run is not None and run["status"] == "completed":
                self._judge(run, process)
                break
            # Dead; or alive and without a pool that stays, because each one that it began was killed.
            assert process.returncode == -signal.SIGKILL or "pool keeps ending" in self._said(process), self._said(process)
            process = self._again(run, place)
        self.crew = [one for one in self.crew if one.end() and False]
        self._clean()

    def _begin(self, *words: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **QUICK, "PYTHONPATH": str(ROOT), "MINIPIPE_HOME": str(self.shop.store.path)}
        environment |= {"MINIPIPE_MAX_CRASHES": str(MANY), "MINIPIPE_PROGRESS": "plain"}
        with (self.shop.folder / "out").open("wb") as out, (self.shop.folder / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "minipipe", *words],
                cwd=self.shop.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return self.process

    def _again(self, run: sqlite3.Row | None, place: str) -> subprocess.Popen[bytes]:
        """Go on with a run; begin it where nothing was there yet to go on with."""
        if run is None or (run["status"] == "created" and place == "worker"):
            return self._begin("run", "-j", "4", "flow.py", "--", str(self.runs), place)
        assert run["status"] in ("created", "queued", "stopped"), dict(run)
        self.resumed += 1
        return self._begin("resume", "-j", "4", run["uid"][:8])

    def _man(self, manned: bool) -> None:
        """Workers for everybody, in the place of those that were killed."""
        self.crew = [one for one in self.crew if one.process.poll() is None]
        while manned and len(self.crew) < 2:
            self.crew.append(self.shop.worker({"MINIPIPE_MAX_CRASHES": str(MANY)}, slots=2, queues=["default", "services"]))

    def _pause(self, process: subprocess.Popen[bytes]) -> bool:
        """Some time goes by, or some steps complete; True if the command still lives then."""
        end, enough = time.monotonic() + self.chance.random(), self.chance.choice([0, self.chance.randrange(STEPS)])

        def over() -> bool:
            done = self._count("status = 'completed'") >= enough if enough else time.monotonic() >= end
            return process.poll() is not None or done

        self.shop.wait(over, 180)
        return process.poll() is None

    def _count(self, condition: str) -> int:
        """Steps of this run."""
        run = self._run()
        rows = self.shop.store.database.rows(
            f"SELECT 1 FROM task WHERE parent_id = ? AND superseded = 0 AND {condition}", (run["id"] if run else 0,)
        )
        return len(rows)

    def _end(self, process: subprocess.Popen[bytes]) -> bool:
        process.wait(180)
        return False

    def _said(self, process: subprocess.Popen[bytes]) -> str:
        return f"{process.returncode}: {(self.shop.folder / 'err').read_text()}"

    # -- strikes ------------------------------------------------------------------------------------------------------

    def _strike(self, process: subprocess.Popen[bytes]) -> set[int]:
        """Kill any subset of what is there; says whom."""
        agents = [row["pid"] for row in workers.alive(self.shop.store) if row["kind"] == workers.AGENT]
        agents = sorted({*agents, *(one.pid for one in self.crew)})
        hosts = [host for pid in agents for host in hosts_of(pid)]
        there = {"command": [process.pid], "worker": agents, "host": hosts, "child": [], "logic": self._logic()}
        for host in hosts:
            with contextlib.suppress(OSError):
                there["child"] += map(int, Path(f"/proc/{host}/task/{host}/children").read_text().split())
        kinds = [kind for kind in there if there[kind]]
        chosen = self.chance.sample(kinds, self.chance.randint(1, min(3, len(kinds))))
        self._note_told()
        killed: set[int] = set()
        for kind in chosen:
            self.struck[kind] += 1
            killed |= set(self.chance.sample(there[kind], self.chance.randint(1, len(there[kind]))))
        for pid in sorted(killed, key=lambda _: self.chance.random()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if process.pid in killed:
            process.wait(10)
        for one in self.crew:
            if one.pid in killed:
                one.process.wait(10)
        return killed

    def _logic(self) -> list[int]:
        """The processes of a worker that run a pipeline's logic."""
        rows = self.shop.store.database.rows(
            "SELECT token FROM task WHERE controller = 1 AND status = 'in_progress' AND token IS NOT NULL"
        )
        return sorted(tree.members([row["token"] for row in rows]))

    # -- what must hold -----------------------------------------------------------------------------------------------

    def _run(self) -> sqlite3.Row | None:
        return self.shop.store.database.row(
            "SELECT * FROM task WHERE controller = 1 AND id > ? ORDER BY id DESC LIMIT 1", (self.before,)
        )

    def _note_told(self) -> None:
        rows = self.shop.store.database.rows("SELECT uid, attempt FROM task WHERE status = 'completed' AND controller = 0")
        for row in rows:
            attempts = self.told.setdefault(row["uid"], row["attempt"])
            assert attempts == row["attempt"], f"step {row['uid']} had completed and ran again"

    def _settle(self, manned: bool) -> None:
        """What a dead command leaves ends: by itself, or where other workers go on with it, when they are done."""
        began = time.monotonic()
        if manned:
            self._man(manned)
            self.shop.wait(lambda: (run := self._run()) is None or run["status"] in (ENDED | {"created"}), 180)
            self._check()
        else:
            self._clean()
            self.slowest = max(self.slowest, time.monotonic() - began)

    def _look(self, **options: bool) -> list[str]:
        workers.reap(self.shop.store, MANY, sweep)
        try:
            told = dict.fromkeys(self.told, "completed")
            return sane(self.shop.store.path, max_crashes=MANY, acknowledged=told, **options)
        except FileNotFoundError as error:  # a staged file was published under its eyes
            return [str(error)]

    def _check(self) -> None:
        """Nothing is wrong that stays wrong, whatever goes on."""
        end = time.monotonic() + 10
        while found := self._look():
            assert time.monotonic() < end, found

    def _clean(self) -> None:
        """Nobody is left, no temporary file, and everything is in order."""

        def nobody() -> bool:
            workers.reap(self.shop.store, MANY, sweep)
            return not workers.alive(self.shop.store) and not list(processes_of(self.shop.store.store_id))

        self.shop.wait(nobody, 20)
        collected = command(self.shop.store.path, "gc", MINIPIPE_MAX_CRASHES=str(MANY))
        assert collected.returncode == 0, collected.stderr.decode()
        assert self._look(after_gc=True) == []

    def _judge(self, run: sqlite3.Row, process: subprocess.Popen[bytes]) -> None:
        """The run has the right result, and each of its steps one ending."""
        right = right_total() * 1_000 + self.runs
        if process.returncode == 0:
            assert (self.shop.folder / "out").read_text().splitlines()[-1:] == [f"answer {right}"]
        assert (self._count("status = 'completed'"), self._count("1")) == (STEPS, STEPS)
        values = self.shop.store.database.rows(
            "SELECT value FROM parameter p JOIN task t ON t.id = p.task_id WHERE t.parent_id = ? AND t.superseded = 0"
            " AND p.section = 'return' AND p.name = 'answer'",
            (run["id"],),
        )
        assert [json.loads(row["value"]) for row in values] == [right]
        assert self.shop.lines("overlaps") == []
        self._note_told()


def besiege(shop: Shop, rounds: int) -> None:
    print(f"MINIPIPE_STORM_SEED={SEED}")
    (shop.folder / "flow.py").write_text(FLOW)
    (shop.folder / "stamps").mkdir()
    shop.max_crashes = MANY
    siege, began = Siege(shop, random.Random(SEED)), time.monotonic()
    try:
        while siege.strikes < rounds:
            siege.one_run(rounds)
    finally:
        if siege.process is not None:
            siege.process.kill()
            siege.process.wait()
    facts = shop.store.database.rows(
        "SELECT sum(crashes) AS crashes, sum(retries) AS retries, sum(cached_from IS NOT NULL) AS hits FROM task"
    )[0]
    print(f"{siege.strikes} strikes in {time.monotonic() - began:.0f} s: {dict(siege.struck)}")
    print(f"{siege.runs} runs of {STEPS} steps, {siege.resumed} times resumed; {dict(facts)}")
    print(f"at most {siege.slowest:.1f} s until nothing of a killed command was left")
    if siege.runs > 3:
        assert min(facts) > 0


@pytest.mark.faults
def test_a_pipeline_of_sixty_steps_survives_any_death_and_is_resumed_to_the_right_result(shop: Shop) -> None:
    besiege(shop, ROUNDS)
