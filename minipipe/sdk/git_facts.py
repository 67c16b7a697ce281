"""Where a script's code is from: repository, branch, commit and what was changed since, if there is a git repository.

The first three are read from git's own files, which costs well under a millisecond. The changes are what ``git diff`` says; it runs
beside the script from the moment that the task begins, and what it said is stored when somebody asks or the process ends. Without
git, or outside a repository, there are no facts.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from minipipe import errors
from minipipe.store import recorded
from minipipe.store.home import Store

MOST_BYTES = 1 << 20
PATIENCE_S = 10.0
# A checkout is somebody else's: its configuration must not run programs because we look.
_DIFF = (
    *("git", "-c", "core.fsmonitor=false", "--no-optional-locks", "diff"),
    *("--no-color", "--no-ext-diff", "--no-textconv", "--submodule=short", "HEAD"),
)


def root_of(folder: Path) -> Path | None:
    """The root of the repository that holds a folder, None outside one."""
    return next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)


def facts(folder: Path) -> dict[str, str]:
    """``repository`` (the origin's URL, else the root), ``branch`` and ``commit`` of what is checked out; empty outside git."""
    root = root_of(folder)
    if root is None:
        return {}
    try:
        place = _git_dir(root)
        common = _common(place)
        head = (place / "HEAD").read_text().strip()
        branch = head.removeprefix("ref: refs/heads/") if head.startswith("ref: ") else ""
        commit = _resolved(place, common, head.removeprefix("ref: ")) if branch or head.startswith("ref: ") else head
        found = {"repository": _origin(common) or str(root), "branch": branch, "commit": commit}
    except (OSError, UnicodeDecodeError):
        return {}
    return {key: value for key, value in found.items() if value} if commit else {}


def _git_dir(root: Path) -> Path:
    place = root / ".git"
    if place.is_file():  # a work tree beside the repository
        return (root / place.read_text().partition("gitdir:")[2].strip()).resolve()
    return place


def _common(place: Path) -> Path:
    shared = place / "commondir"
    return (place / shared.read_text().strip()).resolve() if shared.exists() else place


def _resolved(place: Path, common: Path, ref: str) -> str:
    for each in (place, common):
        with contextlib.suppress(OSError):
            return (each / ref).read_text().strip()
    with contextlib.suppress(OSError):
        for line in (common / "packed-refs").read_text().splitlines():
            commit, _, name = line.partition(" ")
            if name == ref:
                return commit
    return ""  # nothing was committed yet


def _origin(common: Path) -> str:
    """URL of the remote "origin", without a password."""
    inside = False
    for line in (common / "config").read_text().splitlines():
        text = line.strip()
        if text.startswith("["):
            inside = text.replace(" ", "") == '[remote"origin"]'
        elif inside and text.partition("=")[0].strip() == "url":
            return _bare(text.partition("=")[2].strip())
    return ""


def _bare(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if parts.scheme and "@" in parts.netloc else url


# -- what was changed -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Asked:
    """A ``git diff`` that runs."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    store: Store
    pid: int


_asked: dict[tuple[Path, int], _Asked] = {}
_hooked = False


def ask(store: Store, task_id: int, entry: Mapping[str, Any]) -> None:
    """Begin to find out what was changed of the code of a task; without git or a repository nothing happens.

    Args:
        store: where the task is.
        task_id: its row.
        entry: what it runs, with what `facts` found.
    """
    global _hooked
    root = root_of(Path(entry["file"]).parent) if "commit" in entry else None
    if root is None or (store.path, task_id) in _asked:
        return
    output = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `settle`
    try:
        environment = {**os.environ, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"}
        process = subprocess.Popen(
            _DIFF, cwd=root, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, env=environment
        )
    except OSError:
        output.close()
        return
    _asked[store.path, task_id] = _Asked(process, output, store, os.getpid())
    if not _hooked:
        _hooked = True
        atexit.register(_settle_all)


def settle(store: Store, task_id: int) -> None:
    """Store what ``git diff`` said of a task, if it was asked here. Transaction effect: one durable commit, none without changes."""
    asked = _asked.pop((store.path, task_id), None)
    if asked is None or asked.pid != os.getpid():
        return
    try:
        code = asked.process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        asked.process.kill()
        asked.process.wait()
        code = -1
    with asked.output as output:
        size = output.seek(0, os.SEEK_END)
        output.seek(0)
        text = output.read(MOST_BYTES).decode("utf-8", "replace")
    if code == 0 and text:
        if size > MOST_BYTES:
            text = text[: text.rfind("\n") + 1] + f"# … {size - MOST_BYTES:,} more bytes\n"
        with contextlib.suppress(errors.MinipipeError):
            recorded.set_facts(store, task_id, {"diff": text})


def _settle_all() -> None:
    for path, task_id in list(_asked):
        settle(_asked[path, task_id].store, task_id)
