"""Names of ClearML's `Task` that are recorded; those that are refused are called by tests/conformance."""

from __future__ import annotations

from pathlib import Path

import pytest

from minipipe import Task
from minipipe.sdk import notice
from minipipe.store import edits, records
from minipipe.store.home import Store


@pytest.fixture
def task(home: Store, monkeypatch: pytest.MonkeyPatch) -> Task:
    monkeypatch.setattr(notice, "_said", set())
    return Task.create("p", "recorded")


def test_packages_are_recorded_from_a_list_or_a_file_and_travel_to_copies(task: Task, tmp_path: Path) -> None:
    (tmp_path / "needs.txt").write_text("numpy>=1.26\n\npandas\n")

    assert task.get_requirements() == {}
    task.set_packages(["a", "b==1"])
    assert task.get_requirements() == {"pip": "a\nb==1"}
    task.set_packages(str(tmp_path / "needs.txt"))
    assert task.get_requirements() == {"pip": "numpy>=1.26\npandas"}
    assert Task.clone(task).get_requirements() == {"pip": "numpy>=1.26\npandas"}
    task.set_packages([])
    assert task.get_requirements() == {}


def test_containers_and_repositories_are_recorded(task: Task) -> None:
    assert task.get_base_docker() == ""
    task.set_base_docker(docker_image="python:3.11", docker_arguments=["--ipc=host", "-e A=1"])
    assert task.get_base_docker() == "python:3.11 --ipc=host -e A=1"
    task.set_base_docker("other")
    assert task.get_base_docker() == "other"
    task.set_repo("https://host/code.git", branch="main")
    task.set_script(entry_point="train.py")

    recorded = records.settings_of(task.store, task.row_id)
    assert recorded["set_repo"] == {"repo": "https://host/code.git", "branch": "main"}
    assert recorded["set_script"] == {"entry_point": "train.py"} and recorded["docker"] == "other"
    assert edits.facts(task.store, task.row_id).get("file") != "train.py", "what runs is what was stored"


def test_what_a_process_says_of_a_server_is_accepted_and_credentials_are_not_kept(
    home: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "_said", set())
    assert Task.is_offline() is False
    Task.set_offline(True)
    assert Task.is_offline() is True
    Task.set_offline(False)
    for _ in range(2):
        Task.set_credentials("api", "web", "files", "key", "very-secret", True)
        Task.add_requirements("torch", "2.1")
        Task.ignore_requirements("torch")
        Task.force_requirements_env_freeze()
        Task.force_store_standalone_script()
        Task.set_resource_monitor_iteration_timeout()

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) == 6, "each is said once"
    assert not any(b"very-secret" in path.read_bytes() for path in home.path.rglob("*") if path.is_file())
