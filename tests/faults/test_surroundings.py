"""Secrets, the network, odd environments: what must not get in, what must not get out, and what must not matter."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from minipipe.store.home import Store
from tests.engine.real import ROOT
from tests.faults.forked import Forked
from tests.faults.killing import armed
from tests.faults.machine import command
from tests.faults.sane import sane
from tests.store import making

pytestmark = pytest.mark.faults

SECRET = "sesame-7c1f0e"
FLOW = """
from minipipe import Logger, PipelineDecorator, Task

@PipelineDecorator.component(return_values=["n"])
def one(n=1):
    import os
    assert os.environ["AWS_SECRET_ACCESS_KEY"]
    Logger.current_logger().report_scalar("a", "b", 1.0, 1)
    return n + 1

@PipelineDecorator.component(return_values=["n"])
def broken(n):
    raise ValueError("no")

@PipelineDecorator.pipeline(name="secrets", project="examples", version="1")
def flow():
    broken(one(1))

if __name__ == "__main__":
    PipelineDecorator.run_locally()
    flow()
"""


def test_secrets_of_the_environment_are_written_nowhere(tmp_path: Path, forked: Forked) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    names = ("AWS_SECRET_ACCESS_KEY", "CLEARML_API_SECRET_KEY", "MY_TOKEN", "DATABASE_URL", "GITHUB_TOKEN", "MINIPIPE_SOMETHING")
    secrets = dict.fromkeys(names, SECRET)
    store = tmp_path / "store"
    done = command(store, "run", str(tmp_path / "flow.py"), "--", **secrets)
    assert done.returncode == 1, done.stderr.decode()
    printed = done.stdout + done.stderr
    for verb in (
        ("status", "--all", "--json"),
        ("show", "@last", "--env"),
        ("show", "@last/one", "--env"),
        ("logs", "@last"),
        ("report", "@last", "-o", str(tmp_path / "page.html")),
        ("export", "@last", "-o", str(tmp_path / "run.zip")),
        ("doctor", "--bundle", str(tmp_path / "bug.zip")),
        ("doctor", "--settings"),
    ):
        found = forked(store, *verb, **secrets)
        assert found.returncode == 0, (verb, found.stderr.decode())
        printed += found.stdout + found.stderr
    assert SECRET.encode() not in printed
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
    for name in ("run.zip", "bug.zip"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert all(SECRET.encode() not in archive.read(one) for one in archive.namelist())


NO_NETWORK = """
import os, socket
_connect = socket.socket.connect
def connect(self, address):
    if self.family != socket.AF_UNIX:
        with open(os.environ["CALLED"], "a") as file:
            file.write(repr(address) + "\\n")
        raise OSError("no network here")
    return _connect(self, address)
socket.socket.connect = socket.socket.connect_ex = connect
def getaddrinfo(*args, **more):
    with open(os.environ["CALLED"], "a") as file:
        file.write(repr(args) + "\\n")
    raise OSError("no network here")
socket.getaddrinfo = getaddrinfo
"""
CLEARML = """
[api]
web_server: https://app.example.com
api_server: https://api.example.com
credentials {"access_key": "AAAA", "secret_key": "BBBB"}
"""


def test_nothing_outside_is_contacted_even_with_settings_of_a_real_server(tmp_path: Path) -> None:
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "sitecustomize.py").write_text(NO_NETWORK)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "clearml.conf").write_text(CLEARML)
    (tmp_path / "flow.py").write_text(
        FLOW.replace("from minipipe import", "from clearml import").replace("broken(one(1))", "print(one(1))")
    )
    environment = {
        "PYTHONPATH": str(tmp_path / "shim"),
        "CALLED": str(tmp_path / "called"),
        "HOME": str(tmp_path / "home"),
        "CLEARML_CONFIG_FILE": str(tmp_path / "home" / "clearml.conf"),
        "CLEARML_API_HOST": "https://api.example.com",
        "CLEARML_API_ACCESS_KEY": "AAAA",
        "CLEARML_API_SECRET_KEY": "BBBB",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    store = tmp_path / "store"
    for verb in (
        ("run", str(tmp_path / "flow.py")),
        ("run",),
        ("status",),
        ("report", "@last", "-o", str(tmp_path / "page.html")),
        ("doctor",),
    ):
        done = command(store, *verb, **environment)
        assert done.returncode == 0, (verb, done.stderr.decode())
    assert not (tmp_path / "called").exists()


ODD: dict[str, dict[str, str]] = {
    "hash seed": {"PYTHONHASHSEED": "4711"},
    "optimised": {"PYTHONOPTIMIZE": "1"},
    "C locale": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "far time zone": {"TZ": "Pacific/Kiritimati"},
    "no home": {"HOME": "/nonexistent"},
    "no terminal": {"TERM": "dumb", "COLUMNS": "20"},
    "warnings": {"PYTHONWARNINGS": "default", "PYTHONDEVMODE": "0"},
}


@pytest.mark.parametrize("what", ODD)
def test_the_example_runs_in_odd_surroundings(tmp_path: Path, what: str) -> None:
    store = tmp_path / "store"
    done = command(store, "run", **ODD[what])
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    shown = command(store, "show", "@last", "--json", **ODD[what])
    assert shown.returncode == 0 and b"completed" in shown.stdout
    assert sane(store) == []


def test_with_closed_streams_it_still_runs(tmp_path: Path) -> None:
    store = tmp_path / "store"
    text = f"exec {sys.executable} -m minipipe --home {store} run <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", text], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 0
    assert b"completed" in command(store, "status").stdout
    assert sane(store) == []


# -- versions, and verbs that are killed --------------------------------------------------------------------------------


def _frozen(folder: Path) -> Path:
    with zipfile.ZipFile(ROOT / "tests" / "store" / "frozen" / "schema1.zip") as archive:
        archive.extractall(folder)
    (found,) = folder.rglob("minipipe.db")
    for path in found.parent.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o444 if "blobs" in path.parts else 0o600)
    found.parent.chmod(0o700)
    return found.parent


def test_a_migration_killed_at_any_statement_leaves_the_old_store_or_the_new_one(tmp_path: Path, forked: Forked) -> None:
    survived = 0
    for n in itertools.count(1):
        store = _frozen(tmp_path / str(n))
        mark = tmp_path / f"{n}.dead"
        forked(store, "status", **armed("cli", "sql", n, mark=mark))
        done = forked(store, "status", "--all")
        assert done.returncode == 0, (n, done.stderr.decode())
        assert sane(store, only=["I1", "I2", "I4", "I7"]) == [], n
        shutil.rmtree(tmp_path / str(n))
        if not mark.exists():
            break
        survived += 1
    assert survived > 15


@pytest.fixture
def bundle_file(tmp_path: Path, copy_store: Callable[[Path], Store], forked: Forked) -> tuple[Path, Path]:
    """(a closed store with a run, a file that it was exported to)."""
    store = copy_store(tmp_path / "from")
    worker = making.agent(store)
    run = making.run(store)
    step = making.step(store, parent_id=run.id)
    making.work(store, worker, value=b"x" * 20_000)
    with store.database.write() as connection:
        connection.execute("UPDATE task SET status = 'stopped', ended_at = 1 WHERE id = ?", (run.id,))
    del step
    worker.lock.release()
    store.close()
    assert forked(store.path, "export", "@last", "-o", str(tmp_path / "run.zip")).returncode == 0
    return store.path, tmp_path / "run.zip"


@pytest.mark.parametrize(("kind", "when"), [("sql", "before"), ("os", "before"), ("os", "after"), ("os", "ENOSPC")])
def test_an_import_killed_anywhere_stores_all_or_nothing_and_again_ends_well(
    tmp_path: Path, copy_store: Callable[[Path], Store], forked: Forked, bundle_file: tuple[Path, Path], kind: str, when: str
) -> None:
    file = bundle_file[1]
    points = 0
    for n in itertools.count(1):
        store = copy_store(tmp_path / f"to{n}")
        store.close()
        mark = tmp_path / f"{n}.dead"
        hurt = forked(store.path, "import", str(file), **armed("cli", kind, n, when, mark=mark))
        assert sane(store.path) == [], n
        seen = forked(store.path, "status", "-q").stdout.split()
        assert len(seen) == (1 if hurt.returncode == 0 or (seen and hurt.returncode == -9) else 0), n
        again = forked(store.path, "import", str(file))
        assert again.returncode == 0, (n, again.stderr.decode())
        assert len(forked(store.path, "status", "-q").stdout.split()) == 1
        assert forked(store.path, "gc").returncode == 0
        assert sane(store.path, after_gc=True) == [], n
        if not mark.exists():
            break
        points += 1
    assert points >= 3


@pytest.mark.parametrize(("kind", "when"), [("os", "before"), ("os", "after"), ("sql", "before")])
def test_an_export_killed_anywhere_leaves_no_file_under_the_name(
    tmp_path: Path, forked: Forked, bundle_file: tuple[Path, Path], kind: str, when: str
) -> None:
    store, whole = bundle_file
    target = tmp_path / "other.zip"
    for n in itertools.count(1):
        mark = tmp_path / f"{n}.dead"
        hurt = forked(store, "export", "@last", "-o", str(target), **armed("cli", kind, n, when, mark=mark))
        if hurt.returncode == -9:
            assert not target.exists() or target.read_bytes() == whole.read_bytes()
        assert sane(store) == []
        target.unlink(missing_ok=True)
        if not mark.exists():
            break
    assert n > 1
