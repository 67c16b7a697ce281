"""Ten thousand at once: submitting, looking, and the steps of one parent. Times are judged against a floor of the same run."""

from __future__ import annotations

import time

import pytest

from minipipe.store import attempts, steering, tasks
from minipipe.store.home import Store
from tests.faults.machine import command
from tests.faults.sane import sane
from tests.store import making

pytestmark = pytest.mark.load


def _floor_s(store: Store, number: int) -> float:
    """Seconds that as many single commits of one plain row take in this store's file, with its pragmas."""
    database = store.database
    with database.write(durable=False) as connection:
        connection.execute("CREATE TABLE floor (a, b, c)")
    began = time.monotonic()
    for n in range(number):
        with database.write(durable=False) as connection:
            connection.execute("INSERT INTO floor VALUES (?, 'x', 'y')", (n,))
    taken = time.monotonic() - began
    with database.write(durable=False) as connection:
        connection.execute("DROP TABLE floor")
    return taken


@pytest.fixture(autouse=True)
def _unwatched(store: Store) -> None:
    """What is timed is minipipe, not what watches its writes in tests: each statement of a trigger would cost a call of Python."""
    store.database.connection().set_trace_callback(None)


def test_ten_thousand_queued_tasks_are_submitted_shown_and_drained_in_proportion(store: Store) -> None:
    number = 10_000
    floor = _floor_s(store, number)
    began = time.monotonic()
    for n in range(number):
        tasks.submit(store, making.new_step(f"n{n}"), durable=False)
    submitted = time.monotonic() - began
    began = time.monotonic()
    empty = command(store.path, "--version")
    start = time.monotonic() - began
    began = time.monotonic()
    shown = command(store.path, "status")
    looked = time.monotonic() - began
    assert (empty.returncode, shown.returncode) == (0, 0)
    assert b"n9999" in shown.stdout
    worker = making.agent(store)
    began = time.monotonic()
    for _ in range(500):
        making.work(store, worker)
    first = time.monotonic() - began
    drained = 500 / first
    print(f"floor {floor:.1f} s, submit {submitted:.1f} s, status {looked:.2f} s (start {start:.2f} s), {drained:.0f} tasks/s")
    assert submitted < max(2.0, 15 * floor)
    assert looked - start < 1.0
    assert sane(store.path) == []


def test_the_end_of_a_parent_of_five_thousand_holds_the_write_lock_for_less_than_half_a_second(store: Store) -> None:
    worker = making.agent(store)
    parent = making.step(store, "parent")
    for n in range(5_000):
        tasks.submit(store, making.new_step(f"child{n}", after=[parent]), durable=False)
    claim = making.claim(store, worker)
    began = time.process_time()  # its own work, whatever else the machine does
    making.finish(store, claim)
    held = time.process_time() - began
    assert store.database.rows("SELECT status, count(*) FROM task GROUP BY status ORDER BY status")[1][1] == 5_000
    print(f"5,000 children queued in {held:.3f} s")
    assert held < 0.5
    assert sane(store.path) == []


def test_a_failure_skips_a_chain_of_five_thousand_without_recursion(store: Store) -> None:
    worker = making.agent(store)
    last = first = making.step(store, "s0")
    for n in range(1, 5_000):
        last = tasks.submit(store, making.new_step(f"s{n}", after=[last]), durable=False).id
    claim = making.claim(store, worker)
    began = time.process_time()
    making.finish(store, claim, attempts.FAILED, reason="no")
    held = time.process_time() - began
    assert making.statuses(store, first, last) == ["failed", "skipped"]
    print(f"5,000 steps skipped in {held:.3f} s")
    assert held < 0.5
    assert sane(store.path) == []


def test_a_chain_of_five_thousand_cached_steps_completes_without_recursion(store: Store) -> None:
    worker = making.agent(store)

    def chain(number: int) -> list[int]:
        """The whole chain, waiting for its first step."""
        made = [tasks.submit(store, making.new_step("s0", hold="launch", key_base="k0", use_cache=True), durable=False).id]
        for n in range(1, number):
            step = making.new_step(f"s{n}", after=[made[-1]], key_base=f"k{n}", use_cache=True)
            made.append(tasks.submit(store, step, durable=False).id)
        return made

    warm = chain(5_000)
    steering.release(store, warm[0])
    for _ in warm:
        making.work(store, worker, value=1)
    served = chain(5_000)
    began = time.process_time()
    steering.release(store, served[0])
    taken = time.process_time() - began
    rows = store.database.rows("SELECT status, count(*) AS n, sum(cached_from IS NOT NULL) AS hits FROM task GROUP BY status")
    assert [tuple(row) for row in rows] == [("completed", 10_000, 5_000)]
    assert taken < 5
    print(f"5,000 cached steps served in {taken:.2f} s")
    assert sane(store.path) == []
