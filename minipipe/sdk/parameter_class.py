"""Hyper-parameters as a class (ClearML's `TaskParameters`): each with a type, a range, a description.

    class Training(TaskParameters):
        epochs = param(type=int, range=(1, 100), default=10, desc="passes over the data")
        rate = percent_param(default=0.1)

    task.connect(Training(epochs=3))

ClearML builds these classes with the ``attrs`` package; here they need nothing. Values are checked when an object is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from minipipe import errors

if TYPE_CHECKING:
    from minipipe.sdk.task import Task

Validator = Callable[[Any, "Param", Any], Any]
_NOTHING: Any = object()


class Param:
    """One parameter of a `TaskParameters` class.

    Attributes:
        name: as the class calls it.
        default: its value if none is given.
        type, metadata, validator: as `param` was told.
    """

    def __init__(
        self,
        validator: list[Validator],
        type: type | None,
        metadata: dict[str, Any],
        default: Any = _NOTHING,
        factory: Callable[[], Any] | None = None,
        converter: Callable[[Any], Any] | None = None,
        kw_only: bool = False,
    ) -> None:
        self.name = ""
        self.validator = validator
        self.type = type
        self.metadata = metadata
        self.default = default
        self.factory = factory
        self.converter = converter
        self.kw_only = kw_only

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def required(self) -> bool:
        """True if an object cannot be made without it."""
        return self.default is _NOTHING and self.factory is None

    def value(self, owner: Any, given: Any) -> Any:
        """What an object gets: the value given or the default, converted and checked.

        Raises:
            ValueError, TypeError: a validator refuses it.
        """
        if given is _NOTHING:
            given = self.factory() if self.factory is not None else self.default
        if self.converter is not None:
            given = self.converter(given)
        for check in self.validator:
            check(owner, self, given)
        return given


def range_validator(min_value: int | float | None, max_value: int | float | None) -> Callable[[Any, Any, Any], None]:
    """A validator for numbers from `min_value` to `max_value`, both included; None is no limit."""

    def validate(instance: Any, attribute: Any, value: Any) -> None:
        if (min_value is not None and value < min_value) or (max_value is not None and value > max_value):
            raise ValueError(f"{attribute.name} must be in range [{min_value}, {max_value}]")

    return validate


def _type_validator(wanted: type) -> Validator:
    def validate(instance: Any, attribute: Param, value: Any) -> None:
        if value is not None and not isinstance(value, wanted):
            kind = type(value).__name__
            raise TypeError(f"{attribute.name} must be {wanted.__name__} (got {value!r} that is a {kind})")

    return validate


def param(
    validator: Any = None,
    range: tuple[Any, Any] | None = None,
    type: type | None = None,
    desc: str | None = None,
    metadata: dict[str, Any] | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """A parameter inside a `TaskParameters` class.

    Args:
        validator: called as ``(object, parameter, value)`` when an object is made, or several of them; raises if it refuses.
        range: lowest and highest value, both included; None for no limit.
        type: int, str, float or another class; None for any.
        desc: kept in ``metadata["desc"]``.
        metadata: kept with the parameter.
        args: ``default`` may be given by place, as the first.
        kwargs: ``default``, ``factory`` (makes the default), ``converter``, ``kw_only``.

    Raises:
        NotSupported: another argument of attrs's ``attrib``.
    """
    known = {"default", "factory", "converter", "kw_only"}
    if len(args) > 1 or set(kwargs) - known:
        names = ", ".join(sorted(set(kwargs) - known)) or "more than one argument by place"
        raise errors.NotSupported(f"param() does not take {names}", "these classes are not built with attrs", ", ".join(known))
    checks = list(validator) if isinstance(validator, Iterable) else [validator] if validator else []
    if type is not None:
        checks.append(_type_validator(type))
    if range is not None:
        checks.append(range_validator(*range))
    if args:
        kwargs["default"] = args[0]
    return Param(checks, type, {**(metadata or {}), "desc": desc}, **kwargs)


def percent_param(*args: Any, **kwargs: Any) -> Any:
    """A `param` of type float between 0 and 1."""
    return param(*args, range=(0, 1), type=float, **kwargs)  # type: ignore[misc]  # as ClearML: one argument by place, the validator


class TaskParameters:
    """Base class of parameter sets; what is declared with `param` becomes an argument and an attribute of its objects."""

    _params: ClassVar[dict[str, Param]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {name: value for name, value in vars(cls).items() if isinstance(value, Param)}
        cls._params = {**cls._params, **own}
        for name in own:
            delattr(cls, name)
        places = [one for one in cls._params.values() if not one.kw_only]
        for before, after in itertools.pairwise(places):
            if after.required and not before.required:
                raise ValueError(f"{cls.__name__}: {after.name} has no default and comes after {before.name}, which has one")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        places = [one.name for one in self._params.values() if not one.kw_only]
        if len(args) > len(places):
            raise TypeError(f"{type(self).__name__} takes {len(places)} arguments by place, not {len(args)}")
        given = dict(zip(places, args, strict=False))
        for name, value in kwargs.items():
            if name not in self._params or name in given:
                what = "several values for" if name in given else "no parameter"
                raise TypeError(f"{type(self).__name__} has {what} {name!r}")
            given[name] = value
        missing = [one.name for one in self._params.values() if one.required and one.name not in given]
        if missing:
            raise TypeError(f"{type(self).__name__} needs {', '.join(missing)}")
        for one in self._params.values():
            setattr(self, one.name, one.value(self, given.get(one.name, _NOTHING)))

    def to_dict(self) -> dict[str, Any]:
        """Name -> value."""
        return {name: getattr(self, name) for name in self._params}

    def update_from_dict(self, source_dict: Mapping[str, Any]) -> None:
        """Set some of the values.

        Raises:
            ValueError: a name that the class does not have.
        """
        for key, value in source_dict.items():
            if not hasattr(self, key):
                raise ValueError(f"Unknown key {key} in {type(self).__name__} object")
            setattr(self, key, value)

    def connect(self, task: Task) -> Any:
        """As ``task.connect(self)``: record the values, or take the stored ones where a worker runs the task."""
        return task.connect(self)

    def __eq__(self, other: object) -> bool:
        return self.to_dict() == other.to_dict() if type(other) is type(self) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # values change

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"
