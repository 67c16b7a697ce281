"""What tasks, pipelines, artifacts and results show of themselves: one line, and a block for notebooks that holds no script."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from minipipe import PipelineController, Task
from minipipe.drawing import cards, theme
from minipipe.sdk import arguments, display, proxy, session
from minipipe.sdk.artifact import Artifacts
from minipipe.store import details, models
from minipipe.store.home import Store
from tests.browser import runs
from tests.report import hostile, reference
from tests.report.conftest import reference_run  # noqa: F401

LIMIT = 50_000


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))


def blocks(store: Store, run_id: int) -> list[str]:
    """The blocks of a run, its steps, their artifacts and models."""
    steps = [row["id"] for row in store.database.rows("SELECT id FROM task WHERE parent_id = ? ORDER BY id", (run_id,))]
    found = [Task(store, task, "")._repr_html_() for task in (run_id, *steps)]
    found += [one._repr_html_() for step in steps for one in Artifacts(store, step).values()]
    found += [display.model_block(one.model) for step in steps for one in models.of_task(store, step)]
    assert None not in found
    return [text for text in found if text is not None]


def test_blocks_hold_no_script_and_are_small(reference_run: tuple[Store, dict[str, int]]) -> None:  # noqa: F811
    store, run = reference_run
    found = blocks(store, run["id"])
    assert len(found) == 1 + 3 * reference.STEPS
    for text in found:
        assert len(text.encode()) < LIMIT
        assert not {tag for tag, _ in Tags(text).found} & {"script", "link", "iframe", "img"}
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert ">load<" in found[0] and "mp-dag" in found[0]


def test_a_large_run_folds_into_a_small_block(store: Store) -> None:
    run = reference.fill(store, steps=300)
    text = Task(store, run["id"], run["uid"])._repr_html_()
    assert text is not None and len(text.encode()) < LIMIT
    assert "load ×75" in text and "30 of 300 steps" in text


def test_the_style_of_a_block_touches_nothing_else() -> None:
    rules = re.sub(r"@media[^{]*\{((?:[^{}]*\{[^{}]*\})*)\}", r"\1", re.sub("</?style>", "", cards.style()))
    selectors = [part for group in re.findall(r"([^{}]+)\{[^{}]*\}", rules) for part in group.split(",")]
    assert len(selectors) > 60 and all(".minipipe" in part for part in selectors)
    assert cards.scoped("a,b{c:d}e{f:g}", ".x") == ".x a,.x b{c:d}.x e{f:g}"
    assert "@" not in theme.DRAWINGS + theme.STATUSES, "`scoped` reads plain rules"


def test_hostile_text_stays_text_in_every_block(copy_store: Callable[[Path], Store], tmp_path: Path) -> None:
    shapes = []
    for number, text in enumerate((hostile.PLAIN, hostile.BAD)):
        store = copy_store(tmp_path / str(number))
        run = hostile.fill(store, text)
        shapes.append([Tags(block).found for block in blocks(store, run["id"])])
        for task in (run["id"], run["id"] + 1):
            assert not re.search("[\x00-\x1f\u202e]", repr(Task(store, task, "0" * 32)))
        store.close()
    assert shapes[0] == shapes[1]


def test_lines_say_name_status_and_time(store: Store) -> None:
    run = runs.fill(store, good=False)
    steps = {row["name"]: row for row in store.database.rows("SELECT * FROM task WHERE parent_id = ?", (run["id"],))}
    choose = steps["choose"]
    assert repr(Task(store, choose["id"], choose["uid"])) == f"<Task {choose['uid'][:8]} 'choose' failed 1.4s>"
    again = steps["train_1"]
    assert repr(Task(store, again["id"], again["uid"])) == f"<Task {again['uid'][:8]} 'train_1' completed 8.8s attempt 1/2>"
    line = display.run_line(store, run["id"], "PipelineController", "bird classifier")
    assert line == f"<PipelineController 'bird classifier' 2.3.0 {run['uid'][:8]} {run['run_name']} failed 6/8>"
    artifact = Artifacts(store, steps["split"]["id"])["folds"]
    assert repr(artifact).startswith("<Artifact 'folds' list ") and "\n" not in repr(artifact)


def test_a_line_never_raises(store: Store) -> None:
    assert repr(Task(store, 12345, "ab" * 16)) == "<Task abababab>"
    assert Task(store, 12345, "ab" * 16)._repr_html_() is None
    assert display.run_line(store, 12345, "PipelineController", "x") == "<PipelineController 'x'>"
    gone = Store(Path("/nowhere/at/all"), "fast")
    assert repr(Task(gone, 1, "ab" * 16)) == "<Task abababab>"


def test_a_pipeline_that_has_not_been_started_shows_its_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MINIPIPE_HOME", str(tmp_path / "home"))
    pipe = PipelineController(name="plan", project="tests", version="1.2")
    pipe.add_function_step("load", lambda: 1, function_return=["rows"])
    pipe.add_function_step("train", lambda rows: rows, function_kwargs={"rows": "${load.rows}"}, function_return=["model"])
    assert repr(pipe) == "<PipelineController 'plan' 1.2 not started, 2 steps>"
    text = pipe._repr_html_()
    assert text is not None and "train" in text and "not started" in text and text.count("mp-card") >= 2
    session.forget(tmp_path / "home")


def test_a_result_that_nobody_has_used_is_displayed_without_waiting(store: Store) -> None:
    run = runs.fill(store)
    step = store.database.row("SELECT * FROM task WHERE parent_id = ? AND name = 'split'", (run["id"],))
    assert step is not None

    def never() -> object:
        raise AssertionError("a display fetched the value")

    result = proxy.LazyEvalWrapper(never, arguments.Reference(step["id"], step["uid"], "folds", store.path))
    bundle = result._repr_mimebundle_()
    assert bundle["text/plain"].startswith("result 'folds' of split: completed, list: ")
    assert bundle["text/html"] == result._repr_html_() and "mp-status completed" in bundle["text/html"]
    assert not hasattr(result, "_repr_png_")
    # What has a value shows that value.
    there = proxy.LazyEvalWrapper(lambda: [1, 2], arguments.Reference(step["id"], step["uid"], "folds", store.path))
    assert proxy.fetch(there) == [1, 2] and not hasattr(there, "_repr_html_")
    assert details.task_by_id(store, step["id"]) is not None
