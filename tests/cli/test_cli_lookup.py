"""Names to rows."""

from __future__ import annotations

import pytest

from minipipe import errors
from minipipe.store import lookup, tasks, views
from minipipe.store.home import Store
from tests.cli.conftest import Filled


def set_uid(filled: Filled, task: tasks.Submitted, uid: str) -> str:
    full = uid.ljust(32, "0")
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET uid = ? WHERE id = ?", (full, task.id))
    return full


def test_a_run_is_found_by_id_prefix_name_and_place(filled: Filled) -> None:
    first, second = filled.run(), filled.run()
    uid = set_uid(filled, first, "7f3a91c2")
    for text in (uid, "7f3a", "7F3A91", str(first.run_name), "@-2"):
        assert lookup.find_run(filled.store, text)["id"] == first.id
    assert lookup.find_run(filled.store, "@last")["id"] == second.id
    assert lookup.find_run(filled.store, "@-1")["id"] == second.id


def test_the_newest_failed_run_and_the_newest_of_a_pipeline(filled: Filled) -> None:
    failed, other, last = filled.run("one"), filled.run("two"), filled.run("one")
    filled.end(failed, "failed")
    assert lookup.find_run(filled.store, "@last-failed")["id"] == failed.id
    assert lookup.find_run(filled.store, "@last", pipeline="two")["id"] == other.id
    assert lookup.find_run(filled.store, "@-2", pipeline="one")["id"] == failed.id
    assert lookup.find_run(filled.store, "@last")["id"] == last.id
    with pytest.raises(errors.NotFound, match="no run of pipeline 'two' matches '@last-failed'"):
        lookup.find_run(filled.store, "@last-failed", pipeline="two")


def test_a_task_of_a_plain_script_has_its_place_among_the_runs_where_a_task_is_asked_for(filled: Filled) -> None:
    run = filled.run()
    task, other = (
        tasks.submit(filled.store, tasks.NewTask(type="training", name="train", project="p", entry={})) for _ in range(2)
    )
    draft = tasks.submit(filled.store, tasks.NewTask(type="training", name="template", project="p", entry={}, draft=True))
    step = filled.step(run, "step")
    assert [lookup.find_task(filled.store, f"@-{back}")["id"] for back in (1, 2, 3)] == [other.id, task.id, run.id]
    assert lookup.find_run(filled.store, "@last")["id"] == run.id
    assert lookup.find_task(filled.store, "@last/step")["id"] == step.id
    with pytest.raises(errors.NotFound, match="no run matches '@-4'"):
        lookup.find_task(filled.store, "@-4")
    listed = views.tasks_of(filled.store, views.Filter(), [])
    assert [one.row["id"] for one in listed] == [other.id, task.id, run.id] and draft.id not in {one.row["id"] for one in listed}


def test_a_pipeline_name_is_no_pattern(filled: Filled) -> None:
    filled.run("abc")
    with pytest.raises(errors.NotFound):
        lookup.find_run(filled.store, "@last", pipeline="a%")
    with pytest.raises(errors.NotFound):
        lookup.find_run(filled.store, "@last", pipeline="a_c")


def test_an_unknown_run_names_the_closest(filled: Filled) -> None:
    run = filled.run()
    set_uid(filled, run, "7f3a91c2")
    with pytest.raises(errors.NotFound) as caught:
        lookup.find_run(filled.store, "7f3e")
    assert caught.value.message == "no run matches '7f3e'"
    assert caught.value.cause == f"closest: 7f3a91c2 {run.run_name}"
    assert caught.value.hint == "minipipe status"
    with pytest.raises(errors.NotFound) as caught:
        lookup.find_run(filled.store, str(run.run_name)[:-1])
    assert str(run.run_name) in caught.value.cause


def test_the_name_of_a_pipeline_leads_to_its_newest_run(filled: Filled) -> None:
    filled.run("nightly")
    newest = filled.run("nightly")
    filled.run("other")
    with pytest.raises(errors.NotFound) as caught:
        lookup.find_run(filled.store, "nightly")
    assert caught.value.cause == f"it is the name of a pipeline; its newest run is {newest.uid[:8]} {newest.run_name}"
    assert caught.value.hint == f"minipipe show {newest.run_name}"


def test_a_task_that_is_no_run_is_said_to_be_that(filled: Filled) -> None:
    run = filled.run()
    step = filled.step(run, "train")
    with pytest.raises(errors.NotFound) as caught:
        lookup.find_run(filled.store, step.uid[:8])
    assert caught.value.message == f"'{step.uid[:8]}' is no run"
    assert caught.value.cause == f"it is a step of run {run.uid[:8]} {run.run_name}"
    assert caught.value.hint == f"minipipe show {run.uid[:8]}/train"


def test_a_store_with_tasks_of_scripts_alone_is_said_to_be_that(store: Store) -> None:
    for text in ("@last", "calm-otter"):
        with pytest.raises(errors.NotFound) as caught:
            lookup.find_run(store, text)
        assert caught.value.cause.endswith(" has no runs yet")
    tasks.submit(store, tasks.NewTask(type="training", name="own", project="p", entry={}, draft=True))
    for text in ("@last", "calm-otter"):
        with pytest.raises(errors.NotFound) as caught:
            lookup.find_run(store, text)
        assert caught.value.cause.endswith(" has no runs of pipelines yet, only tasks of scripts")


def test_an_ambiguous_prefix_lists_names_and_ages(filled: Filled) -> None:
    first, second = filled.run(), filled.run()
    set_uid(filled, first, "7f3a91c2")
    set_uid(filled, second, "7f3a0000")
    with pytest.raises(errors.AmbiguousName) as caught:
        lookup.find_run(filled.store, "7f3a")
    assert caught.value.message == "'7f3a' matches 2 runs"
    assert str(first.run_name) in caught.value.cause
    assert str(second.run_name) in caught.value.cause
    assert "s ago)" in caught.value.cause
    assert caught.value.hint == "type one more character"


@pytest.mark.parametrize("text", ["", "7", "7f3", "@", "@last-", "@-0", "@0", "' OR 1=1 --", "%", "a" * 5000, "\x00"])
def test_nonsense_is_not_found(filled: Filled, text: str) -> None:
    filled.run()
    with pytest.raises(errors.NotFound):
        lookup.find_run(filled.store, text)


def test_a_prefix_that_fits_a_run_and_a_step_means_the_run(filled: Filled) -> None:
    run = filled.run()
    step = filled.step(run, "train")
    set_uid(filled, run, "7f3a91c2")
    set_uid(filled, step, "7f3a0000")
    assert lookup.find_task(filled.store, "7f3a")["id"] == run.id
    assert lookup.find_task(filled.store, "7f3a00")["id"] == step.id
    assert lookup.find_task(filled.store, "7f3a91c2/train")["id"] == step.id


def test_a_misspelt_step_gets_a_suggestion(filled: Filled) -> None:
    run = filled.run()
    filled.step(run, "train")
    with pytest.raises(errors.NotFound) as caught:
        lookup.find_task(filled.store, "@last/trian")
    assert caught.value.cause == "its steps: train"
    assert caught.value.hint == f"did you mean {run.uid[:8]}/train?"


def test_a_replaced_step_is_found_by_id_only(filled: Filled) -> None:
    run = filled.run()
    old = filled.step(run, "train")
    with filled.store.database.write() as connection:
        connection.execute("UPDATE task SET superseded = 1 WHERE id = ?", (old.id,))
    with pytest.raises(errors.NotFound):
        lookup.find_task(filled.store, "@last/train")
    new = filled.step(run, "train")
    assert lookup.find_task(filled.store, "@last/train")["id"] == new.id
    assert lookup.find_task(filled.store, old.uid)["id"] == old.id


def test_artifact_names_are_split_at_the_step(filled: Filled) -> None:
    run = filled.run()
    step, nested = filled.step(run, "train"), filled.step(run, "a/b")

    def split(text: str) -> tuple[int, str]:
        row, name = lookup.split_artifact(filled.store, text)
        return row["id"], name

    assert split("@last/train/model") == (step.id, "model")
    assert split("@last/train/sub/model") == (step.id, "sub/model")
    assert split("@last/a/b/model") == (nested.id, "model")
    assert split(f"{step.uid}/model") == (step.id, "model")
    assert split("@last/result") == (run.id, "result")
    with pytest.raises(errors.NotFound, match="has no step 'tain'"):
        split("@last/tain/model")
    with pytest.raises(errors.UsageError, match="names no artifact"):
        split("@last")
