"""The examples with tasks as steps, run as their own words say."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock

from minipipe.sdk.task import Task
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import ROOT, TIMEOUT_S, Done, Left, python, surroundings

# Looked for, not imported: every process of pytest-xdist reads this file, and one runs what is in it.
pytestmark = pytest.mark.skipif(
    find_spec("sklearn") is None or find_spec("pandas") is None, reason="needs scikit-learn and pandas"
)

_TEMPLATES = ("custom_controller/train", "hyperparameters/template")


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples and a store in which their templates are registered; made once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "registered-examples"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            for example in ("from_tasks", "custom_controller", "hyperparameters"):
                shutil.copytree(ROOT / "examples" / example, folder / example)
            for script in (*(f"from_tasks/{name}" for name in ("load", "split", "train")), *_TEMPLATES):
                assert "created" in run(folder, f"{script}.py").err
            (folder / "done").touch()
    return folder


@pytest.fixture
def folder(registered: Path, tmp_path: Path) -> Path:
    """A copy of that folder for one test."""
    return Path(shutil.copytree(registered, tmp_path / "all"))


def run(folder: Path, script: str, *words: str) -> Done:
    """`minipipe run` of an example."""
    return python(folder, "-m", "minipipe", "run", script, *words)


def newest(left: Left, name: str) -> dict[str, tuple[str, bool]]:
    """Step -> status, and whether it came from the cache, of the newest run of a pipeline."""
    rows = left.rows(
        "SELECT * FROM task WHERE parent_id = (SELECT max(t.id) FROM task t JOIN project p ON p.id = t.project_id"
        " WHERE p.name = ? AND t.run_name IS NOT NULL) ORDER BY id",
        f"examples/.pipelines/{name}",
    )
    return {row["name"]: (row["status"], row["cached_from"] is not None) for row in rows}


def task(store: Store, project: str, name: str) -> Task:
    """The newest task of a project and name."""
    row = store.database.row(
        "SELECT t.id, t.uid FROM task t JOIN project p ON p.id = t.project_id WHERE p.name = ? AND t.name = ? ORDER BY t.id DESC",
        (project, name),
    )
    assert row is not None
    return Task(store, row["id"], row["uid"])


def test_the_templates_are_drafts_with_their_parameters(registered: Path) -> None:
    store = Store.open(registered / ".minipipe", create=False)
    split = task(store, "examples", "wine 2 split")

    assert (split.status, split.task_type) == ("created", "data_processing")
    assert split.get_parameters() == {"General/data_task": "", "General/test_share": "0.25", "General/seed": "0"}
    store.close()


@pytest.mark.exhaustive
def test_a_pipeline_from_tasks_copies_three_scripts_and_repeats_only_what_a_parameter_changes(folder: Path, left: Left) -> None:
    out = run(folder, "from_tasks/pipeline.py").out

    ran = ("completed", False)
    expected = {"load": ran, "split": ran, "train 1": ("skipped", False), "train 2": ran, "train 3": ran}
    assert newest(left, "wine from tasks") == expected
    assert "train 1 gets C=0.001" in out
    assert "train 2 completed: accuracy" in out
    project = "examples/.pipelines/wine from tasks"
    split = task(left.store, project, "split")
    assert split.get_parameters()["General/data_task"] == task(left.store, project, "load").id
    assert len(split.artifacts["test_set"].get()) == 45
    pipe = task(left.store, project, "wine from tasks")
    assert min(pipe.get_reported_scalars()["accuracy by C"]["test"]["y"]) > 0.9
    assert split.get_tags() == [f"pipe: {pipe.id}"]
    for name in ("wine 1 load", "wine 2 split", "wine 3 train"):
        template = task(left.store, "examples", name)
        assert (template.status, list(template.artifacts)) == ("created", [])

    run(folder, "from_tasks/pipeline.py", "--set", "test_share=0.5", "--set", "least=1.0")
    skipped = ("skipped", False)
    again = {"load": ("completed", True), "split": ran, "train 1": skipped, "train 2": skipped, "train 3": ran}
    assert newest(left, "wine from tasks") == again
    assert len(task(left.store, project, "split").artifacts["test_set"].get()) == 89


@contextlib.contextmanager
def worker(folder: Path) -> Iterator[None]:
    """`minipipe worker` as a process of its own; asked to leave at the end, which it must do well."""
    words = (sys.executable, "-m", "minipipe", "worker", "-j", "2")
    pipe = subprocess.PIPE
    with subprocess.Popen(words, cwd=folder, env=surroundings(folder), stdout=pipe, stderr=subprocess.STDOUT) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said


def agents(left: Left, tasks: list[Task]) -> set[str]:
    """Which kinds of process have executed these tasks."""
    names = {row["name"]: row["kind"] for row in left.rows("SELECT name, kind FROM worker")}
    return {names[one.last_worker] for one in tasks}


@pytest.mark.exhaustive
def test_a_worker_of_its_own_runs_controller_and_steps(folder: Path, left: Left) -> None:
    with worker(folder):
        python(folder, "from_tasks/pipeline.py")
        pipe = task(left.store, "examples/.pipelines/wine from tasks", "wine from tasks")
        pipe.wait_for_status()
    assert pipe.status == "completed"
    assert "train 3 completed: accuracy" in left.log(left.rows("SELECT * FROM task WHERE id = ?", pipe.row_id)[0])


@pytest.mark.exhaustive
def test_a_custom_controller_searches_at_random_over_clones_of_a_template(folder: Path, left: Left) -> None:
    done = run(folder, "custom_controller/pipeline.py", "--", "--trials", "1", "--rounds", "2", "--target", "0.9999")

    search = task(left.store, "examples", "digits random search")
    copies = left.rows("SELECT id, uid, name, status FROM task WHERE parent_id = ? ORDER BY id", search.row_id)
    assert [(copy["name"], copy["status"]) for copy in copies] == [
        ("digits svm 0.0", "completed"),
        ("digits svm 1.0", "completed"),
    ]
    drawn = {Task(left.store, copy["id"], copy["uid"]).get_parameters()["General/gamma"] for copy in copies}
    assert len(drawn) == 2
    best = search.artifacts["best"].get()
    scores = [Task(left.store, copy["id"], copy["uid"]).get_last_scalar_metrics()["accuracy"]["mean"]["last"] for copy in copies]
    assert best["accuracy"] == max(scores)
    assert search.status == "completed"
    assert len(done.out.splitlines()) == 2, "what the script prints appears once"
    assert done.out.startswith("not good enough: digits svm ")
    assert task(left.store, "examples", "digits svm").status == "created"


@pytest.mark.exhaustive
def test_a_worker_of_its_own_runs_what_a_custom_controller_queues(folder: Path, left: Left) -> None:
    with worker(folder):
        out = python(folder, "custom_controller/pipeline.py", "--trials", "2", "--rounds", "1", "--target", "0.9999").out

    search = task(left.store, "examples", "digits random search")
    rows = left.rows("SELECT id, uid, status FROM task WHERE parent_id = ? ORDER BY id", search.row_id)
    copies = [Task(left.store, row["id"], row["uid"]) for row in rows]
    assert [copy.status for copy in (search, *copies)] == ["completed"] * 3
    assert (agents(left, [search]), agents(left, copies)) == ({"process"}, {"agent"})
    best = search.artifacts["best"].get()
    assert best["accuracy"] == max(copy.get_last_scalar_metrics()["accuracy"]["mean"]["last"] for copy in copies)
    assert best["id"] in {copy.id for copy in copies}
    assert out.startswith("not good enough: digits svm 0.")


@pytest.mark.exhaustive
@pytest.mark.parametrize("script", ["many", "search"])
def test_a_worker_of_its_own_runs_the_trials_of_a_search(folder: Path, left: Left, script: str) -> None:
    name = {"many": "digits concurrently", "search": "digits search"}[script]
    with worker(folder):
        python(folder, f"hyperparameters/{script}.py")
        pipe = task(left.store, f"examples/.pipelines/{name}", name)
        pipe.wait_for_status()

    rows = left.rows("SELECT id, uid, status FROM task WHERE parent_id = ? ORDER BY id", pipe.row_id)
    steps = [Task(left.store, row["id"], row["uid"]) for row in rows]
    assert (pipe.status, {step.status for step in steps}) == ("completed", {"completed"})
    assert agents(left, steps) == {"agent"}
    assert agents(left, [pipe]) == ({"agent"} if script == "many" else {"process"}), "search.py keeps its logic"
    if script == "many":
        assert "4 trainings, best C=" in left.log(left.rows("SELECT * FROM task WHERE id = ?", pipe.row_id)[0])
    else:
        assert set(pipe.get_reported_scalars()["accuracy"]) == {f"trial {number}" for number in range(4)}


@pytest.mark.conformance
def test_trainings_with_other_hyperparameters_run_at_once_and_the_best_one_is_fitted(folder: Path, left: Left) -> None:
    done = run(folder, "hyperparameters/many.py", "--set", "count=100", "--set", "gammas=[0.001]", "-j", "2")

    steps = newest(left, "digits concurrently")
    assert steps == dict.fromkeys(("load", "train", "train_1", "fit"), ("completed", False))
    best = task(left.store, "examples/.pipelines/digits concurrently", "digits concurrently").artifacts["best"].get()
    scores = [row["value"] for row in left.rows("SELECT CAST(text AS REAL) AS value FROM parameter WHERE name = 'score'")]
    assert best["accuracy"] == max(scores)
    assert "2 trainings, best C=" in done.out


@pytest.mark.exhaustive
def test_a_random_search_is_one_pipeline_whose_trials_copy_a_template_and_a_rerun_changes_their_number(
    folder: Path, left: Left
) -> None:
    done = run(folder, "hyperparameters/search.py", "--set", "trials=1")
    again = python(folder, "-m", "minipipe", "rerun", "@last", "--set", "trials=2")

    scores = {}
    for name in ("digits search", "digits search #2"):
        search = task(left.store, "examples/.pipelines/digits search", name)
        assert search.status == "completed"
        scores[name] = {series: points["y"][-1] for series, points in search.get_reported_scalars()["accuracy"].items()}
    assert (set(scores["digits search"]), set(scores["digits search #2"])) == ({"trial 0"}, {"trial 0", "trial 1"})
    assert scores["digits search"]["trial 0"] == scores["digits search #2"]["trial 0"], "drawn alike"
    best = max(scores["digits search #2"], key=scores["digits search #2"].__getitem__)
    assert f"best of 2: {best}, " in again.out
    assert "best of 1: trial 0, " in done.out
