"""Disks that fail, that cannot be written, and stores that belong to somebody else."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minipipe.store import attempts, edits, tasks, workers
from minipipe.store.home import Store
from tests.engine.real import Shop
from tests.faults import machine
from tests.faults.forked import Forked
from tests.faults.killing import armed
from tests.faults.machine import command, remount
from tests.faults.sane import sane
from tests.store import making

pytestmark = pytest.mark.faults

READ = (
    ("status", "--all"),
    ("show", "{run}"),
    ("logs", "{run}"),
    ("artifacts", "{run}"),
    ("graph", "{run}"),
    ("du",),
    ("queue",),
)
WRITE = (("abort", "{waiting}"), ("cache", "clear", "--all"), ("queue", "create", "new"), ("gc",), ("worker", "--until-idle"))


def _filled(store: Store) -> dict[str, str]:
    """Ids of an ended run and of a task that waits."""
    run = tasks.submit(store, tasks.NewTask("controller", "r", "p/.pipelines/r", {}, is_run=True))
    waiting = tasks.submit(store, tasks.NewTask("custom", "w", "p", {}, queue="nobody"))
    return {"run": run.uid, "waiting": waiting.uid}


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- read-only ----------------------------------------------------------------------------------------------------------


def test_on_a_read_only_disk_reading_works_or_says_why_and_writing_refuses(
    tmp_path: Path, copy_store: Callable[[Path], Store]
) -> None:
    with machine.tmpfs(tmp_path / "disk", "32m") as folder:
        store = copy_store(folder / "store")
        names = _filled(store)
        store.close()
        before = _tree(folder)
        remount(folder, "ro")
        for verb in READ:
            found = command(store.path, *[part.format(**names) for part in verb])
            assert found.returncode in (0, 4), (verb, found.stderr.decode())
            _one_error(found, read=True)
        for verb in WRITE:
            found = command(store.path, *[part.format(**names) for part in verb])
            assert found.returncode == 4, (verb, found.stdout, found.stderr.decode())
            _one_error(found, read=False)
        assert _tree(folder) == before
        remount(folder, "rw")
        assert command(store.path, "status").returncode == 0
        assert sane(store.path) == []


def _one_error(found: subprocess.CompletedProcess[bytes], read: bool) -> None:
    text = found.stderr.decode()
    assert "Traceback" not in text and "this is a bug" not in text
    if found.returncode:
        assert len(re.findall(r"^error: ", text, re.MULTILINE)) == 1
        assert re.search(r"cannot (write|open|use)|no space|read-only", text, re.IGNORECASE), text


# -- no permission ------------------------------------------------------------------------------------------------------

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody may look into; pytest's own are closed."""
    machine.need_root()
    machine.need("setpriv")
    if subprocess.run([*NOBODY, sys.executable, "-c", "import click"], cwd="/", capture_output=True, check=False).returncode:
        pytest.skip(f"another user may not run {sys.executable}")
    folder = Path(tempfile.mkdtemp(prefix="minipipe-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_another_user_is_refused_with_path_and_owner(public: Path, copy_store: Callable[[Path], Store]) -> None:
    store = copy_store(public / "store")
    names = _filled(store)
    store.close()
    before = _tree(store.path)
    for verb in (*READ, *WRITE):
        found = command(store.path, *[part.format(**names) for part in verb], before=NOBODY)
        assert found.returncode == 4, (verb, found.stdout, found.stderr.decode())
        assert str(store.path) in found.stderr.decode()
        assert "Traceback" not in found.stderr.decode()
    os.chmod(store.path, 0o755)  # one may look into the folder, and not open what is in it
    (store.path / "minipipe.db").chmod(0o644)
    refused = command(store.path, "status", before=NOBODY)
    assert refused.returncode == 4 and b"belongs to another user (uid 0)" in refused.stderr
    os.chmod(store.path, 0o700)
    (store.path / "minipipe.db").chmod(0o600)
    assert _tree(store.path) == before


def test_a_folder_that_cannot_be_written_makes_no_store(public: Path) -> None:
    (public / "closed").mkdir(mode=0o755)
    found = command(public / "closed" / "store", "worker", "--until-idle", before=NOBODY)
    assert found.returncode == 4
    assert f"cannot write {public}/closed/store" in found.stderr.decode() and "check owner and mode" in found.stderr.decode()
    assert list((public / "closed").iterdir()) == []


# -- a disk that fails --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["pwrite64", "fsync", "fdatasync"])
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("how", ["once", "always"])
def test_what_a_failing_disk_did_not_take_is_never_reported_as_done(
    tmp_path: Path, copy_store: Callable[[Path], Store], call: str, error: str, how: str
) -> None:
    """A new queue is acknowledged by exit 0 and by nothing else; what was acknowledged is there afterwards."""
    machine.need("strace")
    store = copy_store(tmp_path / "store")
    store.close()
    log = f"{store.path}/minipipe.db-wal"
    when = ":when=1" if how == "once" else ""
    where = ("-P", log, "-P", f"{store.path}/minipipe.db")
    trace = ("strace", "-f", "-qq", "-o", os.devnull, *where, "-e", f"inject={call}:error={error}{when}")
    found = command(store.path, "queue", "create", "gpu", before=trace, MINIPIPE_DURABILITY="full")
    text = found.stderr.decode()
    if "ptrace" in text or "PTRACE" in text:
        pytest.skip("the kernel refuses the trace")
    assert found.returncode in (0, 4), text
    assert "Traceback" not in text, text
    assert sane(store.path) == []
    names = [one["queue"] for one in json.loads(command(store.path, "queue", "--json").stdout)]
    if found.returncode == 0:
        assert "gpu" in names
    else:
        assert str(store.path) in text
    again = command(store.path, "queue", "create", "gpu2", MINIPIPE_DURABILITY="full")
    assert again.returncode == 0
    assert sane(store.path) == []


def test_a_worker_on_a_disk_whose_sync_fails_now_and_then_ends_each_task_once(shop: Shop) -> None:
    machine.need("strace")
    steps = [shop.step("add_one", name=f"s{number}", value=number) for number in range(12)]
    serving = shop.worker({"MINIPIPE_DURABILITY": "full"}, slots=1, until_idle=True)
    where = ("-P", f"{shop.store.path}/minipipe.db-wal")
    tracer = subprocess.Popen(
        ["strace", "-qq", "-o", os.devnull, *where, "-e", "inject=fdatasync:error=EIO:when=2+5", "-p", str(serving.pid)],
        stderr=subprocess.DEVNULL,
    )
    try:
        serving.process.wait(60)
    finally:
        tracer.terminate()
        tracer.wait()
    if serving.process.returncode != 0:
        shop.drain()
    assert all(shop.status(step) == "completed" for step in steps)
    shop.check()


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize(
    "verb",
    [
        ("gc", "--keep-runs", "0", "--yes"),
        ("export", "@last", "-o", "run.zip"),
        ("import", "made.zip"),
        ("doctor", "--backup", "copy"),
        ("report", "@last", "-o", "page.html"),
        ("logs", "@last"),
        ("queue", "create", "gpu"),
        ("status",),
    ],
    ids=lambda verb: verb[0],
)
def test_an_error_of_the_disk_at_any_call_of_a_command_has_words(
    tmp_path: Path, copy_store: Callable[[Path], Store], forked: Forked, verb: tuple[str, ...], error: str
) -> None:
    store = copy_store(tmp_path / "whole")
    worker, run = making.agent(store), making.run(store)
    attempts.start_here(store, run.id, worker.id)
    making.step(store, "s", parent_id=run.id)
    claim = making.claim(store, worker)
    making.finish(store, claim, value=b"x" * 20_000)
    log = store.log_path(claim.lease.uid, 1)
    log.parent.mkdir(mode=0o700, exist_ok=True)
    log.write_bytes(b"a line\n")
    log.chmod(0o600)
    edits.move(store, run.id, "completed")
    workers.leave(store, worker)
    store.close()
    assert forked(store.path, "export", "@last", "-o", "made.zip").returncode == 0
    for n in itertools.count(1):
        folder, mark = tmp_path / str(n), tmp_path / f"{n}.hurt"
        folder.mkdir()
        shutil.copytree(store.path, folder / "store")
        shutil.copy(tmp_path / "made.zip", folder)
        done = forked(folder / "store", *verb, **armed("cli", "os", n, error, mark=mark))
        said = done.stderr.decode()
        assert done.returncode in (0, 1, 4) and "Traceback" not in said, (n, said)
        assert not done.returncode or said.startswith("error: "), said
        assert sane(folder / "store") == [], n
        again = (
            forked(folder / "store", *verb[:1], "--force", *verb[1:]) if verb[0] == "export" else forked(folder / "store", *verb)
        )
        assert again.returncode == 0 or "exists" in again.stderr.decode(), (n, again.stderr.decode())
        shutil.rmtree(folder)
        if not mark.exists():
            break


def test_modes_are_private_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        done = command(tmp_path / "store", "run", timeout=120)
    finally:
        os.umask(old)
    assert done.returncode == 0, done.stderr.decode()
    assert sane(tmp_path / "store", only=["I8"]) == []
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    shutil.rmtree(tmp_path / "store")
