"""Who is alive is decided by locks; what the dead held goes back, once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from minipipe import errors
from minipipe.store import attempts, locks, records, steering, workers
from minipipe.store.home import Store
from tests.faults.sane import sane
from tests.store.making import agent, claim, finish, outputs, run, status, statuses, step, task, work


class Elsewhere:
    """A process of its own that does something, keeps what came of it, and waits to be killed."""

    def __init__(self, work: Callable[[], object]) -> None:
        done, told = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                kept = work()  # a lock is given back with the last reference to it
                os.write(told, b"!")
                signal.pause()
                del kept
            finally:
                os._exit(1)
        os.close(told)
        self.ready = os.read(done, 1) == b"!"
        os.close(done)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        if self.pid:
            os.kill(self.pid, number)
            os.waitpid(self.pid, 0)
            self.pid = 0


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Callable[[], object]], Elsewhere]]:
    started: list[Elsewhere] = []

    def start(work: Callable[[], object]) -> Elsewhere:
        process = Elsewhere(work)
        started.append(process)
        assert process.ready
        return process

    yield start
    for process in started:
        process.kill()


Start = Callable[[Callable[[], object]], Elsewhere]


# -- locks --------------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_until_it_is_released(store: Store) -> None:
    path = store.folder("workers") / ("0" * 32 + ".lock")
    assert not locks.is_held(path)
    held = locks.hold(path)
    assert held is not None
    assert locks.is_held(path)
    assert locks.hold(path, wait=False) is None
    assert path.stat().st_mode & 0o777 == 0o600
    held.release()
    assert not locks.is_held(path)
    assert path.exists()
    again = locks.hold(path, wait=False)
    assert again is not None
    again.release(unlink=True)
    assert not path.exists()


def test_a_lock_may_be_released_by_another_thread(store: Store) -> None:
    path = store.folder("workers") / ("0" * 32 + ".lock")
    held = locks.hold(path)
    assert held is not None
    thread = threading.Thread(target=held.release)
    thread.start()
    thread.join()
    assert not locks.is_held(path)


def test_a_lock_outlives_the_thread_that_took_it(store: Store) -> None:
    path, held = store.folder("workers") / ("0" * 32 + ".lock"), []
    thread = threading.Thread(target=lambda: held.append(locks.hold(path)))
    thread.start()
    thread.join()
    del thread
    assert locks.is_held(path)
    held[0].release()


def test_a_lock_dies_with_its_process_and_not_with_a_child_of_it(store: Store, elsewhere: Start) -> None:
    path = store.folder("workers") / ("0" * 32 + ".lock")
    held = locks.hold(path)
    assert held is not None
    child = elsewhere(lambda: None)
    assert locks.is_held(path)
    held.release()
    assert not locks.is_held(path), "a forked child does not keep it"
    child.kill()
    owner = elsewhere(lambda: locks.hold(path))
    assert locks.is_held(path)
    os.kill(owner.pid, signal.SIGSTOP)
    assert locks.is_held(path), "a suspended process lives"
    owner.kill()
    assert not locks.is_held(path)


def test_a_lock_whose_file_is_gone_or_replaced_is_lost_and_never_unlinks_the_new_one(store: Store) -> None:
    path = store.folder("workers") / ("0" * 32 + ".lock")
    held = locks.hold(path)
    assert held is not None
    assert not held.lost()
    path.unlink()
    assert held.lost()
    other = locks.hold(path, wait=False)
    assert other is not None
    assert held.lost()
    held.release(unlink=True)
    assert path.exists()
    assert locks.is_held(path)
    other.release()


# -- the living ---------------------------------------------------------------------------------------------------------


def test_who_registers_is_alive_until_it_leaves(store: Store) -> None:
    worker = agent(store)
    assert [(row["id"], row["name"], row["pid"]) for row in workers.alive(store)] == [(worker.id, f"w{worker.id}", os.getpid())]
    assert workers.served_queues(store) == ("default",)
    workers.leave(store, worker)
    assert workers.alive(store) == []
    assert workers.served_queues(store) == ()
    assert list(store.folder("workers").iterdir()) == []
    assert sane(store.path, after_gc=True) == []


def test_only_agents_that_serve_everybody_count_as_serving(store: Store) -> None:
    made = [
        workers.register(store, workers.AGENT, queues=("a", "b")),
        workers.register(store, workers.AGENT, queues=("c",), session="s"),
        workers.register(store, workers.PROCESS, queues=("d",)),
    ]
    assert workers.served_queues(store) == ("a", "b")
    for registration in made:
        workers.leave(store, registration)


# -- reaping ------------------------------------------------------------------------------------------------------------


def test_a_killed_process_gives_its_task_back_and_another_runs_it(store: Store, elsewhere: Start) -> None:
    number = step(store)

    def claim_it() -> workers.Registration:
        worker = agent(store)
        records.upload(store, claim(store, worker).lease, number, "half", b"x" * 50_000)
        return worker

    owner = elsewhere(claim_it)
    assert workers.reap(store, 3) == []
    assert status(store, number) == "in_progress"
    owner.kill()
    assert any("which is dead" in line for line in sane(store.path))
    assert workers.reap(store, 3) == [task(store, number)["uid"]]
    row = task(store, number)
    assert (row["status"], row["crashes"], row["token"], row["worker_id"]) == ("queued", 1, None, None)
    assert outputs(store, number) == [], "what it uploaded does not mix with the next attempt's"
    assert workers.reap(store, 3) == []
    assert list(store.folder("workers").iterdir()) == []
    other = agent(store)
    work(store, other, value=1)
    assert status(store, number) == "completed"
    assert sane(store.path) == []
    workers.leave(store, other)


def test_the_third_death_ends_a_task(store: Store, elsewhere: Start) -> None:
    number = step(store)
    child = step(store, after=[number])

    def claim_it() -> workers.Registration:
        worker = agent(store)
        claim(store, worker)
        return worker

    for expected in ("queued", "queued", "failed"):
        elsewhere(claim_it).kill()
        workers.reap(store, 3)
        assert status(store, number) == expected
    assert status(store, child) == "skipped"
    assert "crashed 3 times" in task(store, number)["reason"]
    assert (task(store, number)["crashes"], task(store, number)["attempt"]) == (3, 3)
    assert sane(store.path) == []


def dead_agent(store: Store, *, tasks_held: int = 1) -> tuple[workers.Registration, list[attempts.Claim]]:
    """A worker whose lock went, as with its process."""
    worker = agent(store)
    claims = [claim(store, worker) for _ in range(tasks_held)]
    worker.lock.release()
    return worker, claims


def test_a_dead_workers_late_ending_changes_nothing(store: Store) -> None:
    number = step(store)
    _, (found,) = dead_agent(store)
    workers.reap(store, 3)
    assert finish(store, found, value=1) is None
    assert status(store, number) == "queued"


def test_an_ending_before_the_reaper_came_counts(store: Store) -> None:
    number = step(store)
    _, (found,) = dead_agent(store)
    assert finish(store, found, value=1) == "completed"
    assert workers.reap(store, 3) == []
    assert task(store, number)["crashes"] == 0
    assert sane(store.path) == []


def test_an_aborted_task_of_a_dead_worker_is_stopped(store: Store) -> None:
    number = step(store)
    child = step(store, after=[number])
    dead_agent(store)
    steering.abort(store, [number])
    workers.reap(store, 3)
    assert statuses(store, number, child) == ["stopped", "skipped"]
    assert sane(store.path) == []


def test_what_goes_back_in_a_run_that_just_failed_is_stopped(store: Store) -> None:
    strict = run(store, abort_on_failure=True).id
    poison, innocent = (step(store, parent_id=strict) for _ in range(2))
    with store.database.write() as connection:
        connection.execute("UPDATE task SET crashes = 2 WHERE id = ?", (poison,))
    dead_agent(store, tasks_held=2)
    workers.reap(store, 3)
    assert statuses(store, poison, innocent) == ["failed", "stopped"]


def test_the_processes_of_the_dead_end_before_their_tasks_go_back(store: Store) -> None:
    number = step(store)
    worker, (found,) = dead_agent(store)
    seen: list[object] = []

    def sweep(uid: str, tokens: Sequence[str]) -> None:
        seen.extend([uid, list(tokens), status(store, number), locks.is_held(store.folder("workers") / f"{uid}.lock")])

    workers.reap(store, 3, sweep)
    assert seen == [worker.uid, [found.lease.token], "in_progress", True]
    assert status(store, number) == "queued"


def test_a_reaper_that_fails_leaves_the_work_to_the_next(store: Store) -> None:
    number = step(store)
    dead_agent(store)

    def fail(uid: str, tokens: Sequence[str]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        workers.reap(store, 3, fail)
    assert status(store, number) == "in_progress"
    workers.reap(store, 3)
    assert status(store, number) == "queued"
    assert task(store, number)["crashes"] == 1


def test_two_reapers_count_a_death_once(store: Store) -> None:
    for _ in range(10):
        number = step(store)
        dead_agent(store)
        barrier, changed = threading.Barrier(2), list[str]()
        stores = [Store.open(store.path, durability="fast") for _ in range(2)]

        def reap(own: Store, barrier: threading.Barrier = barrier, changed: list[str] = changed) -> None:
            barrier.wait(10)
            changed.extend(workers.reap(own, 3))

        threads = [threading.Thread(target=reap, args=(own,)) for own in stores]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        workers.reap(store, 3)  # both may have met at the lock and left it to the next tick
        assert (status(store, number), task(store, number)["crashes"]) == ("queued", 1)
        assert len(changed) <= 1
        steering.abort(store, [number])
        for own in stores:
            own.close()
    assert sane(store.path) == []


def test_a_worker_whose_lock_file_was_deleted_is_taken_for_dead_after_the_sweep(store: Store) -> None:
    number = step(store)
    worker = agent(store)
    found = claim(store, worker)
    worker.lock.path.unlink()
    swept: list[str] = []
    workers.reap(store, 3, lambda uid, tokens: swept.extend(tokens))
    assert swept == [found.lease.token]
    assert status(store, number) == "queued"
    assert worker.lock.lost()
    assert finish(store, found, value=1) is None
    worker.lock.release(unlink=True)


def test_a_run_whose_process_died_is_stopped_and_says_how_to_go_on(store: Store, elsewhere: Start) -> None:
    made = run(store)
    numbers: list[int] = []
    private = step(store, parent_id=made.id, session="s", private=True)
    public = step(store, parent_id=made.id, session="s")
    below_private = step(store, parent_id=made.id, after=[private], session="s")
    below_public = step(store, parent_id=made.id, after=[public], session="s")
    held = step(store, parent_id=made.id, session="s", private=True, hold="launch")
    numbers += [private, public, below_private, below_public, held]

    def own() -> workers.Registration:
        process = workers.register(store, workers.PROCESS)
        attempts.start_here(store, made.id, process.id)
        return process

    owner = elsewhere(own)
    assert status(store, made.id) == "in_progress"
    owner.kill()
    workers.reap(store, 3)
    row = task(store, made.id)
    assert (row["status"], row["crashes"]) == ("stopped", 0)
    assert f"minipipe resume {made.run_name}" in row["reason"]
    assert statuses(store, *numbers) == ["stopped", "queued", "skipped", "pending", "skipped"]
    assert sane(store.path) == []


def test_a_run_may_be_owned_again_after_its_process_died(store: Store, elsewhere: Start) -> None:
    made = run(store)

    def own() -> workers.Registration:
        process = workers.register(store, workers.PROCESS)
        attempts.start_here(store, made.id, process.id)
        return process

    for _ in range(4):
        elsewhere(own).kill()
        workers.reap(store, 3)
        assert status(store, made.id) == "stopped"
    mine = workers.register(store, workers.PROCESS)
    lease = attempts.start_here(store, made.id, mine.id)
    assert lease.attempt == 5
    assert attempts.finish(store, lease, attempts.Outcome(attempts.DONE)).status == "completed"
    workers.leave(store, mine)
    assert sane(store.path, after_gc=True) == []


def test_a_store_with_a_foreign_lock_file_is_reaped_all_the_same(store: Store) -> None:
    number = step(store)
    dead_agent(store)
    (store.folder("workers") / "note.txt").write_text("mine")
    workers.reap(store, 3)
    assert status(store, number) == "queued"
    with contextlib.suppress(FileNotFoundError):
        (store.folder("workers") / "note.txt").unlink()


def test_at_a_place_that_the_store_has_left_nobody_is_taken_for_dead(store: Store) -> None:
    number = step(store)
    worker = agent(store)
    claim(store, worker)
    swept: list[str] = []

    store.path.rename(store.path.with_name("elsewhere"))
    with pytest.raises(errors.StoreMoved, match="was moved or deleted"):
        workers.reap(store, 3, lambda uid, tokens: swept.append(uid))

    assert swept == []
    assert not store.path.exists()
    store.path.with_name("elsewhere").rename(store.path)
    assert status(store, number) == "in_progress"
