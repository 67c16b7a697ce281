"""Ranges of parameters that a search draws from (ClearML's `clearml.automation.parameters`).

With the same seed they draw the same values as ClearML's, in the same order.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from minipipe import errors

_TYPE = "type"  # in `to_dict`: which class it was


class RandomSeed:
    """The one source of random numbers of all searches."""

    _seed: ClassVar[int] = 1337
    _random: ClassVar[random.Random] = random.Random(1337)

    @staticmethod
    def set_random_seed(seed: int = 1337) -> None:
        """Begin again: what is drawn from now on follows from `seed` alone."""
        RandomSeed._seed, RandomSeed._random = seed, random.Random(seed)

    @staticmethod
    def get_random_seed() -> int:
        """The seed that was set last, 1337 if none was."""
        return RandomSeed._seed


class Parameter(RandomSeed):
    """What all ranges have in common.

    Args:
        name: of the task's parameter, ``Section/name``; None where the values name it.
    """

    def __init__(self, name: str | None) -> None:
        self.name = name

    def get_value(self) -> Mapping[str, Any]:
        """One value at random, as ``{name: value}``."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its values are")

    def to_list(self) -> Sequence[Mapping[str, Any]]:
        """All values in order, each as ``{name: value}``."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its values are")

    def to_dict(self) -> Mapping[str, str | Parameter]:
        """The range as plain data; `from_dict` reads it."""
        return {_TYPE: type(self).__name__, **{name: _plain(value) for name, value in vars(self).items()}}

    @classmethod
    def from_dict(cls, a_dict: Mapping[str, str]) -> Parameter:
        """The range that `to_dict` described; None for a description of something else (ClearML's rule)."""
        facts: dict[str, Any] = dict(a_dict)
        kind = KINDS.get(str(facts.pop(_TYPE, "")))
        if kind is None:
            return None  # type: ignore[return-value]  # ClearML's signature promises a range
        found = kind.__new__(kind)
        vars(found).update({name: _range(value) for name, value in facts.items()})
        return found

    def __repr__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({facts})"


class UniformParameterRange(Parameter):
    """Numbers between two limits, all equally likely.

    Args:
        name: ``Section/name``.
        min_value, max_value: the limits.
        step_size: draw only multiples of it above `min_value`; None draws any number.
        include_max_value: `to_list` ends with `max_value`. What is drawn by steps never reaches it (ClearML's rule).
    """

    def __init__(
        self,
        name: str,
        min_value: float,
        max_value: float,
        step_size: float | None = None,
        include_max_value: bool = True,
    ) -> None:
        super().__init__(name)
        self.min_value = float(min_value)
        self.max_value = float(max_value)
        self.step_size = None if step_size is None else float(step_size)
        self.include_max = include_max_value
        _check(self, self.min_value, self.max_value, self.step_size)

    def get_value(self) -> Mapping[str, Any]:
        """See `Parameter.get_value`."""
        if not self.step_size:
            return {str(self.name): self._random.uniform(self.min_value, self.max_value)}
        steps = round((self.max_value - self.min_value) / self.step_size)
        return {str(self.name): self.min_value + self._random.randrange(0, max(steps, 1)) * self.step_size}

    def to_list(self) -> Sequence[Mapping[str, float]]:
        """See `Parameter.to_list`; without `step_size` the range is cut into 100 pieces."""
        return [{str(self.name): value} for value in self._steps()]

    def _steps(self) -> list[float]:
        step = self.step_size or (self.max_value - self.min_value) / 100.0
        count = int((self.max_value - self.min_value) / step) if step else 0
        values = [self.min_value + number * step for number in range(count)]
        return [*values, self.max_value] if self.include_max and (not values or values[-1] < self.max_value) else values


class LogUniformParameterRange(UniformParameterRange):
    """Powers of a base whose exponents are uniform.

    Args:
        name: ``Section/name``.
        min_value, max_value: limits of the exponent.
        base: of the power.
        step_size, include_max_value: of the exponent, as in `UniformParameterRange`.
    """

    def __init__(
        self,
        name: str,
        min_value: float,
        max_value: float,
        base: float = 10,
        step_size: float | None = None,
        include_max_value: bool = True,
    ) -> None:
        super().__init__(name, min_value, max_value, step_size, include_max_value)
        self.base = base

    def get_value(self) -> Mapping[str, Any]:
        """See `Parameter.get_value`."""
        return {name: self.base**exponent for name, exponent in super().get_value().items()}

    def to_list(self) -> Sequence[Mapping[str, float]]:
        """See `Parameter.to_list`."""
        return [{str(self.name): self.base**exponent} for exponent in self._steps()]


class UniformIntegerParameterRange(Parameter):
    """Integers between two limits, all equally likely.

    Args:
        name: ``Section/name``.
        min_value, max_value: the limits.
        step_size: distance of two neighbours.
        include_max_value: `max_value` belongs to the range.
    """

    def __init__(self, name: str, min_value: int, max_value: int, step_size: int = 1, include_max_value: bool = True) -> None:
        super().__init__(name)
        self.min_value = int(min_value)
        self.max_value = int(max_value)
        self.step_size = 1 if step_size is None else int(step_size)
        self.include_max = include_max_value
        _check(self, self.min_value, self.max_value, self.step_size)

    def get_value(self) -> Mapping[str, Any]:
        """See `Parameter.get_value`."""
        stop = self.max_value + (self.step_size if self.include_max else 0)
        return {str(self.name): self._random.randrange(self.min_value, stop, self.step_size)}

    def to_list(self) -> Sequence[Mapping[str, int]]:
        """See `Parameter.to_list`."""
        values = list(range(self.min_value, self.max_value, self.step_size))
        if self.include_max and (not values or values[-1] < self.max_value):
            values.append(self.max_value)
        return [{str(self.name): value} for value in values]


class DiscreteParameterRange(Parameter):
    """One of some values.

    Args:
        name: ``Section/name``.
        values: to choose from.
    """

    def __init__(self, name: str, values: Sequence[Any] = ()) -> None:
        super().__init__(name)
        self.values = values

    def get_value(self) -> Mapping[str, Any]:
        """See `Parameter.get_value`."""
        return {str(self.name): self._random.choice(_filled(self, self.values))}

    def to_list(self) -> Sequence[Mapping[str, Any]]:
        """See `Parameter.to_list`."""
        return [{str(self.name): value} for value in self.values]


class ParameterSet(Parameter):
    """One of some combinations of several parameters.

    Args:
        parameter_combinations: dicts of ``Section/name`` to a value or to a range of values.
    """

    def __init__(self, parameter_combinations: Sequence[Mapping[str, float | int | str | Parameter]] = ()) -> None:
        super().__init__(None)
        self.values = parameter_combinations

    def get_value(self) -> Mapping[str, Any]:
        """See `Parameter.get_value`; a range in the combination draws, too."""
        drawn: dict[str, Any] = {}
        for name, value in self._random.choice(_filled(self, self.values)).items():
            drawn.update(value.get_value() if isinstance(value, Parameter) else {name: value})
        return drawn

    def to_list(self) -> Sequence[Mapping[str, Any]]:
        """See `Parameter.to_list`; of a combination with ranges all their values, each with each."""
        found: list[Mapping[str, Any]] = []
        for combination in self.values:
            choices = [
                value.to_list() if isinstance(value, Parameter) else [{name: value}] for name, value in combination.items()
            ]
            found += [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*choices)]
        return found


KINDS: dict[str, type[Parameter]] = {
    kind.__name__: kind
    for kind in (
        Parameter,
        UniformParameterRange,
        LogUniformParameterRange,
        UniformIntegerParameterRange,
        DiscreteParameterRange,
        ParameterSet,
    )
}


def _plain(value: Any) -> Any:
    """Ranges inside combinations, too: else a search over them could not be stored (ClearML's fails there)."""
    if isinstance(value, Parameter):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _range(value: Any) -> Any:
    if isinstance(value, Mapping):
        if value.get(_TYPE) in KINDS:
            return Parameter.from_dict(value)
        return {name: _range(each) for name, each in value.items()}
    return [_range(each) for each in value] if isinstance(value, list) else value


def _check(owner: Parameter, low: float, high: float, step: float | None) -> None:
    if high < low:
        raise errors.UsageError(f"range {owner.name!r} is empty", f"it begins at {low} and ends at {high}")
    if step is not None and step < 0:
        raise errors.UsageError(f"range {owner.name!r} has a negative step", f"step_size={step}")
    if step == 0 and isinstance(step, int):
        raise errors.UsageError(f"range {owner.name!r} has no step", "step_size=0")


def _filled(owner: Parameter, values: Sequence[Any]) -> Sequence[Any]:
    if not values:
        raise errors.UsageError(f"{type(owner).__name__} {owner.name or ''} has no values to draw from".replace("  ", " "))
    return values
