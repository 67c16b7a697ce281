"""Scalars that a script writes for TensorBoard (tensorboardX, torch.utils.tensorboard): reported on the task, too.

``train/loss`` is series ``loss`` of the title ``train``; a tag without a slash is both (ClearML's rule).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minipipe.sdk.auto import connection, quiet
from minipipe.sdk.logger import Logger


def scalar(library: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of ``SummaryWriter.add_scalar``."""

    def add_scalar(self: Any, tag: str, scalar_value: Any, global_step: int | None = None, *rest: Any, **more: Any) -> Any:
        result = original(self, tag, scalar_value, global_step, *rest, **more)
        with quiet("tensorboard"):
            _report(str(tag), scalar_value, global_step)
        return result

    return add_scalar


def scalars(library: str, function: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """The hook of ``SummaryWriter.add_scalars``."""

    def add_scalars(
        self: Any, main_tag: str, tag_scalar_dict: dict[str, Any], global_step: int | None = None, *rest: Any, **more: Any
    ) -> Any:
        result = original(self, main_tag, tag_scalar_dict, global_step, *rest, **more)
        with quiet("tensorboard"):
            for name, value in tag_scalar_dict.items():
                _report(f"{main_tag}/{name}", value, global_step)
        return result

    return add_scalars


def _report(tag: str, value: Any, step: int | None) -> None:
    here = connection.capturing("tensorboard")
    if here is None:
        return
    *above, series = tag.split("/")
    title = "_".join(above) or ("Scalars" if Logger._tensorboard_grouped else tag)
    if Logger._tensorboard_single:
        title = "_".join([*above, series])
    Logger(here).report_scalar(title, series, float(value), int(step or 0))
