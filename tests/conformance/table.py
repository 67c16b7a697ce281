"""Writes README.md's compatibility table from ``contract.toml``: ``python -m tests.conformance.table``.

``--signatures`` renews ``signatures.json`` from the real package first.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.conformance import oracle, surface

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- compatibility: begin -->\n", "<!-- compatibility: end -->"


def rows() -> list[str]:
    """The table, a line per group of classes."""
    found = ["| | works as in ClearML | recorded, no effect | refused (use instead) |", "|---|---|---|---|"]
    for group in surface.groups():
        classes = ", ".join(f"`{path.rpartition('.')[2]}`" for path in group.names)
        works = _code(list(group.real)) or "the class: all operators"
        by_reason: dict[str, list[str]] = {}
        for name, instead in group.refused.items():
            by_reason.setdefault(instead, []).append(name)
        refused = [f"{_code(names)} ({instead})" for instead, names in by_reason.items()]
        if group.refused_others:
            refused.append(f"every other name ({group.refused_others})")
        recorded = _code(list(group.recorded))
        found.append(f"| {group.title}: {classes} | {works} | {recorded} | {'; '.join(refused)} |")
    return found


def _code(names: list[str]) -> str:
    return f"`{' '.join(names)}`" if names else ""


def differences() -> list[str]:
    """Where signatures differ, with the reason."""
    found = [f"- `{name}`: {reason}" for name, reason in surface.differences().items()]
    return ["\nSignatures that differ:\n", *found] if found else []


def replaced(text: str) -> str:
    """A README with the table as it has to be."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin and end, "README.md has no place for the table"
    return head + begin + "\n".join([*rows(), *differences()]) + "\n" + end + tail


def main() -> None:
    """Write what was asked for."""
    if "--signatures" in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            surface.SIGNATURES.write_text(surface.write(oracle.ask("read_real.py", surface.asked(), Path(folder))))
    README.write_text(replaced(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
