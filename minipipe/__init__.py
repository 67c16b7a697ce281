"""minipipe: ClearML pipelines without the server.

Names load when first used (PEP 562): ``import minipipe`` costs next to nothing, so that the command line starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "PipelineController": "minipipe.sdk.controller",
    "PipelineDecorator": "minipipe.sdk.decorator",
    "component": "minipipe.sdk.decorator",
    "pipeline": "minipipe.sdk.decorator",
    "Task": "minipipe.sdk.task",
    "Logger": "minipipe.sdk.logger",
    "StorageManager": "minipipe.sdk.storage",
    "resolve": "minipipe.sdk.proxy",
    "TaskTypes": "minipipe.states",
    "Store": "minipipe.store.home",
    "MinipipeError": "minipipe.errors",
    "UsageError": "minipipe.errors",
    "NotSupported": "minipipe.errors",
    "StepFailed": "minipipe.errors",
    "RunFailed": "minipipe.errors",
}

if TYPE_CHECKING:
    from minipipe.errors import MinipipeError, NotSupported, RunFailed, StepFailed, UsageError
    from minipipe.sdk.controller import PipelineController
    from minipipe.sdk.decorator import PipelineDecorator, component, pipeline
    from minipipe.sdk.logger import Logger
    from minipipe.sdk.proxy import resolve
    from minipipe.sdk.storage import StorageManager
    from minipipe.sdk.task import Task
    from minipipe.states import TaskTypes
    from minipipe.store.home import Store

__all__ = [
    "Logger",
    "MinipipeError",
    "NotSupported",
    "PipelineController",
    "PipelineDecorator",
    "RunFailed",
    "StepFailed",
    "StorageManager",
    "Store",
    "Task",
    "TaskTypes",
    "UsageError",
    "component",
    "pipeline",
    "resolve",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minipipe' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
