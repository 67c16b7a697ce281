"""What flows between the steps of a run, argument by argument. Reads only; decodes nothing."""

from __future__ import annotations

from dataclasses import dataclass

from minipipe.store.home import Store


@dataclass(frozen=True, slots=True)
class Input:
    """A value that a step was given.

    Attributes:
        task_id: the step.
        name: of its argument.
        source_id: the step whose output it is, None for a value that came with the call.
        source_name: that output's name.
        preview: of the value, "" if none was stored with it.
    """

    task_id: int
    name: str
    type: str
    preview: str
    source_id: int | None
    source_name: str


def inputs_of_run(store: Store, run_id: int) -> dict[int, list[Input]]:
    """Inputs of all steps of a run, by step, in the order of their arguments."""
    found: dict[int, list[Input]] = {}
    for row in store.database.rows(
        "SELECT a.task_id, a.name, a.type, a.preview, a.source_id, a.source_name FROM task t JOIN artifact a ON a.task_id = t.id"
        " WHERE t.parent_id = ? AND t.superseded = 0 AND a.role IN ('input', 'reference') ORDER BY a.id",
        (run_id,),
    ):
        name = row["source_name"] or ""
        whole = "${" not in name  # else a text that several outputs were filled into
        found.setdefault(row["task_id"], []).append(
            Input(
                row["task_id"],
                row["name"],
                row["type"],
                row["preview"],
                row["source_id"] if whole else None,
                name if whole else "",
            )
        )
    return found
