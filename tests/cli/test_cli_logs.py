"""``logs``: which bytes, in which order, and how they are made harmless."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest
from click.testing import Result

from tests.cli.conftest import PYTHON, Filled

Invoke = Callable[..., Result]


def test_a_step_log_is_its_lines_without_our_own_first_one(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    step = filled.step(run, "train")
    filled.finish(filled.claim())
    path = filled.log(step, b"one\n\ttwo\r\n\x1b[31mred\x1b[0m \xff\nlast without end")
    assert cli("logs", "@last/train").stdout == "one\n\ttwo\n\\x1b[31mred\\x1b[0m \ufffd\nlast without end\n"
    assert cli("logs", "@last/train", "--raw").stdout_bytes == path.read_bytes()
    assert cli("logs", "@last/train", "--tail", "2").stdout == "\\x1b[31mred\\x1b[0m \ufffd\nlast without end\n"
    assert cli("logs", "@last/train", "--raw", "--tail", "1").stdout_bytes == b"last without end"
    assert cli("logs", "@last/train", "--raw", "--tail", "0").stdout_bytes == b""


def test_a_step_name_with_line_ends_does_not_leak_the_first_line(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    name = "a\nminipipe: b\n"
    step = filled.step(run, name)
    filled.finish(filled.claim())
    filled.log(step, b"minipipe: is my name\n", name=name)
    assert cli("logs", step.uid).stdout == "minipipe: is my name\n"


def test_a_log_that_is_not_headed_by_us_is_printed_whole(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    step = filled.step(run, "train")
    filled.finish(filled.claim())
    filled.log(step, b"").write_bytes(b"minipipe: something else\nx\n")
    assert cli("logs", step.uid).stdout == "minipipe: something else\nx\n"


def test_a_run_log_has_its_steps_in_start_order_each_line_prefixed(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    late, early = filled.step(run, "late", queue="gpu"), filled.step(run, "early")
    filled.finish(filled.claim("default"))
    filled.fail(filled.claim("gpu"))
    filled.log(late, b"3\n", name="late")
    filled.log(early, b"1\n2\n", name="early")
    assert cli("logs", "@last").stdout == "early | 1\nearly | 2\nlate | 3\n"
    assert cli("logs", "@last", "--tail", "1").stdout == "early | 2\nlate | 3\n"
    assert cli("logs", "@last", "--failed").stdout == "late | 3\n"
    document = json.loads(cli("logs", "@last", "--json").stdout)
    assert [(one["step"], one["lines"]) for one in document["logs"] if one["lines"]] == [("early", ["1", "2"]), ("late", ["3"])]
    assert json.loads(cli("logs", "@last", "--format", "jsonl").stdout.splitlines()[0])["line"] == "1"


def test_an_earlier_attempt_can_be_read_and_a_missing_one_is_exit_3(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    step = filled.step(run, "train", max_retries=1)
    filled.fail(filled.claim())
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET not_before = 0")
    filled.finish(filled.claim())
    filled.log(step, b"first\n", 1)
    filled.log(step, b"second\n", 2)
    assert cli("logs", "@last/train").stdout == "second\n"
    assert cli("logs", "@last/train", "--attempt", "1").stdout == "first\n"
    result = cli("logs", "@last/train", "--attempt", "3")
    assert result.exit_code == 3
    assert "has no attempt 3" in result.stderr
    assert "it had 2" in result.stderr


def test_silence_is_explained(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    load = filled.step(run, "load")
    filled.step(run, "train", (load,))
    result = cli("logs", "@last/train")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"note: {run.uid[:8]}/train is pending: waits for load\n"
    assert "no step of" in cli("logs", "@last", "--failed").stderr


def test_following_prints_what_comes_and_ends_with_the_run(filled: Filled) -> None:
    run = filled.run()
    first = filled.step(run, "first")
    claim = filled.claim()
    path = filled.log(first, b"", name="first")
    process = subprocess.Popen((*PYTHON, "logs", "-f", "@last"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    try:
        for number in range(3):
            with open(path, "ab") as file:
                file.write(f"line {number}\nhalf".encode())
                file.flush()
                assert (
                    process.stdout.readline()
                    == (f"first | line {number}\n" if number == 0 else f"first | halfline {number}\n").encode()
                )
        filled.finish(claim)
        second = filled.step(run, "second")
        claim = filled.claim()
        filled.log(second, b"\x1bfrom the second\n", name="second")
        assert process.stdout.readline() == b"second | \\x1bfrom the second\n"
        filled.finish(claim)
        filled.end(run)
        rest, errors = process.communicate(timeout=30)
        assert rest == b"first | half\n"
        assert (process.returncode, errors) == (0, b"")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("verb", ["logs", "artifacts", "metrics"])
def test_without_a_run_the_newest_is_meant(filled: Filled, cli: Invoke, verb: str) -> None:
    for words in (b"old\n", b"new\n"):
        step = filled.step(filled.run(), "train")
        filled.finish(filled.claim())
        filled.log(step, words)

    assert cli(verb).output == cli(verb, "@last").output
    assert verb != "logs" or cli(verb).stdout == "train | new\n"
