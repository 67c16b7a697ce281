"""A step as rows: its arguments, its code, what it needs and the key that its result is known by, made one task to submit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from minipipe import codekey, errors, hashing, seeds
from minipipe.sdk import arguments, capture, needs
from minipipe.sdk.specs import RunOptions, StepSpec
from minipipe.sdk.task import Task
from minipipe.settings import Settings
from minipipe.shown import tell, warn
from minipipe.store import acceptance, tasks
from minipipe.store.home import Store


@dataclass(frozen=True, slots=True)
class Belonging:
    """What every step of a run has from it.

    Attributes:
        id, uid: the run's own task.
        session, private: whose workers serve its steps, and whether nobody else may.
    """

    id: int
    uid: str
    session: str
    private: bool


class Packer:
    """Makes tasks of the steps of one run.

    Args:
        store: where they will be.
        run: what they have from the run.
        options: what holds for all of them.
        settings: of this process.
    """

    def __init__(self, store: Store, run: Belonging, options: RunOptions, settings: Settings) -> None:
        self.store = store
        self.run = run
        self.options = options
        self.settings = settings
        self._planner = needs.Planner(store)
        self._accepted: dict[acceptance.Place, acceptance.Acceptance] | None = None
        self._told: set[str] = set()

    def pack(self, spec: StepSpec, name: str, values: dict[str, Any]) -> tuple[arguments.Arguments, capture.Captured]:
        """Arguments and code of a step, ready to be stored.

        Raises:
            CannotTravel: one of them cannot leave this process.
        """
        given = arguments.encode(self.store, name, self.run.uid, values, self.options.called, self.options.serialize)
        return given, capture.capture(spec.function, name, spec.helpers, self.options.local_imports)

    def new_task(
        self,
        spec: StepSpec,
        name: str,
        given: arguments.Arguments,
        code: capture.Captured,
        order: Sequence[tuple[int, str]],
        controls: frozenset[int],
    ) -> tasks.NewTask:
        """A step as it is submitted.

        Args:
            spec: the step.
            name: its own in the run.
            given, code: from `pack`.
            order: edges to the parents that it names.
            controls: steps whose values were used before.
        """
        if self.options.roots:
            code = replace(code, entry={**code.entry, "roots": list(dict.fromkeys([*self.options.roots, *code.entry["roots"]]))})
        planned = self._planner.plan(name, spec.needs.over(self.options.needs), code.entry)
        if "packages" not in planned.entry and "pinned" not in planned.entry:
            self._check_imports(name, spec, code.entry)
        key_base = self._key_of(spec, name, given, code, planned.key_parts)
        parents = [*((parent, "data") for parent in given.parents), *order]
        direct = {parent for parent, _ in parents}
        parents += [(parent, "control") for parent in sorted(controls - direct)]
        links = list(given.links)
        if code.pickled is not None:
            links.append(tasks.Link("code", "function", capture.encoded(self.store, code.pickled)))
        if code.helpers is not None:
            links.append(tasks.Link("code", "helpers", capture.encoded(self.store, code.helpers)))
        links += self._serializers(name)
        seed = Task._random_seed
        retry = self.options.retry_of(spec)
        return tasks.NewTask(
            type=spec.task_type,
            name=name,
            project=self.options.project_of(spec),
            entry={
                **code.entry,
                "returns": list(spec.returns),
                **planned.entry,
                **({"seed": seed} if seed != seeds.DEFAULT else {}),
            },
            environment=planned.environment,
            parent_id=self.run.id,
            queue=spec.queue or self.options.default_queue or self.settings.queue,
            session=self.run.session,
            private=self.run.private,
            draft=spec.draft,
            hold="launch" if spec.before else None,
            gate=bool(spec.after),
            max_retries=retry if isinstance(retry, int) else 0,
            ask_retry=callable(retry),
            time_limit_s=spec.time_limit_s,
            tolerated=spec.behaviour.on_fail,
            tolerates_abort=spec.behaviour.on_abort,
            passes=spec.behaviour.passes,
            use_cache=self._may_use_cache(spec, name),
            code=code.code,
            key_base=key_base,
            settings=spec.recorded,
            parameters=tuple(given.parameters),
            links=tuple(links),
            parents=tuple(parents),
            monitors=spec.monitors,
            tags=(*spec.tags, *((f"pipe: {self.run.uid}",) if self.options.add_pipeline_tags else ())),
        )

    def copy_of(self, spec: StepSpec, template: tasks.NewTask, order: Sequence[tuple[int, str]]) -> tasks.NewTask:
        """A step that is a copy of a template, with the run's own part filled in; `order` are edges to the parents it names."""
        retry = self.options.retry_of(spec)
        return replace(
            template,
            project=template.project or self.options.project_of(spec),
            parent_id=self.run.id,
            queue=spec.queue or self.options.default_queue or self.settings.queue,
            session=self.run.session,
            private=self.run.private,
            hold="launch" if spec.before else None,
            gate=bool(spec.after),
            max_retries=retry if isinstance(retry, int) else 0,
            ask_retry=callable(retry),
            parents=tuple(order),
            use_cache=template.adopts is None and self._may_use_cache(spec, spec.name),
            tags=(*template.tags, *((f"pipe: {self.run.uid}",) if self.options.add_pipeline_tags else ())),
        )

    def key_base(self, spec: StepSpec, name: str, given: arguments.Arguments, code: capture.Captured) -> str | None:
        """What arguments and code add to the key of a step's result; None if one of them has no stable digest."""
        planned = self._planner.plan(name, spec.needs.over(self.options.needs), code.entry)
        return self._key_of(spec, name, given, code, planned.key_parts)

    def _key_of(
        self, spec: StepSpec, name: str, given: arguments.Arguments, code: capture.Captured, more: tuple[str, ...]
    ) -> str | None:
        unstable = [*given.unstable, *code.key.unstable]
        if unstable and spec.cache:
            text = f"step {name!r} is not cached: no stable digest for {', '.join(unstable)}"
            warn(text, stacklevel=5)  # the line that calls the component
        return (
            None
            if unstable
            else hashing.combine("base", self._counts_as(code), *spec.returns, "|", *given.key_parts, *more, *self._more_key())
        )

    def _counts_as(self, code: capture.Captured) -> str:
        """The key of the code that this one counts as: its own, unless somebody accepted it as equal (``minipipe cache accept``)."""
        if self._accepted is None:
            self._accepted = acceptance.known(self.store)
        key, name, _, parts = code.code
        if not self._accepted:
            return key
        one = self._accepted.get((str(json.loads(parts)[0]["file"]), name))
        if one is None or key == one.code or not one.holds(key):
            return key
        if not one.bound:
            self._accepted[one.place] = acceptance.bind(self.store, one, key)
        return one.code

    def _more_key(self) -> list[str]:
        """What else decides a result: own serialization functions, and a seed that is not the usual one."""
        own = [function for function in (self.options.serialize, self.options.deserialize) if function is not None]
        seed = [] if Task._random_seed == seeds.DEFAULT else ["seed", repr(Task._random_seed)]
        return [*(codekey.code_key(function).digest for function in own), *seed]

    def _may_use_cache(self, spec: StepSpec, name: str) -> bool:
        refresh = {part.strip() for part in self.settings.refresh.split(",")} | set(self.options.refresh)
        forced = self.settings.cache != "on" or spec.cache == "refresh" or refresh & {"*", name, spec.name}
        return bool(spec.cache) and not forced

    def _serializers(self, step: str) -> list[tasks.Link]:
        """The pipeline's own functions for what is no parameter; they travel with each step."""
        pair = {"serialize": self.options.serialize, "deserialize": self.options.deserialize}
        return [
            tasks.Link("code", name, capture.encoded(self.store, capture.pickled(function, step)))
            for name, function in pair.items()
            if function is not None
        ]

    def _check_imports(self, name: str, spec: StepSpec, entry: dict[str, Any]) -> None:
        """A module that is missing here is missing in the step too, if the step runs in this very Python; else it is worth a word."""
        try:
            needs.check_imports(name, spec.function, entry["roots"])
        except errors.MissingModule as missing:
            if self.run.private:
                raise
            if missing.message not in self._told:
                self._told.add(missing.message)
                tell(f"note: {missing.message} here; {missing.cause}: its worker needs it")
