"""Where and with what a task runs, for people. Apart from `minipipe.store.details`, which `status` loads: this needs blake3."""

from __future__ import annotations

from typing import Any

from minipipe.store import environments
from minipipe.store.home import Store


def surroundings_of(store: Store, task_id: int, entry: dict[str, Any]) -> dict[str, Any]:
    """Where and with what a task runs: folders, imports (not minipipe's own) with versions, environment, commit, container, limits.

    Args:
        entry: of the task, as data.
    """
    facts = {key: value for key, value in entry.items() if key not in _SHOWN_OTHERWISE and value}
    for name in ("imports", "first"):
        if theirs := [each for each in entry.get(name, ()) if each.partition(".")[0] != "minipipe"]:
            facts[name] = theirs
    if entry.get("versions"):
        facts["versions"] = [f"{name}=={version}" for name, version in entry["versions"].items()]
    made = environments.of_task(store, task_id)
    if made is not None:
        how = f"{made.installer}, {made.duration_s:.1f}s" if made.resolved is not None else "not built yet"
        facts["environment"] = f"{made.digest[:8]}, python {made.requirements.python}, {how}"
        facts["resolved"] = list(made.resolved or ())
    patch = entry.get("diff", "")
    if pinned := entry.get("pinned"):
        patch = pinned["patch"]
        facts["repository"] = pinned["url"]
        facts["commit"] = f"{pinned['commit']}{' (' + pinned['branch'] + ')' if pinned['branch'] else ''}"
    if patch:
        changed = patch.count("\ndiff --git ") + 1
        facts["changes"] = f"{changed} {'file' if changed == 1 else 'files'} not committed"
        facts["patch"] = patch
    facts |= {f"container {key}": value for key, value in entry.get("container", {}).items() if value}
    facts |= {f"limit {key}": value for key, value in entry.get("limits", {}).items()}
    return facts


_SHOWN_OTHERWISE = frozenset("source files returns imports first versions pinned container limits diff".split())
