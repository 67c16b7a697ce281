"""What of a stored task's code decides whether an earlier copy of it may serve."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from minipipe import hashing
from minipipe.sdk.task_base import TaskBase
from minipipe.store import details, edits


def key_base(template: TaskBase) -> str:
    """What of a template's code goes into the cache key: its script and the project modules that it imports, or its function."""
    entry = edits.facts(template.store, template.row_id)
    if entry.get("kind") == "script":
        modules = _modules(entry["source"], [entry["cwd"], *entry["roots"]])
        return hashing.combine("script", entry["source"], *(part for pair in sorted(modules.items()) for part in pair))
    code, links = details.code_links(template.store, template.row_id)
    facts = [part for link in links for part in (link["role"], link["name"], link["digest"])]
    return hashing.combine("function", str(entry.get("module")), str(entry.get("qualname")), code, *facts)


def _modules(source: str, folders: Sequence[str]) -> dict[str, str]:
    """The modules of the project that a script imports, also by way of others: file -> digest of its text."""
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
    names = {file: next(folder for folder in folders if file.startswith(folder)) for file in found}
    return {file.removeprefix(names[file]): digest for file, digest in found.items()}


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
