"""``minipipe graph``: the steps of a run and what flows between them, as a tree or as text for other tools."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from minipipe import errors
from minipipe.cli import files, output
from minipipe.cli.output import Output
from minipipe.drawing import dag, folds, theme, tree
from minipipe.store import lookup, picture
from minipipe.store.home import Store

_BY_SUFFIX = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".mermaid": "mermaid", ".json": "json"}


@click.command()
@click.argument("name", metavar="[RUN]", default="@last")
@click.option("--mermaid", "form", flag_value="mermaid", help="As a Mermaid flowchart.")
@click.option("--dot", "form", flag_value="dot", help="In Graphviz' language.")
@click.option("--svg", "form", flag_value="svg", help="As an SVG picture.")
@click.option("-o", "target", metavar="FILE", help="Write it there; .svg, .dot, .mmd and .json say which form.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@output.pass_output
def graph(out: Output, name: str, form: str | None, target: str | None, force: bool) -> None:
    """Show the steps of a run and what flows between them.

    Steps that are alike fold where there are many: train ×34. With --json every step stands for itself.

    \b
    Examples:
      minipipe graph
      minipipe graph calm-otter --mermaid
      minipipe graph @last -o run.svg
    """
    store = out.open_store()
    run = find_run(store, name)
    form = "json" if out.json else form or _BY_SUFFIX.get(Path(target or "").suffix.lower(), "tree")
    found = picture.of_run(store, run)
    if out.quiet and not out.json:
        for node in found.nodes:
            output.write(node.uid)
        return
    if target is not None:
        text = "\n".join(_lines(found, form, plain=True, encoded=True)) + "\n"
        output.write(output.escape(files.save(Path(target).expanduser(), text.encode(), force)))
        return
    if form == "json":
        output.print_json(document(found), line=out.format == "jsonl")
        return
    for line in _lines(found, form, not output.is_terminal(sys.stdout), output.can_encode("├└│─", sys.stdout)):
        output.write(line)
    if form == "tree" and not found.nodes:
        output.note(f"{run['uid'][:8]} has no steps", kind="")


def find_run(store: Store, name: str) -> Any:
    """The run that `name` means.

    Raises:
        NotFound: none, or it names a step.
    """
    if "/" in name:
        raise errors.UsageError(
            f"{name!r} names a step", "this is shown of whole runs", f"minipipe graph {name.partition('/')[0]}"
        )
    return lookup.find_run(store, name)


def _lines(found: picture.Picture, form: str, plain: bool, encoded: bool) -> Iterator[str]:
    name = found.run["run_name"]
    if form == "mermaid":
        yield dag.mermaid(found)
    elif form == "dot":
        yield dag.dot(found, name)
    elif form == "svg":
        yield dag.svg(folds.fold(found), name, style=theme.standalone())
    elif form == "json":
        yield output.json_text(document(found))
    else:
        yield from _tree(found, plain, encoded)


def _tree(found: picture.Picture, plain: bool, encoded: bool) -> Iterator[str]:
    def sign(status: str) -> str:
        return "" if plain else output.glyph(status)

    for before, box, said in tree.lines(folds.fold(found), sign, not encoded):
        mark = sign(box.status)
        shown = output.style(mark, box.status) + " " if mark else ""
        yield f"{before}{shown}{output.escape(box.name)} {output.escape(said)}".rstrip()


def document(found: picture.Picture) -> dict[str, Any]:
    """The graph as JSON: all steps and edges, nothing folded."""
    uids = {node.id: node.uid for node in found.nodes}
    return {
        "run": found.run["uid"],
        "name": found.run["run_name"],
        "status": found.run["status"],
        "nodes": [
            {
                "id": node.uid,
                "name": node.name,
                "type": node.type,
                "status": node.status,
                "seconds": node.seconds,
                "attempt": node.attempt,
                "cached_from": node.cached_from or None,
                "reason": node.reason,
            }
            for node in found.nodes
        ],
        "edges": [
            {
                "parent": uids[edge.parent],
                "child": uids[edge.child],
                "names": list(edge.names),
                "kind": "control" if edge.control else "data" if edge.names else "order",
            }
            for edge in found.edges
        ],
    }
