"""The README is true: its commands print what it shows."""

from __future__ import annotations

import difflib
from pathlib import Path

from tests import readme


def test_every_command_of_the_readme_prints_what_the_readme_shows(tmp_path: Path) -> None:
    differences, ran = [], 0
    for language, text in readme.blocks():
        if language == "python" and text.startswith("# ") and text.split()[1].endswith(".py"):
            (tmp_path / text.split()[1]).write_text(text)
        if language != "console":
            continue
        for command in readme.commands(text):
            ran += 1
            # Sorted: what the script prints and what is said of its steps come from two places, in any order.
            shown = sorted(readme.normal(command.shown))
            real = sorted(readme.normal(readme.run(command.text, tmp_path, readme.environment(tmp_path)).splitlines()))
            if shown != real:
                differences += [f"$ {command.text}", *difflib.unified_diff(shown, real, "README", "real", lineterm="")]
    assert not differences, "\n".join(differences)
    assert ran >= 6
