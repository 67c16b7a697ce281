"""What a script task needs where a worker runs it: packages, code of a repository, a container (ClearML's `Task` names for it)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minipipe import errors, imports, requirements
from minipipe.engine import repository
from minipipe.requirements import Requirements
from minipipe.sdk import needs
from minipipe.sdk.task_base import TaskBase
from minipipe.store import edits, environments, records

# What this process says of the task that it is about to begin: name -> version, names to leave out, a file that says it all.
_added: dict[str, str] = {}
_ignored: set[str] = set()
_file: list[str] = []


class TaskNeeds(TaskBase):
    """Packages, repository and container of a task."""

    # -- packages -------------------------------------------------------------------------------------------------------

    def set_packages(self, packages: str | Path | Sequence[str]) -> None:
        """Say which packages the task's Python has to have: exactly these, in an environment of their own unless the worker's Python
        has them all.

        Args:
            packages: requirements, or the path of a requirements file; an empty list: the worker's Python as it is.

        Raises:
            UsageError: a file that cannot be read.
            IllegalMove: the task has ended.

        Transaction effect: durable commits.
        """
        wanted = requirements.read(str(packages) if isinstance(packages, Path) else packages, "Task.set_packages")
        self._need(wanted)

    def get_requirements(self) -> dict[str, str]:
        """The packages that the task asks for, as ``{"pip": lines}``; empty if it asks for none."""
        lines = edits.facts(self.store, self.row_id).get("packages", ())
        return {"pip": "\n".join(lines)} if lines else {}

    @classmethod
    def add_requirements(cls, package_name: str, package_version: str | None = None) -> None:
        """Add a package to those that the script imports, for the task that this process begins next. A worker that lacks one builds
        an environment with all of them.

        Args:
            package_name: a package, or the path of a requirements file.
            package_version: ``1.2``, ``>=1.2`` …; default any.
        """
        name, version = str(package_name), str(package_version or "").strip()
        _ignored.discard(name)
        _added[name] = f"=={version}" if version and version[0] not in "<>=~!@" else version

    @classmethod
    def ignore_requirements(cls, package_name: str) -> None:
        """Leave a package out of those that the script imports; see `add_requirements`."""
        _added.pop(str(package_name), None)
        _ignored.add(str(package_name))

    @classmethod
    def force_requirements_env_freeze(cls, force: bool = True, requirements_file: str | Path | None = None) -> None:
        """Let a requirements file say what the task that this process begins next needs, whatever its script imports.

        Args:
            force: False takes that back.
            requirements_file: its path. Without one a worker's Python is what it is: it is this machine's.
        """
        _file[:] = [str(requirements_file)] if force and requirements_file else []

    def _need(self, wanted: Requirements | None) -> None:
        entry = {**edits.facts(self.store, self.row_id)}
        entry.pop("installed", None)
        planned = needs.Planner(self.store).plan(str(self._column("name")), needs.Needs(wanted), entry)
        edits.amend(self.store, self.row_id, {**entry, "packages": [], **planned.entry}, {})
        environments.assign(self.store, self.row_id, planned.environment)

    # -- code -----------------------------------------------------------------------------------------------------------

    def set_repo(self, repo: str | None = None, branch: str | None = None, commit: str | None = None) -> None:
        """Let the task run the code of a repository: its script is read again from there.

        Args:
            repo: a local folder or a git URL; default the repository that the script lies in.
            branch, commit: default what is checked out there, changes included.

        Raises:
            RepositoryError: the commit or the script in it cannot be had. Nothing was changed.
            IllegalMove: the task has ended.

        Transaction effect: one durable commit.
        """
        self.set_script(repo, branch, commit)

    def set_script(
        self,
        repository: str | None = None,
        branch: str | None = None,
        commit: str | None = None,
        diff: str | None = None,
        working_dir: str | None = None,
        entry_point: str | None = None,
        binary: str | None = None,
    ) -> None:
        """Say how the task runs; what is None stays as it is.

        Args:
            repository, branch, commit: see `set_repo`.
            diff: a git patch on top of the commit.
            working_dir: its folder, below the root of the repository.
            entry_point: its script, below the working directory.
            binary: recorded: the task runs in its worker's Python, or in its environment.

        Raises:
            RepositoryError: the commit or the script in it cannot be had. Nothing was changed.
            IllegalMove: the task has ended.

        Transaction effect: one durable commit.
        """
        entry = edits.facts(self.store, self.row_id)
        settings: dict[str, Any] = {"binary": str(binary)} if binary else {}
        if repository or branch or commit or diff:
            where = repository or str(Path(entry.get("file") or entry["cwd"]).parent)
            entry = self._with_code(entry, where, branch, commit, diff, working_dir, entry_point)
        elif working_dir or entry_point:
            folder = Path(entry["cwd"], working_dir or "")
            entry = _with_script(entry, folder / (entry_point or Path(entry.get("file", "")).name), folder)
        edits.amend(self.store, self.row_id, entry, settings)

    def _with_code(
        self,
        entry: dict[str, Any],
        repo: str,
        branch: str | None,
        commit: str | None,
        diff: str | None,
        working_dir: str | None,
        entry_point: str | None,
    ) -> dict[str, Any]:
        pinned = repository.pin(self.store, str(self._column("name")), repo, branch, commit, working_dir)
        if diff is not None:
            pinned = replace(pinned, patch=diff)
        root = repository.check_out(self.store, pinned)
        folder = root / pinned.working_dir
        file = folder / entry_point if entry_point else root / _below(entry.get("file", ""), pinned.url)
        entry = _with_script(entry, file, folder)
        return {**entry, "pinned": pinned.facts(), "roots": [str(file.parent), str(root)]}

    # -- container ------------------------------------------------------------------------------------------------------

    def set_base_docker(
        self,
        docker_cmd: str | None = None,
        docker_image: str | None = None,
        docker_arguments: str | Sequence[str] | None = None,
        docker_setup_bash_script: str | Sequence[str] | None = None,
    ) -> None:
        """Name the container that the task runs in where the setting ``containers`` is on; elsewhere it is recorded.

        Args:
            docker_cmd: image and arguments in one text.
            docker_image, docker_arguments: the same apart.
            docker_setup_bash_script: runs first in the container.

        Raises:
            IllegalMove: the task has ended.

        Transaction effect: one durable commit.
        """
        words = (docker_cmd or "").split(None, 1)
        image = docker_image or (words[0] if words else "")
        arguments = docker_arguments if docker_arguments is not None else " ".join(words[1:])
        text = arguments if isinstance(arguments, str) else " ".join(map(str, arguments))
        wanted = needs.read("Task.set_base_docker", None, None, None, None, None, docker=(image, text, docker_setup_bash_script))
        entry = edits.facts(self.store, self.row_id)
        entry["container"] = wanted.container.facts() if wanted.container is not None else {}
        edits.amend(self.store, self.row_id, entry, {"docker": f"{image} {text}".strip()})
        if image:
            needs.note_container("Task.set_base_docker")

    def get_base_docker(self) -> str:
        """Image and arguments of the task's container; "" if it has none."""
        return str(records.settings_of(self.store, self.row_id).get("docker") or "")


def _with_script(entry: dict[str, Any], file: Path, folder: Path) -> dict[str, Any]:
    try:
        source = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise errors.RepositoryError(
            f"there is no script {file.name!r} to run", f"{file}: {getattr(error, 'strerror', None) or error}"
        ) from error
    return {**entry, "kind": "script", "file": str(file), "source": source, "argv": [str(file)], "cwd": str(folder)}


def _below(file: str, root: str) -> str:
    """A script's place below the root of its repository; its name alone if it lies elsewhere."""
    try:
        return str(Path(file).resolve().relative_to(Path(root).resolve()))
    except ValueError:
        return os.path.basename(file)


def of_process(source: str) -> Requirements | None:
    """What the task that this process begins needs; None if nobody said anything: the worker's Python then.

    Args:
        source: text of its script: what that imports is needed too.

    Raises:
        UsageError: a requirements file that cannot be read.
    """
    if _file:
        return requirements.read(_file[0], "Task.force_requirements_env_freeze")
    if not _added:
        return None
    lines: list[str] = []
    for name, version in _added.items():
        if os.path.isfile(name):
            lines += (requirements.read(name, "Task.add_requirements") or requirements.here(())).lines
        else:
            lines.append(f"{name}{version}")
    named = {requirements.name_of(line) for line in lines} | set(map(requirements.name_of, _ignored))
    lines += [line for line in imports.packages_of(source) if requirements.name_of(line) not in named]
    return requirements.here(lines)
