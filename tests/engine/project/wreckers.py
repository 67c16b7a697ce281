"""Steps that end badly or behave badly."""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# -- exits and signals --------------------------------------------------------------------------------------------------


def leave_quietly() -> None:
    os._exit(0)


def leave_with_3() -> None:
    os._exit(3)


def leave_with_300() -> None:
    sys.exit(300)


def leave_with_words() -> None:
    sys.exit("no such luck")


def leave_well() -> None:
    raise SystemExit(0)


def interrupt() -> None:
    raise KeyboardInterrupt


class Bottom(BaseException):
    pass


def raise_bottom() -> None:
    raise Bottom("deep")


def segfault() -> None:
    ctypes.string_at(0)


def abort() -> None:
    os.abort()


def divide_in_c() -> None:
    os.kill(os.getpid(), signal.SIGFPE)


# -- exceptions ---------------------------------------------------------------------------------------------------------


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class TwoArguments(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Weird(str):
    def __format__(self, spec: str) -> str:
        raise RuntimeError("no format")

    def __getitem__(self, key: Any) -> str:
        raise RuntimeError("no items")

    __len__ = __add__ = __encode__ = __getitem__  # type: ignore[assignment]


class WeirdWords(Exception):
    def __str__(self) -> str:
        return Weird("weird words")


class ExitThatLies(SystemExit):
    @property
    def code(self) -> int:  # type: ignore[override]
        raise RuntimeError("no code")


def raise_mute() -> None:
    raise Mute


def raise_unpicklable() -> None:
    raise Unpicklable


def raise_two_arguments() -> None:
    raise TwoArguments(1, 2)


def raise_weird_words() -> None:
    raise WeirdWords


def raise_exit_that_lies() -> None:
    raise ExitThatLies


def raise_huge() -> None:
    raise ValueError("x" * (100 << 20))


def raise_escapes() -> None:
    raise ValueError("\x1b]52;c;aGk=\x07\x1b[31m\rred\x00")


def raise_surrogates() -> None:
    raise ValueError("half \ud800 a sign")


def raise_group() -> None:
    raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])


def recurse() -> int:
    return recurse() + 1


hoard: list[bytearray] = []


def run_out_of_memory() -> None:
    """Take all of 300 MB and keep it: the failure has to be told with what little is left."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (300 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    while True:
        hoard.append(bytearray(1 << 20))


# -- results ------------------------------------------------------------------------------------------------------------


def return_generator() -> Iterator[int]:
    return (n for n in range(3))


def return_lock() -> Any:
    return threading.Lock()


def return_connection() -> Any:
    return sqlite3.connect(":memory:")


def return_socket() -> Any:
    return socket.socket()


def return_lambda() -> Callable[[int], int]:
    return lambda n: n + 1


def return_local(n: int) -> Any:
    """An object of a class that only this call knows, and a closure."""

    class Local:
        def __init__(self) -> None:
            self.value = n

        def __call__(self, more: int) -> int:
            return self.value + more

    return Local()


def call(value: Callable[[int], int], n: int) -> int:
    return value(n)


def return_large(size: int) -> bytearray:
    """That many bytes, all of them touched; says at the end how much memory this process had at most."""
    found = bytearray(b"\1") * size
    atexit.register(note_peak, "made")
    return found


def take_large(value: bytearray) -> int:
    atexit.register(note_peak, "taken")
    return len(value) * value[0] * value[-1]


def note_peak(name: str) -> None:
    from steplib import stamp

    stamp(name, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def return_deep_list() -> Any:
    soft = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, soft))
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


def return_surrogates() -> str:
    return "half \ud800 a sign"


def return_huge_number() -> int:
    return 10**5000


def return_not_a_number() -> float:
    return float("nan")


def return_bytes(size: int) -> bytes:
    return b"s" * size


class Hostile:
    def __reduce__(self) -> Any:
        raise RuntimeError("cannot be packed")


def return_hostile() -> Any:
    return Hostile()


# -- hangs --------------------------------------------------------------------------------------------------------------


def ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


def hang_in_c() -> None:
    ctypes.PyDLL(None).sleep(60)  # keeps the interpreter lock


def threads_that_never_end() -> int:
    threading.Thread(target=threading.Event().wait).start()
    return 7


def exit_handler_that_never_ends() -> int:
    def stay() -> None:
        while True:
            try:
                time.sleep(60)
            except BaseException:
                continue

    atexit.register(stay)
    return 8


def exit_handler_that_hangs_in_c() -> int:
    """No signal ends the wait, and the interpreter lock is kept: no Python code can run any more."""
    mutex, libc = ctypes.create_string_buffer(256), ctypes.PyDLL(None)
    libc.pthread_mutex_lock(mutex)
    atexit.register(lambda: libc.pthread_mutex_lock(mutex))
    return 9


def exit_handler_that_sleeps_in_c() -> int:
    atexit.register(lambda: ctypes.PyDLL(None).sleep(60))  # a signal ends it
    return 13


def exit_handler_that_fails() -> int:
    atexit.register(lambda: 1 / 0)
    return 10


def exit_handler_that_speaks() -> int:
    atexit.register(print, "said at the end")
    return 11


# -- descendants --------------------------------------------------------------------------------------------------------


def breed() -> int:
    """Start one of each kind; their process ids are in the file ``brood``."""
    from steplib import stamp

    subprocess.Popen(["sleep", "61"])
    subprocess.Popen(["sleep", "62"], start_new_session=True)
    subprocess.run(["sh", "-c", "sleep 63 &"], check=True)
    subprocess.run(["sh", "-c", "trap '' TERM; setsid sh -c \"trap '' TERM; sleep 64\" &"], check=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stamp("brood")
        while True:
            signal.pause()
    return 1


def breed_and_stay() -> None:
    breed()
    signal.pause()


def breed_and_fail() -> None:
    breed()
    raise ValueError("failed with a brood")


# -- a wrecked process --------------------------------------------------------------------------------------------------


def wreck(closing: bool) -> int:
    import random
    import tempfile

    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)
    os.umask(0)
    os.environ.clear()
    os.environ["WRECKED"] = "1"
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.path.clear()
    random.random = None  # type: ignore[assignment]
    print("kept")
    sys.stdout.flush()
    if closing:
        for descriptor in (0, 1, 2):
            os.close(descriptor)
    else:
        sys.stdout = sys.stderr = None  # type: ignore[assignment]
    return 12


def wreck_and_fail(closing: bool) -> None:
    wreck(closing)
    raise ValueError("wrecked")


def look_around() -> dict[str, Any]:
    import random

    mask = os.umask(0)
    os.umask(mask)
    return {
        "wrecked": os.environ.get("WRECKED"),
        "cwd": os.getcwd(),
        "umask": mask,
        "ignored": [str(n) for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM) if signal.getsignal(n) != signal.SIG_DFL],
        "path": len(sys.path) > 1,
        "patched": random.random is None,
        "stdout": os.path.basename(os.readlink("/proc/self/fd/1")),
    }


# -- output and reports -------------------------------------------------------------------------------------------------


def write_without_line_ends(megabytes: int) -> int:
    """Bytes that are no text, with NULs, and not one line end."""
    piece = (bytes(byte for byte in range(256) if byte != 10) + b"x" * 3_841) * 256
    for _ in range(megabytes):
        os.write(1, piece)
    return 1


def report_from_everywhere(processes: int, points: int) -> int:
    """A fork pool reports while a thread of the parent does."""
    import multiprocessing

    from minipipe import Logger

    def go_on() -> None:
        number = 0
        while not done.is_set() or number < points:
            Logger.current_logger().report_scalar("parent", "thread", float(number), number)
            number += 1
        told.append(number)

    Logger.current_logger()  # imports what it needs; a fork in the middle of an import is a trouble of Python's own
    done, told = threading.Event(), list[int]()
    thread = threading.Thread(target=go_on)
    thread.start()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        pool.starmap(report_some, [(number, points) for number in range(processes * 2)], chunksize=1)
    done.set()
    thread.join()
    return told[0]


def report_some(number: int, points: int) -> None:
    from minipipe import Logger

    for place in range(points):
        Logger.current_logger().report_scalar("child", str(number), float(place), place)


# -- facts --------------------------------------------------------------------------------------------------------------


def open_descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
    return found


def draw() -> list[float]:
    import random

    import numpy as np

    return [random.random(), float(np.random.rand())]


def draw_unseeded() -> list[float]:
    import numpy as np

    return [float(np.random.default_rng().random()), float(np.random.rand())]


def open_many() -> int:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
    kept = [open("/dev/null") for _ in range(100)]  # noqa: SIM115
    return len(kept)


def write_bytes() -> int:
    os.write(1, bytes(range(256)) + b"\x00\xff" * 10)
    os.write(2, b"no newline at the end")
    print("half \ud800 a sign")
    return 1


def oom_scores() -> list[str]:
    """Of this process, of the one that started it, and of the one above."""
    above = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
    return [Path(f"/proc/{pid}/oom_score_adj").read_text().strip() for pid in ("self", os.getppid(), above)]


def threads_of_host() -> int:
    return len(os.listdir(f"/proc/{os.getppid()}/task"))


# -- kills that are meant -----------------------------------------------------------------------------------------------


def kill_parent_once() -> int:
    """At the first try, kill the process that started this one."""
    from steplib import stamp

    stamp("kills")
    if Path("kills").read_text().count("\n") == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()
    return 1


def kill_group_once() -> int:
    """At the first try, kill the own process group."""
    from steplib import stamp

    stamp("kills")
    if Path("kills").read_text().count("\n") == 1:
        os.killpg(0, signal.SIGKILL)
    return 1


# -- inputs that are attacked -------------------------------------------------------------------------------------------


def write_into_input(value: bytes) -> int:
    """Make every stored file writable and change it; how many that were."""
    assert value
    changed = 0
    for path in Path(os.environ["MINIPIPE_HOME"], "blobs").glob("*/*"):
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(b"X")
            changed += 1
    return changed


def return_array(size: int) -> Any:
    import numpy as np

    return np.arange(size)


def write_into_array(value: Any) -> int:
    """Into the array, and into the file behind it if there is one to be had."""
    value[0] = 99
    value += 1
    base = value
    while getattr(base, "base", None) is not None:
        base = base.base
    memoryview(getattr(base, "obj", base)).cast("B")[:8] = b"x" * 8
    return int(value[1])


def sum_of(value: Any) -> int:
    return int(value.sum())


def return_file(size: int) -> Path:
    path = Path("made.bin")
    path.write_bytes(b"f" * size)
    return path


def write_into_file(value: Path) -> int:
    value.chmod(0o600)
    with value.open("r+b") as file:
        file.write(b"X")
    return len(value.read_bytes())


def first_of(value: Path) -> str:
    return value.read_bytes()[:1].decode()
