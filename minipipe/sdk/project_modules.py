"""The modules of the project that a script imports, found without running it: what they are decides the cache, and is watched."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minipipe import hashing


def watched(entry: dict[str, Any]) -> dict[str, Any]:
    """What a task runs, with the digests of the modules that its script imports as they are now: whoever executes it says which of
    them have changed since."""
    if entry.get("kind") != "script":
        return entry
    folders = list(dict.fromkeys([entry["cwd"], *entry["roots"]]))
    return {**entry, "files": _digests(entry["source"], folders)}


def modules(source: str, folders: Sequence[str]) -> dict[str, str]:
    """The modules of the project that a script imports, also by way of others: file -> digest of its text."""
    found = _digests(source, folders)
    names = {file: next(folder for folder in folders if file.startswith(folder)) for file in found}
    return {file.removeprefix(names[file]): digest for file, digest in found.items()}


def _digests(source: str, folders: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    work = [(source, "")]
    while work:
        text, package = work.pop()
        for name in _imports(text, package):
            for file in _files(name, folders):
                if str(file) not in found:
                    data = file.read_bytes()
                    found[str(file)] = hashing.digest_bytes(data)
                    work.append(
                        (data.decode("utf-8", "replace"), name if file.name == "__init__.py" else name.rpartition(".")[0])
                    )
    return found


def _imports(text: str, package: str) -> list[str]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(part for part in (*above, node.module or "") if part)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in names if name]


def _files(name: str, folders: Sequence[str]) -> list[Path]:
    """The files that importing a dotted name runs, as far as they lie in the project."""
    parts = name.split(".")
    for folder in folders:
        found = []
        for count in range(1, len(parts) + 1):
            place = Path(folder, *parts[:count])
            found += [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
        if found:
            return found
    return []
