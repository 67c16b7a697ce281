"""The signatures of what is implemented against the real ClearML, read with `inspect` in a process of its venv."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import minipipe
from minipipe import Logger, PipelineController, PipelineDecorator, Task
from minipipe.sdk.artifact import Artifact

pytestmark = pytest.mark.conformance

VERSION = "2.1.12"
READ = """
import inspect, json
from clearml import Logger, PipelineController, PipelineDecorator, Task
from clearml.binding.artifacts import Artifact
from clearml.version import __version__

def text(value):
    return [text(one) for one in value] if isinstance(value, (list, tuple)) else str(value)

found = {"version": __version__}
for owner in (PipelineController, PipelineDecorator, Task, Logger, Artifact):
    for name in dir(owner):
        thing = inspect.getattr_static(owner, name)
        thing = getattr(thing, "__func__", thing)
        if inspect.isfunction(thing) and (not name.startswith("_") or name == "__init__"):
            parameters = inspect.signature(getattr(owner, name)).parameters.values()
            found[f"{owner.__name__}.{name}"] = [
                [one.name, str(one.kind), None if one.default is one.empty else [text(one.default)]] for one in parameters
            ]
print(json.dumps(found))
"""
OWNERS = {owner.__name__: owner for owner in (PipelineController, PipelineDecorator, Task, Logger, Artifact)}
OURS = {"Task.by_id", "Task.of"}  # minipipe's own
TASK = """
init current_task get_task get_tasks query_tasks get_by_name clone enqueue dequeue execute_remotely close delete reset reload flush
started mark_started completed mark_completed mark_failed stopped mark_stopped wait_for_status running_locally is_current_task
is_main_task get_executed_queue get_num_enqueued_tasks last_worker set_random_seed get_random_seed set_progress get_progress create
publish id task_id name set_name rename status get_status get_status_message task_type set_task_type project set_project
get_project_name get_project_id move_to_project parent set_parent comment set_comment get_tags set_tags add_tags remove_tags
get_system_tags set_system_tags set_archived get_archived archived_tag cache_dir get_script get_output_log_web_page
get_task_output_log_web_page TaskTypes TaskStatusEnum DeleteError NotSet connect connect_configuration set_parameters set_parameter
set_parameters_as_dict update_parameters get_parameters get_parameter get_parameters_as_dict delete_parameter set_user_properties
get_user_properties delete_user_properties get_configuration_object get_configuration_objects get_configuration_object_as_dict
set_configuration_object upload_artifact artifacts get_logger logger get_last_iteration get_reported_scalars get_all_reported_scalars
get_last_scalar_metrics get_reported_single_value get_reported_single_values get_reported_console_output
""".split()
ARTIFACT = "name url size type mode hash timestamp metadata preview get get_local_copy verify_pickle_file_integrity".split()


@cache
def real() -> dict[str, Any]:
    """Signatures of the real ClearML by name; skips where there is none."""
    folder = os.environ.get("CLEARML_VENV", "")
    if not folder:
        pytest.skip("CLEARML_VENV names no venv with the real clearml")
    python = Path(folder) / "bin" / "python"
    done = subprocess.run((python, "-c", READ), capture_output=True, text=True, timeout=120, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["version"] != VERSION:
        pytest.skip(f"the clearml in CLEARML_VENV is {found['version']}, not {VERSION}")
    return found


def functions() -> dict[str, Any]:
    """The public methods that minipipe implements, by name."""
    found = {}
    for owner_name, owner in OWNERS.items():
        for name in dir(owner):  # inherited ones too
            thing = inspect.getattr_static(owner, name)
            function = getattr(thing, "__func__", thing)
            if inspect.isfunction(function) and (
                not name.startswith("_") or (name == "__init__" and owner is PipelineController)
            ):
                found[f"{owner_name}.{name}"] = getattr(owner, name)  # as it is called on the class
    return found


def text(value: Any) -> Any:
    """A default as text, sequences item by item."""
    return [text(one) for one in value] if isinstance(value, (list, tuple)) else str(value)


def parameters(function: Any) -> list[list[Any]]:
    """Name, kind and default of each parameter."""
    found = inspect.signature(function).parameters.values()
    return [[one.name, str(one.kind), None if one.default is one.empty else [text(one.default)]] for one in found]


@pytest.mark.parametrize("name", sorted(functions().keys() - OURS))
def test_the_signature_is_clearmls_with_our_own_parameters_keyword_only_and_last(name: str) -> None:
    assert name in real(), "ClearML has no such method"

    ours, theirs = parameters(functions()[name]), real()[name]

    own = [one for one in ours if one[0] not in [other[0] for other in theirs]]
    assert ours[: len(ours) - len(own)] == theirs
    assert ours[len(ours) - len(own) :] == own, "our own parameters come last"
    assert {kind for _, kind, _ in own} <= {str(inspect.Parameter.KEYWORD_ONLY)}


@pytest.mark.parametrize(("owner", "names"), [(Task, TASK), (Artifact, ARTIFACT)], ids=["Task", "Artifact"])
def test_every_name_that_the_contract_calls_real_is_there(owner: type, names: list[str]) -> None:
    assert [name for name in names if not hasattr(owner, name)] == []


def test_the_short_names_component_and_pipeline_have_clearmls_signatures() -> None:
    for name in ("component", "pipeline"):
        ours = [one for one in parameters(getattr(minipipe, name)) if one[0] != "time_limit"]
        assert ours == real()[f"PipelineDecorator.{name}"]
