"""minipipe's names, parameters, order, kinds and defaults are ClearML's, but for what ``contract.toml`` excuses with a reason.

What ClearML's are stands in ``signatures.json``; `test_signatures` (marker ``conformance``) compares that file with the real package.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import minipipe
from minipipe import errors
from tests.conformance import read_real, surface, table


def complaints(found: list[tuple[str, str]]) -> list[str]:
    return [f"{name}: {what}" for name, what in found if not surface.is_excused(name)]


@pytest.mark.parametrize("group", surface.groups(), ids=lambda group: group.title)
def test_every_name_of_a_class_has_clearmls_signature(group: surface.Group) -> None:
    assert complaints(list(surface.wrong_members(group))) == []


def test_functions_outside_classes_have_clearmls_signatures() -> None:
    assert complaints(list(surface.wrong_functions())) == []


@pytest.mark.parametrize("module", surface.contract()["modules"])
def test_every_module_has_the_names_that_scripts_import(module: str) -> None:
    assert complaints(list(surface.missing_names(module))) == []


def refusal(path: str, name: str) -> str:
    """What is wrong with how a refused name refuses; "" if nothing is."""
    owner, kind = surface.ours(path), surface.real()["classes"][path][name]["kind"]
    try:
        thing = getattr(object.__new__(owner), name)  # a property is used by being read
        if kind in ("property", "value"):
            return "can be read"
        needed = [one for one in inspect.signature(thing).parameters.values() if one.default is one.empty]
        thing(*[None] * len(needed))
    except errors.NotSupported as error:
        return "" if error.hint else "names nothing to use instead"
    except (AttributeError, TypeError) as error:
        return repr(error)
    return "can be called"


def test_a_refused_name_says_so_when_it_is_used_and_names_what_to_use_instead() -> None:
    found = []
    for group in surface.groups():
        for path in group.names:
            short = path.rpartition(".")[2]
            for name in group.refused.keys() & surface.real()["classes"][path].keys():
                if not surface.is_excused(f"{short}.{name}") and (wrong := refusal(path, name)):
                    found.append((f"{short}.{name}", wrong))
    assert found == []


def test_what_only_minipipe_has_is_listed_with_a_reason() -> None:
    assert surface.unknown_names() == []


@pytest.mark.parametrize("name", ["component", "pipeline"])
def test_the_short_names_are_the_decorators_methods(name: str) -> None:
    mine = read_real.parameters(getattr(minipipe, name))

    theirs = surface.real()["classes"]["clearml.PipelineDecorator"][name]["parameters"]
    assert surface.wrong_parameters(mine, theirs, name) == ""


def test_every_name_of_the_contract_is_a_name_of_clearmls() -> None:
    for group in surface.groups():
        theirs = {name for path in group.names for name in surface.real()["classes"][path]}
        instance_attributes = {"task", "task_parameter_override"} if group.title == "Jobs" else set()
        assert {*group.real, *group.recorded, *group.refused} - theirs - instance_attributes == set(), group.title


def test_a_wrong_signature_is_found() -> None:
    theirs = [["a", "POSITIONAL_OR_KEYWORD", None], ["b", "POSITIONAL_OR_KEYWORD", ["1"]]]
    own = ["mine", "KEYWORD_ONLY", ["None"]]
    wrong = surface.wrong_parameters

    assert wrong([*theirs, own], theirs, "f") == ""
    assert "b=1" not in wrong(theirs, theirs, "f")
    assert wrong([theirs[1], theirs[0]], theirs, "f") == "b='1' (positional or keyword), ClearML's is a (positional or keyword)"
    assert wrong([theirs[0], ["b", "POSITIONAL_OR_KEYWORD", ["2"]]], theirs, "f").startswith("b='2'")
    assert wrong([theirs[0]], theirs, "f") == "1 of ClearML's 2 parameters: no b"
    assert wrong([*theirs, ["mine", "POSITIONAL_OR_KEYWORD", None]], theirs, "f") == "minipipe's own mine: not keyword-only"
    assert wrong([own, *theirs], theirs, "f") == "minipipe's own mine: not last"


def test_every_excuse_is_about_a_name_that_exists_and_gives_a_reason() -> None:
    names = {"__version__"}
    for path, members in surface.real()["classes"].items():
        owner = path.rpartition(".")[2]
        names |= {owner, *(f"{owner}.{name}" for name in members)}
    for module, known in surface.real()["modules"].items():
        names |= {*known, module.rpartition(".")[2]}

    assert {name.partition("(")[0] for name in surface.differences()} - names == set()
    assert all(len(reason.split()) >= 3 for reason in surface.differences().values())


def test_the_table_in_the_readme_is_the_one_that_the_contract_gives() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

    assert table.replaced(text) == text, "run: python -m tests.conformance.table"
