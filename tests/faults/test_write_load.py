"""Many writers at once: everybody gets a share, nobody waits long, no lock error reaches anybody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minipipe.store.home import Store
from tests.engine.real import ROOT
from tests.faults.sane import sane

pytestmark = pytest.mark.faults

WRITER = """
import json, sys, time
from minipipe.store import tasks
from minipipe.store.home import Store
store = Store.open(sys.argv[1], create=False, durability="fast")
store.database.rows("SELECT 1")
print("ready", flush=True)
sys.stdin.readline()
end, count, longest = time.monotonic() + 5, 0, 0.0
while (now := time.monotonic()) < end:
    tasks.submit(store, tasks.NewTask("custom", f"t{count}", "p", {}, queue="default"), durable=False)
    longest = max(longest, time.monotonic() - now)
    count += 1
print(json.dumps([count, longest]))
"""


def test_eight_processes_that_write_all_the_time_each_get_a_fair_share(
    tmp_path: Path, copy_store: Callable[[Path], Store]
) -> None:
    store = copy_store(tmp_path / "store")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(8)
    ]
    try:
        for one in started:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        found = [json.loads(one.communicate(timeout=60)[0]) for one in _released(started)]
    finally:
        for one in started:
            one.kill()
            one.wait()
    counts = [count for count, _ in found]
    assert all(one.returncode == 0 for one in started)
    assert min(counts) >= sum(counts) / len(counts) / 4, counts
    assert max(longest for _, longest in found) < 5, found
    assert store.database.rows("SELECT count(*) AS n FROM task")[0]["n"] == sum(counts)
    assert sane(store.path, only=["I1", "I4"]) == []


def _released(started: list[subprocess.Popen[str]]) -> list[subprocess.Popen[str]]:
    """All at the same moment."""
    for one in started:
        assert one.stdin is not None
        one.stdin.write("go\n")
        one.stdin.flush()
    return started
