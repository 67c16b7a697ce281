"""The command in forks of one warm process: dying at each of its points costs a fork each, not the start of an interpreter.

``python forked.py`` reads lines of JSON (arguments, folder, environment, a file for each stream), forks for each, and answers with
how the child ended. The child arms itself as any process under test does: it loads `shim/sitecustomize.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tests.faults.killing import SHIM
from tests.faults.machine import surroundings


@dataclass
class Forked:
    """Takes commands as `tests.faults.machine.command` does."""

    server: subprocess.Popen[bytes]
    folder: Path

    def __call__(self, store: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        out, err = self.folder / "out", self.folder / "err"
        task = {
            "arguments": ["--home", str(store), *arguments],
            "cwd": str(store.parent),
            "environment": surroundings(**environment),
            "streams": [os.devnull, str(out), str(err)],
        }
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(task).encode() + b"\n")
        self.server.stdin.flush()
        status = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(arguments, os.waitstatus_to_exitcode(status), out.read_bytes(), err.read_bytes())


@contextlib.contextmanager
def served() -> Iterator[Forked]:
    """A warm process, while this is open."""
    with tempfile.TemporaryDirectory() as folder:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env=surroundings(),
        )
        with server:
            yield Forked(server, Path(folder))
            assert server.stdin is not None
            server.stdin.close()


# -- the server ---------------------------------------------------------------------------------------------------------


def main() -> None:
    """Serve until the input ends."""
    cli = importlib.import_module("minipipe.cli")
    for verb in cli.VERBS.values():
        importlib.import_module(verb.place.partition(":")[0])
    kept = importlib.import_module("minipipe.store.migrating").sqlite_utils()
    kept.__enter__()  # and never left: else it would be imported anew by each migration
    gc.freeze()
    with os.fdopen(os.dup(0), "rb") as tasks, os.fdopen(os.dup(1), "wb", 0) as answers:
        for line in tasks:
            pid = os.fork()
            if pid == 0:
                _become(json.loads(line))
                _leave(cli.main)
            answers.write(b"%d\n" % os.waitpid(pid, 0)[1])


def _leave(command: Callable[[], None]) -> NoReturn:
    """Run it and end as Python does, without the time that it takes to give back memory."""
    code: object = 1
    try:
        command()
    except SystemExit as leaving:
        code = leaving.code
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


def _become(task: dict[str, Any]) -> None:
    for number, (path, flags) in enumerate(
        zip(task["streams"], (os.O_RDONLY, *[os.O_CREAT | os.O_TRUNC | os.O_WRONLY] * 2), strict=True)
    ):
        os.dup2(os.open(path, flags, 0o600), number)
    os.closerange(3, 256)  # the lines to whoever asks, too
    os.chdir(task["cwd"])
    os.environ.clear()
    os.environ.update(task["environment"])
    sys.argv = ["minipipe", *task["arguments"]]
    if "MINIPIPE_TEST_KILL" in os.environ:
        spec = importlib.util.spec_from_file_location("armed", Path(SHIM) / "sitecustomize.py")
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if __name__ == "__main__":
    main()
