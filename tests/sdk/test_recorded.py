"""Nothing that is passed is ignored in silence: what has no effect is stored, shown, and said once."""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minipipe import NotSupported, PipelineController, PipelineDecorator, StorageManager, Task
from minipipe.sdk import notice, pipeline
from minipipe.sdk.dataset import Dataset
from minipipe.store import records
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import ROOT, Left, python

# -- arguments of pipelines and steps -------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "docker": "image:1",
    "docker_args": "--ipc=host",
    "docker_bash_setup_script": "true",
    "output_uri": "s3://bucket",
    "auto_connect_arg_parser": {"lr": False},
    "stage": "training",
    "task_name": "another name",
    "pool_frequency": 5,
    "auto_version_bump": True,
    "skip_global_imports": True,
    "recursively_parse_parameters": True,
}
OWNERS: dict[str, Callable[..., Any]] = {
    "PipelineController": PipelineController.__init__,
    "add_step": PipelineController.add_step,
    "add_function_step": PipelineController.add_function_step,
    "pipeline": PipelineDecorator.pipeline,
    "component": PipelineDecorator.component,
}
ASKED = {
    owner: {name: VALUES[name] for name, why in pipeline._NO_EFFECT.items() if why and name in inspect.signature(call).parameters}
    for owner, call in OWNERS.items()
}
SCRIPT = """
import json
from minipipe import PipelineController, PipelineDecorator, Task

ASKED = json.loads(open("asked.json").read())

def one():
    return 1

@PipelineDecorator.component(**ASKED["component"])
def component():
    return 1

@PipelineDecorator.pipeline(name="functions", project="tests", **ASKED["pipeline"])
def functions():
    component()

open("template.py", "w").write("print(1)")
Task.create(project_name="tests", task_name="template", script="template.py")
for _ in range(2):
    pipe = PipelineController("tasks", "tests", **ASKED["PipelineController"])
    pipe.add_function_step("add_function_step", one, **ASKED["add_function_step"])
    pipe.add_step("add_step", base_task_project="tests", base_task_name="template", **ASKED["add_step"])
pipe.start_locally(run_pipeline_steps_locally=True)
PipelineDecorator.run_locally()
functions()
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[Left, str]:
    """What a script left, and said on stderr, that passes everything which is only recorded."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "asked.json").write_text(json.dumps(ASKED))
    (folder / "flow.py").write_text(SCRIPT)
    return Left(folder), python(folder, "flow.py").err


def test_every_argument_without_effect_is_said_once_however_often_it_is_passed(said: tuple[Left, str]) -> None:
    notes = [line for line in said[1].splitlines() if "is recorded, without effect" in line]

    for owner, given in ASKED.items():
        assert given, owner
        for name in given:
            assert len([line for line in notes if line.startswith(f"note: {owner}({name}=…)")]) == 1, (owner, name)


def test_every_argument_without_effect_is_stored_and_shown(said: tuple[Left, str]) -> None:
    left = said[0]
    rows = {
        "PipelineController": left.run("tasks"),
        "pipeline": left.run("functions"),
        "component": left.steps("functions")["component"],
        **left.steps("tasks"),
    }
    for owner, given in ASKED.items():
        found = json.loads(rows[owner]["settings"])
        assert {name: found.get(name) for name in given} == given, owner
    left.store.close()
    for owner in ("PipelineController", "component"):
        shown = python(left.folder, "-m", "minipipe", "show", rows[owner]["uid"]).out
        assert [name for name in ASKED[owner] if f"{name}=" not in shown] == [], shown


# -- names of contract.toml -----------------------------------------------------------------------------------------------

CALLS: dict[str, tuple[Callable[[Task], object], Callable[[Task], object], object]] = {  # call, what reads it back, that value
    "Task.set_offline": (lambda task: Task.set_offline(True), lambda task: Task.is_offline(), True),
    "Task.set_credentials": (lambda task: Task.set_credentials(key="k", secret="s"), lambda task: None, None),  # never kept
    "Task.set_resource_monitor_iteration_timeout": (
        lambda task: Task.set_resource_monitor_iteration_timeout(1.0),
        lambda task: task.resource_monitor,
        None,
    ),
    "Task.force_store_standalone_script": (lambda task: Task.force_store_standalone_script(), lambda task: None, None),
    "Logger.set_flush_period": (
        lambda task: task.get_logger().set_flush_period(3.0),
        lambda task: task.get_logger().get_flush_period(),
        3.0,
    ),
    "Logger.set_default_upload_destination": (
        lambda task: task.get_logger().set_default_upload_destination("s3://b"),
        lambda task: task.get_logger().get_default_upload_destination(),
        "s3://b",
    ),
    "StorageManager.set_report_upload_chunk_size": (
        lambda task: StorageManager.set_report_upload_chunk_size(7),
        lambda task: None,
        None,
    ),
    "StorageManager.set_report_download_chunk_size": (
        lambda task: StorageManager.set_report_download_chunk_size(7),
        lambda task: None,
        None,
    ),
}
READERS = {  # names that only give back
    "Task.is_offline",
    "Task.resource_monitor",
    "Task.report_subprocess_enabled",
    "Logger.get_flush_period",
    "Logger.get_default_upload_destination",
}


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was said yet."""
    monkeypatch.setattr(notice, "_said", set())


@pytest.mark.usefixtures("fresh")
def test_every_recorded_name_of_the_contract_is_said_once_and_read_back(home: Store, capsys: pytest.CaptureFixture[str]) -> None:
    contract = tomllib.loads((ROOT / "tests" / "conformance" / "contract.toml").read_text())
    names = {
        f"{one['names'][0].rpartition('.')[2]}.{name}" for one in contract["classes"] for name in one.get("recorded", "").split()
    }
    assert names == {*CALLS, *READERS}
    task = Task.create(project_name="tests", task_name="one")
    for name, (call, read, value) in CALLS.items():
        capsys.readouterr()
        call(task)
        call(task)
        assert [line.startswith(f"note: {name}") for line in capsys.readouterr().err.splitlines()] == [True], name
        assert read(task) == value, name
    Task.set_offline(False)


# -- arguments of data sets and main tasks --------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh")
def test_what_a_data_set_cannot_do_is_said_once_and_kept(home: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    data = Dataset.create("d", "sets", output_uri="s3://b")
    data.add_files(tmp_path / "a.txt")
    for _ in range(2):
        data.upload(output_url="s3://b", compression="zip", chunk_size=1, preview=False)
    data.finalize()
    data.get_local_copy(raise_on_error=False)

    settings = records.settings_of(home, data._task.row_id)
    assert settings["output_uri"] == "s3://b"
    assert settings["upload"] == {"output_url": "s3://b", "compression": "zip", "chunk_size": 1, "preview": False}
    lines = [line.partition("=…")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        "note: Dataset.create(output_uri",
        *(f"note: Dataset.upload({name}" for name in ("output_url", "compression", "chunk_size", "preview")),
        "note: Dataset.get_local_copy(raise_on_error",
    ]


@pytest.mark.usefixtures("fresh")
def test_a_data_set_is_never_deleted_when_its_files_are_to_stay(
    home: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    data = Dataset.create("d", "sets")
    data.add_files(tmp_path / "a.txt")
    data.finalize()
    with pytest.raises(NotSupported, match="delete_files=False"):
        Dataset.delete(data.id, delete_files=False)
    assert Dataset.get(dataset_id=data.id).list_files() == ["a.txt"]

    capsys.readouterr()
    Dataset.delete(data.id, shallow_search=True, delete_external_files=True)
    assert [line.partition("=…")[0] for line in capsys.readouterr().err.splitlines()] == [
        "note: Dataset.delete(shallow_search",
        "note: Dataset.delete(delete_external_files",
    ]


@pytest.mark.usefixtures("fresh")
def test_what_the_steps_of_functions_get_and_copies_do_not_is_said(home: Store, capsys: pytest.CaptureFixture[str]) -> None:
    template = Task.create(project_name="tests", task_name="template").id
    for options, expected in (({}, 0), ({"packages": ["six"]}, 1), ({"repo": "."}, 0)):
        capsys.readouterr()
        PipelineController("flow", "tests", **options).add_step("copy", template)  # type: ignore[arg-type]
        assert capsys.readouterr().err.count("copies keep what their tasks say") == expected, options
    pipeline.write_down(None)
