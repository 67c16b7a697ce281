"""Drafts from a script, without running it (ClearML's `Task.create`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from minipipe import context, errors, states
from minipipe.sdk import notice, script, session, values
from minipipe.sdk.task_base import TaskBase
from minipipe.store import edits, tasks


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
            repo: a local folder that `script` and `working_directory` are relative to.
            script: a Python file; its text is stored.
            working_directory: where it runs; default the repository, else the current folder.
            argparse_args: (name, value) pairs that its command line gets, as parameters of section ``Args``.
            base_task_id: start from a copy of this task.
            add_task_init_call: False leaves the script's command line alone.
            branch, commit, packages, requirements_file, docker, docker_args, docker_bash_setup_script, force_single_script_file,
                binary, detect_repository: recorded.
            module: not offered.

        Raises:
            UsageError: no such script or folder, or an unknown type.
            NotSupported: a module, or a repository that is a URL.

        Transaction effect: one durable commit, more with `base_task_id`.
        """
        if module:
            raise errors.NotSupported("Task.create(module=…) is not offered", hint="script=… names the file")
        if task_type is not None and str(task_type) not in states.TaskTypes.__members__:
            raise errors.UsageError(f"{str(task_type)!r} is no task type", f"known are {', '.join(states.TaskTypes.__members__)}")
        recorded = _record(
            branch=branch,
            commit=commit,
            packages=packages,
            requirements_file=requirements_file,
            docker=docker,
            docker_args=docker_args,
            docker_bash_setup_script=docker_bash_setup_script,
            force_single_script_file=force_single_script_file or None,
            binary=binary,
            detect_repository=None if detect_repository else False,
        )
        entry = _entry(repo, script, working_directory)
        recorded |= {"create": True, "arguments": bool(add_task_init_call)}
        cells = [values.cell("Args", str(name).lstrip("-"), value) for name, value in argparse_args or ()]
        place = (project_name, task_name, None if task_type is None else str(task_type))
        return (
            cls._copied(base_task_id, place, entry, recorded, cells) if base_task_id else cls._made(place, entry, recorded, cells)
        )

    @classmethod
    def _made(
        cls, place: tuple[str | None, str | None, str | None], entry: dict[str, Any], recorded: dict[str, Any], cells: Any
    ) -> Self:
        project, name, kind = place
        store = session.open_store()
        new = tasks.NewTask(
            type=kind or str(states.TaskTypes.training),
            name=name or (Path(entry["file"]).stem if "file" in entry else "task"),
            project=project or script.project_name(),
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
    if (repo and "://" in repo) or (repo and repo.startswith("git@")):
        raise errors.NotSupported("Task.create(repo=URL) is not offered yet", hint="clone it and give its folder: repo='path'")
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
        **context.first_imports(),
        **({"repository": str(root)} if repo else {}),
    }


def _record(**given: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value is not None:
            notice.recorded(f"Task.create({name}=…)", "the environment is the worker's, and the script is stored as it is now")
            found[name] = list(value) if isinstance(value, (list, tuple)) else value if isinstance(value, bool) else str(value)
    return found
