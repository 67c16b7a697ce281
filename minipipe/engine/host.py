"""The step host: one process that forks a child per attempt and keeps their imports warm.

It is exec'd by its worker, so that it inherits no lock and no database state; it runs one thread, holds no lock and never opens
the database, because a fork copies all of that into a child where it is wrong. It waits for its children and sends each
child's outcome and exit status to the worker. If the worker dies, the kernel kills the host and the host's children with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minipipe.engine import child, tree
from minipipe.engine.protocol import Channel, Frame
from minipipe.store import database

# Their import adds threads that are known to survive a fork (OpenBLAS rebuilds its pool, tested with numpy).
_FORK_SAFE = frozenset({"minipipe", "numpy", "scipy", "pandas", "sklearn", "joblib"})
_ALWAYS_NEEDED = ("cloudpickle",)


@dataclass(slots=True)
class _Child:
    """A forked process: first a spare that waits for its spec, then an attempt."""

    pid: int
    spec: int  # descriptor to write the spec to
    pipe: int  # descriptor to read the outcome from, -1 once it is closed
    token: str = ""
    outcome: bytearray = field(default_factory=bytearray)


class Host:
    """Serves one worker until the worker's end of the channel closes."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.attempts: dict[int, _Child] = {}
        self.spare: _Child | None = None
        self.wakeup, signal_pipe = os.pipe()
        for descriptor in (self.wakeup, signal_pipe):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(signal_pipe, warn_on_full_buffer=False)
        self.family = tree.Family()
        self.dropped: set[int] = set()
        self.refused: set[str] = set()
        self.probing: dict[int, str] = {}
        self.wanted: list[str] = []

    def run(self) -> None:
        """Take commands until the worker is gone."""
        self.channel.send({"event": "ready", "pid": os.getpid()})
        while not self.channel.closed:
            pipes = {attempt.pipe: attempt for attempt in self.attempts.values() if attempt.pipe >= 0}
            idle = self.spare is None or bool(self.wanted and not self.attempts)
            readable, _, _ = select.select([self.channel, self.wakeup, *pipes], [], [], 0 if idle else None)
            for descriptor in readable:
                if isinstance(descriptor, int) and descriptor in pipes:
                    self._drain(pipes[descriptor])
            if self.wakeup in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wakeup, 4096)
                self._reap()
            if self.channel in readable:
                for frame in self.channel.receive():
                    self._command(frame)
            if idle and not readable:
                self._use_the_pause()

    def _use_the_pause(self) -> None:
        """Nothing to do: fork the next child before it is needed, which takes the fork out of every step's way."""
        if self.spare is None:
            self.spare = self._fork()
        elif self.wanted and not self.attempts:
            self._warm_one()

    def _command(self, frame: Frame) -> None:
        head, payloads = frame
        for name in head["imports"]:
            self._consider(name)
        self._start(head["token"], payloads[0])

    # -- attempts -----------------------------------------------------------------------------------------------------

    def _start(self, token: str, spec: bytes) -> None:
        """Hand a spec, as it came, to the spare child."""
        while True:
            one, self.spare = self.spare or self._fork(), None
            try:
                _write_all(one.spec, spec)
                break
            except BrokenPipeError:  # somebody killed the spare; it never was an attempt
                os.close(one.pipe)
            finally:
                os.close(one.spec)
        one.token = token
        self.attempts[one.pid] = one

    def _fork(self) -> _Child:
        spec_reader, spec_writer = os.pipe()
        reader, writer = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            # Nothing may return from here: two processes would run the loop above.
            try:
                signal.set_wakeup_fd(-1)
                os.close(spec_writer)  # or the end of the host would not be the end of the spec
                child.stand_by(spec_reader, writer, parent)
            finally:
                os._exit(70)
        os.close(spec_reader)
        os.close(writer)
        os.set_blocking(reader, False)
        return _Child(pid, spec_writer, reader)

    def _drop_spare(self) -> None:
        """A spare that was forked before an import does not have it: let it go (it ends at the end of its spec)."""
        if self.spare is not None:
            os.close(self.spare.spec)
            os.close(self.spare.pipe)
            self.dropped.add(self.spare.pid)
            self.spare = None

    def _drain(self, attempt: _Child) -> None:
        while attempt.pipe >= 0:
            try:
                data = os.read(attempt.pipe, 1 << 18)
            except BlockingIOError:
                return
            if not data:
                os.close(attempt.pipe)
                attempt.pipe = -1
                if attempt.outcome:  # passed on at once; the process's end follows
                    self.channel.send({"event": "outcome", "token": attempt.token}, [bytes(attempt.outcome)])
                return
            attempt.outcome += data
            if len(attempt.outcome) > child.OUTCOME_LIMIT_BYTES:
                del attempt.outcome[child.OUTCOME_LIMIT_BYTES + 1 :]  # one byte too many says so; the rest is read and dropped

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.probing:
                self._probed(self.probing.pop(pid), status)
            attempt = self.attempts.pop(pid, None)
            if attempt is None:
                self.dropped.discard(pid)
                continue  # a dropped spare or an adopted orphan
            self._drain(attempt)
            if attempt.pipe >= 0:  # a grandchild still holds the other end
                os.close(attempt.pipe)
                if attempt.outcome:
                    self.channel.send({"event": "outcome", "token": attempt.token}, [bytes(attempt.outcome)])
            known = {*self.attempts, *self.probing, self.spare.pid if self.spare else 0, *self.dropped}
            strangers = self.family.children() - known
            self.channel.send({"event": "ended", "token": attempt.token, "status": status, "survivors": bool(strangers)})

    # -- warm imports -------------------------------------------------------------------------------------------------

    def _consider(self, name: str) -> None:
        """Import what a step will need before it is forked, if that is known to be safe; else find out when idle."""
        if name in sys.modules or name in self.refused or name in self.wanted:
            return
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in _FORK_SAFE:
            self._import(name)
        elif name not in self.probing.values():
            self.wanted.append(name)

    def _import(self, name: str) -> None:
        try:
            importlib.import_module(name)
        except BaseException:  # the step will meet the same error, where it can be shown
            self.refused.add(name)
        else:
            self._drop_spare()
            gc.collect()
            gc.freeze()  # children then share these pages: the collector does not write into them

    def _warm_one(self) -> None:
        """Try an import in a child first: a thread or an open file that it leaves behind would be in every later child."""
        name = self.wanted.pop(0)
        pid = os.fork()
        if pid == 0:
            clean = 1
            try:
                signal.set_wakeup_fd(-1)
                os.dup2(os.open(os.devnull, os.O_RDWR), 1)
                os.dup2(1, 2)
                before = tree.threads_and_descriptors()
                importlib.import_module(name)
                clean = int(tree.threads_and_descriptors() != before)
            finally:
                os._exit(clean)
        self.probing[pid] = name

    def _probed(self, name: str, status: int) -> None:
        if status == 0 and not self.attempts:
            self._import(name)
        elif status == 0:
            self.wanted.append(name)
        else:
            self.refused.add(name)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def main(descriptor: int, parent: int) -> None:
    """Entry point of the host process.

    Args:
        descriptor: its end of the socket pair.
        parent: process id of the worker.
    """
    tree.die_with_parent(parent)
    tree.adopt_orphans()
    database.forbid("step host")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the worker decides; a terminal's Ctrl-C reaches the whole group
    child.prepare(Path(os.environ["MINIPIPE_HOME"]))
    for name in _ALWAYS_NEEDED:
        importlib.import_module(name)
    gc.disable()
    gc.collect()
    gc.freeze()
    Host(Channel(socket.socket(fileno=descriptor))).run()
    os._exit(0)
