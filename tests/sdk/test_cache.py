"""The cache key: what changes it and what does not, by real runs of a script that is edited in between."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from tests.sdk.sdk_scripts import FLOWS, Done, Left, python

HEAD = """
import functools, math, os, sys
from pathlib import Path
from minipipe import PipelineDecorator, component, pipeline
"""


@dataclass(frozen=True)
class Edit:
    """A step before and after an edit; `hit` if the second run must be served from the cache."""

    name: str
    hit: bool
    before: str
    after: str
    call: str

    def text(self, edited: bool) -> str:
        """The step's part of the script."""
        return (self.after if edited else self.before).replace("COMPONENT", '@component(return_values=["r"], cache=True)')


def read_edits() -> tuple[Edit, ...]:
    """The steps of ``flows/edits.txt``."""
    found = []
    for part in (FLOWS / "edits.txt").read_text().split("\n== ")[1:]:
        head, _, text = part.partition("\n")
        name, verdict, call = head.split(": ")
        before, after = text.strip("\n").split("\n--\n")
        found.append(Edit(name, {"hit": True, "miss": False}[verdict], before, before if after == "(the same)" else after, call))
    return tuple(found)


EDITS = read_edits()


def write_edits(folder: Path, edited: bool) -> None:
    """Write the script and its modules as they are before or after the edits."""
    folder.mkdir(exist_ok=True)
    (folder / "unchanged.py").write_text("def f(n):\n    return n\n" + ("# a comment\n" if edited else ""))
    (folder / "changing.py").write_text(f"def f(n):\n    return n + {int(edited)}\n")
    values = {"m": ", m=1" if edited else "", "argument": 1 + edited, "typed": "True" if edited else "1"}
    calls = "\n".join("    " + edit.call.format(**values) for edit in EDITS)
    steps = "\n".join(edit.text(edited) for edit in EDITS)
    name, version = ("renamed", "2.0") if edited else ("edits", "1.0")
    end = f'''
@pipeline(name="{name}", project="tests", version="{version}")
def edits():
{calls}

PipelineDecorator.run_locally()
edits()
'''
    (folder / "flow.py").write_text("\n".join((HEAD, steps, end)))


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """A project whose script ran, was edited and ran again."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = base / "edited"
    with FileLock(base / "edited.lock"):
        if not folder.exists():
            for edit in (False, True):
                write_edits(folder, edit)
                python(folder, "flow.py", PYTHONDONTWRITEBYTECODE="1")
            write_edits(folder, False)
    left = Left(folder)
    yield left
    left.store.close()


@pytest.mark.parametrize("edit", [edit for edit in EDITS if edit.hit], ids=lambda edit: edit.name)
def test_what_is_not_in_the_key_may_change_and_the_step_is_served(edit: Edit, edited: Left) -> None:
    old, new = edited.steps("edits")[edit.name], edited.steps("renamed")[edit.name]

    assert (old["status"], old["cached_from"]) == ("completed", None)
    assert (new["status"], new["cached_from"], new["attempt"]) == ("completed", old["id"], 0)


@pytest.mark.parametrize("edit", [edit for edit in EDITS if not edit.hit], ids=lambda edit: edit.name)
def test_what_is_in_the_key_may_not_change(edit: Edit, edited: Left) -> None:
    new = edited.steps("renamed")[edit.name]

    assert (new["status"], new["cached_from"], new["attempt"]) == ("completed", None, 1)


# -- surroundings -----------------------------------------------------------------------------------------------------

SURROUNDED = (
    HEAD
    + """
KINDS = {"alpha", "beta", "gamma", "delta", 1, 2.5, (3, 4)}
HERE = Path(__file__).resolve().parent

class Point:
    def __init__(self, x):
        self.x = x

@component(return_values=["r"], cache=True)
def first(kinds, points, n=1):
    return sorted(map(str, kinds | KINDS))

@component(return_values=["r"], cache=True)
def second(r):
    assert HERE.is_absolute()
    return len(r)

@pipeline(name="surrounded", project="tests")
def surrounded():
    print("result", int(second(first({"x", "y", "z"}, [Point(1), Point({"p", "q"})]))))

PipelineDecorator.run_locally()
surrounded()
"""
)


def workers_of(home: Path) -> int:
    """How many workers a store has seen."""
    with sqlite3.connect(home / "minipipe.db") as connection:
        return int(connection.execute("SELECT count(*) FROM worker WHERE kind = 'agent'").fetchone()[0])


def test_a_fully_cached_run_starts_no_worker_whatever_hash_seed_folder_or_place_of_the_project(folder: Path) -> None:
    project, home = folder / "project", folder / "store"
    (project / "below").mkdir(parents=True)
    (project / "flow.py").write_text(SURROUNDED)
    python(project, "flow.py", MINIPIPE_HOME=str(home), PYTHONHASHSEED="1")
    assert workers_of(home) == 1

    again = [python(project, "flow.py", MINIPIPE_HOME=str(home), PYTHONHASHSEED="2", SOME_VARIABLE="x")]
    again.append(python(project / "below", "../flow.py", MINIPIPE_HOME=str(home), PYTHONHASHSEED="3"))
    project.rename(folder / "moved")
    again.append(python(folder, "moved/flow.py", MINIPIPE_HOME=str(home), PYTHONHASHSEED="4"))

    assert [one.out for one in again] == ["result 10\n"] * 3
    assert workers_of(home) == 1
    with sqlite3.connect(home / "minipipe.db") as connection:
        (cached,) = connection.execute("SELECT count(*) FROM task WHERE cached_from IS NOT NULL").fetchone()
    assert cached == 6


# -- data -------------------------------------------------------------------------------------------------------------

DATA = (
    HEAD
    + '''
class Forgetful:
    """Shows other content each time it is asked."""
    def __reduce__(self):
        return Forgetful, (), {"x": os.urandom(8)}

@component(return_values=["lines", "count"])
def source(path):
    lines = Path(path).read_text().split()
    return lines, len(lines)

@component(return_values=["r"], cache=True)
def of_lines(lines):
    return [len(line) for line in lines]

@component(return_values=["r"], cache=True)
def of_count(count):
    return count * 2

@component(return_values=["r"], cache=True)
def of_both(both, n=1):
    return [both["count"], both["lines"]]

@component(return_values=["r"], cache=True)
def of_path(path):
    return path.read_text().split()

@component(return_values=["r"], cache=True)
def of_folder(path):
    return sorted(p.name for p in path.iterdir())

@component(return_values=["r"], cache=True)
def of_text(path):
    return Path(path).read_text().split()

@component(return_values=["r"], cache=True)
def of_nothing_stable(thing, other):
    return other

@component(return_values=["r"], cache=True)
def breaks_once(n):
    if not os.path.exists("broke"):
        Path("broke").touch()
        raise KeyError("once")
    return n

@pipeline(name="data", project="tests")
def data():
    lines, count = source("content.txt")
    of_lines(lines), of_count(count), of_both({"lines": [lines], "count": count})
    of_path(Path("content.txt")), of_folder(Path("content")), of_text("content.txt")
    of_nothing_stable(Forgetful(), 1)
    breaks_once(1)

PipelineDecorator.run_locally()
data()
'''
)


EVERY = {"of_lines", "of_count", "of_both", "of_path", "of_folder", "of_text", "breaks_once"}
FORGET_OUTPUT = (
    "UPDATE blob SET bytes = NULL WHERE digest IN (SELECT a.digest FROM artifact a JOIN task t ON t.id = a.task_id"
    " WHERE t.name = 'of_both' AND a.role = 'output')"
)


class History:
    """The data script, run several times while its surroundings change.

    Attributes:
        facts: name of the run -> the steps that were served from the cache, and what the process said.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left = Left(folder)
        self.facts: dict[str, tuple[set[str], Done]] = {}

    def make(self) -> None:
        """Run the script as often as needed."""
        self.folder.mkdir()
        (self.folder / "flow.py").write_text(DATA)
        (self.folder / "content").mkdir()
        self._write("a bb ccc")
        self._run("first")
        self._run("again")
        self._write("x yy zzz")
        self._run("other content")
        self._write("a bb ccc")
        self._run("refresh two", MINIPIPE_REFRESH="of_count, of_path")
        self._run("after the refresh")
        self._change("UPDATE task SET archived = 1 WHERE name = 'of_count'")
        self._change(FORGET_OUTPUT)
        self._run("archived and damaged")
        self._run("refresh all", MINIPIPE_REFRESH="*")
        text = {name: (sorted(cached), done.code, done.out, done.err) for name, (cached, done) in self.facts.items()}
        (self.folder / "facts.json").write_text(json.dumps(text))

    def read(self) -> None:
        """Read what `make` noted, perhaps in another process."""
        for name, (cached, *done) in json.loads((self.folder / "facts.json").read_text()).items():
            self.facts[name] = set(cached), Done(*done)

    def served(self, run: str) -> set[str]:
        """The steps of a run that were served from the cache."""
        return self.facts[run][0]

    def step(self, run: str, name: str) -> sqlite3.Row:
        """A step of a run."""
        number = list(self.facts).index(run)
        sql = "SELECT * FROM task WHERE parent_id = ? AND name = ?"
        (found,) = self.left.rows(sql, self.left.runs("data")[number]["id"], name)
        return found

    def _write(self, content: str) -> None:
        (self.folder / "content.txt").write_text(content)
        (self.folder / "content" / "file.txt").write_text(content)

    def _run(self, name: str, **environment: str) -> None:
        done = python(self.folder, "flow.py", check=None, **environment)
        self.facts[name] = {one for one, step in self.left.steps("data").items() if step["cached_from"]}, done

    def _change(self, sql: str) -> None:
        with self.left.store.database.write() as connection:
            connection.execute(sql)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """The data script after all its runs; they happen once, whatever number of test processes there is."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    found = History(base / "data-history")
    with FileLock(base / "data-history.lock"):
        if not (found.folder / "facts.json").exists():
            found.make()
    found.read()
    yield found
    found.left.store.close()


def test_steps_are_served_when_an_upstream_step_ran_again_with_equal_output(history: History) -> None:
    assert history.served("first") == set()
    assert history.served("again") == EVERY - {"breaks_once"}
    assert history.step("again", "source")["attempt"] == 1


def test_a_failed_step_does_not_serve(history: History) -> None:
    assert history.facts["first"][1].code == 1
    assert history.step("first", "breaks_once")["status"] == "failed"
    assert history.step("again", "breaks_once")["attempt"] == 1
    assert "breaks_once" in history.served("other content")


def test_results_and_paths_are_keyed_by_content_and_a_text_path_by_its_text(history: History) -> None:
    assert history.served("other content") == {"of_count", "of_text", "breaks_once"}


def test_refresh_names_steps_that_run_and_then_serve_as_the_newest(history: History) -> None:
    assert history.served("refresh two") == EVERY - {"of_count", "of_path"}
    assert history.served("after the refresh") == EVERY
    for name in ("of_count", "of_path"):
        refreshed = history.step("refresh two", name)["id"]
        assert history.step("after the refresh", name)["cached_from"] == refreshed


def test_refresh_of_all_runs_every_step(history: History) -> None:
    assert history.served("refresh all") == set()


def test_archived_tasks_and_those_with_missing_outputs_do_not_serve(history: History) -> None:
    assert history.served("archived and damaged") == EVERY - {"of_count", "of_both"}


def test_an_argument_without_a_stable_digest_runs_each_time_with_one_warning_that_names_it(history: History) -> None:
    for run in ("first", "again"):
        (line,) = [line for line in history.facts[run][1].err.splitlines() if "no stable digest" in line]
        assert "'of_nothing_stable'" in line
        assert "thing" in line
        assert "other" not in line
        step = history.step(run, "of_nothing_stable")
        assert (step["attempt"], step["cache_key"], step["cached_from"]) == (1, None, None)
