"""What type checkers and editors see of decorated functions."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

USES = Path(__file__).with_name("uses.py")


def test_decorated_functions_keep_parameters_and_results_and_wrong_calls_are_errors(
    pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    kept = getattr(pytestconfig, "cache", None)  # there is none under ``-p no:cacheprovider``
    folder = kept.mkdir("mypy") if kept is not None else tmp_path
    command = (
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file",
        "",
        "--cache-dir",
        str(folder),
        "--no-pretty",
        str(USES),
    )

    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=120)

    wrong = {number for number, line in enumerate(USES.read_text().splitlines(), 1) if line.endswith("# wrong")}
    found = {int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line}
    assert found == wrong, done.stdout + done.stderr
    assert len(wrong) > 10


def test_the_package_says_that_it_is_typed() -> None:
    assert files("minipipe").joinpath("py.typed").is_file()
