"""Pipelines from tasks and functions by hand (ClearML's `PipelineController`): a DAG that is written first and started then.

It is a thin front end of `minipipe.sdk.run`, like the decorators: starting it submits every step at once, as rows, edges and
references; from there the store and the workers move them.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minipipe import context, errors, hashing, states
from minipipe.sdk import launch, maintask, pipeline, references, session
from minipipe.sdk.node import Node as _Node
from minipipe.sdk.pipeline import monitors_of, record, tolerates
from minipipe.sdk.run import Retry, Run, StepSpec
from minipipe.sdk.task import Task
from minipipe.sdk.values import cell, split_name
from minipipe.store import edits, tasks

_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict}
_TEMPLATES = "('created', 'queued', 'in_progress', 'published', 'stopped', 'completed')"


@dataclass(slots=True)
class _Plan:
    """A step as it was added; becomes a task when the pipeline starts."""

    node: _Node
    spec: StepSpec
    values: dict[str, Any] = field(default_factory=dict)
    template: Task | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    configurations: dict[str, Any] = field(default_factory=dict)
    clone: bool = True


class PipelineController(pipeline.RunningPipeline):
    """A pipeline whose steps are added one by one."""

    Node = _Node
    valid_job_status = ("failed", "cached", "completed", "aborted", "queued", "running", "skipped", "pending")

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
        """A new pipeline. See `PipelineDecorator.pipeline` for the arguments; `target_project` True puts steps into the project.

        Raises:
            BadPipeline: the version is not a PEP 440 string.
        """
        recorded = record(
            "PipelineController",
            {
                "docker": docker,
                "docker_args": docker_args,
                "docker_bash_setup_script": docker_bash_setup_script,
                "packages": packages,
                "repo": repo,
                "repo_branch": repo_branch,
                "repo_commit": repo_commit,
                "artifact_serialization_function": artifact_serialization_function,
                "artifact_deserialization_function": artifact_deserialization_function,
                "output_uri": output_uri,
                "working_dir": working_dir,
            },
        )
        self._definition = launch.Definition(
            name=name,
            project=project,
            version=launch.checked_version(version),
            add_pipeline_tags=add_pipeline_tags,
            target_project=target_project,
            abort_on_failure=abort_on_failure,
            add_run_number=add_run_number,
            retry=retry_on_failure,
            recorded=recorded,
            local_imports=enable_local_imports,
        )
        self._plans: dict[str, _Plan] = {}
        self._parameters: dict[str, Any] = {}
        self._types: dict[str, Any] = {}
        self._descriptions: dict[str, str] = {}
        self._default_queue: str | None = None
        self._limit_minutes: float | None = None
        self._made: tasks.Submitted | None = None
        self._started: Run | None = None
        self._created_callback: Callable[..., Any] | None = None
        self._completed_callback: Callable[..., Any] | None = None

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
        wanted = _TYPES.get(str(param_type)) if param_type else type(default) if default is not None else None
        self._types[str(name)] = wanted or inspect.Parameter.empty
        self._descriptions[str(name)] = description or ""

    def get_parameters(self) -> dict[str, Any]:
        """The pipeline's parameters: name -> typed value."""
        return dict(self._parameters) if self._started is None else super().get_parameters()

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
    ) -> bool:
        """Add a step that runs a copy of a task.

        Args:
            name: of the step.
            base_task_id, base_task_project, base_task_name: the task to copy, by id or by exact project and name (the newest
                that did not fail).
            parents: steps that have to succeed first; references add to them.
            parameter_override: {"Section/name": value}; values may hold ``${…}`` (see `minipipe.sdk.references`).
            configuration_overrides: {name: text or dict}.
            execution_queue, monitor_metrics, monitor_artifacts, time_limit (seconds), continue_on_fail, pre_execute_callback,
                post_execute_callback, status_change_callback, retry_on_failure, cache_executed_step: as for components.
            task_overrides, clone_base_task=False, base_task_factory: not offered yet.
            recursively_parse_parameters: always on.
            monitor_models, output_uri, stage: recorded.

        Returns:
            True.

        Raises:
            BadPipeline: the name is taken or ``pipeline``, no such task, a key without section.
            NotSupported: an argument that is not offered yet.
        """
        self._check_name(name)
        for given, what in ((task_overrides, "task_overrides"), (base_task_factory, "base_task_factory")):
            if given:
                raise errors.NotSupported(f"add_step({what}=…) is not offered yet", hint="parameter_override")
        if not clone_base_task:
            raise errors.NotSupported("add_step(clone_base_task=False) is not offered yet", hint="let the step run a copy")
        template = _template(name, base_task_id, base_task_project, base_task_name)
        overrides = dict(parameter_override or {})
        for key in overrides:
            if "/" not in str(key):
                raise errors.BadPipeline(f"step {name!r}: parameter_override key {key!r} has no section", hint=f"General/{key}")
        spec = self._spec(
            name,
            template.task_type,
            _not_a_function,
            (),
            execution_queue=execution_queue,
            parents=[*(parents or ()), *references.steps_in([overrides, dict(configuration_overrides or {})])],
            cache=cache_executed_step,
            tolerated=tolerates(continue_on_fail, continue_behaviour),
            retry=retry_on_failure,
            time_limit=time_limit,
            monitors=(monitor_metrics, monitor_artifacts),
            callbacks=(pre_execute_callback, post_execute_callback, status_change_callback),
            recorded=record("add_step", {"monitor_models": monitor_models, "output_uri": output_uri, "stage": stage}),
        )
        node = self._node(spec)
        node.base_task_id = template.id
        node.parameters = dict(overrides)
        self._plans[name] = _Plan(node, spec, {}, template, overrides, dict(configuration_overrides or {}))
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
    ) -> bool:
        """Add a step that runs a function.

        Args:
            name: of the step.
            function: what it runs.
            function_kwargs: arguments; ``${STEP.RESULT}`` is a result of another step, ``${pipeline.NAME}`` a parameter. None means
                all arguments of the function with their defaults.
            function_return: names of its results.
            helper_functions, parents, execution_queue, …: as for components.

        Returns:
            True.

        Raises:
            BadPipeline: the name is taken or ``pipeline``.
            TypeError: an argument that the function does not have.
        """
        self._check_name(name)
        given = dict(function_kwargs or {})
        recorded = record(
            "add_function_step",
            {
                "docker": docker,
                "docker_args": docker_args,
                "docker_bash_setup_script": docker_bash_setup_script,
                "packages": packages,
                "repo": repo,
                "repo_branch": repo_branch,
                "repo_commit": repo_commit,
                "auto_connect_frameworks": auto_connect_frameworks,
                "auto_connect_arg_parser": auto_connect_arg_parser,
                "monitor_models": monitor_models,
                "output_uri": output_uri,
                "working_dir": working_dir,
                "stage": stage,
            },
        )
        spec = self._spec(
            name,
            str(task_type or states.TaskTypes.training),
            function,
            tuple([function_return] if isinstance(function_return, str) else function_return or ()),
            execution_queue=execution_queue,
            parents=[*(parents or ()), *references.steps_in(given)],
            cache=cache_executed_step,
            tolerated=tolerates(continue_on_fail, continue_behaviour),
            retry=retry_on_failure,
            time_limit=time_limit,
            monitors=(monitor_metrics, monitor_artifacts),
            callbacks=(pre_execute_callback, post_execute_callback, status_change_callback),
            recorded=recorded,
            helpers=tuple(helper_functions or ()),
            tags=(tags,) if isinstance(tags, str) else tuple(tags or ()),
            draft=bool(draft),
        )
        node = self._node(spec)
        node.parameters = {f"kwargs/{key}": value for key, value in given.items()}
        self._plans[name] = _Plan(node, spec, given)
        return True

    def _check_name(self, name: str) -> None:
        if name == "pipeline" or name in self._plans:
            why = "is the pipeline itself" if name == "pipeline" else "is taken"
            raise errors.BadPipeline(f"a step cannot be called {name!r}: that name {why}")

    def _spec(
        self,
        name: str,
        task_type: str,
        function: Callable[..., Any],
        returns: tuple[str, ...],
        *,
        execution_queue: str | None,
        parents: list[str],
        cache: bool,
        tolerated: bool,
        retry: Retry,
        time_limit: float | None,
        monitors: tuple[list[Any] | None, list[Any] | None],
        callbacks: tuple[Callable[..., Any] | None, Callable[..., Any] | None, Callable[..., Any] | None],
        recorded: dict[str, Any],
        **more: Any,
    ) -> StepSpec:
        return StepSpec(
            name=name,
            function=function,
            returns=returns,
            task_type=task_type,
            cache=cache,
            queue=str(execution_queue) if execution_queue else None,
            parents=tuple(dict.fromkeys(parents)),
            tolerated=tolerated,
            retry=retry,
            time_limit_s=time_limit,
            monitors=monitors_of(*monitors),
            recorded=recorded,
            before=callbacks[0],
            after=callbacks[1],
            on_status=callbacks[2],
            **more,
        )

    def _node(self, spec: StepSpec) -> _Node:
        node = _Node(spec.name)
        node.parents = list(spec.parents)
        node.queue = spec.queue
        node.return_artifacts = list(spec.returns)
        node.cache_executed_step = bool(spec.cache)
        node.continue_on_fail = spec.tolerated
        node.timeout = spec.time_limit_s
        return node

    # -- starting -----------------------------------------------------------------------------------------------------

    def start(
        self,
        queue: str | None = "services",
        step_task_created_callback: Callable[..., Any] | None = None,
        step_task_completed_callback: Callable[..., Any] | None = None,
        wait: bool = True,
    ) -> bool:
        """Leave the pipeline to a worker: enqueue it and end this process; there, run it.

        Args:
            queue: queue of the pipeline itself; None leaves a draft.
            step_task_created_callback: (pipeline, node, parameters) before each step; False skips it.
            step_task_completed_callback: (pipeline, node) after each step.
            wait: on the worker, return only when the pipeline has ended.

        Returns:
            True (on the worker).

        Raises:
            BadPipeline: the DAG cannot be run: a cycle (its path is shown), an unknown parent or reference. Nothing was queued.
            RunFailed: on the worker, the pipeline failed.
        """
        self._created_callback, self._completed_callback = step_task_created_callback, step_task_completed_callback
        order = self._verify()
        if context.running() is None or not _is_worker():
            made = self._create()
            if queue:
                tasks.enqueue(session.open_store(), made.id, str(queue), session.name())
            launch.announce(session.open_store(), made.id)
            launch.note_unserved(session.open_store(), str(queue) if queue else None)
            maintask.forget()
            sys.stdout.flush()
            sys.exit(0)
        self._run(order, "remote")
        if wait:
            self._finish(raises=True)
        return True

    def start_locally(self, run_pipeline_steps_locally: bool = False) -> None:
        """Run the pipeline's logic here and wait for its end.

        Args:
            run_pipeline_steps_locally: steps run as processes of this machine, without a worker; else they go to their queues.

        A failed pipeline prints its error; this returns, and the process exits with 1 (unless it asks for another code itself).

        Raises:
            BadPipeline: the DAG cannot be run. Nothing was queued.
        """
        order = self._verify()
        self._run(order, "local" if run_pipeline_steps_locally else "remote")
        self._finish(raises=False)

    def create_draft(self) -> None:
        """Store the pipeline as a draft that can be cloned and enqueued; this process goes on."""
        self._verify()
        self._create()

    def _create(self) -> tasks.Submitted:
        if self._made is None:
            self._made = launch.create(self._definition, self._parameters, self._signature())
        return self._made

    def _signature(self) -> inspect.Signature:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature(
            [
                inspect.Parameter(name, kind, default=value, annotation=self._types[name])
                for name, value in self._parameters.items()
                if name.isidentifier()
            ]
        )

    def _verify(self) -> list[str]:
        """The steps in an order in which each comes after its parents.

        Raises:
            BadPipeline: see `start`.
        """
        results = {name: plan.spec.returns for name, plan in self._plans.items()}
        checker = references.Checker(results, self._parameters)
        for name, plan in self._plans.items():
            for parent in plan.spec.parents:
                if parent not in self._plans:
                    raise errors.BadPipeline(
                        f"step {name!r}: no step {parent!r} to wait for", f"steps: {', '.join(self._plans)}", near(parent, self._plans)
                    )
            for argument, value in plan.values.items():
                checker.check(name, argument, value, True)
            for argument, value in {**plan.overrides, **plan.configurations}.items():
                checker.check(name, argument, value, False)
            if plan.template is None:
                inspect.signature(plan.spec.function).bind_partial(**plan.values)
        return _order({name: plan.spec.parents for name, plan in self._plans.items()})

    def _run(self, order: list[str], mode: str) -> None:
        run, given = launch.begin(
            self._definition, self._parameters, self._signature(), mode, self._default_queue, self._made
        )
        self._parameters = given
        self._attach(run)
        self._started = run
        run.limit(self._limit_minutes)
        if run.callbacks is not None:
            run.callbacks.pipeline = self
        for name in order:
            self._submit(run, self._plans[name])

    def _submit(self, run: Run, plan: _Plan) -> None:
        spec = replace(
            pipeline.with_callbacks(plan.spec, self._created_callback, self._completed_callback), node=plan.node
        )
        if plan.template is None:

            def result(step: str, name: str) -> Any:
                return run.lazy(run.steps[step], name)

            values = {key: references.fill(value, self._parameters, result) for key, value in plan.values.items()}
            values = pipeline.all_arguments(spec.function, values)
            pending = tuple(("kwargs", key, text) for key, text in values.items() if isinstance(text, str) and "${" in text)
            run.submit(spec, values, pending)
        else:
            run.submit_copy(spec, self._copy_of(plan, spec))

    def _copy_of(self, plan: _Plan, spec: StepSpec) -> tasks.NewTask:
        template = plan.template
        assert template is not None
        filled = {key: references.fill(value, self._parameters) for key, value in plan.overrides.items()}
        cells = [cell(*split_name(key), value) for key, value in filled.items() if not references.has_step_reference(value)]
        waiting = tuple((*split_name(key), str(value)) for key, value in filled.items() if references.has_step_reference(value))
        entry = edits.facts(template.store, template.row_id)
        return tasks.NewTask(
            type=template.task_type,
            name=spec.name,
            project=_project_of(self._definition),
            entry=entry,
            template_id=template.row_id,
            time_limit_s=spec.time_limit_s,
            tolerated=spec.tolerated,
            key_base=hashing.combine("script", str(entry.get("source")), entry.get("module", "")),
            settings=spec.recorded,
            parameters=tuple(cells),
            placeholders=waiting,
            configurations=tuple((name, pipeline.text_of(value)) for name, value in plan.configurations.items()),
            monitors=spec.monitors,
            tags=spec.tags,
        )

    def _finish(self, raises: bool) -> None:
        run = self._started
        assert run is not None
        try:
            launch.end(run, self._definition, None, None)
        except errors.MinipipeError as error:
            if raises:
                raise
            launch.complain(error)

    # -- looking ------------------------------------------------------------------------------------------------------

    def get_pipeline_dag(self) -> dict[str, _Node]:
        """All steps: name -> node."""
        return {name: plan.node for name, plan in self._plans.items()}

    def get_processed_nodes(self) -> dict[str, _Node]:
        """Steps that have ended."""
        return {name: node for name, node in self.get_pipeline_dag().items() if node.job is not None and node.job.is_stopped()}

    def get_running_nodes(self) -> dict[str, _Node]:
        """Steps that run or wait in a queue."""
        busy = ("running", "queued")
        return {name: node for name, node in self.get_pipeline_dag().items() if node.status in busy}

    def update_execution_plot(self) -> None:
        """The graph is always current: returns at once."""

    @property
    def id(self) -> str:
        """Id of the pipeline's task; the task is stored as a draft when this is first asked for."""
        return self._started.uid if self._started is not None else self._create().uid

    @property
    def task(self) -> Task:
        """The pipeline's task."""
        return Task.by_id(self.id)


def near(name: str, known: Any) -> str:
    """A hint with the nearest known name."""
    found = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {found[0]!r}?" if found else "add the parent first"


def _not_a_function() -> None:
    """Stands in a step that copies a task."""


def _is_worker() -> bool:
    running = context.running()
    return bool(running and running.worker_mode)


def _project_of(definition: launch.Definition) -> str:
    if definition.target_project is True:
        return definition.project
    return str(definition.target_project) if definition.target_project else definition.hidden_project


def _template(step: str, task_id: str | None, project: str | None, name: str | None) -> Task:
    if task_id:
        return Task.by_id(task_id)
    store = session.open_store()
    row = store.database.row(
        "SELECT t.id, t.uid FROM task t JOIN project p ON p.id = t.project_id WHERE p.name = ? AND t.name = ?"
        f" AND t.status IN {_TEMPLATES} ORDER BY t.archived, t.updated_at DESC, t.id DESC LIMIT 1",
        (project, name),
    )
    if row is None:
        raise errors.NotFound(
            f"no task {name!r} in project {project!r}", f"step {step!r} copies it", "`minipipe run` the script that registers it"
        )
    return Task(store, row["id"], row["uid"])


def _order(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """The names so that each comes after its parents.

    Raises:
        BadPipeline: they wait for each other; the path is shown.
    """
    done: list[str] = []
    path: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in path:
            circle = [*path[path.index(name) :], name]
            raise errors.BadPipeline(f"steps wait for each other: {' -> '.join(reversed(circle))}", "nothing was queued")
        path.append(name)
        for parent in parents[name]:
            visit(parent)
        path.pop()
        done.append(name)

    for name in parents:
        visit(name)
    return done
