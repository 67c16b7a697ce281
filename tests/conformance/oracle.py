"""The real ClearML in an environment of its own, which lives on between runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

VERSION = "2.1.12"
HERE = Path(__file__).parent


@cache
def python() -> Path:
    """The interpreter that imports the real package; made when there is none yet, skips with the reason where that fails.

    The environment is the one that ``CLEARML_VENV`` names, else a folder in the user's cache.
    """
    given = os.environ.get("CLEARML_VENV")
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(given) if given else cache_home / "minipipe-tests" / f"clearml-{VERSION}"
    executable = folder / "bin" / "python"
    if given:
        if not executable.exists():
            pytest.skip(f"CLEARML_VENV names {given}, which is no environment")
        return executable
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "ready").exists():
            _make(folder)
    return executable


def _make(folder: Path) -> None:
    for command in (
        (sys.executable, "-m", "venv", "--clear", str(folder)),
        (str(folder / "bin" / "pip"), "install", "-q", f"clearml=={VERSION}", "pandas", "pillow", "numpy"),
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"the real clearml {VERSION} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    (folder / "ready").touch()


def ask(script: str, question: object, folder: Path) -> Any:
    """Run one of this folder's scripts under the real package, offline and with a home of its own.

    Args:
        script: file name; it reads one JSON document and prints ``READ:`` and another one.
        question: what it reads.
        folder: where it works, and where what it leaves behind goes.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MINIPIPE", "CLEARML", "PYTHON"))}
    environment |= {"HOME": str(folder), "CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": str(folder), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        (str(python()), str(HERE / script)),
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env=environment,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("READ:")]
    if done.returncode or not answers:
        pytest.fail(f"{script} ended with code {done.returncode}: {done.stderr[-3000:]}")
    return json.loads(answers[-1].removeprefix("READ:"))
