"""The worker (ClearML: agent): claims tasks, has them run, commits how they ended.

One thread and one loop. Its only state is what it holds in memory of its running attempts; every fact is in the store, so a kill
at any instant loses nothing: the tasks go back to their queue as soon as somebody sees that its lock is free.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipipe import errors, settings
from minipipe.engine import environments, hosting, tree
from minipipe.engine.places import HERE, Host, Places
from minipipe.shown import tell, tell_lines
from minipipe.store import attempts, inputs, locks, log_limit, workers
from minipipe.store.attempts import CRASHED, DONE, FAILED, RETURNED, Claim, Claimant, Outcome
from minipipe.store.home import Store

IDLE_LOOK_S = 0.02
QUIET_LOOK_S = 0.035  # after a second without work: under 1 % of a core, and still a start within 50 ms
TICK_S = 1.0
_HOST_TRIES = 3
_LOG_DRAFT = 1_000_000  # number of the draft among an attempt's temporary files; outputs count from 0


@dataclass(frozen=True, slots=True)
class Options:
    """What a worker serves and how.

    Attributes:
        queues: served in this order by a worker for everybody.
        session: serve only one command's tasks, from any queue.
        slots: steps at a time; controllers have slots of their own.
        once: leave after one task.
        until_idle: leave when nothing is queued or running.
        owner: process id whose end ends this worker, 0 for none.
        name: shown name.
    """

    queues: tuple[str, ...] = ("default", "services")
    session: str = ""
    slots: int = 1
    once: bool = False
    until_idle: bool = False
    owner: int = 0
    name: str | None = None


@dataclass(slots=True)
class _Attempt:
    """A running attempt, as the worker remembers it."""

    claim: Claim
    child: hosting.Child
    started: float
    place: str = HERE
    why: str = ""  # "abort", "limit", "leave" or "broken" once we decided to end it
    kill_at: float = 0.0
    reported: Outcome | None = None
    reported_at: float = 0.0
    ended: hosting.Ended | None = None  # its child is gone, but processes of it may be left
    finished: bool = False  # its outcome is on its way to the store; only its processes are still to go


class Worker:
    """Serves queues until told to leave; see `run`."""

    def __init__(self, store: Store, options: Options, say: Callable[[str], None] = lambda line: None) -> None:
        self.store = store
        self.options = options
        self.say = say
        self.settings = settings.load_settings()
        self.registration = workers.register(
            store,
            workers.AGENT,
            slots=options.slots,
            queues=() if options.session else options.queues,
            session=options.session,
            name=options.name,
        )
        self.left_alone: tuple[str, ...] = ()
        self.places = Places(store, self.settings, options.slots, say)
        self.host_failures = 0
        self.running: dict[str, _Attempt] = {}
        self.lent: set[int] = set()  # tasks that only wait for steps of their own: their slots are free
        self.unsaved: list[tuple[Claim, Outcome]] = []
        self.waiting: list[Claim] = []
        self.early: str | None = None  # token of an attempt that runs before its claim is committed
        self.signals = 0
        self.leave_at: float | None = None
        self.taken = 0
        self.version = -1
        self.next_tick = 0.0
        self.next_look = 0.0
        self.last_work = 0.0
        self._wakeup, self._bell = socket.socketpair()

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until told to leave. Call it from the main thread.

        Returns:
            exit code: 0 after an orderly end.

        Raises:
            EngineError: no step host can be started; claimed tasks went back uncounted.
            StoreMoved: the store was renamed or deleted; all steps were ended.
        """
        self._listen()
        self.store.database.reserve_log()
        try:
            while not self._finished():
                self._wait()
                self._hear()
                self._take_builds()
                self._advance()
                self._save()
                self._dispatch()
                try:
                    self._attend()
                except errors.StoreBusy as error:  # somebody keeps the lock: no reason to give up the steps that run
                    self._complain("cannot look for work yet", error)
            return 0
        except BaseException:
            self._drop_everything()
            raise
        finally:
            self._close()

    def _attend(self) -> None:
        now = time.monotonic()
        if now >= self.next_tick:
            self.next_tick = now + TICK_S
            self._tick()
        if self.leave_at is None:
            self._claim()

    def _complain(self, what: str, error: errors.MinipipeError) -> None:
        tell(f"minipipe worker: {what}: {error.message} ({error.cause})")

    def _listen(self) -> None:
        for end in (self._wakeup, self._bell):
            end.setblocking(False)
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)

        def asked(number: int, frame: object) -> None:
            self.signals += 1

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, asked)
        tree.adopt_orphans()

    def _finished(self) -> bool:
        busy = bool(self.running or self.unsaved or self.waiting or self.places.builds.waiting)
        if self.leave_at is not None:
            return not busy
        if self.options.once and self.taken and not busy:
            return True
        return bool(self.options.until_idle and not busy and self.version >= 0 and not self._anything_queued())

    def _wait(self) -> None:
        ending = any(attempt.kill_at for attempt in self.running.values())
        quiet = not self.running and time.monotonic() - self.last_work > 1.0
        pause = 0.005 if ending else QUIET_LOOK_S if quiet else IDLE_LOOK_S
        sources: list[Any] = [self._wakeup]
        sources += self.places.channels
        # A line that has brought its outcome is readable for ever (at its end): waiting on it would spin.
        sources += [one.child.line for one in self.running.values() if one.reported is None and not one.child.line.closed]
        readable, _, _ = select.select(sources, [], [], pause)
        if self._wakeup in readable:
            with contextlib.suppress(BlockingIOError):
                self._wakeup.recv(4096)
        if self.signals:
            self._asked_to_leave(time.monotonic())

    # -- endings ------------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        for attempt in self.running.values():
            if attempt.reported is None and not attempt.child.line.closed:
                self._listen_to(attempt)
        for place, host in list(self.places.hosts.items()):
            self._hear_of(host)
            if host.lost:
                self._replace_host(place)

    def _hear_of(self, host: Host) -> None:
        """Children of a host that have ended."""
        by_pid = {attempt.child.pid: attempt for attempt in self.running.values()}
        for event in host.events():
            ended = by_pid.get(event.pid)
            if ended is None:
                continue  # a spare
            if ended.reported is None:
                self._listen_to(ended)  # what it wrote just before its end
            if event.survivors or ended.why:
                ended.ended = event  # `_advance` ends what is left of it, then finishes it
            else:
                self._finish(ended, event)

    def _listen_to(self, attempt: _Attempt) -> None:
        frame = attempt.child.outcome()
        if attempt.child.broken:
            self._end(attempt, "broken")  # what it sent is no outcome; it may not be about to end by itself
        if frame is None:
            return
        attempt.reported_at = time.monotonic()
        attempt.reported = hosting.outcome_of(self.store, attempt.claim.lease.token, frame)
        if attempt.reported.ending == DONE and not attempt.why:
            # Success needs nothing more, and nothing of this task will run again: commit while the process is taken apart.
            # A failed attempt waits for its last process: another attempt may follow, and two must not overlap.
            attempt.finished = True
            self.unsaved.append((attempt.claim, attempt.reported))

    def _finish(self, attempt: _Attempt, ended: hosting.Ended) -> None:
        del self.running[attempt.claim.lease.token]
        attempt.child.line.close()
        self._trim_log(attempt.claim)
        if not attempt.finished:
            self.unsaved.append((attempt.claim, self._judge(attempt, ended)))

    def _judge(self, attempt: _Attempt, ended: hosting.Ended) -> Outcome:
        spent = time.monotonic() - attempt.started
        if attempt.why == "limit":
            limit = attempt.claim.time_limit_s
            facts = {"type": "TimeLimit", "message": f"ran over {limit:g} s"}
            return Outcome(FAILED, f"time limit of {limit:g} s", facts, (), spent)
        if attempt.why == "leave":
            return Outcome(RETURNED, f"worker {self.registration.name} left")
        outcome = attempt.reported or hosting.verdict(ended, attempt.child, attempt.claim.entry.get("limits", {}))
        return outcome if outcome.duration_s else Outcome(outcome.ending, outcome.reason, outcome.error, outcome.outputs, spent)

    def _advance(self) -> None:
        """Push on what is being ended: SIGTERM first, SIGKILL after the grace, finish when no process is left."""
        now = time.monotonic()
        for attempt in list(self.running.values()):
            limit = attempt.claim.time_limit_s
            overdue = limit is not None and now - attempt.started >= limit
            if overdue and not attempt.why and not attempt.finished and attempt.ended is None:
                self._end(attempt, "limit")
            if attempt.reported and not attempt.kill_at and now - attempt.reported_at >= self.settings.grace_s:
                attempt.kill_at = now  # a child ends right after its report; this one keeps the worker from leaving
            if attempt.ended is None and not attempt.kill_at:
                continue
            token = attempt.claim.lease.token
            left = tree.members([token])
            if not left and attempt.ended is not None and not tree.members([token]):
                self._finish(attempt, attempt.ended)
            elif left and not attempt.kill_at:
                attempt.kill_at = now + self.settings.grace_s
                tree.send(left, signal.SIGTERM)
            elif left and now >= attempt.kill_at:
                tree.strike([token])

    def _end(self, attempt: _Attempt, why: str, grace_s: float | None = None) -> None:
        """Begin to end an attempt: SIGTERM now, SIGKILL after the grace (default the setting's; 0 is at once)."""
        if attempt.finished or (attempt.why and grace_s != 0):
            return
        attempt.why = attempt.why or why
        attempt.kill_at = time.monotonic() + (self.settings.grace_s if grace_s is None else grace_s)
        if grace_s == 0:
            tree.strike([attempt.claim.lease.token])
        else:
            tree.send(tree.members([attempt.claim.lease.token]), signal.SIGTERM)

    def _save(self) -> None:
        """Commit endings. One that cannot be committed is kept and tried again; nothing is claimed meanwhile."""
        while self.unsaved:
            self._stay_with_the_store()  # files are published by path, rows through the open file: both have to be of one store
            claim, outcome = self.unsaved[0]
            who = None
            if not claim.controller and len(self.unsaved) == 1 and self._wants_more():
                who = self._claimant()
            try:
                done = attempts.finish(self.store, claim.lease, outcome, self.settings.max_crashes, who, self._run_early)
            except (errors.StoreMoved, errors.ForkedConnection):
                raise
            except (errors.StoreBusy, errors.StoreError) as error:
                self._complain("cannot store an ending yet", error)
                self._retract()
                self.store.close()
                if self.leave_at is not None and time.monotonic() >= self.leave_at:
                    raise  # there is no more time to wait for room: whoever comes next finds a dead worker's tasks
                time.sleep(0.5)
                return
            self.unsaved.pop(0)
            self.early = None
            self._clear_scratch(claim)
            self.say(f"{claim.run[:8]}/{claim.name} {done.status or 'lost'} {outcome.duration_s:.1f}s {done.reason}".rstrip())
            if done.next is not None:
                self._start(done.next)
            elif self._free_slots() > 0:
                self.next_look = 0.0  # our own commit may have queued something, and does not change what we see of others'

    def _run_early(self, claim: Claim) -> None:
        """Start the claimed step while the commit that claims it syncs: the disk is then out of every step's way."""
        if self.places.hosts and not self.waiting and not self.places.special(claim) and self._run(claim):
            self.early = claim.lease.token

    def _retract(self) -> None:
        """The commit did not go through: end what was started on the strength of it."""
        if self.early is not None:
            tree.kill_all([self.early])
            attempt = self.running.pop(self.early)
            attempt.child.line.close()
            self.early = None

    def _clear_scratch(self, claim: Claim) -> None:
        scratch = self.store.folder("tmp") / f"{claim.lease.token}.d"
        if scratch.exists():
            shutil.rmtree(scratch, ignore_errors=True)

    # -- claiming -----------------------------------------------------------------------------------------------------

    def _claimant(self) -> Claimant:
        return Claimant(self.registration.id, self.options.queues, self.options.session, self.left_alone)

    def _free_slots(self) -> int:
        busy = sum(
            not one.claim.controller and not one.finished and one.claim.lease.task not in self.lent
            for one in self.running.values()
        )
        waiting = sum(not claim.controller for claim in (*self.waiting, *self.places.builds.waiting))
        return self.options.slots - busy - waiting

    def _wants_more(self) -> bool:
        return self.leave_at is None and not (self.options.once and self.taken) and self._free_slots() > 0

    def _claim(self) -> None:
        if self.unsaved:
            return
        now, version = time.monotonic(), self.store.database.data_version()
        if version == self.version and now < self.next_look:
            return
        self.version, self.next_look = version, now + 0.1  # a retry's wait ends without a commit that would wake us
        if self.running or self.places.builds.waiting:
            self._end_aborted()
            self.lent = attempts.lent(self.store, self.registration.id)
        while not (self.options.once and self.taken):
            step = self._free_slots() > 0
            if not attempts.anything_for(self.store, self._claimant(), step):
                return
            claim = attempts.claim_next(self.store, self._claimant(), step)
            if claim is None:
                return
            self._start(claim)

    def _anything_queued(self) -> bool:
        return attempts.anything_for(self.store, self._claimant(), True, due=False)

    def _end_aborted(self) -> None:
        asked = attempts.aborted(self.store, self.registration.id)
        for attempt in self.running.values():
            if attempt.claim.lease.task in asked:
                self._end(attempt, "abort", asked[attempt.claim.lease.task])
        for claim in self.places.builds.waiting:
            if claim.lease.task in asked:
                self.places.builds.drop(claim)
                self.unsaved.append((claim, Outcome(RETURNED, "stopped")))  # the abort decides what it becomes

    def _start(self, claim: Claim) -> None:
        self.taken += 1
        self.last_work = time.monotonic()
        if claim.lease.token not in self.running:
            self.waiting.append(claim)
            self._dispatch()
        self.say(f"{claim.run[:8]}/{claim.name} started, attempt {claim.lease.attempt}")

    def _dispatch(self) -> None:
        """Hand claimed tasks to spare children; those for which none is ready wait for the next, or for their environment."""
        for claim in list(self.waiting):
            if self._run(claim):
                self.waiting.remove(claim)

    def _run(self, claim: Claim) -> bool:
        """Give a task to a spare child, or to the build of its environment; False if no child is ready."""
        found = self.places.find(claim, {attempt.place for attempt in self.running.values()})
        if found is None:
            return True
        place, host = found
        host.warm(claim.entry.get("imports", ()))
        spec: dict[str, Any] | None = None
        payloads: list[bytes] = []
        while (child := host.take(claim)) is not None:
            if spec is None:
                spec, payloads = inputs.spec_of(self.store, claim, self.settings)
            if child.run(spec, payloads):
                self.running[claim.lease.token] = _Attempt(claim, child, time.monotonic(), place)
                return True
        return False

    def _take_builds(self) -> None:
        """Tasks whose environment is there now go on; those whose environment cannot be had fail."""
        for built in self.places.builds.ended():
            if built.error is None:
                self.waiting += built.waiting
                continue
            reason, facts = environments.failure(built)
            self.unsaved += [(claim, Outcome(FAILED, reason, facts, final=True)) for claim in built.waiting]

    # -- the host -----------------------------------------------------------------------------------------------------

    def _replace_host(self, place: str) -> None:
        host = self.places.hosts.pop(place)
        assert isinstance(host, hosting.HostProcess)
        words = host.words()
        if host.ready:
            self.host_failures = 0
            self.places.cold |= host.warming
            lost = [attempt for attempt in self.running.values() if attempt.place == place]
            tree.kill_all([attempt.claim.lease.token for attempt in lost])
            for attempt in lost:
                self._finish(attempt, hosting.Ended(attempt.child.pid, None, False))
            return
        self.host_failures += 1
        if self.host_failures >= _HOST_TRIES:
            self._return_waiting("the step host did not start")  # `_close` stores that, and claims nothing meanwhile
            raise errors.EngineError(
                "the step host cannot be started", words, f"try it by hand: {sys.executable} -c 'import minipipe.engine.host'"
            )

    def _return_waiting(self, reason: str) -> None:
        """Tasks that were claimed and never started go back uncounted."""
        self.unsaved += [(claim, Outcome(RETURNED, reason)) for claim in (*self.waiting, *self.places.builds.waiting)]
        self.waiting.clear()
        self.places.builds.kill()

    # -- once a second ------------------------------------------------------------------------------------------------

    def _stay_with_the_store(self) -> None:
        if self.registration.lock.lost() or self.store.database.moved():
            path = str(self.store.path)
            cause = "this worker's lock or database file is gone"
            raise errors.StoreMoved(f"the store {path} was moved or deleted", cause, path=path)

    def _tick(self) -> None:
        self._stay_with_the_store()
        tree.bury(self.places.pids)
        if self.options.owner and os.getppid() != self.options.owner and self.leave_at is None:
            self.leave_at = 0.0  # nobody is left to serve
            self._return_waiting("its command ended")
        if self.leave_at is not None and time.monotonic() >= self.leave_at:
            for attempt in self.running.values():
                self._end(attempt, "leave")
        workers.reap(self.store, self.settings.max_crashes, sweep)
        lock = locks.hold(self.store.path / "maint.lock", wait=False)
        if lock is not None:
            self.store.database.checkpoint()
            lock.release()
        for attempt in self.running.values():
            log_limit.hollow(self.store.log_path(attempt.claim.lease.uid, attempt.claim.lease.attempt), self._log_limit())
        if self.options.session:
            self.left_alone = workers.served_queues(self.store)

    def _log_limit(self) -> int:
        return int(self.settings.log_limit_mb * 1_000_000)

    def _trim_log(self, claim: Claim) -> None:
        log = self.store.log_path(claim.lease.uid, claim.lease.attempt)
        with contextlib.suppress(OSError):  # no room for a shorter one: it stays long, and gc tries again
            log_limit.trim(log, self._log_limit(), self.store.folder("tmp") / f"{claim.lease.token}.{_LOG_DRAFT}")

    def _asked_to_leave(self, now: float) -> None:
        again, self.signals = self.leave_at is not None or self.signals > 1, 0
        self._return_waiting(f"worker {self.registration.name} left")
        if again:
            self.leave_at = now
            for attempt in self.running.values():
                self._end(attempt, "leave", 0)
            return
        self.leave_at = now + self.settings.drain_s
        steps = len(self.running)
        if steps:
            self.say(
                f"stopping: {steps} {'steps' if steps > 1 else 'step'} running, up to {self.settings.drain_s:.0f}s to finish"
                " (again: stop now; they return to the queue, uncounted)"
            )

    # -- leaving ------------------------------------------------------------------------------------------------------

    def _drop_everything(self) -> None:
        self.places.kill()
        tree.kill_all(list(self.running))

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        self.places.close()
        with contextlib.suppress(errors.MinipipeError, OSError):
            self._stay_with_the_store()  # if it cannot, there is nothing to settle: whoever has the store finds a dead worker
            self._return_waiting("its worker stopped on an error")
            stopped = Outcome(CRASHED, "the worker stopped on an error")
            self.unsaved += [(one.claim, stopped) for one in self.running.values() if not one.finished]
            for claim, outcome in self.unsaved:
                attempts.finish(self.store, claim.lease, outcome, self.settings.max_crashes)
            workers.leave(self.store, self.registration)
            if self.options.owner:
                workers.reap(self.store, self.settings.max_crashes, sweep)


def sweep(uid: str, tokens: Any) -> None:
    """Kill whatever a dead worker's attempts left running; called before their tasks are given back.

    That includes an attempt that was started just before the commit that claims it (`Worker._run_early`), which no row names.
    """
    if tokens:
        tree.kill_all([one for token in tokens for one in (token, attempts.next_token(token))])


def embedded(home: str, session: str, slots: int, owner: int) -> None:
    """Entry point of a worker that serves one command; see `minipipe.engine.start.start_worker`."""
    try:
        store = Store.open(Path(home), create=False)
        code = Worker(store, Options(session=session, slots=slots, owner=owner)).run()
    except errors.MinipipeError as error:
        tell_lines(f"error: {error}")
        code = error.exit_code
    sys.exit(code)
