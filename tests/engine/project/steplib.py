"""What the steps of the tests do. Each runs in a child of a real worker."""

from __future__ import annotations

import os
import signal
import sys
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


def stay(file: str) -> int:
    """Run until a file exists."""
    stamp("spans", f"start {os.environ['MINIPIPE_TASK']}")
    wait_until(file)
    stamp("spans", f"end {os.environ['MINIPIPE_TASK']}")
    return 1


def stay_alone(file: str, number: int) -> int:
    stamp(f"alone{number}")
    wait_until(file)
    return number


# -- on the worker's line -----------------------------------------------------------------------------------------------


def forge(data: str, stay: bool) -> None:
    """Write to the worker in the child's name, then end, or do not."""
    os.write(3, bytes.fromhex(data))
    while stay:
        signal.pause()
    os._exit(0)


def forge_own() -> None:
    from minipipe import context
    from minipipe.engine.protocol import pack

    running = context.running()
    assert running is not None
    assert running.lease is not None
    os.write(3, pack({"token": running.lease.token, "ending": "completed", "duration_s": 0.1, "outputs": []}))
    while True:
        signal.pause()


# -- imports ------------------------------------------------------------------------------------------------------------


def import_one(module: str) -> str:
    import importlib

    return importlib.import_module(module).__name__


def born_in(module: str) -> int:
    """The process that first imported a module."""
    import importlib

    return int(importlib.import_module(module).born)


# -- budgets ------------------------------------------------------------------------------------------------------------


def stumble(file: str, failures: int, crashes: int) -> int:
    """Fail so often, then crash so often, then succeed: a line in the file for each try."""
    stamp(file, "try")
    tries = len(Path(file).read_text().splitlines())
    if tries <= failures:
        raise ValueError(f"failure {tries}")
    if tries <= failures + crashes:
        os.kill(os.getpid(), signal.SIGKILL)
    return tries


def report_time() -> float:
    return time.time()


def ignore_term_until(file: str) -> int:
    """Run on after SIGTERM until a file exists."""
    signal.signal(signal.SIGTERM, lambda *_: stamp("terminated"))
    stamp("ready")
    wait_until(file)
    return 1


def stay_large(file: str) -> bytes:
    stay(file)
    return b"large" * 10_000


# -- in a storm ---------------------------------------------------------------------------------------------------------


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def weather(number: int, seconds: float, value: list[int] | None = None, size: int = 0, fails: bool = False) -> list[int]:
    """A short step of a chain; says so if an earlier attempt of it still lives. Its result is a file if `size` is large."""
    path = Path("stamps") / os.environ["MINIPIPE_TASK"]
    if path.exists():
        earlier = [int(line) for line in path.read_text().split()]
        if any(lives(pid) for pid in earlier):
            stamp("overlaps", os.environ["MINIPIPE_TASK"])
    failed = Path(f"{path}.failed")
    stamp(str(path))
    time.sleep(seconds)
    if fails and not failed.exists():
        failed.touch()
        raise ValueError("a failure of its own")
    return [*(value or [0])[:1], *range(size), number]


def ran() -> int:
    stamp("ran", os.environ["MINIPIPE_TASK"])
    return 1


# -- environments -------------------------------------------------------------------------------------------------------


def six_version() -> str:
    """Which version of six this step sees, and where its Python is."""
    import six

    return f"{six.__version__} {Path(sys.prefix).name}"


def is_importable(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


def fail() -> None:
    raise ValueError("as asked")


def chat(megabytes: int, stamp_every: int = 0) -> float:
    """Print that many megabytes, numbered lines of 100 bytes; returns the seconds that took."""
    begin, lines = time.monotonic(), 10_000
    for part in range(megabytes):
        os.write(1, b"".join(b"%098d\n" % (part * lines + line) + b"x" for line in range(lines))[: 10**6])
        if stamp_every and part % stamp_every == stamp_every - 1:
            stamp("printed", str(part))
    return time.monotonic() - begin


def produce(size: int, number: int = 0) -> bytes:
    """That many bytes, others for each number."""
    return number.to_bytes(8, "little") * (size // 8)


def limited(limit: int, size: int) -> bytes:
    """A result that is larger than any file this process may write."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return bytes(size)


def hoard(files: int) -> int:
    """Open so many files that the limit is reached."""
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    return len([open(__file__) for _ in range(files)])


def meet(file: str, number: int) -> bytes:
    """Wait until so many are here; the same bytes for all, too many for a row."""
    stamp(file)
    while len(Path(file).read_text().splitlines()) < number:
        time.sleep(0.002)
    return b"met" * 10_000


def read_text() -> str:
    """What the store says of a parameter of this task; "asked" is there before it is read, "read" afterwards."""
    from minipipe import Task

    Path("asked").touch()
    task = Task.current_task()
    assert task is not None
    text = str(task.get_parameters().get("General/text"))
    Path("read").touch()
    return text
