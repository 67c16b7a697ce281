"""Who belongs to an attempt: found after setsid, a double fork and without exec; never anybody else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minipipe.chance import fresh_id
from minipipe.engine import tree
from tests.engine.real import ROOT, gone

_BRANDED = """
import os, signal, subprocess, sys, time
from minipipe.engine import tree
os.setsid()
tree.brand(sys.argv[1])
say = lambda: os.write(1, f"{{os.getpid()}}\\n".encode())
say()
{body}
signal.pause()
"""
BODIES = {
    "a plain child": "subprocess.Popen(['sleep', '60'])",
    "a child in a session of its own": "subprocess.Popen(['sleep', '60'], start_new_session=True)",
    "a fork without exec": "os.fork()",
    "a forked daemon": "if os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)",
    "an exec'd daemon": "subprocess.run(['sh', '-c', 'setsid sleep 60 & exit 0'])",
    "one that cleared its environment but stays a child": "subprocess.Popen(['sleep', '60'], env={}, start_new_session=True)",
    "one that cleared its environment but stays in the group": "subprocess.run(['sh', '-c', 'env -i sleep 60 &'])",
}


def settled(pid: int) -> bool:
    """True of what stays: not of a shell or an `env` on its way."""
    return Path(f"/proc/{pid}/comm").read_text().strip() not in ("sh", "env", "setsid")


@pytest.fixture
def branded(wait_for: Callable[..., None]) -> Iterator[Callable[[str, str, int], subprocess.Popen[bytes]]]:
    """Start a process that carries a token, with `count` members in all, or any number if that is 0; it and they are killed at the end."""
    made: list[tuple[subprocess.Popen[bytes], str]] = []

    def start(token: str, body: str, count: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), tree.TOKEN_VARIABLE: tree.NO_TOKEN}
        process = subprocess.Popen(
            [sys.executable, "-c", _BRANDED.format(body=body), token], env=environment, stdout=subprocess.PIPE
        )
        made.append((process, token))
        if count:
            wait_for(lambda: len(tree.members([token])) == count and all(settled(pid) for pid in tree.members([token])))
        return process

    yield start
    for process, token in made:
        tree.kill_all([token])
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_every_descendant_is_a_member_and_dies_with_kill_all(branded: Callable[..., subprocess.Popen[bytes]], body: str) -> None:
    token = fresh_id()
    process = branded(token, body, 2)
    found = tree.members([token])
    assert process.pid in found
    tree.kill_all([token])
    assert all(gone(pid) for pid in found)


def test_the_token_shows_in_the_environment_of_a_forked_daemon(branded: Callable[..., subprocess.Popen[bytes]]) -> None:
    token = fresh_id()
    process = branded(token, BODIES["a forked daemon"], 2)
    (daemon,) = tree.members([token]) - {process.pid}
    assert f"{tree.TOKEN_VARIABLE}={token}".encode() in Path(f"/proc/{daemon}/environ").read_bytes().split(b"\0")


def test_other_attempts_and_this_process_are_never_members(branded: Callable[..., subprocess.Popen[bytes]]) -> None:
    mine, other = fresh_id(), fresh_id()
    neighbour = branded(other, "", 1)
    branded(mine, BODIES["a plain child"], 2)
    os.environ[tree.TOKEN_VARIABLE] = mine
    tree.kill_all([mine])
    assert not gone(neighbour.pid)
    assert os.getpid() not in tree.members([mine, other])


def test_a_group_whose_leader_is_gone_is_not_taken_for_the_attempts(
    branded: Callable[..., subprocess.Popen[bytes]],
) -> None:
    # The number of a dead leader may name somebody else's group by now.
    token = fresh_id()
    process = branded(token, "subprocess.Popen(['env', '-i', 'sleep', '60'])", 2)
    (stranger,) = tree.members([token]) - {process.pid}
    process.kill()
    process.wait(10)
    assert tree.members([token]) == set()
    os.kill(stranger, signal.SIGKILL)


def test_nobody_is_a_member_of_no_attempt() -> None:
    assert tree.members([]) == set()
    tree.kill_all([])


def test_a_token_of_another_length_is_not_written_over_the_environment() -> None:
    code = (
        "import os; from minipipe.engine import tree; tree.brand('x' * 500);"
        "print(open('/proc/self/environ').read().count('x' * 40), len(os.environ[tree.TOKEN_VARIABLE]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), tree.TOKEN_VARIABLE: tree.NO_TOKEN}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=20)
    assert done.stdout.split() == [b"0", b"500"]


def test_a_process_whose_parent_is_gone_already_ends_at_once() -> None:
    code = "import os; from minipipe.engine import tree; tree.die_with_parent(os.getppid() + 1); print('alive')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_process_that_forks_all_the_time_does_not_slip_through(
    branded: Callable[..., subprocess.Popen[bytes]],
) -> None:
    body = (
        "import threading\n"
        "while True:\n"
        "    for _ in range(5): subprocess.Popen(['sleep', '0.05'], env={})\n"
        "    time.sleep(0.001)\n"
        "    while True:\n"
        "        try:\n"
        "            if os.waitpid(-1, os.WNOHANG)[0] == 0: break\n"
        "        except ChildProcessError: break"
    )
    token = fresh_id()
    process = branded(token, body, 0)
    seen: set[int] = set()
    end = time.monotonic() + 10
    while len(seen) < 10:
        assert time.monotonic() < end
        seen |= tree.members([token])
    found = tree.strike([token])
    assert process.pid in found
    process.wait(10)
    assert tree.members([token]) == set()
    assert all(gone(pid) for pid in found)
