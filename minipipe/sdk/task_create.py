"""Drafts from a script, without running it (ClearML's `Task.create`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from minipipe import errors, states
from minipipe.engine import repository
from minipipe.sdk import capture, needs, notice, session, values
from minipipe.sdk import script as scripts
from minipipe.sdk.task_base import TaskBase
from minipipe.store import edits, environments, tasks


class TaskCreate(TaskBase):
    """Making drafts."""

    @classmethod
    def create(
        cls,
        project_name: str | None = None,
        task_name: str | None = None,
        task_type: str | None = None,
        repo: str | None = None,
        branch: str | None = None,
        commit: str | None = None,
        script: str | None = None,
        working_directory: str | None = None,
        packages: bool | Sequence[str] | None = None,
        requirements_file: str | Path | None = None,
        docker: str | None = None,
        docker_args: str | None = None,
        docker_bash_setup_script: str | None = None,
        argparse_args: Sequence[tuple[str, str]] | None = None,
        base_task_id: str | None = None,
        add_task_init_call: bool = True,
        force_single_script_file: bool = False,
        binary: str | None = None,
        module: str | None = None,
        detect_repository: bool = True,
    ) -> Self:
        """A draft that runs a script as it is now, once it is enqueued; without a script, one that runs nothing.

        Args:
            project_name: default that of `base_task_id`, else as in `Task.init`.
            task_name: default the script's name.
            task_type: one of `TaskTypes`; default training.
            repo: a local folder, or a git URL, that `script` and `working_directory` are relative to.
            branch, commit: of the repository: it is checked out, and the script is read from there.
            packages, requirements_file: what the draft's Python has to have; see `PipelineDecorator.component`.
            script: a Python file; its text is stored.
            working_directory: where it runs; default the repository, else the current folder.
            argparse_args: (name, value) pairs that its command line gets, as parameters of section ``Args``.
            base_task_id: start from a copy of this task.
            add_task_init_call: False leaves the script's command line alone.
            docker, docker_args, docker_bash_setup_script: a container for it, where the setting ``containers`` is on.
            force_single_script_file, binary, detect_repository: recorded.
            module: not offered.

        Raises:
            UsageError: no such script or folder, or an unknown type.
            NotSupported: a module.
            RepositoryError: the commit cannot be had. Nothing was stored.

        Transaction effect: one durable commit, more with `base_task_id`.
        """
        if module:
            raise errors.NotSupported("Task.create(module=…) is not offered", hint="script=… names the file")
        states.task_type(task_type)
        recorded = _record(
            force_single_script_file=force_single_script_file or None,
            binary=binary,
            detect_repository=None if detect_repository else False,
        )
        remote = bool(branch or commit or (repo and ("://" in repo or repo.startswith("git@"))))
        wanted = needs.read(
            "Task.create",
            str(requirements_file) if requirements_file else packages,
            repo if remote else None,
            branch,
            commit,
            working_directory if remote else None,
            docker=(docker, docker_args, docker_bash_setup_script),
        )
        store = session.open_store()
        planner = needs.Planner(store)
        name = task_name or (Path(script).stem if script else "task")
        # A commit is checked out first: the script is read from it.
        planned = planner.plan(name, replace(wanted, packages=None), {"cwd": os.getcwd(), "roots": []})
        pinned = planned.entry.get("pinned")
        if pinned:
            root, folder = repository.tree_of(store, repository.Pinned.of(pinned)), pinned["working_dir"]
            entry = _entry(str(root), script, folder)
        else:
            entry = _entry(repo, script, working_directory)
        packed = planner.plan(name, needs.Needs(wanted.packages), entry)
        roots = [*entry.get("roots", ()), *(planned.entry.get("roots") or ())]
        entry |= {**planned.entry, **packed.entry, **({"roots": list(dict.fromkeys(roots))} if roots else {})}
        recorded |= {"create": True, "arguments": bool(add_task_init_call)}
        recorded |= {key: value for key, value in _asked(packages, repo, branch, commit, docker).items() if value}
        cells = [values.cell("Args", str(name).lstrip("-"), value) for name, value in argparse_args or ()]
        place = (project_name, task_name, None if task_type is None else str(task_type))
        made = (
            cls._copied(base_task_id, place, entry, recorded, cells) if base_task_id else cls._made(place, entry, recorded, cells)
        )
        if packed.environment is not None:
            environments.assign(store, made.row_id, packed.environment)
        return made

    @classmethod
    def _made(
        cls, place: tuple[str | None, str | None, str | None], entry: dict[str, Any], recorded: dict[str, Any], cells: Any
    ) -> Self:
        project, name, kind = place
        store = session.open_store()
        new = tasks.NewTask(
            type=kind or str(states.TaskTypes.training),
            name=name or (Path(entry["file"]).stem if "file" in entry else "task"),
            project=project or scripts.project_name(),
            entry=entry or {"kind": "here", "cwd": os.getcwd(), "roots": [os.getcwd()]},
            draft=True,
            settings=recorded,
            parameters=tuple(cells),
            session=session.name(),
        )
        made = tasks.submit(store, new)
        return cls(store, made.id, made.uid)

    @classmethod
    def _copied(
        cls,
        base: str,
        place: tuple[str | None, str | None, str | None],
        entry: dict[str, Any],
        recorded: dict[str, Any],
        cells: Any,
    ) -> Self:
        project, name, kind = place
        source = TaskBase.of(base)
        made = edits.clone(source.store, source.row_id, name or str(source._column("name")), project)
        edits.amend(source.store, made.id, {**edits.facts(source.store, made.id), **entry}, recorded)
        if kind is not None:
            edits.label(source.store, made.id, type=kind)
        edits.set_parameters(source.store, made.id, cells)
        return cls(source.store, made.id, made.uid)


def _entry(repo: str | None, file: str | None, folder: str | None) -> dict[str, Any]:
    """What the draft runs; empty without a script."""
    root = Path(repo).expanduser().absolute() if repo else Path.cwd()
    cwd = root / folder if folder else root
    if not cwd.is_dir():
        raise errors.UsageError(f"the working directory {cwd} does not exist")
    if not file:
        return {}
    path = next((each for each in (cwd / file, root / file) if each.is_file()), None)
    if path is None:
        raise errors.UsageError(f"there is no script {cwd / file}", hint="script=… is relative to the working directory")
    path = Path(os.path.normpath(path))
    return {
        "kind": "script",
        "file": str(path),
        "source": path.read_text(encoding="utf-8"),
        "argv": [str(path)],
        "cwd": os.path.normpath(cwd),
        "roots": [str(path.parent)],
        "imports": [],
        "first": capture.comes_first(),
        **({"repository": str(root)} if repo else {}),
    }


def _asked(packages: Any, repo: Any, branch: Any, commit: Any, docker: Any) -> dict[str, Any]:
    """What was asked for, as people see it."""
    asked = {"packages": packages, "repo": repo, "branch": branch, "commit": commit, "docker": docker}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asked.items()}


def _record(**given: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is not None:
            notice.recorded(f"Task.create({name}=…)", "the script is stored as it is now")
            found[name] = list(value) if isinstance(value, (list, tuple)) else value if isinstance(value, bool) else str(value)
    return found
