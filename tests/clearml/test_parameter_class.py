"""Parameters as a class: `clearml.task_parameters.TaskParameters`."""

from __future__ import annotations

from typing import Any

import pytest

from minipipe import errors
from minipipe.sdk.parameter_class import TaskParameters, param, percent_param


def positive(instance: Any, attribute: Any, value: Any) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be positive")


class Training(TaskParameters):
    epochs = param(type=int, range=(1, 100), desc="passes over the data")
    rate = percent_param(default=0.1)
    sizes = param(factory=list)
    batch = param(validator=positive, default=8, converter=int)


class Longer(Training):
    note = param(kw_only=True, default="")


def test_values_come_by_place_by_name_or_from_the_default() -> None:
    made = Training(3, batch="16")

    assert made.to_dict() == {"epochs": 3, "rate": 0.1, "sizes": [], "batch": 16}
    assert made.sizes is not Training(3).sizes
    assert repr(made) == "Training(epochs=3, rate=0.1, sizes=[], batch=16)"
    assert made == Training(epochs=3, batch=16) != Training(4)
    assert Longer(3, note="x").to_dict()["note"] == "x"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"epochs": 0}, ValueError, r"epochs must be in range \[1, 100\]"),
        ({"epochs": "3"}, TypeError, "epochs must be int"),
        ({"epochs": 3, "rate": 1.5}, ValueError, r"rate must be in range \[0, 1\]"),
        ({"epochs": 3, "batch": -1}, ValueError, "batch must be positive"),
        ({}, TypeError, "needs epochs"),
        ({"epochs": 3, "epoch": 3}, TypeError, "no parameter 'epoch'"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_object_is_made(given: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Training(**given)


def test_an_unknown_name_cannot_be_updated() -> None:
    made = Training(3)
    made.update_from_dict({"epochs": 5})

    assert made.epochs == 5
    with pytest.raises(ValueError, match="Unknown key epoch in Training object"):
        made.update_from_dict({"epoch": 5})


def test_what_only_attrs_knows_is_refused() -> None:
    with pytest.raises(errors.NotSupported, match="param.. does not take alias"):
        param(alias="e")


def test_a_class_whose_required_values_come_after_optional_ones_is_refused() -> None:
    with pytest.raises(ValueError, match="b has no default and comes after a"):
        type("Wrong", (TaskParameters,), {"a": param(default=1), "b": param()})
