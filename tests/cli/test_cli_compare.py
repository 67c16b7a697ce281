"""``metrics`` and ``diff``: what steps measured, and what two runs do not have in common."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable

import pytest
from click.testing import Result

from minipipe.cli.metrics import sparkline
from minipipe.shown import measured as worded
from minipipe.store import records, tasks
from tests.cli.conftest import Filled

Invoke = Callable[..., Result]


def measured(filled: Filled, values: tuple[float, ...] = (1.91, 0.5, math.nan, 0.22)) -> tasks.Submitted:
    """A finished run whose step `train` measured a loss and an accuracy."""
    run = filled.run()
    step = filled.step(run, "train")
    claim = filled.claim()
    for number_of, value in enumerate(values):
        stored = None if math.isnan(value) else value
        records.report(filled.store, claim.lease, step.id, "loss", "train", stored, number_of)
    records.report(filled.store, claim.lease, step.id, "Summary", "accuracy", 0.93, None)
    filled.finish(claim, model=[1, 2, 3], score=0.5)
    filled.end(run)
    return run


def test_metrics_shows_first_last_least_and_greatest_of_each_series(filled: Filled, cli: Invoke) -> None:
    run = measured(filled)
    lines = [line.split() for line in cli("metrics", "@last").stdout.splitlines()]
    assert lines == [
        ["STEP", "TITLE", "SERIES", "POINTS", "FIRST", "LAST", "MIN", "MAX"],
        ["train", "loss", "train", "4", "1.91", "0.22", "0.22", "1.91"],
        ["train", "Summary", "accuracy", "1", "0.93", "0.93", "0.93", "0.93"],
    ]
    assert cli("metrics", f"{run.run_name}/train").stdout == cli("metrics", "@last").stdout
    assert cli("metrics", "@last", "-q").stdout.split() == [
        f"{run.uid[:8]}/train",
        "loss/train",
        f"{run.uid[:8]}/train",
        "Summary/accuracy",
    ]


def test_metrics_as_json_holds_every_point_and_nan_as_text(filled: Filled, cli: Invoke) -> None:
    measured(filled)
    loss, accuracy = json.loads(cli("metrics", "@last", "--json").stdout)
    assert [point["value"] for point in loss["values"]] == [1.91, 0.5, "nan", 0.22]
    assert [point["iteration"] for point in loss["values"]] == [0, 1, 2, 3]
    assert (loss["step"], loss["first"], loss["last"], loss["min"], loss["max"]) == ("train", 1.91, 0.22, 0.22, 1.91)
    assert accuracy["values"][0]["iteration"] is None


def test_metrics_as_csv_is_every_point(filled: Filled, cli: Invoke) -> None:
    measured(filled)
    rows = list(csv.DictReader(io.StringIO(cli("metrics", "@last", "--csv").stdout)))
    assert [(row["title"], row["iteration"], row["value"]) for row in rows] == [
        ("loss", "0", "1.91"),
        ("loss", "1", "0.5"),
        ("loss", "2", "nan"),
        ("loss", "3", "0.22"),
        ("Summary", "", "0.93"),
    ]


def test_metrics_of_one_title_and_a_title_that_is_not_there(filled: Filled, cli: Invoke) -> None:
    measured(filled)
    assert "accuracy" not in cli("metrics", "@last", "--title", "loss").stdout
    result = cli("metrics", "@last", "--title", "los")
    assert result.exit_code == 3
    assert "has no metric titled 'los'" in result.stderr
    assert "did you mean --title loss?" in result.stderr


def test_metrics_show_the_last_attempt_only(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    step = filled.step(run, "train", max_retries=1)
    claim = filled.claim()
    records.report(filled.store, claim.lease, step.id, "loss", "train", 9.0, 1)
    filled.fail(claim)
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET not_before = 0 WHERE id = ?", (step.id,))
    claim = filled.claim()
    records.report(filled.store, claim.lease, step.id, "loss", "train", 1.0, 1)
    filled.finish(claim)
    assert [one["values"][0]["value"] for one in json.loads(cli("metrics", "@last", "--json").stdout)] == [1.0]


def test_a_run_without_metrics_says_so(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    result = cli("metrics", "@last")
    assert result.exit_code == 0
    assert result.stderr == f"note: {run.uid[:8]} reported no metrics\n"


def test_sparklines_run_from_the_lowest_bar_to_the_highest() -> None:
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5]) == "▁▁"
    assert sparkline([1.0, math.nan, 2.0]) == "▁ █"
    assert sparkline([math.nan, math.inf]) == ""
    assert len(sparkline(list(range(10_000)))) == 24


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.93333333, "0.9333"), (12345678.0, "1.23457e+07"), (40.0, "40"), (1e-5, "1e-05"), (math.nan, "nan"), (-math.inf, "-inf")],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert worded(value) == shown


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def pair(filled: Filled) -> tuple[tasks.Submitted, tasks.Submitted]:
    """A good run and a bad one that differ in a parameter."""
    good = filled.run(
        parameters=(tasks.Parameter("Args", "lr", "0.1", "float", "0.1"), tasks.Parameter("Args", "n", "9", "int", "9"))
    )
    filled.step(good, "load")
    filled.finish(filled.claim(), data=[1])
    step = filled.step(good, "train")
    claim = filled.claim()
    records.report(filled.store, claim.lease, step.id, "loss", "train", 0.2, 1)
    filled.finish(claim, model=[1])
    filled.end(good)
    bad = filled.run(
        parameters=(tasks.Parameter("Args", "lr", "9.9", "float", "9.9"), tasks.Parameter("Args", "n", "9", "int", "9"))
    )
    filled.step(bad, "load")
    filled.finish(filled.claim(), data=[1])
    step = filled.step(bad, "train")
    claim = filled.claim()
    records.report(filled.store, claim.lease, step.id, "loss", "train", 0.3, 1)
    filled.fail(claim)
    filled.end(bad, "failed")
    return good, bad


def test_diff_shows_what_changed_and_nothing_else(filled: Filled, cli: Invoke) -> None:
    good, bad = pair(filled)
    result = cli("diff", "@-2", "@last")
    assert result.exit_code == 0
    assert cells(result.stdout) == [
        [good.uid[:8], bad.uid[:8]],
        ["params", "lr", "0.1", "9.9"],
        ["steps", "train", "completed", "failed", "ValueError:", "loss", "is", "nan"],
        ["metrics", "train/loss/train", "0.2", "0.3", "+50%"],
        ["artifacts", "train/model", json.loads(cli("diff", "@-2", "@last", "--json").stdout)["rows"][3]["values"][0], "-"],
        ["time", "train", "0.9s", "3.1s", "+244%"],
    ]
    assert ["params", "n", "9", "9"] in cells(cli("diff", "@-2", "@last", "--all").stdout)
    assert ["steps", "load", "completed", "completed"] in cells(cli("diff", "@-2", "@last", "--all").stdout)


def test_diff_tells_by_exit_code_only_when_asked(filled: Filled, cli: Invoke) -> None:
    pair(filled)
    assert cli("diff", "@-2", "@last").exit_code == 0
    assert cli("diff", "@-2", "@last", "--exit-code").exit_code == 1
    same = cli("diff", "@last", "@last", "--exit-code")
    assert (same.exit_code, same.stdout) == (0, "")
    assert "do not differ" in same.stderr


def test_times_alone_are_no_difference(filled: Filled, cli: Invoke) -> None:
    first = filled.run()
    filled.end(first)
    second = filled.run()
    filled.end(second)
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET ended_at = started_at + 100 WHERE id = ?", (second.id,))
    result = cli("diff", "@-2", "@last", "--exit-code")
    assert result.exit_code == 0
    assert cells(result.stdout)[1] == ["time", "all", "1.4s", "1m", "40s", "+7043%"]


def test_diff_compares_three_runs_and_single_steps(filled: Filled, cli: Invoke) -> None:
    good, bad = pair(filled)
    third = filled.run()
    filled.end(third)
    document = json.loads(cli("diff", good.uid, bad.uid, third.uid, "--json").stdout)
    assert document["tasks"] == [good.uid, bad.uid, third.uid]
    rows = {(row["kind"], row["name"]): row["values"] for row in document["rows"]}
    assert rows["params", "lr"] == [0.1, 9.9, 0.1]
    assert rows["params", "n"] == [9, 9, None]
    assert rows["steps", "load"] == ["completed", "completed", None]
    steps = cells(cli("diff", f"{good.run_name}/train", f"{bad.run_name}/train").stdout)
    assert steps[0] == [f"{good.uid[:8]}/train", f"{bad.uid[:8]}/train"]
    assert ["metrics", "loss/train", "0.2", "0.3", "+50%"] in steps


def test_diff_needs_two_of_a_kind(filled: Filled, cli: Invoke) -> None:
    good, _ = pair(filled)
    assert cli("diff", "@last").exit_code == 2
    assert cli("diff", "@last", f"{good.run_name}/train").exit_code == 2
    assert cli("diff", "@last", "@-2", "@last", "--code").exit_code == 2
    assert cli("diff", "@last", "@-9").exit_code == 3


def test_diff_of_code_names_the_changed_lines(filled: Filled, cli: Invoke) -> None:
    for lines in ("x = 1\ny = 2\n", "x = 1\ny = 3\n"):
        run = filled.run(entry={"kind": "script", "file": "/flow.py", "source": lines, "cwd": "/", "roots": []})
        filled.end(run)
    result = cli("diff", "@-2", "@last", "--code")
    assert result.stdout.splitlines()[3:] == [" x = 1", "-y = 2", "+y = 3"]
    assert ["code", "flow.py"] in [row[:2] for row in cells(cli("diff", "@-2", "@last").stdout)]
    assert cli("diff", "@-2", "@last", "--code", "--exit-code").exit_code == 1


def test_comparing_reads_nothing_but_rows(filled: Filled, cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(filled)
    monkeypatch.setattr("pickle.loads", None)
    before = filled.store.database.data_version()
    assert cli("diff", "@-2", "@last", "--all").exit_code == cli("metrics", "@last").exit_code == 0
    assert filled.store.database.data_version() == before
