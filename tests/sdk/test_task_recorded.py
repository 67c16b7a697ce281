"""Names of ClearML's `Task` that are recorded; those that are refused are called by tests/conformance."""

from __future__ import annotations

import pytest

from minipipe import Task
from minipipe.sdk import notice
from minipipe.store.home import Store


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
        Task.force_store_standalone_script()
        Task.set_resource_monitor_iteration_timeout()

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(set(lines)) == 4, "each is said once"
    assert not any(b"very-secret" in path.read_bytes() for path in home.path.rglob("*") if path.is_file())
