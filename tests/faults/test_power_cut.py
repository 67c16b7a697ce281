"""A power cut: what was acknowledged is on the disk; what was not may be gone; nothing is wrong.

A file system in an image on a loop device. At a random moment the writers are stopped and the image is copied: it has what the disk
would hold, without what never left the caches. The copy is mounted and looked at. It models writes that never left the cache,
not disks that lie.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.engine.real import ROOT
from tests.faults import machine
from tests.faults.sane import sane

pytestmark = pytest.mark.faults

WRITER = """
import os, sys
from minipipe.store.home import Store
from minipipe.store import attempts, workers
from tests.store import making

store = Store.open(sys.argv[1], create=False, durability=sys.argv[2])
store.database.reserve_log()
worker = making.agent(store)
number = 0
while True:
    number += 1
    step = making.step(store, f"s{number}")
    row = making.task(store, step)
    claim = making.claim(store, worker)
    making.finish(store, claim, value=os.urandom(20_000) if number % 3 else {"n": number})
    os.write(1, f"{row['uid']}\\n".encode())
"""


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the kernel refuses a loop mount: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _round(tmp_path: Path, number: int, durability: str, seconds: float) -> tuple[list[str], dict[str, str], int]:
    """(what is wrong, what was told, how much of it is there) after one cut."""
    image, copy = tmp_path / f"disk{number}.img", tmp_path / f"copy{number}.img"
    with open(image, "wb") as file:
        os.truncate(file.fileno(), 96 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with mounted(image, tmp_path / f"disk{number}") as folder:
        subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; from minipipe.store.home import Store; Store.open(sys.argv[1], quiet=True).close()",
                str(folder / "store"),
            ],
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        subprocess.run(["sync", "-f", str(folder)], check=True)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder / "store"), durability],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            assert first
            time.sleep(seconds)
            process.send_signal(signal.SIGSTOP)
            os.set_blocking(process.stdout.fileno(), False)
            told = (first + (process.stdout.read() or b"")).decode()
            shutil.copyfile(image, copy)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    image.unlink()
    acknowledged = dict.fromkeys(told.split("\n")[:-1], "completed")
    with mounted(copy, tmp_path / f"copy{number}") as folder:
        wrong = sane(folder / "store", acknowledged=acknowledged, only=["I1", "I2", "I4", "I6", "I7", "I8"])
    copy.unlink()
    lost = sum("was acknowledged" in one for one in wrong)
    return [one for one in wrong if durability == "full" or "was acknowledged" not in one], acknowledged, lost


def test_after_a_power_cut_all_that_was_acknowledged_is_there_and_whole(tmp_path: Path) -> None:
    machine.need_root()
    machine.need("mkfs.ext4", "mount")
    chance = random.Random(16)
    total = 0
    for number in range(8):
        wrong, told, lost = _round(tmp_path, number, "full", chance.uniform(0.2, 1.5))
        assert (wrong, lost) == ([], 0), json.dumps(wrong[:10])
        total += len(told)
    assert total > 100


def test_with_fast_durability_a_power_cut_does_lose_rows_or_the_simulator_is_broken(tmp_path: Path) -> None:
    machine.need_root()
    machine.need("mkfs.ext4", "mount")
    lost = 0
    for number in range(4):
        wrong, _, gone = _round(tmp_path, number, "fast", 0.6)
        assert wrong == [], json.dumps(wrong[:10])  # lost, but nothing false
        lost += gone
    assert lost > 0
