"""Plain control flow on results; failures, retries, limits."""

from __future__ import annotations

import time
from pathlib import Path

from cases import PATIENCE_S, case, ended, log_of, main, note, noted, raised, steps, wait_for

from minipipe import Logger, PipelineDecorator, StepFailed, Task


def component(**options):
    """A component with one result, ``n``."""
    return PipelineDecorator.component(return_values=["n"], **options)


@component()
def number(n=1):
    return n


@component()
def breaks(n=1):
    raise KeyError(f"no luck with {n}")


@component(continue_on_fail=True)
def may_break():
    raise KeyError("tolerated")


@component()
def plus(n, m=0):
    note(f"plus-{m}")
    return (n or 0) + m


# -- plain Python -----------------------------------------------------------------------------------------------------


@case
def an_if_on_a_result_decides_which_steps_exist():
    if number(3) > 2:
        plus(1, m=10)
    else:
        number(4)
    if not number(0):
        plus(2, m=20)
    assert list(steps()) == ["number", "plus", "number_1", "plus_1"]


@case
def a_while_repeats_a_step_until_its_result_is_good():
    value = number(1)
    while value < 4:
        value = plus(value, m=1)
    assert value == 4
    assert list(steps()) == ["number", "plus", "plus_1", "plus_2"]


@case
def a_for_runs_over_a_result():
    found = [plus(each, m=1) for each in number([1, 2, 3])]
    assert found == [2, 3, 4]


@case(return_value="result")
def an_early_return_ends_the_logic():
    if number(1) == 1:
        return "early"
    number(2)
    return "late"


# -- failure ----------------------------------------------------------------------------------------------------------


@case(ends="failed")
def using_the_result_of_a_failed_step_raises_step_failed_with_name_task_and_last_error_line():
    result = breaks(7)
    for _ in range(2):
        error = raised(ValueError, lambda: int(result))
        note("step-failed", type(error).__name__)
        assert isinstance(error, StepFailed)
        assert "'breaks'" in str(error)
        assert "no luck with 7" in str(error)
        assert (error.step, error.task_id) == ("breaks", steps()["breaks"]["uid"])
    note("step-failed", "went on")


@case(ends="failed", raises="StepFailed")
def step_failed_ends_the_logic_unless_it_is_caught():
    int(breaks(1))
    note("not-reached")


@case(ends="failed")
def a_failing_step_whose_result_is_never_used_fails_the_pipeline_at_its_end():
    breaks(1)
    plus(1, m=300)
    note("reached-the-end")


@case(ends="failed")
def descendants_of_a_failed_step_are_skipped_and_other_branches_go_on():
    bad = breaks(1)
    plus(plus(bad, m=401), m=402)
    plus(number(1), m=403)


@case
def with_continue_on_fail_the_result_is_none_and_descendants_are_skipped():
    result = may_break()
    assert result == None  # noqa: E711
    assert not result
    child = plus(result, m=500)
    assert child == None  # noqa: E711
    assert ended("may_break")["status"] == "failed"
    assert ended("plus")["status"] == "skipped"
    assert noted("plus-500") == []


@case
def the_result_of_a_skipped_step_skips_the_next_one_too():
    last = plus(plus(plus(may_break(), m=600), m=600), m=600)
    assert last == None  # noqa: E711
    assert {step["status"] for name, step in steps().items() if name != "may_break"} == {"skipped"}


@PipelineDecorator.component(return_values=["n"], continue_behaviour={"continue_on_fail": True})
def behaves():
    raise KeyError("tolerated")


@case
def continue_behaviour_replaces_continue_on_fail():
    assert behaves() == None  # noqa: E711


@component()
def hangs(name):
    Path(name).touch()
    wait_for("never-comes")
    return 1


@component()
def breaks_after(path):
    wait_for(path)
    raise KeyError("after")


@case(ends="failed", abort_on_failure=True)
def abort_on_failure_stops_running_steps_and_skips_waiting_ones():
    started = time.monotonic()
    running = hangs("hangs-abort")
    plus(running, m=700)
    breaks_after("hangs-abort")
    for name, status in (("hangs", "stopped"), ("plus", "skipped"), ("breaks_after", "failed")):
        assert ended(name)["status"] == status
    assert time.monotonic() - started < PATIENCE_S
    note("abort-ended", "stopped at once")


@case(ends="failed")
def without_abort_on_failure_running_steps_go_on():
    other = number(1)
    breaks(2)
    ended("breaks")
    assert plus(other, m=800) == 801
    note("went-on")


@case
def a_component_called_from_the_handler_of_a_failure_runs():
    try:
        number("x") + 1
    except TypeError:
        assert number("fallback") == "fallback"


# -- retries ----------------------------------------------------------------------------------------------------------


@component(retry_on_failure=2)
def third_time_lucky(file):
    times = note(file)
    print("attempt number", times)
    Logger.current_logger().report_scalar("loss", "train", times, iteration=times)
    Task.current_task().upload_artifact(f"of attempt {times}", [times])
    if times < 3:
        raise KeyError("not yet")
    return times


@case
def retry_on_failure_n_runs_the_same_task_up_to_n_more_times():
    assert third_time_lucky("lucky") == 3
    assert list(steps()) == ["third_time_lucky"]
    row = ended("third_time_lucky")
    assert (row["attempt"], row["retries"]) == (3, 2)


@case
def each_attempt_has_its_own_log_and_metrics_and_artifacts_of_failed_ones_do_not_mix():
    third_time_lucky("lucky-log")
    row = ended("third_time_lucky")
    assert row["status"] == "completed"
    assert "attempt number 3" in log_of("third_time_lucky")
    assert "attempt number 1" not in log_of("third_time_lucky")
    task = Task.get_task(row["uid"])
    assert task.get_reported_scalars()["loss"]["train"]["x"] == [3]
    assert [name for name in task.artifacts if name != "n"] == ["of attempt 3"]


@component(retry_on_failure=1)
def always_breaks(file):
    note(file)
    raise KeyError("always")


@case(ends="failed")
def after_the_last_retry_the_step_fails_for_good():
    always_breaks("always")
    assert ended("always_breaks")["attempt"] == 2


def ask(pipeline, node, retries_done):
    note(f"asked-{node.name}", f"{type(pipeline).__name__} {node.name} {retries_done}")
    return retries_done < 2


@component(retry_on_failure=ask)
def asks(file):
    note(file)
    raise KeyError("asks")


@component(retry_on_failure=ask)
def asks_and_completes(file):
    if note(file) < 2:
        raise KeyError("asks")
    return 5


@case(ends="failed")
def a_retry_callable_is_asked_after_each_failed_attempt_with_retries_done_from_0():
    asks("asks")
    assert ended("asks")["attempt"] == 3
    assert noted("asked-asks") == [f"PipelineDecorator asks {n}" for n in (0, 1, 2)]


@case
def a_retry_callable_that_says_true_lets_the_step_complete():
    assert asks_and_completes("asks-completes") == 5
    assert noted("asked-asks_and_completes") == ["PipelineDecorator asks_and_completes 0"]


def raises(pipeline, node, retries_done):
    raise RuntimeError("the predicate")


@component(retry_on_failure=raises)
def asks_in_vain(file):
    note(file)
    raise KeyError("asks")


@case(ends="failed")
def a_retry_callable_that_raises_means_no_retry():
    asks_in_vain("in-vain")
    assert ended("asks_in_vain")["attempt"] == 1
    assert ended("asks_in_vain")["status"] == "failed"


@component(name="plain")
def says_nothing(file):
    note(file)
    raise KeyError("plain")


@component(name="own", retry_on_failure=0)
def says_none(file):
    note(file)
    raise KeyError("own")


@case(ends="failed", retry_on_failure=1)
def the_pipelines_retries_hold_for_steps_that_say_nothing_themselves():
    says_nothing("says-nothing")
    says_none("says-none")
    assert ended("plain")["attempt"] == 2
    assert ended("own")["attempt"] == 1


@case(ends="failed", retry_on_failure=ask)
def the_pipelines_retry_callable_holds_for_steps_that_say_nothing_themselves():
    says_nothing("says-nothing-callable")
    says_none("says-none-callable")
    assert ended("plain")["attempt"] == 3
    assert ended("own")["attempt"] == 1
    assert noted("asked-plain") == [f"PipelineDecorator plain {n}" for n in (0, 1, 2)]
    assert noted("asked-own") == []


# -- stopping ---------------------------------------------------------------------------------------------------------


def stop_while_a_step_runs(file, **how):
    """Start a step that hangs and one that waits for it, and stop the pipeline."""
    plus(hangs(file), m=1000)
    wait_for(file)
    PipelineDecorator.get_current_pipeline().stop(**how)
    assert [step["status"] for step in steps().values()] == ["stopped", "skipped"]


@case
def stop_ends_running_steps_skips_waiting_ones_and_completes_the_pipeline():
    stop_while_a_step_runs("hangs-stop")


@case(ends="failed")
def stop_with_mark_failed_fails_the_pipeline():
    stop_while_a_step_runs("hangs-failed", mark_failed=True)


@case(ends="stopped")
def stop_with_mark_aborted_leaves_the_pipeline_stopped():
    stop_while_a_step_runs("hangs-aborted", mark_aborted=True)


# -- limits -----------------------------------------------------------------------------------------------------------


@component(time_limit=0.3)
def slow(file):
    note(file)
    time.sleep(PATIENCE_S)


@case(ends="failed")
def a_step_over_its_time_limit_is_killed_and_fails_and_its_children_are_skipped():
    started = time.monotonic()
    plus(slow("slow"), m=900)
    row = ended("slow")
    assert row["status"] == "failed"
    assert "0.3" in row["reason"]
    assert ended("plus")["status"] == "skipped"
    assert time.monotonic() - started < PATIENCE_S / 2


@component(time_limit=1.0, retry_on_failure=1)
def slow_once(file):
    if note(file) == 1:
        time.sleep(PATIENCE_S)
    return 1


@case
def a_step_over_its_time_limit_is_retried_like_any_failure():
    assert slow_once("slow-once") == 1
    assert ended("slow_once")["attempt"] == 2


if __name__ == "__main__":
    main()
