"""The fixtures of the pytest plugin, used as a project would."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from minipipe import PipelineController, PipelineDecorator, Task, clearml, errors
from minipipe.engine import start
from minipipe.sdk import maintask
from minipipe.store import workers
from minipipe.testing import stores

FLOW = """
import helper_of_the_flow
from minipipe import PipelineDecorator, Task

@PipelineDecorator.component(return_values=["x"], cache=True)
def double(x, times=2):
    print("doubling", x)
    Task.current_task().get_logger().report_single_value("in", x)
    Task.current_task().get_logger().report_scalar("t", "s", 0.5, 1)
    return helper_of_the_flow.twice(x)

@PipelineDecorator.component(return_values=["y", "rest"])
def divide(x, by):
    return x / by, [x, by]

@PipelineDecorator.component(return_values=["z"])
def last(y):
    return y

@PipelineDecorator.pipeline(name="flow", project="p", version="1.0.0")
def flow(a: int = 1, by: int = 2):
    y, rest = divide(double(a), by)
    last(y)
    Task.current_task().get_logger().report_single_value("a", a)
    print("the logic is done")
    return y

if __name__ == "__main__":
    LINE
    flow()
    print("and the script too")
"""
LOCAL, REMOTE = "PipelineDecorator.run_locally()", "pass"


@pytest.fixture
def script(tmp_path: Path) -> Any:
    def write(line: str = LOCAL, name: str = "flow.py", text: str = FLOW) -> Path:
        (tmp_path / "helper_of_the_flow.py").write_text("def twice(x):\n    return 2 * x\n")
        path = tmp_path / name
        path.write_text(text.replace("LINE", line))
        return path

    return write


@PipelineDecorator.component(return_values=["n"], retry_on_failure=2)
def third_time_lucky(path: str) -> int:
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        raise OSError("not yet")
    return os.getpid()


@PipelineDecorator.pipeline(name="lucky", project="p", version="1.0.0")
def lucky(path: str) -> Any:
    return third_time_lucky(path)


@PipelineDecorator.component(return_values=["n"])
def interrupted() -> None:
    raise KeyboardInterrupt


# -- what comes of a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [LOCAL, REMOTE, "PipelineDecorator.debug_pipeline()"], ids=["local", "remote", "debug"])
def test_a_script_runs_here_whatever_mode_it_asks_for_and_its_steps_are_recorded(
    run_pipeline: Any, script: Any, line: str
) -> None:
    run = run_pipeline(script(line), a=4, by=4).assert_completed().assert_order("double", "divide", "last")

    assert run.ok and run.exit_code == 0 and run.status == "completed" and len(run.id) == 32 and "-" in run.name
    assert list(run.steps) == ["double", "divide", "last"]
    assert run.steps["double"].results == {"x": 8} and run.steps["divide"].results == {"y": 2.0, "rest": [8, 4]}
    assert run.steps["divide"].artifacts["rest"].get() == [8, 4]
    assert run.steps["double"].metrics == {"in": 4.0, "t/s": 0.5} and run.metrics == {"a": 4.0}
    with pytest.raises(KeyError, match="no step 'treble'; the run has double, divide, last"):
        run.steps["treble"]
    assert run.steps["double"].console == "doubling 4\n" and run.steps["double"].params["x"] == 4
    assert run.params["a"] == 4 and run.params["Args/by"] == 4
    assert run.console.count("the logic is done") == 1 and run.console.count("and the script too") == 1


def test_an_equal_step_of_an_earlier_run_is_served_from_the_cache(run_pipeline: Any, script: Any) -> None:
    path = script()
    run_pipeline(path, a=4)

    run = run_pipeline(path, a=4, by=1).assert_completed().assert_cached("double")

    assert not run.steps["divide"].cached and run.steps["divide"].results["y"] == 8.0


def test_a_failing_run_is_returned_with_its_step_and_its_words(run_pipeline: Any, script: Any) -> None:
    run = run_pipeline(script(), by=0).assert_failed("divide", match="ZeroDivisionError: division by").assert_skipped("last")

    assert not run.ok and run.exit_code == 1 and run.status == "failed"
    assert run.steps["divide"].error["type"] == "ZeroDivisionError" and "flow.py" in run.steps["divide"].error["where"]
    assert "Traceback (most recent call last)" in run.steps["divide"].console
    assert "return x / by" in run.told() and "divide  1      -" in run.told()


def test_logic_that_raises_is_a_failed_run_that_says_where(run_pipeline: Any) -> None:
    @PipelineDecorator.pipeline(name="raises", project="p", version="1.0.0")
    def raises() -> None:
        raise KeyError("in the logic")

    run = run_pipeline(raises).assert_failed(match="KeyError: 'in the logic'")

    assert 'raise KeyError("in the logic")' in run.told() and run.steps == {} and isinstance(run.error, KeyError)


@pytest.mark.parametrize("mode", ["inline", "local"])
def test_a_decorated_pipeline_is_called_and_its_steps_retried(run_pipeline: Any, tmp_path: Path, mode: str) -> None:
    run = getattr(run_pipeline, mode)(lucky, path=str(tmp_path / "tries")).assert_completed()

    assert run.steps["third_time_lucky"].attempts == 3
    assert (run.value == os.getpid()) is (mode == "inline"), "in local mode each step is a process"


def test_a_controller_runs_with_its_parameters_references_and_callbacks(run_pipeline: Any) -> None:
    def add(a: int, b: int = 2) -> int:
        return a + b

    def before(pipeline: Any, node: Any, parameters: dict[str, Any]) -> bool:
        seen.append((node.name, dict(parameters)))
        parameters["kwargs/b"] = 30
        return True

    seen: list[Any] = []
    controller = PipelineController("c", "p", "1.0")
    controller.add_parameter("z", 3)
    controller.add_function_step("first", add, {"a": "${pipeline.z}"}, function_return=["r"])
    controller.add_function_step("second", add, {"a": "${first.r}"}, function_return=["r"], pre_execute_callback=before)

    run = run_pipeline(controller, z=10).assert_completed().assert_order("first", "second")

    assert run.steps["first"].results == {"r": 12} and run.steps["second"].results == {"r": 42}
    assert [name for name, _ in seen] == ["second"]


def test_templates_are_registered_copied_and_run_here(run_pipeline: Any, script: Any) -> None:
    template = script(
        name="template.py",
        text="import sys\nfrom minipipe import Task\ntask = Task.init('p', 'template')\nfound = task.connect({'a': 1})\n"
        "task.execute_remotely()\nprint('running with', found)\ntask.upload_artifact('out', found['a'] * 2)\n"
        "assert found['a'] != 13, 'thirteen'\n",
    )
    controller = script(
        name="controller.py",
        text="from minipipe import PipelineController\ncontroller = PipelineController('c', 'p', '1.0')\n"
        "for name, a, parents in (('one', 21, []), ('two', 13, ['one'])):\n"
        "    controller.add_step(name, base_task_project='p', base_task_name='template', parents=parents,"
        " parameter_override={'General/a': a})\ncontroller.start()\n",
    )

    registered = run_pipeline(template)
    run = run_pipeline(controller).assert_failed("two", match="thirteen")

    assert registered.ok and registered.status == "created" and "running with" not in registered.console
    assert run.steps["one"].artifacts["out"].get() == 42 and "running with {'a': 21}" in run.steps["one"].console


def test_a_controller_script_that_queues_and_waits_finds_its_tasks_done(run_pipeline: Any, script: Any) -> None:
    template = script(
        name="template.py",
        text="from clearml import Task\ntask = Task.init('p', 'template')\nfound = task.connect({'a': 1})\n"
        "task.execute_remotely()\ntask.get_logger().report_single_value('score', found['a'] * 1.5)\n",
    )
    search = script(
        name="search.py",
        text="from clearml import Task\nTask.init('p', 'search')\nbase = Task.get_task(project_name='p', task_name='template')\n"
        "made = [Task.clone(base, name=f'copy {a}') for a in range(3)]\n"
        "for a, task in enumerate(made):\n    task.set_parameters({'General/a': a})\n    Task.enqueue(task, queue_name='default')\n"
        "for task in made:\n    task.wait_for_status()\n"
        "print('best', max(task.get_reported_single_value('score') for task in made))\n",
    )
    run_pipeline(template)

    run = run_pipeline(search)

    assert run.ok and "best 3.0" in run.console and [task.name for task in run.tasks] == ["search", "copy 0", "copy 1", "copy 2"]


def test_threads_of_the_logic_may_call_steps(run_pipeline: Any) -> None:
    @PipelineDecorator.component(return_values=["x"])
    def double(n: int) -> int:
        return 2 * n

    @PipelineDecorator.pipeline(name="threads", project="p", version="1.0.0")
    def threads() -> list[int]:
        found: list[int] = []
        crew = [threading.Thread(target=lambda n=n: found.append(int(double(n)))) for n in range(4)]  # type: ignore[misc]
        for each in crew:
            each.start()
        for each in crew:
            each.join()
        return sorted(found)

    assert run_pipeline(threads).assert_completed().value == [0, 2, 4, 6]


def test_a_task_of_its_own_is_what_a_script_without_pipeline_leaves(run_pipeline: Any, script: Any) -> None:
    text = "from minipipe import Task\ntask = Task.init('p', 'own')\ntask.connect({'a': 1})\ntask.upload_artifact('x', [1, 2])\n"

    run = run_pipeline(script(text=text))

    assert run.ok and run.status == "completed" and run.name == "own"
    assert run.params["General/a"] == 1 and run.artifacts["x"].get() == [1, 2] and run.steps == {}
    assert Task.current_task() is None and maintask.main_task() is None


@pytest.mark.parametrize("mode", ["inline", "local"])
def test_what_a_script_connects_takes_the_parameters_of_the_test(run_pipeline: Any, script: Any, mode: str) -> None:
    text = "from minipipe import Task\ntask = Task.init('p', 'own')\nprint(task.connect({'a': 1, 'b': [1]}))\n"
    run = getattr(run_pipeline, mode)

    done = run(script(text=text), a=2, b=[3, 4])
    assert done.ok and "{'a': 2, 'b': [3, 4]}" in done.console and done.params["General/a"] == 2
    assert "{'a': 1, 'b': [1]}" in run(script(text=text)).console, "nothing is left of it"
    if mode == "inline":
        with pytest.raises(errors.UsageError, match="has no parameter 'c'"):
            run(script(text=text), c=1)
    else:  # its task was made, and is looked at
        wrong = run(script(text=text), c=1)
        assert (wrong.exit_code, wrong.status) == (2, "completed") and "has no parameter 'c'" in wrong.console


@pytest.mark.parametrize("mode", ["inline", "local"])
def test_import_clearml_is_minipipe_in_a_script_and_nowhere_else(run_pipeline: Any, script: Any, mode: str) -> None:
    run = getattr(run_pipeline, mode)(script(text="import clearml\nprint(clearml.Task.__module__, clearml.__version__)"))

    assert "minipipe.sdk.task 2.1.12" in run.console
    assert not clearml.is_installed() and "clearml" not in sys.modules


def test_import_clearml_is_minipipe_in_a_test_that_asks_for_it(clearml_alias: Any) -> None:
    module = importlib.import_module("clearml.automation.controller")

    assert module.PipelineDecorator is PipelineDecorator and clearml_alias.Task is Task


@pytest.mark.parametrize("text", ["raise SystemExit(7)", "def f(:", "raise ValueError('no')"], ids=["exit", "syntax", "error"])
def test_a_script_that_starts_nothing_and_fails_is_a_failed_run_without_a_task(run_pipeline: Any, script: Any, text: str) -> None:
    run = run_pipeline(script(text=text)).assert_failed()

    assert run.exit_code == (7 if "7" in text else 1) and run.status == "" and run.tasks == []
    with pytest.raises(AssertionError, match="started no task"):
        run.id  # noqa: B018


# -- assertions that fail -----------------------------------------------------------------------------------------------


def test_each_assertion_says_what_is_wrong(run_pipeline: Any, script: Any) -> None:
    good, bad = run_pipeline(script()), run_pipeline(script(), by=0)
    for wrong, words in (
        (lambda: bad.assert_completed(), "the run did not complete: it is failed, exit code 1"),
        (lambda: bad.assert_completed("last"), "step 'last' did not complete: it is skipped"),
        (lambda: good.assert_failed(), "the run did not fail: it is completed, exit code 0"),
        (lambda: bad.assert_failed("double"), "step 'double' did not fail: it is completed"),
        (lambda: bad.assert_failed("divide", match="loss is nan"), "'loss is nan' is not in what divide said"),
        (lambda: good.assert_cached("double"), "step 'double' was not cached: it is completed"),
        (lambda: good.assert_skipped("last"), "step 'last' was not skipped: it is completed"),
        (lambda: good.assert_completed("lst"), "there is no step 'lst': the run has double, divide, last"),
        (lambda: good.assert_order("divide", "double"), "'divide' did not end before 'double' began"),
    ):
        with pytest.raises(AssertionError, match="^" + words.replace("(", r"\(")):
            wrong()


@pytest.mark.parametrize("mode", ["inline", "local"])
def test_what_cannot_be_run_at_all_is_raised(run_pipeline: Any, script: Any, mode: str) -> None:
    run = getattr(run_pipeline, mode)

    with pytest.raises(errors.NotFound, match="no script 'flw.py'"):
        run("flw.py")
    with pytest.raises(errors.UsageError, match="no parameter 'bye'"):
        run(script(), bye=1)
    with pytest.raises(errors.BadParameter, match="a object cannot be passed to a script"):
        run(script(), by=object())
    with pytest.raises(errors.UsageError, match="run_pipeline cannot run a int"):
        run(3)


def test_a_parameter_that_no_pipeline_takes_is_raised(run_pipeline: Any, script: Any) -> None:
    with pytest.raises(errors.BadParameter, match=r"no pipeline took --set lr"):
        run_pipeline(script(text="print('nothing')"), lr=1)


# -- the test's own process ---------------------------------------------------------------------------------------------


def test_a_run_leaves_the_process_as_it_was(run_pipeline: Any, script: Any) -> None:
    def state() -> Any:
        names = {name for name in os.environ if name.startswith("MINIPIPE")}
        return (sys.argv, sys.path[:], sys.modules["__main__"], os.getcwd(), names, PipelineDecorator._mode, sys.stdout)

    before = state()
    path = script()
    run_pipeline(path)
    path.parent.joinpath("helper_of_the_flow.py").write_text("def twice(x):\n    return -x\n")

    again = run_pipeline(path, a=3).assert_completed()

    assert again.steps["double"].results == {"x": -3}, "the changed module was read"
    assert "helper_of_the_flow" not in sys.modules
    assert state() == before


def test_ctrl_c_in_a_step_ends_the_test(run_pipeline: Any) -> None:
    @PipelineDecorator.pipeline(name="stopped", project="p", version="1.0.0")
    def stopped() -> None:
        interrupted()

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(stopped)


@pytest.mark.minipipe(timeout_s=0.2)
@pytest.mark.parametrize("mode", ["inline", "local"])
def test_a_run_that_takes_too_long_is_ended(run_pipeline: Any, script: Any, mode: str) -> None:
    began = time.monotonic()

    with pytest.raises(errors.WaitTimeout, match=r"took longer than 0\.2 s"):
        getattr(run_pipeline, mode)(script(text="import time\ntime.sleep(60)\n"))

    assert time.monotonic() - began < 30


@pytest.mark.minipipe(jobs=3)
def test_the_marker_sets_the_number_of_steps_at_a_time(minipipe_store: Any) -> None:
    assert os.environ["MINIPIPE_JOBS"] == "3"
    assert os.environ["MINIPIPE_HOME"] == str(minipipe_store.path)


@pytest.mark.exhaustive
def test_a_process_that_is_left_running_is_named_and_killed(minipipe_template: Path, tmp_path: Path) -> None:
    store = stores.copy(minipipe_template, tmp_path / "store")
    process = start.start_worker(store.path, session="x" * 32, slots=1)
    end = time.monotonic() + 20
    while not workers.alive(store) and time.monotonic() < end:
        threading.Event().wait(0.01)

    left = stores.leave(store)

    assert len(left) == 1 and f"process {process.pid}" in left[0]
    assert process.wait(10) == -signal.SIGKILL


def test_a_fresh_store_costs_less_than_50_ms(minipipe_template: Path, tmp_path: Path) -> None:
    spent = []
    for number in range(5):
        began = time.perf_counter()
        store = stores.copy(minipipe_template, tmp_path / str(number))
        spent.append(time.perf_counter() - began)
        store.close()

    assert min(spent) < 0.05


def test_the_plugin_imports_nothing_until_a_fixture_is_used() -> None:
    code = "import sys, minipipe.pytest_plugin; print(*[n for n in sys.modules if n.startswith(('minipipe', 'click', 'sqlite'))])"

    done = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["minipipe", "minipipe.pytest_plugin"]


def test_pytest_does_not_rewrite_minipipes_modules() -> None:
    rewritten = {
        name
        for name, module in list(sys.modules.items())
        if name.startswith("minipipe") and "Rewriting" in type(getattr(module, "__loader__", None)).__name__
    }

    assert rewritten <= {"minipipe", "minipipe.pytest_plugin"}, "they were imported before the plugin could say so"


# -- the network --------------------------------------------------------------------------------------------------------

READER = """
import sys
from minipipe import StorageManager, Task
Task.init("p", "reader")
with open(StorageManager.get_local_copy("https://example.com/data/a.txt")) as file:
    print("read:", file.read())
"""


@pytest.mark.parametrize("mode", ["inline", "local"])
def test_mapped_urls_are_read_from_bytes_files_and_folders_and_others_are_an_error(
    run_pipeline: Any, url_map: Any, script: Any, tmp_path: Path, mode: str
) -> None:
    run, path = getattr(run_pipeline, mode), script(text=READER)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("from a folder")

    refused = run(path).assert_failed(match="https://example.com/data/a.txt is not mapped")
    url_map["https://example.com/data"] = tmp_path / "folder"
    from_folder = run(path)
    url_map.update({"https://example.com/data/a.txt": b"from bytes"})
    from_bytes = run(path)
    del url_map["https://example.com/data/a.txt"]

    assert (
        not refused.ok
        and from_folder.status == "completed"
        and "read: from a folder" in from_folder.console
        and "read: from bytes" in from_bytes.console
    )
    assert "read: from a folder" in run(path).console
