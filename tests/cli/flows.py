"""Scripts that tests run, the command as a real process, and a look at the process table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minipipe.store.home import Store

MINIPIPE = (sys.executable, "-m", "minipipe")
PATIENCE_S = 60.0

# Every step notes that it ran: what a test counts is executions, not words about them.
HEAD = """
import os, sys, signal, threading, time
from minipipe import PipelineDecorator

def note(text):
    with open("ran.txt", "a") as file:
        file.write(text + "\\n")

def wait_for_file(path):
    while not os.path.exists(path):
        time.sleep(0.01)
"""

CHAIN = (
    HEAD
    + """
@PipelineDecorator.component(return_values=["a"])
def first(n):
    note("first")
    print("first prints", n)
    return n + 1

@PipelineDecorator.component(return_values=["b"])
def second(a):
    note("second")
    return a * 10

@PipelineDecorator.pipeline(name="chain", project="tests", version="1.0")
def chain(n=1, word="none"):
    print("result", int(second(first(n))), repr(word))
"""
)

START = "\nif __name__ == '__main__':\n    chain()\n"
LOCALLY = "\nif __name__ == '__main__':\n    PipelineDecorator.run_locally()\n    chain()\n"

# `first` completes, `second` fails unless a file is there, `third` needs it.
BREAKING = (
    HEAD
    + """
@PipelineDecorator.component(return_values=["a"])
def first(n):
    note("first")
    return n + 1

@PipelineDecorator.component(return_values=["b"])
def second(a):
    note("second")
    print("almost there")
    if not os.path.exists("fixed"):
        raise ValueError("not fixed yet")
    return a * 10

@PipelineDecorator.component(return_values=["c"])
def third(b):
    note("third")
    return b + 1

@PipelineDecorator.pipeline(name="chain", project="tests", version="1.0")
def chain(n=1):
    b = second(first(n))
    c = third(b)
    print("result", int(b), int(c))
"""
)

# `second` runs until it is ended, or until a file is there.
HANGING = (
    HEAD
    + """
@PipelineDecorator.component(return_values=["a"])
def first(n):
    note("first")
    return n + 1

@PipelineDecorator.component(return_values=["b"])
def second(a):
    {prelude}
    note("second")
    wait_for_file("go")
    return a * 10

@PipelineDecorator.pipeline(name="chain", project="tests", version="1.0")
def chain(n=1):
    print("result", int(second(first(n))))
"""
)


def hanging(prelude: str = "pass") -> str:
    """`HANGING` with a first statement for its second step."""
    return HANGING.replace("{prelude}", prelude)


def write(text: str, name: str = "flow.py") -> str:
    """Write a script into the current folder; returns its name."""
    Path(name).write_text(text)
    return name


def ran() -> list[str]:
    """What steps noted, in order."""
    path = Path("ran.txt")
    return path.read_text().split() if path.exists() else []


def command(*words: str, check: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; `check` is the exit code that it must have."""
    done = subprocess.run(
        (*MINIPIPE, *words),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE_S,
        env={**os.environ, **environment},
        check=False,
    )
    assert check is None or done.returncode == check, done
    return done


def begin(*words: str) -> subprocess.Popen[str]:
    """Start the command."""
    return subprocess.Popen(
        (*MINIPIPE, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", stdin=subprocess.DEVNULL
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until something holds; fails if it never does, or if `process` ends before."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "never came true"
        if process is not None and process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.communicate()}")
        time.sleep(0.01)


def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str, str]:
    """Signal a process and wait for its end: (exit code, stdout, stderr)."""
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def processes() -> set[int]:
    """Living processes that belong to the store of the current folder."""
    mark = f"MINIPIPE_HOME={Path.cwd() / '.minipipe'}\0".encode()
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in (Path("/proc") / pid / "environ").read_bytes() + b"\0":
                found.add(int(pid))
        except OSError:
            continue
    return found - {os.getpid()}


def facts(sql: str) -> list[tuple[object, ...]]:
    """Rows of a SELECT on the store of the current folder."""
    store = Store.open(Path.cwd() / ".minipipe", create=False)
    try:
        return [tuple(row) for row in store.database.rows(sql)]
    finally:
        store.close()


def agents() -> list[int]:
    """Process ids of the workers that are registered as running."""
    if not Path(".minipipe/minipipe.db").exists():
        return []
    return [int(str(row[0])) for row in facts("SELECT pid FROM worker WHERE kind = 'agent' AND ended_at IS NULL")]
