"""A real notebook: functions of its cells run in worker processes, and what it displays is readable without waiting."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

CELLS = (
    """
import os
from minipipe import PipelineController, PipelineDecorator, Task

SCALE = 10

def scaled(value):
    return value * SCALE

@PipelineDecorator.component(return_values=["rows", "pid"])
def load(n):
    return [scaled(i) for i in range(n)], os.getpid()

@PipelineDecorator.component(return_values=["total"])
def add(rows, wait):
    while wait and not os.path.exists(wait):
        pass
    return sum(rows)

@PipelineDecorator.pipeline(name="notebook", project="tests")
def flow(n=4, wait=""):
    rows, pid = load(n)
    total = add(rows, wait)
    if wait:
        from IPython.display import display
        display(total)
        open(wait, "w").close()
    return int(total), int(pid) != os.getpid()
""",
    """
PipelineDecorator.run_locally()
flow()
""",
    """
PipelineDecorator.run_locally()
flow(n=3, wait=os.path.abspath("go"))
""",
    """
run = Task.get_tasks(project_name="tests/.pipelines/notebook")[0]
run
""",
    """
step = [task for task in Task.get_tasks(project_name="tests/.pipelines/notebook") if task.name == "load"][0]
step.artifacts["rows"]
""",
    """
pipe = PipelineController(name="controller", project="tests", version="1.0.0")
pipe.add_function_step("load", lambda: [1, 2, 3], function_return=["rows"])
pipe.start_locally(run_pipeline_steps_locally=True)
pipe
""",
    "repr(pipe)",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """What each cell displayed."""
    nbclient = pytest.importorskip("nbclient", reason="pip install nbclient ipykernel")
    pytest.importorskip("ipykernel", reason="pip install nbclient ipykernel")
    import nbformat

    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.strip()) for cell in CELLS])
    client = nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}})
    environment = {**os.environ, "MINIPIPE_HOME": str(folder / "store"), "MINIPIPE_DURABILITY": "fast", "IPYTHONDIR": str(folder)}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    client.execute(env=environment)
    return [cell["outputs"] for cell in notebook["cells"]]


def data(found: list[dict[str, Any]], kind: str) -> list[str]:
    """What a cell displayed of a media type."""
    return ["".join(one["data"][kind]) for one in found if kind in one.get("data", {})]


def test_functions_of_cells_run_in_processes_of_their_own(outputs: list[list[dict[str, Any]]]) -> None:
    assert data(outputs[1], "text/plain") == ["(60, True)"]


def test_a_result_that_is_still_to_come_is_displayed_at_once(outputs: list[list[dict[str, Any]]]) -> None:
    # The step waits for a file that the cell makes after the display: had the display waited, the cell would never have ended.
    shown = data(outputs[2], "text/plain")
    assert shown[0].startswith("result 'total' of add: ") and shown[-1] == "(30, True)"
    assert "of step add" in data(outputs[2], "text/html")[0]


def test_runs_artifacts_and_controllers_show_blocks(outputs: list[list[dict[str, Any]]]) -> None:
    (run,) = data(outputs[3], "text/html")
    assert "mp-dag" in run and ">load<" in run and "2 completed" in run
    (artifact,) = data(outputs[4], "text/html")
    assert "[0, 10, 20" in artifact
    (pipe,) = data(outputs[5], "text/html")
    assert "mp-dag" in pipe
    (line,) = data(outputs[6], "text/plain")
    assert "'controller' 1.0.0" in line and "completed 1/1" in line
