"""Run by the Python of the real ClearML's environment: runs components as an agent would, from the code that ClearML generates.

It reads ``{"source": text of a script, "name": of its file}`` and answers, for each component, how its call in that code ended: "fine"
or the name of the exception. The script's folder is not importable there, as on an agent.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from clearml import PipelineDecorator
from clearml.backend_interface.task.populate import CreateFromFunction

_CALL = """
try:
    {name}()
    print('ENDED fine')
except BaseException as error:
    print('ENDED ' + type(error).__name__)
"""


def components(source: str, name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """What each decorated function of the script was given."""
    found: dict[str, dict[str, Any]] = {}

    def component(_func: Any = None, **words: Any) -> Any:
        def keep(function: Any) -> Any:
            found[inner_name(function)] = {"function": function, **words}
            return function

        return keep if _func is None else keep(_func)

    PipelineDecorator.component = staticmethod(component)  # type: ignore[method-assign,assignment]
    path = folder / name
    path.write_text(source)
    sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    for value in list(vars(module).values()):  # components inside functions are made by calling these
        if callable(value) and getattr(value, "__name__", "").startswith("make_"):
            value()
    sys.path.remove(str(folder))
    return found


def inner_name(function: Any) -> str:
    """The name that ClearML calls a step by, under decorators of the user."""
    return str(CreateFromFunction._deep_extract_wrapped(function).__name__)


def generated(given: dict[str, Any]) -> str:
    """The code that real ClearML makes of a component."""
    pipeline = PipelineDecorator.__new__(PipelineDecorator)
    pipeline._task_template_header = None
    pipeline._artifact_serialization_function = pipeline._artifact_deserialization_function = None
    pipeline._skip_global_imports = False
    words = dict.fromkeys(
        "docker docker_args docker_bash_setup_script auto_connect_frameworks auto_connect_arg_parser repo branch commit".split()
    )
    made = pipeline._create_task_from_function(
        function=given["function"],
        function_input_artifacts={},
        function_kwargs={},
        function_return=[],
        packages=[],
        project_name="checked",
        task_name=given["function"].__name__,
        task_type="training",
        helper_functions=given.get("helper_functions"),
        **words,
    )
    return str(made["script"]["diff"])


def ending(code: str, name: str) -> str:
    """Define what the code defines, call the component, say how that ended."""
    with tempfile.TemporaryDirectory() as folder:
        head = code[: code.index("if __name__ == '__main__':")]
        path = Path(folder) / "step.py"
        path.write_text(head + _CALL.format(name=name))
        done = subprocess.run([sys.executable, "-P", str(path)], capture_output=True, text=True, cwd=folder)
    ended = [line.removeprefix("ENDED ") for line in done.stdout.splitlines() if line.startswith("ENDED ")]
    return ended[-1] if ended else (done.stderr.strip().splitlines() or ["?"])[-1].partition(":")[0]


def main() -> None:
    """Answer."""
    asked = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in asked["modules"].items():
            (Path(folder) / name).write_text(text)
        found = components(asked["source"], asked["name"], Path(folder))
        codes = {name: generated(given) for name, given in found.items()}
    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip(codes, pool.map(ending, codes.values(), codes), strict=True))
    print("READ:" + json.dumps(answers))


if __name__ == "__main__":
    main()
