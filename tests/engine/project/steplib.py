"""What the steps of the tests do. Each runs in a child of a real worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def stamp(name: str, text: str = "") -> None:
    """Append a line to a file in the step's folder, in one write."""
    descriptor = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{text or os.getpid()}\n".encode())
    os.close(descriptor)


def wait_until(name: str) -> None:
    """Block until a file exists."""
    while not Path(name).exists():
        time.sleep(0.002)


# -- plain --------------------------------------------------------------------------------------------------------------


def one() -> int:
    return 1


def nothing(n: int = 0) -> int:
    return n


def add_one(value: int) -> int:
    stamp("count", "add_one")
    return value + 1


def wait_for_file(name: str) -> int:
    stamp("started")
    wait_until(name)
    stamp("ended")
    return os.getpid()


def begin() -> list[int]:
    """First of the chain: a small result, stored inline."""
    stamp("count", "begin")
    return [1, 2, 3]


def grow(value: list[int]) -> bytes:
    """Second: a large one, stored as a file."""
    stamp("count", "grow")
    return bytes(value) * 10_000


def close(value: bytes) -> int:
    """Third: a number."""
    stamp("count", "close")
    return len(value)


# -- kills --------------------------------------------------------------------------------------------------------------


def kill_self() -> None:
    stamp("count")
    os.kill(os.getpid(), signal.SIGKILL)


def facts() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": os.getppid()}
