"""``minipipe diff``: what two or more runs, or steps, do not have in common."""

from __future__ import annotations

import json
from typing import Any

import click

from minipipe import errors
from minipipe.cli import output
from minipipe.cli.output import Output
from minipipe.shown import measured
from minipipe.store import compare, details, lookup


@click.command()
@click.argument("names", metavar="A B [C...]", nargs=-1, required=True)
@click.option("--all", "everything", is_flag=True, help="Equal rows too.")
@click.option("--code", is_flag=True, help="The changed lines of the captured code alone, A to B.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if anything but a time differs.")
@output.pass_output
def diff(out: Output, names: tuple[str, ...], everything: bool, code: bool, exit_code: bool) -> int:
    """Compare runs: what differs.

    Parameters, configuration, code, steps, last metric values, artifacts; times if they differ by a quarter or more.

    \b
    Examples:
      minipipe diff @-2 @last
      minipipe diff calm-otter/train dry-lake/train --code
      minipipe diff @-2 @last --exit-code -q
    """
    if len(names) < 2 or (code and len(names) > 2):
        wanted = "diff --code compares two runs" if code else "diff compares two runs or more"
        raise errors.UsageError(f"{wanted}, not {len(names)}", "", "minipipe diff @-2 @last")
    store = out.open_store()
    tasks = [lookup.find_task(store, name) for name in names]
    if len({task["run_name"] is None for task in tasks}) > 1:
        raise errors.UsageError("diff compares runs with runs, or steps with steps", "some of these are runs, some are steps")
    labels = [details.label_of(store, task) for task in tasks]
    if code:
        return _print_code(out, list(compare.code_lines(store, tasks[0], tasks[1])), labels, exit_code)
    found = compare.compare(store, tasks)
    differs = any(row.differs for row in found if row.kind != "time")
    rows = [row for row in found if everything or row.differs]
    documents = [
        {"kind": row.kind, "name": row.name, "values": list(row.values), "note": row.note, "differs": row.differs} for row in rows
    ]
    if out.format == "json":
        output.print_json({"tasks": [task["uid"] for task in tasks], "differs": differs, "rows": documents})
    elif out.quiet and not out.json:
        for row in rows:
            output.write(output.escape(f"{row.kind} {row.name}"))
    elif rows:
        cells = [(row.kind, row.name, *(_shown(row.kind, value) for value in row.values), row.note) for row in rows]
        headers = ("", "") if out.format == "table" else ("KIND", "NAME")
        output.print_table(cells, (*headers, *labels, "" if out.format == "table" else "NOTE"), out.format, documents)
    if not rows and not out.json:
        output.note(f"{' and '.join(labels)} do not differ", kind="")
    return int(exit_code and differs)


def _shown(kind: str, value: Any) -> str:
    if value is None:
        return "-"
    if kind == "time":
        return output.duration(value)
    if isinstance(value, float) and kind != "params":
        return measured(value)
    return value if isinstance(value, str) else json.dumps(value)


def _print_code(out: Output, lines: list[str], labels: list[str], exit_code: bool) -> int:
    if out.json:
        output.print_json({"differs": bool(lines), "lines": lines}, line=out.format == "jsonl")
    else:
        colors = {"+": "completed", "-": "failed", "@": "in_progress"}
        for line in lines:
            plain = line.startswith(("+++", "---"))
            output.write(output.style(output.escape_lines(line), "" if plain else colors.get(line[:1], "")))
        if not lines:
            output.note(f"the code of {' and '.join(labels)} does not differ", kind="")
    return int(exit_code and bool(lines))
