"""Scripts that import clearml: in this process under the alias, or by `minipipe run` in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minipipe import clearml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def alias() -> Iterator[None]:
    """``import clearml`` means minipipe in this process."""
    clearml.install()
    yield
    clearml.uninstall()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; processes that are started in it find this minipipe."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MINIPIPE_DURABILITY", "fast")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`minipipe`, as a process of its own; with `check` its exit code must be that."""

    def call(*args: str, check: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            (sys.executable, "-m", "minipipe", *args),
            capture_output=True,
            text=True,
            timeout=90,
            env={**os.environ, **environment},
            check=False,
        )
        assert check is None or done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return call
