"""A disk without room: words with the path and the bytes that are left, no false status, and all goes on once there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minipipe import errors
from minipipe.store import home, tasks
from minipipe.store.home import Store
from tests.engine.real import Shop
from tests.faults import machine
from tests.faults.machine import command, fill, free_bytes, remount
from tests.faults.sane import sane

pytestmark = pytest.mark.faults


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB."""
    with machine.tmpfs(tmp_path / "small", "24m") as folder:
        yield folder


@pytest.fixture
def shop(small: Path, tmp_path: Path, wait_for: Callable[..., None], copy_store: Callable[[Path], Store]) -> Iterator[Shop]:
    """A shop whose store lies there; its steps' own files lie elsewhere."""
    folder = tmp_path / "steps"
    folder.mkdir()
    store = copy_store(small / "store")
    home.restore_ballast(store.path)
    opened = Shop(store, folder, wait_for)
    yield opened
    opened.close()
    store.close()


def _submit(store: Store, number: int, text: str) -> str:
    parameter = tasks.Parameter("Args", "text", text, "", f'"{text}"')
    return tasks.submit(store, tasks.NewTask("custom", f"s{number}", "p", {}, queue="default", parameters=(parameter,))).uid


def test_a_full_database_refuses_with_path_and_room_and_loses_nothing_that_was_told(shop: Shop, small: Path) -> None:
    told: dict[str, str] = {}
    filler = fill(small)
    with pytest.raises(errors.DiskFull) as caught:  # noqa: PT012
        for number in range(10_000):
            told[_submit(shop.store, number, "x" * 20_000)] = "queued"
    assert caught.value.exit_code == 4
    assert str(shop.store.path) in caught.value.message and "bytes free on its device" in caught.value.cause
    assert sane(shop.store.path, acknowledged=told) == []
    with pytest.raises(errors.DiskFull):
        _submit(shop.store, -1, "x" * 20_000)
    filler.unlink()
    told[_submit(shop.store, -2, "x" * 20_000)] = "queued"
    assert sane(shop.store.path, acknowledged=told) == []


def test_a_worker_on_a_full_disk_keeps_what_it_holds_and_goes_on_when_there_is_room(shop: Shop, small: Path) -> None:
    """Nothing is reported that is not so; what cannot be stored is kept and tried again."""
    steps = [shop.step("produce", name=f"s{number}", size=14_000, number=number) for number in range(600)]
    serving = shop.worker(slots=1)
    shop.wait(lambda: shop.status(steps[3]) == "completed", 20)
    fill(small)
    shop.wait(lambda: "cannot store an ending yet: no space left" in serving.said(), 60)
    assert serving.process.poll() is None
    assert {shop.status(step) for step in steps} <= {"queued", "in_progress", "completed"}
    assert sane(shop.store.path, only=["I1", "I2", "I4", "I7"]) == []
    remount(small, "size=64m")
    shop.wait(lambda: all(shop.status(step) == "completed" for step in steps), 60)
    assert serving.process.poll() is None
    assert all(shop.row(step)["attempt"] == 1 for step in steps)
    shop.check()


def test_a_worker_on_a_full_disk_ends_when_it_is_asked_to(shop: Shop, small: Path) -> None:
    """It waits for room as long as for a running step, then ends with words; the next worker runs again what was not stored."""
    steps = [shop.step("produce", name=f"s{number}", size=14_000, number=number) for number in range(600)]
    serving = shop.worker({"MINIPIPE_DRAIN_S": "1"}, slots=1)
    shop.wait(lambda: shop.status(steps[3]) == "completed", 20)
    fill(small)
    shop.wait(lambda: "cannot store an ending yet: no space left" in serving.said(), 60)
    serving.process.terminate()
    assert serving.process.wait(15) == 4
    assert "Traceback" not in serving.said() and "error: no space left" in serving.said()
    assert sane(shop.store.path, only=["I1", "I2", "I4", "I7"]) == []
    remount(small, "size=64m")
    shop.drain()
    assert {shop.status(step) for step in steps} == {"completed"}
    shop.check()


def test_a_step_whose_result_has_no_room_fails_with_words_and_leaves_no_file(shop: Shop, small: Path) -> None:
    fill(small, leave=1 << 20)
    step = shop.step("produce", size=8 << 20)
    shop.drain()
    row = shop.row(step)
    assert row["status"] == "failed"
    assert "no space left" in row["reason"]
    assert list(shop.store.folder("tmp").iterdir()) == []
    (small / "filler").unlink()
    again = shop.step("produce", name="again", size=8 << 20)
    shop.drain()
    assert shop.status(again) == "completed"
    shop.check()


def test_a_result_for_which_only_the_place_of_files_has_no_room_fails_its_step_and_no_other(
    tmp_path: Path, wait_for: Callable[..., None], copy_store: Callable[[Path], Store]
) -> None:
    """The database has room all the time, so everything else goes on."""
    shop = Shop(copy_store(tmp_path / "store"), tmp_path, wait_for)
    with machine.tmpfs(shop.store.folder("tmp"), "1m") as folder:
        large = shop.step("produce", size=8 << 20)
        child = shop.step("close", needs={"value": large})
        small = shop.step("begin")
        shop.drain()
        row = shop.row(large)
        assert (row["status"], row["crashes"]) == ("failed", 0)
        assert "no space left" in row["reason"] and "bytes free" in shop.error(large)["traceback"]
        assert [shop.status(step) for step in (child, small)] == ["skipped", "completed"]
        assert list(folder.iterdir()) == []
        shop.check(after_gc=True)
    again = shop.step("produce", name="again", size=8 << 20)
    shop.drain()
    assert shop.status(again) == "completed"
    shop.close()
    shop.check()
    shop.store.close()


@pytest.mark.parametrize("live", [False, True])
def test_at_zero_bytes_everything_can_be_read_and_gc_makes_room(shop: Shop, small: Path, live: bool) -> None:
    done = shop.step("produce", size=2 << 20)
    shop.drain()
    litter = shop.store.folder("tmp") / f"{'ab' * 16}.0"
    litter.write_bytes(b"x" * (1 << 20))
    serving = shop.worker() if live else None
    if serving is not None:
        shop.wait(lambda: shop.store.database.rows("SELECT 1 FROM worker WHERE ended_at IS NULL"), 20)
    shop.store.close()
    fill(small)
    assert free_bytes(small) == 0
    for verb in (("status", "--all"), ("show", done.uid), ("logs", done.uid), ("artifacts", done.uid), ("du",), ("doctor",)):
        found = command(shop.store.path, *verb)
        assert found.returncode == 0, (verb, found.stderr.decode())
    kept = command(shop.store.path, "get", f"{done.uid}/x", "-o", str(shop.folder / "x.bin"))
    assert kept.returncode == 0, kept.stderr.decode()
    collected = command(shop.store.path, "gc")
    assert collected.returncode == 0, collected.stderr.decode()
    assert b"1 temporary file" in collected.stdout
    assert not litter.exists()
    assert sane(shop.store.path, after_gc=not live) == []
    (small / "filler").unlink()
    assert command(shop.store.path, "gc").returncode == 0
    assert home.has_ballast(shop.store.path)
    shop.check()


def test_gc_by_a_rule_frees_a_full_disk(shop: Shop, small: Path) -> None:
    runs = []
    for number in range(3):
        run = tasks.submit(shop.store, tasks.NewTask("controller", f"r{number}", "p/.pipelines/r", {}, is_run=True))
        with shop.store.database.write() as connection:
            connection.execute("UPDATE task SET status = 'stopped', ended_at = 1 WHERE id = ?", (run.id,))
        shop.step("produce", name=f"s{number}", size=2 << 20, parent_id=run.id, number=number)
        shop.drain()
        runs.append(run.uid)
    shop.store.close()
    fill(small)
    done = command(shop.store.path, "gc", "--keep-runs", "1", "--yes", "-q")
    assert (done.returncode, done.stdout.decode().split()) == (0, runs[1::-1]), done.stderr.decode()
    assert free_bytes(small) >= 3 << 20
    assert sane(shop.store.path, after_gc=True) == []
