"""``minipipe artifacts`` and ``minipipe get``: named values of tasks, listed without decoding, saved as the bytes they are."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from minipipe import errors
from minipipe.cli import files, output
from minipipe.cli.output import Output
from minipipe.store import blobs, details, lookup, plots, records, sessions, views
from minipipe.store.home import Store

_EXTENSIONS = {"json": ".json", "bytes": ".bin", "npy": ".npy", "pickle": ".pkl", "folder": ".tar", "scalar": ".json"}
_HEADERS = ("STEP", "NAME", "ROLE", "TYPE", "SIZE", "DIGEST", "PREVIEW")


@click.command()
@click.argument("name", metavar="[RUN[/STEP]]", default="@last")
@output.pipeline_option
@output.pass_output
def artifacts(out: Output, name: str, pipeline: str | None) -> None:
    """List the artifacts of a run or a step.

    Outputs (scalar results too), inputs and code. Nothing is loaded: previews were stored with the values.

    \b
    Examples:
      minipipe artifacts @last
      minipipe artifacts calm-otter/train --json
    """
    store = out.open_store()
    task = lookup.find_task(store, name, pipeline)
    tasks = [task, *(views.steps_of(store, task["id"]) if task["run_name"] is not None else ())]
    found = [(row, one) for row in tasks for one in details.artifacts_of(store, row)]
    if out.quiet and not out.json:
        for row, one in found:
            output.write(output.escape(f"{details.label_of(store, row)}/{one['name']}"))
        return
    cells = [
        (
            _step_name(row),
            one["name"],
            one["role"],
            one["type"],
            output.size(one["size"]),
            (one["digest"] or "")[:8],
            one["preview"],
        )
        for row, one in found
    ]
    documents = [
        {
            "id": row["uid"],
            "step": _step_name(row) or None,
            **{key: one[key] for key in ("name", "role", "type", "size", "digest", "preview", "codec")},
            "metadata": json.loads(one["metadata"]),
        }
        for row, one in found
    ]
    output.print_table(cells, _HEADERS, out.format, documents)


def _step_name(row: sqlite3.Row) -> str:
    return "" if row["run_name"] is not None else str(row["name"])


@click.command()
@click.argument("name", metavar="RUN/STEP/NAME")
@click.option("-o", "target", metavar="FILE", help="Where to (default ./NAME.ext); - is stdout.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--load", is_flag=True, help="Load the value and print its repr; this may run code that is stored in it.")
@output.pass_output
def get(out: Output, name: str, target: str | None, force: bool, load: bool) -> None:
    """Save an artifact to a file.

    The bytes are checked against their digest first. A folder is saved as a tar archive, a scalar result as JSON. What a step
    reported to be looked at (plots, pictures, sound) is named by title and series; the newest is meant.

    \b
    Examples:
      minipipe get @last/split/train_points
      minipipe get @last/train/model --load
      minipipe get @last/train/accuracy -o -
      minipipe get "@last/train/samples/wrong ones"
    """
    store = out.open_store()
    task, artifact = lookup.split_artifact(store, name)
    one = _find(store, task, artifact)
    if load:
        _load(store, out, task, artifact)
        return
    data = _bytes_of(store, one)
    if target == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    path = _target(target, one)
    files.save(path, data, force)
    if out.json:
        document = {"path": str(path), "size": len(data), "digest": one["digest"], "type": one["type"], "codec": one["codec"]}
        output.print_json(document, line=out.format == "jsonl")
    else:
        output.write(output.escape(path))


def _find(store: Store, task: sqlite3.Row, name: str) -> dict[str, Any]:
    outputs = [one for one in details.artifacts_of(store, task) if one["role"] == "output"]
    for one in outputs:
        if one["name"] == name:
            return one
    for plot in reversed(plots.newest(plots.of_task(store, task["id"]))):
        if f"{plot.title}/{plot.series}" == name and plot.digest is not None:
            return _as_file(plot)
    label = details.label_of(store, task)
    if any(step["name"] == name for step in sessions.steps(store, task["id"])):
        hint = f"minipipe artifacts {label}/{name}"
        raise errors.NotFound(f"{label}/{name} names no artifact", "it is a step; an artifact is RUN/STEP/NAME", hint, name=name)
    names = ", ".join(one["name"] for one in outputs)
    raise errors.NotFound(
        f"{label} has no artifact {name!r}",
        f"it has {names}" if names else f"it has none; it is {task['status']}",
        f"minipipe artifacts {label}",
        name=name,
    )


def _as_file(plot: plots.Plot) -> dict[str, Any]:
    """A plot as an artifact's facts: a file with the suffix that it came with."""
    file = f"{plot.title}.json" if plot.is_figure else plot.file
    facts = {"name": f"{plot.title}-{plot.series}", "type": plot.type, "digest": plot.digest, "codec": "file"}
    return {**facts, "metadata": json.dumps({"name": file})}


def _bytes_of(store: Store, one: dict[str, Any]) -> bytes | memoryview:
    if one["codec"] == "scalar":
        return f"{one['value']}\n".encode()
    if one["digest"] is None:
        raise errors.NotFound(f"artifact {one['name']!r} has no bytes", "it stands for None")
    return blobs.load(store, one["digest"], f"artifact {one['name']!r}")


def _target(given: str | None, one: dict[str, Any]) -> Path:
    """Where to save. Only `-o` can name a folder: an artifact's own name never leads out of the current one."""
    stem = re.sub(r"[^\w.+-]", "_", one["name"]).lstrip(".") or "artifact"
    extension = _EXTENSIONS.get(one["codec"], "")
    if one["codec"] == "file":
        suffix = Path(json.loads(one["metadata"]).get("name") or "").suffix
        extension = suffix if re.fullmatch(r"\.\w+", suffix) else ""
    name = stem if extension and stem.endswith(extension) else stem + extension
    if given is None:
        return Path(name[-200:])
    path = Path(given).expanduser()
    return path / name[-200:] if path.is_dir() else path


def _load(store: Store, out: Output, task: sqlite3.Row, name: str) -> None:
    entry = json.loads(task["entry"])
    sys.path += [root for root in entry.get("roots", []) if root not in sys.path]  # where the value's own classes are
    with tempfile.TemporaryDirectory(prefix="minipipe-") as scratch:
        value = records.value_of(store, task["id"], name, Path(scratch))
        try:
            text = repr(value)
        except Exception as error:
            raise errors.ArtifactError(
                f"artifact {name!r} cannot be shown", f"its repr raised {type(error).__name__}: {error}", "load it in Python"
            ) from error
    if out.json:
        output.print_json({"id": task["uid"], "name": name, "repr": text}, line=out.format == "jsonl")
    else:
        output.write(output.escape_lines(text))
