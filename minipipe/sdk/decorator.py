"""Pipelines from functions (ClearML's `PipelineDecorator`): a thin front end of `minipipe.sdk.run`.

Calling a component inside a running pipeline submits a step and returns lazy results; outside of one it is a plain function call.
Where the pipeline's logic runs is chosen as in ClearML: `debug_pipeline()` everything here as plain calls, `run_locally()` logic
here and each step in a process of its own, otherwise both on workers.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

from minipipe import context, errors, limits, states
from minipipe.sdk import arguments, display, inline, launch, multi, needs, nesting, proxy, versions
from minipipe.sdk.capture import INNER
from minipipe.sdk.definition import Definition
from minipipe.sdk.pipeline import RunningPipeline, behaviour_of, monitors_of, of_script, record
from minipipe.sdk.run import Run
from minipipe.sdk.specs import Retry, StepSpec
from minipipe.sdk.values import tags_of

P = ParamSpec("P")
R = TypeVar("R")


class PipelineDecorator(RunningPipeline):
    """A pipeline that is running here, and the decorators that make one.

    `component` and `pipeline` decorate functions; an instance is what `get_current_pipeline` and callbacks give: one run.
    """

    _mode = "remote"
    _default_queue: str | None = None
    _current: PipelineDecorator | None = None

    def __init__(self, run: Run) -> None:
        self._attach(run)

    # -- where it runs ------------------------------------------------------------------------------------------------

    @classmethod
    def run_locally(cls) -> None:
        """The next pipeline runs its logic here and each step in a process of its own, with the same Python and data path as on
        workers; no worker is needed."""
        cls._mode = "local"

    @classmethod
    def debug_pipeline(cls) -> None:
        """The next pipeline runs here as plain function calls, in order; breakpoints work; nothing is cached."""
        cls._mode = "debug"

    @classmethod
    def set_default_execution_queue(cls, default_execution_queue: str | None) -> None:
        """Queue of every component that names none."""
        cls._default_queue = None if default_execution_queue is None else str(default_execution_queue)

    @classmethod
    def get_current_pipeline(cls) -> PipelineDecorator | None:
        """The pipeline whose logic runs here, None if there is none."""
        found: PipelineDecorator | None = getattr(_thread, "pipeline", cls._current)
        return found

    @classmethod
    def wait_for_multi_pipelines(cls) -> list[Any]:
        """Wait for the pipelines that were called with ``multi_instance_support="parallel"``; their results in the order of calls.

        Raises:
            what the first of them raised that failed, once all have ended.
        """
        return multi.wait()

    # -- components ---------------------------------------------------------------------------------------------------

    @classmethod
    def component(
        cls,
        _func: Any = None,
        *,
        return_values: str | Sequence[str] = ("return_object",),
        name: str | None = None,
        cache: bool | str = False,
        packages: bool | str | Sequence[str] | None = None,
        parents: list[str] | None = None,
        execution_queue: str | None = None,
        continue_on_fail: bool = False,
        docker: str | None = None,
        docker_args: str | None = None,
        docker_bash_setup_script: str | None = None,
        task_type: str | None = None,
        auto_connect_frameworks: dict[str, Any] | None = None,
        auto_connect_arg_parser: dict[str, Any] | None = None,
        repo: str | None = None,
        repo_branch: str | None = None,
        repo_commit: str | None = None,
        helper_functions: Sequence[Callable[..., Any]] | None = None,
        monitor_metrics: list[Any] | None = None,
        monitor_artifacts: list[Any] | None = None,
        monitor_models: list[Any] | None = None,
        retry_on_failure: Retry = None,
        pre_execute_callback: Callable[..., Any] | None = None,
        post_execute_callback: Callable[..., Any] | None = None,
        status_change_callback: Callable[..., Any] | None = None,
        tags: Sequence[str] | str | None = None,
        output_uri: str | bool | None = None,
        draft: bool | None = False,
        working_dir: str | None = None,
        continue_behaviour: dict[str, bool] | None = None,
        stage: str | None = None,
        time_limit: float | None = None,
        memory_limit_mb: float | None = None,
        cpu_limit_s: float | None = None,
        nice: int | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Make a function a step of pipelines.

        Args:
            return_values: names of the results; one name holds the whole returned object, n names take n results. A single string
                is one name, commas included (ClearML's rule).
            name: of the step; default the function's.
            cache: reuse an equal earlier step; "refresh" runs it and lets it serve as the newest.
            parents: names of steps to wait for although no data comes from them.
            execution_queue: queue of the step.
            continue_on_fail: its failure does not fail the pipeline; its descendants are skipped.
            task_type: one of `TaskTypes`.
            helper_functions: may be called by name in the step, although everything that it names travels anyway.
            monitor_metrics: [(title, series)] or [((title, series), (title, series))]: mirrored onto the pipeline's task.
            monitor_artifacts: [name] or [(name, name on the pipeline)].
            monitor_models: as `monitor_artifacts`; ``*`` is the last model that the step made, a pattern the lexicographically last
                name that fits. Without another name they keep theirs.
            retry_on_failure: retries after a failed attempt, or a predicate (pipeline, node, retries so far) -> bool.
            pre_execute_callback: (pipeline, node, parameters), before launch; False skips the step.
            post_execute_callback: (pipeline, node), after its end and before its children start.
            status_change_callback: (pipeline, node, previous status).
            tags: of the step's task.
            draft: leave the step's task as a draft; the pipeline waits until a person enqueues it.
            continue_behaviour: takes the place of `continue_on_fail`: a dict of ``continue_on_fail`` and ``continue_on_abort`` (its
                ending does not fail the pipeline), ``skip_children_on_fail`` and ``skip_children_on_abort`` (else they run, and get
                None for what is missing); each True when left out.
            time_limit: seconds per attempt (minipipe's own argument, as are the next three).
            memory_limit_mb: MiB of private memory that each process of an attempt may use; more is a MemoryError.
            cpu_limit_s: CPU seconds of each process of an attempt.
            nice: 1 to 19 let the step give way to other programs.
            packages: requirements or the path of a requirements file: the step runs in a virtual environment that has them, built
                once, unless this Python has them all. None or a bool: this Python.
            repo, repo_branch, repo_commit: a local folder or git URL; the step runs in a checkout of that commit. A local
                repository without branch and commit is taken as it is, changes included.
            working_dir: the step's folder below the root of the repository, or of the project.
            docker, docker_args, docker_bash_setup_script: a container, with the setting ``containers``; without it recorded.
            auto_connect_frameworks: False, or {framework: False}: what these save and report is not captured.
            auto_connect_arg_parser, output_uri, stage: recorded.

        Raises:
            BadPipeline: a monitor list that cannot be read, or a return name given twice.
            UsageError: a requirements file that cannot be read, a commit of no repository, a limit out of its range.
        """
        limited = limits.checked("component", memory_limit_mb, cpu_limit_s, nice)
        wanted = needs.of_call("component", locals(), limited)
        recorded = record("component", locals())

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            spec = StepSpec(
                name=name or _inner(function).__name__,
                function=function,
                returns=arguments.result_names(return_values),
                task_type=states.task_type(task_type or None),
                cache=cache,
                queue=str(execution_queue) if execution_queue else None,
                parents=tuple(parents or ()),
                behaviour=behaviour_of(continue_on_fail, continue_behaviour),
                retry=retry_on_failure,
                time_limit_s=time_limit,
                helpers=tuple(helper_functions or ()),
                monitors=monitors_of(monitor_metrics, monitor_artifacts, monitor_models),
                tags=tuple(tags_of(tags)),
                draft=bool(draft),
                recorded=recorded,
                before=pre_execute_callback,
                after=post_execute_callback,
                on_status=status_change_callback,
                needs=wanted,
            )
            return _component(spec)

        return decorate(_func) if _func is not None else decorate

    # -- pipelines ----------------------------------------------------------------------------------------------------

    @classmethod
    def pipeline(
        cls,
        _func: Any = None,
        *,
        name: str,
        project: str,
        version: str | None = None,
        return_value: str | None = None,
        default_queue: str | None = None,
        pool_frequency: float = 0.2,
        add_pipeline_tags: bool = False,
        target_project: str | None = None,
        abort_on_failure: bool = False,
        pipeline_execution_queue: str | None = "services",
        multi_instance_support: bool | str = False,
        add_run_number: bool = True,
        args_map: dict[str, list[str]] | None = None,
        start_controller_locally: bool = False,
        retry_on_failure: Retry = None,
        docker: str | None = None,
        docker_args: str | None = None,
        docker_bash_setup_script: str | None = None,
        packages: bool | str | Sequence[str] | None = None,
        repo: str | None = None,
        repo_branch: str | None = None,
        repo_commit: str | None = None,
        artifact_serialization_function: Callable[[Any], bytes | bytearray] | None = None,
        artifact_deserialization_function: Callable[[bytes], Any] | None = None,
        output_uri: str | bool | None = None,
        skip_global_imports: bool = False,
        working_dir: str | None = None,
        enable_local_imports: bool = True,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Make a function the logic of a pipeline. Calling it starts a run.

        Args:
            name, project: of the pipeline; its task lives in ``<project>/.pipelines/<name>``.
            version: any PEP 440 string; default the last one of this pipeline with its last number plus 1, or 1.0.0.
            return_value: store the function's result (if not None) as an artifact of that name.
            default_queue: of components that name none.
            add_pipeline_tags: tag every step with ``pipe: <id>``.
            target_project: project of the step tasks.
            abort_on_failure: the first failed step stops everything.
            pipeline_execution_queue: queue of the logic; None runs it here and the steps on queues.
            add_run_number: the second run of a pipeline is called ``NAME #2``, and so on.
            args_map: {section: [argument names]}: store these arguments in that section instead of ``Args``.
            start_controller_locally: the logic here, the steps on queues.
            retry_on_failure: for steps that say nothing themselves.
            enable_local_imports: False keeps the script's folder out of the steps' import path.
            multi_instance_support: every call is a run of its own, also on queues: the calling process goes on. "parallel": calls
                return None at once; `wait_for_multi_pipelines` gives the results.
            packages, repo, repo_branch, repo_commit, working_dir: for steps that say nothing themselves; see `component`.
            artifact_serialization_function: makes bytes of every argument and result that is no parameter; they travel as these.
            artifact_deserialization_function: makes the value of them again, in steps and where a result is used.
            docker, docker_args, docker_bash_setup_script: as for `component`.
            pool_frequency, output_uri, skip_global_imports: recorded.

        Raises:
            BadPipeline: the version is not a PEP 440 string.
        """
        recorded = record("pipeline", locals())
        definition = Definition(
            name=name,
            project=project,
            version=versions.checked(version),
            return_value=return_value,
            default_queue=default_queue,
            add_pipeline_tags=add_pipeline_tags,
            target_project=target_project,
            abort_on_failure=abort_on_failure,
            queue=pipeline_execution_queue,
            add_run_number=add_run_number,
            sections={one: section for section, names in (args_map or {}).items() for one in names},
            here=start_controller_locally or pipeline_execution_queue is None,
            retry=retry_on_failure,
            recorded=recorded,
            local_imports=enable_local_imports,
            serialize=artifact_serialization_function,
            deserialize=artifact_deserialization_function,
            needs=needs.of_call("pipeline", locals()),
        )

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            if getattr(function, "__module__", None) == "__main__":
                of_script.append(name)

            @functools.wraps(function)
            def pipeline(*args: P.args, **kwargs: P.kwargs) -> R:
                if multi_instance_support:
                    many: R = _start_many(definition, multi_instance_support == "parallel", function, args, kwargs)
                    return many
                result: R = _start(definition, function, args, kwargs)
                return result

            return pipeline

        return decorate(_func) if _func is not None else decorate

    # -- the running pipeline -----------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return display.run_line(self._live.store, self._live.id, "PipelineDecorator", self._live.options.name)

    def _repr_html_(self) -> str | None:
        return display.task_block(self._live.store, self._live.id)


# -- components -----------------------------------------------------------------------------------------------------------


def _component(spec: StepSpec) -> Callable[..., Any]:
    function = spec.function
    signature = inspect.signature(_inner(function))

    @functools.wraps(function)
    def component(*args: Any, **kwargs: Any) -> Any:
        run = nesting.run_of_step() or _run_here(spec)
        if run is None:
            return function(*args, **kwargs)
        values = arguments.bind(signature, args, kwargs, spec.name)
        if run.debug:
            return launch.call_here(spec, args, kwargs)
        results = run.submit(spec, values)
        if not results:
            return None
        return results[0] if len(results) == 1 else results

    setattr(component, INNER, function)
    return component


def _run_here(spec: StepSpec) -> Run | None:
    """The run whose logic calls a component.

    Raises:
        UsageError: several pipelines run here at once, and this thread is of none of them.
    """
    current = _thread.pipeline if hasattr(_thread, "pipeline") else PipelineDecorator._current
    if current is None and (busy := multi.running()):
        raise errors.UsageError(
            f"component {spec.name!r} was called in a thread of its own while {busy} pipelines run at once",
            "nothing says which one is meant",
            "call it in the thread of the pipeline's function",
        )
    return current._live if current is not None else None


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose name, signature and defaults count: ``__wrapped__``, else the one function that a ``(*args, **kwargs)``
    wrapper closes over (ClearML's rule)."""
    seen = set()
    while id(function) not in seen:
        seen.add(id(function))
        wrapped = getattr(function, "__wrapped__", None)
        if callable(wrapped):
            function = wrapped
            continue
        code = getattr(function, "__code__", None)
        if (
            code is not None
            and code.co_argcount == 0
            and code.co_flags & inspect.CO_VARARGS
            and code.co_flags & inspect.CO_VARKEYWORDS
        ):
            held = [cell.cell_contents for cell in function.__closure__ or () if inspect.isfunction(cell.cell_contents)]
            if len(held) == 1:
                function = held[0]
                continue
        break
    return function


# -- pipelines ------------------------------------------------------------------------------------------------------------


def _start(definition: Definition, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    signature = _signature(function)
    values = arguments.bind(signature, args, kwargs, definition.name, depth=3)
    place = _place_of(function)
    annotations = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    usual = {name: each.default for name, each in signature.parameters.items() if each.default is not each.empty}
    definition = replace(definition, types=annotations, places=dict.fromkeys(annotations, place), usual=usual)
    mode = PipelineDecorator._mode
    if mode == "debug" and inline.active():
        mode = "local"  # here anyway, and recorded
    if launch.may_leave() and mode == "remote" and not definition.here:
        launch.enqueue(definition, values)
        sys.stdout.flush()
        sys.exit(0)  # nothing after this line runs here (ClearML's rule); the worker runs the script again
    if definition.call and not launch.is_called(definition):
        return None  # a worker executes another call of this pipeline, which is a task of its own
    run, values = launch.begin(definition, values, mode, PipelineDecorator._default_queue)
    pipeline = PipelineDecorator(run)
    before = _set_current(pipeline)
    if run.callbacks is not None:
        run.callbacks.pipeline = pipeline
    error: BaseException | None = None
    result = None
    try:
        result = function(**dict(values.items()))
    except BaseException as raised:
        error = raised
    finally:
        try:
            launch.end(run, definition, result, error)
        finally:
            _set_current(before)
    return proxy.resolve(result) if not run.debug else result


_thread = threading.local()  # threads that run a pipeline of their own have a current pipeline of their own


def _set_current(pipeline: PipelineDecorator | None) -> PipelineDecorator | None:
    """Make a pipeline the current one; gives the one before."""
    if hasattr(_thread, "pipeline"):
        before, _thread.pipeline = _thread.pipeline, pipeline
        return cast("PipelineDecorator | None", before)
    before, PipelineDecorator._current = PipelineDecorator._current, pipeline
    return before


def _start_many(definition: Definition, parallel: bool, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """A call of a pipeline with many instances: a new run each time; in parallel a thread each, and None at once."""
    definition = replace(definition, call=multi.next_call(definition.key))
    if PipelineDecorator._mode == "debug":
        return _start(definition, function, args, kwargs)
    outer, may_leave = context.running(), launch.may_leave()
    if not parallel:
        try:
            return _start(definition, function, args, kwargs)
        except SystemExit as left:
            if may_leave and left.code in (None, 0):
                return None  # it was put on a queue
            raise

    def call() -> Any:
        context.separate(outer)
        _thread.pipeline = None
        return _start(definition, function, args, kwargs)

    multi.start(call, definition.name)
    return None


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """With real annotations, also where ``from __future__ import annotations`` made texts of them."""
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # a name that only a type checker sees
        return inspect.signature(function)


def _place_of(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}" if code is not None else ""


component = PipelineDecorator.component
pipeline = PipelineDecorator.pipeline
