"""Pipelines from tasks and functions by hand (ClearML's `PipelineController`): a DAG that is written first and started then.

It is a thin front end of `minipipe.sdk.run`, like the decorators: starting it submits every step at once, as rows, edges and
references; from there the store and the workers move them.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minipipe import context, errors, states
from minipipe.sdk import (
    dag,
    display,
    edited,
    existing,
    launch,
    pipeline,
    references,
    saying,
    session,
    task_fields,
    templates,
    versions,
)
from minipipe.sdk.definition import Definition, become_pipeline, numbered
from minipipe.sdk.node import Node as _Node
from minipipe.sdk.run import Run
from minipipe.sdk.task import Task
from minipipe.sdk.task_base import TaskBase
from minipipe.sdk.written import WrittenPipeline
from minipipe.store import edits, runs
from minipipe.store.placeholders import PATTERN, split


class PipelineController(WrittenPipeline):
    """A pipeline whose steps are added one by one."""

    Node = _Node
    _fetched = False
    valid_job_status = ("failed", "cached", "completed", "aborted", "queued", "running", "skipped", "pending")

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
            self._made = launch.make(self._described(), self._parameters)
        else:
            launch.complete(self._made, self._described(), self._parameters)
        if self._editable and not _is_worker():
            edited.store(self._made.id, self._plans)
        return self._made

    def _place(self) -> session.Current:
        """Where the pipeline's task is; it is stored as a draft when this is first asked for."""
        if self._started is not None:
            return super()._place()
        if self._made is None:
            self._made = launch.make(self._described(), self._parameters, settings=False)
        return session.Current(session.open_store(), self._made.id, self._made.uid, None)

    def _verify(self) -> list[str]:
        """The steps in an order in which each comes after its parents.

        Raises:
            BadPipeline: see `start`.
        """
        if self._fetched:
            raise errors.UsageError(
                "a pipeline that was looked up is not started here", hint="PipelineController.enqueue(pipeline)"
            )
        text = edited.stored(self._definition.key) if self._editable else None
        if text is not None:
            edited.take(self, text)
        return dag.verify(self._plans, self._parameters)

    def _run(self, order: list[str], mode: str) -> None:
        """Begin the run and submit all steps; what goes wrong after the beginning is kept for `_finish`."""
        made = self._make() if self._made is not None or (self._editable and not _is_worker()) else None
        run, given = launch.begin(self._described(), self._parameters, mode, self._default_queue, made)
        self._parameters = given
        self._attach(run)
        if run.callbacks is not None:
            run.callbacks.pipeline = self
        try:
            run.limit(self._limit_minutes)
            self._submit_all(run, order)
        except BaseException as error:
            self._error = error

    def _submit_all(self, run: Run, order: list[str]) -> None:
        """Submit all steps at once; but a factory is asked for its task when its parents have ended (ClearML's rule), and what
        comes after that step is submitted after it."""
        left = order
        while left:
            later: list[str] = []
            for name in left:
                if run.marked:  # a callback has stopped the pipeline
                    return
                plan = self._plans[name]
                if all(parent in run.steps for parent in plan.spec.parents) and (
                    plan.factory is None or run.have_ended(plan.spec.parents)
                ):
                    self._submit(run, plan)
                else:
                    later.append(name)
            if left == later:
                waited = [self._plans[name].spec.parents for name in later if self._plans[name].factory is not None]
                run.wait_until(functools.partial(_may_go_on, run, waited))
            left = later

    def _submit(self, run: Run, plan: dag.Plan) -> None:
        queue = str(references.fill(plan.spec.queue, self._parameters)) if plan.spec.queue else None
        late = {name: value for name, value in plan.fields.items() if references.has_step_reference(value)}
        late_queue = queue if queue and references.has_step_reference(queue) else None
        spec = replace(plan.spec, node=plan.node, queue=None if late_queue else queue or None)
        spec = pipeline.with_callbacks(spec, self._created_callback, self._completed_callback)
        if late or late_queue:
            fields = {name: references.fill(value, self._parameters) for name, value in late.items()}
            spec = replace(spec, before=_told_late(run, fields, late_queue, spec.before))
        if plan.factory is not None and run.lets_run(plan.spec.parents):  # else it is skipped, and nothing has to be made
            plan = self._made_by_factory(run, plan)
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

    def _made_by_factory(self, run: Run, plan: dag.Plan) -> dag.Plan:
        """The step with the task that its factory makes; a run that goes on may have made it before."""
        assert plan.factory is not None
        known = runs.step_of(run.store, run.id, plan.spec.name) if run.again else None
        before = Task(run.store, known["id"], known["uid"]) if known is not None and known["status"] != states.SKIPPED else None
        made = before or plan.factory(plan.node)
        if not isinstance(made, TaskBase):
            raise errors.BadPipeline(
                f"step {plan.spec.name!r}: its base_task_factory gave {type(made).__name__}, not a task",
                hint="return Task.create(...)",
            )
        plan.node.base_task_id = made.id
        return replace(plan, template=Task(made.store, made.row_id, made.id))

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
            unusable = (
                error is not None and failure is error and failure is not run.failure and not isinstance(error, errors.WorkFailed)
            )
            interrupted = self.task.status == states.STOPPED and not run.marked
            if raises or unusable or interrupted:
                raise
            saying.complain(failure)
            if _is_worker() and run.lease is None:
                context.before_end(functools.partial(_raise, failure))  # the script goes on, its task fails all the same

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
        if self._started is None:
            version = f" {self._definition.version}" if self._definition.version else ""
            return f"<PipelineController {self._definition.name!r}{version} not started, {len(self.get_pipeline_dag())} steps>"
        return display.run_line(self._started.store, self._started.id, "PipelineController", self._definition.name)

    def _repr_html_(self) -> str | None:
        if self._started is not None:
            return display.task_block(self._started.store, self._started.id)
        parents = {name: node.parents or [] for name, node in self.get_pipeline_dag().items()}
        return display.plan_block(self._definition.name, self._definition.version or "", parents)

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
    def create(
        cls,
        project_name: str,
        task_name: str,
        repo: str | None = None,
        branch: str | None = None,
        commit: str | None = None,
        script: str | None = None,
        working_directory: str | None = None,
        packages: bool | Sequence[str] | None = None,
        requirements_file: str | Path | None = None,
        docker: str | None = None,
        docker_args: str | None = None,
        docker_bash_setup_script: str | None = None,
        argparse_args: Sequence[tuple[str, str]] | None = None,
        force_single_script_file: bool = False,
        version: str | None = None,
        add_run_number: bool = True,
        binary: str | None = None,
        module: str | None = None,
        detect_repository: bool = True,
    ) -> PipelineController:
        """A draft of a pipeline that a script defines; the script is stored, not run. Enqueue it, or copies of it.

        Args:
            project_name, task_name: of the pipeline.
            version: default 1.0.0.
            add_run_number: the second one of that name is called ``NAME #2``.
            repo, branch, commit, script, …: see `Task.create`.

        Raises:
            BadPipeline: the version is not a PEP 440 string.
            UsageError, RepositoryError, NotSupported: see `Task.create`. Nothing was stored.

        Transaction effect: two durable commits.
        """
        definition = Definition(task_name, project_name, versions.checked(version) or "1.0.0", add_run_number=add_run_number)
        made = Task.create(
            definition.hidden_project,
            numbered(session.open_store(), definition),
            str(states.TaskTypes.controller),
            repo,
            branch,
            commit,
            script,
            working_directory,
            packages,
            requirements_file,
            docker,
            docker_args,
            docker_bash_setup_script,
            argparse_args,
            None,
            True,
            force_single_script_file,
            binary,
            module,
            detect_repository,
        )
        become_pipeline(made.store, made.row_id, definition)
        return cls._of(made)

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
            place = replace(
                definition, name=name or definition.name, project=project or definition.project, own_project=""
            ).hidden_project
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
        pipeline.of_script.pop()
        found._definition = replace(found._definition, own_project=project)
        found._made = launch.Made(known.row_id, known.id, found._definition)
        found._fetched = True
        return found


def _raise(error: BaseException) -> None:
    raise error


def _told_late(
    run: Run, fields: dict[str, Any], queue: str | None, before: Callable[..., Any] | None
) -> Callable[[Any, _Node, dict[str, Any]], Any]:
    """A callback that fills in what other steps decide of a step's task and queue, then calls the step's own."""

    def launch_it(controller: Any, node: _Node, parameters: dict[str, Any]) -> Any:
        assert node.job is not None
        task = node.job.task
        told = {name: run.filled(value) for name, value in fields.items()}
        if told:
            entry = edits.facts(task.store, task.row_id)
            task_fields.apply(task, task_fields.changes(task.store, node.name, entry, told))
        if queue is not None:
            node.queue = str(run.filled(queue))
            edits.set_queue(task.store, task.row_id, node.queue)
        return before(controller, node, parameters) if before is not None else None

    return launch_it


def _may_go_on(run: Run, waited: list[tuple[str, ...]]) -> bool:
    """True if all steps of one of these groups have ended, or the pipeline was stopped."""
    return bool(run.marked) or any(run.have_ended(parents) for parents in waited)


def _is_worker() -> bool:
    running = context.running()
    return bool(running and running.worker_mode)
