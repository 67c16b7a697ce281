"""The names of ClearML's package that scripts import, by module, and where minipipe has them. Data only."""

from __future__ import annotations

VERSION = "2.1.12"
"""The ClearML whose names these are."""

_RANGES = "UniformParameterRange LogUniformParameterRange UniformIntegerParameterRange DiscreteParameterRange ParameterSet"
_ENTRIES = (
    "HyperDataset DataView DataEntry DataSubEntry DataEntryImage DataSubEntryImage HyperDatasetManagement HyperDatasetQuery"
)

MODULES: dict[str, str] = {
    "clearml": "Task TaskTypes Logger StorageManager PipelineController PipelineDecorator OutputModel InputModel Model UsageError"
    f" Dataset browser_login {_ENTRIES}",
    "clearml.task": "Task TaskTypes Logger Model InputModel OutputModel TaskParameters running_remotely get_remote_task_id UsageError",
    "clearml.logger": "Logger SeriesInfo",
    "clearml.model": "Model InputModel OutputModel",
    "clearml.storage": "StorageManager",
    "clearml.storage.manager": "StorageManager",
    "clearml.errors": "UsageError",
    "clearml.version": "",
    "clearml.binding": "",
    "clearml.binding.artifacts": "Artifact",
    "clearml.automation": f"PipelineController PipelineDecorator ClearmlJob {_RANGES} GridSearch RandomSearch"
    " HyperParameterOptimizer Objective TaskScheduler TriggerScheduler",
    "clearml.automation.controller": "PipelineController PipelineDecorator",
    "clearml.automation.job": "BaseJob ClearmlJob LocalClearmlJob RunningJob",
    "clearml.automation.parameters": f"RandomSeed Parameter {_RANGES}",
    "clearml.automation.optimization": "HyperParameterOptimizer Objective MultiObjective SearchStrategy GridSearch RandomSearch",
    "clearml.automation.optuna": "OptimizerOptuna",
    "clearml.automation.hpbandster": "OptimizerBOHB",
    "clearml.automation.scheduler": "TaskScheduler",
    "clearml.automation.trigger": "TriggerScheduler",
    "clearml.automation.monitor": "Monitor",
    "clearml.automation.auto_scaler": "AutoScaler ScalerConfig",
    "clearml.automation.aws_driver": "AWSDriver",
    "clearml.automation.cloud_driver": "CloudDriver",
    "clearml.task_parameters": "TaskParameters param percent_param range_validator",
    "clearml.utilities": "",
    "clearml.utilities.proxy_object": "LazyEvalWrapper",
    "clearml.utilities.plotly_reporter": "SeriesInfo",
    "clearml.config": "running_remotely get_remote_task_id",
    "clearml.datasets": "Dataset",
    "clearml.datasets.dataset": "Dataset",
    "clearml.hyperdatasets": _ENTRIES,
    "clearml.backend_api": "",
    "clearml.backend_api.session": "",
    "clearml.backend_api.session.client": "APIClient",
    "clearml.backend_interface": "",
    "clearml.backend_interface.task": "",
    "clearml.backend_interface.task.populate": "CreateFromFunction",
    "clearml.router": "HttpRouter",
}

HOMES: dict[str, str] = {
    "Artifact": "minipipe.sdk.artifact",
    "SeriesInfo": "minipipe.sdk.figures",
    "LazyEvalWrapper": "minipipe.sdk.proxy",
    "OptimizerOptuna": "minipipe.sdk.automation.optuna",
    "TaskParameters": "minipipe.sdk.parameter_class",
    "param": "minipipe.sdk.parameter_class",
    "percent_param": "minipipe.sdk.parameter_class",
    "range_validator": "minipipe.sdk.parameter_class",
    "running_remotely": "minipipe.sdk.session",
    "get_remote_task_id": "minipipe.sdk.session",
}
"""Where a name stands that `minipipe` itself does not export. All others are looked up there, when they are first used."""

OPTIONAL = frozenset({"clearml.automation.optuna", "clearml.automation.hpbandster"})
"""Modules whose import fails where minipipe has not all of their names: scripts then fall back, as they do with ClearML's."""

_DATA = "data sets with views", "keep the data as artifacts: task.upload_artifact(name, object)"
_SCALING = "machines of a cloud", "more slots on this one: minipipe worker -j N"

REFUSED: dict[str, tuple[str, str]] = {
    "browser_login": ("there is no server, so there is nothing to log in to", "leave the call out"),
    **dict.fromkeys(_ENTRIES.split(), _DATA),
    **dict.fromkeys(("AutoScaler", "ScalerConfig", "AWSDriver", "CloudDriver"), _SCALING),
    "HttpRouter": ("there is no server to route through", "serve from your own code"),
    "CreateFromFunction": ("it is not part of ClearML's public interface", "Task.create_function_task(function)"),
}
"""Names that raise `NotSupported` when they are used: why, and what to use instead."""
