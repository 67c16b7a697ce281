"""Tasks that pipelines copy: which one a step means, what of it decides the cache, and the copy as it is submitted."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from minipipe import errors, hashing
from minipipe.sdk import pipeline, project_modules, references, session, task_fields, template_key
from minipipe.sdk.capture import import_root
from minipipe.sdk.dag import Plan
from minipipe.sdk.specs import StepSpec
from minipipe.sdk.task import Task
from minipipe.sdk.values import kept_cell, split_name, text_of
from minipipe.shown import warn
from minipipe.store import details, edits, records, runs, tasks

_SCRIPTS = 100  # beside the running one that are looked through for a template's name


def find(step: str, task_id: str | None, project: str | None, name: str | None) -> Task:
    """The task that a step copies: by id, or the newest of exactly that project and name that did not fail (ClearML's rule).

    Raises:
        BadPipeline: neither an id nor a name was given.
        NotFound: there is none.
    """
    store = session.open_store()
    if task_id:
        row = details.task_by_uid(store, task_id)
        if row is None:
            raise errors.NotFound(f"no task {task_id!r}", f"step {step!r} copies it", "minipipe status --all")
        return Task(store, row["id"], row["uid"])
    if not name:
        raise errors.BadPipeline(
            f"step {step!r} names no task to copy", hint="base_task_id, or base_task_project and base_task_name"
        )
    row = runs.newest_template(store, project, name)
    if row is None:
        place = f" in project {project!r}" if project else ""
        raise errors.NotFound(f"no task {name!r}{place}", f"step {step!r} copies it", _who_registers(name))
    if row["archived"]:
        warn(f"step {step!r} copies task {row['uid'][:8]} {name!r}, which is archived", stacklevel=4)
    return Task(store, row["id"], row["uid"])


def _who_registers(name: str) -> str:
    """The command that registers a template: a script beside the running one that has its name in quotes is taken for it."""
    folder = import_root()
    for path in sorted(folder.glob("*.py"))[:_SCRIPTS]:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if (
            path.name != os.path.basename(sys.argv[0])
            and re.search(f"""['"]{re.escape(name)}['"]""", text)
            and "Task.init" in text
        ):
            return f"minipipe run {shlex.quote(os.path.relpath(path))} registers it"
    return "`minipipe run` the script that registers it"


def copy_of(plan: Plan, spec: StepSpec, parameters: Mapping[str, Any]) -> tasks.NewTask:
    """The copy of a template with what the step overrides; references to steps are left to the store.

    Args:
        plan: the step.
        spec: the step as it is submitted.
        parameters: of the pipeline.
    """
    template = plan.template
    assert template is not None
    kept = edits.facts(template.store, template.row_id).items()
    entry = project_modules.watched({name: value for name, value in kept if name not in ("mode", "refresh", "told")})
    if spec.needs.limits:
        entry["limits"] = spec.needs.limits.facts()
    run = runs.facts(template.store, template.row_id)
    known = {(row["section"], row["name"]): row["type"] for row in records.parameters(template.store, template.row_id)}
    cells, waiting = [], []
    for key, value in plan.overrides.items():
        place = split_name(key)
        filled = references.fill(value, parameters)
        cells.append(kept_cell(*place, filled, known.get(place, "")))
        if references.has_step_reference(value):
            waiting.append((*place, text_of(filled)[0]))
    new = tasks.NewTask(
        type=template.task_type,
        name=spec.name,
        project=template.get_project_name() if run is not None else "",  # else the run knows
        entry=entry,
        template_id=None if plan.itself else template.row_id,
        adopts=template.row_id if plan.itself else None,
        controller=run is not None,
        is_run=run is not None,
        nested=run is not None,
        version=run["version"] if run is not None else None,
        abort_on_failure=bool(run is not None and run["abort_on_failure"]),
        time_limit_s=spec.time_limit_s,
        tolerated=spec.behaviour.on_fail,
        tolerates_abort=spec.behaviour.on_abort,
        passes=spec.behaviour.passes,
        key_base=template_key.key_base(template),
        settings=spec.recorded,
        parameters=tuple(cells),
        placeholders=tuple(waiting),
        configurations=tuple((name, pipeline.text_of(value)) for name, value in plan.configurations.items()),
        monitors=spec.monitors,
        tags=spec.tags,
    )
    fields = {name: references.fill(value, parameters) for name, value in plan.fields.items()}
    fixed = {name: value for name, value in fields.items() if not references.has_step_reference(value)}
    return changed(new, task_fields.changes(template.store, spec.name, entry, fixed)) if fixed else new


def changed(new: tasks.NewTask, wanted: task_fields.Changes) -> tasks.NewTask:
    """A step with what its ``task_overrides`` say."""
    return replace(
        new,
        entry=wanted.entry or new.entry,
        project=wanted.project or new.project,
        comment=wanted.comment,
        tags=(*new.tags, *(wanted.tags or ())),
        system_tags=(*new.system_tags, *(wanted.system_tags or ())),
        settings={**new.settings, "task_overrides": wanted.recorded},
        key_base=hashing.combine("overrides", new.key_base, json.dumps(wanted.entry or {}, sort_keys=True))
        if new.key_base
        else None,
    )
