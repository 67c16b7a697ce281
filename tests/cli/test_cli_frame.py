"""What all verbs share: help, errors, exit codes, JSON, pipes, start-up."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from minipipe import cli as package
from minipipe import errors
from tests.cli.conftest import PYTHON, Filled

Invoke = Callable[..., Result]
Command = Callable[..., subprocess.CompletedProcess[bytes]]
MINE = list(package.VERBS)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Put a verb `boom` in place that raises."""

    @click.command()
    def boom() -> None:
        raise error

    monkeypatch.setitem(package.VERBS, "boom", package.Verb("x:y", "", ""))
    load = package._load
    monkeypatch.setattr(package, "_load", lambda place: boom if place == "x:y" else load(place))


def test_alone_it_prints_grouped_help_and_exits_0(cli: Invoke) -> None:
    result = cli()
    assert result.exit_code == 0
    for name, verb in package.VERBS.items():
        if verb.group:
            assert f"\n{verb.group}:" in result.stdout
            assert verb.summary in result.stdout, name
    assert cli("-h").stdout == cli("--help").stdout == result.stdout


@pytest.mark.parametrize("name", MINE)
def test_every_verb_has_help_with_its_summary_examples_and_the_common_options(cli: Invoke, name: str) -> None:
    result = cli(name, "-h")
    assert result.exit_code == 0
    if name != "ps":
        assert package.VERBS[name].summary in result.stdout
    assert "Example" in result.stdout
    assert f"minipipe {name if name != 'ps' else 'status'}" in result.stdout
    assert result.stdout.index("Example") < result.stdout.index("Options:")
    for option in ("--home", "--format", "--json", "--quiet", "--color", "-h"):
        assert option in result.stdout


def test_the_version_is_the_package_version(cli: Invoke) -> None:
    assert cli("--version").stdout == f"minipipe {package.__version__}\n"


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("stauts",), "minipipe has no verb 'stauts'", "did you mean minipipe status?"),
        (("xyzzy",), "minipipe has no verb 'xyzzy'", "minipipe --help"),
        (("status", "--limt"), "status has no option '--limt'", "did you mean --"),
        (("get",), "Missing argument 'RUN/STEP/NAME'", "minipipe get -h"),
        (("status", "-n", "many"), "'many' is not a valid integer range", "minipipe status -h"),
        (("status", "--format", "xml"), "'xml' is not one of", "minipipe status -h"),
        (("status", "--status", "compelted"), "'compelted' is not one of", "did you mean --status completed?"),
        (("queue", "pauze", "x"), "queue has no verb 'pauze'", "did you mean minipipe queue pause?"),
        (("cache", "xyzzy"), "cache has no verb 'xyzzy'", "minipipe cache -h"),
        (("completion",), "Missing argument 'SHELL'. Choose from: bash, zsh, fish", "minipipe completion -h"),
        (("run", "--set"), "Option '--set' requires an argument", "minipipe run -h"),
        (("completion", "tcsh"), "'tcsh' is not one of", "minipipe completion -h"),
    ],
)
def test_a_wrong_command_line_is_exit_2_with_the_next_thing_to_type(
    cli: Invoke, args: tuple[str, ...], message: str, hint: str
) -> None:
    result = cli(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert hint in result.stderr.splitlines()[-1]


ERRORS = [
    (errors.UsageError("m", "c", "h"), 2),
    (errors.AmbiguousName("m", "c", "h"), 2),
    (errors.NotFound("m", "c", "h"), 3),
    (errors.StoreDamaged("m", "c", "h"), 4),
    (errors.StoreBusy("m", "c", "h"), 5),
    (errors.WaitTimeout("m", "c", "h"), 5),
    (errors.RunFailed("m", "c", "h"), 1),
    (errors.ArtifactError("m", "c", "h"), 1),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_each_error_has_its_exit_code_and_one_shape(
    cli: Invoke, monkeypatch: pytest.MonkeyPatch, error: errors.MinipipeError, code: int
) -> None:
    raising(monkeypatch, error)
    result = cli("boom")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == "error: m\n  cause: c\n  hint: h\n"
    result = cli("boom", "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout) == {
        "error": {"code": code, "kind": type(error).__name__, "message": "m", "cause": "c", "hint": "h"}
    }


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENOMEM], ids=errno.errorcode.get)
@pytest.mark.parametrize("path", ["/some/where", None])
def test_a_fault_of_the_world_has_words_and_no_traceback(
    cli: Invoke, monkeypatch: pytest.MonkeyPatch, number: int, path: str | None
) -> None:
    raising(monkeypatch, OSError(number, os.strerror(number), path))
    result = cli("boom")
    assert result.exit_code == 4
    assert result.stderr == f"error: cannot use {path or 'a file'}\n  cause: {os.strerror(number)}\n"


def test_an_error_that_quotes_hostile_text_cannot_steer_the_terminal(cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, errors.NotFound("no \x1b[2J\u202e", "line 1\nline 2\x9b", ""))
    result = cli("boom")
    assert result.stderr == "error: no \\x1b[2J\\u202e\n  cause: line 1\n         line 2\\x9b\n"


def test_a_defect_shows_the_whole_traceback_and_says_so(cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, RuntimeError("oops"))
    result = cli("boom", "--json")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("this is a bug: minipipe doctor --bundle")
    assert json.loads(result.stdout)["error"]["kind"] == "RuntimeError"


def test_ctrl_c_is_exit_130(cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    result = cli("boom")
    assert result.exit_code == 130
    assert "Traceback" not in result.stderr


def test_ctrl_c_is_heard_while_somebody_else_keeps_the_store_locked(filled: Filled, wait_for: Callable[..., None]) -> None:
    filled.store.close()
    path = filled.store.database.path
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with subprocess.Popen((*PYTHON, "queue", "create", "gpu"), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
            opened, index = Path(f"/proc/{waiting.pid}/fd"), os.path.realpath(f"{path}-shm")
            wait_for(lambda: any(os.path.realpath(one) == index for one in opened.iterdir()), 30)  # one may be closed by now
            waiting.send_signal(signal.SIGINT)
            begun = time.monotonic()
            _, said = waiting.communicate(timeout=60)
            assert time.monotonic() - begun < 10  # it would have waited for 30 s
        assert waiting.returncode == 130 and b"Traceback" not in said, said
        other.execute("ROLLBACK")
    assert [row["name"] for row in filled.store.database.rows("SELECT name FROM queue")].count("gpu") == 0


@pytest.mark.parametrize(
    "verb", [("show",), ("logs", "x"), ("artifacts", "x"), ("get", "a/b/c"), ("cache", "why", "x"), ("abort", "x")]
)
def test_without_a_store_verbs_that_need_one_are_exit_4_and_make_none(cli: Invoke, verb: tuple[str, ...], tmp_path: Path) -> None:
    result = cli(*verb, "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["error"]["kind"] == "StoreMissing"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["status", "ps", "queue", "doctor"])
def test_without_a_store_status_queue_and_doctor_say_so_and_exit_0(cli: Invoke, verb: str, tmp_path: Path) -> None:
    result = cli(verb)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("no store here yet")
    json.loads(cli(verb, "--json").stdout)
    assert list(tmp_path.iterdir()) == []


READING: list[tuple[str, ...]] = [
    ("status",),
    ("status", "--all"),
    ("show",),
    ("graph",),
    ("graph", "--svg"),
    ("timeline",),
    ("report", "-o", "page.html", "--force"),
    ("show", "--params"),
    ("show", "--env"),
    ("show", "--attempts"),
    ("show", "@last/train"),
    ("logs", "@last"),
    ("artifacts", "@last"),
    ("cache", "why", "@last/train"),
    ("queue",),
    ("doctor",),
    ("doctor", "--settings"),
]


def hostile(filled: Filled) -> None:
    """A store whose every text wants to steer the terminal."""
    evil = "\x1b]0;x\x07\x1b[31m\u202e\x9b\r\n<img>"
    from minipipe.store import tasks

    run = filled.run(f"p{evil}", parameters=(tasks.Parameter("Args", f"a{evil}", evil, "", json.dumps(evil)),), tags=(evil,))
    step = filled.step(run, "train")
    claim = filled.claim()
    filled.fail(claim, evil)
    other = filled.step(run, evil)
    claim = filled.claim()
    filled.finish(claim, **{evil: [evil]})
    filled.log(step, evil.encode("utf-8", "replace") + b"\xff\xfe\n", name="train")
    filled.log(other, b"x\n", name=evil)
    filled.step(run, "waits", queue=f"q{evil}")
    filled.end(run, "failed", evil)


@pytest.mark.parametrize("args", READING, ids=" ".join)
@pytest.mark.parametrize("form", ["table", "tsv", "github", "json", "jsonl"])
def test_hostile_text_reaches_no_terminal_in_any_format(filled: Filled, cli: Invoke, args: tuple[str, ...], form: str) -> None:
    hostile(filled)
    result = cli(*args, "--format", form)
    assert result.exit_code == 0, result.output
    for text in (result.stdout, result.stderr):
        assert not set(text) & set("\x1b\x07\x9b\u202e\r"), text
    if form == "json":
        json.loads(result.stdout)
    if form == "jsonl":
        for line in result.stdout.splitlines():
            json.loads(line)


@pytest.mark.parametrize("args", READING, ids=" ".join)
def test_reading_verbs_change_no_byte_of_the_database_and_unpickle_nothing(
    filled: Filled, cli: Invoke, args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile(filled)
    before = filled.store.database.data_version()
    monkeypatch.setattr("pickle.Unpickler", None)
    monkeypatch.setattr("pickle.loads", None)
    assert cli(*args).exit_code == 0
    assert filled.store.database.data_version() == before


def test_piped_output_has_no_escape_codes_and_says_words(filled: Filled, command: Command) -> None:
    run = filled.run()
    filled.step(run, "train")
    filled.fail(filled.claim())
    filled.end(run, "failed")
    for args in (("status",), ("show",)):
        done = command(*args, TERM="xterm-256color", COLUMNS="40")
        assert done.returncode == 0
        assert b"\x1b" not in done.stdout + done.stderr
        assert b"failed" in done.stdout
        assert "✘" not in done.stdout.decode()
    assert b"\x1b[31m" in command("status", FORCE_COLOR="1").stdout
    assert b"\x1b[31m" in command("status", "--color", "always", NO_COLOR="1").stdout


def test_output_that_its_encoding_cannot_hold_is_escaped(filled: Filled, command: Command) -> None:
    filled.run("grün", project="x/.pipelines/grün")
    done = command("status", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0
    assert b"gr\\xfcn" in done.stdout


@pytest.mark.parametrize(
    "args", [("status",), ("show",), ("logs", "@last"), ("--help",), ("queue", "--json"), ("get", "@last/load/x", "-o", "-")]
)
def test_a_closed_pipe_ends_a_verb_silently_with_0(filled: Filled, args: tuple[str, ...]) -> None:
    run = filled.run()
    step = filled.step(run, "load")
    filled.finish(filled.claim(), x=list(range(50_000)))
    filled.log(step, b"line\n" * 50_000, name="load")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as stdout:
        done = subprocess.run((*PYTHON, *args), stdout=stdout, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == 0
    assert b"Error" not in done.stderr
    assert b"Traceback" not in done.stderr


def loaded(*args: str) -> set[str]:
    """Modules that a fresh process has loaded after a command."""
    code = (
        "import sys, json\nfrom minipipe.cli import root\n"
        f"try: root.main({list(args)!r})\nexcept SystemExit: pass\n"
        "print('\\n' + json.dumps(list(sys.modules)))"
    )
    done = subprocess.run((sys.executable, "-c", code), capture_output=True, timeout=60, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {"sqlite_utils", "numpy", "pandas", "jinja2", "cloudpickle", "filelock", "blake3", "asyncio", "tomllib"}


def test_the_version_costs_click_alone() -> None:
    modules = loaded("--version")
    assert not modules & (HEAVY | {"tabulate", "sqlite3", "importlib.metadata"})
    assert {name for name in modules if name.startswith("minipipe")} == {
        "minipipe",
        "minipipe.cli",
        "minipipe.errors",
        "minipipe.escaping",
    }


def test_status_costs_click_sqlite_and_tabulate(filled: Filled) -> None:
    filled.run()
    modules = loaded("status")
    assert "tabulate" in modules
    assert not modules & (HEAVY | {"minipipe.hashing", "minipipe.store.tasks", "minipipe.store.workers"})


def test_options_that_every_verb_has_work_on_both_sides_of_it(filled: Filled, cli: Invoke, tmp_path: Path) -> None:
    filled.run()
    home = str(tmp_path / ".minipipe")
    documents: list[Any] = [
        json.loads(cli(*args).stdout)["runs"][0]["id"]
        for args in (("status", "--json"), ("--json", "status"), ("--format", "json", "--home", home, "status"))
    ]
    assert len(set(documents)) == 1
    assert len(json.loads(cli("--json", "queue").stdout)) == len(json.loads(cli("queue", "list", "--json").stdout)) == 2


def test_a_bad_setting_is_exit_2(filled: Filled, cli: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIPIPE_UTC", "perhaps")
    result = cli("status")
    assert result.exit_code == 2
    assert "setting 'utc': cannot use 'perhaps'" in result.stderr
