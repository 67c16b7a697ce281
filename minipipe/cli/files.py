"""Writing a file that somebody asked for: never half of one, never over another without being told to."""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
from collections.abc import Callable
from pathlib import Path

from minipipe import errors
from minipipe.store.database import mapped


def save(path: Path, data: bytes | memoryview, force: bool, ours: Callable[[bytes], bool] | None = None) -> Path:
    """Write a file.

    Args:
        path: where to.
        data: its content.
        force: replace what is there. The new file then takes the name in one step: a link there is not followed, a reader never sees
            half a file.
        ours: told the first 200 bytes of a file that is there: True if it may be replaced without `force`.

    Raises:
        UsageError: the file exists.
        NotFound: no such folder.
    """
    if not force and ours is not None and path.is_file():
        with open(path, "rb") as file:
            force = ours(file.read(200))
    draft = path.with_name(f".{secrets.token_hex(8)}.part") if force else path
    try:
        with mapped(path):
            try:
                with open(draft, "xb") as file:
                    file.write(data)
                if force:
                    os.replace(draft, path)
            except FileExistsError:
                raise errors.UsageError(f"{path} exists", "it was not overwritten", "add --force, or -o FILE") from None
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise errors.NotFound(f"cannot write {path}", error.strerror or "", "is there such a folder?") from None
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
    finally:
        if force:
            draft.unlink(missing_ok=True)
    return path


def name_of(run: sqlite3.Row, ending: str) -> str:
    """``minipipe-calm-otter-7f3a91c2.html``."""
    called = run["run_name"] or re.sub(r"[^\w.]+", "-", run["name"])[:40].strip("-.")  # a script's own task has no name of ours
    return f"minipipe-{called or 'task'}-{run['uid'][:8]}.{ending}"
