"""What stands for a name of ClearML's that minipipe does not offer: it can be imported, and says so when it is used."""

from __future__ import annotations

from typing import Any, NoReturn

from minipipe import errors


class _Refusing(type):
    """The type of refused names: a class, so that ``isinstance(x, Refused)`` stays a question."""

    why: str
    instead: str

    def _refuse(cls, use: str) -> NoReturn:
        raise errors.NotSupported(f"{use} is not offered by minipipe", cls.why, cls.instead)

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        cls._refuse(f"{cls.__module__}.{cls.__name__}")

    def __getattr__(cls, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        cls._refuse(f"{cls.__module__}.{cls.__name__}.{name}")


def refused(module: str, name: str, why: str, instead: str) -> type:
    """A class that raises `NotSupported` when it is called, derived from, or asked for an attribute.

    Args:
        module, name: where scripts import it from.
        why: the reason, without a full stop.
        instead: what to write instead.
    """

    def derive(cls: type, **_: Any) -> NoReturn:
        raise errors.NotSupported(f"a class derived from {module}.{name} is not offered by minipipe", why, instead)

    return _Refusing(name, (), {"__module__": module, "__init_subclass__": derive, "why": why, "instead": instead})


def is_refused(value: Any) -> bool:
    """True for what `refused` made."""
    return isinstance(value, _Refusing)
