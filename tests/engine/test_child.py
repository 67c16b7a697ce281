"""What a step may do, and what its task says afterwards; in a forked child and in a fresh interpreter.

All steps of a kind are submitted at once and run by one worker; each test looks at its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from minipipe.store import blobs
from minipipe.store.home import Store
from minipipe.store.tasks import Submitted
from tests.engine.real import Shop, processes_of

# function -> (reason, error type): exactly these
FAILURES = {
    "leave_quietly": ("exited without a result", "Exit"),
    "leave_with_3": ("exited with code 3, without a result", "Exit"),
    "leave_with_300": ("exited with code 300 (the system keeps 44)", "SystemExit"),
    "leave_with_words": ("exited with code 1", "SystemExit"),
    "leave_well": ("exited without a result", "SystemExit"),
    "interrupt": ("KeyboardInterrupt", "KeyboardInterrupt"),
    "raise_bottom": ("Bottom: deep", "Bottom"),
    "segfault": ("ended by SIGSEGV", "SIGSEGV"),
    "abort": ("ended by SIGABRT", "SIGABRT"),
    "divide_in_c": ("ended by SIGFPE", "SIGFPE"),
    "raise_mute": ("Mute: <its message raised RuntimeError>", "Mute"),
    "raise_unpicklable": ("Unpicklable: holds a lock", "Unpicklable"),
    "raise_two_arguments": ("TwoArguments: 1 and 2", "TwoArguments"),
    "raise_weird_words": ("WeirdWords: weird words", "WeirdWords"),
    "raise_escapes": ("ValueError: \x1b]52;c;aGk=\x07\x1b[31m\rred\x00", "ValueError"),
    "run_out_of_memory": ("MemoryError", "MemoryError"),
    "raise_group": ("ExceptionGroup: both (2 sub-exceptions)", "ExceptionGroup"),
}
# function -> words that its reason has to contain
REFUSED = {
    "return_generator": ("return_generator", "'x'", "generator"),
    "return_lock": ("return_lock", "'x'", "lock"),
    "return_connection": ("return_connection", "'x'", "Connection"),
    "return_socket": ("return_socket", "'x'", "socket"),
    "return_deep_list": ("return_deep_list", "'x'", "list"),
    "return_hostile": ("return_hostile", "'x'", "Hostile"),
    "raise_surrogates": ("ValueError", "half", "a sign"),
    "recurse": ("RecursionError",),
    "raise_exit_that_lies": ("ExitThatLies",),
    "open_many": ("OSError", "Too many open files"),
}
VALUES = {
    "threads_that_never_end": 7,
    "exit_handler_that_never_ends": 8,
    "exit_handler_that_sleeps_in_c": 13,
    "exit_handler_that_fails": 10,
    "exit_handler_that_speaks": 11,
}
OTHERS = [
    "raise_huge",
    "return_surrogates",
    "return_huge_number",
    "return_not_a_number",
    "return_lambda",
    "exit_handler_that_hangs_in_c",
    "breed",
    "breed_and_fail",
    "open_descriptors",
    "write_bytes",
    "oom_scores",
]
HANGS = ["ignore_sigterm", "hang_in_c", "breed_and_stay"]
SIZES = [0, 16_384, 16_385]


@dataclass
class Made:
    """The steps of one kind of child."""

    shop: Shop
    kind: str
    steps: dict[str, Submitted]

    def end_of(self, name: str) -> dict[str, Any]:
        """The row of a step, once it has ended."""
        return self.shop.finished(self.steps[name], timeout=60)


@pytest.fixture(scope="module", params=["fork", "spawn"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, copy_store: Callable[..., Store]
) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp(request.param)
    shop = Shop(copy_store(folder / "store"), folder, _wait)
    entry = {"module": "wreckers"}
    steps = {name: shop.step(name, entry=entry, time_limit_s=0.5) for name in HANGS}
    for name in [*FAILURES, *REFUSED, *VALUES, *OTHERS]:
        steps[name] = shop.step(name, entry=entry)
    for size in SIZES:
        steps[f"bytes {size}"] = shop.step("return_bytes", entry=entry, size=size)
    for closing in (False, True):
        for function in ("wreck", "wreck_and_fail"):
            steps[f"{function} {closing}"] = shop.step(function, entry=entry, closing=closing)
    steps["look_around"] = shop.step("look_around", entry=entry)
    shop.worker({"MINIPIPE_ISOLATION": request.param}, slots=3)
    try:
        yield Made(shop, request.param, steps)
        shop.finished(*steps.values(), timeout=60)
    finally:
        shop.close()
    shop.check()
    shop.store.close()


def _wait(condition: Callable[[], object], timeout: float = 10.0) -> None:
    import time

    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"still waiting after {timeout} s"
        time.sleep(0.005)


@pytest.mark.parametrize("name", FAILURES)
def test_a_step_that_ends_badly_says_why(made: Made, name: str) -> None:
    row = made.end_of(name)
    reason, kind = FAILURES[name]
    assert (row["status"], row["reason"], made.shop.error(made.steps[name])["type"]) == ("failed", reason, kind)
    assert (row["attempt"], row["crashes"]) == (1, 0)


@pytest.mark.parametrize("name", REFUSED)
def test_a_result_or_error_that_cannot_travel_is_named(made: Made, name: str) -> None:
    row = made.end_of(name)
    assert (row["status"], row["attempt"], row["crashes"]) == ("failed", 1, 0)
    for word in REFUSED[name]:
        assert word in row["reason"]


@pytest.mark.parametrize("name", VALUES)
def test_what_runs_on_at_the_end_does_not_cost_the_result(made: Made, name: str) -> None:
    row = made.end_of(name)
    assert (row["status"], row["reason"]) == ("completed", "")
    assert made.shop.value(made.steps[name]) == VALUES[name]
    made.shop.wait(lambda: not _processes_of(made, row), 10)  # the grace is 0.4 s


def _processes_of(made: Made, row: dict[str, Any]) -> list[int]:
    """What is left of an attempt."""
    token = f"MINIPIPE_ATTEMPT={row['token']}".encode()
    return [pid for pid in processes_of(made.shop.store.store_id) if token in _environment(pid)]


def test_exit_handlers_run_and_their_words_are_kept(made: Made) -> None:
    made.end_of("exit_handler_that_speaks")
    assert b"said at the end\n" in made.shop.log(made.steps["exit_handler_that_speaks"])


def test_an_exit_handler_that_hangs_in_c_does_not_keep_the_slot_for_ever(made: Made) -> None:
    row = made.end_of("exit_handler_that_hangs_in_c")
    assert (row["status"], row["reason"]) == ("failed", "exited with code 1, without a result")
    assert b"Timeout" in made.shop.log(made.steps["exit_handler_that_hangs_in_c"])  # with the Python stack of where it hung


@pytest.mark.parametrize("name", ["segfault", "abort"])
def test_the_log_of_a_fatal_signal_has_the_python_stack(made: Made, name: str) -> None:
    made.end_of(name)
    log = made.shop.log(made.steps[name])
    assert b"Fatal Python error" in log
    assert f"in {name}".encode() in log


def test_a_huge_message_is_capped_and_whole_in_type(made: Made) -> None:
    row, error = made.end_of("raise_huge"), made.shop.error(made.steps["raise_huge"])
    assert row["reason"].startswith("ValueError: xxx")
    assert len(row["reason"]) < 1_000
    assert error["type"] == "ValueError"
    assert max(map(len, error.values())) < 100_000
    assert len(made.shop.log(made.steps["raise_huge"])) < 1_000_000


def test_text_that_is_no_unicode_is_a_result_like_others(made: Made) -> None:
    row = made.end_of("return_surrogates")
    assert row["status"] == "completed", row["reason"]
    assert made.shop.value(made.steps["return_surrogates"]) == "half \ud800 a sign"


def test_a_number_that_is_none_is_a_result_like_others(made: Made) -> None:
    assert made.end_of("return_not_a_number")["status"] == "completed"
    value = made.shop.value(made.steps["return_not_a_number"])
    assert value != value


def test_a_number_of_thousands_of_digits_works_or_is_refused_in_words(made: Made) -> None:
    row = made.end_of("return_huge_number")
    assert row["status"] == "completed" or "digits" in row["reason"]


def test_a_lambda_travels_or_is_refused_in_words(made: Made) -> None:
    row = made.end_of("return_lambda")
    assert row["status"] == "completed", row["reason"]


@pytest.mark.parametrize("name", HANGS)
def test_a_step_over_its_limit_is_ended_whatever_it_does(made: Made, name: str) -> None:
    row = made.end_of(name)
    assert (row["status"], row["reason"]) == ("failed", "time limit of 0.5 s")
    # Limit, grace (0.4 s), a second of mercy for a busy machine; not the 60 s that it would have liked.
    assert row["duration_s"] < 5


@pytest.mark.parametrize("name", ["breed", "breed_and_fail", "breed_and_stay"])
def test_no_descendant_outlives_its_attempt(made: Made, name: str) -> None:
    row = made.end_of(name)
    made.shop.wait(lambda: not _processes_of(made, row), 10)


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_a_step_has_four_descriptors(made: Made) -> None:
    made.end_of("open_descriptors")
    found = _result(made, "open_descriptors")
    assert sorted(found) == ["0", "1", "2", "3"]
    assert found["0"] == "/dev/null"
    assert found["1"] == found["2"] == str(made.shop.store.log_path(made.steps["open_descriptors"].uid, 1))
    assert found["3"].startswith("socket:")


def _result(made: Made, name: str) -> Any:
    import json

    row = made.shop.store.database.row(
        "SELECT b.bytes FROM artifact a JOIN blob b ON b.digest = a.digest WHERE a.task_id = ? AND a.role = 'output'",
        (made.steps[name].id,),
    )
    assert row is not None
    return json.loads(row[0])


def test_bytes_that_are_no_text_are_kept_in_the_log(made: Made) -> None:
    made.end_of("write_bytes")
    log = made.shop.log(made.steps["write_bytes"])
    head, _, rest = log.partition(b"\n")
    assert head.startswith(b"minipipe: write_bytes ")
    assert rest == bytes(range(256)) + b"\x00\xff" * 10 + b"no newline at the end" + b"half \\ud800 a sign\n"


def test_the_kernel_would_take_the_step_first(made: Made) -> None:
    made.end_of("oom_scores")
    with open("/proc/self/oom_score_adj") as file:
        ours = file.read().strip()
    assert _result(made, "oom_scores") == ["500", ours, ours]  # of the step, its host and its worker


@pytest.mark.parametrize("size", SIZES)
def test_small_results_are_rows_and_larger_ones_are_files(made: Made, size: int) -> None:
    assert made.end_of(f"bytes {size}")["status"] == "completed"
    row = made.shop.store.database.row(
        "SELECT b.digest, b.size, b.bytes FROM artifact a JOIN blob b ON b.digest = a.digest"
        " WHERE a.task_id = ? AND a.role = 'output'",
        (made.steps[f"bytes {size}"].id,),
    )
    assert row is not None
    path = blobs.path_of(made.shop.store, row["digest"])
    assert (row["size"], row["bytes"] is None, path.exists()) == (size, size > 16_384, size > 16_384)


@pytest.mark.parametrize("closing", [False, True])
def test_a_step_that_wrecks_its_process_still_ends_as_it_should(made: Made, closing: bool) -> None:
    assert made.end_of(f"wreck {closing}")["status"] == "completed", made.end_of(f"wreck {closing}")["reason"]
    row = made.end_of(f"wreck_and_fail {closing}")
    assert (row["status"], row["reason"]) == ("failed", "ValueError: wrecked")
    assert b"kept\n" in made.shop.log(made.steps[f"wreck {closing}"])


def test_the_next_step_of_the_host_sees_nothing_of_a_wreck(made: Made) -> None:
    for name in ("wreck False", "wreck True"):
        made.end_of(name)
    late = made.shop.step("look_around", entry={"module": "wreckers"})
    made.steps["late"] = late
    made.end_of("late")
    mask = os.umask(0)
    os.umask(mask)
    for name in ("look_around", "late"):
        made.end_of(name)
        assert _result(made, name) == {
            "wrecked": None,
            "cwd": str(made.shop.folder),
            "umask": 0o077,
            "ignored": [],
            "path": True,
            "patched": False,
            "stdout": f"{made.steps[name].uid}.1.log",
        }
