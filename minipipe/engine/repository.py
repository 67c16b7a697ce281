"""Code of a git repository at one commit: pinned when a step is submitted, checked out once per commit, used as its folder.

The store keeps a bare mirror of each repository that steps name (``repos/``) and a work tree for each commit and patch
(``trees/``). Both can be removed at any time: they come back when a step needs them, as long as the repository can be reached.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minipipe import errors, hashing
from minipipe.store import locks
from minipipe.store.home import MIRRORS, TREES, Store

_MOST_PATCH_BYTES = 1 << 20
_QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_SSH_COMMAND": "ssh -o BatchMode=yes", "LC_ALL": "C", "GIT_ASKPASS": "true"}


@dataclass(frozen=True, slots=True)
class Pinned:
    """Code at one commit.

    Attributes:
        url: the repository: an absolute path or a git URL, without credentials.
        commit: full hash.
        branch: what was asked for, or the branch of a local repository; "" if neither.
        patch: local changes of a local repository, as a git patch; "" if there are none.
        working_dir: the step's folder below the root.
    """

    url: str
    commit: str
    branch: str = ""
    patch: str = ""
    working_dir: str = ""

    @property
    def digest(self) -> str:
        """Names the work tree."""
        return hashing.combine("tree", self.url, self.commit, self.patch)

    @property
    def key_parts(self) -> tuple[str, ...]:
        """What belongs to a cache key: the code, not the place that it came from."""
        return self.commit, hashing.combine("patch", self.patch), self.working_dir

    def facts(self) -> dict[str, str]:
        """As data, for a task's entry; with the names of work tree and mirror, so that these are known to be in use."""
        names = {"tree": self.digest[:32], "mirror": _mirror_name(self.url)}
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, **names}

    @classmethod
    def of(cls, facts: Mapping[str, str]) -> Pinned:
        """What `facts` gave."""
        return cls(**{name: facts[name] for name in cls.__dataclass_fields__})


def pin(store: Store, step: str, repo: str, branch: str | None, commit: str | None, working_dir: str | None) -> Pinned:
    """Decide which code a step runs.

    Args:
        store: where the mirror is kept.
        step: for errors.
        repo: a folder inside a local repository, or a git URL.
        branch: default the current one.
        commit: a hash or a tag; with neither branch nor commit a local repository's changes travel too.
        working_dir: the step's folder, below the root.

    Raises:
        RepositoryError: no git, no such repository, branch, commit or folder, no access, or changes inside a submodule.
    """
    local = Path(repo).expanduser()
    if local.is_dir():
        return _pin_local(store, step, local, branch, commit, working_dir)
    if "://" not in repo and not repo.startswith("git@"):
        raise errors.RepositoryError(f"step {step!r}: no repository {repo!r}", "there is no such folder, and it is no git URL")
    mirror = _mirror(store, step, repo)
    _fetch(step, mirror, repo, commit)
    wanted = commit or (f"refs/heads/{branch}" if branch else "refs/minipipe/head")
    return _checked(step, mirror, Pinned(_bare(repo), _resolve(step, mirror, repo, wanted, branch), branch or ""), working_dir)


def _pin_local(store: Store, step: str, folder: Path, branch: str | None, commit: str | None, working_dir: str | None) -> Pinned:
    root = Path(_git(step, folder, "rev-parse", "--show-toplevel").strip())
    mirror = _mirror(store, step, str(root))
    _fetch(step, mirror, str(root), None)
    patch, shown = "", branch or ""
    if commit or branch:
        found = _resolve(step, mirror, str(root), commit or f"refs/heads/{branch}", branch)
    else:
        found = _git(step, root, "rev-parse", "HEAD").strip()
        shown = _git(step, root, "rev-parse", "--abbrev-ref", "HEAD").strip().replace("HEAD", "")
        patch = _git(step, root, "diff", "--binary", "--submodule=short", "--no-color", "--no-ext-diff", "HEAD")
        _check_patch(step, root, patch)
    return _checked(step, mirror, Pinned(str(root), found, shown, patch), working_dir)


def _check_patch(step: str, root: Path, patch: str) -> None:
    if "-dirty\n" in patch:
        raise errors.RepositoryError(
            f"step {step!r}: a submodule of {root} has changes that are not committed",
            "changes inside a submodule cannot travel",
            "commit them there, and the submodule here",
        )
    if len(patch) > _MOST_PATCH_BYTES:
        raise errors.RepositoryError(
            f"step {step!r}: the changes in {root} that are not committed are too large to travel",
            f"{len(patch) >> 10} KiB, at most {_MOST_PATCH_BYTES >> 10} KiB",
            "commit them, or name a commit: repo_commit=…",
        )


def _checked(step: str, mirror: Path, pinned: Pinned, working_dir: str | None) -> Pinned:
    """With the folder, which has to be there at that commit."""
    below = os.path.normpath(working_dir) if working_dir and os.path.normpath(working_dir) != "." else ""
    if not below:
        return pinned
    kind = _run(mirror, "cat-file", "-t", f"{pinned.commit}:{below}").stdout.strip()
    if os.path.isabs(below) or below.startswith("..") or kind != b"tree":
        raise errors.RepositoryError(
            f"step {step!r}: no folder {working_dir!r} in {pinned.url} at {pinned.commit[:8]}",
            hint="working_dir is relative to the root of the repository",
        )
    return Pinned(pinned.url, pinned.commit, pinned.branch, pinned.patch, below)


def check_out(store: Store, pinned: Pinned) -> Path:
    """The folder with that code; made if it is not there yet.

    Raises:
        RepositoryError: it cannot be made any more.
    """
    folder = tree_of(store, pinned)
    ready = folder.with_suffix(".ready")
    if ready.exists() and folder.is_dir():
        return folder
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    lock = locks.hold(folder.with_suffix(".lock"))
    assert lock is not None
    try:
        if not (ready.exists() and folder.is_dir()):
            _check_out(store, pinned, folder)
            ready.touch(mode=0o600)
    finally:
        lock.release()
    return folder


def tree_of(store: Store, pinned: Pinned) -> Path:
    """Where the work tree of that code is, or would be."""
    return store.path / TREES / pinned.digest[:32]


def _check_out(store: Store, pinned: Pinned, folder: Path) -> None:
    what = f"commit {pinned.commit[:8]}"
    mirror = _mirror(store, what, pinned.url)
    if _run(mirror, "cat-file", "-e", f"{pinned.commit}^{{commit}}").returncode:
        _fetch(what, mirror, pinned.url, pinned.commit)
    shutil.rmtree(folder, ignore_errors=True)
    _git(what, mirror, "worktree", "prune")
    _git(what, mirror, "worktree", "add", "--force", "--detach", str(folder), pinned.commit)
    if (folder / ".gitmodules").exists():
        allowed = "always" if Path(pinned.url).is_absolute() else "user"  # submodules of a local repository may be local too
        _git(what, folder, "-c", f"protocol.file.allow={allowed}", "submodule", "update", "--init", "--recursive")
    if pinned.patch:
        done = _run(folder, "apply", "--whitespace=nowarn", "-", text=pinned.patch)
        if done.returncode:
            raise errors.RepositoryError(f"the changes of {pinned.url} cannot be applied to {what}", _words(done))


# -- git ----------------------------------------------------------------------------------------------------------------


def _mirror_name(url: str) -> str:
    return hashing.combine("repository", _bare(url))[:32]


def _mirror(store: Store, step: str, url: str) -> Path:
    mirror = store.path / MIRRORS / f"{_mirror_name(url)}.git"
    if not (mirror / "HEAD").exists():
        mirror.parent.mkdir(mode=0o700, exist_ok=True)
        _git(step, mirror.parent, "init", "--quiet", "--bare", str(mirror))
    return mirror


def _fetch(step: str, mirror: Path, url: str, commit: str | None) -> None:
    """Bring what the repository has now, unless the very commit is there already."""
    if commit and len(commit) == 40 and not _run(mirror, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        return
    lock = locks.hold(mirror.with_suffix(".lock"))
    assert lock is not None
    try:
        refs = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*", "+HEAD:refs/minipipe/head")
        _git(step, mirror, "fetch", "--quiet", "--force", "--prune", "--end-of-options", url, *refs)
    finally:
        lock.release()


def _resolve(step: str, mirror: Path, url: str, wanted: str, branch: str | None) -> str:
    done = _run(mirror, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{wanted}^{{commit}}")
    if done.returncode:
        names = _run(mirror, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags").stdout.decode().split()
        what = f"branch {branch!r}" if branch and wanted.startswith("refs/heads/") else f"commit {wanted!r}"
        raise errors.RepositoryError(
            f"step {step!r}: no {what} in {_bare(url)}", f"it has {', '.join(names[:8]) or 'no branches'}", "nothing was queued"
        )
    return done.stdout.decode().strip().splitlines()[-1]


def _bare(url: str) -> str:
    """A URL without the credentials in it: they are no part of what is stored."""
    scheme, slashes, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}" if slashes and scheme.startswith("http") else url


def _git(step: str, folder: Path, *arguments: str) -> str:
    done = _run(folder, *arguments)
    if done.returncode:
        raise errors.RepositoryError(f"step {step!r}: git {arguments[0]} failed in {folder}", _words(done), "nothing was queued")
    return done.stdout.decode(errors="surrogateescape")


def _run(folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[bytes]:
    environment: dict[str, Any] = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", "-c", "gc.auto=0", *arguments],
            cwd=folder,
            input=text.encode(errors="surrogateescape"),
            capture_output=True,
            env={**environment, **_QUIET},
            check=False,
        )
    except FileNotFoundError:
        raise errors.RepositoryError(
            "there is no program 'git' here", "repo=… needs it", "install git, or leave repo out: steps run in the project folder"
        ) from None


def _words(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return " ".join(lines[-3:])[:500]
