"""Components called by steps, pipelines called by pipelines: ``nested.py local|remote [CASE ...]``; see ``cases.py``."""

from cases import case, edges, main, note, noted, parameters, raised, rows, steps

from minipipe import PipelineController, PipelineDecorator, StepFailed, Task, component


@component(return_values=["n"])
def leaf(n=1, file=""):
    if file:
        note(file, f"leaf {n}")
    return n + 1


@component(return_values=["n"])
def breaks(file):
    note(file, "breaks")
    raise KeyError("no luck")


@component(return_values=["n"])
def calls_twice(n):
    return int(leaf(n)) + leaf(10 * n)


@component(return_values=["n"])
def calls_and_hands_on(n):
    return leaf(n)


@component(return_values=["items"])
def calls_deeper(n):
    return [calls_twice(n), leaf(n)]


@component(return_values=["n"])
def uses_what_breaks(file):
    return int(breaks(file))


@component(return_values=["n"])
def survives_what_breaks(file):
    raised(StepFailed, lambda: int(breaks(file)))
    return 5


@component(return_values=["n"], retry_on_failure=1)
def fails_once(file):
    n = int(leaf(4, file))
    if len([line for line in noted(file) if line == "again"]) == 0:
        note(file, "again")
        raise KeyError("not yet")
    return n


@component(return_values=["n"], execution_queue="other")
def of_another_queue(n):
    return int(leaf(n))


def inner_logic(n=1, file=""):
    if file:
        note(file, f"inner {n} {Task.current_task().name} {Task.running_locally()}")
    return int(leaf(n)) * 2


inner = PipelineDecorator.pipeline(name="inner", project="tests", version="1.0", return_value="result")(inner_logic)


@PipelineDecorator.pipeline(name="inner that fails", project="tests", version="1.0")
def inner_that_fails():
    int(breaks("inner-fails"))


@component(return_values=["n"])
def calls_a_pipeline(n):
    return inner(n)


# -- components in steps ----------------------------------------------------------------------------------------------


@case
def a_component_called_inside_a_step_is_a_step_of_the_same_run_below_its_caller():
    assert int(calls_twice(1)) == 13
    assert set(steps()) == {"calls_twice", "calls_twice_leaf", "calls_twice_leaf_1"}
    assert ("calls_twice", "control", "calls_twice_leaf") in edges()
    assert parameters("calls_twice_leaf_1")["kwargs/n"] == "10"


@case
def calls_go_as_deep_as_they_like_and_lazy_results_are_handed_on():
    both, one = calls_deeper(1), calls_and_hands_on(7)
    assert list(both) == [13, 2]
    assert int(one) == 8
    assert "calls_deeper_calls_twice_leaf_1" in steps()


@case
def a_name_that_another_step_has_is_left_alone():
    first = leaf.__wrapped__
    assert first(1) == 2
    taken = component(first, name="calls_and_hands_on_leaf", return_values=["n"])
    assert int(taken(100)) == 101
    assert int(calls_and_hands_on(1)) == 2
    found = steps()
    assert set(found) == {"calls_and_hands_on_leaf", "calls_and_hands_on", "calls_and_hands_on_leaf_1"}
    assert all(row["superseded"] == 0 for row in found.values())


@case(ends="failed", raises="StepFailed")
def the_failure_of_a_step_below_is_the_callers_if_it_uses_the_result():
    failed = raised(StepFailed, lambda: int(uses_what_breaks("below")))
    assert "uses_what_breaks" in str(failed)
    assert {name: row["status"] for name, row in steps().items()} == {
        "uses_what_breaks": "failed",
        "uses_what_breaks_breaks": "failed",
    }
    raise failed


@case(ends="failed")
def a_step_below_that_fails_fails_the_run_though_its_caller_goes_on():
    assert int(survives_what_breaks("survived")) == 5


@case
def a_caller_that_runs_again_takes_what_its_steps_have_completed():
    assert int(fails_once("once")) == 5
    assert noted("once") == ["leaf 4", "again"]
    assert steps()["fails_once"]["attempt"] == 2
    assert set(steps()) == {"fails_once", "fails_once_leaf"}


@case
def steps_below_go_to_the_callers_queue():
    assert int(of_another_queue(1)) == 2
    assert steps()["of_another_queue_leaf"]["queue"] == "other"


# -- pipelines in pipelines -------------------------------------------------------------------------------------------


@case
def a_pipeline_called_in_a_running_one_is_a_run_and_a_step_of_it():
    me = Task.current_task().id
    assert [inner(n, "called") for n in (1, 4)] == [4, 10]
    assert Task.current_task().id == me
    found = steps()
    assert set(found) == {"inner", "inner_1"}
    assert all(row["run_name"] and row["nested"] and row["status"] == "completed" for row in found.values())
    below = rows("SELECT s.name, s.status, r.name AS run FROM task s JOIN task r ON r.id = s.parent_id WHERE r.parent_id = :run")
    assert {(row["run"], row["name"]) for row in below} == {("inner", "leaf"), ("inner_1", "leaf")}
    local = str(Task.running_locally())
    assert noted("called")[-2:] == [f"inner 1 inner {local}", f"inner 4 inner_1 {local}"]
    assert Task.get_task(task_id=found["inner"]["uid"]).artifacts["result"].get() == 4
    assert int(leaf(1)) == 2  # and the outer pipeline is the current one again
    assert "leaf" in steps()


@case(ends="failed", raises="StepFailed")
def the_failure_of_a_pipeline_below_is_the_failure_of_the_step():
    try:
        inner_that_fails()
    finally:
        assert steps()["inner that fails"]["status"] == "failed"


@case
def a_step_may_call_a_pipeline():
    assert int(calls_a_pipeline(2)) == 6
    assert set(steps()) == {"calls_a_pipeline", "calls_a_pipeline_inner"}
    assert steps()["calls_a_pipeline_inner"]["nested"] == 1


@case
def a_controller_started_in_a_running_pipeline_is_a_step_of_it():
    pipe = PipelineController("by hand", "tests", "1.0")
    pipe.add_function_step("one", leaf.__wrapped__, {"n": 3}, ["n"])
    pipe.add_function_step("two", leaf.__wrapped__, {"n": "${one.n}"}, ["n"])
    pipe.start_locally(run_pipeline_steps_locally=True)
    assert pipe.is_successful()
    assert pipe.get_pipeline_dag()["two"].job.task.get_parameter("return/n", cast=True) == 5
    assert set(steps()) == {"by hand"}


if __name__ == "__main__":
    main()
