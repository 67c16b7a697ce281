"""The keys of ``--json`` are those that the README promises."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from minipipe.cli import root
from minipipe.store import records
from tests.cli.conftest import Filled

Invoke = Callable[..., Result]
README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
TABLE = README[README.index("| verb | keys |") :].split("\n\n")[0].splitlines()[2:]
KEYS = dict(re.findall(r"^\| `(.+?)` \| `(.+?)` \|$", "\n".join(TABLE), re.MULTILINE))
ARGUMENTS = {
    "show": ("show", "@last"),
    "show --params": ("show", "@last", "--params"),
    "show --config": ("show", "@last", "--config"),
    "show --code": ("show", "@last", "--code"),
    "show --attempts": ("show", "@last/train", "--attempts"),
    "logs": ("logs", "@last"),
    "artifacts": ("artifacts", "@last"),
    "get": ("get", "@last/train/model", "-o", "model.json"),
    "metrics": ("metrics", "@last"),
    "diff": ("diff", "@-2", "@last"),
    "watch": ("watch", "@-2"),
    "cache why": ("cache", "why", "@last/train"),
    "cache clear": ("cache", "clear", "--all"),
    "abort": ("abort", "@last/waits"),
    "queue move": ("queue", "move", "@last/waits", "gpu"),
    "graph": ("graph", "@last"),
    "timeline": ("timeline", "@last"),
    "check": ("check", "bad.py"),
    "get --load": ("get", "@last/train/model", "--load"),
    "diff --code": ("diff", "@-2", "@last", "--code"),
    "gc": ("gc", "--yes"),
    "export": ("export", "@-2", "-o", "run.zip"),
    "import": ("import", "run.zip"),
    "report": ("report", "@-2"),
    "doctor --backup": ("doctor", "--backup", "copy"),
    "doctor --bundle": ("doctor", "--bundle", "bug.zip"),
    "queue create": ("queue", "create", "gpu"),
    "queue pause": ("queue", "pause", "default"),
    "queue resume": ("queue", "resume", "default"),
    "queue purge": ("queue", "purge", "default"),
    "queue remove": ("queue", "remove", "spare"),
}
NEEDS_CODE = {
    "step": ("step", "@last/work"),
    "cache accept": ("cache", "accept", "@last/work"),
    "worker": ("worker", "--until-idle"),
}
NO_DOCUMENT = {"completion"}
AS_ANOTHER = {"run", "rerun", "resume", "ps"}  # the first three as watch, the last as status
FLOW = """
from minipipe import PipelineDecorator

@PipelineDecorator.component(return_values=["n"])
def work(n=1):
    return n

@PipelineDecorator.pipeline(name="coded", project="examples", version="1")
def flow():
    work()

PipelineDecorator.run_locally()
flow()
"""
BAD = (
    "from clearml import PipelineDecorator\nN = 3\n\n@PipelineDecorator.component(return_values=['x'])\ndef f():\n    return N\n"
)


def shape(text: str) -> dict[str, Any] | list[Any]:
    """``a b[c d]`` as {"a": None, "b": {"c": None, "d": None}}; a text in brackets is a list."""
    tokens = re.findall(r"[^\s\[\]]+|\[|\]", text)

    def block() -> dict[str, Any]:
        found: dict[str, Any] = {}
        last = ""
        while tokens:
            token = tokens.pop(0)
            if token == "]":
                return found
            if token == "[":
                found[last] = block()
            else:
                found[token] = None
                last = token
        return found

    if tokens[0] == "[":
        tokens.pop(0)
        return [block()]
    return block()


def compare(wanted: Any, real: Any, path: str) -> None:
    """The documented keys are there, and no others unless the document ends in ``…``."""
    if isinstance(wanted, list):
        assert isinstance(real, list), path
        assert real, f"{path}: nothing to compare"
        wanted, real = wanted[0], real[0]
    if isinstance(real, list):
        real = real[0] if real else None
    if wanted is None or real is None:
        return
    optional = {"error"} - set(real)
    assert set(wanted) - {"…"} - optional <= set(real), path
    assert "…" in wanted or set(real) <= set(wanted), (path, set(real) - set(wanted))
    for name, below in wanted.items():
        if below is not None and name in real:
            compare(below, real[name], f"{path}.{name}")


@pytest.fixture
def full(filled: Filled) -> Filled:
    """Two runs; the last has a step that measured something, printed, and has results, and one that waits."""
    first = filled.run()
    filled.end(first)
    run = filled.run(entry={"kind": "script", "file": "/flow.py", "source": "x = 1\n", "cwd": "/", "roots": []})
    step = filled.step(run, "train")
    claim = filled.claim()
    records.report(filled.store, claim.lease, step.id, "loss", "train", 0.5, 1)
    filled.log(step, b"hello\n")
    filled.finish(claim, model=[1, 2])
    filled.step(run, "waits")
    with filled.store.database.write() as connection:
        connection.execute("INSERT INTO configuration (task_id, name, text) VALUES (?, 'model', 'layers: 3')", (run.id,))
    return filled


@pytest.mark.parametrize("verb", [verb for verb in KEYS if verb not in NEEDS_CODE])
def test_the_keys_of_json_are_those_of_the_readme(full: Filled, cli: Invoke, verb: str) -> None:
    Path("bad.py").write_text(BAD)
    if verb == "import":
        cli("export", "@-2", "-o", "run.zip")
    if verb == "queue remove":
        cli("queue", "create", "spare")
    result = cli(*ARGUMENTS.get(verb, tuple(verb.split())), "--json")
    assert result.exit_code == (1 if verb == "check" else 0), result.output
    compare(shape(KEYS[verb]), json.loads(result.stdout), verb)


def test_the_keys_of_json_of_verbs_that_run_code(
    surroundings: Path, command: Callable[..., subprocess.CompletedProcess[bytes]], cli: Invoke
) -> None:
    Path("flow.py").write_text(FLOW)
    assert command("run", "flow.py").returncode == 0
    for verb, words in NEEDS_CODE.items():
        text = command(*words, "--json").stdout if verb == "worker" else cli(*words, "--json").stdout
        compare(shape(KEYS[verb]), json.loads(text), verb)


def test_every_verb_has_its_keys_in_the_readme() -> None:
    verbs = set(root.list_commands(click.Context(root)))

    assert verbs - NO_DOCUMENT - AS_ANOTHER == {verb.split()[0] for verb in KEYS}


def test_the_shape_of_a_text_is_read() -> None:
    assert shape("a b[c d] e") == {"a": None, "b": {"c": None, "d": None}, "e": None}
    assert shape("[a b[c]]") == [{"a": None, "b": {"c": None}}]
    with pytest.raises(AssertionError):
        compare(shape("a b"), {"a": 1}, "x")
    with pytest.raises(AssertionError):
        compare(shape("a"), {"a": 1, "b": 2}, "x")
