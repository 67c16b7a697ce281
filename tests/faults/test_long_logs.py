"""A step that prints without end: the disk, the worker and the step itself take no harm."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.engine.real import Shop


def _memory(pid: int) -> int:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(fields["VmHWM"].split()[0]) * 1024


def test_a_log_over_its_limit_keeps_head_marker_and_tail(shop: Shop) -> None:
    step = shop.step("chat", megabytes=12)
    shop.drain(environment={"MINIPIPE_LOG_LIMIT_MB": "3"})
    assert shop.status(step) == "completed"
    data = shop.store.log_path(step.uid, 1).read_bytes()
    assert len(data) < 3_100_000 and data.count(b"minipipe: ") == 2
    assert data.startswith(b"minipipe: chat ") and data.rstrip(b"x\n").endswith(b"0119999"[-3:])
    shop.check()


@pytest.mark.faults
def test_a_gigabyte_of_output_fills_no_disk_and_needs_no_memory(shop: Shop) -> None:
    free = shop.step("chat", megabytes=1000, stamp_every=100)
    serving = shop.worker({"MINIPIPE_LOG_LIMIT_MB": "50"}, until_idle=True)
    log = shop.store.log_path(free.uid, 1)
    most = memory = 0
    while serving.process.poll() is None:
        try:
            most = max(most, os.stat(log).st_blocks * 512)
            memory = _memory(serving.pid)
        except (FileNotFoundError, KeyError):
            pass
        time.sleep(0.01)
    assert serving.process.returncode == 0, serving.said()
    assert shop.status(free) == "completed"
    assert log.stat().st_size < 51_000_000
    assert most < 999_000_000  # it was punched while it was written
    assert memory < 100_000_000
    assert shop.value(free) < 10 * _plain_seconds(shop.folder / "plain")  # whatever the disk does: it does so for both
    shop.check()


def _plain_seconds(path: Path) -> float:
    """How long a gigabyte takes without anybody who looks after it."""
    begun = time.monotonic()
    with open(path, "ab", buffering=0) as file:
        for _ in range(1000):
            file.write(b"x" * 10**6)
    took = time.monotonic() - begun
    path.unlink()
    return took
