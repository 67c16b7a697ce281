"""What `minipipe check` says of a component is what happens to the code that ClearML makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from minipipe import portable, portable_names
from tests.conformance import oracle

pytestmark = pytest.mark.conformance

SOURCE = (Path(__file__).parent / "agent_components.txt").read_text(encoding="utf-8")
MODULES = {"locallib.py": "def value():\n    return 1\n"}


def verdicts(source: str, folder: Path) -> dict[str, bool]:
    """Component -> True if nothing was found in it, or in what travels with it."""
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    script = portable.read(source, "flow.py", folder)
    found = {component.node.name: True for component in script.components}
    for component in script.components:
        whole = set(range(component.node.lineno, (component.node.end_lineno or 0) + 1))
        for finding in portable_names.check(script):
            mine = finding.line in whole or f"component '{component.node.name}'" in finding.message
            if mine and not finding.remark:
                found[component.node.name] = False
    return found


def test_a_finding_about_a_name_is_an_error_on_an_agent_and_no_finding_is_none(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    real = oracle.ask("agent_code.py", {"source": SOURCE, "name": "flow.py", "modules": MODULES}, tmp_path)

    assert len(real) >= 15
    assert verdicts(SOURCE, tmp_path / "here") == {name: ended == "fine" for name, ended in real.items()}
    assert {name: ended for name, ended in real.items() if ended != "fine"}.keys() >= {"constant", "helper_of_helper", "enclosed"}


def test_a_future_import_makes_every_step_a_syntax_error(tmp_path: Path) -> None:
    head = "from __future__ import annotations\nfrom clearml import PipelineDecorator\n\n\n"
    source = head + "@PipelineDecorator.component(return_values=['a'])\ndef one(x=1):\n    return x\n"

    real = oracle.ask("agent_code.py", {"source": source, "name": "flow.py", "modules": {}}, tmp_path)

    found = list(portable_names.check(portable.read(source, "flow.py", tmp_path)))
    assert real == {"one": "SyntaxError"}
    assert [(one.line, one.code) for one in found] == [(1, "MP102")]
