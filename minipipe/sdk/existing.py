"""Pipelines that are in the store already: finding one, its steps as nodes, its version."""

from __future__ import annotations

import json
from collections.abc import Sequence

from minipipe import errors
from minipipe.sdk import session, versions
from minipipe.sdk.automation.job import ClearmlJob
from minipipe.sdk.node import Node
from minipipe.sdk.task import Task
from minipipe.store import runs


def find(pipeline_id: str | None, project: str | None, name: str | None, version: str | None, tags: Sequence[str] | None) -> Task:
    """See `PipelineController.get`."""
    if bool(pipeline_id) == bool(name or project):
        raise errors.UsageError("name a pipeline by its id, or by project and name")
    store = session.open_store()
    rows = runs.pipelines(store, pipeline_id or None, project, name, version, list(tags or ()))
    if not rows:
        shown = (
            repr(pipeline_id) if pipeline_id else f"{name!r} in project {project!r}" + (f", version {version}" if version else "")
        )
        raise errors.NotFound(f"no pipeline {shown}", hint="minipipe status --all")
    best = max(enumerate(rows), key=lambda pair: (versions.order(pair[1]["version"] or ""), pair[0]))[1]
    return Task(store, best["id"], best["uid"])


def nodes(place: session.Current) -> dict[str, Node]:
    """The steps of a stored pipeline: name -> node."""
    rows = runs.steps_with_templates(place.store, place.row_id)
    found = {}
    for row in rows:
        node = found[row["name"]] = Node(row["name"])
        node.base_task_id, node.queue, node.timeout = row["template"], row["queue"], row["time_limit_s"]
        node.job_type, node.cache_executed_step, node.continue_on_fail = (
            row["type"],
            bool(row["use_cache"]),
            bool(row["tolerated"]),
        )
        node.return_artifacts = list(json.loads(row["entry"]).get("returns", ()))
        node.job = ClearmlJob._of(place.store, row["id"], row["uid"])
        node.parameters = node.job.task.get_parameters()
        node.parents = runs.parents_of(place.store, row["id"])
    return found
