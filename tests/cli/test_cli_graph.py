"""``minipipe graph`` and ``minipipe timeline``: what they print to a pipe, to a file and as JSON."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from minipipe.store import tasks
from tests.cli.conftest import Filled

Cli = Callable[..., Result]


def link(source: tasks.Submitted, name: str) -> tasks.Link:
    return tasks.Link("reference", name, None, source.id, name)


@pytest.fixture
def run(filled: Filled) -> tasks.Submitted:
    """load -> split -> train (failed), evaluate (skipped)."""
    run = filled.run()
    load = filled.step(run, "load")
    split = filled.step(run, "split", (load,), links=(link(load, "data"),))
    train = filled.step(run, "train", (split,), links=(link(split, "train_points"),))
    filled.step(run, "evaluate", (split, train), links=(link(split, "test_points"), link(train, "model")))
    filled.finish(filled.claim(), data=[1])
    filled.finish(filled.claim(), train_points=[1], test_points=[2])
    filled.fail(filled.claim())
    filled.end(run, "failed", "train failed")
    return run


def test_graph_prints_a_tree_with_words(run: tasks.Submitted, cli: Cli) -> None:
    assert cli("graph").output.splitlines() == [
        "load completed 0.9s",
        "└─ split completed 0.9s  (data)",
        "   ├─ train failed 3.1s  (train_points)",
        "   └─ evaluate skipped  (test_points; model from train)",
    ]


def test_where_lines_cannot_be_encoded_the_tree_has_plain_ones(run: tasks.Submitted, command: Callable[..., Any]) -> None:
    shown = command("graph", PYTHONIOENCODING="ascii", PYTHONUTF8="0").stdout.decode().splitlines()
    assert shown[1:3] == ["`- split completed 0.9s  (data)", "   |- train failed 3.1s  (train_points)"]
    bars = command("timeline", PYTHONIOENCODING="ascii", PYTHONUTF8="0").stdout.decode()
    assert "#" in bars and "\\u" not in bars


def test_graph_gives_mermaid_dot_svg_and_json_of_the_same_run(run: tasks.Submitted, cli: Cli) -> None:
    mermaid = cli("graph", run.run_name or "", "--mermaid").output.splitlines()
    assert mermaid[:2] == [
        "flowchart LR",
        '  s1["load: completed 0.9s"]:::completed -->|data| s2["split: completed 0.9s"]:::completed',
    ]
    assert 's3 [label="train: failed 3.1s", class="failed"' in cli("graph", "--dot").output
    root = ElementTree.fromstring(cli("graph", "--svg").output)
    assert root.find("{http://www.w3.org/2000/svg}title") is not None
    found = json.loads(cli("graph", "--json").output)
    assert [node["name"] for node in found["nodes"]] == ["load", "split", "train", "evaluate"]
    names = {node["id"]: node["name"] for node in found["nodes"]}
    assert [(names[edge["parent"]], names[edge["child"]], edge["names"], edge["kind"]) for edge in found["edges"]] == [
        ("load", "split", ["data"], "data"),
        ("split", "train", ["train_points"], "data"),
        ("split", "evaluate", ["test_points"], "data"),
        ("train", "evaluate", ["model"], "data"),
    ]


def test_graph_writes_a_file_of_the_form_that_its_name_says_and_overwrites_nothing(run: tasks.Submitted, cli: Cli) -> None:
    for suffix, start in ((".svg", "<svg "), (".mmd", "flowchart LR"), (".dot", "digraph "), (".json", "{"), (".txt", "load ")):
        assert cli("graph", "-o", f"run{suffix}").output == f"run{suffix}\n"
        assert Path(f"run{suffix}").read_text().startswith(start)
    Path("mine.svg").write_text("mine")
    refused = cli("graph", "-o", "mine.svg")
    assert refused.exit_code == 2 and Path("mine.svg").read_text() == "mine"
    assert cli("graph", "-o", "mine.svg", "--force").exit_code == 0 and Path("mine.svg").read_text().startswith("<svg ")
    assert cli("graph", "-o", "nowhere/run.svg").exit_code == 3


@pytest.mark.parametrize("verb", ["graph", "timeline"])
def test_a_step_or_an_unknown_run_is_refused(verb: str, run: tasks.Submitted, cli: Cli) -> None:
    assert cli(verb, "@last/train").exit_code == 2
    assert cli(verb, "nothing-here").exit_code == 3


@pytest.mark.parametrize("verb", ["graph", "timeline"])
def test_a_run_without_steps_says_so(verb: str, filled: Filled, cli: Cli) -> None:
    filled.run()
    done = cli(verb)
    assert done.exit_code == 0 and "has no steps" in done.output


def test_timeline_shows_waiting_and_running_apart(run: tasks.Submitted, filled: Filled, cli: Cli) -> None:
    # Known times: load waits 1 s and runs 2 s; split starts at once and runs 1 s.
    with filled.store.database.write() as connection:
        connection.execute("DROP TRIGGER event_kept")
        rows = connection.execute(
            "SELECT e.id, t.name, e.new FROM event e JOIN task t ON t.id = e.task_id ORDER BY e.id"
        ).fetchall()
        at = {("load", "queued"): 100.0, ("load", "in_progress"): 101.0, ("load", "completed"): 103.0, ("split", "queued"): 103.0}
        at |= {("split", "in_progress"): 103.0, ("split", "completed"): 104.0, ("train", "queued"): 104.0}
        for row in rows:
            connection.execute("UPDATE event SET at = ? WHERE id = ?", (at.get((row["name"], row["new"]), 104.0), row["id"]))
    lines = cli("timeline").output.splitlines()
    assert [line.split()[0] for line in lines] == ["load", "split", "train"]
    bars = [line[7 : line.rindex("  ")].rstrip() for line in lines]
    columns = max(map(len, bars))
    assert bars[0].count("░") == pytest.approx(columns / 4, abs=1) and bars[0].count("▇") == pytest.approx(columns / 2, abs=1)
    assert bars[1].strip(" ") == "▇" * (columns - len(bars[0])) and bars[2].count("▇") == 1
    assert lines[0].endswith("2.0s, queued 1.0s") and lines[1].endswith("1.0s") and lines[2].endswith("0.0s, failed")
    found = json.loads(cli("timeline", "--json").output)
    first = found["steps"][0]["attempts"][0]
    assert (first["queued_s"], first["running_s"], first["worker"], first["became"]) == (1.0, 2.0, "w1", "completed")


def test_a_retried_step_has_a_bar_for_each_attempt(filled: Filled, cli: Cli) -> None:
    run = filled.run()
    filled.step(run, "train", max_retries=1)
    filled.fail(filled.claim())
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET not_before = 0")
    filled.finish(filled.claim(), model=[1])
    assert "2 attempts" in cli("timeline").output
    attempts = json.loads(cli("timeline", "--json").output)["steps"][0]["attempts"]
    assert [(one["attempt"], one["became"]) for one in attempts] == [(1, "queued"), (2, "completed")]
