"""The worker's side of a step host: start it, hand it attempts, hear how they ended."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from minipipe import errors, limits
from minipipe.engine import endings, protocol, start, tree
from minipipe.store import blobs, codec, tasks
from minipipe.store.attempts import CRASHED, DONE, FAILED, Claim, Outcome, Output
from minipipe.store.home import Store

_STEP_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU, signal.SIGXFSZ}
)
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that is gone.

    Attributes:
        pid: its process.
        status: wait status, None if the host died with it.
        survivors: processes of some attempt may still run.
    """

    pid: int
    status: int | None
    survivors: bool


class Child:
    """A child of the host, spare or at work.

    Attributes:
        pid: its process.
        line: the socket to it.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self.line = protocol.Channel(socket.socket(fileno=descriptor))
        self._frames: list[protocol.Frame] = []
        self.broken = ""

    def run(self, spec: dict[str, Any], payloads: list[bytes]) -> bool:
        """Give a spare its spec; False if it is dead already (it never was an attempt)."""
        self.line.send(spec, payloads)
        return not self.line.closed

    def outcome(self) -> protocol.Frame | None:
        """The outcome message, as soon as it has arrived whole."""
        try:
            self._frames += self.line.receive()
        except protocol.BadFrame as error:
            self.broken = error.message
            self.line.close()
        if len(self._frames) > 1 or (self._frames and self.line.held) or self.line.held > endings.LIMIT_BYTES:
            self.broken = "more bytes than one outcome"
            self.line.close()
        return self._frames[0] if self._frames and not self.broken else None

    @property
    def cut(self) -> bool:
        """True if it began an outcome and did not finish it."""
        return bool(self.line.held)


class HostProcess:
    """A running step host.

    Args:
        store: the worker's store.
        spares: how many children to keep ready.
        cold: imports that are left to the children.
        python: the interpreter.
        variables: more environment variables.

    Attributes:
        warming: imports that it was asked for and, as far as known, is still busy with.
    """

    def __init__(
        self,
        store: Store,
        spares: int = 1,
        cold: Iterable[str] = (),
        python: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            **(variables or {}),
            tree.TOKEN_VARIABLE: tree.NO_TOKEN,
            tree.STORE_VARIABLE: store.store_id,
            "MINIPIPE_HOME": str(store.path),
        }
        os.set_inheritable(theirs.fileno(), True)
        self._process: subprocess.Popen[bytes] | None = None
        self._refused = ""
        try:
            self._process = start.popen_host(theirs.fileno(), environment, *([python] if python else []))
        except OSError as error:  # no such interpreter, no more processes: a host that is lost at once, and tried again
            self._refused = str(error)
        theirs.close()
        self.channel = protocol.Channel(ours)
        self.ready = False
        self.spares: deque[Child] = deque()
        self._pids: set[int] = set()
        self._asked = set(cold)
        self.warming: set[str] = set()
        self._keep = spares
        self.channel.send({"spares": spares})

    def warm(self, imports: Iterable[str]) -> None:
        """Have modules imported in the host. Spares that were forked before would lack them, so they are dropped."""
        new = [name for name in imports if name not in self._asked]
        if not new:
            return
        self._asked.update(new)
        self.warming.update(new)
        dropped = len(self.spares)
        while self.spares:
            self.spares.popleft().line.close()
        self.channel.send({"imports": new, "spares": dropped})

    @property
    def pids(self) -> set[int]:
        """Its process."""
        return {self._process.pid} if self._process else set()

    def take(self, claim: Claim) -> Child | None:
        """A child that waits for a spec (of whatever task), None if the next one is still on its way."""
        if not self.spares:
            return None
        self.channel.send({"spares": 1})
        return self.spares.popleft()

    def events(self) -> list[Ended]:
        """Children that ended since the last call. Once the host is gone, all that were left are among them."""
        events: list[Ended] = []
        try:
            frames = self.channel.receive()
        except protocol.BadFrame:
            self.kill()
            frames = []
        for head, _ in frames:
            if head["event"] == "ready":
                self.ready = True
            elif head["event"] == "spare":
                self.warming.clear()
                self._pids.add(head["pid"])
                self.spares.append(Child(head["pid"], self.channel.descriptors.popleft()))
            else:
                self._pids.discard(head["pid"])
                events.append(Ended(head["pid"], head["status"], head["survivors"]))
        if self.channel.closed:
            events += [Ended(pid, None, True) for pid in self._pids]
            self._pids.clear()
        return events

    @property
    def lost(self) -> bool:
        """True once the host is gone."""
        return self.channel.closed

    def words(self) -> str:
        """What a dead host said last, for the error that names why it cannot start."""
        if self._process is None:
            return self._refused
        self._process.kill()
        _, text = self._process.communicate()
        lines = text.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"

    def kill(self) -> None:
        """Kill the host; its children die with it."""
        if self._process:
            self._process.kill()
        self.channel.closed = True

    def close(self) -> None:
        """End an idle host and wait for it."""
        while self.spares:
            self.spares.popleft().line.close()
        self.channel.close()
        if self._process is None:
            return
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()


# -- outcomes -----------------------------------------------------------------------------------------------------------


def outcome_of(store: Store, token: str, frame: protocol.Frame) -> Outcome:
    """What a child reported; a message that makes no sense is a failure of its own."""
    try:
        return _read(store, token, *frame)
    except (errors.MinipipeError, OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        return bad_outcome(f"{type(error).__name__}: {error}")


def bad_outcome(why: str) -> Outcome:
    """An attempt whose report cannot be trusted: nothing of it is used."""
    return Outcome(FAILED, "bad outcome", {"type": "BadOutcome", "message": why[:500]})


def verdict(ended: Ended, child: Child, limited: Mapping[str, Any] = MappingProxyType({})) -> Outcome:
    """What an ending without a whole outcome means.

    The step's own failures are an exit and the signals that a program brings upon itself; any other signal, a lost host or half
    a message is a crash: something from outside.
    """
    if child.broken:
        return bad_outcome(child.broken)
    if ended.status is None:
        return Outcome(CRASHED, "the step host died")
    code = os.waitstatus_to_exitcode(ended.status)
    if code < 0:
        return _killed(-code, limited)
    if child.cut:
        return Outcome(CRASHED, "died while it reported its result")
    reason = "exited without a result" if code == 0 else f"exited with code {code}, without a result"
    return Outcome(FAILED, reason, {"type": "Exit", "message": reason})


def _killed(number: int, limited: Mapping[str, Any]) -> Outcome:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number in _STEP_SIGNALS:
        reason = f"ended by {name}{limits.words(limited, name)}"
        return Outcome(FAILED, reason, {"type": name, "message": f"ended by {name}; the log has the Python stack"})
    memory = "; often this means that memory ran out" if number == signal.SIGKILL else ""
    return Outcome(CRASHED, f"killed by {name}", {"type": name, "message": f"killed by {name} from outside{memory}"})


def _read(store: Store, token: str, head: dict[str, Any], payloads: list[bytes]) -> Outcome:
    if head["token"] != token:
        raise protocol.BadFrame("the outcome carries the token of another attempt")
    duration = float(head["duration_s"])
    if not 0 <= duration < float("inf"):
        raise protocol.BadFrame("a duration is none")
    changed = tuple(_text(path) for path in head.get("code_changed", ()))
    if head["ending"] != "completed":
        facts = {_text(key): _text(value) for key, value in head["error"].items()}
        return Outcome(FAILED, _text(head["reason"]), facts, (), duration, changed)
    outputs = tuple(_output(store, token, index, item, payloads) for index, item in enumerate(head["outputs"]))
    return Outcome(DONE, _text(head.get("reason", "")), None, outputs, duration, changed)


def _text(value: object) -> str:
    """A string that the database takes: half a surrogate pair is legal in Python and in JSON, and cannot be stored as UTF-8."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _output(store: Store, token: str, index: int, item: dict[str, Any], payloads: list[bytes]) -> Output:
    name = _text(item["name"])
    if "scalar" in item:
        return Output(name, result_parameter(name, _text(item["text"]), _text(item["type"]), _text(item["scalar"])))
    digest, size = item["digest"], int(item["size"])
    if not _DIGEST.match(digest):
        raise protocol.BadFrame("a digest is none")
    inline = payloads[item["payload"]] if item["payload"] >= 0 else None
    if inline is not None and len(inline) != size:
        raise protocol.BadFrame("a payload has another size than it says")
    if (inline is None) == (size <= blobs.INLINE_LIMIT_BYTES):
        raise protocol.BadFrame("a small result is not in the message, or a large one is")
    # The name of the file is made here, from token and index: no path is ever taken from the message.
    path: Path | None = None if inline is not None else store.folder("tmp") / f"{token}.{index}"
    if path is not None and path.stat().st_size != size:
        raise protocol.BadFrame("a staged file has another size than it says")
    metadata = {_text(key): _text(value) for key, value in item["metadata"].items()}
    staged = blobs.Staged(digest, size, inline, path)
    return Output(
        name,
        None,
        codec.Encoded(staged, _text(item["codec"]), _text(item["type"]), _text(item["key"]), _text(item["preview"]), metadata),
    )


def result_parameter(name: str, text: str, kind: str, value: str) -> tasks.Parameter:
    """The ``return/NAME`` cell of a scalar result; its key is its typed value."""
    from_type = "" if kind == "str" else kind
    return tasks.Parameter("return", name, text, from_type, value, codec.scalar_key(kind, value))
