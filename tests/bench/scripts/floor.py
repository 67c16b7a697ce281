"""The least that isolated, durable steps cost here: forks and synced commits, and nothing else.

Arguments: chain, fan, commit or array; then how many steps, commits or elements. Imports nothing of minipipe.
"""

import json
import mmap
import os
import sqlite3
import struct
import sys
import tempfile
import time
from pathlib import Path

_SIZE_BYTES = 28 << 20  # of the process that forks: a fork costs by the page


def grow() -> bytearray:
    """Memory that brings this process to `_SIZE_BYTES`, every page touched."""
    resident = 0
    if os.path.exists("/proc/self/statm"):
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
    ballast = bytearray(max(0, _SIZE_BYTES - resident))
    for place in range(0, len(ballast), mmap.PAGESIZE):
        ballast[place] = 1
    return ballast


class Ledger:
    """A database that syncs every commit, written the way minipipe's is."""

    def __init__(self, folder: str) -> None:
        self._connection = sqlite3.connect(os.path.join(folder, "floor.db"), isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0"):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        self._connection.execute("CREATE TABLE result (id INTEGER PRIMARY KEY, name TEXT, value TEXT)")

    def commit(self, number: int) -> None:
        """One row, one commit."""
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.execute("INSERT INTO result VALUES (?, 'step', ?)", (number, str(number)))
        self._connection.execute("COMMIT")

    def count(self) -> int:
        """Rows so far."""
        return int(self._connection.execute("SELECT count(*) FROM result").fetchone()[0])


def fork() -> int:
    """A child that ends at once; its process id."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return pid


def chain(ledger: Ledger, steps: int) -> None:
    """One child after the other."""
    for number in range(steps):
        os.waitpid(fork(), 0)
        ledger.commit(number)


def fan(ledger: Ledger, steps: int) -> None:
    """Two children at a time."""
    begun = ended = 0
    while ended < steps:
        while begun < steps and begun - ended < 2:
            fork()
            begun += 1
        os.waitpid(-1, 0)
        ledger.commit(ended)
        ended += 1


def commit(ledger: Ledger, steps: int) -> None:
    """No child at all."""
    for number in range(steps):
        ledger.commit(number)


def array(folder: str, elements: int) -> float:
    """One child writes the bytes of an array to a new file, the next one maps and sums them."""
    import numpy

    path = os.path.join(folder, "array")
    if os.fork() == 0:
        made = memoryview(numpy.arange(elements, dtype="float64")).cast("B")
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        done = 0
        while done < made.nbytes:
            done += os.write(descriptor, made[done : done + (16 << 20)])
        os._exit(0)
    os.wait()
    reader, writer = os.pipe()
    if os.fork() == 0:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        os.write(writer, struct.pack("d", numpy.frombuffer(data, dtype="float64").sum()))
        os._exit(0)
    os.wait()
    return float(struct.unpack("d", os.read(reader, 8))[0])


def main(what: str, number: int) -> dict[str, float]:
    """Run one floor and return its figures."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        if what == "array":
            import numpy  # noqa: F401 - a warm host has it before the first step

            start = time.perf_counter()
            value = array(folder, number)
            return {"value": value, "seconds": time.perf_counter() - start}
        ballast, ledger = grow(), Ledger(folder)
        start = time.perf_counter()
        {"chain": chain, "fan": fan, "commit": commit}[what](ledger, number)
        spent = time.perf_counter() - start
        assert ledger.count() == number
        assert ballast
        return {"ms_per_step": spent * 1e3 / number, "steps_per_s": number / spent}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
