"""Answers questions with the ClearML that ``import clearml`` means: the real package in its own environment, or minipipe's.

Both run this very file, so that each question is asked in the same words; what cannot be said with public names stands in `_Real` and
`_Ours`. A question is a line of JSON ``[function, arguments]``; values are Python expressions, answers are texts.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import io
import itertools
import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

SECTIONS = (f"S{number}" for number in itertools.count())


class Color(enum.Enum):
    red = 1
    green = "g"


def value_of(expression: str) -> Any:
    """The value of an expression; ``numpy``, ``pandas`` are there when it says so."""
    names: dict[str, Any] = {"Color": Color, "nan": math.nan, "inf": math.inf, "Path": Path}
    if "np." in expression:
        names["np"] = __import__("numpy")
    if "pd." in expression:
        names["pd"] = __import__("pandas")
    return eval(expression, names)


def shown(value: Any) -> str:
    """A value as text, with its type where the text does not say it; equal values give equal texts."""
    kind = type(value)
    if isinstance(value, dict):  # a connected one too
        return "{" + ", ".join(f"{shown(key)}: {shown(item)}" for key, item in value.items()) + "}"
    if kind in (list, tuple):
        inner = ", ".join(map(shown, value))
        return f"[{inner}]" if kind is list else f"({inner})"
    if kind.__module__ in ("builtins", "__main__"):
        return repr(value) if kind.__name__ != "Color" else f"Color.{value.name}"
    if kind.__name__ == "ndarray":
        return f"{value.dtype} {value.tolist()}"
    if kind.__name__ == "DataFrame":
        return f"{[str(one) for one in value.dtypes]} {value.to_dict('split')}"
    return f"{kind.__name__}({value!s})"


def told(error: Exception) -> str:
    """An error by the nearest class of Python's own: that is what scripts catch."""
    return "raises " + next(one.__name__ for one in type(error).__mro__ if one.__module__ == "builtins")


# -- parameters ---------------------------------------------------------------------------------------------------------


def connect(expression: str) -> Any:
    """What a dict leaves in its section: sorted texts, and what they are when they are read with their types."""
    section = next(SECTIONS)
    side.task.connect(value_of(expression), name=section)
    return _section(section)


def connect_object(expression: str) -> Any:
    """The same for attributes of a class."""
    section = next(SECTIONS)
    side.task.connect(type("Given", (), value_of(expression)), name=section)
    return _section(section)


def _section(section: str) -> Any:
    texts, typed = side.task.get_parameters(), side.task.get_parameters(cast=True)
    return sorted([name.partition("/")[2], texts[name], shown(typed[name])] for name in texts if name.startswith(f"{section}/"))


def override(stored: dict[str, str], expression: str) -> str:
    """What a dict becomes where a worker runs the task and these texts are stored."""
    section, code = next(SECTIONS), value_of(expression)
    side.task.connect(code, name=section)  # what the first run left, with its types
    side.task.update_parameters({f"{section}/{key}": text for key, text in stored.items()})
    with side.worker():
        found = side.task.connect(code, name=section)
    return shown({key: found[key] for key in sorted(found)})


def set_and_get(expression: str) -> Any:
    """What `set_parameter` leaves, as text and cast."""
    section = next(SECTIONS)
    side.task.set_parameter(f"{section}/x", value_of(expression))
    return _section(section)


def update_twice(first: str, second: str) -> Any:
    """What a value leaves that replaces another."""
    section = next(SECTIONS)
    side.task.set_parameter(f"{section}/x", value_of(first))
    side.task.set_parameter(f"{section}/x", value_of(second))
    return _section(section)


def nested(expression: str) -> str:
    """A section as `get_parameters_as_dict` gives it."""
    section = next(SECTIONS)
    side.task.connect(value_of(expression), name=section)
    return shown(_sorted(side.task.get_parameters_as_dict().get(section, {})))


def _sorted(value: Any) -> Any:
    return {key: _sorted(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


# -- command lines ------------------------------------------------------------------------------------------------------


def command_line(arguments: list[list[Any]], given: list[str]) -> Any:
    """What a parser reads and leaves in section ``Args``.

    Args:
        arguments: name and keyword arguments of each `add_argument`; ``type`` by its name.
        given: the command line.
    """
    prefix = f"p{next(SECTIONS)}_".lower()
    parser = argparse.ArgumentParser()
    kinds = {"int": int, "float": float}
    for name, options in arguments:
        options = {key: kinds[item] if key == "type" else item for key, item in options.items()}
        parser.add_argument(name, dest=prefix + name.lstrip("-").replace("-", "_"), **options)
    found = vars(parser.parse_args(given))
    texts = side.task.get_parameters()
    left = sorted(
        [name.removeprefix(f"Args/{prefix}"), text] for name, text in texts.items() if name.startswith(f"Args/{prefix}")
    )
    return [sorted([key.removeprefix(prefix), shown(item)] for key, item in found.items()), left]


# -- artifacts ----------------------------------------------------------------------------------------------------------


def artifact(expression: str, options: dict[str, Any]) -> Any:
    """Type, ending of the file's name and value of an artifact, read back."""
    name = next(SECTIONS)
    if not side.task.upload_artifact(name, value_of(expression), wait_on_upload=True, **options):
        return "not stored"
    kind, path = side.stored(name)
    return [kind, "".join(Path(path).suffixes), shown(side.task.artifacts[name].get())]


def artifact_hash(expression: str) -> str:
    """The digest that people see."""
    name = next(SECTIONS)
    side.task.upload_artifact(name, value_of(expression), wait_on_upload=True)
    return side.hash_of(name)


# -- lazy results -------------------------------------------------------------------------------------------------------


def lazy(value: str, operation: str, other: str) -> str:
    """What an operation on a lazy result gives: ``p`` is lazy, ``v`` its value, ``x`` another."""
    from clearml.utilities.proxy_object import LazyEvalWrapper

    plain = value_of(value)
    names = {"p": LazyEvalWrapper(lambda: plain), "x": value_of(other), "math": math, "json": json}
    try:
        return shown(eval(operation, names))
    except Exception as error:
        return told(error)


# -- references ---------------------------------------------------------------------------------------------------------


def reference(text: str) -> str:
    """Whether a text is taken as an override of a step after steps ``one`` and ``two_b``, with pipeline parameter ``lr``."""
    from clearml import PipelineController

    pipeline = PipelineController("references", "conformance", "1.0.0", add_run_number=False)
    pipeline.add_parameter("lr", 0.1)
    for name in ("one", "two_b"):
        pipeline.add_function_step(name, step, {"x": 1}, function_return=["out"])
    try:
        return f"waits for {sorted(set(side.parents(pipeline, text)))}"
    except ValueError:
        return "ValueError"


def step(x: Any) -> Any:
    return x


# -- the two sides ------------------------------------------------------------------------------------------------------


class _Real:
    def __init__(self) -> None:
        from clearml import Task

        Task.set_offline(True)
        self.task: Any = Task.init(
            "conformance", "real", auto_connect_frameworks=False, auto_resource_monitoring=False, auto_connect_streams=False
        )

    @contextlib.contextmanager
    def worker(self) -> Any:
        import clearml.task

        before, clearml.task.running_remotely = clearml.task.running_remotely, lambda: True
        try:
            yield
        finally:
            clearml.task.running_remotely = before

    def stored(self, name: str) -> tuple[str, str]:
        found = next(one for one in self.task.data.execution.artifacts if one.key == name)
        return found.type, found.uri

    def hash_of(self, name: str) -> str:
        return str(next(one for one in self.task.data.execution.artifacts if one.key == name).hash)

    def parents(self, pipeline: Any, text: str) -> list[str]:
        """Without a server no template can be looked up; what looks at references can be asked by itself."""
        node = pipeline.get_pipeline_dag()["one"]
        found = [
            pipeline._PipelineController__verify_step_reference(node, each) for each in pipeline._step_ref_pattern.findall(text)
        ]
        return [name for name in found if name]


class _Ours:
    def __init__(self) -> None:
        from minipipe import clearml

        clearml.install()
        from clearml import Task

        self.task: Any = Task.init("conformance", "ours")
        self._template = ""

    @contextlib.contextmanager
    def worker(self) -> Any:
        import dataclasses

        from minipipe import context

        before = context.running()
        context.set_running(dataclasses.replace(before, worker_mode=True))
        try:
            yield
        finally:
            context.set_running(before)

    def stored(self, name: str) -> tuple[str, str]:
        found = self.task.artifacts[name]
        return found.type, found.get_local_copy(extract_archive=False)

    def hash_of(self, name: str) -> str:
        return str(self.task.artifacts[name].hash)

    def parents(self, pipeline: Any, text: str) -> list[str]:
        from clearml import Task

        self._template = self._template or Task.create("conformance", "template").id
        pipeline.add_step("last", base_task_id=self._template, parameter_override={"General/x": text})
        pipeline._verify()
        return list(pipeline.get_pipeline_dag()["last"].parents or [])


side: Any = None


def main() -> None:
    """Answer line by line."""
    global side
    channel = os.fdopen(os.dup(1), "w", buffering=1)  # what the packages print must not get in between
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    sys.stdout = io.TextIOWrapper(io.FileIO(null, "w"), write_through=True)
    warnings.simplefilter("ignore")
    side = _Real() if sys.argv[1] == "real" else _Ours()
    for number, line in enumerate(sys.stdin):
        function, arguments = json.loads(line)
        if number % 20 == 0:
            side.task.set_parameters({})  # the more there is, the longer each change takes
        try:
            answer: Any = globals()[function](*arguments)
        except Exception as error:
            answer = told(error)
            print(f"{line.strip()} {error!r}", file=sys.stderr)
        channel.write(json.dumps(answer) + "\n")
    os._exit(0)


if __name__ == "__main__":
    main()
