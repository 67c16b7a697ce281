"""``minipipe check``: each code, where it stands, what silences it, exit codes; and that nothing is executed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from minipipe import portable

Cli = Callable[..., Result]

HEAD = """import json, math
from clearml import PipelineDecorator
from clearml.automation.controller import PipelineController
EPOCHS = 3
class Thing: ...
def scale(x): return x * EPOCHS
def listed(x): return x
"""
COMPONENT = "@PipelineDecorator.component(return_values=['a'])\n"


def lines(cli: Cli, folder: Path, body: str, *options: str) -> list[str]:
    """What is said of a script, without the remarks."""
    (folder / "flow.py").write_text(HEAD + body)
    done = cli("check", "flow.py", *options)
    return [line for line in done.stdout.splitlines() if " remark: " not in line]


CASES = {
    "parents that do not block": (
        "@PipelineDecorator.component(return_values=['a'], parents=['b'])\ndef a(x): return x\n",
        "MP109 parents of component 'a' only draw an edge",
    ),
    "a plain result that defeats the cache": (
        "@PipelineDecorator.component(return_values=['n'])\ndef count(x): return len(x)\n"
        "@PipelineDecorator.component(return_values=['a'], cache=True)\ndef use(n): return [n]\n"
        "@PipelineDecorator.pipeline(name='p', project='p')\ndef p():\n    n = count('abc')\n    use(n)\n    use(n=count('d'))\n",
        "15:9: MP110 'count' runs each time and gives a plain value",
    ),
    "a module's constant": (COMPONENT + "def a(x): return x + EPOCHS\n", "9:22: MP101 'EPOCHS' is a module constant"),
    "a default": (COMPONENT + "def a(x=EPOCHS): return x\n", "9:9: MP101 'EPOCHS'"),
    "a constant in an inner scope": (COMPONENT + "def a(x): return [lambda q: q + EPOCHS for q in x]\n", "MP101 'EPOCHS'"),
    "a class": (COMPONENT + "def a(x): return Thing()\n", "9:18: MP101 'Thing' is a module class"),
    "a function": (
        COMPONENT + "def a(x): return listed(x)\n",
        "MP101 'listed' is a module function: NameError on an agent; list it",
    ),
    "what a helper needs": (
        "@PipelineDecorator.component(helper_functions=[scale])\ndef a(x): return scale(x)\n",
        "6:26: MP101 'EPOCHS' is a module constant: NameError on an agent; pass it as an argument (helper of component 'a')",
    ),
    "a relative import": (
        "from .near import tool\n" + COMPONENT + "def a(x): return tool(x)\n",
        "MP102 'tool' comes from a relative",
    ),
    "an import in a block": (
        "if json:\n    import csv\n" + COMPONENT + "def a(x): return csv\n",
        "MP102 'csv' is imported in a block",
    ),
    "an import in another function": (
        "def other():\n    import csv\n" + COMPONENT + "def a(x): return csv\n",
        "MP102 'csv' is imported in other() only",
    ),
    "a local module": ("import near\n" + COMPONENT + "def a(x): return near\n", "MP102 'near' comes from the local module"),
    "a local module, inside": (
        COMPONENT + "def a(x):\n    import near\n    return near\n",
        "10:5: MP102 'near' is a local module",
    ),
    "an enclosing variable": (
        "def outer():\n    y = 1\n    " + COMPONENT + "    def a(x): return x + y\n    return a\n",
        "11:26: MP103 'y' is a variable of an enclosing function",
    ),
    "a lambda as default": (COMPONENT + "def a(x=lambda: 1): return x\n", "9:9: MP104 default of 'x' is a lambda"),
    "an open file as default": (COMPONENT + "def a(*, x=open('f')): return x\n", "MP104 default of 'x' is an open file"),
    "no parentheses": (
        "@PipelineDecorator.component\ndef a(x): return x\n",
        "8:2: MP105 @PipelineDecorator.component of 'a' without",
    ),
    "the long spelling": (
        "import clearml\n@clearml.PipelineDecorator.component()\ndef a(x): return x\n",
        "MP105 @clearml.PipelineDecorator.component of 'a' with its package",
    ),
    "below another decorator": (
        "@print\n" + COMPONENT + "def a(x): return x\n",
        "9:2: MP105 @PipelineDecorator.component of 'a' below another decorator",
    ),
    "a minipipe import": ("from minipipe import Task\n", "8:1: MP108 'Task' comes from minipipe"),
    "a bare component": (
        "from minipipe import component\n@component(return_values=['a'])\ndef a(x): return x\n",
        "9:2: MP105 @component of 'a' as a bare name",
    ),
    "refresh": ("@PipelineDecorator.component(cache='refresh')\ndef a(x): return x\n", "MP108 cache='refresh' is minipipe's"),
    "a path as default": (
        COMPONENT + "def a(x='/home/me/x.csv'): return x\n",
        "MP108 default of 'x' is the path '/home/me/x.csv'",
    ),
    "a file as default": (COMPONENT + "def a(x='near.py'): return x\n", "MP108 default of 'x' is the path 'near.py'"),
    "no section": (
        "p = PipelineController('a', 'b')\np.add_step('s', parameter_override={'lr': 1})\n",
        "9:37: MP107 parameter 'lr' has no",
    ),
    "an unknown step": (
        "p = PipelineController('a', 'b')\np.add_step('s', parameter_override={'G/x': '${t.id}'})\n",
        "MP107 '${t.id}' names no step; there are s",
    ),
    "a reference in a list": (
        "p = PipelineController('a', 'b')\np.add_step('s')\np.add_step('t', parameter_override={'G/x': ['${s.id}']})\n",
        "MP107 '${s.id}' in a list or dict is left as it is",
    ),
    "a step called pipeline": (
        "p = PipelineController('a', 'b')\np.add_step(name='pipeline')\n",
        "MP107 a step cannot be called",
    ),
    "a function step": (
        "p = PipelineController('a', 'b')\np.add_function_step('s', function=scale)\n",
        "6:26: MP101 'EPOCHS' is a module constant",
    ),
}
PIPELINE = (
    COMPONENT
    + "def step(x): return x\n"
    + "@PipelineDecorator.pipeline(name='p', project='q', version='1')\ndef flow():\n    p = step(1)\n    "
)
USES = {
    "print(f'{p:.2f}')": "MP106 a format for the result 'p'",
    "print('a' + p)": "MP106 `'a' + p` fails",
    "print(7 // p)": "MP106 `7 // p` fails",
    "print(json.dumps(p))": "MP106 json.dumps() needs the value",
    "print(''.join([p]))": "MP106 ''.join() needs the value",
    "print(p is None)": "MP106 `p is None` compares the result itself",
}
FINE = [
    COMPONENT
    + "def a(x, y='text', z=(1, 2)):\n    import csv\n    EPOCHS = 2\n    return [q for q in x] + [EPOCHS, csv, y, z]\n",
    "@PipelineDecorator.component(helper_functions=[listed])\ndef a(x): return listed(x)\n",
    "import near\n@PipelineDecorator.component(repo='https://example.com/r.git')\ndef a(x): return near\n",
    COMPONENT + "def a(x: Thing): return x\n",
    PIPELINE + "print(f'{p}', p + 'a', 2 * p, p == None, p // 2)\n",
    "p = PipelineController('a', 'b')\np.add_step(name, parameter_override={'G/x': '${t.id}', 'G/y': '${pipeline.z}'})\n",
]


@pytest.fixture
def folder(surroundings: Path) -> Path:
    (surroundings / "near.py").write_text("raise SystemExit('it was executed')\n")
    return surroundings


@pytest.mark.parametrize("name", CASES)
def test_what_would_fail_on_an_agent_is_found_at_its_place(name: str, cli: Cli, folder: Path) -> None:
    body, wanted = CASES[name]
    found = lines(cli, folder, body)

    assert any(wanted in line for line in found), found
    assert all(line.startswith("flow.py:") for line in found)


@pytest.mark.parametrize("use", USES)
def test_uses_of_a_result_that_clearml_does_not_know(use: str, cli: Cli, folder: Path) -> None:
    found = lines(cli, folder, PIPELINE + use + "\n")

    assert len(found) == 1 and USES[use] in found[0]


@pytest.mark.parametrize("body", FINE)
def test_what_works_on_an_agent_is_not_found(body: str, cli: Cli, folder: Path) -> None:
    assert lines(cli, folder, body) == []


def test_a_future_import_breaks_every_step(cli: Cli, folder: Path) -> None:
    (folder / "flow.py").write_text("from __future__ import annotations\n" + HEAD + COMPONENT + "def a(x): return x\n")

    assert "flow.py:1:1: MP102" in cli("check", "flow.py").stdout


def test_findings_end_with_1_remarks_do_not(cli: Cli, folder: Path) -> None:
    (folder / "bad.py").write_text(HEAD + CASES["a module's constant"][0])
    (folder / "fine.py").write_text(HEAD + COMPONENT + "def a(x): return math.sqrt(x)\n")
    bad, fine = cli("check", "bad.py"), cli("check", "fine.py")

    assert (bad.exit_code, fine.exit_code) == (1, 0)
    assert "MP102 remark: 'math' is imported at module level (line 1)" in fine.stdout
    assert "nothing found" in fine.stderr
    assert cli("check", "fine.py", "bad.py").exit_code == 1


def test_a_comment_silences_its_line_or_the_next_one(cli: Cli, folder: Path) -> None:
    bad = "def a(x): return x + EPOCHS"

    assert lines(cli, folder, COMPONENT + bad + "  # minipipe: ok MP101\n") == []
    assert lines(cli, folder, COMPONENT + "# minipipe: ok\n" + bad + "\n") == []
    assert len(lines(cli, folder, COMPONENT + bad + "  # minipipe: ok MP103\n")) == 1


def test_codes_are_chosen_and_left_out(cli: Cli, folder: Path) -> None:
    body = COMPONENT + "def a(x=lambda: 1): return x + EPOCHS\n"

    assert len(lines(cli, folder, body)) == 2
    assert [line.split()[1] for line in lines(cli, folder, body, "--select", "MP104,MP105")] == ["MP104"]
    assert [line.split()[1] for line in lines(cli, folder, body, "--ignore", "mp104")] == ["MP101"]
    assert cli("check", "flow.py", "--select", "MP999").exit_code == 2


def test_json_holds_each_finding(cli: Cli, folder: Path) -> None:
    (folder / "flow.py").write_text(HEAD + CASES["a lambda as default"][0])
    done = cli("check", "flow.py", "--json")

    document = json.loads(done.stdout)
    assert document["count"] == 1 and done.exit_code == 1
    assert document["findings"][0] | {"message": ""} == {
        "file": "flow.py",
        "line": 9,
        "column": 9,
        "code": "MP104",
        "message": "",
        "remark": False,
    }


def test_bad_input_is_told_in_words(cli: Cli, folder: Path) -> None:
    (folder / "broken.py").write_text("def (:\n")

    assert cli("check", "missing.py").exit_code == 3
    assert cli("check", "broken.py").exit_code == 2 and "broken.py:1 is no Python" in cli("check", "broken.py").stderr
    assert "minipipe check" in cli("check", ".").stderr
    assert not (folder / ".minipipe").exists()


def test_every_code_is_described() -> None:
    assert list(portable.CODES) == [f"MP{number}" for number in range(101, 111)]
