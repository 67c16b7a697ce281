"""``${...}`` in the arguments of pipeline steps: read, checked while the pipeline is built, and turned into what the store needs.

| form | becomes |
|---|---|
| ``${pipeline.NAME}`` | the pipeline parameter: typed when it stands alone, its text inside other text |
| ``${STEP.RESULT}`` (function arguments, alone) | that result, by reference |
| ``${STEP.id}``, ``${STEP.artifacts.NAME.url}``, ``${STEP.parameters.Section/key}`` | text, filled in once the step has ended |

Each reference to a step makes it a parent, at any depth of lists, dicts and tuples.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from minipipe import errors
from minipipe.store.placeholders import PATTERN, split

_KINDS = ("id", "artifacts", "parameters")
_FACTS = ("url", "hash", "size", "type", "name", "mode", "timestamp", "preview", "metadata")


class Checker:
    """Knows what a pipeline has, and says what is wrong with a reference.

    Args:
        steps: step name -> names of its results (functions), empty for copies of templates.
        parameters: names of the pipeline's parameters.
    """

    def __init__(self, steps: Mapping[str, tuple[str, ...]], parameters: Mapping[str, Any]) -> None:
        self.steps = steps
        self.parameters = parameters

    def check(self, step: str, argument: str, value: Any, results: bool) -> None:
        """Check every reference in a value.

        Args:
            step: the step that has the argument.
            argument: its name, for the error.
            value: anything.
            results: ``${STEP.RESULT}`` is allowed.

        Raises:
            BadPipeline: an unknown step, parameter, kind or part; names step, argument and the nearest known name.
        """
        for reference in references_in(value):
            trouble, known, asked = self._trouble(step, reference, results)
            if trouble:
                near = difflib.get_close_matches(asked, known, 1)
                raise errors.BadPipeline(
                    f"step {step!r}: {trouble} in ${{{reference}}}",
                    f"argument {argument!r}",
                    f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}",
                )

    def _trouble(self, step: str, reference: str, results: bool) -> tuple[str, list[str], str]:
        first, *parts = split(reference)
        if first == "pipeline":
            name = ".".join(parts)
            return ("", [], "") if name in self.parameters else (f"no pipeline parameter {name!r}", list(self.parameters), name)
        if first not in self.steps:
            return f"no step {first!r}", [name for name in self.steps if name != step], first
        if first == step:
            return "a step cannot refer to itself", [], first
        if not parts:
            return "nothing is asked of the step", list(_KINDS), ""
        if parts[0] == "id" and len(parts) == 1:
            return "", [], ""
        if parts[0] == "artifacts":
            if len(parts) < 3:
                return "an artifact needs a name and a part", list(_FACTS), parts[-1]
            return ("", [], "") if parts[2] in _FACTS else (f"an artifact has no {parts[2]!r}", list(_FACTS), parts[2])
        if parts[0] == "parameters":
            return ("", [], "") if len(parts) > 1 else ("a parameter needs a name", [], "")
        if results and parts[0] in self.steps[first] and len(parts) == 1:
            return "", [], ""
        return f"a step has no {parts[0]!r}", [*_KINDS, *(self.steps[first] if results else ())], parts[0]


def references_in(value: Any) -> Iterator[str]:
    """The inside of each ``${...}`` in a value, at any depth."""
    if isinstance(value, str):
        yield from (match[1] for match in PATTERN.finditer(value))
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from references_in(key)
            yield from references_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from references_in(part)


def steps_in(value: Any) -> list[str]:
    """Names of the steps that a value refers to, each once."""
    return list(dict.fromkeys(first for reference in references_in(value) if (first := split(reference)[0]) != "pipeline"))


def fill(value: Any, parameters: Mapping[str, Any], result: Callable[[str, str], Any] | None = None) -> Any:
    """A value with pipeline parameters (and results, by `result`) in their places; other references stay as they are."""
    if isinstance(value, str):
        return _fill_text(value, parameters, result)
    if isinstance(value, Mapping):
        return {fill(key, parameters): fill(part, parameters, result) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(fill(part, parameters, result) for part in value)
    return value


def _fill_text(text: str, parameters: Mapping[str, Any], result: Callable[[str, str], Any] | None) -> Any:
    whole = PATTERN.fullmatch(text)
    if whole is not None:
        first, *parts = split(whole[1])
        if first == "pipeline":
            return parameters[".".join(parts)]
        if result is not None and len(parts) == 1 and parts[0] != "id":
            return result(first, parts[0])
        return text

    def one(match: Any) -> str:
        first, *parts = split(match[1])
        return str(parameters[".".join(parts)]) if first == "pipeline" else str(match[0])

    return PATTERN.sub(one, text)


def has_step_reference(value: Any) -> bool:
    """True if a value still refers to a step."""
    return bool(steps_in(value))
