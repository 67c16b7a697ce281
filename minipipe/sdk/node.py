"""A step as callbacks see it (ClearML's `PipelineController.Node` and the job behind it)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minipipe import states
from minipipe.sdk.automation.job import ClearmlJob
from minipipe.store import runs

if TYPE_CHECKING:
    from minipipe.sdk.run import Run
    from minipipe.sdk.specs import Behaviour, Step

# ClearML's words for nodes; only `Node.status` speaks them.
NODE_WORDS = {
    states.CREATED: "pending",
    states.PENDING: "pending",
    states.QUEUED: "queued",
    states.IN_PROGRESS: "running",
    states.COMPLETED: "completed",
    states.PUBLISHED: "completed",
    states.FAILED: "failed",
    states.STOPPED: "aborted",
    states.SKIPPED: "skipped",
}


class Node:
    """A step of a pipeline, as ClearML's callbacks know it.

    Attributes that ClearML documents are there under ClearML's names; `status` is computed from the task.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.base_task_id: str | None = None
        self.task_factory_func: Any = None
        self.clone_task = True
        self.configurations: dict[str, Any] = {}
        self.task_overrides: dict[str, Any] = {}
        self.overrides: dict[str, Any] = {}  # parameters as they were written; references in `parameters` are resolved at launch
        self.queue: str | None = None
        self.parents: list[str] = []
        self.timeout: float | None = None
        self.parameters: dict[str, Any] = {}
        self.return_artifacts: list[str] = []
        self.cache_executed_step = False
        self.continue_on_fail = False
        self.monitor_metrics: list[Any] = []
        self.monitor_artifacts: list[Any] = []
        self.monitor_models: list[Any] = []
        self.explicit_docker_image: str | None = None
        self.recursively_parse_parameters = True
        self.output_uri: str | bool | None = None
        self.draft = False
        self.continue_behaviour: dict[str, bool] | None = None
        self.continue_on_abort = False
        self.skip_children_on_abort = True
        self.skip_children_on_fail = True
        self.stage: str | None = None
        self.job_code_section: str | None = None
        self.job: ClearmlJob | None = None
        self.job_type: str | None = None
        self.seen_event = 0
        self.shown_status = "pending"
        self.told_status: str | None = None  # while a status callback runs: the status that it is told of
        self._run: Run | None = None
        self._step: Step | None = None

    @classmethod
    def of_step(cls, run: Run, step: Step) -> Node:
        """The node of a submitted step."""
        node = cls(step.name)
        node._run, node._step = run, step
        node.queue = step.spec.queue or run.options.default_queue
        node.parameters = {f"kwargs/{name}": value for name, value in step.values.items()}
        node.return_artifacts = list(step.spec.returns)
        node.cache_executed_step = bool(step.spec.cache)
        node.behave(step.spec.behaviour)
        node.timeout = step.spec.time_limit_s
        node.job_type = step.spec.task_type
        node.job = ClearmlJob._of(run.store, step.id, step.uid)
        node.parents = runs.parents_of(run.store, step.id)
        return node

    def behave(self, behaviour: Behaviour, given: Mapping[str, bool] | None = None) -> None:
        """Take over what its bad ending does (ClearML's names)."""
        self.continue_behaviour = None if given is None else dict(given)
        self.continue_on_fail, self.continue_on_abort = behaviour.on_fail, behaviour.on_abort
        self.skip_children_on_fail = states.FAILED not in behaviour.passes
        self.skip_children_on_abort = states.STOPPED not in behaviour.passes

    def bind(self, run: Run, step: Step) -> Node:
        """Tie a node that was written before the pipeline started to its step."""
        self._run, self._step = run, step
        self.queue = self.queue or run.options.default_queue
        self.job_type = step.spec.task_type
        self.job = ClearmlJob._of(run.store, step.id, step.uid, self.overrides if self.base_task_id else None)
        return self

    @property
    def status(self) -> str:
        """pending, queued, running, completed, cached, failed, aborted or skipped."""
        if self.told_status is not None:
            return self.told_status
        if self.job is None:
            return "pending"
        if self.job.is_cached_task():
            return "cached"
        return NODE_WORDS[self.job.status()]

    @property
    def skip_job(self) -> bool:
        """True if the step was skipped."""
        return self.status == "skipped"

    @property
    def job_started(self) -> float | None:
        """When its last attempt began, seconds since 1970; None before."""
        return None if self.job is None else self.job._times()[0]

    @property
    def job_ended(self) -> float | None:
        """When it ended, seconds since 1970; None before."""
        return None if self.job is None else self.job._times()[1]

    def copy(self) -> Node:
        """A copy without the job (ClearML's rule)."""
        twin = type(self)(self.name)
        for name, value in vars(self).items():
            if not name.startswith("_") and name not in ("name", "job", "seen_event", "shown_status", "told_status"):
                setattr(twin, name, type(value)(value) if type(value) in (list, dict) else value)
        return twin

    @property
    def executed(self) -> str | bool | None:
        """None before the end; the task id after success or a tolerated failure; False when children may not run."""
        if self.job is None or not self.job.is_stopped():
            return None
        good = (
            self.job.is_completed()
            or (self.continue_on_fail and self.job.is_failed())
            or (self.continue_on_abort and self.job.is_aborted())
        )
        return self.job.task_id() if good else False

    def __repr__(self) -> str:
        return f"<Node {self.name!r} {self.status}>"
