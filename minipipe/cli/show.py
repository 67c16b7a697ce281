"""``minipipe show``: the facts of a run or a step, or one part of them alone."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

import click

from minipipe import errors, frames, states
from minipipe.cli import lines, output
from minipipe.cli.output import Output
from minipipe.store import details, lookup, models, plots, presence, reasons, records, surroundings, views
from minipipe.store.details import elapsed_s, error_of
from minipipe.store.home import Store


@click.command()
@click.argument("name", metavar="[RUN[/STEP]]", default="@last")
@click.option("--params", "part", flag_value="params", help="Parameters alone.")
@click.option("--config", "part", flag_value="config", help="Configuration objects alone.")
@click.option("--code", "part", flag_value="code", help="The captured source alone.")
@click.option("--env", "part", flag_value="env", help="Where and with what it was started.")
@click.option("--attempts", "part", flag_value="attempts", help="Every try, with its end.")
@output.pipeline_option
@output.pass_output
def show(out: Output, name: str, part: str | None, pipeline: str | None) -> None:
    """Show a run or a step.

    \b
    Examples:
      minipipe show
      minipipe show calm-otter/train --code
      minipipe show @last-failed --pipeline digits-demo
    """
    store = out.open_store()
    # No snapshot: a pager that blocks us must not hold a read transaction open.
    task = lookup.find_task(store, name, pipeline)
    if out.quiet and not out.json:
        output.write(task["uid"])
    elif part is not None:
        _PARTS[part](store, out, task)
    elif out.json:
        output.print_json(_document(store, task), line=out.format == "jsonl")
    elif task["run_name"] is not None:
        _show_run(store, task, out)
    else:
        _show_step(store, task, out)


# -- a run --------------------------------------------------------------------------------------------------------------


def _show_run(store: Store, run: sqlite3.Row, out: Output) -> None:
    now, living = time.time(), presence.living(store)
    counts = views.step_counts(store, run["id"])
    steps = views.steps_of(store, run["id"])
    when = output.clock(run["started_at"] or run["created_at"], out.utc)
    output.write(lines.painted(lines.headline(store, run, now, when)))
    origin = _origin(store, run)
    if origin:
        output.write("  " + output.escape(origin))
    given = lines.arguments(store, run["id"])
    if given:
        output.write("  " + output.escape(given))
    if kept := _recorded(run):
        output.write("  " + output.escape(f"recorded: {kept}"))
    waiting = reasons.waiting_reason(store, run, living, counts)
    if waiting:
        output.write("  " + output.escape(f"waiting: {waiting}"))
    elif run["reason"] and run["status"] not in states.GOOD and not any(step["status"] == states.FAILED for step in steps):
        output.write("  " + output.escape(run["reason"]))
    widths = (
        max((lines.width_of(output.escape(step["name"])) for step in steps), default=0),
        len(states.IN_PROGRESS),
    )
    for step in steps:
        notes = lines.notes_of(store, step, living, now)
        output.write(lines.painted(lines.step_line(step["name"], step["status"], notes, widths)))
    _next(run, steps)


def _origin(store: Store, run: sqlite3.Row) -> str:
    """``script flow.py, git 1a2b3c4 (dirty), python 3.11.7   from 7f3a91c2 calm-otter: lr 0.1 -> 9.9``."""
    entry = json.loads(run["entry"])
    parts = []
    if entry.get("file"):
        parts.append(f"script {output.shown_path(entry['file']).removeprefix('./')}")
    pinned = entry.get("pinned") or {"commit": entry.get("commit"), "patch": entry.get("diff")}
    if pinned["commit"]:
        parts.append(f"git {pinned['commit'][:7]}{' (dirty)' if pinned.get('patch') else ''}")
    if entry.get("python"):
        parts.append(f"python {entry['python']}")
    if entry.get("mode"):
        parts.append(f"{entry['mode']} mode")
    return "   ".join(part for part in (", ".join(parts), _copied_from(store, run)) if part)


def _copied_from(store: Store, task: sqlite3.Row) -> str:
    template = details.task_by_id(store, task["template_id"])
    if template is None:
        return ""
    changes = ", ".join(
        f"{name} {old or 'absent'} -> {new or 'absent'}"
        for name, old, new in details.changed_arguments(store, task["id"], template["id"])
    )
    return f"from {template['uid'][:8]} {template['run_name'] or template['name']}" + (f": {changes}" if changes else "")


def _next(run: sqlite3.Row, steps: list[sqlite3.Row]) -> None:
    name = run["run_name"]
    failed = next((step for step in steps if step["status"] == states.FAILED and not step["tolerated"]), None)
    words: tuple[str, ...] = ()
    if failed is not None:
        step = f"{name}/{failed['name']}"
        words = (f"logs {step}", f"step {step} --pdb", f"resume {name}")
    elif run["status"] in states.BAD:
        words = (f"resume {name}",)
    elif run["status"] in states.GOOD:
        words = (f"artifacts {name}", f"logs {name}", f"report {name}")
    elif run["status"] == states.CREATED:
        words = (f"rerun {name}",)
    elif run["status"] not in states.ENDED:
        words = (f"watch {name}", f"logs -f {name}", f"abort {name}")
    text = lines.following(*words)
    if text:
        output.note(f"next: {text}", kind="")


# -- a step -------------------------------------------------------------------------------------------------------------


def _show_step(store: Store, task: sqlite3.Row, out: Output) -> None:
    label, now = details.label_of(store, task), time.time()
    when = output.clock(task["started_at"] or task["ended_at"] or task["created_at"], out.utc)
    word = "step" if task["parent_id"] is not None else "task"
    spent = output.duration(elapsed_s(task, now))
    name = "" if task["parent_id"] is not None else f"{task['name']} ({details.project_of(store, task)})"
    parts = [(f"{word} {label}", ""), (name, ""), (task["status"], task["status"]), (spent, ""), (when, "")]
    output.write(lines.painted(lines.joined([(output.escape(text), status) for text, status in parts])))
    origin = _origin(store, task)
    if origin:
        output.write("  " + output.escape(origin))
    for name, text in _facts(store, task):
        if text:
            output.write(f"  {name:<10} {output.escape(text)}".rstrip())
    failure = error_of(task)
    if failure.get("traceback"):
        output.write("  traceback")
        output.write(
            "\n".join(
                "    " + line for line in output.escape_lines(frames.user_traceback(failure["traceback"])).rstrip().split("\n")
            )
        )
    if task["status"] == states.FAILED:
        pdb = f"step {label} --pdb" if task["parent_id"] is not None else f"show {label} --code"
        output.note(f"next: {lines.following(f'logs {label}', pdb)}", kind="")


def _facts(store: Store, task: sqlite3.Row) -> list[tuple[str, str]]:
    needs, needed_by = details.neighbours(store, task["id"])
    source = details.task_by_id(store, task["cached_from"])
    failure = error_of(task)
    artifacts = details.artifacts_of(store, task)
    tries = f"{task['attempt']} of {task['max_retries'] + 1}" if task["max_retries"] else str(task["attempt"])
    extra = [f"{word} {task[word]}" for word in ("retries", "crashes", "returns") if task[word]]
    return [
        ("id", task["uid"]),
        ("type", task["type"]),
        ("queue", (task["queue"] or "") + (f", priority {task['priority']}" if task["priority"] else "")),
        ("cached", f"from {details.label_of(store, source)}" if source is not None else ""),
        ("attempts", ", ".join([tries, *extra]) if task["attempt"] else ""),
        ("waiting", reasons.waiting_reason(store, task, presence.living(store))),
        ("reason", task["reason"] if source is None else ""),
        ("where", failure.get("where", "")),
        ("needs", ", ".join(needs)),
        ("needed by", ", ".join(needed_by)),
        ("params", lines.arguments(store, task["id"])),
        ("recorded", _recorded(task)),
        ("inputs", _names(artifacts, "input")),
        ("outputs", _names(artifacts, "output")),
        ("models", _models(store, task)),
        ("plots", _plots(store, task)),
        ("tags", ", ".join(details.tags_of(store, task["id"]))),
        ("comment", task["comment"]),
    ]


def _recorded(task: sqlite3.Row) -> str:
    """Arguments that are kept with a task; not what minipipe itself keeps there."""
    kept = json.loads(task["settings"]).items()
    return " ".join(
        f"{name}={_short(value)}" for name, value in kept if name not in ("pipeline", "call", "called_by", "init", "create")
    )


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _models(store: Store, task: sqlite3.Row) -> str:
    """``best (PyTorch, 7 kB), pretrained (input, ONNX)``."""
    found = []
    for one in models.of_task(store, task["id"]):
        bytes_ = output.size(one.model.size) if one.model.digest is not None else one.model.url or ""
        facts = ("input" if one.role == models.INPUT else "", one.model.framework, bytes_)
        found.append(f"{one.name} ({', '.join(fact for fact in facts if fact)})")
    return ", ".join(found)


def _plots(store: Store, task: sqlite3.Row) -> str:
    """``confusion/test, samples/epoch (image/png)``: the newest of each title and series."""
    found = plots.newest(plots.of_task(store, task["id"]))
    return ", ".join(f"{one.title}/{one.series}" + ("" if one.is_figure else f" ({one.type})") for one in found)


def _names(artifacts: list[dict[str, Any]], role: str) -> str:
    found = []
    for one in artifacts:
        if one["role"] == role:
            facts = ", ".join(part for part in (one["type"], output.size(one["size"]) if one["digest"] else "") if part)
            value = f" = {one['preview']}" if one["digest"] is None and one["preview"] else ""
            found.append(f"{one['name']} ({facts}){value}" if facts else f"{one['name']}{value}")
    return ", ".join(found)


# -- one part -----------------------------------------------------------------------------------------------------------


def _params(store: Store, out: Output, task: sqlite3.Row) -> None:
    rows = records.parameters(store, task["id"])
    cells = [(row["section"], row["name"], row["text"], row["type"], row["description"]) for row in rows]
    documents = [
        {**{key: row[key] for key in ("section", "name", "text", "type", "description")}, "value": json.loads(row["value"])}
        for row in rows
    ]
    output.print_table(cells, ("SECTION", "NAME", "VALUE", "TYPE", "DESCRIPTION"), out.format, documents)


def _config(store: Store, out: Output, task: sqlite3.Row) -> None:
    rows = details.configurations_of(store, task["id"])
    if out.format != "table":
        documents = [{key: row[key] for key in ("name", "kind", "description", "text")} for row in rows]
        cells = [tuple(one.values()) for one in documents]
        output.print_table(cells, ("NAME", "KIND", "DESCRIPTION", "TEXT"), out.format, documents)
        return
    for row in rows:
        facts = ", ".join(part for part in (row["kind"], row["description"]) if part)
        output.note(output.escape(row["name"] + (f" ({facts})" if facts else "")), kind="")
        output.write(output.escape_lines(row["text"]).rstrip("\n"))
    if not rows:
        output.note(f"{details.label_of(store, task)} has no configuration objects")


def _code(store: Store, out: Output, task: sqlite3.Row) -> None:
    entry = json.loads(task["entry"])
    found = details.code_of(store, task["code_key"])
    if found is not None:
        name, source, parts = found
    elif entry.get("source"):
        name, source, parts = entry.get("file", "script"), entry["source"], []
    else:
        raise errors.NotFound(
            f"no source of {details.label_of(store, task)} was captured", "it came from no file", "minipipe show --env"
        )
    if out.json:
        document = {"id": task["uid"], "name": name, "source": source, "parts": parts, "key": task["code_key"]}
        output.print_json(document, line=out.format == "jsonl")
        return
    output.write(output.escape_lines(source).rstrip("\n"))
    output.note(f"captured from {name}", kind="")
    for part in parts:
        place = f", {part['file']}:{part['line']}" if part.get("file") else ""
        output.note(f"  {part['kind']} {part['name']}{place}", kind="")


def _env(store: Store, out: Output, task: sqlite3.Row) -> None:
    entry = json.loads(task["entry"])
    facts = surroundings.surroundings_of(store, task["id"], entry)
    if out.json:
        output.print_json({"id": task["uid"], "environment": facts}, line=out.format == "jsonl")
        return
    if out.format == "table" and "patch" in facts:
        facts["patch"] = f"{facts['patch'].count(chr(10))} lines, in --json"
    rows = [(key, " ".join(map(str, value)) if isinstance(value, list) else value) for key, value in facts.items()]
    output.print_table(rows, ("NAME", "VALUE"), out.format)


def _attempts(store: Store, out: Output, task: sqlite3.Row) -> None:
    found, now = details.attempts_of(store, task["id"]), time.time()
    rows = [
        (
            one.number,
            output.clock(one.started_at, out.utc),
            output.duration((one.ended_at or now) - one.started_at),
            one.ended_as,
            one.worker,
            one.reason,
        )
        for one in found
    ]
    documents = [
        {
            "attempt": one.number,
            "started_at": output.iso(one.started_at),
            "ended_at": output.iso(one.ended_at),
            "became": one.ended_as,
            "worker": one.worker,
            "reason": one.reason,
        }
        for one in found
    ]
    output.print_table(rows, ("ATTEMPT", "STARTED", "TIME", "STATUS", "WORKER", "REASON"), out.format, documents)


_PARTS = {"params": _params, "config": _config, "code": _code, "env": _env, "attempts": _attempts}


# -- JSON ---------------------------------------------------------------------------------------------------------------


def _document(store: Store, task: sqlite3.Row) -> dict[str, Any]:
    now, living = time.time(), presence.living(store)
    document = _task_document(store, task, living, now)
    if task["run_name"] is not None:
        document["steps"] = [_task_document(store, step, living, now) for step in views.steps_of(store, task["id"])]
    return document


def _task_document(store: Store, task: sqlite3.Row, living: list[presence.LiveWorker], now: float) -> dict[str, Any]:
    pipeline, project = lookup.pipeline_of(task["name"], details.project_of(store, task))
    source = details.task_by_id(store, task["cached_from"])
    needs, needed_by = details.neighbours(store, task["id"])
    counts = views.step_counts(store, task["id"]) if task["run_name"] is not None else {}
    cells = records.parameters(store, task["id"])
    return {
        "id": task["uid"],
        "name": task["run_name"] or task["name"],
        "task_name": task["name"],
        "pipeline": pipeline if task["run_name"] is not None else None,
        "project": project,
        "type": task["type"],
        "version": task["version"],
        "status": task["status"],
        "reason": task["reason"],
        "waiting": reasons.waiting_reason(store, task, living, counts) or None,
        "error": error_of(task) or None,
        "queue": task["queue"],
        "attempt": task["attempt"],
        "max_retries": task["max_retries"],
        "retries": task["retries"],
        "crashes": task["crashes"],
        "returns": task["returns"],
        "cached_from": source["uid"] if source is not None else None,
        "progress": task["progress"],
        "needs": needs,
        "needed_by": needed_by,
        "parameters": {f"{row['section']}/{row['name']}": json.loads(row["value"]) for row in cells},
        "tags": list(details.tags_of(store, task["id"])),
        "created_at": output.iso(task["created_at"]),
        "queued_at": output.iso(task["queued_at"]),
        "started_at": output.iso(task["started_at"]),
        "ended_at": output.iso(task["ended_at"]),
        "seconds": elapsed_s(task, now),
    }
