"""What a fault needs of the machine: the command as a process, file systems of our own, the tools of root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.engine.real import ROOT


def command(
    store: Path,
    *arguments: str,
    timeout: float = 60,
    before: tuple[str, ...] = (),
    stdin: bytes | None = None,
    **environment: str,
) -> subprocess.CompletedProcess[bytes]:
    """A real ``minipipe`` on that store.

    Args:
        store: its ``--home``.
        arguments: the verb and its arguments.
        timeout: seconds.
        before: a program to run it under (``strace``, ``setpriv``).
        stdin: what it reads; default nothing.
        environment: more variables.
    """
    return subprocess.run(
        [*before, sys.executable, "-m", "minipipe", "--home", str(store), *arguments],
        capture_output=True,
        timeout=timeout,
        check=False,
        input=stdin or b"",
        cwd=store.parent if store.parent.is_dir() else "/",
        env=surroundings(**environment),
    )


def surroundings(**environment: str) -> dict[str, str]:
    """The environment of a process under test: no settings from outside, nothing synced, and these variables."""
    outside = {key: value for key, value in os.environ.items() if not key.startswith("MINIPIPE_")}
    path = os.pathsep.join([*([environment["PYTHONPATH"]] if "PYTHONPATH" in environment else []), str(ROOT)])
    return {**outside, "MINIPIPE_DURABILITY": "fast", **environment, "PYTHONPATH": path}


def _lack(what: str) -> NoReturn:
    """Skip; fail where the build says that the machine has everything (``FAULTS=required``). What the kernel refuses always skips."""
    if os.environ.get("FAULTS") == "required":
        pytest.fail(f"needs {what}, and this run has to show everything")
    pytest.skip(f"needs {what}")


def need_root() -> None:
    """Skip where we are not root."""
    if os.geteuid() != 0:
        _lack("root")


def need(*tools: str) -> None:
    """Skip where a program is missing."""
    for tool in tools:
        if shutil.which(tool) is None:
            _lack(tool)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the kernel refuses a mount: {done.stderr.decode().strip()}")


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A file system in memory of that size, mounted while this is open."""
    need_root()
    folder.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Change a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def free_bytes(folder: Path) -> int:
    """Bytes that are left there."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def fill(folder: Path, leave: int = 0) -> Path:
    """A file that leaves only so many bytes."""
    path = folder / "filler"
    with contextlib.suppress(OSError), open(path, "wb") as file:  # a disk that somebody else filled first has no room for a name
        while (left := free_bytes(folder) - leave) > 0:
            file.write(b"\0" * min(left, 1 << 20))
            file.flush()
    return path
