"""The script that runs here, as something a worker can run again."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from minipipe import errors
from minipipe.sdk import capture, git_facts


def project_name() -> str:
    """What a project is called if nobody says: as the repository that holds the script, else as the script's folder."""
    folder = capture.import_root().absolute()
    return (git_facts.root_of(folder) or folder).name or "examples"


def capture_script(what: str) -> dict[str, Any]:
    """The entry of a script task: its text, file name, arguments, working directory and import root.

    Args:
        what: what is to be started, for the error.

    Raises:
        CannotTravel: there is no script (a notebook, ``python -c``, standard input).
    """
    module = sys.modules.get("__main__")
    path = getattr(module, "__file__", None)
    if not path or not Path(path).is_file():
        raise errors.CannotTravel(
            f"{what} cannot be started on a worker from here",
            "there is no script file that a worker could run again (a notebook, or python -c)",
            "PipelineDecorator.run_locally() runs it from here",
        )
    file = Path(path).absolute()
    return {
        "kind": "script",
        "file": str(file),
        "source": file.read_text(encoding="utf-8"),
        "argv": [str(file), *sys.argv[1:]],
        "cwd": os.getcwd(),
        "roots": [str(capture.import_root())],
        "imports": capture.own_imports(),
        "python": platform.python_version(),
        **git_facts.facts(file.parent),
        "first": capture.comes_first(),
    }
