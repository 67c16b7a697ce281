"""A log keeps its beginning and its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minipipe.store import collect, log_limit
from minipipe.store.home import Store
from tests.store import making

LIMIT = 2_000_000


def lines(first: int, last: int) -> bytes:
    return b"".join(b"line %09d\n" % number for number in range(first, last))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "a.log"
    path.write_bytes(lines(0, 500_000))
    return path


def test_a_hole_frees_the_middle_while_the_log_is_written_and_reading_skips_it(log: Path) -> None:
    with open(log, "ab") as writer:
        assert log_limit.hollow(log, LIMIT)
        assert os.stat(log).st_blocks * 512 <= LIMIT + 3 * 4096
        assert not log_limit.hollow(log, LIMIT)
        writer.write(lines(500_000, 500_010))
    pieces, place = [], 0
    with open(log, "rb") as file:
        while (found := log_limit.read(file, place, 100_000))[1]:
            pieces.append(found)
            place += found[0] + len(found[1])
    assert sum(missing > 0 for missing, _ in pieces) == 1
    assert place == log.stat().st_size
    data = b"".join(data for _, data in pieces)
    assert data.startswith(lines(0, 60_000)) and data.endswith(lines(440_000, 500_010)) and b"\0" not in data


@pytest.mark.parametrize("punched", [True, False])
def test_at_the_end_head_one_marker_and_tail_stay(log: Path, tmp_path: Path, punched: bool) -> None:
    size = log.stat().st_size
    if punched:
        log_limit.hollow(log, LIMIT)
    assert log_limit.trim(log, LIMIT, tmp_path / "draft")
    data = log.read_bytes()
    assert len(data) <= LIMIT + 200 and b"\0" not in data
    head, _, rest = data.partition(b"minipipe: ")
    marker, _, tail = rest.partition(b"\n")
    assert int(marker.split()[0]) == size - len(head) - len(tail)
    assert head == lines(0, len(head) // 15) and tail == lines(500_000 - len(tail) // 15, 500_000)
    assert log.stat().st_mode & 0o777 == 0o600
    assert not log_limit.trim(log, LIMIT, tmp_path / "draft") and not (tmp_path / "draft").exists()


def test_short_logs_missing_ones_and_no_limit_change_nothing(log: Path, tmp_path: Path) -> None:
    for path, limit in ((log, 0), (log, 10**9), (tmp_path / "none", LIMIT)):
        assert not log_limit.hollow(path, limit)
        assert not log_limit.trim(path, limit, tmp_path / "draft")
    assert log.read_bytes() == lines(0, 500_000)


def test_one_endless_line_is_cut_too(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"\xff" * 6_000_000)
    assert log_limit.trim(log, LIMIT, tmp_path / "draft")
    assert log.stat().st_size < LIMIT + 200


def test_gc_trims_what_a_dead_worker_could_not(store: Store) -> None:
    worker = making.agent(store)
    task = making.step(store)
    claim = making.claim(store, worker)
    path = store.log_path(claim.lease.uid, 1)
    path.parent.mkdir()
    path.write_bytes(lines(0, 300_000))
    collect.sweep(store, limit_of_logs=LIMIT)
    assert path.stat().st_size == 4_500_000  # it runs
    making.finish(store, claim)
    assert collect.sweep(store, limit_of_logs=LIMIT).size["logs"] > 2_000_000
    assert path.stat().st_size < LIMIT + 200 and making.status(store, task) == "completed"
