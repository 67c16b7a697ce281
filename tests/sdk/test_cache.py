"""The cache key: what changes it and what does not, by real runs of a script that is edited in between."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from sdk_scripts import FLOWS, Done, Left, python

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


class Data:
    """The data script in a folder, run several times."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left = Left(folder)
        (folder / "flow.py").write_text(DATA)
        (folder / "content").mkdir()
        (folder / "broke").touch()
        self.write("a bb ccc")

    def write(self, content: str) -> None:
        """Change what the source step reads and what lies in the folder."""
        (self.folder / "content.txt").write_text(content)
        (self.folder / "content" / f"{len(content)}.txt").write_text(content)

    def run(self, **environment: str) -> tuple[set[str], Done]:
        """Run the script; returns the steps that were served from the cache, and the process."""
        done = python(self.folder, "flow.py", check=None, **environment)
        return {name for name, step in self.left.steps("data").items() if step["cached_from"]}, done

    def change(self, sql: str) -> None:
        """Change the store directly."""
        with self.left.store.database.write() as connection:
            connection.execute(sql)


@pytest.fixture
def data(folder: Path) -> Iterator[Data]:
    made = Data(folder)
    yield made
    made.left.store.close()


EVERY = {"of_lines", "of_count", "of_both", "of_path", "of_folder", "of_text", "breaks_once"}


def test_upstream_content_is_keyed_by_value_and_a_text_path_by_its_text(data: Data) -> None:
    assert data.run()[0] == set()
    assert data.run()[0] == EVERY, "the source ran again with equal output"

    data.write("x yy zzz")
    assert data.run()[0] == {"of_count", "of_text", "breaks_once"}

    data.write("a bb ccc")
    assert data.run()[0] == EVERY


def test_an_argument_without_a_stable_digest_runs_each_time_with_one_warning_that_names_it(data: Data) -> None:
    for _ in range(2):
        cached, done = data.run()
        assert "of_nothing_stable" not in cached
        (line,) = [line for line in done.err.splitlines() if "no stable digest" in line]
        assert "'of_nothing_stable'" in line
        assert "thing" in line
        assert "other" not in line
        assert data.left.steps("data")["of_nothing_stable"]["cache_key"] is None


def test_refresh_names_steps_that_run_and_then_serve_as_the_newest(data: Data) -> None:
    data.run()
    assert data.run(MINIPIPE_REFRESH="of_count, of_path")[0] == EVERY - {"of_count", "of_path"}
    refreshed = data.left.steps("data")["of_count"]["id"]

    assert data.run()[0] == EVERY
    assert data.left.steps("data")["of_count"]["cached_from"] == refreshed
    assert data.run(MINIPIPE_REFRESH="*")[0] == set()


def test_archived_failed_and_damaged_steps_do_not_serve(data: Data) -> None:
    (data.folder / "broke").unlink()
    assert data.run()[1].code == 1
    assert data.left.statuses("data")["breaks_once"] == "failed"
    assert data.run()[0] == EVERY - {"breaks_once"}

    data.change("UPDATE task SET archived = 1 WHERE name = 'of_count'")
    data.change(
        "UPDATE blob SET bytes = NULL WHERE digest IN (SELECT a.digest FROM artifact a JOIN task t ON t.id = a.task_id"
        " WHERE t.name = 'of_both' AND a.role = 'output')"
    )
    assert data.run()[0] == EVERY - {"of_count", "of_both"}
    assert data.run()[0] == EVERY
