"""Virtual environments of steps: is one needed, is it there, and who builds it.

A build runs in a process of its own, so that the worker goes on meanwhile; what the installer prints goes to the log of the
attempt that asked for it. Of several workers that need one environment at the same time the first builds it, under a lock. The
environment is made where it stays (its scripts hold its path), and counts only once the file ``ready`` is in it: what a killed
build leaves is removed by the next one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minipipe import requirements, settings
from minipipe.engine import child, start, tree
from minipipe.requirements import Requirements
from minipipe.store import environments, locks
from minipipe.store.attempts import Claim
from minipipe.store.home import Store

READY = "ready"
_BRIDGED = ("blake3", "cloudpickle", "filelock")  # what minipipe itself needs in a step
_BRIDGE = "bridge"


# -- is one needed ------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def satisfied(lines: tuple[str, ...]) -> tuple[str, ...] | None:
    """``name==version`` of what this Python has installed for a set of requirements; None if it lacks something.

    Options of the installer, URLs and paths are never satisfied: they ask for more than a version.
    """
    parse = importlib.import_module("packaging.requirements").Requirement
    metadata = importlib.import_module("importlib.metadata")  # with its parsers of mail, too heavy for every process
    found: dict[str, str] = {}
    todo = list(lines)
    while todo:
        line = todo.pop()
        try:
            wanted = parse(line)
        except ValueError:
            return None
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        if wanted.url:
            return None
        try:
            distribution = metadata.distribution(wanted.name)
        except metadata.PackageNotFoundError:
            return None
        if not wanted.specifier.contains(distribution.version, prereleases=True):
            return None
        name = distribution.metadata["Name"]
        known = found.get(name)
        found[name] = distribution.version
        if wanted.extras and known is None:
            for need in distribution.requires or ():
                inner = parse(need)
                if inner.marker is not None and any(inner.marker.evaluate({"extra": extra}) for extra in wanted.extras):
                    inner.marker = None
                    todo.append(str(inner))
    return tuple(sorted(f"{name}=={version}" for name, version in found.items()))


def python_of(store: Store, digest: str) -> Path | None:
    """The interpreter of a built environment; None if it is not there."""
    folder = environments.folder(store, digest)
    python = folder / "bin" / "python"
    return python if (folder / READY).exists() and os.access(python, os.X_OK) else None


def host_environment(store: Store, digest: str) -> dict[str, str]:
    """Variables of a step host that runs in an environment: its programs come first, and minipipe finds what it needs itself."""
    folder = environments.folder(store, digest)
    return {
        "VIRTUAL_ENV": str(folder),
        "PATH": os.pathsep.join((str(folder / "bin"), os.environ.get("PATH", os.defpath))),
        start.BRIDGE_VARIABLE: str(bridge(folder)),
    }


def bridge(folder: Path) -> Path:
    """A folder with links to the few packages that minipipe needs, for the end of the import path: nobody installs minipipe into an
    environment, and what the environment has itself comes first."""
    links = folder / _BRIDGE
    folder.mkdir(mode=0o700, exist_ok=True)  # not by `parents`: those would get the mode of the umask
    links.mkdir(mode=0o700, exist_ok=True)
    for name in _BRIDGED:
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None
        target = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        link = links / target.name
        if not link.exists():
            fresh = links / f"{target.name}.{os.getpid()}"
            with contextlib.suppress(FileExistsError):
                fresh.symlink_to(target)
                os.replace(fresh, link)
    return links


# -- the worker's side --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Build:
    """A build that runs, and the claimed tasks that wait for it."""

    process: subprocess.Popen[bytes]
    wanted: Requirements
    waiting: list[Claim] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Built:
    """A build that ended.

    Attributes:
        digest: of the environment.
        waiting: the claimed tasks that waited for it.
        error: why there is no environment, None if there is one: facts for the failure of those tasks.
    """

    digest: str
    waiting: tuple[Claim, ...]
    error: dict[str, str] | None = None


class Builds:
    """The builds of one worker."""

    def __init__(self, store: Store, mode: str) -> None:
        self.store = store
        self.mode = mode
        self._running: dict[str, _Build] = {}

    @property
    def pids(self) -> set[int]:
        """Processes that somebody waits for here."""
        return {build.process.pid for build in self._running.values()}

    @property
    def waiting(self) -> list[Claim]:
        """Claimed tasks whose environment is being built."""
        return [claim for build in self._running.values() for claim in build.waiting]

    def needed(self, claim: Claim) -> Requirements | None:
        """The packages that a task needs an environment for; None if this worker's own Python will do."""
        lines = tuple(claim.entry.get("packages", ()))
        if not lines or self.mode == "off":
            return None
        wanted = requirements.here(lines)
        promised = claim.entry.get("installed")  # what the task's key was made with
        if self.mode != "always" and claim.environment is None:
            found = satisfied(wanted.lines)
            if found is not None and (promised is None or list(found) == promised):
                return None
        return wanted

    def ready(self, claim: Claim, wanted: Requirements) -> bool:
        """True if the environment of a task is there. Else a build is on its way, and the task waits in it."""
        digest = wanted.digest
        if python_of(self.store, digest) is not None:
            environments.enter(self.store, claim.lease, digest, claim.environment == digest)
            return True
        build = self._running.get(digest)
        if build is None:
            build = self._running[digest] = _Build(_start(self.store, wanted, claim), wanted)
        build.waiting.append(claim)
        return False

    def ended(self) -> list[Built]:
        """Builds that ended since the last call."""
        found = []
        for digest, build in list(self._running.items()):
            code = build.process.poll()
            if code is None:
                continue
            del self._running[digest]
            error = None
            if python_of(self.store, digest) is None:
                error = _read_failure(self.store, digest, code)
            found.append(Built(digest, tuple(build.waiting), error))
        return found

    def drop(self, claim: Claim) -> None:
        """A task does not wait any more; a build that nobody waits for ends."""
        for digest, build in list(self._running.items()):
            build.waiting = [one for one in build.waiting if one.lease.token != claim.lease.token]
            if not build.waiting:
                del self._running[digest]
                build.process.kill()
                build.process.wait()

    def kill(self) -> None:
        """End all builds."""
        for build in self._running.values():
            build.process.kill()
            build.process.wait()
        self._running.clear()


def _start(store: Store, wanted: Requirements, claim: Claim) -> subprocess.Popen[bytes]:
    folder = environments.folder(store, wanted.digest)
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    log = store.log_path(claim.lease.uid, claim.lease.attempt)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    with open(log, "ab") as file:
        os.chmod(log, 0o600)
        if not file.tell():
            file.write(child.log_head(claim.name, claim.lease.uid, claim.lease.attempt, claim.lease.token))
            file.flush()
        return subprocess.Popen(
            start.command(__name__, "build", str(store.path), list(wanted.lines), os.getpid()),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "MINIPIPE_HOME": str(store.path), tree.STORE_VARIABLE: store.store_id},
            start_new_session=True,
            umask=0o077,
        )


def _failure_file(store: Store, digest: str) -> Path:
    return environments.folder(store, digest).with_suffix(".failed")


def _read_failure(store: Store, digest: str, code: int) -> dict[str, str]:
    path = _failure_file(store, digest)
    try:
        facts: dict[str, str] = json.loads(path.read_text())
        path.unlink()
    except (OSError, ValueError):
        facts = {"type": "EnvironmentError", "message": f"the build of the environment ended with exit status {code}"}
    return facts


# -- the build ----------------------------------------------------------------------------------------------------------


def build(home: str, lines: Sequence[str], parent: int) -> None:
    """Entry point of the build process: make the environment unless it is there; exit status 0 if it is."""
    tree.die_with_parent(parent)
    store = Store.open(Path(home), create=False)
    wanted = requirements.here(lines)
    folder = environments.folder(store, wanted.digest)
    with contextlib.suppress(OSError):
        _failure_file(store, wanted.digest).unlink()
    lock = locks.hold(folder.with_suffix(".lock"))  # somebody else may be building just this
    assert lock is not None
    try:
        if python_of(store, wanted.digest) is None:
            _build(store, wanted, folder)
        code = 0
    except _Failed as failed:
        shutil.rmtree(folder, ignore_errors=True)
        _failure_file(store, wanted.digest).write_text(json.dumps(failed.facts))
        code = 1
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        lock.release()
    sys.exit(code)


class _Failed(Exception):
    """An installer said no."""

    def __init__(self, installer: str, output: str) -> None:
        lines = [line.strip(" ×│╰─▶├·") for line in output.splitlines() if line.strip()] or ["it said nothing"]
        lines = [line.removeprefix("ERROR: ").removeprefix("error: ") for line in lines]
        where = next((n for n, line in enumerate(output.splitlines()) if line.lower().strip(" ×").startswith("error")), 0)
        # uv explains after its first telling line, pip says the essence last.
        words = lines[-1] if installer == "pip" else " ".join(lines[min(where, len(lines) - 1) :][:4])
        self.facts = {"type": "EnvironmentError", "message": f"{installer}: {words[:500]}", "traceback": output[-8_000:]}
        super().__init__(words)


def _build(store: Store, wanted: Requirements, folder: Path) -> None:
    started = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    known = environments.find(store, wanted.digest)
    # What was resolved once is what a later build makes again: the environment of a kept run stays what it was.
    pinned = _pinned(wanted, known.resolved) if known is not None and known.resolved else None
    uv = _uv()
    installer = _with_uv if uv else _with_pip
    print(f"minipipe: environment {wanted.digest[:8]}: {', '.join(wanted.lines)} (with {'uv' if uv else 'pip'})", flush=True)
    try:
        installer(store, folder, pinned or wanted.lines, uv)
    except _Failed:
        if pinned is None:
            raise
        print("minipipe: the versions of the first build cannot be had any more; resolving anew", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        installer(store, folder, wanted.lines, uv)
    resolved = _installed(folder)
    bridge(folder)
    environments.built(store, wanted, resolved, "uv" if uv else "pip", time.monotonic() - started)
    (folder / READY).write_text("\n".join(resolved) + "\n")
    print(f"minipipe: environment ready in {time.monotonic() - started:.1f}s: {' '.join(resolved)}", flush=True)


def _pinned(wanted: Requirements, resolved: tuple[str, ...]) -> tuple[str, ...] | None:
    """The same set with the versions of its first build; None where URLs or paths make that impossible."""
    options = tuple(line for line in wanted.lines if line.startswith("-"))
    if any("@" in line or "/" in line for line in wanted.lines if not line.startswith("-")):
        return None
    return (*options, *resolved)


def _uv() -> str:
    """The uv program: on the PATH, else beside this Python (the extra ``uv``); "" if there is none or pip was asked for.

    Raises:
        _Failed: uv was asked for and is not there.
    """
    wish = settings.load_settings().installer
    beside = Path(sys.executable).parent / "uv"
    found = shutil.which("uv") or (str(beside) if os.access(beside, os.X_OK) else "")
    if wish == "uv" and not found:
        raise _Failed("uv", "error: the setting installer is 'uv', and there is no uv: pip install uv")
    return "" if wish == "pip" else found


def _with_uv(store: Store, folder: Path, lines: Sequence[str], uv: str) -> None:
    quiet = {"UV_NO_PROGRESS": "1", "UV_LINK_MODE": os.environ.get("UV_LINK_MODE", "hardlink"), "VIRTUAL_ENV": str(folder)}
    _call("uv", [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder)], quiet)
    install = [uv, "pip", "install", "--python", str(folder / "bin" / "python"), *_arguments(lines)]
    try:
        _call("uv", install, quiet)
    except _Failed as first:
        if not any(word in first.facts["traceback"].lower() for word in ("connect", "network", "dns", "request", "fetch")):
            raise
        print("minipipe: no network? Trying what uv has in its cache", flush=True)
        try:
            _call("uv", [*install[:3], "--offline", *install[3:]], quiet)
        except _Failed:
            raise first from None


def _with_pip(store: Store, folder: Path, lines: Sequence[str], uv: str) -> None:
    """Wheels are kept in the store, so that what was installed once needs no network again."""
    wheels = store.path / environments.FOLDER / "wheels"
    wheels.mkdir(mode=0o700, exist_ok=True)
    _call("python -m venv", [sys.executable, "-m", "venv", "--without-pip", str(folder)], {})
    if importlib.util.find_spec("pip") is None:
        raise _Failed("pip", "this Python has neither uv nor pip: install one of them")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--python", str(folder / "bin" / "python")]
    words = _arguments(lines)
    try:
        _call("pip", [*pip, "wheel", "--prefer-binary", "--wheel-dir", str(wheels), *words], {})
    except _Failed as first:
        print("minipipe: trying the wheels that are kept in the store", flush=True)
        try:
            _call("pip", [*pip, "install", "--no-index", "--find-links", str(wheels), *words], {})
        except _Failed:
            raise first from None
        return
    _call("pip", [*pip, "install", "--no-index", "--find-links", str(wheels), *_packages(words)], {})


def _arguments(lines: Sequence[str]) -> list[str]:
    """Requirements as arguments: options are split at their first blank."""
    return [word for line in lines for word in (line.split(None, 1) if line.startswith("-") else [line])]


def _packages(words: Sequence[str]) -> list[str]:
    """Arguments without options of the index, which `--no-index` makes pointless."""
    found, skip = [], False
    for word in words:
        if skip or word.startswith(("--index-url", "--extra-index-url", "--find-links")) or word in ("-i", "-f"):
            skip = not skip and "=" not in word
            continue
        found.append(word)
    return found


def _call(installer: str, arguments: list[str], variables: Mapping[str, str]) -> None:
    """Run an installer; its words go to the log, and, if it fails, into the error."""
    parent = os.getpid()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**environment, **variables},
        preexec_fn=lambda: tree.die_with_parent(parent),  # one thread here: nothing else can hold a lock in the child
        check=False,
    )
    text = done.stdout.decode(errors="replace")
    sys.stdout.write(text)
    sys.stdout.flush()
    if done.returncode:
        raise _Failed(installer, text)


def _installed(folder: Path) -> tuple[str, ...]:
    """``name==version`` of everything in an environment."""
    sites = [str(path) for path in (folder / "lib").glob("python*/site-packages")]
    found = {
        f"{one.metadata['Name']}=={one.version}"
        for one in importlib.import_module("importlib.metadata").distributions(path=sites)
    }
    return tuple(sorted(found, key=str.lower))


def failure(built: Built) -> tuple[str, dict[str, Any]]:
    """Reason and error of the tasks whose environment could not be built."""
    assert built.error is not None
    return f"environment: {built.error['message']}", built.error
