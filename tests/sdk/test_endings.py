"""What is left when the cases of the flow scripts have ended: statuses, errors as their caller saw them, words on stderr."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minipipe.sdk.task import Task
from tests.sdk.sdk_scripts import Ran

Flow = Callable[[str, str], Ran]
both_modes = pytest.mark.parametrize("mode", ["local", "remote"])


def words(ran: Ran, case: str) -> str:
    """What the controller of a case printed: its process's stderr, or the log of its task."""
    return ran.done.err if ran.mode == "local" else ran.left.log(ran.left.run(case))


# -- errors -----------------------------------------------------------------------------------------------------------


def test_the_caller_of_a_pipeline_gets_step_failed_when_the_logic_does_not_catch_it(flow: Flow) -> None:
    left = flow("control", "local").left

    end = left.end("step_failed_ends_the_logic_unless_it_is_caught")
    assert end["type"] == "StepFailed"
    assert "step 'breaks' failed: KeyError: 'no luck with 1'" in end["text"]
    assert "control.py" in end["text"]


def test_the_caller_of_a_pipeline_gets_run_failed_when_a_step_failed_that_nobody_asked(flow: Flow) -> None:
    left = flow("control", "local").left

    end = left.end("a_failing_step_whose_result_is_never_used_fails_the_pipeline_at_its_end")
    assert end["type"] == "RunFailed"
    assert "breaks failed" in end["text"]


@both_modes
def test_the_reason_of_a_failed_run_names_its_failed_steps(flow: Flow, mode: str) -> None:
    run = flow("control", mode).left.run("a_failing_step_whose_result_is_never_used_fails_the_pipeline_at_its_end")

    assert "breaks failed" in run["reason"]


@both_modes
def test_logic_after_an_uncaught_step_failed_does_not_run(flow: Flow, mode: str) -> None:
    left = flow("control", mode).left

    assert left.noted("not-reached") == []
    assert left.noted("reached-the-end") == ["x"]
    assert left.noted("step-failed") == ["StepFailed", "StepFailed", "went on"]


@both_modes
def test_descendants_of_a_failed_step_end_skipped_and_the_other_branch_completed(flow: Flow, mode: str) -> None:
    left = flow("control", mode).left

    assert left.statuses("descendants_of_a_failed_step_are_skipped_and_other_branches_go_on") == {
        "breaks": "failed",
        "plus": "skipped",
        "plus_1": "skipped",
        "number": "completed",
        "plus_2": "completed",
    }
    assert left.noted("plus-403") == ["x"]
    assert left.noted("plus-401") == left.noted("plus-402") == []


@both_modes
def test_abort_on_failure_ends_the_pipeline_without_waiting_for_the_running_step(flow: Flow, mode: str) -> None:
    left = flow("control", mode).left

    assert left.noted("abort-ended") == ["stopped at once"]
    assert left.noted("went-on") == ["x"]


@both_modes
def test_a_retry_callable_that_raises_leaves_a_warning(flow: Flow, mode: str) -> None:
    case = "a_retry_callable_that_raises_means_no_retry"

    warning = "warning: the retry predicate of step 'asks_in_vain' raised RuntimeError: no retry"
    assert warning in words(flow("control", mode), case)


@both_modes
def test_each_attempt_keeps_its_own_log(flow: Flow, mode: str) -> None:
    left = flow("control", mode).left
    step = left.steps("each_attempt_has_its_own_log_and_metrics_and_artifacts_of_failed_ones_do_not_mix")["third_time_lucky"]

    for attempt in (1, 2, 3):
        text = left.log(step, attempt)
        assert [n for n in (1, 2, 3) if f"attempt number {n}" in text] == [attempt]
        assert ("KeyError" in text) == (attempt < 3)


@both_modes
def test_the_early_result_is_the_pipelines_artifact(flow: Flow, mode: str) -> None:
    left = flow("control", mode).left
    run = left.run("an_early_return_ends_the_logic")

    assert Task(left.store, run["id"], run["uid"]).artifacts["result"].get() == "early"
    assert list(left.steps("an_early_return_ends_the_logic")) == ["number"]


# -- callbacks --------------------------------------------------------------------------------------------------------


def test_the_caller_of_a_pipeline_gets_the_error_of_the_callback(flow: Flow) -> None:
    left = flow("callbacks", "local").left

    for case in ("pre", "post"):
        end = left.end(f"an_exception_in_a_{case}_callback_fails_the_pipeline_with_that_error")
        assert end == {"type": "OfTheCallback", "text": "boom"}


@both_modes
def test_the_reason_of_a_run_that_a_callback_failed_is_its_error(flow: Flow, mode: str) -> None:
    ran = flow("callbacks", mode)

    for case in ("pre", "post"):
        run = ran.left.run(f"an_exception_in_a_{case}_callback_fails_the_pipeline_with_that_error")
        assert "OfTheCallback: boom" in run["reason"]
    assert ran.left.noted("exploding") == []


@both_modes
def test_the_traceback_of_a_failed_status_callback_is_shown(flow: Flow, mode: str) -> None:
    case = "an_exception_in_a_status_callback_is_logged_only"

    assert "OfTheCallback: boom" in words(flow("callbacks", mode), case)


@both_modes
def test_steps_after_a_callback_that_failed_do_not_run(flow: Flow, mode: str) -> None:
    left = flow("callbacks", mode).left

    steps = left.statuses("an_exception_in_a_post_callback_fails_the_pipeline_with_that_error")
    assert steps["exploding_after"] == "completed"
    assert steps["child_of_explosion"] in ("skipped", "stopped")
    assert left.statuses("an_exception_in_a_pre_callback_fails_the_pipeline_with_that_error")["exploding"] == "stopped"


# -- results and words ------------------------------------------------------------------------------------------------


@both_modes
def test_lazy_results_in_the_result_of_the_logic_are_stored_as_values(flow: Flow, mode: str) -> None:
    left = flow("reporting", mode).left
    run = left.run("return_value_stores_the_result_of_the_logic_as_an_artifact_of_the_pipeline")

    assert Task(left.store, run["id"], run["uid"]).artifacts["result"].get() == [2, 5]


@both_modes
def test_a_result_of_none_makes_no_artifact(flow: Flow, mode: str) -> None:
    left = flow("reporting", mode).left
    run = left.run("a_result_that_is_none_is_not_stored")

    assert "result" not in Task(left.store, run["id"], run["uid"]).artifacts


def test_a_recorded_argument_prints_one_line_once_per_process_and_name(flow: Flow) -> None:
    lines = flow("reporting", "local").done.err.splitlines()

    recorded = (
        "component(docker_args=…)",
        "component(docker=…)",
        "pipeline(docker=…)",
        "component(stage=…)",
        "pipeline(pool_frequency=…)",
    )
    for name in recorded:
        assert len([line for line in lines if line.startswith(f"note: {name} is recorded, without effect")]) == 1, name
    assert not [line for line in lines if "packages" in line], "packages have an effect"


@both_modes
def test_the_start_of_a_run_prints_one_line_with_its_id_and_name(flow: Flow, mode: str) -> None:
    ran = flow("control", mode)
    case = "an_early_return_ends_the_logic"
    run = ran.left.run(case)

    (line,) = [line for line in ran.done.err.splitlines() if f" {case} " in line]
    assert line.startswith(f"run {run['uid'][:8]}  {run['run_name']}  ")


def test_queueing_says_that_nobody_serves_the_queue_and_names_the_command(flow: Flow) -> None:
    err = flow("calls", "remote").done.err

    assert "note: no worker serves queue 'services': the run waits; start one: minipipe worker\n" in err


@both_modes
def test_the_pipeline_task_is_a_controller_in_its_hidden_project_with_a_system_tag(flow: Flow, mode: str) -> None:
    left = flow("calls", mode).left
    run = left.run("edges_come_from_data_and_from_nothing_else")

    assert (run["type"], run["version"], run["controller"]) == ("controller", "1.0", 1)
    tags = left.rows("SELECT name FROM tag WHERE task_id = ? AND system = 1", run["id"])
    assert [tag["name"] for tag in tags] == ["pipeline"]


def test_no_worker_or_step_process_registration_outlives_the_script(flow: Flow) -> None:
    left = flow("calls", "local").left

    assert left.rows("SELECT * FROM worker WHERE ended_at IS NULL") == []
