"""Steps in environments of their own. The cases with the marker `index` install real packages."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from minipipe import requirements
from minipipe.engine import environments
from minipipe.store import environments as known
from minipipe.store import steering
from minipipe.store.tasks import Submitted
from tests.engine.real import Shop

OLD, NEW = ("six==1.15.0",), ("six==1.16.0",)
UV = os.access(Path(sys.executable).parent / "uv", os.X_OK) or shutil.which("uv")


def step(shop: Shop, function: str, lines: tuple[str, ...], **facts: Any) -> Submitted:
    wanted = requirements.here(lines)
    return shop.step(function, entry={"packages": list(wanted.lines)}, environment=wanted, **facts)


@pytest.fixture(params=["uv", "pip"])
def installer(request: pytest.FixtureRequest) -> str:
    """Each installer."""
    if request.param == "uv" and not UV:
        pytest.skip("uv is not installed here")
    return str(request.param)


def only(installer: str) -> dict[str, str]:
    """Environment of a worker that uses this installer."""
    return {"MINIPIPE_INSTALLER": installer}


@pytest.mark.index
def test_two_steps_use_versions_that_exclude_each_other(shop: Shop, installer: str) -> None:
    old, new = step(shop, "six_version", OLD), step(shop, "six_version", NEW)
    shop.drain(timeout=120, environment=only(installer))
    assert [shop.value(one).split()[0] for one in (old, new)] == ["1.15.0", "1.16.0"]
    assert shop.value(old).split()[1] != shop.value(new).split()[1]
    found = known.of_task(shop.store, old.id)
    assert found is not None
    assert found.resolved == ("six==1.15.0",)
    assert found.installer == installer
    # A second use finds it there, and a step in it does not see what this Python has besides.
    again, alone = step(shop, "six_version", OLD), step(shop, "is_importable", OLD, module="pytest")
    shop.drain(timeout=60, environment={"PATH": "/nowhere", **only(installer)})
    assert shop.value(again) == shop.value(old)
    assert shop.value(alone) is False


@pytest.mark.index
def test_two_workers_build_one_environment_once(shop: Shop) -> None:
    made = [step(shop, "six_version", OLD) for _ in range(4)]
    for worker in [shop.worker(slots=2), shop.worker(slots=2)]:
        assert worker.pid
    shop.finished(*made, timeout=120)
    assert {shop.value(one) for one in made} == {shop.value(made[0])}
    logs = b"".join(shop.log(one) for one in made)
    assert logs.count(b"minipipe: environment ready") == 1


@pytest.mark.index
def test_a_build_that_fails_fails_the_step_with_the_installers_words(shop: Shop, installer: str) -> None:
    bad, good = step(shop, "one", ("six==0.0.77",)), shop.step("one")
    shop.drain(timeout=120, environment=only(installer))
    row = shop.row(bad)
    assert row["status"] == "failed"
    assert "six==0.0.77" in row["reason"]
    assert row["reason"].startswith(f"environment: {installer}: ")
    assert b"six==0.0.77" in shop.log(bad)
    assert shop.status(good) == "completed"
    left = [path.name for path in (shop.store.path / "envs").iterdir() if path.suffix != ".lock" and path.name != "wheels"]
    assert left == []


@pytest.mark.index
def test_a_cached_step_is_one_with_the_same_packages_installed(shop: Shop) -> None:
    facts: dict[str, Any] = {"use_cache": True, "key_base": "k"}
    first = step(shop, "six_version", OLD, **facts)
    shop.drain(timeout=120)
    second, other = step(shop, "six_version", OLD, **facts), step(shop, "six_version", NEW, **facts)
    assert shop.row(second)["cached_from"] == first.id
    assert shop.status(other) == "queued"
    shop.drain(timeout=120)


@pytest.mark.index
def test_what_a_killed_worker_leaves_of_a_build_is_built_again(shop: Shop) -> None:
    made = step(shop, "six_version", OLD)
    worker = shop.worker()
    folder = known.folder(shop.store, requirements.here(OLD).digest)
    shop.wait(folder.exists, 30)
    worker.end(signal.SIGKILL)
    shop.drain(timeout=120)
    assert shop.value(made).startswith("1.15.0")
    assert shop.row(made)["crashes"] <= 1


def test_an_abort_ends_a_build(shop: Shop, tmp_path: Path) -> None:
    slow = tmp_path / "bin" / "uv"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\ntouch started\nexec sleep 1000\n")
    slow.chmod(0o755)
    made = step(shop, "one", OLD)
    worker = shop.worker({"PATH": f"{slow.parent}:{os.environ['PATH']}", **only("uv")})
    shop.wait((shop.folder / "started").exists, 30)
    steering.abort(shop.store, [made.id], "enough")
    assert shop.finished(made)["status"] == "stopped"
    assert worker.end() == 0


def test_packages_that_this_python_has_need_no_environment(shop: Shop) -> None:
    made = shop.step("is_importable", module="pytest", entry={"packages": ["pytest>=1", "filelock"]})
    shop.drain()
    assert shop.value(made) is True
    assert environments.satisfied((f"pytest=={pytest.__version__}",)) == (f"pytest=={pytest.__version__}",)
    assert environments.satisfied(("pytest<1",)) is None
    assert environments.satisfied(("no-such-thing-here",)) is None
    assert environments.satisfied(("pytest @ https://example.com/x.whl",)) is None
    assert environments.satisfied(("pytest; python_version < '3'",)) == ()
    assert environments.satisfied(("not a requirement!",)) is None


@pytest.mark.index
def test_without_network_what_was_installed_once_is_built_again_with_the_same_versions(shop: Shop, installer: str) -> None:
    first = step(shop, "six_version", ("six<1.17",))
    shop.drain(timeout=120, environment=only(installer))
    version = shop.value(first).split()[0]
    shutil.rmtree(known.folder(shop.store, requirements.here(("six<1.17",)).digest))
    again = step(shop, "six_version", ("six<1.17",))
    offline = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all", "HTTP", "HTTPS", "ALL")}
    offline |= {"PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0", "no_proxy": "", "NO_PROXY": "", **only(installer)}
    shop.drain(timeout=120, environment=offline)
    assert shop.value(again).split()[0] == version
    missing = step(shop, "one", ("six==1.10.0", "definitely-not-there==1"))
    shop.drain(timeout=120, environment=offline)
    assert shop.status(missing) == "failed"
