"""Every error survives pickling, knows its exit code and says what, why and what to do."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from minipipe import errors
from minipipe.errors import MinipipeError

KINDS = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", [pickle.loads, copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"])
def test_an_error_survives_pickling_with_all_it_says(kind: type[MinipipeError], way: object) -> None:
    error = kind("what", "why", "do this", path="/x", number=3)
    again = pickle.loads(pickle.dumps(error)) if way is pickle.loads else way(error)  # type: ignore[operator]
    assert type(again) is kind
    assert (again.message, again.cause, again.hint, again.data) == ("what", "why", "do this", {"path": "/x", "number": 3})
    assert (again.path, again.number) == ("/x", 3)
    assert str(again) == str(error) == "what\n  cause: why\n  hint: do this"
    assert again.exit_code == kind.exit_code


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_can_be_raised_with_a_message_alone(kind: type[MinipipeError]) -> None:
    error = kind("what")
    assert str(error) == "what"
    assert (error.cause, error.hint, error.data) == ("", "", {})
    assert isinstance(error, MinipipeError)
    with pytest.raises(AttributeError):
        _ = error.nothing


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_is_documented(kind: type[MinipipeError]) -> None:
    assert kind.__doc__
    assert re.search(rf"^[ │]*[├└]?[─ ]*{kind.__name__}\b", errors.__doc__ or "", re.MULTILINE), "missing in the tree"


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    parents: dict[int, str] = {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([ │├└─]*)([A-Z]\w+) +(?:(\d) )?", line)
        if found is None:
            continue
        depth, kind = len(found[1]) // 4, getattr(errors, found[2])
        parents[depth] = found[2]
        if depth:
            assert parents[depth - 1] in [base.__name__ for base in kind.__bases__], line
        if found[3]:
            assert kind.exit_code == int(found[3]), line
        else:
            assert "exit_code" not in vars(kind) or not depth, f"{line}: its number is not shown"
    assert len(parents) >= 3


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.UsageError, ValueError),
        (errors.NotFound, ValueError),
        (errors.StepFailed, ValueError),
        (errors.CannotTravel, TypeError),
        (errors.WaitTimeout, TimeoutError),
        (errors.NotSupported, NotImplementedError),
    ],
)
def test_what_scripts_written_for_clearml_catch_is_still_caught(kind: type[MinipipeError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)


def test_the_exit_codes_are_those_of_the_commands() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert set(codes.values()) == {1, 2, 3, 4, 5}
    assert {codes[name] for name in codes if name.startswith("Store") and name != "StoreBusy"} == {4}
    assert (codes["StoreBusy"], codes["WaitTimeout"], codes["NotFound"], codes["StepFailed"]) == (5, 5, 3, 1)
