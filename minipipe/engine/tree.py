"""The processes of an attempt: found by group, by descent and by the token in their environment; ended for good.

A step may leave its group (setsid), outlive its parents (double fork) or ignore SIGTERM; it cannot shed the environment it was
started with. So the token is written into the environment in place, where the kernel shows it to others (`brand`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

TOKEN_VARIABLE = "MINIPIPE_ATTEMPT"
STORE_VARIABLE = "MINIPIPE_STORE_ID"
NO_TOKEN = "0" * 32
_PROC = Path("/proc")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    return bool(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0)


def die_with_parent(parent: int) -> None:
    """Arrange that this process is killed when its parent dies; exit at once if it has died already.

    The signal is armed by the child itself, after fork and after exec (it is not inherited), and the parent is checked again
    afterwards: it may have died in between (containers/bubblewrap#700).
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end (Linux; elsewhere they go to init)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def brand(token: str) -> None:
    """Write the attempt's token over the one this process was started with.

    What others can read (``/proc/PID/environ``) is the memory given at exec; ``os.environ[...] = x`` does not change it, and a
    forked daemon would go on showing the host's value. The host is started with 32 zeros, so the length is always the same.
    """
    if _branded and len(token) == len(NO_TOKEN):
        ctypes.memmove(_branded, token.encode(), len(token))
    os.environ[TOKEN_VARIABLE] = token


def _token_address() -> int:
    _libc.getenv.restype = ctypes.c_void_p
    address = _libc.getenv(TOKEN_VARIABLE.encode()) or 0
    return address if address and len(ctypes.string_at(address)) == len(NO_TOKEN) else 0


_branded = _token_address()  # looked up once, before any fork: os.environ writes may move the variable elsewhere


def _environment(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return b""


def _stat(pid: int) -> tuple[str, int, int] | None:
    """(state, parent, group) of a process, None if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0].decode(), int(fields[1]), int(fields[2])


def _processes() -> dict[int, tuple[str, int, int]]:
    found = {}
    for name in os.listdir(_PROC):
        if name.isdigit() and (facts := _stat(int(name))) is not None:
            found[int(name)] = facts
    return found


def members(tokens: Collection[str]) -> set[int]:
    """Living processes of attempts: all that carry one of the tokens, the groups that their children lead, and all descendants.

    A group counts only while its leader carries a token: its number may belong to somebody else by now.

    Returns:
        Process ids, this process never among them. Zombies are not counted.
    """
    needles = [f"{TOKEN_VARIABLE}={token}".encode() for token in tokens]
    table = _processes()
    found = {pid for pid, (state, _, _) in table.items() if state != "Z" and any(n in _environment(pid) for n in needles)}
    groups = {table[pid][2] for pid in found} & found
    found |= {pid for pid, (state, _, group) in table.items() if group in groups and state != "Z"}
    while True:
        more = {pid for pid, (state, parent, _) in table.items() if parent in found and pid not in found and state != "Z"}
        if not more:
            return found - {os.getpid()}
        found |= more


def send(pids: Iterable[int], number: signal.Signals) -> None:
    """Signal processes; those that are gone are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def strike(tokens: Collection[str]) -> set[int]:
    """Kill the processes of attempts; return those that were found.

    They are stopped first, until a look finds no more: a stopped process forks nothing that would slip through, and as long as
    it is there its group and its descendants are known by it, also those that cleared their environment.
    """
    found: set[int] = set()
    while more := members(tokens) - found:
        send(more, signal.SIGSTOP)
        found |= more
    send(found, signal.SIGKILL)
    return found


def kill_all(tokens: Collection[str]) -> None:
    """Kill the processes of attempts and return when two looks in a row find none."""
    quiet = 0
    while quiet < 2:
        quiet = 0 if strike(tokens) else quiet + 1


def bury(but: Collection[int]) -> None:
    """Collect ended children that nobody waits for: orphans that this process adopted.

    Args:
        but: children that somebody does wait for.
    """
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in but:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)


class Family:
    """This (single-threaded) process's children, adopted orphans included."""

    def __init__(self) -> None:
        self._descriptor = -1  # kept open: a look then costs 10 microseconds
        if _PROC.is_dir():
            self._descriptor = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)

    def children(self) -> set[int]:
        """Their process ids; empty where unknown."""
        if self._descriptor < 0:
            return set()
        return set(map(int, os.pread(self._descriptor, 1 << 16, 0).split()))


def threads_and_descriptors() -> tuple[int, int]:
    """How many threads this process has and how many descriptors are open (0, 0 where unknown)."""
    try:
        return len(os.listdir(_PROC / "self" / "task")), len(os.listdir(_PROC / "self" / "fd"))
    except OSError:
        return 0, 0
