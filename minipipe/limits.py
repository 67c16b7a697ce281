"""What a step may take from the machine: memory, CPU time, priority."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from minipipe.errors import UsageError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one attempt; None or 0 for none.

    Attributes:
        memory_mb: private writable memory of each process of the step, in MiB (Linux: ``RLIMIT_DATA``).
        cpu_s: CPU seconds of each process.
        nice: added to the niceness: 1 to 19 make it give way to others.
    """

    memory_mb: float | None = None
    cpu_s: float | None = None
    nice: int | None = None

    def __bool__(self) -> bool:
        return bool(self.memory_mb or self.cpu_s or self.nice)

    def facts(self) -> dict[str, Any]:
        """As data, for a task's entry; what is not limited is left out."""
        return {name: value for name, value in asdict(self).items() if value}


def checked(owner: str, memory_mb: float | None, cpu_s: float | None, nice: int | None) -> Limits:
    """Limits as somebody gave them.

    Raises:
        UsageError: one is no number or out of its range; names owner and limit.
    """
    for name, value, least, most in (
        ("memory_limit_mb", memory_mb, 16, 1e9),
        ("cpu_limit_s", cpu_s, 1, 1e9),
        ("nice", nice, 0, 19),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most):
            raise UsageError(f"{owner}: {name}={value!r} cannot be used", f"it is a number from {least} to {most:.0f}")
    return Limits(memory_mb, cpu_s, None if nice is None else int(nice))


def apply(limits: Mapping[str, Any]) -> None:
    """Put limits on this process and on those that it will start."""
    if limits.get("memory_mb"):
        size = int(limits["memory_mb"] * (1 << 20))
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    if limits.get("cpu_s"):
        seconds = max(1, round(limits["cpu_s"]))
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # first SIGXCPU, which says why; then SIGKILL
    if limits.get("nice"):
        with contextlib.suppress(OSError):
            os.nice(int(limits["nice"]))


def words(limits: Mapping[str, Any], kind: str) -> str:
    """What to add to a failure of that kind (a signal or an exception), "" if no limit explains it."""
    if kind == "MemoryError" and limits.get("memory_mb"):
        return f" (its memory limit is {limits['memory_mb']:g} MB)"
    if kind == "SIGXCPU" and limits.get("cpu_s"):
        return f": it used up its CPU limit of {limits['cpu_s']:g} s"
    return ""
