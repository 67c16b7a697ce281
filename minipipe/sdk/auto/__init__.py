"""What is captured without being asked for: command lines, figures, models, scalars of other libraries (ClearML's "auto-logging").

`watch` has a library's hook installed when that library is imported, or at once if it is; nothing of it is loaded before. A hook
calls what it wraps with what it was given and returns what that returned, whatever happens on our side.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from minipipe.sdk import notice

HOOKS = {
    "click.core": "click_commands",
    "fire.core": "fire_commands",
    "jsonargparse": "jsonargparse_parsers",
    "hydra.core.utils": "hydra_jobs",
    "hydra._internal.utils": "hydra_jobs",
    "hydra._internal.hydra": "hydra_jobs",
    "absl.flags._flagvalues": "absl_flags",
}
"""Module of a library -> the module here whose ``patch`` is called with it."""

_MODELS, _TRAINING, _FIGURES, _SCALARS = "saved_models", "training", "matplotlib_figures", "tensorboard_scalars"

WRAPPED: dict[str, dict[str, str]] = {
    "matplotlib.figure": {"Figure.savefig": f"{_FIGURES}.saving"},
    "matplotlib.pyplot": {"show": f"{_FIGURES}.showing"},
    "joblib": {"dump": f"{_MODELS}.saving", "load": f"{_MODELS}.loading"},
    "xgboost": {
        "Booster.save_model": f"{_MODELS}.saving",
        "Booster.load_model": f"{_MODELS}.loading",
        "train": f"{_TRAINING}.xgboost",
        "training.train": f"{_TRAINING}.xgboost",
        "sklearn.train": f"{_TRAINING}.xgboost",
    },
    "lightgbm": {
        "Booster.save_model": f"{_MODELS}.saving",
        "Booster.__init__": f"{_MODELS}.loading",
        "train": f"{_TRAINING}.lightgbm",
        "sklearn.train": f"{_TRAINING}.lightgbm",
    },
    "catboost": {
        "CatBoost.save_model": f"{_MODELS}.saving",
        "CatBoost.load_model": f"{_MODELS}.loading",
        "CatBoost._fit": f"{_TRAINING}.catboost",
    },
    "torch": {"save": f"{_MODELS}.saving", "load": f"{_MODELS}.loading"},
    "keras": {
        "Model.save": f"{_MODELS}.saving",
        "Model.save_weights": f"{_MODELS}.saving",
        "Model.load_weights": f"{_MODELS}.loading",
        "models.load_model": f"{_MODELS}.loading",
    },
    "tensorboardX": {"SummaryWriter.add_scalar": f"{_SCALARS}.scalar", "SummaryWriter.add_scalars": f"{_SCALARS}.scalars"},
    "torch.utils.tensorboard": {
        "SummaryWriter.add_scalar": f"{_SCALARS}.scalar",
        "SummaryWriter.add_scalars": f"{_SCALARS}.scalars",
    },
}
"""Module of a library -> function in it -> what makes its hook of (library, function, original), loaded when it is first called."""

_local = threading.local()
_patched: set[str] = set()


class _Finder(MetaPathFinder):
    """Sees watched modules being imported; finds nothing itself."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec that the other finders have, with a loader that installs the hook afterwards."""
        if not (name in HOOKS or name in WRAPPED) or name in _patched or getattr(_local, "asking", False):
            return None
        _local.asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            _local.asking = False
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """A loader that steps aside once the module is there."""

    def __init__(self, before: Any) -> None:
        self.before = before

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the library's own loader."""
        found: ModuleType | None = self.before.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        """As the library's own loader; then the hook."""
        if module.__spec__ is not None:
            module.__spec__.loader = self.before
        module.__loader__ = self.before
        self.before.exec_module(module)
        _patch(module.__name__, module)


def watch() -> None:
    """Install the hooks of libraries that are imported, and those of others when they are; calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name in (*HOOKS, *WRAPPED):
        if name in sys.modules and not _is_half_imported(sys.modules[name]):
            _patch(name, sys.modules[name])


def _is_half_imported(module: ModuleType) -> bool:
    return bool(getattr(module.__spec__, "_initializing", False))


def _patch(name: str, module: ModuleType) -> None:
    if name in _patched:
        return
    _patched.add(name)
    with quiet(name):
        if name in HOOKS:
            importlib.import_module(f"{__name__}.{HOOKS[name]}").patch(module)
        for path, maker in WRAPPED.get(name, {}).items():
            holder, _, function = path.rpartition(".")
            owner = getattr(module, holder, None) if holder else module
            if owner is not None:
                wrap(owner, function, functools.partial(_later, name, path, maker), (name, path))


def _later(library: str, function: str, maker: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """A stand-in that loads the hook when it is first called: a step that only has the library in memory pays nothing."""
    made: list[Callable[..., Any]] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not made:
            with quiet(library):
                module, _, name = maker.rpartition(".")
                made.append(getattr(importlib.import_module(f"{__name__}.{module}"), name)(library, function, original))
        return made[0](*args, **kwargs) if made else original(*args, **kwargs)

    return call


class quiet:  # reads as a statement
    """``with quiet("click"):`` what goes wrong inside is our business: said once, never raised."""

    def __init__(self, library: str) -> None:
        self.library = library

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        notice.say(self.library.partition(".")[0], f"not captured: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        return True


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """What libraries do inside is minipipe's own doing (drawing a figure that is being reported, say) and not captured."""
    before = is_aside()
    _local.aside = True
    try:
        yield
    finally:
        _local.aside = before


def is_aside() -> bool:
    """True inside `aside`, in this thread."""
    return bool(getattr(_local, "aside", False))


def wrap(
    owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]], home: tuple[str, str] | None = None
) -> None:
    """Replace ``owner.name`` by what `make` makes of it; looks like the original, and is not wrapped twice.

    Args:
        owner, name: what is replaced.
        make: called with the original.
        home: module and path where the new one is found. Pickling goes by it: ``Pool.map(joblib.load, files)`` has to work, and so
            has a component that says ``from joblib import dump``.
    """
    original = getattr(owner, name, None)
    if original is None or hasattr(original, "__minipipe_auto__"):
        return
    wrapped = functools.wraps(original)(make(original))
    wrapped.__minipipe_auto__ = True  # type: ignore[attr-defined]
    if home is not None:
        wrapped.__module__, wrapped.__qualname__ = home
    setattr(owner, name, wrapped)
