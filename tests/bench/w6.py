"""W6: what a long history costs those who only look at the present."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from minipipe.store import attempts, presence, queues, tasks, views, workers
from minipipe.store.attempts import Claimant
from minipipe.store.home import Store
from tests.bench import history, measure
from tests.bench.measure import Plan, Row

_STEPS = 9
_QUEUE = "bench"
_SHOWN = 20  # as many as `status` lists by default


def run(plan: Plan) -> list[Row]:
    """Claims and `status` with more and more finished tasks; the floor is the same with the shortest history."""
    sizes = (1_000, 5_000) if plan.smoke else (1_000, 100_000, 1_000_000)
    stores = {}
    for size in sizes:
        home = plan.home()
        history.fill(home, size // (_STEPS + 1), _STEPS)
        stores[size] = Store.open(home, create=False)
    rows = _claims(plan, stores)
    rows += _status_command(plan, stores)
    rows += _status_query(plan, stores)
    for store in stores.values():
        store.close()
        measure.drop(store.path)
    return rows


def _beside_the_shortest(plan: Plan, what: str, unit: str, timed: dict[int, Callable[[], float | None]], reps: int) -> list[Row]:
    series = dict(zip(timed, measure.in_turns(plan, *timed.values(), reps=reps), strict=True))
    shortest = series[min(series)]
    return [Row(f"W6 {what}, {size:,} finished tasks", unit, found, shortest) for size, found in series.items()]


def _claims(plan: Plan, stores: dict[int, Store]) -> list[Row]:
    turns, each = plan.size(max(plan.reps, 5), 2), 40
    left = {}
    timed: dict[int, Callable[[], float | None]] = {}
    for size, store in stores.items():
        for number in range(turns * each):
            tasks.submit(store, tasks.NewTask("training", f"waiting_{number}", "bench", {"kind": "none"}, queue=_QUEUE))
        left[size] = workers.register(store, workers.AGENT, slots=2, queues=(_QUEUE,))
        timed[size] = _claimer(plan, store, Claimant(left[size].id, (_QUEUE,)), each)
    rows = _beside_the_shortest(plan, "claim", "us", timed, turns)
    for size, registration in left.items():
        plan.expect("W6: tasks left in the queue", attempts.claim_next(stores[size], Claimant(registration.id, (_QUEUE,))), None)
        workers.leave(stores[size], registration)
    return rows


def _claimer(plan: Plan, store: Store, who: Claimant, each: int) -> Callable[[], float | None]:
    def claim() -> float | None:
        spent = []
        for _ in range(each):
            start = time.perf_counter()
            found = attempts.claim_next(store, who)
            spent.append(time.perf_counter() - start)
            plan.expect("W6: a waiting task was claimed", found is not None, True)
        return statistics.median(spent) * 1e6

    return claim


def _status_command(plan: Plan, stores: dict[int, Store]) -> list[Row]:
    reason = measure.missing(plan, "status", home=min(stores.items())[1].path)
    if reason:
        return [Row("W6 status command", skipped=reason)]

    def timer(home: Path) -> Callable[[], float | None]:
        return lambda: measure.cli(plan, "status", home=home).wall_s * 1e3

    timed = {size: timer(store.path) for size, store in stores.items()}
    return _beside_the_shortest(plan, "status command", "ms", timed, plan.size(max(plan.reps, 5), 2))


def _status_query(plan: Plan, stores: dict[int, Store]) -> list[Row]:
    def timer(store: Store) -> Callable[[], float | None]:
        def once() -> float | None:
            start = time.perf_counter()
            with store.database.snapshot():
                found = views.tasks_of(store, views.Filter(limit=_SHOWN), presence.living(store))
                queues.queued_counts(store)
            spent = time.perf_counter() - start
            plan.expect("W6: runs listed", len(found), _SHOWN)
            return spent * 1e3

        return once

    timed = {size: timer(store) for size, store in stores.items()}
    return _beside_the_shortest(plan, "status query", "ms", timed, plan.size(max(plan.reps, 20), 3))
