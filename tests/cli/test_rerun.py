"""`minipipe rerun`: a new run from an old one; what it is told is checked before anything is made."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.flows import HEAD, command, facts, ran, write

FLOW = (
    HEAD
    + """
import enum
from typing import Literal, Optional

class Color(enum.Enum):
    RED = 1
    BLUE = 2

@PipelineDecorator.component(return_values=["a"], cache=True)
def first(n):
    note(f"first:{n!r}")
    return n

@PipelineDecorator.component(return_values=["b"], cache=True)
def second(a, lr):
    note(f"second:{lr!r}")
    return lr

@PipelineDecorator.pipeline(name="chain", project="tests", version="1.0")
def chain(n=1, lr: float = 1, color: Color = Color.RED, kind: Literal["a", "b"] = "a", more: Optional[int] = None, word="x"):
    print("result", int(first(n)), float(second(0, lr)), color, kind, repr(more), repr(word))

if __name__ == "__main__":
    PipelineDecorator.run_locally()
    chain()
"""
)


def runs() -> list[tuple[Any, ...]]:
    return facts("SELECT uid, name, status FROM task WHERE run_name IS NOT NULL ORDER BY id")


def test_a_new_run_has_the_changed_parameters_typed_and_everything_else_from_the_old_one() -> None:
    command("run", write(FLOW), check=0)
    old = runs()[0][0]
    write(FLOW.replace('print("result"', 'print("edited"'))

    done = command("rerun", "@last", "--set", "lr=0.5", "--set", "color=BLUE", "--set", "more=7", "--set", "Args/kind=b", check=0)

    assert done.stdout == "result 1 0.5 Color.BLUE b 7 'x'\n"  # the captured script, not the edited one
    (_, (new, name, status)) = runs()
    assert (name, status) == ("chain #2", "completed")
    line = f"run {new[:8]}  "
    assert line in done.stderr
    assert f"  chain #2 1.0 (tests)  from {old[:8]}: lr 1 -> 0.5, color RED -> BLUE, kind a -> b, more  -> 7\n" in done.stderr
    assert "note: flow.py has changed since: the captured script runs (--code current takes the file as it is)\n" in done.stderr
    assert f"completed first cached from {old[:8]}\n" in done.stderr
    assert re.search(rf"^completed in .*\(1 cached\)   next: minipipe diff {old[:8]} {new[:8]}$", done.stderr, re.MULTILINE)
    assert ran() == ["first:1", "second:1", "second:0.5"]

    again = command("rerun", new[:6], "--code", "current", "--refresh", "first", "--set", "word=", "--set", "more:=null", check=0)

    assert again.stdout == "edited 1 0.5 Color.BLUE b None ''\n"
    assert ran()[3:] == ["first:1"]
    assert runs()[2][1:] == ("chain #3", "completed")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A store with one finished run of the flow, and its id."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command("run", write(FLOW), check=0)
        return folder, runs()[0][0]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["--set", "l_r=1"],
            2,
            "error: chain has no parameter 'l_r'\n  cause: it has n, lr, color, kind, more, word\n  hint: did you mean lr?\n",
        ),
        (["--set", "lr=fast"], 2, "cannot read 'fast' as float\n  cause: declared at flow.py:"),
        (["--set", "lr=fast"], 2, "  hint: --set lr=1\n"),
        (["--set", "n=many"], 2, "parameter 'n': cannot read 'many' as int\n"),
        (["--set", "color=GREEN"], 2, "parameter 'color': cannot read 'GREEN' as Color\n"),
        (["--set", "kind=c"], 2, "parameter 'kind': cannot read 'c' as "),
        (["--set", "lr=2", "--set", "nonsense=1"], 2, "chain has no parameter 'nonsense'"),
        (["--set", "lr"], 2, "--set cannot read 'lr'"),
        (["--set", "n:=[1"], 2, "--set cannot read 'n:=[1'"),
        (["--set", "return/n=1"], 2, "chain has no parameter 'return/n'"),
        (["--refresh", "frist"], 2, "has no step 'frist'\n  cause: its steps: first, second\n  hint: did you mean first?\n"),
        (["--code", "newest"], 2, "'newest' is not one of 'captured', 'current'"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_made(
    once: tuple[Path, str], words: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    monkeypatch.chdir(once[0])
    before = facts("SELECT count(*), max(id) FROM task")

    done = cli("rerun", once[1], *words)

    assert (done.exit_code, message in done.output) == (code, True), done.output
    assert facts("SELECT count(*), max(id) FROM task") == before


def test_a_step_names_its_run_and_an_unknown_run_the_closest(
    once: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    monkeypatch.chdir(once[0])

    step, unknown = cli("rerun", f"{once[1]}/first"), cli("rerun", "no-such")

    assert step.exit_code == 2
    assert "is a step\n" in step.output
    assert "--refresh first" in step.output
    assert unknown.exit_code == 3


def test_detached_it_prints_the_new_id_and_waits_in_the_queue_that_was_named(
    once: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(once[0])

    done = command("rerun", once[1], "--detach", "--queue", "night", "--set", "n=5", check=0)

    ((uid, status, queue, mode),) = facts(
        "SELECT uid, status, queue, json_extract(entry, '$.mode') FROM task WHERE run_name IS NOT NULL ORDER BY id DESC LIMIT 1"
    )
    assert done.stdout == f"{uid[:8]}\n"
    assert (status, queue, mode) == ("queued", "night", None)
    assert "note: no worker serves queue 'night': the run waits; start one: minipipe worker --queue night\n" in done.stderr


def test_an_editor_changes_parameters(once: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(once[0])
    monkeypatch.setenv("EDITOR", "sed -i 's/^Args.n = 1/Args\\/n = 8/'")

    done = command("rerun", once[1], "--edit", "--detach", check=0)

    assert "chain" in done.stderr
    ((text,),) = facts(
        "SELECT text FROM parameter WHERE name = 'n' AND section = 'Args' AND task_id ="
        " (SELECT max(id) FROM task WHERE run_name IS NOT NULL)"
    )
    assert text == "8"
