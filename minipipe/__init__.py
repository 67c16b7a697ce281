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
    "Model": "minipipe.sdk.model",
    "InputModel": "minipipe.sdk.model",
    "OutputModel": "minipipe.sdk.output_model",
    "StorageManager": "minipipe.sdk.storage",
    "resolve": "minipipe.sdk.proxy",
    "TaskTypes": "minipipe.states",
    "Store": "minipipe.store.home",
    "BaseJob": "minipipe.sdk.automation.job",
    "ClearmlJob": "minipipe.sdk.automation.job",
    "LocalClearmlJob": "minipipe.sdk.automation.job",
    "RunningJob": "minipipe.sdk.automation.job",
    "Monitor": "minipipe.sdk.automation.monitor",
    "MultiObjective": "minipipe.sdk.automation.objective",
    "Objective": "minipipe.sdk.automation.objective",
    "HyperParameterOptimizer": "minipipe.sdk.automation.optimizer",
    "DiscreteParameterRange": "minipipe.sdk.automation.parameters",
    "LogUniformParameterRange": "minipipe.sdk.automation.parameters",
    "Parameter": "minipipe.sdk.automation.parameters",
    "ParameterSet": "minipipe.sdk.automation.parameters",
    "RandomSeed": "minipipe.sdk.automation.parameters",
    "UniformIntegerParameterRange": "minipipe.sdk.automation.parameters",
    "UniformParameterRange": "minipipe.sdk.automation.parameters",
    "TaskScheduler": "minipipe.sdk.automation.scheduler",
    "GridSearch": "minipipe.sdk.automation.searches",
    "RandomSearch": "minipipe.sdk.automation.searches",
    "SearchStrategy": "minipipe.sdk.automation.strategy",
    "TriggerScheduler": "minipipe.sdk.automation.trigger",
    "Dataset": "minipipe.sdk.dataset",
    "APIClient": "minipipe.sdk.api_client",
    "MinipipeError": "minipipe.errors",
    "UsageError": "minipipe.errors",
    "NotSupported": "minipipe.errors",
    "StepFailed": "minipipe.errors",
    "RunFailed": "minipipe.errors",
}

if TYPE_CHECKING:
    from minipipe.errors import MinipipeError, NotSupported, RunFailed, StepFailed, UsageError
    from minipipe.sdk.api_client import APIClient
    from minipipe.sdk.automation.job import BaseJob, ClearmlJob, LocalClearmlJob, RunningJob
    from minipipe.sdk.automation.monitor import Monitor
    from minipipe.sdk.automation.objective import MultiObjective, Objective
    from minipipe.sdk.automation.optimizer import HyperParameterOptimizer
    from minipipe.sdk.automation.parameters import (
        DiscreteParameterRange,
        LogUniformParameterRange,
        Parameter,
        ParameterSet,
        RandomSeed,
        UniformIntegerParameterRange,
        UniformParameterRange,
    )
    from minipipe.sdk.automation.scheduler import TaskScheduler
    from minipipe.sdk.automation.searches import GridSearch, RandomSearch
    from minipipe.sdk.automation.strategy import SearchStrategy
    from minipipe.sdk.automation.trigger import TriggerScheduler
    from minipipe.sdk.controller import PipelineController
    from minipipe.sdk.dataset import Dataset
    from minipipe.sdk.decorator import PipelineDecorator, component, pipeline
    from minipipe.sdk.logger import Logger
    from minipipe.sdk.model import InputModel, Model
    from minipipe.sdk.output_model import OutputModel
    from minipipe.sdk.proxy import resolve
    from minipipe.sdk.storage import StorageManager
    from minipipe.sdk.task import Task
    from minipipe.states import TaskTypes
    from minipipe.store.home import Store

__all__ = [
    "APIClient",
    "BaseJob",
    "ClearmlJob",
    "Dataset",
    "DiscreteParameterRange",
    "GridSearch",
    "HyperParameterOptimizer",
    "InputModel",
    "LocalClearmlJob",
    "LogUniformParameterRange",
    "Logger",
    "MinipipeError",
    "Model",
    "Monitor",
    "MultiObjective",
    "NotSupported",
    "Objective",
    "OutputModel",
    "Parameter",
    "ParameterSet",
    "PipelineController",
    "PipelineDecorator",
    "RandomSearch",
    "RandomSeed",
    "RunFailed",
    "RunningJob",
    "SearchStrategy",
    "StepFailed",
    "StorageManager",
    "Store",
    "Task",
    "TaskScheduler",
    "TaskTypes",
    "TriggerScheduler",
    "UniformIntegerParameterRange",
    "UniformParameterRange",
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
