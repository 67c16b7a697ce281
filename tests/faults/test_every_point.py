"""Death at every statement and at every file operation of one chain: the next worker always finishes it, once and rightly.

The fast group takes every k-th point, with another offset in each round of the loops below; ``-m faults`` takes them all.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from minipipe.store.home import Store
from tests.engine.real import Shop
from tests.faults.killing import armed

# role, kind, when, how many points one chain has at least, step and first point of the fast group
POINTS = [
    ("worker", "sql", "before", 100, 13, 3),
    ("worker", "os", "before", 13, 6, 8),
    ("worker", "os", "after", 13, 5, 9),
    ("child", "os", "before", 8, 4, 3),
    ("child", "os", "after", 8, 4, 5),
    ("host", "os", "before", 1, 1, 1),
]


def _dies_and_recovers(shop: Shop, role: str, kind: str, when: str, n: int) -> bool:
    """One round; False once the chain has less than n points."""
    mark = shop.folder / "dead"
    last = shop.chain()[2]
    first = shop.worker(armed(role, kind, n, when, mark=mark), until_idle=True)
    code = first.process.wait(30)
    assert (code == -9) == (role == "worker" and mark.exists()), first.said()
    shop.drain()
    row = shop.row(last)
    assert (row["status"], shop.value(last)) == ("completed", 30_000)
    counted = shop.lines("count")
    crashes = sum(shop.store.database.row("SELECT sum(crashes) FROM task") or ())
    assert crashes <= 1
    # At most what died ran twice: one attempt, and one that was started before the commit that would have claimed it.
    assert sorted(set(counted)) == ["begin", "close", "grow"]
    assert len(counted) <= 5
    assert max(Counter(counted).values()) <= 2
    shop.check()
    return mark.exists()


@pytest.fixture
def shops(tmp_path: Path, copy_store: Callable[[Path], Store], wait_for: Callable[..., None]) -> Callable[[int], Shop]:
    """A fresh shop for each number."""

    def make(number: int) -> Shop:
        folder = tmp_path / str(number)
        folder.mkdir()
        return Shop(copy_store(folder / "store"), folder, wait_for)

    return make


@pytest.mark.parametrize(("role", "kind", "when", "least", "stride", "first"), POINTS)
def test_a_chain_survives_a_death_at_some_points(
    shops: Callable[[int], Shop], role: str, kind: str, when: str, least: int, stride: int, first: int
) -> None:
    for n in range(first, least + 1, stride):
        shop = shops(n)
        try:
            assert _dies_and_recovers(shop, role, kind, when, n), n
        finally:
            shop.close()
            shop.store.close()


@pytest.mark.faults
@pytest.mark.parametrize(("role", "kind", "when", "least", "stride", "first"), POINTS)
def test_a_chain_survives_a_death_at_every_point(
    shops: Callable[[int], Shop], role: str, kind: str, when: str, least: int, stride: int, first: int
) -> None:
    for n in itertools.count(1):
        shop = shops(n)
        try:
            if not _dies_and_recovers(shop, role, kind, when, n):
                break
        finally:
            shop.close()
            shop.store.close()
    assert n > least


@pytest.mark.faults
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("role", ["worker", "child", "host"])
def test_a_chain_survives_an_error_of_the_disk_at_every_point(shops: Callable[[int], Shop], role: str, error: str) -> None:
    """A step may fail of it, in words, and a worker may end; what is stored is right and the next worker goes on."""
    failed = 0
    for n in itertools.count(1):
        shop = shops(n)
        try:
            mark = shop.folder / "hurt"
            made = shop.chain()
            first = shop.worker(armed(role, "os", n, error, mark=mark), until_idle=True)
            code = first.process.wait(30)
            assert code in (0, 1, 4), (n, first.said())
            shop.drain()
            statuses = [shop.status(step) for step in made]
            if statuses[-1] == "completed":
                assert statuses == ["completed"] * 3 and shop.value(made[-1]) == 30_000
            else:
                hurt = statuses.index("failed")
                assert role != "worker" and statuses == ["completed"] * hurt + ["failed"] + ["skipped"] * (2 - hurt), (
                    n,
                    statuses,
                )
                assert shop.row(made[hurt])["reason"] and shop.row(made[hurt])["crashes"] == 0
                failed += 1
            shop.check()
            if not mark.exists():
                break
        finally:
            shop.close()
            shop.store.close()
    print(f"{n - 1} points, {failed} failed steps")
    assert n > 1
