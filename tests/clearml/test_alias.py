"""``import clearml`` means minipipe where it was asked for, and nowhere else."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import minipipe
from minipipe import clearml, context, errors
from minipipe.clearml import names

Command = Callable[..., subprocess.CompletedProcess[str]]


def no_alias() -> bool:
    return not any(name.partition(".")[0] == "clearml" for name in sys.modules)


# -- names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(names.MODULES.keys() - names.OPTIONAL))
@pytest.mark.usefixtures("alias")
def test_every_module_can_be_imported_and_gives_all_of_its_names(path: str) -> None:
    found = importlib.import_module(path)

    assert found.__version__ == "2.1.12" and found.__minipipe__ == minipipe.__version__
    assert all(isinstance(getattr(found, name), (type, types.FunctionType)) for name in found.__all__)
    assert {*found.__all__} <= {*dir(found)}


@pytest.mark.usefixtures("alias")
def test_names_are_minipipes_own_wherever_they_are_imported_from() -> None:
    import clearml as top  # type: ignore[import-not-found]
    from clearml.automation.controller import PipelineDecorator  # type: ignore[import-not-found]

    assert top.Task is minipipe.Task
    assert PipelineDecorator is minipipe.PipelineDecorator is top.automation.controller.PipelineDecorator
    assert top.UsageError is errors.UsageError


@pytest.mark.usefixtures("alias")
def test_what_is_not_there_is_an_error_as_for_any_module() -> None:
    import clearml as top

    with pytest.raises(AttributeError, match="minipipe's clearml has no 'Nothing'"):
        top.Nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'clearml\.nothing'"):
        importlib.import_module("clearml.nothing")


@pytest.mark.parametrize("name", sorted(names.REFUSED))
@pytest.mark.usefixtures("alias")
def test_a_refused_name_can_be_imported_and_says_so_when_it_is_used(name: str) -> None:
    path = next(path for path, own in names.MODULES.items() if name in own.split())
    refused = getattr(importlib.import_module(path), name)

    uses = (lambda: refused(), lambda: refused.anything, lambda: type("Derived", (refused,), {}))
    for use in uses:
        with pytest.raises(errors.NotSupported, match=rf"{name}.* is not offered by minipipe") as caught:
            use()
        assert caught.value.cause and caught.value.hint
    assert not isinstance(3, refused)


@pytest.mark.usefixtures("alias")
def test_an_optional_module_without_its_names_fails_at_import_so_that_scripts_fall_back() -> None:
    with pytest.raises(ImportError, match="needs OptimizerBOHB"):
        importlib.import_module("clearml.automation.hpbandster")


def test_importing_it_loads_nothing_that_is_not_used() -> None:
    ask = (
        "import sys, minipipe.clearml as alias; alias.install(); import clearml, clearml.automation, clearml.automation.controller;"
        "heavy = ('minipipe.sdk', 'minipipe.store', 'minipipe.cli', 'sqlite3', 'click', 'numpy');"
        "print([name for name in sys.modules if name.startswith(heavy)])"
    )
    done = subprocess.run((sys.executable, "-c", ask), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


# -- where ----------------------------------------------------------------------------------------------------------------


def test_installing_can_be_undone_without_a_trace() -> None:
    before = list(sys.meta_path), list(sys.path), os.environ.get("PYTHONPATH"), context.first_imports()

    clearml.install()
    clearml.install()
    importlib.import_module("clearml.automation")
    assert clearml.is_installed()
    clearml.uninstall()
    clearml.uninstall()

    assert (list(sys.meta_path), list(sys.path), os.environ.get("PYTHONPATH"), context.first_imports()) == before
    assert no_alias() and not clearml.is_installed()


def test_installing_is_refused_once_another_clearml_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "clearml", types.ModuleType("clearml"))

    with pytest.raises(errors.UsageError, match="another clearml is imported already"):
        clearml.install()
    assert not clearml.is_installed()


SCRIPT = """
import subprocess, sys
from clearml import PipelineDecorator, Task
import clearml

ASK = "import clearml; from clearml import Task; print('program', hasattr(clearml, '__minipipe__'), Task.__module__)"


@PipelineDecorator.component(return_values=["found"])
def step():
    import clearml.automation

    subprocess.run([sys.executable, "-c", ASK], check=True, cwd="/")
    return [clearml.__minipipe__, Task.current_task().name]


@PipelineDecorator.pipeline(name="ask", project="tests", version="1")
def logic():
    print("controller", clearml.__minipipe__)
    return step()


if __name__ == "__main__":
    subprocess.run([sys.executable, "-c", ASK], check=True, cwd="/")
    logic()
"""


@pytest.fixture
def rival(tmp_path: Path) -> Path:
    """A folder with another package called clearml."""
    package = tmp_path / "rival" / "clearml"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("print('the rival')\nTask = None\n")
    return package.parent


def test_a_run_has_the_alias_in_its_controller_its_steps_and_the_programs_they_start(
    folder: Path, rival: Path, command: Command
) -> None:
    (folder / "flow.py").write_text(SCRIPT)
    path = f"{os.environ['PYTHONPATH']}:{rival}"

    done = command("run", "--logs", "flow.py", PYTHONPATH=path)

    assert "rival" not in done.stdout
    assert done.stderr.count("is hidden by minipipe's; --no-alias uses it") == 1
    said = done.stdout + done.stderr
    assert said.count("program True minipipe.sdk.task") == 3, said  # script, controller, step
    assert f"controller {minipipe.__version__}" in said


def test_a_worker_that_knows_nothing_of_the_alias_runs_what_was_queued_under_it(
    folder: Path, rival: Path, command: Command
) -> None:
    (folder / "flow.py").write_text(SCRIPT)
    command("run", "--detach", "flow.py")

    path = f"{os.environ['PYTHONPATH']}:{rival}"
    command("worker", "--until-idle", PYTHONPATH=path)

    assert "completed" in command("show", "@last").stdout
    log = command("logs", "@last").stdout
    assert "program True minipipe.sdk.task" in log and "rival" not in log


def test_without_the_alias_the_installed_clearml_is_found(folder: Path, rival: Path, command: Command) -> None:
    (folder / "plain.py").write_text("import clearml\nprint(clearml.Task)\n")
    path = f"{os.environ['PYTHONPATH']}:{rival}"

    for words in (("run", "--no-alias", "plain.py"), ("run", "plain.py")):
        done = command(*words, PYTHONPATH=path, **({} if "--no-alias" in words else {"MINIPIPE_CLEARML_ALIAS": "0"}))
        assert done.stdout == "the rival\nNone\n"
        assert "hidden" not in done.stderr
