"""A pipeline as its author wrote it, and what a run of it is stored as: name, version, parameters, code."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from minipipe import errors, states
from minipipe.sdk import declared, overrides, proxy, session, values, versions
from minipipe.sdk.capture import import_root
from minipipe.sdk.needs import Needs
from minipipe.sdk.script import capture_script
from minipipe.sdk.specs import Retry
from minipipe.store import edits, records, runs, tasks
from minipipe.store.home import Store


@dataclass(frozen=True, slots=True)
class Definition:
    """A pipeline as its author wrote it. See `PipelineDecorator.pipeline`."""

    name: str
    project: str
    version: str | None = None
    return_value: str | None = None
    default_queue: str | None = None
    add_pipeline_tags: bool = False
    target_project: str | bool | None = None
    abort_on_failure: bool = False
    queue: str | None = "services"
    add_run_number: bool = True
    sections: dict[str, str] = field(default_factory=dict)
    here: bool = False
    retry: Retry = None
    recorded: dict[str, Any] = field(default_factory=dict)
    local_imports: bool = True
    serialize: Callable[[Any], bytes | bytearray] | None = None
    deserialize: Callable[[bytes], Any] | None = None
    called: str = "result_{step}_{argument}"  # see `RunOptions`
    needs: Needs = field(default_factory=Needs)
    descriptions: dict[str, str] = field(default_factory=dict)
    call: int = 0  # number of the call, of a pipeline with many instances
    types: dict[str, Any] = field(default_factory=dict)  # of its arguments: annotations
    places: dict[str, str] = field(default_factory=dict)  # of its arguments: file and line
    usual: dict[str, Any] = field(default_factory=dict)  # of its arguments: defaults
    own_project: str = ""  # of a main task that became the pipeline's

    @property
    def hidden_project(self) -> str:
        """Project of the pipeline's task."""
        return self.own_project or f"{self.project}/.pipelines/{self.name}"

    @property
    def key(self) -> str:
        """Tells it from other pipelines of its script, whatever clones of its runs are called."""
        return f"{self.project}/.pipelines/{self.name}"

    def known(self, given: Mapping[str, Any]) -> list[overrides.Known]:
        """Its arguments as its code declares them."""
        return overrides.known_in_code(given, self.sections, self.types, self.places)


def here(definition: Definition, mode: str) -> dict[str, Any]:
    """The entry of a run whose logic runs in this process: enough for `minipipe resume` to run it again."""
    try:
        entry = capture_script(f"pipeline {definition.name!r}")
    except errors.CannotTravel:
        entry = {"kind": "here", "cwd": os.getcwd(), "roots": [str(import_root())]}
    return {**entry, "mode": mode} if mode else entry


def controller(store: Store, definition: Definition, given: dict[str, Any], entry: dict[str, Any], name: str) -> tasks.NewTask:
    return tasks.NewTask(
        type=str(states.TaskTypes.controller),
        name=name,
        project=definition.hidden_project,
        entry=entry,
        queue=definition.queue,
        controller=True,
        is_run=True,
        version=definition.version or _next_version(store, definition),
        session=os.environ.get(session.SESSION_VARIABLE, ""),
        private=False,
        abort_on_failure=definition.abort_on_failure,
        settings={**definition.recorded, "pipeline": definition.key, **({"call": definition.call} if definition.call else {})},
        parameters=(*cells(definition, given), *setting_cells(definition)),
        system_tags=("pipeline",),
    )


_SETTINGS = ("target_project", "default_queue", "add_pipeline_tags")  # parameters of section `pipeline`


def setting_cells(definition: Definition) -> list[tasks.Parameter]:
    """What a clone may change of how the pipeline runs (ClearML's section ``pipeline``), as far as it is said."""
    said = {name: getattr(definition, name) for name in _SETTINGS}
    if said["target_project"] is True:  # the pipeline's own, as without it
        del said["target_project"]
    return [values.cell("pipeline", name, value) for name, value in said.items() if value]


def as_stored(store: Store, task_id: int, definition: Definition) -> Definition:
    """The pipeline with what its run, a clone perhaps, says of how it runs."""
    told: dict[str, Any] = {name: getattr(definition, name) for name in _SETTINGS}
    for row in records.parameters(store, task_id):
        if row["section"] == "pipeline" and row["name"] in told:
            told[row["name"]] = json.loads(row["value"]) or None
    tags = told["add_pipeline_tags"]
    return replace(
        definition,
        default_queue=told["default_queue"],
        target_project=told["target_project"],
        add_pipeline_tags=values.cast(tags, bool, "pipeline/add_pipeline_tags") if isinstance(tags, str) else bool(tags),
    )


def cells(definition: Definition, given: dict[str, Any]) -> list[tasks.Parameter]:
    return [
        replace(
            values.cell(definition.sections.get(key, "Args"), key, proxy.resolve(value), definition.descriptions.get(key)),
            declared=declared.written(definition.types[key], definition.places.get(key, "")) if key in definition.types else None,
            usual=values.text_of(definition.usual[key])[0] if key in definition.usual else None,
        )
        for key, value in given.items()
    ]


def numbered(store: Store, definition: Definition) -> str:
    """``NAME``, then ``NAME #2`` … (ClearML's rule)."""
    if not definition.add_run_number:
        return definition.name
    before = runs.count_of(store, definition.hidden_project)
    return definition.name if before == 0 else f"{definition.name} #{before + 1}"


def _next_version(store: Store, definition: Definition) -> str:
    """The last version of this pipeline with its last release number plus 1, or 1.0.0 (ClearML's rule)."""
    name = definition.name if definition.own_project else None
    return versions.following(runs.last_version(store, definition.hidden_project, name))


def become_pipeline(store: Store, task_id: int, definition: Definition) -> None:
    """Make a draft that runs a script the task of the pipeline that the script defines. Transaction effect: one durable commit."""
    new = controller(store, definition, {}, edits.facts(store, task_id), definition.name)
    edits.become_run(store, task_id, replace(new, settings={}))  # the script says which of its pipelines it is
