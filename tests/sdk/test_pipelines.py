"""Pipelines in this very process: names, versions, arguments and errors that need no worker."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from minipipe import Logger, PipelineDecorator, Store, Task, component, errors, pipeline
from minipipe.sdk import notice, session


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A store of its own, debug mode, and nothing left of it afterwards."""
    for name in list(os.environ):
        if name.startswith("MINIPIPE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MINIPIPE_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("MINIPIPE_DURABILITY", "fast")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PipelineDecorator, "_mode", "debug")
    monkeypatch.setattr(PipelineDecorator, "_default_queue", None)
    yield tmp_path
    session.open_store().close()


def run(name: str = "flow", logic: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Run a pipeline; returns what its logic sees as the current pipeline."""
    seen = []

    @pipeline(name=name, project="tests", **options)
    def flow(a: int = 1) -> None:
        seen.append(PipelineDecorator.get_current_pipeline())
        if logic is not None:
            logic()

    flow()
    return seen[0]


# -- names and versions -----------------------------------------------------------------------------------------------


def test_the_second_run_of_a_pipeline_is_called_name_2() -> None:
    assert [run().task.name for _ in range(3)] == ["flow", "flow #2", "flow #3"]
    assert run("other").task.name == "other"


def test_without_run_numbers_all_runs_have_the_plain_name() -> None:
    assert [run(add_run_number=False).task.name for _ in range(2)] == ["flow", "flow"]


def test_the_same_name_in_another_project_counts_apart() -> None:
    @pipeline(name="flow", project="another")
    def flow() -> str:
        return PipelineDecorator.get_current_pipeline().task.name

    run()
    assert flow() == "flow"


def test_the_first_version_is_1_0_0_and_each_next_one_is_one_higher() -> None:
    assert [run().version for _ in range(3)] == ["1.0.0", "1.0.1", "1.0.2"]


def test_a_version_of_none_continues_from_the_last_one_given() -> None:
    assert run(version="2.9").version == "2.9"
    assert run().version == "2.10"
    assert run(version="23").version == "23"
    assert run().version == "24"
    assert run(version="1!2.0").version == "1!2.0"
    assert run().version == "1!2.1"


@pytest.mark.parametrize("version", ["1.0.1", "23", "1.2", "1!2.0", "1.0a1", "1.0.post1", "1.0.dev3", "1.0+local.7", "v1.0"])
def test_any_pep_440_version_is_taken(version: str) -> None:
    assert run(version=version).version == version


@pytest.mark.parametrize("version", ["one", "1.0.x", "1..0", "1.0-beta-gamma"])
def test_any_other_version_is_a_value_error(version: str) -> None:
    with pytest.raises(ValueError, match="PEP 440"):
        run(version=version)


# -- arguments --------------------------------------------------------------------------------------------------------


def test_the_pipeline_function_gets_its_arguments_and_returns_its_result() -> None:
    @pipeline(name="flow", project="tests")
    def flow(a: int, b: int = 2, *, c: int = 3) -> list[int]:
        return [a, b, c]

    assert flow(1) == [1, 2, 3]
    assert flow(4, b=5, c=6) == [4, 5, 6]
    assert flow.__name__ == "flow"


def test_an_unknown_keyword_of_the_pipeline_is_a_type_error_and_no_run() -> None:
    @pipeline(name="flow", project="tests")
    def flow(a: int = 1) -> None: ...

    with pytest.raises(TypeError, match="'n'"):
        flow(n=2)  # type: ignore[call-arg]
    assert session.open_store().database.rows("SELECT 1 FROM task") == []


def test_a_required_argument_of_the_pipeline_that_is_left_out_is_none_with_a_warning() -> None:
    @pipeline(name="flow", project="tests")
    def flow(a: int) -> Any:
        return a

    with pytest.warns(UserWarning, match="'a'") as caught:
        assert flow() is None  # type: ignore[call-arg]
    assert caught[0].filename == __file__


# -- outside a pipeline -----------------------------------------------------------------------------------------------


@component(return_values=["a", "b"])
def two(n: int = 1) -> tuple[int, int]:
    return n, n + 1


def test_a_component_called_outside_any_pipeline_is_a_plain_function_call() -> None:
    assert two(3) == (3, 4)
    assert two.__name__ == "two"


def test_there_is_no_current_pipeline_outside() -> None:
    assert PipelineDecorator.get_current_pipeline() is None
    run()
    assert PipelineDecorator.get_current_pipeline() is None
    assert Task.current_task() is None
    assert Logger.current_logger() is None
    assert Task.running_locally() is True


def test_the_pipelines_logger_and_uploads_are_a_value_error_outside() -> None:
    with pytest.raises(ValueError, match="no pipeline"):
        PipelineDecorator.get_logger()
    with pytest.raises(ValueError, match="no pipeline"):
        PipelineDecorator.upload_artifact("x", 1)


def test_a_failed_debug_run_leaves_no_current_pipeline() -> None:
    def breaks() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        run(logic=breaks)
    assert PipelineDecorator.get_current_pipeline() is None
    (row,) = session.open_store().database.rows("SELECT status FROM task")
    assert row["status"] == "failed"


def test_a_pipeline_called_in_a_running_one_is_a_step_of_it_in_debug_mode_too() -> None:
    seen = []
    outer = run(logic=lambda: seen.append(run("inner")) or seen.append(PipelineDecorator.get_current_pipeline()))

    assert seen[1] is outer
    assert seen[0].task.parent == outer.id
    assert (seen[0].task.status, outer.task.status) == ("completed", "completed")
    assert PipelineDecorator.get_current_pipeline() is None


def test_each_call_of_a_pipeline_with_many_instances_is_a_run() -> None:
    @pipeline(name="flow", project="tests", multi_instance_support=True)
    def flow(a: int) -> tuple[str, int]:
        return PipelineDecorator.get_current_pipeline().id, a

    first, second = flow(1), flow(2)
    assert [first[1], second[1]] == [1, 2]
    assert [Task.get_task(task_id=one[0]).name for one in (first, second)] == ["flow", "flow #2"]


def test_parallel_calls_return_none_and_their_results_are_collected_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PipelineDecorator, "_mode", "local")  # without steps no worker is started
    barrier = threading.Barrier(3, timeout=20)

    @pipeline(name="flow", project="tests", multi_instance_support="parallel")
    def flow(a: int) -> tuple[int, bool, bool]:
        barrier.wait()  # all three are there at once
        mine = PipelineDecorator.get_current_pipeline()
        Logger.current_logger().report_single_value("a", a)
        if a == 2:
            raise KeyError("the second fails")
        return a, mine.id == Task.current_task().id, mine.get_parameters()["a"] == a

    assert [flow(a) for a in (1, 2, 3)] == [None, None, None]
    with pytest.raises(KeyError, match="the second fails"):
        PipelineDecorator.wait_for_multi_pipelines()
    assert [flow(a) for a in (4, 5, 6)] == [None, None, None]
    assert PipelineDecorator.wait_for_multi_pipelines() == [(4, True, True), (5, True, True), (6, True, True)]
    assert PipelineDecorator.wait_for_multi_pipelines() == []
    rows = session.open_store().database.rows(
        "SELECT t.status, p.text, m.value FROM task t JOIN parameter p ON p.task_id = t.id AND p.name = 'a'"
        " JOIN metric m ON m.task_id = t.id ORDER BY p.text"
    )
    assert [tuple(row) for row in rows] == [("failed" if a == 2 else "completed", str(a), float(a)) for a in range(1, 7)]
    assert PipelineDecorator.get_current_pipeline() is None
    assert Task.current_task() is None


def test_a_pipeline_that_is_over_says_so() -> None:
    over = run()

    assert not over.is_running()
    assert over.elapsed() >= 0
    assert over.wait(timeout=1) is True


# -- what cannot be built ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"monitor_metrics": ["loss"]},
        {"monitor_metrics": [("t", "s", "x")]},
        {"monitor_metrics": [(("t", "s"), "t2")]},
        {"monitor_artifacts": [1]},
        {"monitor_artifacts": [("a", "b", "c")]},
        {"return_values": ["a", "a"]},
    ],
    ids=str,
)
def test_a_malformed_list_is_a_value_error_when_the_component_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"monitor_metrics|monitor_artifacts|'a' twice"):
        component(**wrong)(lambda: 1)


def test_recorded_arguments_print_their_notice_once_per_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "_said", set())
    for _ in range(2):
        component(docker="image", output_uri="file:///x")(lambda: 1)
        component(docker=None, packages=None)(lambda: 1)

    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("=")[0] for line in lines] == ["note: component(docker", "note: component(output_uri"]


# -- both spellings ---------------------------------------------------------------------------------------------------


def test_the_decorators_work_without_parentheses_and_as_functions() -> None:
    def plain(n: int) -> int:
        return n + 1

    bare = PipelineDecorator.component(plain)
    assert bare(1) == 2
    assert pipeline(lambda: 5, name="bare", project="tests")() == 5


# -- a worker per store -----------------------------------------------------------------------------------------------


def test_one_process_runs_local_pipelines_in_two_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @pipeline(name="flow", project="tests")
    def flow(n: int) -> int:
        first, _ = two(n)
        return int(first) * 10

    monkeypatch.setattr(PipelineDecorator, "_mode", "local")
    monkeypatch.setenv("MINIPIPE_PROGRESS", "off")
    for n in (1, 2):
        monkeypatch.setenv("MINIPIPE_HOME", str(tmp_path / f"store-{n}"))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert flow(n) == n * 10
        store = Store.open(tmp_path / f"store-{n}")
        assert [row["name"] for row in store.database.rows("SELECT name FROM task ORDER BY id")] == ["flow", "two"]
        store.close()


# -- looking tasks up -------------------------------------------------------------------------------------------------


def test_get_task_finds_by_id_or_the_newest_of_exactly_that_project_and_name() -> None:
    first, second = run(add_run_number=False), run(add_run_number=False)

    project = "tests/.pipelines/flow"
    assert Task.get_task(first.id).id == first.id
    assert Task.get_task(project_name=project, task_name="flow").id == second.id
    assert Task.get_task(project_name=project, task_name="flo") is None
    first.add_tags("old")
    assert Task.get_task(project_name=project, task_name="flow", tags=["old"]).id == first.id
    with pytest.raises(ValueError, match="no task"):
        Task.get_task("0" * 32)
    with pytest.raises(ValueError, match="no project"):
        Task.get_task(project_name="elsewhere", task_name="flow")


def test_an_archived_task_is_found_only_if_nothing_else_matches() -> None:
    first, second = run(add_run_number=False), run(add_run_number=False)
    project = "tests/.pipelines/flow"
    with session.open_store().database.write() as connection:
        connection.execute("UPDATE task SET archived = 1 WHERE uid = ?", (second.id,))

    assert Task.get_task(project_name=project, task_name="flow").id == first.id
    with session.open_store().database.write() as connection:
        connection.execute("UPDATE task SET archived = 1")
    assert Task.get_task(project_name=project, task_name="flow").id == second.id
    assert Task.get_task(project_name=project, task_name="flow", allow_archived=False) is None


def test_wait_for_status_returns_at_a_status_and_raises_at_another() -> None:
    task = run().task

    task.wait_for_status()
    task.wait_for_status(("completed",), ("failed",))
    with pytest.raises(RuntimeError, match="completed"):
        task.wait_for_status(("stopped",), raise_on_status=("completed",))


def test_an_artifact_knows_its_facts_and_gives_the_same_object_each_time() -> None:
    found: list[Task] = []

    def logic() -> None:
        PipelineDecorator.upload_artifact("table", {"a": [1, 2]}, metadata={"k": 1}, preview="a table")
        PipelineDecorator.upload_artifact("same", {"a": [1, 2]})
        found.append(Task.current_task())

    task = run(logic=logic).task
    artifact, other = task.artifacts["table"], task.artifacts["same"]

    assert list(task.artifacts) == ["table", "same"]
    assert (artifact.name, artifact.mode, artifact.preview, artifact.metadata) == ("table", "output", "a table", {"k": "1"})
    assert artifact.get() is artifact.get()
    assert artifact.get() == {"a": [1, 2]}
    assert artifact.get(force_download=True) is not other.get()
    assert artifact.url == other.url
    assert len(artifact.hash) == 64
    assert artifact.size > 0
    assert artifact.timestamp.tzinfo is not None
    assert artifact.get(force_download=True, deserialization_function=len) == artifact.size
    with pytest.raises(KeyError):
        task.artifacts["no such"]


def test_what_can_only_be_unpickled_is_refused_on_request() -> None:
    def logic() -> None:
        PipelineDecorator.upload_artifact("pickled", {1, 2})
        PipelineDecorator.upload_artifact("plain", {"a": [1, 2]})

    artifacts = run(logic=logic).task.artifacts
    with pytest.raises(errors.ArtifactError, match="'pickled' is a pickle"):
        artifacts["pickled"].get(block_unsafe_artifacts=True)
    assert artifacts["plain"].get(block_unsafe_artifacts=True) == {"a": [1, 2]}
    assert artifacts["pickled"].get() == {1, 2}


def test_reported_scalars_may_be_thinned_out_and_placed_by_time() -> None:
    def logic() -> None:
        for i in range(10):
            PipelineDecorator.get_logger().report_scalar("t", "s", i, iteration=10 * i)

    task = run(logic=logic).task
    thin = task.get_reported_scalars(max_samples=3)["t"]["s"]
    assert thin == {"name": "s", "x": [0, 30, 60], "y": [1.0, 4.0, 7.5]}
    assert len(task.get_reported_scalars(max_samples=10)["t"]["s"]["x"]) == 10
    times = task.get_reported_scalars(x_axis="timestamp")["t"]["s"]["x"]
    assert times == sorted(times)
    assert times[0] > 1.6e12
    assert task.get_reported_scalars(x_axis="iso_time")["t"]["s"]["x"][0].endswith("+00:00")
    with pytest.raises(ValueError, match="x_axis"):
        task.get_reported_scalars(x_axis="hours")


def test_errors_at_the_call_are_usage_errors_too() -> None:
    assert issubclass(errors.BadPipeline, ValueError)
    assert issubclass(errors.CannotTravel, TypeError)
    assert issubclass(errors.StepFailed, ValueError)
