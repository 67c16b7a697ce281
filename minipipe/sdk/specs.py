"""What is known of a step and of a run before anything of them is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from minipipe import context, states
from minipipe.sdk.needs import Needs
from minipipe.store import tasks

Retry = int | Callable[..., bool] | None


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a step's bad ending does to its run and to its children (ClearML's ``continue_behaviour``).

    Attributes:
        on_fail, on_abort: the run does not fail by it.
        passes: endings after which its children run all the same; its results are None for them.
    """

    on_fail: bool = False
    on_abort: bool = False
    passes: tuple[str, ...] = ()

    def tolerates(self, status: str) -> bool:
        """True if that ending does not fail the run."""
        return self.on_abort if status == states.STOPPED else self.on_fail


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step as its author wrote it. See CLEARML's `PipelineDecorator.component` for the meaning of the fields."""

    name: str
    function: Callable[..., Any]
    returns: tuple[str, ...]
    task_type: str = "custom"
    cache: bool | str = False
    queue: str | None = None
    parents: tuple[str, ...] = ()
    behaviour: Behaviour = field(default_factory=Behaviour)
    retry: Retry = None
    time_limit_s: float | None = None
    helpers: tuple[Callable[..., Any], ...] = ()
    monitors: tuple[tasks.Monitor, ...] = ()
    tags: tuple[str, ...] = ()
    draft: bool = False
    recorded: dict[str, Any] = field(default_factory=dict)
    before: Callable[..., Any] | None = None
    after: Callable[..., Any] | None = None
    on_status: Callable[..., Any] | None = None
    node: Any = None  # the node that users hold already, if there is one
    needs: Needs = field(default_factory=Needs)
    project: str | None = None  # where its task lives, unless the pipeline names a target project

    @property
    def has_callbacks(self) -> bool:
        """True if the controller takes part in the life of such a step."""
        return bool(self.before or self.after or self.on_status or callable(self.retry))


@dataclass(slots=True)
class Step:
    """A submitted step, as its controller knows it."""

    spec: StepSpec
    name: str
    id: int
    uid: str
    values: dict[str, Any]
    controls: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Caller:
    """The step whose code calls components.

    Attributes:
        lease: the attempt that calls.
        name: of the step; "" for a pipeline that it has started, whose steps have names of their own.
    """

    lease: context.Lease
    name: str


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What holds for all steps of a run."""

    name: str
    project: str
    default_queue: str | None = None
    target_project: str | bool | None = None
    abort_on_failure: bool = False
    add_pipeline_tags: bool = False
    retry: Retry = None
    local: bool = False
    debug: bool = False
    local_imports: bool = True
    needs: Needs = field(default_factory=Needs)  # for steps that say nothing themselves
    serialize: Callable[[Any], bytes | bytearray] | None = None  # of all that is no parameter
    deserialize: Callable[[bytes], Any] | None = None
    called: str = "result_{step}_{argument}"  # the artifact of the run that holds an argument which is no parameter
    roots: tuple[
        str, ...
    ] = ()  # folders that imports start from, before those of this process (a step's process knows no script)
    refresh: tuple[str, ...] = ()  # steps that run although an equal one is stored; * is all
    own_project: str = ""  # where the run's task lives, if not where it would by its name (a main task, a clone)

    def project_of(self, spec: StepSpec) -> str:
        """Where a step lives: the target project, else its own, else that of the run's task (True, by ClearML's rule)."""
        hidden = self.own_project or f"{self.project}/.pipelines/{self.name}"
        if self.target_project is True:
            return hidden
        return str(self.target_project or spec.project or hidden)

    def retry_of(self, spec: StepSpec) -> Retry:
        """The step's own retries, else the pipeline's (ClearML's rule)."""
        return spec.retry if spec.retry is not None else self.retry
