"""What packages a step asks for (ClearML's ``packages``): a list, or the path of a requirements file, as a set with a digest."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minipipe import hashing
from minipipe.errors import UsageError

_DEEPEST = 10  # requirements files that name further ones


@dataclass(frozen=True, slots=True)
class Requirements:
    """A set of packages for one version of Python.

    Attributes:
        lines: requirements as pip reads them, sorted, without comments; options of the installer keep their place at the front.
        python: version of the interpreter, ``3.11``.
    """

    lines: tuple[str, ...]
    python: str

    @property
    def digest(self) -> str:
        """Names the environment that holds exactly this set."""
        return hashing.combine("environment", self.python, *self.lines)


def here(lines: Sequence[str]) -> Requirements:
    """The set for the Python that runs here."""
    options = [line for line in lines if line.startswith("-")]
    packages = sorted({line for line in lines if not line.startswith("-")})
    return Requirements((*dict.fromkeys(options), *packages), f"{sys.version_info[0]}.{sys.version_info[1]}")


def name_of(line: str) -> str:
    """The package that a requirement names, as the index writes it (PEP 503); "" for options of the installer."""
    if line.startswith("-"):
        return ""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", line.strip(), maxsplit=1)[0]).lower()


def read(packages: bool | str | Sequence[str] | None, owner: str) -> Requirements | None:
    """The set that ``packages`` asks for; None for None, booleans and nothing at all: the worker's Python then.

    Args:
        packages: requirements (``"numpy>=2"``), or the path of a requirements file.
        owner: whose they are, for errors.

    Raises:
        UsageError: a file that cannot be read, or something that is no requirement at all; names owner and entry.
    """
    if packages is None or isinstance(packages, bool):
        return None
    if isinstance(packages, (str, Path)):
        lines = _file(Path(packages), owner, 0)
    else:
        lines = [_line(item, owner) for item in packages]
    lines = [line for line in lines if line]
    return here(lines) if lines else None


def _line(item: object, owner: str) -> str:
    if not isinstance(item, str) or "\n" in item or "\0" in item:
        raise UsageError(f"{owner}: packages holds {item!r}", "each entry is a requirement", 'packages=["numpy>=2"]')
    return item.partition(" #")[0].strip() if not item.lstrip().startswith("#") else ""


def _file(path: Path, owner: str, depth: int) -> list[str]:
    if depth > _DEEPEST:
        raise UsageError(f"{owner}: requirements files name each other without end", f"the last one was {path}")
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{owner}: the requirements file {str(path)!r} cannot be read",
            f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}",
            'give its path from the folder where the script starts, or a list: packages=["numpy>=2"]',
        ) from error
    found: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = _line(line, owner)
        flag, _, rest = words.partition(" ")
        if flag in ("-r", "--requirement"):
            found += _file(path.parent / rest.strip(), owner, depth + 1)
        else:
            found.append(words)
    return found
