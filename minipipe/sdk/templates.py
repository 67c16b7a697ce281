"""Tasks that pipelines copy: which one a step means, what of it decides the cache, and the copy as it is submitted."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minipipe import errors, hashing
from minipipe.sdk import pipeline, references, session
from minipipe.sdk.dag import Plan
from minipipe.sdk.specs import StepSpec
from minipipe.sdk.task import Task
from minipipe.sdk.values import kept_cell, split_name, text_of
from minipipe.store import edits, records, tasks

_STATUSES = "('created', 'queued', 'in_progress', 'published', 'stopped', 'completed')"


def find(step: str, task_id: str | None, project: str | None, name: str | None) -> Task:
    """The task that a step copies: by id, or the newest of exactly that project and name that did not fail (ClearML's rule).

    Raises:
        BadPipeline: neither an id nor a name was given.
        NotFound: there is none.
    """
    store = session.open_store()
    if task_id:
        row = store.database.row("SELECT id, uid FROM task WHERE uid = ?", (task_id,))
        if row is None:
            raise errors.NotFound(f"no task {task_id!r}", f"step {step!r} copies it", "minipipe status --all")
        return Task(store, row["id"], row["uid"])
    if not name:
        raise errors.BadPipeline(
            f"step {step!r} names no task to copy", hint="base_task_id, or base_task_project and base_task_name"
        )
    row = store.database.row(
        "SELECT t.id, t.uid, t.archived FROM task t JOIN project p ON p.id = t.project_id"
        f" WHERE (:project IS NULL OR p.name = :project) AND t.name = :name AND t.status IN {_STATUSES}"
        " ORDER BY t.archived, t.updated_at DESC, t.id DESC LIMIT 1",
        {"project": project, "name": name},
    )
    if row is None:
        place = f" in project {project!r}" if project else ""
        raise errors.NotFound(
            f"no task {name!r}{place}", f"step {step!r} copies it", "`minipipe run` the script that registers it"
        )
    if row["archived"]:
        warnings.warn(f"step {step!r} copies task {row['uid'][:8]} {name!r}, which is archived", UserWarning, stacklevel=4)
    return Task(store, row["id"], row["uid"])


def copy_of(plan: Plan, spec: StepSpec, parameters: Mapping[str, Any]) -> tasks.NewTask:
    """The copy of a template with what the step overrides; references to steps are left to the store.

    Args:
        plan: the step.
        spec: the step as it is submitted.
        parameters: of the pipeline.
    """
    template = plan.template
    assert template is not None
    known = {(row["section"], row["name"]): row["type"] for row in records.parameters(template.store, template.row_id)}
    cells, waiting = [], []
    for key, value in plan.overrides.items():
        place = split_name(key)
        filled = references.fill(value, parameters)
        cells.append(kept_cell(*place, filled, known.get(place, "")))
        if references.has_step_reference(value):
            waiting.append((*place, text_of(filled)[0]))
    return tasks.NewTask(
        type=template.task_type,
        name=spec.name,
        project="",  # the run knows
        entry=edits.facts(template.store, template.row_id),
        template_id=template.row_id,
        time_limit_s=spec.time_limit_s,
        tolerated=spec.tolerated,
        key_base=_key_base(template),
        settings=spec.recorded,
        parameters=tuple(cells),
        placeholders=tuple(waiting),
        configurations=tuple((name, pipeline.text_of(value)) for name, value in plan.configurations.items()),
        monitors=spec.monitors,
        tags=spec.tags,
    )


def _key_base(template: Task) -> str:
    """What of a template's code goes into the cache key: its script and the project modules that it imports, or its function."""
    entry = edits.facts(template.store, template.row_id)
    if entry.get("kind") == "script":
        modules = _modules(entry["source"], [entry["cwd"], *entry["roots"]])
        return hashing.combine("script", entry["source"], *(part for pair in sorted(modules.items()) for part in pair))
    row = template.store.database.row("SELECT code_key FROM task WHERE id = ?", (template.row_id,))
    links = template.store.database.rows(
        "SELECT role, name, coalesce(digest, '') AS digest FROM artifact WHERE task_id = ? AND role <> 'output'"
        " ORDER BY role, name",
        (template.row_id,),
    )
    facts = [part for link in links for part in (link["role"], link["name"], link["digest"])]
    return hashing.combine("function", str(entry.get("module")), str(entry.get("qualname")), str(row and row["code_key"]), *facts)


def _modules(source: str, folders: Sequence[str]) -> dict[str, str]:
    """The modules of the project that a script imports, also by way of others: file -> digest of its text."""
    found: dict[str, str] = {}
    work = [(source, "")]
    while work:
        text, package = work.pop()
        for name in _imports(text, package):
            for file in _files(name, folders):
                if str(file) not in found:
                    data = file.read_bytes()
                    found[str(file)] = hashing.digest_bytes(data)
                    work.append(
                        (data.decode("utf-8", "replace"), name if file.name == "__init__.py" else name.rpartition(".")[0])
                    )
    names = {file: next(folder for folder in folders if file.startswith(folder)) for file in found}
    return {file.removeprefix(names[file]): digest for file, digest in found.items()}


def _imports(text: str, package: str) -> list[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(part for part in (*above, node.module or "") if part)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name]


def _files(name: str, folders: Sequence[str]) -> list[Path]:
    """The files that importing a dotted name runs, as far as they lie in the project."""
    parts = name.split(".")
    for folder in folders:
        found = []
        for count in range(1, len(parts) + 1):
            place = Path(folder, *parts[:count])
            found += [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
        if found:
            return found
    return []
