"""Command lines of click, fire, jsonargparse, hydra and absl: recorded where a script runs, overridden where a worker runs its clone."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from minipipe import Task
from minipipe.sdk import auto
from minipipe.sdk.auto import connection
from minipipe.sdk.connect import Binding
from minipipe.store.home import Store
from tests.sdk.sdk_scripts import python


@pytest.fixture(autouse=True)
def _hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    connection.end()
    auto.watch()
    yield
    connection.end()


@dataclass
class Tried:
    """One command line, recorded, and then run again with something overridden."""

    task: Task
    run: Callable[[], Any]

    def record(self, **switches: Any) -> dict[str, str]:
        """Run it where a script would; gives what the task then holds."""
        connection.begin(Binding(self.task._current, False), **switches)
        self.run()
        connection.end()
        return self.task.get_parameters()

    def override(self, **changes: Any) -> Any:
        """Run it where a worker would, after a person has written texts over some parameters; gives what it returns."""
        self.task.set_parameters({**self.task.get_parameters(), **changes})
        connection.begin(Binding(self.task._current, True))
        try:
            return self.run()
        finally:
            connection.end()


@pytest.fixture
def tried(home: Store) -> Callable[[Callable[[], Any]], Tried]:
    def make(run: Callable[[], Any]) -> Tried:
        return Tried(Task.create("tests", "commands"), run)

    return make


Make = Callable[[Callable[[], Any]], Tried]


# -- click --------------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--count", default=1)
@click.option("--name", prompt="Your name")
@click.option("--pairs", type=(int, str), multiple=True)
@click.option("--place", type=click.Path(path_type=Path))
@click.option("--quiet/--loud", default=False)
@click.argument("rest", nargs=-1)
def hello(**given: Any) -> None:
    click.echo(repr(given))


def clicked(command: click.Command, *words: str, input: str = "") -> Any:
    done = CliRunner().invoke(command, list(words), input=input, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return eval(done.output.splitlines()[-1], {"PosixPath": Path})


def test_a_click_command_with_a_prompt(tried: Make) -> None:
    one = tried(lambda: clicked(hello, "--pairs", "1", "a", "--place", "x", "left", "right", input="Ann\n"))

    assert one.record() == {
        "Args/count": "1",
        "Args/name": "Ann",
        "Args/pairs": '[[1, "a"]]',
        "Args/place": "x",
        "Args/quiet": "False",
        "Args/rest": '["left", "right"]',
    }
    given = one.override(**{"Args/count": "3", "Args/name": "Eve", "Args/quiet": "true", "Args/place": "y"})
    assert given == {
        "count": 3,
        "name": "Eve",
        "pairs": ((1, "a"),),
        "place": Path("y"),
        "quiet": True,
        "rest": ("left", "right"),
    }


@click.group()
@click.option("--level", default=1)
@click.pass_context
def group(ctx: click.Context, level: int) -> None:
    ctx.obj = level


@group.command("serve")
@click.option("--port", default=80)
@click.option("--host", required=True)
@click.pass_obj
def serve(level: int, **given: Any) -> None:
    click.echo(repr({"level": level, "serve": given}))


@group.group("data")
def data() -> None:
    pass


@data.command("load")
@click.argument("path")
@click.pass_obj
def load(level: int, **given: Any) -> None:
    click.echo(repr({"level": level, "load": given}))


def test_a_click_group_runs_the_command_that_is_stored(tried: Make) -> None:
    one = tried(lambda: clicked(group, "--level", "2", "serve", "--host", "here"))

    found = one.record()
    assert found == {
        "Args/group": "False",
        "Args/serve": "True",
        "Args/serve/port": "80",
        "Args/serve/host": "here",
        "Args/data": "False",
        "Args/load": "False",
        "Args/load/path": "",
        "Args/group/level": "2",
    }
    assert one.override(**{"Args/serve/port": "81"}) == {"level": 2, "serve": {"port": 81, "host": "here"}}
    changed = {"Args/serve": "False", "Args/load": "True", "Args/load/path": "x", "Args/group/level": "5"}
    assert one.override(**changed) == {"level": 5, "load": {"path": "x"}}


def test_a_stored_value_that_click_refuses_is_refused_as_on_the_command_line(tried: Make) -> None:
    one = tried(lambda: CliRunner().invoke(hello, ["--name", "x"]))
    one.record()
    assert "'many' is not a valid integer" in one.override(**{"Args/count": "many"}).output


def test_arguments_are_connected_as_the_switch_says(tried: Make) -> None:
    def run() -> Any:
        return clicked(hello, "--name", "Ann")

    assert tried(run).record(wanted=False) == {}
    assert set(tried(run).record(wanted={"*": False, "name": True})) == {"Args/name"}


def test_what_was_read_before_the_task_began_counts_and_minipipes_own_command_does_not(tried: Make) -> None:
    from minipipe.cli import root

    one = tried(lambda: None)
    clicked(hello, "--name", "before")
    connection.begin(Binding(one.task._current, False))
    CliRunner().invoke(root, ["queue", "list"])
    assert one.task.get_parameters()["Args/name"] == "before"
    assert not [name for name in one.task.get_parameters() if "queue" in name or "home" in name]


# -- fire ---------------------------------------------------------------------------------------------------------------


class Calculator:
    def __init__(self, offset: int = 1) -> None:
        self._offset = offset

    def add(self, x: Any, y: Any) -> Any:
        return x + y + self._offset

    def join(self, *words: str, glue: str = "-") -> str:
        return glue.join(map(str, words))


class Stages:
    def __init__(self) -> None:
        self.first = Calculator(10)

    def run(self, volume: int = 1) -> str:
        return "x" * volume


def fired(component: Any, *words: str) -> Any:
    return importlib.import_module("fire").Fire(component, command=list(words))


@pytest.mark.parametrize(
    ("component", "words", "stored", "changes", "result"),
    [
        (
            Calculator,
            ("--offset=2", "add", "1", "2"),
            {"offset": "2", "add": "True", "add/x": "1", "add/y": "2", "join": "False"},
            {"add/x": "5", "offset": "0"},
            7,
        ),
        (
            {"add": Calculator(0).add},
            ("add", "1", "--y=2"),
            {"add": "True", "add/x": "1", "add/y": "2"},
            {"add/y": "3"},
            4,
        ),
        (
            Stages,
            ("first", "add", "1", "2"),
            {
                "first.add": "True",
                "first.add/x": "1",
                "first.add/y": "2",
                "first.join": "False",
                "run": "False",
                "run/volume": "",
            },
            {"first.add": "False", "run": "True", "run/volume": "3"},
            "xxx",
        ),
        (Calculator(4).add, ("1", "2"), {"x": "1", "y": "2"}, {"y": "10"}, 15),
        (
            Calculator(),
            ("join", "a", "b", "--glue=+"),
            {"join": "True", "join/words": '["a", "b"]', "join/glue": "+", "add": "False", "add/x": "", "add/y": ""},
            {"join/words": '["a", "c", "d"]'},
            "a+c+d",
        ),
    ],
    ids=["class", "dict", "group", "function", "rest"],
)
def test_fire_commands(
    component: Any, words: tuple[str, ...], stored: dict[str, str], changes: dict[str, str], result: Any, tried: Make
) -> None:
    pytest.importorskip("fire")
    one = tried(lambda: fired(component, *words))

    found = one.record()
    assert {name: found.get(f"Args/{name}") for name in stored} == stored
    assert one.override(**{f"Args/{name}": text for name, text in changes.items()}) == result


def test_several_fire_commands_in_a_row_are_left_alone(tried: Make) -> None:
    pytest.importorskip("fire")
    one = tried(lambda: fired(Calculator, "add", "1", "2", "-", "bit_length"))
    before = one.run()
    assert not [name for name in one.record() if name.endswith("bit_length")]
    assert one.run() == before


# -- jsonargparse, hydra, absl ------------------------------------------------------------------------------------------


@dataclass
class Model:
    rate: float = 0.1
    sizes: tuple[int, ...] = (1, 2)


class Program:
    def __init__(self, prize: int = 100, model: Model = Model()) -> None:  # noqa: B008  # as jsonargparse's users write it
        self.prize, self.model = prize, model

    def person(self, name: str) -> Any:
        return [name, self.prize, self.model.rate]

    def nobody(self, why: str = "x") -> Any:
        return [why, self.prize]


def test_jsonargparse_with_nested_keys_and_sub_commands(tried: Make) -> None:
    library = pytest.importorskip("jsonargparse")
    one = tried(lambda: library.auto_cli(Program, args=["--prize=50", "--model.rate=0.5", "person", "Bob"]))

    found = one.record()
    assert found["Args/subcommand"] == "person" and found["Args/person.name"] == "Bob"
    assert (found["Args/prize"], found["Args/model.rate"], found["Args/model.sizes"]) == ("50", "0.5", "[1, 2]")
    assert one.override(**{"Args/prize": "60", "Args/person.name": "Eve", "Args/model.rate": "2"}) == ["Eve", 60, 2.0]
    assert one.override(**{"Args/subcommand": "nobody", "Args/nobody.why": "y"}) == ["y", 60]
    with pytest.raises(SystemExit):
        one.override(**{"Args/prize": "many"})


def test_hydra_overrides_and_its_whole_configuration(tried: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hydra = pytest.importorskip("hydra")
    (tmp_path / "conf" / "db").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text("defaults:\n  - db: small\n  - _self_\nuser: root\nsize: 1\n")
    for name in ("small", "large"):
        (tmp_path / "conf" / "db" / f"{name}.yaml").write_text(f"kind: {name}\n")
    monkeypatch.chdir(tmp_path)
    seen: list[Any] = []

    def app() -> Any:
        from omegaconf import OmegaConf

        words = ["app", "user=ann", "+extra.x=3", "db=large", f"hydra.run.dir={tmp_path}/out"]
        monkeypatch.setattr(sys, "argv", words)
        hydra.main(config_path=str(tmp_path / "conf"), config_name="config", version_base=None)(
            lambda config: seen.append(OmegaConf.to_container(config))
        )()
        return seen[-1]

    one = tried(app)
    found = one.record()
    assert found == {
        "Hydra/user": "ann",
        "Hydra/extra.x": "3",
        "Hydra/db": "large",
        "Hydra/_allow_omegaconf_edit_": "False",
    }
    assert "user: ann" in (one.task.get_configuration_object("OmegaConf") or "")
    changed = one.override(**{"Hydra/user": "eve", "Hydra/size": "7", "Hydra/db": "small"})
    assert changed == {"db": {"kind": "small"}, "user": "eve", "size": 7, "extra": {"x": 3}}

    one.task.set_configuration_object("OmegaConf", config_text="only: this\n")
    assert one.override(**{"Hydra/_allow_omegaconf_edit_": True}) == {"only": "this"}
    assert tried(app).record(frameworks={"hydra": False}) == {}


def test_absl_flags(tried: Make) -> None:
    flags = pytest.importorskip("absl.flags")
    values = flags.FlagValues()
    flags.DEFINE_string("name", "Jane", "who", flag_values=values)
    flags.DEFINE_integer("age", None, "how old", flag_values=values)
    flags.DEFINE_list("items", ["a"], "what", flag_values=values)

    def run() -> Any:
        values.unparse_flags()
        values(["program", "--age=3", "--items=b,c"])
        return [values.name, values.age, values["items"].value]

    one = tried(run)
    assert one.record() == {"TF_DEFINE/name": "Jane", "TF_DEFINE/age": "3", "TF_DEFINE/items": '["b", "c"]'}
    assert one.override(**{"TF_DEFINE/age": "4", "TF_DEFINE/name": "Bob"}) == ["Bob", 4, ["b", "c"]]
    assert tried(run).record(frameworks={"tfdefines": False}) == {}


# -- hooks --------------------------------------------------------------------------------------------------------------


def test_a_hook_is_installed_when_its_library_is_imported_and_leaves_its_loader_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_library.py").write_text("def read():\n    return 1\n")
    (tmp_path / "some_hook.py").write_text(
        "seen = []\ndef patch(module):\n    seen.append(module.read())\n    raise ValueError('ours')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(auto.HOOKS, "some_library", "some_hook")
    monkeypatch.setattr(auto, "__path__", [*auto.__path__, str(tmp_path)])

    library = importlib.import_module("some_library")

    hook = importlib.import_module("minipipe.sdk.auto.some_hook")
    assert hook.seen == [1] and library.read() == 1
    assert type(library.__spec__.loader).__name__ == type(library.__loader__).__name__ == "SourceFileLoader"
    assert json.__spec__ is not None


def test_nothing_of_a_library_is_imported_for_its_hook() -> None:
    names = ("fire", "hydra", "jsonargparse", "absl", "click")
    script = f"import sys; import minipipe; minipipe.Task; print([name for name in {names} if name in sys.modules])"
    assert python(Path.cwd(), "-c", script).out == "[]\n"
