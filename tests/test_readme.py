"""The README is true: its commands print what it shows."""

from __future__ import annotations

import difflib
import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from minipipe import errors, settings
from minipipe.cli import VERBS, root
from tests import readme

TEXT = (readme.ROOT / "README.md").read_text(encoding="utf-8")


def table(head: str) -> list[list[str]]:
    """Cells of the rows of the table whose header begins so."""
    rows = TEXT[TEXT.index(f"| {head} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def command(name: str) -> click.Command:
    found = root.get_command(click.Context(root), name)
    assert found is not None
    return found


def options(of: click.Command) -> set[str]:
    """All options of a verb, those of the verbs below it included."""
    below = list(of.commands.values()) if isinstance(of, click.Group) else []
    return {name for one in (of, *below) for parameter in one.params for name in parameter.opts}


def verbs_in(cell: str) -> list[str]:
    """The verbs that a first cell names: `minipipe run [SCRIPT]`, `get NAME`."""
    return [words.removeprefix("minipipe ").split()[0] for words in re.findall(r"`([^`]+)`", cell)]


def test_every_verb_is_in_the_command_table_and_every_one_there_exists() -> None:
    first_cells = [row[0] for row in table("command")]
    named = {verb for cell in first_cells for verb in verbs_in(cell)}
    assert named == set(VERBS) - {"ps"}
    assert len(first_cells) == len(set(first_cells)), "a row stands there twice"


def test_options_in_the_command_table_exist() -> None:
    unknown = []
    for row in table("command"):
        known = {option for verb in verbs_in(row[0]) for option in options(command(verb))}
        unknown += [f"{row[0]}: {option}" for option in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", row[1]) if option not in known]
    assert unknown == []


def test_every_setting_is_in_the_settings_table_with_its_default() -> None:
    listed = [(name, row) for row in table("key") for name in re.findall(r"`([a-z_]+)`", row[0])]
    named = dict(listed)
    assert len(listed) == len(named), "a setting stands there twice"
    assert set(named) == {field.name for field in fields(settings.Settings)}
    for field in fields(settings.Settings):
        names, defaults = re.findall(r"`([a-z_]+)`", named[field.name][0]), named[field.name][1].replace("`", "").split(", ")
        default = defaults[names.index(field.name) if len(defaults) == len(names) else 0]
        in_words = {"jobs": "CPUs", "url_map": "empty", "keep_runs": "unset", "older_than": "unset"}
        shown = in_words.get(field.name, str(field.default).lower())
        assert default in (shown, shown.removesuffix(".0")), field.name


def test_every_exit_code_is_in_the_table() -> None:
    ours = {
        value.exit_code for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.MinipipeError)
    }
    assert {int(row[0]) for row in table("exit code")} == ours | {0, 130}


@pytest.mark.parametrize("name", VERBS)
def test_the_summary_of_a_verb_is_the_first_line_of_its_help(name: str) -> None:
    found = command(name)
    assert found.help is not None
    if name != "ps":
        assert found.help.splitlines()[0] == VERBS[name].summary


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
