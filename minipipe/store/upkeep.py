"""``gc`` as a whole: what it would remove, and removing it, also on a full disk and beside working workers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from minipipe import errors
from minipipe.store import collect, home, locks, presence, retention
from minipipe.store.home import Store


@dataclass(frozen=True, slots=True)
class Plan:
    """What `carry_out` would do.

    Attributes:
        going: the runs.
        logs, log_bytes: of these runs' tasks.
        litter: what nothing refers to already.
    """

    going: retention.Going
    logs: int
    log_bytes: int
    litter: collect.Freed

    @property
    def total(self) -> int:
        """Bytes that it frees, the database's own not counted."""
        return self.going.blob_bytes + self.log_bytes + self.litter.total


@dataclass(frozen=True, slots=True)
class Done:
    """What `carry_out` did.

    Attributes:
        runs: ids of the runs that went.
        tasks: how many tasks with them.
        freed: what else went.
        database: bytes by which the database became smaller.
        ballast: False if there is not enough room to put the ballast back.
    """

    runs: tuple[str, ...]
    tasks: int
    freed: collect.Freed
    database: int
    ballast: bool


def plan(store: Store, rule: retention.Rule) -> Plan:
    """Look at everything; writes nothing."""
    going = retention.plan(store, rule)
    logs = size = 0
    for run in going.runs:
        for path in retention.logs_of(store, run.id):
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_size
                logs += 1
    return Plan(going, logs, size, collect.litter(store))


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """Hold ``maint.lock``: nobody else collects, copies or checkpoints meanwhile. Waits for who does."""
    held = locks.hold(store.path / "maint.lock")
    assert held is not None
    try:
        yield
    finally:
        held.release()


def carry_out(store: Store, planned: Plan, tell: Callable[[str, int], None], log_limit: int = 0) -> Done:
    """Remove what was planned, as far as it still may go.

    Transaction effect: many short commits without sync; a kill between two of them leaves less litter than before.
    """
    with alone(store):
        removed, tasks = [], 0
        for run in planned.going.runs:
            count = retention.remove(store, run.id)
            tasks += count
            if count:
                removed.append(run.uid)
                tell("runs", len(removed))
            store.database.checkpoint()
        freed = collect.sweep(store, tell, log_limit)
        nobody = not any(one.kind == presence.AGENT for one in presence.living(store))
        shrunk = collect.shrink(store, alone=nobody)
    return Done(tuple(removed), tasks, freed, shrunk, home.restore_ballast(store.path))


@contextlib.contextmanager
def room(path: Path) -> Iterator[None]:
    """Give the ballast's room to whatever happens inside, if the disk is full; and take it back afterwards."""
    needed = (path / home.DATABASE).exists() and home.is_scarce(path) and home.drop_ballast(path)
    try:
        yield
    finally:
        if needed:
            with contextlib.suppress(OSError, errors.MinipipeError):
                home.restore_ballast(path)
