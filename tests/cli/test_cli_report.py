"""``minipipe report``: where pages go, what they may replace, and several runs as a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from minipipe.cli import report as verb
from minipipe.store import records, tasks
from tests.cli.conftest import Filled
from tests.cli.flows import command

Cli = Callable[..., Result]


def finished(filled: Filled) -> tasks.Submitted:
    """A finished run of one step."""
    run = filled.run()
    filled.step(run, "train")
    filled.finish(filled.claim(), accuracy=0.9, model=[1, 2])
    filled.end(run)
    return run


def test_a_report_takes_the_name_of_its_run_and_is_written_again_without_asking(filled: Filled, cli: Cli) -> None:
    run = finished(filled)
    name = f"minipipe-{run.run_name}-{run.uid[:8]}.html"
    assert cli("report").output == f"{name}\n"
    first = Path(name).read_bytes()
    assert cli("report", run.run_name or "").exit_code == 0
    assert Path(name).read_bytes() == first
    found = json.loads(cli("report", "--json").output)
    assert found == {"path": name, "size": len(first)}


def test_the_task_of_a_script_has_a_report_too(filled: Filled, cli: Cli) -> None:
    path = Path("keep.py")
    path.write_text("from minipipe import Task\ntask = Task.init('examples', 'keep it')\ntask.upload_artifact('a', [1, 2])\n")
    done = command("run", "-q", str(path), check=0)
    uid = filled.store.database.rows("SELECT uid FROM task WHERE name = 'keep it'")[0][0][:8]
    for words in ((uid,), ("--all", "-o", "site")):
        assert cli("report", *words).exit_code == 0, done.stderr
    for found in (Path(f"minipipe-keep-it-{uid}.html"), Path("site") / f"minipipe-keep-it-{uid}.html"):
        text = found.read_text()
        assert f"<h1>keep it <code>{uid}</code>" in text and f"minipipe get {uid}/" in text and "None" not in text


def test_without_a_name_the_newest_run_is_reported_and_else_the_newest_task(filled: Filled, cli: Cli) -> None:
    Path("keep.py").write_text("from minipipe import Task\nTask.init('examples', 'keep it')\n")
    command("run", "-q", "keep.py", check=0)
    assert cli("report").stdout.startswith("minipipe-keep-it-")
    run = filled.run()
    filled.end(run)
    command("run", "-q", "keep.py", check=0)
    assert cli("report").stdout.startswith(f"minipipe-{run.run_name}-")


def test_a_file_that_is_no_report_is_kept(filled: Filled, cli: Cli) -> None:
    finished(filled)
    Path("mine.html").write_text("<!doctype html>mine")
    refused = cli("report", "-o", "mine.html")
    assert refused.exit_code == 2 and Path("mine.html").read_text() == "<!doctype html>mine"
    assert cli("report", "-o", "mine.html", "--force").exit_code == 0
    assert "minipipe report" in Path("mine.html").read_text()
    assert cli("report", "-o", "nowhere/x.html").exit_code == 3
    assert [path.name for path in Path.cwd().iterdir() if path.name.endswith(".part")] == []


def test_several_runs_make_a_folder_with_an_index(filled: Filled, cli: Cli) -> None:
    first, second = finished(filled), finished(filled)
    assert cli("report", "@-2", "@last", "-o", "both").output == "both/index.html\n"
    index = Path("both/index.html").read_text()
    for run in (first, second):
        name = f"minipipe-{run.run_name}-{run.uid[:8]}.html"
        assert f'href="{name}"' in index and 'href="index.html"' in Path("both", name).read_text()
    assert "Parameters side by side" in index
    third = filled.run()
    for run, value in ((first, 0.2), (second, 0.5), (third, 0.9)):
        records.report(filled.store, None, run.id, "Summary", "score", value, None)
    cli("report", "--all", "-o", "three")
    ranked = Path("three/index.html").read_text()
    assert '<span class="soft">highest</span> 0.9' in ranked and '<span class="soft">lowest</span> 0.2' in ranked
    assert cli("report", "--all").output == f"{verb.FOLDER}/index.html\n"
    Path("file").write_text("x")
    assert cli("report", "--all", "-o", "file").exit_code == 2 and Path("file").read_text() == "x"


@pytest.mark.parametrize("words", [("--all", "@last"), ("--all", "--watch"), ("@last", "@-2", "--watch")])
def test_what_makes_no_sense_together_is_refused(words: tuple[str, ...], filled: Filled, cli: Cli) -> None:
    finished(filled)
    finished(filled)
    assert cli("report", *words).exit_code == 2


def test_a_store_without_runs_has_nothing_to_report(filled: Filled, cli: Cli) -> None:
    assert cli("report", "--all").exit_code == 3
    assert cli("report").exit_code == 3


def test_watch_writes_the_last_page_when_the_run_has_ended(filled: Filled, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    run = filled.run()
    filled.step(run, "train")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        # What happens while the command waits: the step runs, then the run ends.
        waits.append(seconds)
        if len(waits) == 1:
            assert 'http-equiv="refresh"' in Path("page.html").read_text()
            filled.finish(filled.claim(), model=[1])
            filled.end(run)

    monkeypatch.setattr(verb.time, "sleep", wait)
    monkeypatch.setattr(verb, "REDRAW_S", 0.0)
    assert cli("report", "--watch", "-o", "page.html").exit_code == 0
    text = Path("page.html").read_text()
    assert waits and 'http-equiv="refresh"' not in text and "1 completed" in text


def test_a_watch_that_is_interrupted_leaves_a_page_that_stays(filled: Filled, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.run()

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(verb.time, "sleep", interrupt)
    assert cli("report", "--watch", "-o", "page.html").exit_code == 0
    assert 'http-equiv="refresh"' not in Path("page.html").read_text()
