"""A pipeline that is being written: its parameters and steps, one by one (the first half of ClearML's `PipelineController`)."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minipipe import errors, limits, states
from minipipe.sdk import arguments, dag, launch, needs, notice, pipeline, references, task_fields, templates, versions
from minipipe.sdk.definition import Definition
from minipipe.sdk.pipeline import place_of, record
from minipipe.sdk.run import Run
from minipipe.sdk.specs import Retry
from minipipe.sdk.values import tags_of
from minipipe.store import naming

_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict, "tuple": tuple}


class WrittenPipeline(pipeline.RunningPipeline):
    """What is said of a pipeline before it starts. Use `PipelineController`."""

    def __init__(
        self,
        name: str,
        project: str,
        version: str | None = None,
        pool_frequency: float = 0.2,
        add_pipeline_tags: bool = False,
        target_project: str | bool | None = True,
        auto_version_bump: bool | None = None,
        abort_on_failure: bool = False,
        add_run_number: bool = True,
        retry_on_failure: Retry = None,
        docker: str | None = None,
        docker_args: str | None = None,
        docker_bash_setup_script: str | None = None,
        packages: bool | str | Sequence[str] | None = None,
        repo: str | None = None,
        repo_branch: str | None = None,
        repo_commit: str | None = None,
        always_create_from_code: bool = True,
        artifact_serialization_function: Callable[[Any], bytes | bytearray] | None = None,
        artifact_deserialization_function: Callable[[bytes], Any] | None = None,
        output_uri: str | bool | None = None,
        skip_global_imports: bool = False,
        working_dir: str | None = None,
        enable_local_imports: bool = True,
    ) -> None:
        """A new pipeline. Its task is made when it is first needed; a main task (`Task.init`) becomes the pipeline's, and the
        pipeline takes its name and project (ClearML's rule).

        Args:
            name, project, version, abort_on_failure, …: see `PipelineDecorator.pipeline`.
            target_project: project of the step tasks; True is that of the pipeline's task.
            always_create_from_code: False stores the steps with the pipeline's task too (configuration object ``Pipeline``); where a
                worker runs it, they are what is stored there by then. See `minipipe.sdk.edited`.
            auto_version_bump, pool_frequency, output_uri, skip_global_imports: recorded.
            packages, repo, repo_branch, repo_commit, working_dir, docker, docker_args, docker_bash_setup_script: for function steps
                that say nothing themselves. A copy (`add_step`) keeps what its task says, and a line says so.

        Raises:
            BadPipeline: the version is not a PEP 440 string.
        """
        recorded = record("PipelineController", locals())
        self._definition = Definition(
            name=name,
            project=project,
            version=versions.checked(version),
            add_pipeline_tags=add_pipeline_tags,
            target_project=target_project,
            abort_on_failure=abort_on_failure,
            add_run_number=add_run_number,
            retry=retry_on_failure,
            recorded=recorded,
            local_imports=enable_local_imports,
            serialize=artifact_serialization_function,
            deserialize=artifact_deserialization_function,
            called="{step}.{argument}",
            needs=needs.of_call("PipelineController", locals()),
        )
        self._plans: dict[str, dag.Plan] = {}
        self._editable = not always_create_from_code
        self._parameters: dict[str, Any] = {}
        self._types: dict[str, Any] = {}
        self._descriptions: dict[str, str] = {}
        self._places: dict[str, str] = {}
        self._default_queue: str | None = None
        self._limit_minutes: float | None = None
        self._made: launch.Made | None = None
        self._started: Run | None = None
        self._error: BaseException | None = None
        self._loose = False  # started with wait=False
        self._late: Exception | None = None
        self._created_callback: Callable[..., Any] | None = None
        self._completed_callback: Callable[..., Any] | None = None
        pipeline.write_down(self)
        pipeline.of_script.append(name)

    # -- building -----------------------------------------------------------------------------------------------------

    def add_parameter(
        self, name: str, default: Any = None, description: str | None = None, param_type: str | None = None
    ) -> None:
        """Declare a parameter of the pipeline; steps use it as ``${pipeline.NAME}``.

        Args:
            name: its name.
            default: its value unless a run says otherwise.
            description: shown with it.
            param_type: "int", "float", "bool", "str", "list" or "dict"; default the type of `default`.
        """
        self._parameters[str(name)] = default
        named = param_type if isinstance(param_type, type) else _TYPES.get(str(param_type))
        wanted = named if param_type else type(default) if default is not None else None
        self._types[str(name)] = wanted or inspect.Parameter.empty
        self._places[str(name)] = place_of(sys._getframe(1))
        self._descriptions[str(name)] = description or ""

    def _described(self) -> Definition:
        return replace(
            self._definition,
            default_queue=self._default_queue,
            descriptions=self._descriptions,
            types=self._types,
            places=self._places,
            usual=dict(self._parameters),
        )

    def get_parameters(self) -> dict[str, Any]:
        """The pipeline's parameters: name -> typed value; before the start, too, with what a run of it was told."""
        if self._plans or self._parameters or self._made is None:
            return dict(self._parameters if self._started is not None else launch.foreseen(self._described(), self._parameters))
        return {key[5:]: value for key, value in self.task.get_parameters(cast=True).items() if key.startswith("Args/")}

    def set_default_execution_queue(self, default_execution_queue: str | None) -> None:
        """Queue of every step that names none."""
        self._default_queue = None if default_execution_queue is None else str(default_execution_queue)

    def set_pipeline_execution_time_limit(self, max_execution_minutes: float | None) -> None:
        """Fail the run, stopping its steps, after so many minutes."""
        self._limit_minutes = max_execution_minutes

    def add_step(
        self,
        name: str,
        base_task_id: str | None = None,
        parents: Sequence[str] | None = None,
        parameter_override: Mapping[str, Any] | None = None,
        configuration_overrides: Mapping[str, str | Mapping[str, Any]] | None = None,
        task_overrides: Mapping[str, Any] | None = None,
        execution_queue: str | None = None,
        monitor_metrics: list[Any] | None = None,
        monitor_artifacts: list[Any] | None = None,
        monitor_models: list[Any] | None = None,
        time_limit: float | None = None,
        base_task_project: str | None = None,
        base_task_name: str | None = None,
        clone_base_task: bool = True,
        continue_on_fail: bool = False,
        pre_execute_callback: Callable[..., Any] | None = None,
        post_execute_callback: Callable[..., Any] | None = None,
        cache_executed_step: bool = False,
        base_task_factory: Callable[..., Any] | None = None,
        retry_on_failure: Retry = None,
        status_change_callback: Callable[..., Any] | None = None,
        recursively_parse_parameters: bool = False,
        output_uri: str | bool | None = None,
        continue_behaviour: dict[str, bool] | None = None,
        stage: str | None = None,
        *,
        memory_limit_mb: float | None = None,
        cpu_limit_s: float | None = None,
        nice: int | None = None,
    ) -> bool:
        """Add a step that runs a copy of a task.

        Args:
            name: of the step.
            base_task_id, base_task_project, base_task_name: the task to copy, by id or by exact project and name (the newest
                that did not fail).
            parents: steps that have to succeed first; references add to them.
            parameter_override: {"Section/name": value}; values may hold ``${…}`` (see `minipipe.sdk.references`).
            configuration_overrides: {name: text or dict}; taken as it is, so that HOCON keeps its own ``${…}``.
            execution_queue, monitor_metrics, monitor_artifacts, monitor_models, time_limit (seconds), continue_on_fail,
                pre_execute_callback, post_execute_callback, status_change_callback, retry_on_failure, cache_executed_step: as for
                components.
            task_overrides: {field: value} of the copy, such as ``comment``, ``tags``, ``script.branch``; see
                `minipipe.sdk.task_fields`.
            clone_base_task: False runs the task itself, which must be a draft, instead of a copy; once.
            base_task_factory: (node) -> Task, called in the thread that starts the pipeline when the parents have ended and the
                step is not skipped; the task, a draft, runs itself.
            continue_behaviour: see `PipelineDecorator.component`.
            output_uri, stage: recorded.
            recursively_parse_parameters: recorded: lists and dicts are always looked through, also with False.
            memory_limit_mb, cpu_limit_s, nice: as for components; of a pipeline that is the step they limit its logic.

        Returns:
            True.

        Raises:
            BadPipeline: the name is taken or ``pipeline``, a key without section, a field that tasks do not have.
            NotFound: no such task.
        """
        self._check_name(name)
        if self._definition.needs != needs.Needs():
            notice.say("PipelineController(packages=…, repo=…, docker=…)", "for function steps; copies keep what their tasks say")
        limited = limits.checked(f"step {name!r}", memory_limit_mb, cpu_limit_s, nice)
        recorded = record("add_step", locals())
        overrides = {str(key): value for key, value in (parameter_override or {}).items()}
        for key in overrides:
            if "/" not in key:
                raise errors.BadPipeline(f"step {name!r}: parameter_override key {key!r} has no section", hint=f"General/{key}")
        common = dag.Common(
            parents,
            execution_queue,
            monitor_metrics,
            monitor_artifacts,
            monitor_models,
            time_limit,
            continue_on_fail,
            continue_behaviour,
            cache_executed_step,
            retry_on_failure,
            pre_execute_callback,
            post_execute_callback,
            status_change_callback,
            recorded,
        )
        fields = {str(key): value for key, value in (task_overrides or {}).items()}
        task_fields.check(name, fields)
        if cache_executed_step and (not clone_base_task or base_task_factory is not None):
            raise errors.BadPipeline(
                f"step {name!r} runs a task itself, and only copies are served from the cache",
                hint="clone_base_task=True, or leave cache_executed_step out",
            )
        template = None
        if base_task_factory is None:
            template = templates.find(name, base_task_id, base_task_project, base_task_name)
        elif base_task_id or base_task_name:
            raise errors.BadPipeline(f"step {name!r} names a task and a factory of one", hint="leave one of them out")
        referred = references.steps_in([overrides, fields, execution_queue])
        spec = common.spec(
            name,
            template.task_type if template is not None else "training",
            _not_a_function,
            referred,
            needs=needs.Needs(limits=limited),
        )
        node = common.node(spec, overrides)
        node.base_task_id = template.id if template is not None else None
        node.clone_task, node.task_factory_func, node.task_overrides = bool(clone_base_task), base_task_factory, dict(fields)
        configurations = dict(configuration_overrides or {})
        node.configurations = dict(configurations)
        itself = not clone_base_task or base_task_factory is not None
        self._plans[name] = dag.Plan(node, spec, {}, template, overrides, configurations, fields, itself, base_task_factory)
        return True

    def add_function_step(
        self,
        name: str,
        function: Callable[..., Any],
        function_kwargs: dict[str, Any] | None = None,
        function_return: list[str] | None = None,
        project_name: str | None = None,
        task_name: str | None = None,
        task_type: str | None = None,
        auto_connect_frameworks: dict[str, Any] | None = None,
        auto_connect_arg_parser: dict[str, Any] | None = None,
        packages: bool | str | Sequence[str] | None = None,
        repo: str | None = None,
        repo_branch: str | None = None,
        repo_commit: str | None = None,
        helper_functions: Sequence[Callable[..., Any]] | None = None,
        docker: str | None = None,
        docker_args: str | None = None,
        docker_bash_setup_script: str | None = None,
        parents: Sequence[str] | None = None,
        execution_queue: str | None = None,
        monitor_metrics: list[Any] | None = None,
        monitor_artifacts: list[Any] | None = None,
        monitor_models: list[Any] | None = None,
        time_limit: float | None = None,
        continue_on_fail: bool = False,
        pre_execute_callback: Callable[..., Any] | None = None,
        post_execute_callback: Callable[..., Any] | None = None,
        cache_executed_step: bool = False,
        retry_on_failure: Retry = None,
        status_change_callback: Callable[..., Any] | None = None,
        tags: Sequence[str] | str | None = None,
        output_uri: str | bool | None = None,
        draft: bool | None = False,
        working_dir: str | None = None,
        continue_behaviour: dict[str, bool] | None = None,
        stage: str | None = None,
        *,
        memory_limit_mb: float | None = None,
        cpu_limit_s: float | None = None,
        nice: int | None = None,
    ) -> bool:
        """Add a step that runs a function.

        Args:
            name: of the step.
            function: what it runs.
            function_kwargs: arguments; ``${STEP.RESULT}`` is a result of another step, ``${pipeline.NAME}`` a parameter. What
                is left out takes its default.
            function_return: names of its results.
            project_name: project of the step's task, unless the pipeline has a `target_project`.
            task_name: recorded: the task is called like the step (ClearML's rule for pipelines).
            helper_functions, parents, execution_queue, packages, repo, memory_limit_mb, …: as for components.

        Returns:
            True.

        Raises:
            BadPipeline: the name is taken or ``pipeline``.
            TypeError: an argument that the function does not have.
        """
        self._check_name(name)
        limited = limits.checked(f"step {name!r}", memory_limit_mb, cpu_limit_s, nice)
        given = arguments.bind(inspect.signature(function), (), dict(function_kwargs or {}), name)
        recorded = record("add_function_step", locals())
        common = dag.Common(
            parents,
            execution_queue,
            monitor_metrics,
            monitor_artifacts,
            monitor_models,
            time_limit,
            continue_on_fail,
            continue_behaviour,
            cache_executed_step,
            retry_on_failure,
            pre_execute_callback,
            post_execute_callback,
            status_change_callback,
            recorded,
        )
        spec = common.spec(
            name,
            states.task_type(task_type or None),
            function,
            references.steps_in([given, execution_queue]),
            returns=arguments.result_names(function_return),
            helpers=tuple(helper_functions or ()),
            tags=tuple(tags_of(tags)),
            draft=bool(draft),
            project=project_name,
            needs=needs.of_call(name, locals(), limited),
        )
        node = common.node(spec, {f"kwargs/{key}": value for key, value in given.items()})
        self._plans[name] = dag.Plan(node, spec, given)
        return True

    def _check_name(self, name: str) -> None:
        if self._started is not None:
            raise errors.UsageError(f"step {name!r} comes too late: the pipeline has been started")
        naming.checked("step", name)
        if name == "pipeline" or name in self._plans:
            why = "is the pipeline itself" if name == "pipeline" else "is taken"
            raise errors.BadPipeline(f"a step cannot be called {name!r}: that name {why}")


def _not_a_function() -> None:
    """Stands in a step that copies a task."""
