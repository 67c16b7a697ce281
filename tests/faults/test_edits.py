"""What is edited under a step: its input, its module, the mode of what it stored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from minipipe import errors
from minipipe.store import blobs, records
from minipipe.store.home import Store
from tests.engine.real import Shop
from tests.faults.machine import command
from tests.faults.sane import sane
from tests.store import making


def _file_of(store: Store) -> Path:
    (row,) = store.database.rows("SELECT DISTINCT digest FROM artifact WHERE role = 'output' AND digest IS NOT NULL")
    return blobs.path_of(store, row["digest"])


def test_a_step_that_makes_its_input_writable_and_writes_is_found_out_at_the_next_read(shop: Shop) -> None:
    source = shop.step("return_bytes", entry={"module": "wreckers"}, size=20_000)
    attacker = shop.step("write_into_input", entry={"module": "wreckers"}, needs={"value": source})
    shop.drain()
    assert (shop.status(attacker), shop.value(attacker)) == ("completed", 1)
    path = _file_of(shop.store)
    assert path.read_bytes()[:1] == b"X"
    with pytest.raises(errors.ArtifactError, match="damaged"):
        records.value_of(shop.store, source.id, "x", shop.store.folder("tmp") / ("0" * 32 + ".d"))
    reader = shop.step("close", needs={"value": source})
    shop.drain()
    assert shop.status(reader) == "failed"
    assert "damaged" in shop.row(reader)["reason"]
    path.write_bytes(b"s" * 20_000)
    path.chmod(0o444)


@pytest.mark.parametrize(
    ("made", "writes", "reads", "size", "wrote", "whole"),
    [
        ("return_array", "write_into_array", "sum_of", 5_000, 2, sum(range(5_000))),
        ("return_file", "write_into_file", "first_of", 20_000, 20_000, "f"),
    ],
)
def test_what_a_step_writes_into_its_own_view_of_an_input_nobody_else_sees(
    shop: Shop, made: str, writes: str, reads: str, size: int, wrote: int, whole: object
) -> None:
    entry = {"module": "wreckers"}
    source = shop.step(made, entry=entry, size=size)
    writer = shop.step(writes, entry=entry, needs={"value": source})
    shop.drain()
    assert (shop.status(writer), shop.value(writer)) == ("completed", wrote), shop.row(writer)["reason"]
    reader = shop.step(reads, entry=entry, needs={"value": source})
    shop.drain()
    assert shop.value(reader) == whole


def test_two_attempts_of_one_warm_host_see_the_module_as_it_is_at_their_time(shop: Shop) -> None:
    module = shop.folder / "changing.py"
    entry = {"module": "changing", "roots": [str(shop.folder)]}
    worker = shop.worker()
    seen = []
    for number in range(3):
        module.write_text(f"def answer():\n    return {number}\n")  # same size, perhaps the same second
        task = shop.step("answer", entry=entry)
        shop.finished(task)
        seen.append((shop.status(task), shop.value(task)))
    assert seen == [("completed", 0), ("completed", 1), ("completed", 2)]
    assert worker.end() == 0


def test_a_module_that_is_gone_where_the_step_runs_is_named_with_where_it_was_looked_for(shop: Shop) -> None:
    module = shop.folder / "leaving.py"
    module.write_text("def answer():\n    return 1\n")
    entry = {"module": "leaving", "roots": [str(shop.folder)]}
    before = shop.step("answer", entry=entry)
    shop.drain()
    assert shop.value(before) == 1
    task = shop.step("answer", entry=entry)
    module.unlink()
    shop.drain()
    row, error = shop.row(task), shop.error(task)
    assert row["status"] == "failed" and "step 'answer': No module named 'leaving'" in row["reason"]
    assert "search path" in error["traceback"] and str(shop.folder) in error["traceback"]


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o666])
def test_a_stored_file_of_another_mode_still_has_its_value(store: Store, mode: int) -> None:
    worker = making.agent(store)
    step = making.step(store)
    making.work(store, worker, value=b"v" * 20_000)
    path = _file_of(store)
    path.chmod(mode)
    assert making.value(store, step) == b"v" * 20_000
    assert [one for one in sane(store.path) if "mode" in one]
    path.chmod(0o444)


def test_damage_with_the_old_size_and_time_is_listed_by_doctor_deep(store: Store) -> None:
    worker = making.agent(store)
    making.step(store)
    making.work(store, worker, value=b"v" * 20_000)
    path = _file_of(store)
    info = path.stat()
    path.chmod(0o600)
    path.write_bytes(b"X" + b"v" * (info.st_size - 1))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    path.chmod(0o444)
    done = command(store.path, "doctor", "--deep")
    assert done.returncode != 0
    assert path.name[:8].encode() in done.stdout + done.stderr
