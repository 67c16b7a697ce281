"""``show`` and ``cache``: one run or step, and why it ran."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from click.testing import Result

from minipipe import frames as cutting
from minipipe.store import tasks
from tests.cli.conftest import Filled

Invoke = Callable[..., Result]


def code(key: str, text: str, line: int = 4) -> tuple[str, str, str, str]:
    parts = [{"name": "helpers.scale", "kind": "function", "digest": key, "file": "helpers.py", "line": line}]
    return key, "train", text, json.dumps(parts)


def demo(filled: Filled) -> tasks.Submitted:
    run = filled.run()
    load = filled.step(run, "load")
    filled.finish(filled.claim(), data=[1, 2, 3])
    train = filled.step(run, "train", (load,), max_retries=1, code=code("k1", "def train():\n\treturn 1\n"))
    filled.fail(filled.claim())
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET not_before = 0")
    filled.fail(filled.claim())
    filled.step(run, "evaluate", (train,))
    filled.end(run, "failed", "train failed")
    return run


def test_a_run_is_shown_with_a_line_for_each_step(filled: Filled, cli: Invoke) -> None:
    run = demo(filled)
    result = cli("show")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"run {run.uid[:8]}  {run.run_name}  digits-demo 1.0.0 (examples)  failed  1.4s  20")
    assert lines[-3].split() == ["load", "completed", "0.9s"]
    assert lines[-2] == "  train     failed       3.1s  attempt 2/2  ValueError: loss is nan  flow.py:31"
    assert lines[-1].split() == ["evaluate", "skipped", "train", "failed"]
    step = f"{run.run_name}/train"
    assert result.stderr == f"next: minipipe logs {step} | minipipe step {step} --pdb | minipipe resume {run.run_name}\n"


def test_a_step_is_shown_with_its_facts_and_its_traceback(filled: Filled, cli: Invoke) -> None:
    run = demo(filled)
    text = cli("show", f"{run.run_name}/train").stdout
    for part in (
        f"step {run.uid[:8]}/train  failed",
        "needs      load",
        "needed by  evaluate",
        "2 of 2, retries 1",
        "    ValueError: loss is nan",
    ):
        assert part in text


def test_json_has_full_ids_utc_times_and_all_steps(filled: Filled, cli: Invoke) -> None:
    run = demo(filled)
    document: dict[str, Any] = json.loads(cli("show", "--json").stdout)
    assert document["id"] == run.uid
    assert document["created_at"].endswith("Z")
    assert [step["name"] for step in document["steps"]] == ["load", "train", "evaluate"]
    assert document["steps"][1]["error"]["message"] == "loss is nan"
    assert document["parameters"] == {"Args/lr": 0.1}
    assert json.loads(cli("show", "@last/train", "--json").stdout)["needs"] == ["load"]


def test_code_alone_is_on_stdout_and_its_origin_on_stderr(filled: Filled, cli: Invoke) -> None:
    demo(filled)
    result = cli("show", "@last/train", "--code")
    assert result.stdout == "def train():\n\treturn 1\n"
    assert "helpers.scale, helpers.py:4" in result.stderr
    result = cli("show", "@last/load", "--code")
    assert result.exit_code == 3
    assert "no source" in result.stderr


def test_attempts_are_listed_with_how_each_ended(filled: Filled, cli: Invoke) -> None:
    demo(filled)
    found = json.loads(cli("show", "@last/train", "--attempts", "--json").stdout)
    assert [(one["attempt"], one["became"], one["worker"]) for one in found] == [(1, "queued", "w1"), (2, "failed", "w1")]


def test_parameters_and_environment_alone(filled: Filled, cli: Invoke) -> None:
    demo(filled)
    assert cli("show", "--params").stdout.splitlines()[1].split() == ["Args", "lr", "0.1", "float"]
    assert json.loads(cli("show", "--env", "--json").stdout)["environment"]["cwd"] == "/"


def test_the_environment_names_no_module_of_minipipe_itself(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    entry = {"cwd": "/", "imports": ["numpy", "minipipe.sdk.task"], "first": ["minipipe.sdk.auto:watch", "theirs:begin"]}
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET entry = ? WHERE id = ?", (json.dumps(entry), run.id))
    found = json.loads(cli("show", "--env", "--json").stdout)["environment"]
    assert (found["imports"], found["first"]) == (["numpy"], ["theirs:begin"])


def test_a_step_that_a_resumed_run_replaced_is_not_shown(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    old = filled.step(run, "train")
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET superseded = 1 WHERE id = ?", (old.id,))
    assert json.loads(cli("show", "--json").stdout)["steps"] == []


def cached(filled: Filled, lr: str, key: str, code_key: str) -> tuple[tasks.Submitted, tasks.Submitted]:
    run = filled.run()
    step = filled.step(
        run,
        "train",
        use_cache=True,
        key_base=key,
        code=code(code_key, "def train(): ..."),
        parameters=(tasks.Parameter("kwargs", "lr", lr, "float", lr),),
    )
    if step.status == "queued":
        filled.finish(filled.claim())
    filled.end(run)
    return run, step


def test_cache_why_names_the_parameter_and_the_helper_that_differ(filled: Filled, cli: Invoke) -> None:
    first, _ = cached(filled, "0.1", "a", "k1")
    cached(filled, "0.2", "b", "k2")
    lines = cli("cache", "why", "@last/train").stdout.splitlines()
    assert lines[0] == f"ran: its key differs from the nearest finished one, {first.uid[:8]}/train (0s ago)"
    assert [line.split() for line in lines[1:]] == [
        ["code", "helpers.scale", "changed,", "helpers.py:4"],
        ["param", "lr", "0.1", "->", "0.2"],
    ]
    assert json.loads(cli("cache", "why", "@last/train", "--json").stdout)["differences"][1]["name"] == "lr"


def test_a_cached_step_names_the_run_that_it_came_from(filled: Filled, cli: Invoke) -> None:
    first, _ = cached(filled, "0.1", "a", "k1")
    _, step = cached(filled, "0.1", "a", "k1")
    assert step.status == "completed"
    assert f"train  completed    cached from {first.uid[:8]}" in cli("show").stdout
    assert cli("cache", "why", "@last/train").stdout.startswith("cached from ")


def test_cache_clear_makes_the_step_run_again_and_keeps_the_runs(filled: Filled, cli: Invoke) -> None:
    cached(filled, "0.1", "a", "k1")
    assert cli("cache", "clear", "@last/train").stdout == "forgot 1 entry; runs and artifacts stay\n"
    run, step = cached(filled, "0.1", "a", "k1")
    assert step.status == "queued"
    cached(filled, "0.2", "b", "k1")
    assert cli("cache", "clear", "--pipeline", "digits-demo").stdout == "forgot 2 entries; runs and artifacts stay\n"
    assert cli("cache", "clear", "--all", "--json").stdout.split() == ["{", '"forgotten":', "0", "}"]
    assert cli("show", str(run.run_name)).exit_code == 0


def test_cache_clear_needs_exactly_one_thing_to_clear(filled: Filled, cli: Invoke) -> None:
    filled.run()
    assert cli("cache", "clear").exit_code == 2
    assert cli("cache", "clear", "@last", "--all").exit_code == 2
    assert cli("cache", "clear", "--pipeline", "nope").exit_code == 3
    assert cli("cache", "why", "@last").exit_code == 2


def test_a_copy_says_what_it_was_copied_from_and_what_was_changed(filled: Filled, cli: Invoke) -> None:
    from minipipe.store import edits

    first = filled.run(
        entry={"kind": "script", "file": "/flow.py", "source": "", "commit": "1a2b3c4d5e", "diff": "+x", "python": "3.11.7"}
    )
    filled.end(first)
    copy = edits.clone(filled.store, first.id, "digits-demo")
    edits.set_parameters(filled.store, copy.id, [tasks.Parameter("Args", "lr", "9.9", "float", "9.9")])
    result = cli("show", str(copy.run_name))
    origin = f"script /flow.py, git 1a2b3c4 (dirty), python 3.11.7   from {first.uid[:8]} {first.run_name}: lr 0.1 -> 9.9"
    assert result.stdout.splitlines()[1] == f"  {origin}"


def test_a_task_that_is_no_step_is_shown_with_its_project(filled: Filled, cli: Invoke) -> None:
    new = tasks.NewTask(
        type="training", name="make dataset", project="examples", draft=True, entry={"kind": "script", "file": "/a.py"}
    )
    made = tasks.submit(filled.store, new)
    lines = cli("show", made.uid[:8]).stdout.splitlines()
    assert lines[0].startswith(f"task {made.uid[:8]}  make dataset (examples)  created  ")
    assert lines[1] == "  script /a.py"
    assert "make dataset" in cli("status", "--all").stdout


def test_configuration_objects_are_shown_alone(filled: Filled, cli: Invoke) -> None:
    from minipipe.store import edits

    run = filled.run()
    edits.set_configuration(filled.store, run.id, "model", "layers: 3\n", "yaml", "what is trained")
    result = cli("show", "--config")
    assert (result.stdout, result.stderr) == ("layers: 3\n", "model (yaml, what is trained)\n")
    assert json.loads(cli("show", "--config", "--json").stdout) == [
        {"name": "model", "kind": "yaml", "description": "what is trained", "text": "layers: 3\n"}
    ]


def test_recorded_arguments_are_shown(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "train", settings={"docker": "python:3.11"})
    assert "recorded   docker=python:3.11" in cli("show", "@last/train").stdout


def test_a_traceback_is_shown_without_our_frames(filled: Filled, cli: Invoke) -> None:
    ours = cutting.__file__
    frames = [f'  File "{ours}", line 1, in x', "    code", "    ^^^^", '  File "/flow.py", line 31, in train', "    raise"]
    text = "\n".join(["Traceback (most recent call last):", *frames, "ValueError: no", ""])
    shown = cutting.user_traceback(text).splitlines()
    assert shown == [
        "Traceback (most recent call last):",
        '  File "/flow.py", line 31, in train',
        "    raise",
        "ValueError: no",
        "… 1 minipipe frame, all of them in its log",
    ]


def test_at_names_are_within_a_pipeline_where_one_is_named(filled: Filled, cli: Invoke) -> None:
    first = filled.run("one", project="x/.pipelines/one")
    filled.run("two", project="x/.pipelines/two")
    assert cli("show", "@last", "--pipeline", "one", "-q").stdout.strip() == first.uid
    result = cli("show", "@last", "--pipeline", "three")
    assert result.exit_code == 3
    assert "no run of pipeline 'three' matches '@last'" in result.stderr


def test_a_list_in_which_nothing_fits_says_why(filled: Filled, cli: Invoke) -> None:
    filled.run()
    assert "no pipeline 'digits-dem': did you mean digits-demo?" in cli("status", "--pipeline", "digits-dem").stderr
    assert "no project 'example': did you mean examples?" in cli("status", "--project", "example").stderr
    assert "no run fits" in cli("status", "--status", "failed").stderr
