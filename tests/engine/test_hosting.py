"""What the worker makes of its host and of what children send: nothing is believed, nothing is lost, nobody else is touched."""

from __future__ import annotations

import json
import os
import signal
import struct
from pathlib import Path
from typing import Any

import pytest

from minipipe.engine import hosting
from minipipe.engine.protocol import PAYLOAD_LIMIT, pack
from minipipe.store import attempts
from minipipe.store.home import Store
from tests.engine.real import Shop, command_of, gone, hosts_of

TOKEN = "0123456789abcdef" * 2
DIGEST = "ab" * 32
ITEM = {
    "name": "x",
    "digest": DIGEST,
    "size": 3,
    "payload": 0,
    "codec": "bytes",
    "type": "bytes",
    "key": "k",
    "preview": "",
    "metadata": {},
}


def head(**changes: Any) -> dict[str, Any]:
    return {"token": TOKEN, "ending": "completed", "duration_s": 0.1, "outputs": [ITEM], **changes}


def item(**changes: Any) -> dict[str, Any]:
    return head(outputs=[{**ITEM, **changes}])


BAD = {
    "another attempt's token": head(token="f" * 32),
    "no token": {key: value for key, value in head().items() if key != "token"},
    "no ending": {key: value for key, value in head().items() if key != "ending"},
    "outputs that are a number": head(outputs=3),
    "outputs that are text": head(outputs="xyz"),
    "a duration that is text": head(duration_s="long"),
    "a duration below zero": head(duration_s=-1),
    "an endless duration": head(duration_s=float("inf")),
    "a duration that is no number": head(duration_s=float("nan")),
    "a digest that is a path": item(digest="../../../etc/passwd"),
    "a digest with a newline": item(digest=DIGEST + "\n"),
    "a digest that is a number": item(digest=7),
    "a size that is wrong": item(size=4),
    "a size below zero": item(size=-3),
    "an endless size": item(size=float("inf")),
    "a payload that is not there": item(payload=5),
    "a payload that is text": item(payload="0"),
    "a file that is not there": item(payload=-1, size=20_000),
    "a large payload": item(payload=1, size=20_000),
    "metadata that is a list": item(metadata=[1]),
    "an output that is text": head(outputs=["x"]),
    "a failure without an error": head(ending="failed"),
    "a failure whose error is text": head(ending="failed", reason="r", error="text"),
    "files that are a number": head(code_changed=3),
}


def test_a_whole_outcome_is_read(store: Store) -> None:
    outcome = hosting.outcome_of(store, TOKEN, (head(), [b"abc"]))
    assert (outcome.ending, outcome.outputs[0].name) == (attempts.DONE, "x")


@pytest.mark.parametrize("message", BAD.values(), ids=BAD.keys())
def test_a_malformed_outcome_is_a_failure_of_its_own(store: Store, message: dict[str, Any]) -> None:
    outcome = hosting.outcome_of(store, TOKEN, (message, [b"abc", b"y" * 20_000]))
    assert (outcome.ending, outcome.reason, outcome.outputs) == (attempts.FAILED, "bad outcome", ())


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/b", "", "x" * 10_000, "\x00", "\ud800"])
def test_a_name_like_a_path_stays_a_name(store: Store, tmp_path: Path, name: str) -> None:
    staged = store.folder("tmp") / f"{TOKEN}.0"
    staged.write_bytes(b"z" * 20_000)
    before = sorted(tmp_path.rglob("*"))
    outcome = hosting.outcome_of(store, TOKEN, (item(name=name, payload=-1, size=20_000), []))
    encoded = outcome.outputs[0].encoded
    assert encoded is not None
    assert encoded.staged.path == staged
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_with_half_a_surrogate_pair_can_be_stored(store: Store) -> None:
    outcome = hosting.outcome_of(store, TOKEN, (head(ending="failed", reason="half \ud800", error={"message": "\udfff"}), []))
    assert outcome.reason.encode() == b"half \\ud800"


# -- with real processes ------------------------------------------------------------------------------------------------

FORGERIES = {
    "another token": pack(head(token="f" * 32, outputs=[])),
    "a head of 2 GiB": struct.pack(">II", 2**31, 0),
    "a payload over its limit": struct.pack(">II", 2, 1) + b"{}" + struct.pack(">Q", PAYLOAD_LIMIT + 1),
    "no JSON": struct.pack(">II", 4, 0) + b"nope",
    "JSON without end": struct.pack(">II", 100_000, 0) + b"[" * 100_000,
    "two outcomes": pack(head(outputs=[])) * 2,
    "an outcome and a byte": pack(head(outputs=[])) + b"x",
}


@pytest.mark.parametrize("stay", [False, True], ids=["and it ends", "and it stays"])
def test_a_forged_outcome_fails_its_attempt_and_nothing_else(shop: Shop, stay: bool) -> None:
    """A step writes to the worker's line itself; one that then does not end is ended."""
    before = {path for path in shop.folder.rglob("*") if "store" not in path.parts}
    made = {name: shop.step("forge", name=name, data=data.hex(), stay=stay) for name, data in FORGERIES.items()}
    after = shop.step("one")
    worker = shop.worker(slots=3)
    shop.finished(*made.values(), after, timeout=30)
    for name, task in made.items():
        row = shop.row(task)
        assert (name, row["status"], row["reason"], row["crashes"]) == (name, "failed", "bad outcome", 0)
    assert shop.status(after) == "completed"
    with open(f"/proc/{worker.pid}/status") as file:
        (peak,) = [int(line.split()[1]) for line in file if line.startswith("VmHWM")]
    assert peak < 150_000  # kB: nothing of 2 GiB was made room for
    assert {path for path in shop.folder.rglob("*") if "store" not in path.parts} - before == {worker.out, worker.err}
    assert worker.end() == 0


def test_a_true_outcome_whose_child_does_not_end_does_not_keep_the_worker(shop: Shop) -> None:
    task = shop.step("forge_own", returns=())
    worker = shop.worker(until_idle=True)
    assert worker.process.wait(20) == 0
    assert shop.status(task) == "completed"


def test_a_killed_child_is_a_crash_that_names_the_signal_and_costs_nobody_else(shop: Shop) -> None:
    victim = shop.step("stay", file="go")
    neighbour = shop.step("stay", file="go")
    worker = shop.worker(slots=2)
    pid, host = shop.running(victim), shop.host_of(worker)
    shop.running(neighbour)
    os.kill(pid, signal.SIGKILL)
    shop.wait(lambda: shop.row(victim)["crashes"] == 1)
    (shop.folder / "go").touch()
    row = shop.finished(victim, neighbour)
    assert (row["status"], row["crashes"], row["attempt"]) == ("completed", 0, 1)
    row = shop.row(victim)
    assert (row["status"], row["crashes"], row["attempt"], row["retries"]) == ("completed", 1, 2, 0)
    details = [event["detail"] for event in shop.store.database.rows("SELECT detail FROM event WHERE task_id = ?", (victim.id,))]
    assert "killed by SIGKILL" in details
    assert shop.host_of(worker) == host
    assert worker.end() == 0


def test_the_third_crash_ends_a_task_and_says_so(shop: Shop) -> None:
    poison = shop.step("kill_self", returns=())
    others = [shop.step("one") for _ in range(5)]
    shop.worker()
    row = shop.finished(*others, poison)
    assert (row["status"], row["reason"], row["crashes"], row["attempt"]) == (
        "failed",
        "killed by SIGKILL, 3 times",
        3,
        3,
    )
    assert "memory" in shop.error(poison)["message"]
    assert [shop.status(other) for other in others] == ["completed"] * 5
    assert len(shop.lines("count")) == 3


def test_a_killed_host_costs_its_attempts_one_crash_each_and_the_worker_nothing(shop: Shop) -> None:
    both = [shop.step("stay", file="go") for _ in range(2)]
    worker = shop.worker(slots=2)
    children = [shop.running(task) for task in both]
    host = shop.host_of(worker)
    os.kill(host, signal.SIGKILL)
    shop.wait(lambda: all(gone(pid) for pid in children), 1)
    shop.wait(lambda: all(shop.row(task)["crashes"] == 1 for task in both))
    (shop.folder / "go").touch()
    shop.finished(*both)
    assert [shop.row(task)["attempt"] for task in both] == [2, 2]
    assert shop.host_of(worker) != host
    assert worker.process.poll() is None
    shop.wait(lambda: not zombies_of(worker.pid), 5)
    assert worker.end() == 0


def zombies_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if gone(int(child))]


def test_a_stopped_host_dies_with_its_worker_and_so_do_its_children(shop: Shop) -> None:
    task = shop.step("stay", file="go")
    worker = shop.worker()
    child, host = shop.running(task), shop.host_of(worker)
    os.kill(host, signal.SIGSTOP)
    worker.kill()
    shop.wait(lambda: gone(host) and gone(child), 1)
    (shop.folder / "go").touch()
    shop.drain()
    assert shop.row(task)["crashes"] == 1


@pytest.mark.parametrize("how", ["ends at its import", "cannot be executed"])
def test_a_host_that_cannot_start_is_tried_three_times_ends_the_worker_and_costs_the_tasks_nothing(shop: Shop, how: str) -> None:
    tasks = [shop.step("one") for _ in range(3)]
    broken = shop.folder / "broken"
    broken.mkdir()
    (broken / "cloudpickle.py").write_text("print('x', file=open('tried', 'a'))\nraise ImportError('no such luck')\n")
    if how == "ends at its import":
        worker = shop.worker({"PYTHONPATH": str(broken)}, slots=2)
    else:
        gone = "import minipipe.engine.start as start\nstart.popen_host.__defaults__ = ('/nowhere/python',)\n"
        worker = shop.worker(slots=2, before=gone)
    assert worker.process.wait(20) == 1
    assert "the step host cannot be started" in worker.said() and "Traceback" not in worker.said()
    assert ("no such luck" if how == "ends at its import" else "/nowhere/python") in worker.said()
    assert len(shop.lines("tried")) == (3 if how == "ends at its import" else 0)
    assert [(row["status"], row["crashes"]) for row in map(shop.row, tasks)] == [("queued", 0)] * 3
    shop.drain()
    assert [shop.status(task) for task in tasks] == ["completed"] * 3


def test_an_import_that_kills_the_host_is_left_to_the_step(shop: Shop) -> None:
    # As numpy does on a processor that lacks what it was built for.
    (shop.folder / "joblib.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    bad = shop.step("import_one", entry={"imports": ["joblib"]}, module="joblib")
    good = shop.step("one")
    worker = shop.worker({"PYTHONPATH": str(shop.folder)})
    row = shop.finished(good, bad)
    assert (row["status"], row["reason"]) == ("failed", "ended by SIGSEGV")
    assert shop.status(good) == "completed"
    assert worker.end() == 0


def test_an_import_that_talks_without_end_does_not_block_the_host(shop: Shop) -> None:
    (shop.folder / "joblib.py").write_text("import os\nos.write(2, b'x' * 200_000)\nprint('y' * 200_000)\n")
    task = shop.step("import_one", entry={"imports": ["joblib"]}, module="joblib")
    worker = shop.worker({"PYTHONPATH": str(shop.folder)})
    assert shop.finished(task)["status"] == "completed"
    assert "yyyy" not in worker.out.read_text()
    assert worker.end() == 0


def test_an_import_that_starts_threads_or_opens_files_is_not_kept_warm(shop: Shop) -> None:
    (shop.folder / "threaded.py").write_text("from threading import *\nThread(target=Event().wait, daemon=True).start()\n")
    (shop.folder / "opened.py").write_text("import sqlite3\nkept = sqlite3.connect('some.db')\n")
    (shop.folder / "quiet.py").write_text("import os\nborn = os.getpid()\n")
    names = ["threaded", "opened", "quiet"]
    first = shop.step("import_one", entry={"imports": names}, module="quiet")
    worker = shop.worker({"PYTHONPATH": str(shop.folder)})
    shop.finished(first)
    host = shop.host_of(worker)
    shop.wait(lambda: not [one for one in children_of(host) if b"\0quiet" in command_of(one)], 5)

    def warm() -> bool:
        task = shop.step("born_in", module="quiet")
        shop.finished(task)
        return bool(shop.value(task) == host)

    shop.wait(warm, 10)
    assert os.listdir(f"/proc/{host}/task") == [str(host)]
    assert not [name for name in os.listdir(f"/proc/{host}/fd") if "some.db" in os.readlink(f"/proc/{host}/fd/{name}")]
    for name in names:
        task = shop.step("import_one", entry={"imports": names}, module=name)
        assert shop.finished(task)["status"] == "completed"
    assert worker.end() == 0


def children_of(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def test_an_import_under_trial_dies_with_its_host(shop: Shop) -> None:
    (shop.folder / "endless.py").write_text(
        "import os, pathlib, signal\npathlib.Path('trial').write_text(str(os.getpid()))\nsignal.pause()\n"
    )
    task = shop.step("one", entry={"imports": ["endless"]})
    worker = shop.worker({"PYTHONPATH": str(shop.folder)})
    shop.finished(task)
    shop.wait(lambda: (shop.folder / "trial").exists() and (shop.folder / "trial").read_text())
    trial = int((shop.folder / "trial").read_text())
    assert not gone(trial)
    os.kill(shop.host_of(worker), signal.SIGKILL)
    shop.wait(lambda: gone(trial), 2)
    assert worker.end() == 0


def test_the_numbers_drawn_do_not_depend_on_what_the_host_did_before(shop: Shop) -> None:
    draws = [shop.step("draw", entry={"module": "wreckers", "imports": ["numpy"]}) for _ in range(3)]
    seeded = [shop.step("draw", entry={"module": "wreckers", "seed": 5}) for _ in range(2)]
    unseeded = [shop.step("draw_unseeded", entry={"module": "wreckers", "seed": None}) for _ in range(3)]
    warm = shop.worker()
    shop.finished(*draws, *seeded, *unseeded, timeout=40)
    assert warm.end() == 0
    fresh = [
        shop.step("draw", entry={"module": "wreckers"}),
        shop.step("draw", entry={"module": "wreckers", "seed": 5}),
    ]
    shop.drain(environment={"MINIPIPE_ISOLATION": "spawn"})
    values = {task.id: result(shop, task.id) for task in (*draws, *seeded, *unseeded, *fresh)}
    assert len({str(values[task.id]) for task in (*draws, fresh[0])}) == 1
    assert len({str(values[task.id]) for task in (*seeded, fresh[1])}) == 1
    assert values[draws[0].id] != values[seeded[0].id]
    numbers = [number for task in unseeded for number in values[task.id]]
    assert len(set(numbers)) == len(numbers)


def result(shop: Shop, task: int) -> Any:
    row = shop.store.database.row(
        "SELECT b.bytes FROM artifact a JOIN blob b ON b.digest = a.digest WHERE a.task_id = ? AND a.role = 'output'",
        (task,),
    )
    assert row is not None
    return json.loads(row[0])


def test_the_host_never_has_the_database_open(shop: Shop) -> None:
    shop.chain()
    task = shop.step("stay", file="go")
    worker = shop.worker()
    shop.running(task)
    (host,) = hosts_of(worker.pid)
    opened = [os.readlink(f"/proc/{host}/fd/{name}") for name in os.listdir(f"/proc/{host}/fd")]
    assert not [path for path in opened if "minipipe.db" in path or ".lock" in path]
    (shop.folder / "go").touch()
    shop.finished(task)
    assert worker.end() == 0
