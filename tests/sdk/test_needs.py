"""What steps need: packages, code of a repository, limits, modules. Each script is a real process with real step processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sdk.sdk_scripts import Done, Left, python, work

HEAD = """
import json, os, sys
from pathlib import Path
from minipipe import PipelineDecorator, Task, component, pipeline
"""
TAIL = """
PipelineDecorator.run_locally()
print("found", json.dumps(flow()))
"""


@pytest.fixture
def left(folder: Path) -> Iterator[Left]:
    found = Left(folder)
    yield found
    if (folder / ".minipipe").exists():
        found.store.close()


def run(folder: Path, text: str, check: int | None = 0, **environment: str) -> Done:
    (folder / "flow.py").write_text(HEAD + text + TAIL)
    return python(folder, "flow.py", check=check, **environment)


def found(done: Done) -> Any:
    return json.loads(done.out.rpartition("found ")[2])


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=tests", "-c", "user.email=tests@example.com", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(folder: Path) -> Path:
    """A repository with a module in two versions: the older one is tagged."""
    made = folder / "code"
    (made / "inner").mkdir(parents=True)
    git(made, "init", "-q")
    (made / "rules.py").write_text("RULE = 'first'\n")
    (made / "inner" / "table.txt").write_text("inside")
    git(made, "add", ".")
    git(made, "commit", "-qm", "first")
    git(made, "tag", "v1")
    git(made, "branch", "old")
    (made / "rules.py").write_text("RULE = 'second'\n")
    git(made, "commit", "-qam", "second")
    return made


REPOSITORY = """
{steps}

@pipeline(name="code", project="tests", version="1.0")
def flow():
    return {{name: str(step()) for name, step in STEPS.items()}}
"""


def test_a_step_runs_the_code_of_a_commit_a_branch_or_the_changed_folder(folder: Path, left: Left, repository: Path) -> None:
    (repository / "rules.py").write_text("RULE = 'changed'\n")
    asked = {"tag": "repo_commit='v1'", "branch": "repo_branch='main'", "now": "", "inner": "working_dir='inner'"}
    steps = "STEPS = {}\n" + "".join(
        f"""
@component(return_values=["x"], cache=True, repo="code", {arguments})
def {name}():
    import rules
    return rules.RULE + " " + Path.cwd().name + " " + ",".join(sorted(each.name for each in Path.cwd().iterdir() if each.suffix))
STEPS["{name}"] = {name}
"""
        for name, arguments in asked.items()
    )
    text = REPOSITORY.format(steps=steps)
    values = found(run(folder, text))
    assert [values[name].split()[0] for name in asked] == ["first", "second", "changed", "changed"]
    assert values["inner"].split()[1:] == ["inner", "table.txt"]
    entry = json.loads(left.rows("SELECT entry FROM task WHERE name = 'now'")[0]["entry"])
    assert entry["pinned"]["commit"] == git(repository, "rev-parse", "HEAD")
    assert "+RULE = 'changed'" in entry["pinned"]["patch"]
    shown = python(folder, "-m", "minipipe", "show", "@last/now", "--env").out
    assert git(repository, "rev-parse", "HEAD") in shown
    assert "1 file not committed" in shown
    # The same commits and changes are served from the cache; other changes are not. Work trees come back when they are gone.
    (repository / "rules.py").write_text("RULE = 'again'\n")
    subprocess.run(["rm", "-rf", *map(str, (folder / ".minipipe" / "trees").iterdir())], check=True)
    assert found(run(folder, text))["now"].startswith("again")
    cached = {row["name"] for row in left.rows("SELECT name FROM task WHERE cached_from IS NOT NULL")}
    assert cached == {"tag", "branch"}


CANNOT_BE_MET = {
    "repo='code', repo_commit='v9'": ["no commit 'v9'", "v1"],
    "repo='code', repo_branch='nowhere'": ["no branch 'nowhere'", "it has main, old, v1"],
    "repo='code', working_dir='outer'": ["no folder 'outer'"],
    "repo='code', working_dir='../..'": ["no folder '../..'"],
    "repo='nothing'": ["no repository 'nothing'"],
    "repo='file:///nowhere/at/all.git'": ["git fetch failed"],
    "repo_commit='v1'": ["a branch or commit of no repository"],
    "packages='missing.txt'": ["the requirements file 'missing.txt' cannot be read"],
    "packages=['a', 3]": ["packages holds 3"],
    "memory_limit_mb=-4": ["memory_limit_mb=-4 cannot be used"],
    "nice=99": ["nice=99 cannot be used"],
}


def test_needs_that_cannot_be_met_are_told_before_anything_is_queued(folder: Path, left: Left, repository: Path) -> None:
    text = "PipelineDecorator.run_locally()\nsaid = []\n"
    for number, arguments in enumerate(CANNOT_BE_MET):
        text += f"""
try:
    @component(return_values=["x"], {arguments})
    def step():
        return 1

    @pipeline(name="bad {number}", project="tests")
    def bad():
        return int(step())

    bad()
    said.append("nothing")
except Exception as error:
    said.append(str(error))
"""
    text += """
@pipeline(name="good", project="tests")
def flow():
    return said
"""
    said = found(run(folder, text))
    for told, (arguments, words) in zip(said, CANNOT_BE_MET.items(), strict=True):
        assert [word for word in words if word not in told] == [], arguments
    assert left.rows("SELECT 1 FROM task WHERE name = 'step'") == []


@pytest.mark.exhaustive
def test_changes_inside_a_submodule_are_refused(folder: Path, left: Left, repository: Path) -> None:
    outer = folder / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(repository), "sub")
    git(outer, "commit", "-qm", "with a submodule")
    text = """
@component(return_values=["x"], repo="outer")
def step():
    return Path("sub/rules.py").read_text()

@pipeline(name="sub", project="tests")
def flow():
    return str(step())
"""
    assert "second" in found(run(folder, text))
    (outer / "sub" / "rules.py").write_text("RULE = 'dirty'\n")
    assert "a submodule of" in run(folder, text, check=1).err


def test_a_module_that_is_missing_is_told_with_its_line_before_the_step_is_queued(folder: Path, left: Left) -> None:
    text = """
@component(return_values=["x"])
def careful():
    try:
        import no_such_module
    except ImportError:
        return "without"

@component(return_values=["x"])
def careless(x):
    import numpy
    import no_such_module_either
    return x

@pipeline(name="missing", project="tests")
def flow():
    return str(careless(careful()))
"""
    done = run(folder, text, check=1)
    line = (folder / "flow.py").read_text().splitlines().index("    import no_such_module_either") + 1
    assert "step 'careless': no module named 'no_such_module_either'" in done.err
    assert f"flow.py:{line} imports it" in done.err
    assert [row["name"] for row in left.rows("SELECT name FROM task WHERE parent_id IS NOT NULL")] == ["careful"]


def test_limits_end_a_step_and_are_named(folder: Path, left: Left) -> None:
    text = """
@component(return_values=["x"], memory_limit_mb=200, continue_on_fail=True)
def greedy():
    return len(bytearray(1 << 30))

@component(return_values=["x"], cpu_limit_s=1, continue_on_fail=True)
def busy():
    while True:
        pass

@component(return_values=["x"], nice=7, memory_limit_mb=500)
def polite():
    return os.nice(0), len(bytearray(1 << 20))

@pipeline(name="limits", project="tests")
def flow():
    one, two = greedy(), busy()
    return list(polite())
"""
    before = int(subprocess.run(["nice"], capture_output=True, text=True, check=True).stdout)
    assert found(run(folder, text)) == [min(19, before + 7), 1 << 20]
    reasons = {row["name"]: row["reason"] for row in left.rows("SELECT name, reason FROM task WHERE status = 'failed'")}
    assert reasons["greedy"].startswith("MemoryError")
    assert reasons["greedy"] == "MemoryError (its memory limit is 200 MB)"
    assert reasons["busy"] == "ended by SIGXCPU: it used up its CPU limit of 1 s"


def test_what_this_python_has_is_recorded_and_belongs_to_the_key(folder: Path, left: Left) -> None:
    text = """
@component(return_values=["x"], packages=["numpy>=1"], cache=True)
def step():
    import numpy
    return int(numpy.arange(4).sum())

@pipeline(name="here", project="tests")
def flow():
    return int(step())
"""
    import numpy

    assert (found(run(folder, text)), found(run(folder, text))) == (6, 6)
    rows = left.rows("SELECT entry, environment, cached_from FROM task WHERE name = 'step' ORDER BY id")
    entry = json.loads(rows[0]["entry"])
    assert entry["installed"] == [f"numpy=={numpy.__version__}"]
    assert entry["versions"] == {"numpy": numpy.__version__}
    assert [row["environment"] for row in rows] == [None, None]
    assert rows[1]["cached_from"] is not None
    assert not (folder / ".minipipe" / "envs").exists()


@pytest.mark.index
def test_steps_of_one_pipeline_use_versions_that_exclude_each_other(folder: Path, left: Left) -> None:
    (folder / "old.txt").write_text("# the older one\nsix==1.15.0\n")
    text = """
@component(return_values=["x", "maker"], packages="old.txt")
def old():
    import six
    six.Maker = type("Maker", (), {"__module__": "six"})
    return six.__version__, six.Maker()

@component(return_values=["x"])
def new(before):
    import six
    return before + " " + six.__version__

@component(return_values=["x"], continue_on_fail=True, packages=["six==1.17.0"])
def broken(maker):
    return 1

@pipeline(name="both", project="tests", packages=["six==1.16.0"])
def flow():
    before, maker = old()
    broken(maker)
    return str(new(before))
"""
    done = run(folder, text)
    assert found(done) == "1.15.0 1.16.0"
    words = left.rows("SELECT reason FROM task WHERE name = 'broken'")[0]["reason"]
    assert "input 'maker' cannot be read back" in words
    assert words.endswith("it is a six.Maker, written with six 1.15.0, and here is six 1.17.0")
    assert "six==1.15.0" in python(folder, "-m", "minipipe", "show", "@last/old", "--env").out
    rows = left.rows("SELECT e.resolved, t.name FROM task t JOIN environment e ON e.digest = t.environment ORDER BY t.id")
    assert [(row["name"], row["resolved"]) for row in rows] == [
        ("old", '["six==1.15.0"]'),
        ("broken", '["six==1.17.0"]'),
        ("new", '["six==1.16.0"]'),
    ]


@pytest.mark.index
def test_a_draft_runs_the_script_of_a_commit_with_its_own_packages(folder: Path, left: Left, repository: Path) -> None:
    (repository / "train.py").write_text(
        "import rules, six\nfrom clearml import Task\nprint('told', rules.RULE, six.__version__)\n"
    )
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "third")
    git(repository, "tag", "v3")
    (repository / "train.py").write_text("raise SystemExit(3)\n")
    (folder / "make.py").write_text(
        "from minipipe import Task\nimport minipipe.clearml\nminipipe.clearml.install()\n"
        "draft = Task.create('drafts', 'train', script='train.py', repo='code', commit='v3', packages=['six==1.15.0'])\n"
        "copy = Task.clone(draft)\nTask.enqueue(copy, 'default')\n"
    )
    python(folder, "make.py")
    done = work(folder)
    (row,) = left.rows("SELECT uid, attempt, status, reason FROM task WHERE status <> 'created'")
    assert row["status"] == "completed", (row["reason"], done.out, done.err)
    assert b"told second 1.15.0" in left.store.log_path(row["uid"], row["attempt"]).read_bytes()


@pytest.mark.index
def test_what_no_run_needs_of_environments_and_code_goes_and_the_rest_stays(folder: Path, left: Left, repository: Path) -> None:
    text = """
@component(return_values=["x"], repo="code", packages=["six==1.15.0"])
def step():
    import rules, six
    return rules.RULE + six.__version__

@pipeline(name="kept", project="tests")
def flow():
    return str(step())
"""
    assert found(run(folder, text)) == "second1.15.0"
    home = folder / ".minipipe"
    before = {name: sorted(path.name for path in (home / name).iterdir()) for name in ("envs", "repos", "trees")}
    python(folder, "-m", "minipipe", "gc", "--yes")
    assert {name: sorted(path.name for path in (home / name).iterdir()) for name in before} == before
    subprocess.run(["rm", "-rf", str(home / "envs"), str(home / "repos"), str(home / "trees")], check=True)
    assert found(run(folder, text)) == "second1.15.0"
    python(folder, "-m", "minipipe", "gc", "--keep-runs", "0", "--yes")
    left_over = {path.name for name in before for path in (home / name).iterdir() if path.suffix != ".lock"}
    assert left_over <= {"wheels", "bridge"}
