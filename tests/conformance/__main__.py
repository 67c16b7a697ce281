"""``python -m tests.conformance --clearml PATH``: run ClearML's example scripts, unmodified, and print what came of them."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.conformance import scenes, scripts

VARIABLE = "CLEARML_CHECKOUT"


def examples_of(checkout: str | None) -> Path:
    """The folder of examples of a checkout of ClearML's repository.

    Raises:
        SystemExit: there is none.
    """
    given = checkout or os.environ.get(VARIABLE)
    if not given:
        sys.exit(f"name a checkout of ClearML's repository: --clearml PATH, or {VARIABLE}=PATH")
    for folder in (Path(given), Path(given) / "examples"):
        if (folder / "pipeline" / "pipeline_from_decorator.py").exists():
            return folder.absolute()
    sys.exit(f"{given} holds no examples of ClearML")


def main() -> int:
    """Run what was asked for; the exit code is 1 if a script did something else than expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--clearml", metavar="PATH", help=f"a checkout of ClearML's repository; default ${VARIABLE}")
    parser.add_argument("--venv", metavar="DIR", type=Path, help="virtual environment to use or make; default one in the cache")
    parser.add_argument("--only", metavar="TEXT", default="", help="only scripts whose path has this in it")
    parser.add_argument("--keep", action="store_true", help="keep the folders of the scripts")
    given = parser.parse_args()
    examples, python = examples_of(given.clearml), scenes.python(given.venv)
    base = Path(tempfile.mkdtemp(prefix="minipipe-conformance-"))
    files = scenes.make_files(python, base / "files")
    rows = []
    chosen = [one for one in scripts.CASES if given.only in one.script]
    for number, one in enumerate(chosen):
        folder = base / f"{number:02}"
        folder.mkdir()
        good, got, seconds = scripts.perform(one, scenes.Scene(folder, python, examples, files))
        rows.append((one.script, one.expected, "✔" if good else "✘ " + got.replace("\n", " ")[:300], f"{seconds:.1f}"))
        print(" | ".join(rows[-1]), flush=True)
    passed = sum(row[2] == "✔" for row in rows)
    for script, framework in scripts.HEAVY.items():
        if given.only in script:
            print(f"{script} | not run | needs {framework} | -")
    print(f"{passed} of {len(rows)} as expected")
    if given.keep:
        print(f"kept: {base}")
    else:
        shutil.rmtree(base, ignore_errors=True)
    return 0 if passed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
