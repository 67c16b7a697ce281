"""Fixtures for tests of pipelines; see the README's "Test your pipelines".

pytest loads this file at every start, in every project: it imports nothing of minipipe until a test asks for a fixture.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from minipipe.store.home import Store
    from minipipe.testing.run import Run
    from minipipe.testing.running import Runner


def _leave_minipipe_alone() -> None:
    """pytest rewrites the assertions of every module of a package that has a plugin, at each import, and keeps the result only where
    byte code may be written. minipipe has some hundred and fifty modules and no assertions that a test would want explained."""
    for finder in sys.meta_path:
        marked = getattr(finder, "_must_rewrite", None)
        if isinstance(marked, set):
            marked.discard("minipipe")


_leave_minipipe_alone()

_RUNS = pytest.StashKey[list["Run"]]()
_TIMEOUT_S = 60.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's one setting."""
    parser.addini("minipipe_clearml", "`import clearml` is minipipe in every test", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """The plugin's marker."""
    config.addinivalue_line(
        "markers", "minipipe(jobs=N, timeout_s=60): steps at a time and seconds that one run_pipeline may take"
    )


@pytest.fixture(scope="session")
def minipipe_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed, empty store, made once per test process; `minipipe_store` copies it."""
    template: Path = import_module("minipipe.testing.stores").make_template(tmp_path_factory.mktemp("minipipe") / "template")
    return template


@pytest.fixture
def minipipe_store(
    minipipe_template: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A fresh store in the test's folder, which everything in this test uses; nothing may be left running in it."""
    stores = import_module("minipipe.testing.stores")
    for name in [name for name in os.environ if name.startswith("MINIPIPE_")]:
        if name != "MINIPIPE_URL_MAP":
            monkeypatch.delenv(name)
    store = stores.copy(minipipe_template, tmp_path / ".minipipe")
    monkeypatch.setenv("MINIPIPE_HOME", str(store.path))
    monkeypatch.setenv("MINIPIPE_DURABILITY", "fast")
    jobs = _marked(request).get("jobs")
    if jobs:
        monkeypatch.setenv("MINIPIPE_JOBS", str(jobs))
    yield store
    left = stores.leave(store)
    if left:
        pytest.fail("left running when the test ended, and killed: " + "; ".join(left))


@pytest.fixture
def run_pipeline(minipipe_store: Store, request: pytest.FixtureRequest) -> Runner:
    """`run_pipeline(target, **params)` runs a script, a decorated pipeline or a controller and gives a `Run`.

    It runs in this process; `run_pipeline.local` takes a real worker and a process for each step.
    """
    running = import_module("minipipe.testing.running")
    folders = (request.path.parent, request.config.rootpath, Path.cwd())
    seen = request.node.stash.setdefault(_RUNS, [])
    timeout_s = float(_marked(request).get("timeout_s", _TIMEOUT_S))
    runner: Runner = running.Runner(minipipe_store, folders, timeout_s, seen.append)
    return runner


class UrlMap(dict[str, "str | os.PathLike[str] | bytes"]):
    """URL or prefix -> file, folder or bytes. What is not in it cannot be read."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._write()

    def __setitem__(self, url: str, content: str | os.PathLike[str] | bytes) -> None:
        super().__setitem__(url, content)
        self._write()

    def __delitem__(self, url: str) -> None:
        super().__delitem__(url)
        self._write()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Add several."""
        for url, content in dict(*args, **kwargs).items():
            self[url] = content

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, str | None] = {"http://": None, "https://": None}
        for number, (url, content) in enumerate(self.items()):
            if isinstance(content, bytes):
                path = self._folder / str(number) / (url.rstrip("/").rpartition("/")[2] or "content")
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
                found[url] = str(path)
            else:
                found[url] = os.path.abspath(content)
        draft = self._folder / "map.json.new"
        draft.write_text(json.dumps(found))
        draft.replace(self._folder / "map.json")


@pytest.fixture
def url_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UrlMap:
    """What `StorageManager` reads instead of the network, here and in steps; any other URL is an error."""
    folder = tmp_path / ".minipipe-urls"
    monkeypatch.setenv("MINIPIPE_URL_MAP", str(folder / "map.json"))
    return UrlMap(folder)


@pytest.fixture
def clearml_alias() -> Iterator[Any]:
    """`import clearml` is minipipe during the test."""
    alias = import_module("minipipe.clearml")
    alias.install()
    yield import_module("clearml")
    alias.uninstall()


def pytest_itemcollected(item: pytest.Item) -> None:
    """``minipipe_clearml = true`` gives the alias to every test of a suite."""
    if item.config.getini("minipipe_clearml"):
        names: list[str] = getattr(item, "fixturenames", [])
        if "clearml_alias" not in names:
            names.insert(0, "clearml_alias")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A failing test that ran pipelines shows what became of them."""
    report = yield
    if report.when == "call" and report.failed:
        for run in item.stash.get(_RUNS, []):
            report.sections.append(("minipipe run", run.told()))
    return report


def _marked(request: pytest.FixtureRequest) -> dict[str, Any]:
    marker = request.node.get_closest_marker("minipipe")
    if marker is None:
        return {}
    unknown = marker.kwargs.keys() - {"jobs", "timeout_s"}
    if unknown or marker.args:
        raise pytest.UsageError(
            f"@pytest.mark.minipipe takes jobs=N and timeout_s=S, not {', '.join(map(str, (*marker.args, *unknown)))}"
        )
    return dict(marker.kwargs)
