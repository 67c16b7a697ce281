"""``step``: one step once more, here, on its recorded inputs; and what ``breakpoint()`` does where nobody can answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result

from minipipe.store.home import Store
from tests.cli.conftest import PYTHON
from tests.faults.sane import sane

Invoke = Callable[..., Result]
Command = Callable[..., subprocess.CompletedProcess[bytes]]

FLOW = """
import os
from minipipe import Logger, PipelineDecorator, Task

@PipelineDecorator.component(return_values=["data", "n"])
def load(n=5):
    return list(range(n)) * 5000, n

@PipelineDecorator.component(return_values=["score", "where"])
def train(data, n, lr=0.1, bad=True):
    breakpoint()
    data.append(7)
    task = Task.current_task()
    task.upload_artifact("note", {"lr": lr})
    Logger.current_logger().report_scalar("loss", "train", lr, 1)
    print("training", len(data), n, lr, task.name)
    if bad:
        raise ValueError("loss is nan")
    return lr * 2, os.getcwd()

@PipelineDecorator.component(return_values=["text"])
def tell(score):
    return str(score)

@PipelineDecorator.pipeline(name="step", project="examples", version="1")
def flow():
    tell(train(*load(), lr=0.3)[0])

if __name__ == "__main__":
    PipelineDecorator.run_locally()
    flow()
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script and the store of its run, which failed in train."""
    folder = tmp_path_factory.mktemp("step")
    (folder / "flow.py").write_text(FLOW)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MINIPIPE_")}
    environment |= {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "MINIPIPE_DURABILITY": "fast"}
    done = subprocess.run(
        [*PYTHON, "run", "flow.py", "-j", "1"],
        cwd=folder,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr.decode()
    return folder


@pytest.fixture
def store(ran: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("MINIPIPE_HOME", str(ran / ".minipipe"))
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    opened = Store.open()
    yield opened
    opened.close()


def everything(store: Store) -> dict[str, list[tuple[object, ...]]]:
    tables = [row[0] for row in store.database.rows("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {table: [tuple(row) for row in store.database.rows(f"SELECT * FROM {table}")] for table in tables}


def test_in_a_workers_step_breakpoint_says_where_it_can_be_answered_and_goes_on(store: Store, ran: Path, cli: Invoke) -> None:
    (run,) = [row[0][:8] for row in store.database.rows("SELECT uid FROM task WHERE run_name IS NOT NULL")]
    lines = cli("logs", "@last/train").stdout.splitlines()
    assert lines[0] == f"minipipe: breakpoint() at {ran}/flow.py:11 passed: minipipe step {run}/train --pdb"
    assert lines[1] == "training 25001 5 0.3 train"


def test_it_runs_on_the_recorded_inputs_and_stores_nothing(store: Store, cli: Invoke) -> None:
    before, here = everything(store), os.getcwd()
    result = cli("step", "@last/train")
    assert result.exit_code == 1
    assert result.stdout == "training 25001 5 0.3 train\n"
    assert "ValueError: loss is nan" in result.stderr
    assert result.stderr.splitlines()[-1].endswith("(nothing was stored; --keep does)")
    assert everything(store) == before and os.getcwd() == here
    assert list(Path(tempfile.gettempdir()).glob("minipipe-step-*")) == []
    assert sane(store.path) == []


def test_a_parameter_can_be_changed_and_what_comes_out_is_shown(store: Store, ran: Path, cli: Invoke) -> None:
    before = everything(store)
    result = cli("step", "@last/train", "--set", "lr=0.7", "--set", "bad=false", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["status"], document["error"], document["kept"]) == (0, "completed", None, None)
    assert document["outputs"] == [
        {"name": "score", "type": "float", "preview": "1.4"},
        {"name": "where", "type": "str", "preview": str(ran)},
    ]
    assert "training 25001 5 0.7 train" in result.stderr
    assert everything(store) == before


def test_wrong_names_and_steps_without_inputs_are_refused(store: Store, cli: Invoke) -> None:
    for arguments, code, words in (
        (("@last",), 2, "is a run"),
        (("@last/tell",), 2, "has no inputs yet: it is skipped"),
        (("@last/trian",), 3, "did you mean"),
        (("@last/train", "--set", "rate=1"), 2, "has no parameter 'rate'"),
        (("@last/train", "--set", "lr=fast"), 2, "cannot read 'fast' as float"),
    ):
        result = cli("step", *arguments)
        assert (result.exit_code, result.stdout) == (code, ""), arguments
        assert words in result.stderr, arguments


def test_a_failure_is_shown_without_our_frames(store: Store, cli: Invoke) -> None:
    shown = cli("step", "@last/train").stderr
    assert "Traceback (most recent call last):" in shown and "flow.py" in shown
    assert "replay.py" not in shown and "minipipe frames, MINIPIPE_TRACEBACK=full" in shown


def typed(text: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """The command as a process, with these lines on its stdin."""
    done = subprocess.run(
        (*PYTHON, "step", "@last/train", *arguments),
        input=text.encode(),
        capture_output=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )
    return done.returncode, done.stdout.decode()


def test_the_debugger_opens_where_it_failed(store: Store, ran: Path) -> None:
    code, text = typed("p lr * 10, len(data)\nq\n", "--pdb")
    assert code == 1
    assert f"> {ran}/flow.py(18)train()" in text and "(3.0, 25001)" in text


def test_breakpoint_works_here(store: Store) -> None:
    code, text = typed("p lr\nc\n", "--set", "bad=false", PYTHONBREAKPOINT="")
    assert code == 0
    assert "(Pdb) 0.3" in text


def test_keep_stores_it_as_a_copy_of_the_step(ran: Path, tmp_path: Path, cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ran / ".minipipe", tmp_path / "own")  # what is kept is @last from then on
    monkeypatch.setenv("MINIPIPE_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    store = Store.open()
    before = {row["id"] for row in store.database.rows("SELECT id FROM task")}
    kept = cli("step", "@last/train", "--set", "bad=false", "--keep", "-q")
    assert kept.exit_code == 0, kept.stderr
    uid = kept.stdout.split()[-1]
    (row,) = [row for row in store.database.rows("SELECT * FROM task") if row["id"] not in before]
    source = store.database.rows("SELECT name FROM task WHERE id = ?", (row["template_id"],))[0]
    assert (row["uid"], row["status"], source["name"]) == (uid, "completed", "train")
    names = [one["name"] for one in json.loads(cli("artifacts", uid, "--json").stdout) if one["role"] == "output"]
    assert sorted(names) == ["note", "score", "where"]
    assert "training 25001" in cli("logs", uid).stdout
    failed = cli("step", "@last/train", "--keep", "-q")
    assert failed.exit_code == 1
    assert store.database.rows("SELECT status FROM task ORDER BY id DESC LIMIT 1")[0][0] == "failed"
    assert sane(store.path) == []
    store.close()
