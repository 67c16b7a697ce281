"""The worker's side of a step host: start it, hand it attempts, hear how they ended."""

from __future__ import annotations

import os
import re
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipipe import errors
from minipipe.engine import protocol, start, tree
from minipipe.store import blobs, codec, tasks
from minipipe.store.attempts import CRASHED, DONE, FAILED, Outcome, Output
from minipipe.store.home import Store

_STEP_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU, signal.SIGXFSZ}
)
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True)
class Reported:
    """The outcome message of a child, whole or not; its end follows.

    Attributes:
        token: its attempt.
        message: what it sent.
    """

    token: str
    message: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """A child that is gone.

    Attributes:
        token: its attempt.
        status: wait status, None if the host died with it.
        survivors: processes of some attempt may still run.
    """

    token: str
    status: int | None
    survivors: bool


class HostProcess:
    """A running step host.

    Args:
        store: the worker's store.
        python: the interpreter.
    """

    def __init__(self, store: Store, python: str | None = None) -> None:
        ours, theirs = socket.socketpair()
        environment = {
            **os.environ,
            tree.TOKEN_VARIABLE: tree.NO_TOKEN,
            tree.STORE_VARIABLE: store.store_id,
            "MINIPIPE_HOME": str(store.path),
        }
        os.set_inheritable(theirs.fileno(), True)
        self._process = start.popen_host(theirs.fileno(), environment, *([python] if python else []))
        theirs.close()
        self.channel = protocol.Channel(ours)
        self.ready = False
        self._tokens: set[str] = set()

    def run(self, spec: dict[str, Any], payloads: list[bytes]) -> None:
        """Hand over an attempt. The host passes the spec on unread, but for what it has to import."""
        self._tokens.add(spec["token"])
        head = {"token": spec["token"], "imports": spec.pop("imports")}
        self.channel.send(head, [protocol.pack(spec, payloads)])

    def events(self) -> list[Reported | Ended]:
        """What children reported, and which ended, since the last call. Once the host is gone, all that were left are among them."""
        events: list[Reported | Ended] = []
        try:
            frames = self.channel.receive()
        except protocol.BadFrame:
            self.kill()
            frames = []
        for head, payloads in frames:
            if head["event"] == "ready":
                self.ready = True
            elif head["event"] == "outcome":
                events.append(Reported(head["token"], payloads[0]))
            else:
                self._tokens.discard(head["token"])
                events.append(Ended(head["token"], head["status"], head["survivors"]))
        if self.channel.closed:
            events += [Ended(token, None, True) for token in self._tokens]
            self._tokens.clear()
        return events

    @property
    def lost(self) -> bool:
        """True once the host is gone."""
        return self.channel.closed

    def words(self) -> str:
        """What a dead host said last, for the error that names why it cannot start."""
        self._process.kill()
        _, text = self._process.communicate()
        lines = text.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"

    def kill(self) -> None:
        """Kill the host; its children die with it."""
        self._process.kill()
        self.channel.closed = True

    def close(self) -> None:
        """End an idle host and wait for it."""
        self.channel.close()
        try:
            self._process.wait(5)
        except Exception:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()


# -- outcomes -----------------------------------------------------------------------------------------------------------


def outcome_of(store: Store, token: str, message: bytes) -> Outcome | None:
    """What a child reported, None if it did not get to the end of its message. A malformed one is a failure of its own."""
    try:
        frame = _unpack(message)
        return None if frame is None else _read(store, token, *frame)
    except (errors.MinipipeError, OSError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return Outcome(FAILED, "bad outcome", {"type": "BadOutcome", "message": f"{type(error).__name__}: {error}"[:500]})


def verdict(ended: Ended, reported: Outcome | None, cut: bool) -> Outcome:
    """What an ending means.

    Args:
        ended: how the process ended.
        reported: its outcome, if it sent a whole one. A child sends it as the last thing before it exits, so it counts whatever
            the exit status is.
        cut: it began to send one.

    The step's own failures are an error in the outcome, an exit without one, and the signals that a program brings upon itself;
    any other signal, a lost host or half a message is a crash: something from outside.
    """
    if reported is not None:
        return reported
    if ended.status is None:
        return Outcome(CRASHED, "the step host died")
    code = os.waitstatus_to_exitcode(ended.status)
    if code < 0:
        return _killed(-code)
    if cut:
        return Outcome(CRASHED, "died while it reported its result")
    reason = "exited without a result" if code == 0 else f"exited with code {code}, without a result"
    return Outcome(FAILED, reason, {"type": "Exit", "message": reason})


def _killed(number: int) -> Outcome:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number in _STEP_SIGNALS:
        return Outcome(FAILED, f"ended by {name}", {"type": name, "message": f"ended by {name}; the log has the Python stack"})
    memory = "; often this means that memory ran out" if number == signal.SIGKILL else ""
    return Outcome(CRASHED, f"killed by {name}", {"type": name, "message": f"killed by {name} from outside{memory}"})


def _unpack(message: bytes) -> protocol.Frame | None:
    unpacker = protocol.Unpacker()
    unpacker.feed(message)
    frame = unpacker.next()
    if frame is not None and not unpacker.empty:
        raise protocol.BadFrame("bytes after the outcome")
    return frame


def _read(store: Store, token: str, head: dict[str, Any], payloads: list[bytes]) -> Outcome:
    if head["token"] != token:
        raise protocol.BadFrame("the outcome carries the token of another attempt")
    duration = float(head["duration_s"])
    changed = tuple(str(path) for path in head.get("code_changed", ()))
    if head["ending"] != "completed":
        facts = {str(key): str(value) for key, value in head["error"].items()}
        return Outcome(FAILED, str(head["reason"]), facts, (), duration, changed)
    outputs = tuple(_output(store, token, index, item, payloads) for index, item in enumerate(head["outputs"]))
    return Outcome(DONE, "", None, outputs, duration, changed)


def _output(store: Store, token: str, index: int, item: dict[str, Any], payloads: list[bytes]) -> Output:
    name = str(item["name"])
    if "scalar" in item:
        return Output(name, result_parameter(name, str(item["text"]), str(item["type"]), str(item["scalar"])))
    digest, size = item["digest"], int(item["size"])
    if not _DIGEST.match(digest):
        raise protocol.BadFrame("a digest is none")
    inline = payloads[item["payload"]] if item["payload"] >= 0 else None
    if inline is not None and len(inline) != size:
        raise protocol.BadFrame("a payload has another size than it says")
    # The name of the file is made here, from token and index: no path is ever taken from the message.
    path: Path | None = None if inline is not None else store.folder("tmp") / f"{token}.{index}"
    if path is not None and path.stat().st_size != size:
        raise protocol.BadFrame("a staged file has another size than it says")
    metadata = {str(key): str(value) for key, value in item["metadata"].items()}
    staged = blobs.Staged(digest, size, inline, path)
    return Output(
        name,
        None,
        codec.Encoded(staged, str(item["codec"]), str(item["type"]), str(item["key"]), str(item["preview"]), metadata),
    )


def result_parameter(name: str, text: str, kind: str, value: str) -> tasks.Parameter:
    """The ``return/NAME`` cell of a scalar result; its key is its typed value."""
    from_type = "" if kind == "str" else kind
    return tasks.Parameter("return", name, text, from_type, value, codec.scalar_key(kind, value))
