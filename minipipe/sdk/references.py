"""``${...}`` in the arguments of pipeline steps: read, checked while the pipeline is built, and turned into what the store needs.

| form | becomes |
|---|---|
| ``${pipeline.NAME}`` | the pipeline parameter: typed when it stands alone, its text inside other text |
| ``${STEP.RESULT}`` (function arguments, alone) | that result, by reference |
| ``${STEP.id}``, ``${STEP.artifacts.NAME.url}``, ``${STEP.parameters.Section/key}`` | text, filled in once the step has ended |
| ``${STEP.models.output.-1.url}`` (``input`` or ``output``, place, fact) | the same |
| ``${STEP.script.branch}``, ``${STEP.tags}`` … (`task_overrides`, `execution_queue`) | the same, see `minipipe.sdk.task_fields` |

Each reference to a step makes it a parent, at any depth of lists, dicts and tuples.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minipipe import errors
from minipipe.store.placeholders import MODEL_FACTS, MODEL_ROLES, PATTERN, split

_KINDS = ("id", "artifacts", "parameters", "models")
_FACTS = ("url", "hash", "size", "type", "name", "mode", "timestamp", "preview", "metadata")
_OF_TASKS = ("script", "execution", "container", "output", "comment", "tags", "system_tags", "project")


class Checker:
    """Knows what a pipeline has, and says what is wrong with a reference.

    Args:
        steps: step name -> names of its results (functions), empty for copies of templates.
        parameters: names of the pipeline's parameters.
    """

    def __init__(self, steps: Mapping[str, tuple[str, ...]], parameters: Mapping[str, Any]) -> None:
        self.steps = steps
        self.parameters = parameters

    def check(self, step: str, argument: str, value: Any, results: bool, of_tasks: bool = False) -> None:
        """Check every reference in a value.

        Args:
            step: the step that has the argument.
            argument: its name, for the error.
            value: anything.
            results: ``${STEP.RESULT}`` is allowed, standing alone.
            of_tasks: ``${STEP.script.branch}`` and its like are allowed.

        Raises:
            BadPipeline: an unknown step, parameter, kind or part; names step, argument and the nearest known name. Or a reference
                that is not closed, or has another one inside. An open ``${`` before any other word is text, as in ClearML.
        """
        for text in texts_in(value):
            alone = PATTERN.fullmatch(text) is not None
            for match in PATTERN.finditer(text):
                self._check_one(step, argument, match[1], results and alone, of_tasks)
            for rest in PATTERN.sub("\0", text).split("${")[1:]:
                if rest.startswith("\0") or split(rest)[0] in (*self.steps, "pipeline"):
                    what = "has another one inside" if rest.startswith("\0") else "is not closed"
                    raise errors.BadPipeline(
                        f"step {step!r}: a reference {what} in {text[:100]!r}",
                        f"argument {argument!r}",
                        "a reference is ${STEP.NAME}",
                    )

    def _check_one(self, step: str, argument: str, reference: str, results: bool, of_tasks: bool) -> None:
        trouble, known, asked = self._trouble(step, reference, results, of_tasks)
        if trouble:
            near = difflib.get_close_matches(asked, known, 1)
            raise errors.BadPipeline(
                f"step {step!r}: {trouble} in ${{{reference}}}",
                f"argument {argument!r}",
                f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}",
            )

    def _trouble(self, step: str, reference: str, results: bool, of_tasks: bool) -> tuple[str, list[str], str]:
        first, *parts = split(reference)
        if first == "pipeline":
            name = split(reference, 1)[1] if parts else ""
            return ("", [], "") if name in self.parameters else (f"no pipeline parameter {name!r}", list(self.parameters), name)
        if first not in self.steps:
            return f"no step {first!r}", [name for name in self.steps if name != step], first
        if first == step:
            return "a step cannot refer to itself", [name for name in self.steps if name != step], ""
        if not parts:
            return "nothing is asked of the step", list(_KINDS), ""
        if results and parts[0] in self.steps[first] and len(parts) == 1:
            return "", [], ""
        if parts[0] == "id":
            return ("", [], "") if len(parts) == 1 else ("an id has no parts", ["id"], "")
        if parts[0] == "artifacts":
            return _artifact_trouble(parts)
        if parts[0] == "parameters":
            return ("", [], "") if len(parts) > 1 else ("a parameter needs a name", [], "")
        if parts[0] == "models":
            return _model_trouble(parts)
        if parts[0] in self.steps[first] and len(parts) == 1:
            return f"the result {parts[0]!r} stands alone in an argument of a function, not", list(_KINDS), parts[0]
        if parts[0] in _OF_TASKS and of_tasks:
            alone = parts[0] in ("comment", "tags", "system_tags", "project")
            if alone:
                return ("", [], "") if len(parts) == 1 else (f"{parts[0]!r} has no parts", [parts[0]], "")
            return ("", [], "") if len(parts) > 1 else (f"{parts[0]!r} needs a part", [f"{parts[0]}.branch"], "")
        if parts[0] in _OF_TASKS:
            return f"{parts[0]!r} may only be asked for in task_overrides and execution_queue, not", list(_KINDS), parts[0]
        return f"a step has no {parts[0]!r}", [*_KINDS, *(self.steps[first] if results else ())], parts[0]


def _artifact_trouble(parts: list[str]) -> tuple[str, list[str], str]:
    if len(parts) < 3:
        return "an artifact needs a name and a part", list(_FACTS), parts[-1] if len(parts) == 1 else ""
    if parts[2] not in _FACTS:
        return f"an artifact has no {parts[2]!r}", list(_FACTS), parts[2]
    if parts[2] == "metadata":
        return ("", [], "") if len(parts) == 4 else ("metadata needs a key", [], "")
    return ("", [], "") if len(parts) == 3 else (f"{parts[2]!r} has no parts", list(_FACTS), "")


def _model_trouble(parts: list[str]) -> tuple[str, list[str], str]:
    if len(parts) != 4:
        return "a model needs input or output, a place and a fact", ["models.output.-1.url"], ""
    if parts[1] not in MODEL_ROLES:
        return f"a model is input or output, not {parts[1]!r}", list(MODEL_ROLES), parts[1]
    if not parts[2].removeprefix("-").isdecimal():
        return f"the place of a model is an integer, not {parts[2]!r}", [], ""
    return ("", [], "") if parts[3] in MODEL_FACTS else (f"a model has no {parts[3]!r}", list(MODEL_FACTS), parts[3])


def texts_in(value: Any) -> Iterator[str]:
    """Each text in a value, at any depth of lists, dicts and tuples (exactly these types: others are the step's own affair)."""
    if issubclass(type(value), str):  # not isinstance: asking a lazy result for its class would wait for it
        yield value
    elif type(value) is dict:
        for key, part in value.items():
            yield from texts_in(key)
            yield from texts_in(part)
    elif type(value) in (list, tuple):
        for part in value:
            yield from texts_in(part)


def references_in(value: Any) -> Iterator[str]:
    """The inside of each ``${...}`` in a value, at any depth."""
    for text in texts_in(value):
        yield from (match[1] for match in PATTERN.finditer(text))


def steps_in(value: Any) -> list[str]:
    """Names of the steps that a value refers to, each once."""
    return list(dict.fromkeys(first for reference in references_in(value) if (first := split(reference)[0]) != "pipeline"))


def has_step_reference(value: Any) -> bool:
    """True if a value still refers to a step."""
    return bool(steps_in(value))


def fill(value: Any, parameters: Mapping[str, Any], step_text: Callable[[str], Any] | None = None) -> Any:
    """A value with pipeline parameters in their places.

    Args:
        value: anything; lists, dicts and tuples of exactly these types are gone through.
        parameters: of the pipeline, typed.
        step_text: what takes the place of a whole text that still refers to a step; None leaves the text.
    """
    if issubclass(type(value), str):
        filled = _fill_text(value, parameters)
        return step_text(filled) if step_text is not None and has_step_reference(value) else filled
    if type(value) is dict:
        return {fill(key, parameters): fill(part, parameters, step_text) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(fill(part, parameters, step_text) for part in value)
    return value


def _fill_text(text: str, parameters: Mapping[str, Any]) -> Any:
    whole = PATTERN.fullmatch(text)
    if whole is not None:
        first, *parts = split(whole[1], 1)
        return parameters[parts[0]] if first == "pipeline" else text

    def one(match: Any) -> str:
        first, *parts = split(match[1], 1)
        return str(parameters[parts[0]]) if first == "pipeline" else str(match[0])

    return PATTERN.sub(one, text)
