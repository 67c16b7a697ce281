"""``cache accept``: today's code counts as equal, and only today's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Invoke = Callable[..., Result]
Command = Callable[..., subprocess.CompletedProcess[bytes]]

FLOW = """
from minipipe import PipelineDecorator

@PipelineDecorator.component(return_values=["n"], cache=True)
def work(n=1):
    {body}

@PipelineDecorator.pipeline(name="accepting", project="examples", version="1")
def flow():
    print(work(1) + 0)

if __name__ == "__main__":
    PipelineDecorator.run_locally()
    flow()
"""


@pytest.fixture
def served(surroundings: Path, command: Command, cli: Invoke) -> Callable[[str], bool]:
    """Run the script with that body; True if its step came from the cache."""

    def run(body: str) -> bool:
        (surroundings / "flow.py").write_text(FLOW.format(body=body))
        done = command("run", "flow.py", "-j", "1")
        assert done.returncode == 0, done.stderr.decode()
        (step,) = json.loads(cli("show", "@last", "--json").stdout)["steps"]
        return bool(step["cached_from"])

    return run


@pytest.mark.exhaustive
def test_the_code_of_today_counts_as_equal_and_that_of_tomorrow_does_not(
    served: Callable[[str], bool], surroundings: Path, cli: Invoke
) -> None:
    assert not served("return n + 1")
    assert served("return n + 1")
    (surroundings / "flow.py").write_text(FLOW.format(body="return 1 + n"))
    done = cli("cache", "accept", "@last/work")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("work as it stands now in ./flow.py counts as what ")
    assert served("return 1 + n")
    assert served("return n + 1")  # the old one still does
    assert not served("return n - -1")
    assert not served("return n + 1 + 0")


def test_what_was_changed_after_it_was_accepted_and_before_it_ran_does_not_count(
    served: Callable[[str], bool], surroundings: Path, cli: Invoke
) -> None:
    assert not served("return n + 1")
    (surroundings / "flow.py").write_text(FLOW.format(body="return 1 + n"))
    assert json.loads(cli("cache", "accept", "@last/work", "--json").stdout)["function"] == "work"
    assert not served("return n + 2")
    (surroundings / "flow.py").unlink()
    gone = cli("cache", "accept", "@last/work")
    assert gone.exit_code == 3 and "flow.py" in gone.stderr
    assert cli("cache", "accept", "@last").exit_code == 2
