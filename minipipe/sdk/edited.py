"""The steps of a pipeline as data on its task, to be edited there (ClearML's ``always_create_from_code=False``).

They are the configuration object ``Pipeline``: ``{step: facts}``. Where a worker runs the pipeline, they say which steps there are:
those that are left out do not run, copies of tasks may be added and changed, of the other steps what is not their code. Callbacks,
monitors and retries are those that the code has for a step of that name.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from minipipe import context, errors
from minipipe.sdk import dag, references, session
from minipipe.store import edits, records, runs

if TYPE_CHECKING:
    from minipipe.sdk.written import WrittenPipeline

NAME = "Pipeline"
_ANY = ("parents", "queue", "timeout")
_COPY = (
    "base_task_id", "clone_task", "parameters", "configurations", "task_overrides", "cache_executed_step", "continue_on_fail",
)  # fmt: skip


def store(made_id: int, plans: Mapping[str, dag.Plan]) -> None:
    """Write the steps of a pipeline to its task, once. Transaction effect: one durable commit."""
    place = session.open_store()
    if NAME not in edits.configurations(place, made_id):
        facts = {name: _facts(plan) for name, plan in plans.items()}
        edits.set_configuration(place, made_id, NAME, json.dumps(facts, indent=2, default=str), "dictionary")


def _facts(plan: dag.Plan) -> dict[str, Any]:
    names = _ANY if plan.template is None else (*_COPY, *_ANY)
    return {name: getattr(plan.node, name) for name in names}


def stored(key: str) -> str | None:
    """What is written of the steps of the pipeline that a worker runs here; None elsewhere."""
    running = context.running()
    if running is None or not running.worker_mode:
        return None
    place = session.open_store()
    row_id = runs.id_of(place, running.run)
    return edits.configurations(place, row_id).get(NAME) if records.settings_of(place, row_id).get("pipeline") == key else None


def take(pipeline: WrittenPipeline, text: str) -> None:
    """Make the steps of a pipeline what was written of them.

    Raises:
        BadPipeline: it cannot be read, or names a step that is neither in the code nor a copy of a task.
        NotFound: a task that a step copies is gone.
    """
    try:
        wanted = json.loads(text)
        pairs = {str(name): dict(facts) for name, facts in wanted.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise errors.BadPipeline(f"the configuration {NAME!r} of the pipeline's task cannot be read", str(error)) from None
    before, pipeline._plans = pipeline._plans, {}
    for name, facts in pairs.items():
        known = before.get(name)
        copies = facts.get("base_task_id") is not None and (known is None or known.template is not None)
        _check(name, facts, (*_COPY, *_ANY) if copies else _ANY)
        if copies:
            _add(pipeline, name, facts, known)
        elif known is not None:
            pipeline._plans[name] = _moved(known, facts)
        else:
            raise errors.BadPipeline(
                f"step {name!r} was added without a task to copy", "the code has no such step", "base_task_id"
            )


def _check(step: str, facts: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in facts:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise errors.BadPipeline(
                f"step {step!r}: {name!r} cannot be edited",
                f"what can: {', '.join(known)}",
                f"did you mean {near[0]}?" if near else "change the code",
            )


def _add(pipeline: WrittenPipeline, name: str, facts: Mapping[str, Any], known: dag.Plan | None) -> None:
    more: dict[str, Any] = {}
    if known is not None:
        node, spec = known.node, known.spec
        more = {
            "monitor_metrics": node.monitor_metrics,
            "monitor_artifacts": node.monitor_artifacts,
            "monitor_models": node.monitor_models,
            "continue_behaviour": node.continue_behaviour,
            "stage": node.stage,
            "pre_execute_callback": spec.before,
            "post_execute_callback": spec.after,
            "status_change_callback": spec.on_status,
            "retry_on_failure": spec.retry,
            "memory_limit_mb": spec.needs.limits.memory_mb,
            "cpu_limit_s": spec.needs.limits.cpu_s,
            "nice": spec.needs.limits.nice,
        }
    pipeline.add_step(
        name,
        base_task_id=str(facts["base_task_id"]),
        clone_base_task=bool(facts.get("clone_task", True)),
        parents=facts.get("parents") or (),
        execution_queue=facts.get("queue"),
        time_limit=facts.get("timeout"),
        parameter_override=facts.get("parameters") or {},
        configuration_overrides=facts.get("configurations") or {},
        task_overrides=facts.get("task_overrides") or {},
        cache_executed_step=bool(facts.get("cache_executed_step")),
        continue_on_fail=bool(facts.get("continue_on_fail")),
        **more,
    )


def _moved(plan: dag.Plan, facts: Mapping[str, Any]) -> dag.Plan:
    """A step of the code under another queue, limit or with other parents; those that its arguments refer to stay."""
    referred = references.steps_in([plan.values, plan.overrides, plan.fields])
    parents = tuple(dict.fromkeys([*facts.get("parents", plan.spec.parents), *referred]))
    queue, timeout = facts.get("queue", plan.spec.queue), facts.get("timeout", plan.spec.time_limit_s)
    plan.node.parents, plan.node.queue, plan.node.timeout = list(parents), queue, timeout
    return replace(plan, spec=replace(plan.spec, parents=parents, queue=queue, time_limit_s=timeout))
