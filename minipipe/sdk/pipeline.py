"""What both ways of writing pipelines share: a running pipeline as user code sees it, and how arguments of ClearML are read."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

from minipipe import errors, settings, states
from minipipe.sdk import launch, logger, notice, session
from minipipe.sdk.needs import CONTAINERS
from minipipe.sdk.output_model import OutputModel
from minipipe.sdk.run import Run
from minipipe.sdk.specs import Behaviour, StepSpec
from minipipe.sdk.task import Task
from minipipe.store import runs
from minipipe.store.tasks import Monitor

_NO_EFFECT = {
    "docker": CONTAINERS,
    "docker_args": CONTAINERS,
    "docker_bash_setup_script": CONTAINERS,
    "packages": "",
    "repo": "",
    "repo_branch": "",
    "repo_commit": "",
    "output_uri": "one store holds everything",
    "auto_connect_frameworks": "",
    "auto_connect_arg_parser": "a function step parses no command line",
    "working_dir": "",
    "stage": "it is a label, which node.stage and show give back",
    "task_name": "the task of a step is called like the step",
    "recursively_parse_parameters": "it is always on",
    "pool_frequency": "nothing is polled: a change wakes whoever waits for it",
    "auto_version_bump": "it is obsolete in ClearML too",
    "skip_global_imports": "what a function names is always there",
}


_DEFAULTS = {"pool_frequency": 0.2, "skip_global_imports": False, "recursively_parse_parameters": False}  # the others have None


def record(owner: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is stored and shown of a call's arguments; one notice per name of those that change nothing here.

    Args:
        owner: whose arguments they are, for the notice.
        given: all that the call has, by name; what is not to be recorded is left alone.
    """
    used = {CONTAINERS} if settings.load_settings().containers != "off" else set()
    return notice.kept(
        owner,
        {
            name: (given.get(name), _DEFAULTS.get(name), "" if why in used else why)
            for name, why in _NO_EFFECT.items()
            if name in given
        },
    )


class RunningPipeline:
    """A pipeline that runs here, or did."""

    _started: Run | None = None

    def _attach(self, run: Run) -> None:
        self._started = run

    @property
    def _live(self) -> Run:
        if self._started is None:
            raise errors.UsageError("the pipeline has not been started", hint="start() or start_locally()")
        return self._started

    def _place(self) -> session.Current:
        """Where the pipeline's task is."""
        return session.Current(self._live.store, self._live.id, self._live.uid, None)

    @property
    def id(self) -> str:
        """Id of the pipeline's task."""
        return self._place().uid

    @property
    def task(self) -> Task:
        """The pipeline's task."""
        place = self._place()
        return Task(place.store, place.row_id, place.uid, None)

    @property
    def tags(self) -> list[str]:
        """Tags of the pipeline's task."""
        return self.task.get_tags()

    @property
    def version(self) -> str:
        """Version of the pipeline."""
        place = self._place()
        return str(runs.row_of(place.store, place.row_id)["version"] or "")

    def add_tags(self, tags: Sequence[str] | str) -> None:
        """Tag the pipeline's task."""
        self.task.add_tags(tags)

    def get_parameters(self) -> dict[str, Any]:
        """Arguments of the pipeline: name -> typed value."""
        found = self.task.get_parameters(cast=True)
        return {key.partition("/")[2]: value for key, value in found.items() if not key.startswith("pipeline/")}

    def is_running(self) -> bool:
        """True until the run has ended; False before it starts."""
        return self._started is not None and self._started.ended is None

    def elapsed(self) -> float:
        """Minutes since the start (ClearML's unit), until the end once it has ended; -1.0 before the start."""
        return -1.0 if self._started is None else launch.elapsed_s(self._started) / 60.0

    def stop(self, timeout: float | None = None, mark_failed: bool = False, mark_aborted: bool = False) -> None:
        """Stop the steps that still run and skip those that wait; wait up to `timeout` minutes for their end."""
        self._live.stop(mark_failed=mark_failed, mark_aborted=mark_aborted)
        self._live.wait(None if timeout is None else timeout * 60.0)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` minutes for all steps; True if they have ended, or nothing was started."""
        return self._started is None or self._started.wait(None if timeout is None else timeout * 60.0)

    @classmethod
    def get_logger(cls) -> logger.Logger:
        """Reports onto the pipeline's task, from the logic and from any step.

        Raises:
            ValueError: no pipeline runs here.
        """
        return logger.Logger(pipeline_task())

    @classmethod
    def upload_artifact(
        cls,
        name: str,
        artifact_object: Any,
        metadata: Mapping[str, Any] | None = None,
        delete_after_upload: bool = False,
        auto_pickle: bool | None = None,
        preview: Any = None,
        wait_on_upload: bool = False,
        serialization_function: Callable[[Any], bytes | bytearray] | None = None,
        sort_keys: bool = True,
    ) -> bool:
        """Store an artifact of the pipeline's task, from the logic or from any step; see `Task.upload_artifact`.

        Raises:
            ValueError: no pipeline runs here.
        """
        found = pipeline_task()
        return Task(found.store, found.row_id, found.uid, found.lease).upload_artifact(
            name,
            artifact_object,
            metadata,
            delete_after_upload,
            auto_pickle,
            preview,
            wait_on_upload,
            serialization_function=serialization_function,
            sort_keys=sort_keys,
        )

    @classmethod
    def upload_model(cls, model_name: str, model_local_path: str, upload_uri: str | None = None) -> OutputModel:
        """Store a model of the pipeline's task, from the logic or from any step.

        Args:
            model_name: its name, and the task's word for it.
            model_local_path: a file, or a folder, which is packed.
            upload_uri: recorded: one store holds everything.

        Raises:
            ValueError: no pipeline runs here, or there is no such file.
        """
        place = pipeline_task()
        task = Task(place.store, place.row_id, place.uid, place.lease)
        made = OutputModel(task, name=model_name)
        made.connect(task, name=model_name)
        made.update_weights(model_local_path, upload_uri, auto_delete_file=False)
        return made

    def is_successful(self, fail_on_step_fail: bool = True, fail_condition: str = "all") -> bool:
        """True if the pipeline completed and all its steps succeeded; cached and skipped ones count as success.

        Args:
            fail_on_step_fail: False looks at the pipeline's own task only.
            fail_condition: "all"; "failed" forgives stopped steps, "aborted" forgives failed ones.

        Raises:
            UsageError: another condition.
        """
        if fail_condition not in ("all", "failed", "aborted"):
            raise errors.UsageError(f"fail_condition {fail_condition!r} is not one of all, failed, aborted")
        forgiven = {"failed": {states.STOPPED}, "aborted": {states.FAILED}}.get(fail_condition, set())
        place = self._place()
        ended_here = self._started.status if self._started is not None else ""
        if (ended_here or self.task.status) not in states.GOOD | forgiven:
            return False
        return not fail_on_step_fail or runs.statuses(place.store, place.row_id) <= states.GOOD | forgiven | {states.SKIPPED}


_written: list[RunningPipeline] = []  # the last pipeline that this process has written, started or not


def write_down(pipeline: RunningPipeline | None) -> None:
    """Remember a pipeline that is being written: reports and artifacts may come before its start."""
    _written[:] = [pipeline] if pipeline is not None else []


def written() -> RunningPipeline | None:
    """What `write_down` remembers."""
    return _written[0] if _written else None


of_script: list[str] = []  # names of the pipelines that the script has written, for whoever wonders why it started none


def pipeline_task() -> session.Current:
    """Where the pipeline's task is: that of the run that this process belongs to, else of the pipeline that is written here.

    Raises:
        ValueError: there is none.
    """
    found = session.current_run()
    if found is None and _written:
        found = _written[0]._place()
    if found is None:
        raise ValueError("no pipeline is running here")
    return found


# -- arguments of ClearML -----------------------------------------------------------------------------------------------


_BEHAVIOURS = ("continue_on_fail", "continue_on_abort", "skip_children_on_fail", "skip_children_on_abort")


def behaviour_of(continue_on_fail: bool, given: Mapping[str, bool] | None) -> Behaviour:
    """ClearML's arguments as one value; a part of ``continue_behaviour`` that is left out is True, and it replaces the other.

    Raises:
        BadPipeline: a part that does not exist; the nearest is named.
    """
    if given is None:
        return Behaviour(bool(continue_on_fail))
    for name in given:
        if name not in _BEHAVIOURS:
            near = difflib.get_close_matches(str(name), _BEHAVIOURS, 1)
            raise errors.BadPipeline(
                f"continue_behaviour has no part {name!r}",
                f"it has {', '.join(_BEHAVIOURS)}",
                f"did you mean {near[0]!r}?" if near else "leave it out",
            )
    on_fail, on_abort, skip_failed, skip_stopped = (bool(given.get(name, True)) for name in _BEHAVIOURS)
    passes = [status for status, skip in ((states.FAILED, skip_failed), (states.STOPPED, skip_stopped)) if not skip]
    return Behaviour(on_fail, on_abort, tuple(passes))


def monitors_of(metrics: list[Any] | None, artifacts: list[Any] | None, models: list[Any] | None = None) -> tuple[Monitor, ...]:
    """ClearML's lists as rows; see `PipelineDecorator.component`.

    Raises:
        BadPipeline: one of them cannot be read.
    """
    found = []
    for item in _listed("monitor_metrics", metrics):
        pair = item if isinstance(item, (tuple, list)) else ()
        if len(pair) == 2 and all(isinstance(part, str) for part in pair):
            found.append(Monitor("metric", pair[0], pair[1], pair[0], pair[1]))
        elif len(pair) == 2 and all(isinstance(part, (tuple, list)) and len(part) == 2 for part in pair):
            found.append(Monitor("metric", *map(str, pair[0]), *map(str, pair[1])))
        else:
            raise errors.BadPipeline(f"monitor_metrics: cannot read {item!r}", hint="[('title', 'series')]")
    for kind, items in (("artifact", artifacts), ("model", models)):
        for item in _listed(f"monitor_{kind}s", items):
            if isinstance(item, str):
                # A model keeps its name, which a pattern does not know yet.
                found.append(Monitor(kind, item, "", item if kind == "artifact" else "", ""))
            elif isinstance(item, (tuple, list)) and len(item) == 2 and all(isinstance(part, str) for part in item):
                found.append(Monitor(kind, item[0], "", item[1], ""))
            else:
                raise errors.BadPipeline(f"monitor_{kind}s: cannot read {item!r}", hint="['name'] or [('name', 'other')]")
    return tuple(found)


def _listed(argument: str, items: Any) -> Sequence[Any]:
    if items is None or isinstance(items, (list, tuple)):
        return items or ()
    raise errors.BadPipeline(f"{argument}: a list is needed, not {items!r}")


def with_callbacks(spec: StepSpec, created: Callable[..., Any] | None, completed: Callable[..., Any] | None) -> StepSpec:
    """A step with the pipeline's own callbacks after (created) and before (completed) its own (ClearML's order)."""
    before, after = spec.before, spec.after

    def launch_it(pipeline: Any, node: Any, parameters: dict[str, Any]) -> Any:
        if before is not None and before(pipeline, node, parameters) is False:
            return False
        return created(pipeline, node, parameters) if created is not None else None

    def end_it(pipeline: Any, node: Any) -> None:
        if completed is not None:
            completed(pipeline, node)
        if after is not None:
            after(pipeline, node)

    return replace(spec, before=launch_it if before or created else None, after=end_it if after or completed else None)


def place_of(frame: FrameType) -> str:
    """``flow.py:40`` of a frame, for messages."""
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def text_of(value: Any) -> str:
    """A configuration override as text."""
    return value if isinstance(value, str) else json.dumps(value, indent=2)
