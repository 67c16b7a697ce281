"""``import clearml`` means minipipe, where it was asked for: under ``minipipe run``, and after `install`; nowhere else.

The modules hold names and no behaviour: `names` says which, and each is looked up when it is first used (PEP 562). Where the alias
is in force it is handed on: tasks made here remember it, so that steps and controllers on workers have it too, and programs that are
started here find it by ``PYTHONPATH``.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import minipipe
from minipipe import context, errors
from minipipe.clearml import names, refusal
from minipipe.clearml.refusal import is_refused

__all__ = ["hidden", "install", "is_installed", "is_refused", "module", "uninstall"]

FRONT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "front")
"""A folder with a ``clearml`` for Pythons that are started here."""

_FIRST = f"{__name__}:install"


class _Finder(MetaPathFinder, Loader):
    """Finds and makes the modules of the alias."""

    def __init__(self, on_use: Callable[[], None]) -> None:
        self.on_use = on_use

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of one of the alias's modules; None for all others."""
        if name == "clearml" or name in names.MODULES:
            return ModuleSpec(name, self, is_package=any(other.startswith(f"{name}.") for other in names.MODULES))
        if name.startswith("clearml."):
            raise ModuleNotFoundError(
                f"No module named {name!r}: minipipe's clearml has no such module (minipipe run --no-alias uses an installed clearml)",
                name=name,
            )
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """A new, empty module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Say how its names are found.

        Raises:
            ImportError: a module that is there only if all of its names are, and they are not.
        """
        name = module.__name__
        if name == "clearml":
            self.on_use()
        own = names.MODULES[name].split()
        if name in names.OPTIONAL:
            for each in own:
                if is_refused(_find(name, each)):
                    raise ImportError(f"{name} needs {each}, which minipipe does not offer here", name=name)
        module.__dict__.update(
            __version__=names.VERSION,
            __minipipe__=minipipe.__version__,
            __all__=own,
            __getattr__=_getter(module, own),
            __dir__=lambda: sorted({*vars(module), *own}),
        )


def _getter(module: ModuleType, own: list[str]) -> Callable[[str], Any]:
    def get(name: str) -> Any:
        path = f"{module.__name__}.{name}"
        if name in own:
            found = _find(module.__name__, name)
        elif path in names.MODULES and path not in names.OPTIONAL:
            found = importlib.import_module(path)
        else:
            raise AttributeError(f"minipipe's {module.__name__} has no {name!r}")
        setattr(module, name, found)
        return found

    return get


def _find(module: str, name: str) -> Any:
    """What a name means, or what refuses it."""
    if name in names.REFUSED:
        return refusal.refused(module, name, *names.REFUSED[name])
    try:
        return getattr(importlib.import_module(names.HOMES.get(name, "minipipe")), name)
    except AttributeError:
        return refusal.refused(module, name, f"this minipipe ({minipipe.__version__}) has none yet", "minipipe run --no-alias")


# -- in force or not ----------------------------------------------------------------------------------------------------

_finder: _Finder | None = None


def install(note: Callable[[str], None] | None = None) -> None:
    """Make ``import clearml`` mean minipipe in this process, in what it starts, and in the tasks that it makes.

    Args:
        note: called at the first import of clearml, with a line of text, if that hides an installed one.

    Raises:
        UsageError: another clearml is imported already.
    """
    global _finder
    if _finder is not None:
        return
    loaded = sys.modules.get("clearml")
    if loaded is not None and not _is_front(loaded):
        raise errors.UsageError(
            "another clearml is imported already",
            f"from {getattr(loaded, '__file__', 'an unknown place')}",
            "call minipipe.clearml.install() before the first import of clearml",
        )
    _finder = _Finder(lambda: _tell(note))
    sys.meta_path.insert(0, _finder)
    sys.path.insert(min(1, len(sys.path)), FRONT)  # for processes that get this one's path and not its finders
    os.environ["PYTHONPATH"] = os.pathsep.join([FRONT, *_python_path()])
    context.import_first(_FIRST)


def uninstall() -> None:
    """Undo `install`: the alias's modules are forgotten, the next ``import clearml`` finds what is installed, if anything."""
    global _finder
    if _finder is None:
        return
    sys.meta_path.remove(_finder)
    _finder = None
    for name in [name for name in sys.modules if name == "clearml" or name.startswith("clearml.")]:
        del sys.modules[name]
    sys.path[:] = [folder for folder in sys.path if folder != FRONT]
    rest = _python_path()
    if rest:
        os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    else:
        os.environ.pop("PYTHONPATH", None)
    context.forget_first(_FIRST)


def is_installed() -> bool:
    """True if ``import clearml`` means minipipe here."""
    return _finder is not None


def hidden() -> str | None:
    """The folder of a ClearML that is installed for this Python, None if there is none. Nothing is imported."""
    spec = PathFinder.find_spec("clearml", [folder for folder in sys.path if folder != FRONT])
    return None if spec is None or spec.origin is None else os.path.dirname(spec.origin)


def module(name: str) -> ModuleType:
    """One of the alias's modules, whether the alias is in force or not.

    Args:
        name: as scripts import it, ``clearml.automation`` for example.

    Raises:
        ImportError: the alias has no such module.
    """
    if _finder is not None:
        return importlib.import_module(name)
    if name not in names.MODULES:
        raise ModuleNotFoundError(f"minipipe's clearml has no module {name!r}", name=name)
    found = ModuleType(name)
    _Finder(lambda: None).exec_module(found)
    return found


def _tell(note: Callable[[str], None] | None) -> None:
    if note is not None and (place := hidden()) is not None:
        note(f"the clearml in {place} is hidden by minipipe's; --no-alias uses it")


def _is_front(found: ModuleType) -> bool:
    return str(getattr(found, "__file__", "")).startswith(FRONT + os.sep)


def _python_path() -> list[str]:
    return [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder and folder != FRONT]
