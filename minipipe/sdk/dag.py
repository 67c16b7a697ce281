"""The steps of a pipeline that is written before it starts: what was said of each, whether it can run, and in which order."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minipipe import errors
from minipipe.sdk import references
from minipipe.sdk.node import Node
from minipipe.sdk.pipeline import behaviour_of, monitors_of
from minipipe.sdk.specs import Retry, StepSpec
from minipipe.sdk.task import Task


@dataclass(slots=True)
class Plan:
    """A step as it was added; becomes a task when the pipeline starts.

    Attributes:
        node: what callbacks and `get_pipeline_dag` give of it.
        spec: the step; its parents include those that references make.
        values: arguments of a function, defaults included.
        template: the task that is copied, None for a function.
        overrides: parameters of the copy: {"Section/name": value}.
        configurations: configuration objects of the copy: {name: text or dict}.
        fields: other fields of the copy, see `minipipe.sdk.task_fields`.
        itself: the template runs, not a copy of it.
        factory: makes the task when the parents have ended.
    """

    node: Node
    spec: StepSpec
    values: dict[str, Any] = field(default_factory=dict)
    template: Task | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    configurations: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    itself: bool = False
    factory: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class Common:
    """The arguments that `add_step` and `add_function_step` share; see there."""

    parents: Sequence[str] | str | None
    execution_queue: str | None
    monitor_metrics: list[Any] | None
    monitor_artifacts: list[Any] | None
    monitor_models: list[Any] | None
    time_limit: float | None
    continue_on_fail: bool
    continue_behaviour: dict[str, bool] | None
    cache: bool
    retry: Retry
    before: Callable[..., Any] | None
    after: Callable[..., Any] | None
    on_status: Callable[..., Any] | None
    recorded: dict[str, Any]

    def spec(self, name: str, task_type: str, function: Callable[..., Any], referred: Sequence[str], **more: Any) -> StepSpec:
        """The step; explicit parents and those that references make are united.

        Raises:
            BadPipeline: a monitor list or `continue_behaviour` that cannot be read.
        """
        parents = (self.parents,) if isinstance(self.parents, str) else tuple(self.parents or ())
        return StepSpec(
            name=name,
            function=function,
            returns=tuple(more.pop("returns", ())),
            task_type=task_type,
            cache=self.cache,
            queue=str(self.execution_queue) if self.execution_queue else None,
            parents=tuple(dict.fromkeys([*map(str, parents), *referred])),
            behaviour=behaviour_of(self.continue_on_fail, self.continue_behaviour),
            retry=self.retry,
            time_limit_s=self.time_limit,
            monitors=monitors_of(self.monitor_metrics, self.monitor_artifacts, self.monitor_models),
            recorded=self.recorded,
            before=self.before,
            after=self.after,
            on_status=self.on_status,
            **more,
        )

    def node(self, spec: StepSpec, parameters: Mapping[str, Any]) -> Node:
        """The step as users see it before the start."""
        node = Node(spec.name)
        node.parents = list(spec.parents)
        node.queue = spec.queue
        node.parameters, node.overrides = dict(parameters), dict(parameters)
        node.return_artifacts = list(spec.returns)
        node.cache_executed_step = bool(spec.cache)
        node.behave(spec.behaviour, self.continue_behaviour)
        node.timeout = spec.time_limit_s
        node.job_type = spec.task_type
        node.draft = spec.draft
        node.monitor_metrics, node.monitor_artifacts = list(self.monitor_metrics or ()), list(self.monitor_artifacts or ())
        node.monitor_models = list(self.monitor_models or ())
        node.stage = self.recorded.get("stage")
        node.output_uri = self.recorded.get("output_uri")
        node.explicit_docker_image = self.recorded.get("docker")
        return node


def verify(plans: Mapping[str, Plan], parameters: Mapping[str, Any]) -> list[str]:
    """The steps in an order in which each comes after its parents.

    Raises:
        BadPipeline: an unknown parent or reference, or steps that wait for each other; names what is nearest, shows the path.
        NotSupported: a reference to something that is not offered yet.
    """
    checker = references.Checker({name: plan.spec.returns for name, plan in plans.items()}, parameters)
    for name, plan in plans.items():
        # References first: they name the argument, where a parent alone could not.
        for argument, value in plan.values.items():
            checker.check(name, argument, value, True)
        for argument, value in plan.overrides.items():
            checker.check(name, argument, value, False)
        for argument, value in plan.fields.items():
            checker.check(name, f"task_overrides {argument}", value, False, of_tasks=True)
        checker.check(name, "execution_queue", plan.spec.queue or "", False, of_tasks=True)
        for parent in plan.spec.parents:
            if parent not in plans:
                known = [step for step in plans if step != name]
                close = difflib.get_close_matches(parent, known, 1)
                raise errors.BadPipeline(
                    f"step {name!r}: no step {parent!r} to wait for",
                    f"steps: {', '.join(plans)}",
                    f"did you mean {close[0]!r}?" if close else "add the parent too",
                )
    return order({name: plan.spec.parents for name, plan in plans.items()})


def order(parents: Mapping[str, Iterable[str]]) -> list[str]:
    """The names so that each comes after its parents, else as they were given.

    Raises:
        BadPipeline: they wait for each other; the path is shown.
    """
    done: dict[str, None] = {}
    for first in parents:
        path: dict[str, None] = {}
        work = [first]
        while work:  # not recursive: a chain may be thousands of steps long
            name = work[-1]
            if name in done or name in path:
                work.pop()
                path.pop(name, None)
                done[name] = None
                continue
            path[name] = None
            for parent in reversed(list(parents[name])):
                if parent in path:
                    names = list(path)
                    circle = [*names[names.index(parent) :], parent]
                    raise errors.BadPipeline(f"steps wait for each other: {' -> '.join(reversed(circle))}", "nothing was queued")
                if parent not in done:
                    work.append(parent)
    return list(done)
