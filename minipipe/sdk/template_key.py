"""What of a stored task's code decides whether an earlier copy of it may serve."""

from __future__ import annotations

from minipipe import hashing
from minipipe.sdk.project_modules import modules
from minipipe.sdk.task_base import TaskBase
from minipipe.store import details, edits


def key_base(template: TaskBase) -> str:
    """What of a template's code goes into the cache key: its script and the project modules that it imports, or its function."""
    entry = edits.facts(template.store, template.row_id)
    if entry.get("kind") == "script":
        imported = modules(entry["source"], [entry["cwd"], *entry["roots"]])
        return hashing.combine("script", entry["source"], *(part for pair in sorted(imported.items()) for part in pair))
    code, links = details.code_links(template.store, template.row_id)
    facts = [part for link in links for part in (link["role"], link["name"], link["digest"])]
    return hashing.combine("function", str(entry.get("module")), str(entry.get("qualname")), code, *facts)
