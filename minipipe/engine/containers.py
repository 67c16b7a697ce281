"""Steps in containers: where the setting ``containers`` names a program that answers, a step that names an image runs in it.

A container is one attempt, and its life is that of the program's client: the spec goes in by its standard input, the outcome comes
back by its standard output, so the worker sees a child like any other. The store is mounted where it is, its blobs read-only; so is
minipipe itself, with the packages that it needs. The image brings Python (the version of the worker's) and everything else.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from minipipe.engine import child, environments, protocol, start, tree
from minipipe.engine.hosting import Child, Ended
from minipipe.store.home import Store

_ANSWER_S = 10.0
_BAD_START = 125  # what docker and podman exit with if the container could not be started


@functools.cache
def answers(program: str) -> bool:
    """True if a container engine can be reached; asked once per process."""
    try:
        done = subprocess.run([program, "version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class ContainerHost:
    """Starts a container for each attempt; for the worker it is a step host that never has anybody in reserve.

    Args:
        store: the worker's store.
        program: "docker" or "podman".
        image: what the containers are made of.
        arguments: of ``run``, as one text.
        setup: shell script that runs first in the container.
    """

    channel: protocol.Channel | None = None
    ready = True
    lost = False

    def __init__(self, store: Store, program: str, image: str, arguments: str, setup: str) -> None:
        self.store = store
        self.program = program
        self.image = image
        self.arguments = shlex.split(arguments)
        self.setup = setup
        self.warming: set[str] = set()
        self._clients: dict[int, tuple[subprocess.Popen[bytes], str]] = {}

    @property
    def pids(self) -> set[int]:
        """Clients that somebody waits for here."""
        return set(self._clients)

    def warm(self, imports: Iterable[str]) -> None:
        """Nothing is warm in a container."""

    def take(self, claim: Any) -> Child | None:
        """Start a container for a claimed task."""
        ours, theirs = socket.socketpair()
        name = f"minipipe-{claim.lease.token[:16]}"
        log = self.store.log_path(claim.lease.uid, claim.lease.attempt)
        log.parent.mkdir(mode=0o700, exist_ok=True)
        with open(log, "ab") as file, theirs:
            os.chmod(log, 0o600)
            client = subprocess.Popen(
                self.command(name, claim.entry),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=file,
                env={**os.environ, tree.TOKEN_VARIABLE: claim.lease.token, tree.STORE_VARIABLE: self.store.store_id},
                start_new_session=True,
            )
        self._clients[client.pid] = client, name
        return Child(client.pid, ours.detach())

    def command(self, name: str, entry: dict[str, Any]) -> list[str]:
        """The command line of one container."""
        home = str(self.store.path)
        bridge = environments.bridge(self.store.path / "envs")
        folders = {str(Path(entry["cwd"])), *map(str, entry.get("roots", ()))}
        read_only = {f"{home}/blobs", str(start.PACKAGE), str(bridge), *map(os.path.realpath, map(str, bridge.iterdir()))}
        mounts = [f"{each}:{each}" for each in sorted({home, *folders})] + [f"{each}:{each}:ro" for each in sorted(read_only)]
        python = ["python3", *start.command(__name__, "main", home)[1:]]
        first = ["/bin/sh", "-c", f'{{ {self.setup}\n}} </dev/null 1>&2 && exec "$@"', "sh"] if self.setup else []
        return [
            *(self.program, "run", "--rm", "--interactive", "--init", "--name", name),
            *("--user", f"{os.geteuid()}:{os.getegid()}", "--workdir", entry["cwd"]),
            *(word for mount in mounts for word in ("--volume", mount)),
            *("--env", f"{tree.TOKEN_VARIABLE}={tree.NO_TOKEN}", "--env", f"{start.BRIDGE_VARIABLE}={bridge}"),
            *("--env", f"MINIPIPE_HOME={home}"),
            *self.arguments,
            self.image,
            *first,
            *python,
        ]

    def events(self) -> list[Ended]:
        """Containers that ended since the last call."""
        found = []
        for pid, (client, name) in list(self._clients.items()):
            code = client.poll()
            if code is None:
                continue
            del self._clients[pid]
            if code < 0:
                self._remove(name)  # a client that is killed leaves its container behind
            status = -code if code < 0 else (code & 0xFF) << 8
            found.append(Ended(pid, status, True))
        return found

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([self.program, "rm", "--force", name], capture_output=True, timeout=_ANSWER_S, check=False)

    def kill(self) -> None:
        """End all containers at once."""
        for client, name in self._clients.values():
            client.kill()
            client.wait()
            self._remove(name)
        self._clients.clear()

    def close(self) -> None:
        """There is nothing in reserve."""
        self.kill()


def main(home: str) -> NoReturn:
    """Entry point inside the container: one attempt, by standard input and output."""
    line = os.dup(1)
    os.dup2(2, 1)  # what is printed before the log is open must not get into the outcome
    unpacker = protocol.Unpacker()
    while (frame := unpacker.next()) is None:
        data = os.read(0, 1 << 18)
        if not data:
            os._exit(0)
        unpacker.feed(data)
    source = os.dup(0)
    threading.Thread(target=_end_with_client, args=(source,), daemon=True).start()
    if sys.version_info[:2] != tuple(frame[0]["python"]):
        wanted, here = (".".join(map(str, version)) for version in (frame[0]["python"], sys.version_info[:2]))
        print(f"minipipe: the image has Python {here}, the step needs {wanted}", file=sys.stderr, flush=True)
        os._exit(1)
    child.prepare(Path(home))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    child.main(*frame, line)


def _end_with_client(source: int) -> None:
    """The client holds the other end of standard input: if it is gone, so is the worker, and nobody waits for this step."""
    with contextlib.suppress(OSError):
        while os.read(source, 1 << 16):
            pass
    os._exit(1)
