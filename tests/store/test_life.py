"""The life cycle against a model: whatever happens in whatever order, every task is where the rules say, and the store is sane.

Three `Store` objects on the same files stand for three processes (file locks conflict between descriptors of one process too).
The model is a dictionary of plain records that follows the written rules, not the code.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from minipipe.context import Lease
from minipipe.store import attempts, blobs, codec, steering, tasks, workers
from minipipe.store.home import Store
from tests.faults.sane import sane

MAX_CRASHES = 3
SMALL = [b"a", b"b"]
LARGE = [b"c" * 20_000, b"d" * 20_000]


@dataclass
class Task:
    """What the model knows of one task."""

    id: int
    run: int
    status: str
    key_base: str | None
    use_cache: bool
    max_retries: int
    ask_retry: bool
    hold: str | None
    gate: bool
    links: list[int]  # parents whose output it takes
    waits: set[int] = field(default_factory=set)  # parents not counted down yet
    ticket: int = 0
    key: object = None  # its cache key, once it was queued
    output: object = None
    worker: int = 0
    token: str | None = None
    abort: bool = False
    attempt: int = 0
    retries: int = 0
    crashes: int = 0
    returns: int = 0
    cached_from: int | None = None


class Life(RuleBasedStateMachine):
    """Rules are what people and processes do; `check` compares after each."""

    def __init__(self, copy_store: Callable[[Path], Store]) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="minipipe-life-"))
        first = copy_store(self.folder / "store")
        self.stores = [first, *(Store.open(first.path, create=False, durability="fast") for _ in range(2))]
        self.base_s, attempts.RETRY_BASE_S = attempts.RETRY_BASE_S, 0.0  # a retry is due at once
        self.tasks: dict[int, Task] = {}
        self.runs: dict[int, dict[str, Any]] = {}
        self.children: dict[int, list[int]] = {}
        self.workers: dict[int, workers.Registration] = {}
        self.dead: set[int] = set()
        self.leases: list[Lease] = []
        self.cache: dict[object, list[int]] = {}
        self.missing: set[bytes] = set()  # large outputs whose file was taken away
        self.clock = 0

    def teardown(self) -> None:
        attempts.RETRY_BASE_S = self.base_s
        for number, registration in self.workers.items():
            if number not in self.dead:
                registration.lock.release()
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)

    @initialize(data=st.data())
    def two_runs(self, data: st.DataObject) -> None:
        for number in range(2):
            new = tasks.NewTask("controller", f"run{number}", "p", {}, is_run=True, abort_on_failure=bool(number))
            made = tasks.submit(self.stores[number], new)
            self.runs[made.id] = {"status": made.status, "strict": bool(number)}
        self.start_worker(data)
        self.submit(data, 3)

    # -- what the rules say -------------------------------------------------------------------------------------------

    def promote(self, ids: list[int]) -> None:
        work = deque(ids)
        while work:
            task = self.tasks[work.popleft()]
            if task.status != "pending" or task.waits or task.hold:
                continue
            key = self.key_of(task)
            source = self.lookup(key) if task.use_cache and key else None
            if source is None:
                task.status, task.key, task.ticket = "queued", key, self.clock
                continue
            task.status, task.cached_from, task.output, task.key = "completed", source, self.tasks[source].output, key
            if not task.gate:
                work.extend(self.count_down(task.id))

    def key_of(self, task: Task) -> object:
        return task.key_base and (task.key_base, *((parent, self.tasks[parent].output) for parent in task.links))

    def lookup(self, key: object) -> int | None:
        for source in sorted(self.cache.get(key, []), reverse=True):
            if self.tasks[source].output not in self.missing:
                return source
            self.cache[key].remove(source)
        return None

    def count_down(self, parent: int) -> list[int]:
        free = []
        for child in self.children.get(parent, []):
            task = self.tasks[child]
            if task.status == "pending" and parent in task.waits:
                task.waits.discard(parent)
                if not task.waits:
                    free.append(child)
        return free

    def skip_below(self, number: int) -> None:
        seen, work = set(), deque([number])
        while work:
            for child in self.children.get(work.popleft(), []):
                if child not in seen:
                    seen.add(child)
                    work.append(child)
                    if self.tasks[child].status == "pending":
                        self.tasks[child].status = "skipped"

    def settle(self, number: int) -> None:
        task = self.tasks[number]
        if task.status not in ("completed", "failed", "stopped", "skipped") or task.gate:
            return
        if task.status == "completed":
            self.promote(self.count_down(number))
            return
        self.skip_below(number)
        if task.status != "skipped" and self.runs[task.run]["strict"]:
            for other in self.tasks.values():
                if other.run == task.run:
                    other.status = {"pending": "skipped", "queued": "stopped"}.get(other.status, other.status)
                    other.abort |= other.status == "in_progress"

    def end(self, task: Task, outcome: attempts.Outcome, output: object) -> None:
        """One attempt ends."""
        task.worker = 0
        if outcome.code_changed:
            task.key = None  # whatever became of it: nothing of other code is kept under this key
        if task.abort:
            task.status = "stopped"
        elif outcome.ending == attempts.DONE:
            task.status, task.output = "completed", output
            self.missing.discard(output)  # type: ignore[arg-type]
            if task.key:
                self.cache.setdefault(task.key, []).append(task.id)
        elif outcome.ending == attempts.RETURNED:
            task.status, task.returns = "queued", task.returns + 1
        elif outcome.ending == attempts.CRASHED:
            task.crashes += 1
            task.status = "failed" if task.crashes >= MAX_CRASHES else "queued"
        elif outcome.final:
            task.status = "failed"
        elif task.ask_retry:
            task.status, task.hold = "pending", "retry"
        elif task.retries < task.max_retries:
            task.status, task.retries = "queued", task.retries + 1
        else:
            task.status = "failed"
        self.settle(task.id)

    # -- rules --------------------------------------------------------------------------------------------------------

    def any_store(self, data: st.DataObject) -> Store:
        return data.draw(st.sampled_from(self.stores))

    def some(self, *statuses: str) -> list[int]:
        return [number for number, task in self.tasks.items() if task.status in statuses]

    @rule(data=st.data(), count=st.integers(1, 4))
    def submit(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            self.submit_one(data)

    def submit_one(self, data: st.DataObject) -> None:
        run = data.draw(st.sampled_from(sorted(self.runs)))
        siblings = [number for number, task in self.tasks.items() if task.run == run][-6:]
        most = data.draw(st.sampled_from([0, 1, 3]))  # those without parents often have equal cache keys
        parents = data.draw(st.lists(st.sampled_from(siblings), unique=True, max_size=most)) if siblings else []
        edges = [(parent, data.draw(st.sampled_from(["data", "data", "order", "control"]))) for parent in parents]
        links = [parent for parent, kind in edges if kind == "data"]
        task = Task(
            id=0,
            run=run,
            status="pending",
            key_base=data.draw(st.sampled_from(["k", "k", "l", None])),
            use_cache=data.draw(st.booleans()),
            max_retries=data.draw(st.integers(0, 2)),
            ask_retry=data.draw(st.sampled_from([False, False, True])),
            hold=data.draw(st.sampled_from([None, None, None, "launch"])),
            gate=data.draw(st.sampled_from([False, False, False, True])),
            links=links,
        )
        new = tasks.NewTask(
            "training",
            f"s{len(self.tasks)}",
            "p",
            {},
            parent_id=run,
            queue="default",
            hold=task.hold,
            gate=task.gate,
            max_retries=task.max_retries,
            ask_retry=task.ask_retry,
            use_cache=task.use_cache,
            key_base=task.key_base,
            links=tuple(tasks.Link("reference", f"p{parent}", None, parent, "out") for parent in links),
            parents=tuple(edges),
        )
        self.clock += 1
        task.id = tasks.submit(self.any_store(data), new).id
        self.tasks[task.id] = task
        for parent, kind in edges:
            if kind == "control":
                continue
            self.children.setdefault(parent, []).append(task.id)
            before = self.tasks[parent]
            if before.status != "completed" or before.gate:
                task.waits.add(parent)
            if before.status in ("failed", "stopped", "skipped") and not before.gate:
                task.status = "skipped"
        self.promote([task.id])

    @rule(data=st.data())
    @precondition(lambda self: len(self.workers) - len(self.dead) < 3)
    def start_worker(self, data: st.DataObject) -> None:
        registration = workers.register(self.any_store(data), workers.AGENT, slots=2, queues=("default",))
        self.workers[registration.id] = registration

    def living(self) -> list[int]:
        return sorted(self.workers.keys() - self.dead)

    def claimed(self, claim: attempts.Claim | None, worker: int) -> None:
        queued = [task for task in self.tasks.values() if task.status == "queued"]
        if not queued:
            assert claim is None
            return
        assert claim is not None, "a task waits and was not claimed"
        task = self.tasks[claim.lease.task]
        assert task.status == "queued"
        assert task.ticket == min(other.ticket for other in queued), "an earlier one waits"
        task.status, task.worker, task.token = "in_progress", worker, claim.lease.token
        task.attempt += 1
        assert claim.lease.attempt == task.attempt
        self.leases.append(claim.lease)

    @rule(data=st.data(), count=st.integers(1, 3))
    @precondition(lambda self: self.living() and self.some("queued"))
    def claim(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            self.claim_one(data)

    def claim_one(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.living()))
        self.claimed(attempts.claim_next(self.any_store(data), attempts.Claimant(worker, ("default",))), worker)

    @rule(data=st.data(), fused=st.booleans(), twice=st.booleans())
    @precondition(lambda self: self.some("in_progress"))
    def finish(self, data: st.DataObject, fused: bool, twice: bool) -> None:
        ending = data.draw(st.sampled_from([attempts.DONE, attempts.DONE, attempts.FAILED, attempts.CRASHED, attempts.RETURNED]))
        self.finish_one(data, data.draw(st.sampled_from(self.held())), ending, fused, twice)

    @rule(data=st.data(), fused=st.booleans())
    @precondition(lambda self: self.leases)
    def finish_late(self, data: st.DataObject, fused: bool) -> None:
        """Most of these were fenced out or have ended."""
        self.finish_one(data, data.draw(st.sampled_from(self.leases)), attempts.DONE, fused, False)

    @rule(data=st.data(), count=st.integers(2, 6))
    @precondition(lambda self: self.living() and self.some("queued"))
    def work_off(self, data: st.DataObject, count: int) -> None:
        self.claim_one(data)
        for lease in self.held()[:count]:
            self.finish_one(data, lease, attempts.DONE, True, True)

    def held(self) -> list[Lease]:
        """Attempts that own their task, the newest first."""
        return [lease for lease in reversed(self.leases) if self.tasks[lease.task].token == lease.token
                and self.tasks[lease.task].status == "in_progress"]  # fmt: skip

    def finish_one(self, data: st.DataObject, lease: Lease, ending: str, fused: bool, twice: bool) -> None:
        store = self.any_store(data)
        value = data.draw(st.sampled_from([*LARGE, *SMALL, None])) if ending == attempts.DONE else None
        outcome = attempts.Outcome(
            ending,
            "as drawn",
            outputs=() if value is None else (attempts.Output("out", encoded=codec.encode(store, value)),),
            code_changed=data.draw(st.sampled_from([(), (), ("x.py",)])),
            final=data.draw(st.sampled_from([False, False, True])),
        )
        who = None
        if fused and self.living():
            who = attempts.Claimant(data.draw(st.sampled_from(self.living())), ("default",))
        task, self.clock = self.tasks[lease.task], self.clock + 1
        done = attempts.finish(store, lease, outcome, MAX_CRASHES, who)
        if task.token != lease.token:
            assert done.status is None, "a lost attempt ended its task"
            assert done.next is None
            return
        if task.status == "in_progress":
            self.end(task, outcome, value)
            assert done.status == task.status or done.status == "queued"  # settling it may have stopped it again
            if who is not None:
                self.claimed(done.next, who.worker_id)
            if twice and task.token == lease.token and task.status != "in_progress":
                again = attempts.finish(store, lease, attempts.Outcome(attempts.DONE))
                assert again.status == task.status
                claimed = again.next is not None and again.next.lease
                assert claimed == (done.next is not None and done.next.lease)
        else:
            assert done.status == task.status, "an ending that was stored before is recognised"

    @rule(data=st.data())
    @precondition(lambda self: self.leases)
    def finish_with_a_bad_token(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        stolen = Lease(lease.task, lease.uid, lease.attempt, "0" * 32)
        assert attempts.finish(self.any_store(data), stolen, attempts.Outcome(attempts.DONE)).status is None

    @rule(data=st.data())
    @precondition(lambda self: any(task.worker in self.living() for task in self.tasks.values()))
    def crash(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted({task.worker for task in self.tasks.values()} & set(self.living()))))
        self.workers[worker].lock.release()  # the descriptor goes, as with the process; row and file stay
        self.dead.add(worker)

    @rule(data=st.data())
    def reap(self, data: st.DataObject) -> None:
        self.clock += 1
        workers.reap(self.any_store(data), MAX_CRASHES)
        for worker in sorted(self.dead):
            lost = sorted((task for task in self.tasks.values() if task.worker == worker), key=lambda task: task.id)
            for task in lost:
                task.worker, task.token, task.crashes = 0, None, task.crashes + 1
                task.status = "stopped" if task.abort else "failed" if task.crashes >= MAX_CRASHES else "queued"
            ended = [(task.id, task.status) for task in lost]
            for number, status in ended:
                if status != "queued":
                    self.settle(number)

    @rule(data=st.data(), whole_run=st.sampled_from([False, False, False, True]))
    @precondition(lambda self: self.tasks)
    def abort(self, data: st.DataObject, whole_run: bool) -> None:
        chosen = data.draw(st.sampled_from(sorted(self.tasks)))
        run = self.tasks[chosen].run
        numbers = [number for number, task in self.tasks.items() if task.run == run] if whole_run else [chosen]
        self.clock += 1
        steering.abort(self.any_store(data), [run if whole_run else chosen])
        if whole_run and self.runs[run]["status"] == "created":
            self.runs[run]["status"] = "stopped"
        stopped = []
        for number in numbers:
            task = self.tasks[number]
            if task.status == "in_progress":
                task.abort = True
            elif task.status in ("pending", "queued"):
                task.status = "stopped"
                stopped.append(number)
        for number in stopped:
            self.settle(number)

    @rule(data=st.data(), skip=st.booleans())
    @precondition(lambda self: [t for t in self.tasks.values() if t.hold == "launch" and t.status == "pending" and not t.waits])
    def release(self, data: st.DataObject, skip: bool) -> None:
        held = [t for t in self.tasks.values() if t.hold == "launch" and t.status == "pending" and not t.waits]
        task, self.clock = data.draw(st.sampled_from(held)), self.clock + 1
        steering.release(self.any_store(data), task.id, skip)
        task.hold = None
        if skip:
            task.status = "skipped"
            self.skip_below(task.id)
        else:
            self.promote([task.id])

    @rule(data=st.data())
    @precondition(lambda self: any(t.gate and t.status in ("completed", "failed", "stopped") for t in self.tasks.values()))
    def open_gate(self, data: st.DataObject) -> None:
        gated = [t for t in self.tasks.values() if t.gate and t.status in ("completed", "failed", "stopped")]
        task, self.clock = data.draw(st.sampled_from(gated)), self.clock + 1
        steering.open_gate(self.any_store(data), task.id)
        task.gate = False
        self.settle(task.id)

    @rule(data=st.data(), again=st.booleans())
    @precondition(lambda self: any(t.hold == "retry" and t.status == "pending" for t in self.tasks.values()))
    def answer_retry(self, data: st.DataObject, again: bool) -> None:
        asking = [t for t in self.tasks.values() if t.hold == "retry" and t.status == "pending"]
        task, self.clock = data.draw(st.sampled_from(asking)), self.clock + 1
        steering.answer_retry(self.any_store(data), task.id, again)
        task.hold = None
        if again:
            task.status, task.retries, task.ticket = "queued", task.retries + 1, self.clock
        else:
            task.status = "failed"
            self.settle(task.id)

    @rule(data=st.data())
    @precondition(lambda self: self.some("failed", "stopped"))
    def enqueue(self, data: st.DataObject) -> None:
        task, self.clock = self.tasks[data.draw(st.sampled_from(self.some("failed", "stopped")))], self.clock + 1
        steering.enqueue(self.any_store(data), task.id, "default")
        task.status, task.ticket, task.abort = "queued", self.clock, False
        task.retries = task.crashes = task.returns = 0

    @rule(data=st.data())
    def lose_a_file(self, data: st.DataObject) -> None:
        there = [value for value in LARGE if self.file_of(value).exists()]
        if there:
            value = data.draw(st.sampled_from(there))
            os.unlink(self.file_of(value))
            self.missing.add(value)

    def file_of(self, value: bytes) -> Path:
        return blobs.path_of(self.stores[0], blobs.blake3.blake3(value).hexdigest())

    # -- after each ---------------------------------------------------------------------------------------------------

    @invariant()
    def every_task_is_where_the_model_says(self) -> None:
        rows = self.stores[self.clock % 3].database.rows("SELECT * FROM task WHERE parent_id IS NOT NULL")
        assert {row["id"] for row in rows} == set(self.tasks)
        for row in rows:
            task = self.tasks[row["id"]]
            stored = (row["status"], row["attempt"], row["retries"], row["crashes"], row["returns"], row["cached_from"])
            modelled = (task.status, task.attempt, task.retries, task.crashes, task.returns, task.cached_from)
            assert stored == modelled, f"{row['name']} is {stored}, the model says {modelled}"
            if task.status == "in_progress":
                assert bool(row["abort_requested"]) == task.abort

    @invariant()
    def the_store_is_sane(self) -> None:
        lost = {f"blob {blobs.blake3.blake3(value).hexdigest()[:8]} is used" for value in self.missing}
        found = sane(self.stores[0].path, only=("I2", "I3", "I4", "I7"), max_crashes=MAX_CRASHES)
        unreaped = "which is dead" if self.dead else "-"
        assert [line for line in found if unreaped not in line and not any(text in line for text in lost)] == []


def _live(copy_store: Callable[[Path], Store], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        lambda: Life(copy_store),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def test_whatever_happens_every_task_is_where_the_rules_say(copy_store: Callable[[Path], Store]) -> None:
    _live(copy_store, 40, 30)


@pytest.mark.faults
def test_whatever_happens_for_long_every_task_is_where_the_rules_say(copy_store: Callable[[Path], Store]) -> None:
    _live(copy_store, 500, 60)
