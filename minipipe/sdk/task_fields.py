"""ClearML's fields of a task, by their dotted names: read by ``${STEP.script.branch}``, changed by ``task_overrides``.

| field | what changing it does |
|---|---|
| ``comment`` ``tags`` ``system_tags`` ``project`` | the step's task has that; a project is a name or an id |
| ``script.`` ``repository`` ``branch`` ``version_num`` ``tag`` ``entry_point`` ``working_dir`` | that code runs, checked out |
| everything else of ``script`` ``execution`` ``container`` ``output`` | recorded |
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minipipe import errors
from minipipe.engine import repository
from minipipe.sdk.task import Task
from minipipe.store import edits, records
from minipipe.store.home import Store

FIELDS: dict[str, tuple[str, ...]] = {
    "script": (
        "repository", "branch", "version_num", "tag", "entry_point", "working_dir", "binary", "diff", "requirements",
    ),
    "execution": ("queue", "parameters", "model_desc", "model_labels", "framework", "artifacts"),
    "container": ("image", "arguments", "setup_shell_script"),
    "output": ("destination", "model", "result", "error"),
    "comment": (),
    "tags": (),
    "system_tags": (),
    "project": (),
}  # fmt: skip
_CODE = ("repository", "branch", "version_num", "tag", "entry_point", "working_dir")


@dataclass(slots=True)
class Changes:
    """What ``task_overrides`` makes of a task; None is no change."""

    entry: dict[str, Any] | None = None
    comment: str | None = None
    project: str | None = None
    tags: tuple[str, ...] | None = None
    system_tags: tuple[str, ...] | None = None
    recorded: dict[str, Any] = field(default_factory=dict)


def check(step: str, overrides: Mapping[str, Any]) -> None:
    """Check the names of ``task_overrides``.

    Raises:
        BadPipeline: a field that no task has; the nearest is named.
    """
    known = [f"{first}.{part}" for first, parts in FIELDS.items() for part in parts] + [
        first for first, parts in FIELDS.items() if not parts
    ]
    for name in overrides:
        first, *parts = str(name).split(".")
        if first not in FIELDS or (parts and parts[0] not in FIELDS[first]) or (not parts and FIELDS[first]):
            near = difflib.get_close_matches(str(name), known, 1)
            raise errors.BadPipeline(
                f"step {step!r}: task_overrides knows no field {name!r}",
                f"it knows {', '.join(known)}",
                f"did you mean {near[0]!r}?" if near else "parameters are changed by parameter_override",
            )


def changes(store: Store, step: str, entry: dict[str, Any], overrides: Mapping[str, Any]) -> Changes:
    """Read ``task_overrides`` whose references are resolved.

    Args:
        store: where code is checked out.
        step: for errors.
        entry: what the task runs so far.
        overrides: field -> value.

    Raises:
        RepositoryError: the code cannot be had.
    """
    found, code = Changes(), {}
    for name, value in overrides.items():
        first, _, part = str(name).partition(".")
        if first == "comment":
            found.comment = str(value)
        elif first == "project":
            found.project = _project(store, str(value))
        elif first == "tags":
            found.tags = _tags(value)
        elif first == "system_tags":
            found.system_tags = _tags(value)
        elif first == "script" and part in _CODE:
            code[part] = str(value)
        found.recorded[str(name)] = value if isinstance(value, (str, int, float, bool, list, dict)) else str(value)
    if any(code.values()):
        found.entry = _with_code(store, step, entry, code)
    return found


def apply(task: Task, changed: Changes) -> None:
    """Change a task that waits for its launch. Transaction effect: one durable commit for each kind of change."""
    store, row_id = task.store, task.row_id
    settings = records.settings_of(store, row_id)
    told = {**settings.get("task_overrides", {}), **changed.recorded}
    edits.amend(store, row_id, changed.entry or edits.facts(store, row_id), {"task_overrides": told})
    if changed.comment is not None:
        task.set_comment(changed.comment)
    if changed.project is not None:
        edits.set_project(store, row_id, changed.project)
    if changed.tags is not None:
        edits.set_tags(store, row_id, changed.tags)
    if changed.system_tags is not None:
        edits.set_tags(store, row_id, changed.system_tags, system=True)


def _tags(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [value]
    return tuple(str(tag) for tag in (value if isinstance(value, (list, tuple)) else [value]))


def _project(store: Store, value: str) -> str:
    row = records.project_of(store, uid=value)
    return str(row["name"]) if row is not None else value


def _with_code(store: Store, step: str, entry: dict[str, Any], code: Mapping[str, str]) -> dict[str, Any]:
    file = entry.get("file", "")
    home = Path(file).parent if file else Path(entry["cwd"])
    commit = code.get("version_num") or code.get("tag") or None
    pinned = repository.pin(
        store, step, code.get("repository") or str(home), code.get("branch") or None, commit, code.get("working_dir") or None
    )
    root = repository.check_out(store, pinned)
    folder = root / pinned.working_dir
    changed = {**entry, "repository": pinned.facts(), "cwd": str(folder), "roots": [str(folder), str(root)]}
    if entry.get("kind") != "script":
        return changed
    script = folder / code["entry_point"] if code.get("entry_point") else root / _below(file)
    if not script.is_file():
        raise errors.RepositoryError(
            f"step {step!r}: no script {script.name!r} in {pinned.url} at {pinned.commit[:8]}",
            f"looked for {script.relative_to(root)}",
            "task_overrides={'script.entry_point': 'path/below/the/working_dir.py'}",
        )
    return {
        **changed,
        "file": str(script),
        "source": script.read_text(encoding="utf-8"),
        "roots": [str(script.parent), str(folder), str(root)],
    }


def _below(file: str) -> str:
    """Where a file is below the root of its own repository; its bare name if it is in none."""
    for folder in Path(file).parents:
        if (folder / ".git").exists():
            return str(Path(file).relative_to(folder))
    return Path(file).name


# -- reading ------------------------------------------------------------------------------------------------------------


def text_of(task: Task, parts: list[str]) -> str:
    """The text of a field of a task: ``["script", "branch"]``; what it does not have is empty."""
    name = ".".join(parts)
    settings = records.settings_of(task.store, task.row_id)
    told = settings.get("task_overrides", {})
    if parts[0] == "comment":
        return task.comment
    if parts[0] == "project":
        return str(task.project or "")
    if parts[0] in ("tags", "system_tags"):
        return json.dumps(list(task.get_tags() if parts[0] == "tags" else task.get_system_tags()))
    if name in told:
        return str(told[name])
    if parts[0] == "script":
        return _of_script(edits.facts(task.store, task.row_id), parts[1])
    if name == "execution.queue":
        return task.get_executed_queue(return_name=True) or ""
    found = {"container.image": "docker", "container.arguments": "docker_args", "container.setup_shell_script": "docker_bash_setup_script",
             "output.destination": "output_uri"}.get(name, "")  # fmt: skip
    return str(settings.get(found) or "")


def _of_script(entry: dict[str, Any], part: str) -> str:
    code = entry.get("repository") or {}
    code = code if isinstance(code, dict) else {"url": code}
    known = {
        "repository": code.get("url"),
        "branch": code.get("branch") or entry.get("branch"),
        "version_num": code.get("commit") or entry.get("commit"),
        "diff": code.get("patch") or entry.get("diff"),
        "working_dir": code.get("working_dir") or entry.get("cwd"),
        "entry_point": entry.get("file") or (f"{entry['module']}:{entry['qualname']}" if "module" in entry else None),
        "requirements": "\n".join(entry.get("packages", ())),
    }
    return str(known.get(part) or "")
