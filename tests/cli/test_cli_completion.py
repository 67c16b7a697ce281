"""``completion``: what shells are told, asked through a real bash where that matters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minipipe.cli import root
from tests.cli.conftest import Filled

Invoke = Callable[..., Result]


def offered(*words: str) -> list[str]:
    """What is offered for the last of the words; types of plain values are left out."""
    environment = {
        "_MINIPIPE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["minipipe", *words]),
        "COMP_CWORD": str(len(words)),
    }
    os.environ.update(environment)
    try:
        result = CliRunner().invoke(root, [])
    finally:
        for name in environment:
            del os.environ[name]
    return [line.removeprefix("plain,") for line in result.stdout.splitlines() if line]


@pytest.fixture
def run(filled: Filled) -> str:
    """The name of a run with two steps."""
    made = filled.run()
    filled.step(made, "load")
    filled.finish(filled.claim(), data=[1], rows=7)
    filled.step(made, "train")
    return str(made.run_name)


def test_verbs_and_options_are_completed() -> None:
    assert offered("sta") == ["status"]
    assert offered("queue", "p") == ["pause", "purge"]
    assert "--tail" in offered("logs", "--")
    assert offered("status", "--status", "comp") == ["completed"]
    assert offered("completion", "b") == ["bash"]


def test_runs_are_completed_by_name_by_id_and_by_place(filled: Filled, run: str) -> None:
    uid = filled.store.database.rows("SELECT uid FROM task WHERE run_name = ?", (run,))[0]["uid"]
    assert offered("show", "") == [run]
    assert offered("show", run[:3]) == [run]
    assert offered("logs", uid[:5]) == [uid[:8]]
    assert offered("watch", "@l") == ["@last", "@last-failed"]
    assert offered("diff", run, run[:2]) == [run]


def test_steps_artifacts_queues_and_pipelines_are_completed(filled: Filled, run: str) -> None:
    assert offered("show", f"{run}/") == [f"{run}/load", f"{run}/train"]
    assert offered("logs", "@last/t") == ["@last/train"]
    assert sorted(offered("get", "@last/load/")) == ["@last/load/data", "@last/load/rows"]
    assert offered("queue", "pause", "d") == ["default"]
    assert offered("worker", "--queue", "s") == ["services"]
    assert offered("status", "--pipeline", "d") == ["digits-demo"]


def test_where_there_is_no_store_or_no_run_nothing_is_offered_and_nothing_is_made(tmp_path: Path) -> None:
    assert offered("show", "") == []
    assert offered("show", "nobody/") == []
    assert list(tmp_path.iterdir()) == []


def test_scripts_are_completed_as_files() -> None:
    assert offered("run", "fl") == ["file,fl"]


@pytest.mark.parametrize(
    ("shell", "words"), [("bash", "complete -o nosort -F"), ("zsh", "#compdef minipipe"), ("fish", "complete --no-files")]
)
def test_each_shell_has_its_script(cli: Invoke, shell: str, words: str) -> None:
    result = cli("completion", shell)
    assert result.exit_code == 0
    assert words in result.stdout
    assert "_MINIPIPE_COMPLETE" in result.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_a_real_bash_completes(run: str, cli: Invoke) -> None:
    script = cli("completion", "bash").stdout + (
        '\nCOMP_WORDS=(minipipe show ""); COMP_CWORD=2; _minipipe_completion minipipe; echo "${COMPREPLY[@]}"\n'
    )
    folder = Path.cwd() / "bin"
    folder.mkdir()
    (folder / "minipipe").write_text(f'#!/bin/sh\nexec {sys.executable} -m minipipe "$@"\n')
    (folder / "minipipe").chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.returncode) == (run, 0), done.stderr
