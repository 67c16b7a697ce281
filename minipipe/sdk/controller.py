"""Pipelines from tasks and functions by hand (ClearML's `PipelineController`): a DAG that is written first and started then.

It is a thin front end of `minipipe.sdk.run`, like the decorators: starting it submits every step at once, as rows, edges and
references; from there the store and the workers move them.
"""

from __future__ import annotations

import inspect
import keyword
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from minipipe import context, errors, states
from minipipe.sdk import arguments, dag, existing, launch, pipeline, references, saying, session, templates, versions
from minipipe.sdk.node import Node as _Node
from minipipe.sdk.pipeline import record
from minipipe.sdk.run import Retry, Run
from minipipe.sdk.task import Task
from minipipe.sdk.task_base import TaskBase
from minipipe.store import edits
from minipipe.store.placeholders import PATTERN, split

_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict, "tuple": tuple}


class PipelineController(pipeline.RunningPipeline):
    """A pipeline whose steps are added one by one."""

    Node = _Node
    _fetched = False
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
        """A new pipeline. Its task is made when it is first needed; a main task (`Task.init`) becomes the pipeline's, and the
        pipeline takes its name and project (ClearML's rule).

        Args:
            name, project, version, abort_on_failure, …: see `PipelineDecorator.pipeline`.
            target_project: project of the step tasks; True is that of the pipeline's task.
            always_create_from_code: False is not offered yet.
            auto_version_bump: ClearML's; without effect there too.

        Raises:
            BadPipeline: the version is not a PEP 440 string.
            NotSupported: `always_create_from_code` is False.
        """
        if not always_create_from_code:
            raise errors.NotSupported("PipelineController(always_create_from_code=False) is not offered yet", hint="leave it out")
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
            version=versions.checked(version),
            add_pipeline_tags=add_pipeline_tags,
            target_project=target_project,
            abort_on_failure=abort_on_failure,
            add_run_number=add_run_number,
            retry=retry_on_failure,
            recorded=recorded,
            local_imports=enable_local_imports,
        )
        self._plans: dict[str, dag.Plan] = {}
        self._parameters: dict[str, Any] = {}
        self._types: dict[str, Any] = {}
        self._descriptions: dict[str, str] = {}
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
        self._descriptions[str(name)] = description or ""

    def get_parameters(self) -> dict[str, Any]:
        """The pipeline's parameters: name -> typed value."""
        if self._plans or self._parameters or self._made is None:
            return dict(self._parameters)
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
    ) -> bool:
        """Add a step that runs a copy of a task.

        Args:
            name: of the step.
            base_task_id, base_task_project, base_task_name: the task to copy, by id or by exact project and name (the newest
                that did not fail).
            parents: steps that have to succeed first; references add to them.
            parameter_override: {"Section/name": value}; values may hold ``${…}`` (see `minipipe.sdk.references`).
            configuration_overrides: {name: text or dict}; taken as it is, so that HOCON keeps its own ``${…}``.
            execution_queue, monitor_metrics, monitor_artifacts, time_limit (seconds), continue_on_fail, pre_execute_callback,
                post_execute_callback, status_change_callback, retry_on_failure, cache_executed_step: as for components.
            task_overrides, clone_base_task=False, base_task_factory: not offered yet.
            recursively_parse_parameters: always on.
            monitor_models, output_uri, stage: recorded.

        Returns:
            True.

        Raises:
            BadPipeline: the name is taken or ``pipeline``, a key without section.
            NotFound: no such task.
            NotSupported: an argument that is not offered yet.
        """
        self._check_name(name)
        for given, what in ((task_overrides, "task_overrides"), (base_task_factory, "base_task_factory")):
            if given:
                raise errors.NotSupported(f"add_step({what}=…) is not offered yet", hint="parameter_override")
        if not clone_base_task:
            raise errors.NotSupported("add_step(clone_base_task=False) is not offered yet", hint="let the step run a copy")
        overrides = {str(key): value for key, value in (parameter_override or {}).items()}
        for key in overrides:
            if "/" not in key:
                raise errors.BadPipeline(f"step {name!r}: parameter_override key {key!r} has no section", hint=f"General/{key}")
        common = dag.Common(
            parents,
            execution_queue,
            monitor_metrics,
            monitor_artifacts,
            time_limit,
            continue_on_fail,
            continue_behaviour,
            cache_executed_step,
            retry_on_failure,
            pre_execute_callback,
            post_execute_callback,
            status_change_callback,
            record("add_step", {"monitor_models": monitor_models, "output_uri": output_uri, "stage": stage}),
        )
        template = templates.find(name, base_task_id, base_task_project, base_task_name)
        spec = common.spec(name, template.task_type, _not_a_function, references.steps_in(overrides))
        node = common.node(spec, overrides)
        node.base_task_id = template.id
        configurations = dict(configuration_overrides or {})
        node.configurations = dict(configurations)
        self._plans[name] = dag.Plan(node, spec, {}, template, overrides, configurations)
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
            function_kwargs: arguments; ``${STEP.RESULT}`` is a result of another step, ``${pipeline.NAME}`` a parameter. What
                is left out takes its default.
            function_return: names of its results.
            project_name: project of the step's task, unless the pipeline has a `target_project`.
            task_name: recorded: the task is called like the step (ClearML's rule for pipelines).
            helper_functions, parents, execution_queue, …: as for components.

        Returns:
            True.

        Raises:
            BadPipeline: the name is taken or ``pipeline``.
            TypeError: an argument that the function does not have.
        """
        self._check_name(name)
        given = arguments.bind(inspect.signature(function), (), dict(function_kwargs or {}), name)
        recorded = record(
            "add_function_step",
            {
                "task_name": task_name,
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
        common = dag.Common(
            parents,
            execution_queue,
            monitor_metrics,
            monitor_artifacts,
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
            str(task_type or states.TaskTypes.training),
            function,
            references.steps_in(given),
            returns=arguments.result_names(function_return),
            helpers=tuple(helper_functions or ()),
            tags=(tags,) if isinstance(tags, str) else tuple(tags or ()),
            draft=bool(draft),
            project=project_name,
        )
        node = common.node(spec, {f"kwargs/{key}": value for key, value in given.items()})
        self._plans[name] = dag.Plan(node, spec, given)
        return True

    def _check_name(self, name: str) -> None:
        if self._started is not None:
            raise errors.UsageError(f"step {name!r} comes too late: the pipeline has been started")
        if name == "pipeline" or name in self._plans:
            why = "is the pipeline itself" if name == "pipeline" else "is taken"
            raise errors.BadPipeline(f"a step cannot be called {name!r}: that name {why}")

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
        if self._started is not None:
            return True  # once is enough (ClearML's rule)
        order = self._verify()
        if not _is_worker():
            launch.check_script(self._definition)
            launch.send(self._make(), str(queue) if queue else None)
            sys.stdout.flush()
            sys.exit(0)
        self._run(order, "remote")
        if wait:
            self._finish(raises=True)
        else:
            self._loose = True
            context.before_end(self._end_loose)
        return True

    def start_locally(self, run_pipeline_steps_locally: bool = False) -> None:
        """Run the pipeline's logic here and wait for its end.

        Args:
            run_pipeline_steps_locally: steps run as processes of this machine, without a worker; else they go to their queues.

        A failed pipeline prints its error; this returns, and the process exits with 1 (unless it asks for another code itself).

        Raises:
            BadPipeline: the DAG cannot be run. Nothing was queued.
        """
        if self._started is not None:
            return
        order = self._verify()
        self._run(order, "local" if run_pipeline_steps_locally else "remote")
        self._finish(raises=False)

    def create_draft(self) -> None:
        """Store the pipeline as a draft that can be cloned and enqueued; this process goes on.

        Raises:
            BadPipeline: the DAG cannot be run. Nothing was stored.
        """
        self._verify()
        launch.check_script(self._definition)
        launch.leave(self._make())

    def _make(self) -> launch.Made:
        """The stored run with all that was said of it."""
        if self._made is None:
            self._made = launch.make(self._described(), self._parameters, self._signature())
        else:
            launch.complete(self._made, self._described(), self._parameters, self._signature())
        return self._made

    def _described(self) -> launch.Definition:
        return replace(self._definition, descriptions=self._descriptions)

    def _place(self) -> session.Current:
        """Where the pipeline's task is; it is stored as a draft when this is first asked for."""
        if self._started is not None:
            return super()._place()
        if self._made is None:
            self._made = launch.make(self._described(), self._parameters, self._signature(), settings=False)
        return session.Current(session.open_store(), self._made.id, self._made.uid, None)

    def _signature(self) -> inspect.Signature:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature(
            [
                inspect.Parameter(name, kind, default=value, annotation=self._types[name])
                for name, value in self._parameters.items()
                if name.isidentifier() and not keyword.iskeyword(name)
            ]
        )

    def _verify(self) -> list[str]:
        """The steps in an order in which each comes after its parents.

        Raises:
            BadPipeline: see `start`.
        """
        if self._fetched:
            raise errors.UsageError("a pipeline that was looked up is not started here", hint="PipelineController.enqueue(pipeline)")
        return dag.verify(self._plans, self._parameters)

    def _run(self, order: list[str], mode: str) -> None:
        """Begin the run and submit all steps; what goes wrong after the beginning is kept for `_finish`."""
        made = self._make() if self._made is not None else None
        run, given = launch.begin(self._described(), self._parameters, self._signature(), mode, self._default_queue, made)
        self._parameters = given
        self._attach(run)
        if run.callbacks is not None:
            run.callbacks.pipeline = self
        try:
            run.limit(self._limit_minutes)
            for name in order:
                if run.marked:  # a callback has stopped the pipeline
                    break
                self._submit(run, self._plans[name])
        except BaseException as error:
            self._error = error

    def _submit(self, run: Run, plan: dag.Plan) -> None:
        queue = references.fill(plan.spec.queue, self._parameters) if plan.spec.queue else None
        spec = replace(plan.spec, node=plan.node, queue=str(queue) if queue else None)
        spec = pipeline.with_callbacks(spec, self._created_callback, self._completed_callback)
        if plan.template is not None:
            copy = templates.copy_of(plan, spec, self._parameters)
            plan.node.parameters = {key: references.fill(value, self._parameters) for key, value in plan.overrides.items()}
            run.submit_copy(spec, copy)
            return
        values: dict[str, Any] = {}
        waiting = []
        for name, value in plan.values.items():
            values[name] = references.fill(value, self._parameters, lambda text: self._lazy(run, text))
            if type(value) is str and references.has_step_reference(value) and self._result(value) is None:
                values[name] = references.fill(value, self._parameters)
                waiting.append(("kwargs", name, values[name]))
        plan.node.parameters = {f"kwargs/{name}": value for name, value in values.items()}
        run.submit(spec, values, tuple(waiting))

    def _result(self, text: str) -> tuple[str, str] | None:
        """Step and name of the result that a text stands for; None for any other text."""
        whole = PATTERN.fullmatch(text)
        parts = split(whole[1]) if whole else []
        if len(parts) == 2 and parts[0] in self._plans and parts[1] in self._plans[parts[0]].spec.returns:
            return parts[0], parts[1]
        return None

    def _lazy(self, run: Run, text: str) -> Any:
        found = self._result(text)
        if found is not None:
            return run.lazy(run.steps[found[0]], found[1])
        return run.lazy_text(run.steps[references.steps_in(text)[0]], references.fill(text, self._parameters))

    def _finish(self, raises: bool) -> None:
        """End the run. A failure is raised, or (`raises` False) said on stderr and by the exit code of the process."""
        run = self._live
        if run.ended is not None:
            return
        error, self._error = self._error, None
        try:
            launch.end(run, self._definition, None, error)
        except Exception as failure:
            unusable = error is not None and failure is error and failure is not run.failure and not isinstance(error, errors.WorkFailed)
            interrupted = self.task.status == states.STOPPED and not run.marked
            if raises or unusable or interrupted:
                raise
            saying.complain(failure)

    def stop(self, timeout: float | None = None, mark_failed: bool = False, mark_aborted: bool = False) -> None:
        """Stop the steps that still run and skip those that wait.

        Args:
            timeout: minutes to wait for their end; None waits until they have ended.
            mark_failed, mark_aborted: how the pipeline ends; else completed, unless a step failed.
        """
        super().stop(timeout, mark_failed, mark_aborted)
        self.wait(0.0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` minutes for the end of the pipeline; True if it has ended, or was never started."""
        ended = super().wait(timeout)
        if ended and self._loose and threading.current_thread() is threading.main_thread():
            try:
                self._finish(raises=True)
            except Exception as error:
                self._late = error  # the task fails with it when the script has ended
        return ended

    def _end_loose(self) -> None:
        """The script of a pipeline that was started with ``wait=False`` has ended: the pipeline may not have."""
        self.wait()
        if self._late is not None:
            raise self._late

    # -- configuration ------------------------------------------------------------------------------------------------

    def connect_configuration(
        self, configuration: Mapping[str, Any] | list[Any] | str, name: str | None = None, description: str | None = None
    ) -> Any:
        """Record a dict, a list or a file with the pipeline's task; on a worker the stored one takes its place.

        See `Task.connect_configuration`.
        """
        current, task = Task.current_task(), self.task
        return (current if current is not None and current.id == task.id else task).connect_configuration(
            configuration, name, description
        )

    # -- looking ------------------------------------------------------------------------------------------------------

    def get_pipeline_dag(self) -> dict[str, _Node]:
        """All steps: name -> node."""
        if self._fetched:
            return existing.nodes(self._place())
        return {name: plan.node for name, plan in self._plans.items()}

    def get_processed_nodes(self) -> dict[str, _Node]:
        """Steps that have ended and let their children run: name -> node."""
        return {name: node for name, node in self.get_pipeline_dag().items() if node.executed}

    def get_running_nodes(self) -> dict[str, _Node]:
        """Steps that run or wait in a queue: name -> node."""
        return {name: node for name, node in self.get_pipeline_dag().items() if node.status in ("running", "queued")}

    def update_execution_plot(self) -> None:
        """The graph is always current: returns at once."""

    def __repr__(self) -> str:
        return f"<PipelineController {self._definition.name!r} ({self._definition.project}), {len(self.get_pipeline_dag())} steps>"

    # -- pipelines of the store ---------------------------------------------------------------------------------------

    @classmethod
    def get(
        cls,
        pipeline_id: str | None = None,
        pipeline_project: str | None = None,
        pipeline_name: str | None = None,
        pipeline_version: str | None = None,
        pipeline_tags: Sequence[str] | None = None,
        shallow_search: bool = False,
    ) -> PipelineController:
        """A stored pipeline: by id, or the one of a name with the highest version, the newest of equal ones.

        Args:
            pipeline_id: id of its task; excludes project and name.
            pipeline_project, pipeline_name: exact.
            pipeline_version: exactly this one.
            pipeline_tags: it has one of these.
            shallow_search: accepted; there is no second page.

        Raises:
            NotFound: there is none.
            UsageError: an id and a name, or neither.
        """
        return cls._of(existing.find(pipeline_id, pipeline_project, pipeline_name, pipeline_version, pipeline_tags))

    @classmethod
    def clone(
        cls,
        pipeline_controller: PipelineController | str,
        name: str | None = None,
        comment: str | None = None,
        parent: str | None = None,
        project: str | None = None,
        version: str | None = None,
    ) -> PipelineController:
        """Copy a pipeline as a draft; parameters of its task may be changed before it is enqueued.

        Args:
            pipeline_controller: the pipeline or its id.
            name: default the source's.
            comment: default the source's.
            parent: id of its parent; default the source's parent, else the source.
            project: where pipelines of that name live; default the source's.
            version: default the source's.

        Transaction effect: one durable commit, two with a version.
        """
        versions.checked(version)
        source = pipeline_controller if isinstance(pipeline_controller, PipelineController) else cls.get(pipeline_controller)
        place = None
        if name or project:
            definition = source._definition
            place = replace(definition, name=name or definition.name, project=project or definition.project, own_project="").hidden_project
        made = Task.clone(source.task, name, comment, parent, place)
        if version:
            edits.label(made.store, made.row_id, version=version)
        return cls._of(made)

    @classmethod
    def enqueue(
        cls,
        pipeline_controller: PipelineController | str,
        queue_name: str | None = None,
        queue_id: str | None = None,
        force: bool = False,
    ) -> Any:
        """Put a draft, failed or stopped pipeline into a queue; see `Task.enqueue`.

        Args:
            pipeline_controller: the pipeline or its id.
            queue_name, queue_id: the queue; default the one that it would run from.
            force: reset a pipeline that completed first.
        """
        found = pipeline_controller if isinstance(pipeline_controller, PipelineController) else cls.get(pipeline_controller)
        if not queue_name and not queue_id:
            queue_name = found.task.get_executed_queue(return_name=True) or "services"
        return Task.enqueue(found.task, queue_name, queue_id, force)

    @classmethod
    def _of(cls, task: TaskBase) -> PipelineController:
        """A pipeline of the store as an object: to look at, clone, enqueue."""
        known = Task(task.store, task.row_id, task.id)
        project = known.get_project_name()
        before = pipeline.written()
        found = cls(known.name.partition(" #")[0], project.partition("/.pipelines/")[0])
        pipeline.write_down(before)
        found._definition = replace(found._definition, own_project=project)
        found._made = launch.Made(known.row_id, known.id, found._definition)
        found._fetched = True
        return found


def _not_a_function() -> None:
    """Stands in a step that copies a task."""


def _is_worker() -> bool:
    running = context.running()
    return bool(running and running.worker_mode)
