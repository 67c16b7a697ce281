"""What steps return, print, draw and report: also when it is huge, strange, or comes from many processes at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.engine.real import Shop
from tests.faults.machine import command

WRECKERS = {"module": "wreckers"}


@pytest.mark.parametrize(("function", "arguments", "result"), [("return_lambda", {}, 6), ("return_local", {"n": 10}, 15)])
def test_a_function_or_a_local_class_is_the_same_result_from_the_step_and_from_the_cache(
    shop: Shop, function: str, arguments: dict[str, int], result: int
) -> None:
    equal = {"entry": WRECKERS, "key_base": "k", "use_cache": True, **arguments}
    first = shop.step(function, **equal)
    called = shop.step("call", entry=WRECKERS, needs={"value": first}, n=5)
    shop.drain()
    second = shop.step(function, **equal)
    assert shop.row(second)["cached_from"] == first.id
    again = shop.step("call", entry=WRECKERS, needs={"value": second}, n=5)
    shop.drain()
    assert [shop.value(task) for task in (called, again)] == [result, result]


@pytest.mark.parametrize("size", [256 << 20, pytest.param(2 << 30, marks=pytest.mark.exhaustive)], ids=["256 MB", "2 GB"])
def test_a_huge_value_is_stored_and_read_with_about_twice_its_size_in_memory(shop: Shop, size: int) -> None:
    """Once the value, once the pages of the file it is read from; worker and host never hold it."""
    memory = {line.split(":")[0]: int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()}
    if memory["MemAvailable"] < 4 * (size >> 10):
        pytest.skip(f"needs {4 * size >> 30} GB of memory")
    made = shop.step("return_large", entry=WRECKERS, size=size)
    taken = shop.step("take_large", entry=WRECKERS, needs={"value": made})
    worker = shop.worker()
    shop.finished(made, taken, timeout=120)
    assert shop.value(taken) == size
    interpreter = 100 << 20
    for name in ("made", "taken"):
        (peak,) = map(int, shop.lines(name))
        assert peak < 2.2 * size + interpreter, (name, peak / size)
    for pid in (worker.pid, shop.host_of(worker)):
        (peak,) = [int(line.split()[1]) << 10 for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line]
        assert peak < 2 * interpreter
    assert worker.end() == 0


@pytest.mark.parametrize("megabytes", [4, pytest.param(100, marks=pytest.mark.faults)])
def test_output_without_line_ends_that_is_no_text_is_kept_as_it_is_and_shown_in_some_way(shop: Shop, megabytes: int) -> None:
    step = shop.step("write_without_line_ends", entry=WRECKERS, megabytes=megabytes)
    shop.drain(environment={"MINIPIPE_LOG_LIMIT_MB": "200"})
    assert shop.status(step) == "completed"
    kept = shop.log(step)
    assert kept.count(b"\n") == 1 and len(kept) > megabytes << 20
    raw = command(shop.store.path, "logs", step.uid, "--raw")
    assert (raw.returncode, raw.stdout == kept) == (0, True)
    for arguments in ((), ("--tail", "1"), ("--json",))[: 1 if megabytes > 50 else 3]:
        shown = command(shop.store.path, "logs", step.uid, *arguments)
        assert shown.returncode == 0, shown.stderr.decode()
        assert not {*range(9), *range(11, 32)} & set(shown.stdout)
        assert b"\\x1b" in shown.stdout or b"u001b" in shown.stdout


def test_a_generator_that_a_module_makes_is_another_one_in_each_attempt_of_a_warm_host(shop: Shop) -> None:
    (shop.folder / "drawing.py").write_text(
        "import numpy as np\nSTREAM = np.random.default_rng()\ndef draw():\n    return float(STREAM.random())\n"
    )
    entry = {"module": "drawing", "roots": [str(shop.folder)], "imports": ["numpy", "drawing"]}
    worker, seen = shop.worker(), []
    for _ in range(4):
        task = shop.step("draw", entry=entry)
        shop.finished(task)
        seen.append(shop.value(task))
    assert len(set(seen)) == 4
    assert worker.end() == 0


def test_points_that_a_fork_pool_and_a_thread_report_at_once_are_all_stored(shop: Shop) -> None:
    processes, points = 3, 40
    step = shop.step("report_from_everywhere", entry=WRECKERS, processes=processes, points=points)
    shop.drain()
    row = shop.row(step)
    assert (row["status"], row["attempt"], row["crashes"]) == ("completed", 1, 0), row["reason"]
    counted = shop.store.database.rows(
        "SELECT title, series, count(*) AS n, count(DISTINCT iteration) AS different FROM metric WHERE task_id = ? GROUP BY 1, 2",
        (step.id,),
    )
    found = {(row["title"], row["series"]): (row["n"], row["different"]) for row in counted}
    assert found == {
        ("parent", "thread"): (shop.value(step), shop.value(step)),
        **{("child", str(number)): (points, points) for number in range(2 * processes)},
    }
    assert b"locked" not in shop.log(step)


# -- limits of the system -------------------------------------------------------------------------------------------------


def test_a_file_size_limit_is_a_failure_with_words_and_no_crash(shop: Shop) -> None:
    step = shop.step("limited", limit=1 << 20, size=4 << 20)
    shop.drain()
    row = shop.row(step)
    assert row["status"] == "failed" and row["crashes"] == 0
    assert re.search(r"File too large|SIGXFSZ", row["reason"]), row["reason"]
    assert list(shop.store.folder("tmp").iterdir()) == []
    shop.check()


def test_too_many_open_files_fail_a_step_with_the_cause_and_nothing_is_cached(shop: Shop) -> None:
    step = shop.step("hoard", files=24, key_base="k")
    shop.drain()
    row = shop.row(step)
    assert row["status"] == "failed" and "Too many open files" in row["reason"]
    assert shop.store.database.rows("SELECT * FROM cache") == []
    why = command(shop.store.path, "cache", "why", step.uid)
    assert (why.returncode, why.stdout) == (0, b"ran: no earlier finished step of this name\n"), why.stderr.decode()
