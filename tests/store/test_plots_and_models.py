"""Plots and models in the store: fenced, counted, handed on, mirrored, forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from minipipe import errors
from minipipe.context import Lease
from minipipe.store import attempts, blobs, edits, models, plots, records, removal, tasks, workers
from minipipe.store.home import Store
from minipipe.store.monitors import match
from tests.faults.sane import sane
from tests.store.making import agent, claim, finish, run, step, task

LARGE = b"x" * 50_000


@pytest.fixture
def worker(store: Store) -> Iterator[workers.Registration]:
    registration = agent(store)
    yield registration
    registration.lock.release()


def written(store: Store, data: bytes) -> blobs.Writer:
    writer = blobs.Writer(store)
    writer.write(data)
    return writer


def draw(store: Store, lease: Lease | None, task_id: int, iteration: int | None = 0, keep: int = 0, data: bytes = b"{}") -> None:
    kind, media = (plots.SAMPLE, "image/png") if keep else (plots.PLOT, plots.FIGURE)
    new = plots.NewPlot(kind, "t", "s", iteration, media, writer=written(store, data), keep=keep)
    plots.report(store, lease, new, task_id=task_id)


def make(store: Store, lease: Lease | None, task_id: int, name: str, data: bytes = b"w", link: str | None = None) -> models.Model:
    model = models.create(store, lease, models.NewModel(name, "p", task_id))
    models.set_weights(store, lease, model.id, writer=written(store, data), file=f"{name}.pt")
    models.link(store, lease, task_id, model.id, models.OUTPUT, link or name)
    return models.by_uid(store, model.uid)


def names(store: Store, task_id: int) -> list[str]:
    return [linked.name for linked in models.of_task(store, task_id, models.OUTPUT)]


# -- plots --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b'{"data": [], "layout": {"title": "t"}}', b'{"data": "' + LARGE + b'"}'], ids=["inline", "file"]
)
def test_a_figure_comes_back_as_it_was_reported(store: Store, worker: workers.Registration, data: bytes) -> None:
    number = step(store)
    found = claim(store, worker)
    draw(store, found.lease, number, data=data)
    (plot,) = plots.of_task(store, number)
    assert plots.figure(store, plot) == json.loads(data)
    assert (plot.kind, plot.title, plot.series, plot.iteration, plot.size) == ("plot", "t", "s", 0, len(data))
    finish(store, found)
    assert sane(store.path) == []


def test_a_second_report_of_an_iteration_replaces_the_first_and_its_bytes_lose_their_reference(
    store: Store, worker: workers.Registration
) -> None:
    number = step(store)
    found = claim(store, worker)
    draw(store, found.lease, number, data=b'{"data": [1]}')
    draw(store, found.lease, number, data=b'{"data": [2]}')
    draw(store, found.lease, number, iteration=1, data=b'{"data": [3]}')
    assert [plots.figure(store, plot)["data"] for plot in plots.of_task(store, number)] == [[2], [3]]
    assert [plot.iteration for plot in plots.newest(plots.of_task(store, number))] == [1]
    finish(store, found)
    assert sane(store.path) == []


def test_of_samples_only_the_newest_iterations_stay(store: Store, worker: workers.Registration) -> None:
    number = step(store)
    found = claim(store, worker)
    for iteration in range(5):
        draw(store, found.lease, number, iteration, keep=2, data=b"%d" % iteration)
    kept = plots.of_task(store, number, [plots.SAMPLE], "t", "s")
    assert [(plot.iteration, bytes(plots.content(store, plot))) for plot in kept] == [(3, b"3"), (4, b"4")]
    assert plots.of_task(store, number, [plots.TABLE]) == []
    finish(store, found)
    assert sane(store.path) == []


def test_a_lost_attempt_stores_no_plot_and_no_model(store: Store, worker: workers.Registration) -> None:
    number = step(store, max_retries=1)
    lost = claim(store, worker)
    finish(store, lost, attempts.FAILED, reason="no")
    for data in (b"small", LARGE):
        with pytest.raises(errors.AttemptLost):
            draw(store, lost.lease, number, data=data)
        with pytest.raises(errors.AttemptLost):
            make(store, lost.lease, number, "m", data)
    assert plots.of_task(store, number) == [] and models.query(store) == []
    assert list((store.path / "tmp").iterdir()) == []
    assert sane(store.path) == []


def test_only_the_last_attempts_plots_are_read_but_a_model_of_the_first_is_still_there(
    store: Store, worker: workers.Registration
) -> None:
    number = step(store, max_retries=1, parent_id=run(store).id)
    first = claim(store, worker)
    draw(store, first.lease, number, data=b'{"data": ["first"]}')
    make(store, first.lease, number, "checkpoint")
    finish(store, first, attempts.FAILED, reason="no")
    with store.database.write() as connection:
        connection.execute("UPDATE task SET not_before = 0")
    second = claim(store, worker)
    assert plots.of_task(store, number) == []
    draw(store, second.lease, number, iteration=7, data=b'{"data": ["second"]}')
    assert [plot.iteration for plot in plots.of_task(store, number)] == [7]
    assert names(store, number) == ["checkpoint"]
    finish(store, second)
    assert sane(store.path) == []


def test_a_figure_is_not_taken_for_a_file_nor_a_url_for_bytes(store: Store) -> None:
    number = step(store)
    plots.report(store, None, plots.NewPlot("sample", "t", "s", 0, "image/png", url="https://x/y.png"), task_id=number)
    (plot,) = plots.of_task(store, number)
    with pytest.raises(errors.NotFound, match=r"https://x/y.png"):
        plots.content(store, plot)
    with pytest.raises(errors.UsageError, match="not a figure"):
        plots.figure(store, plot)


# -- models -------------------------------------------------------------------------------------------------------------


def test_a_model_keeps_what_it_was_given(store: Store, worker: workers.Registration) -> None:
    number = step(store)
    found = claim(store, worker)
    model = make(store, found.lease, number, "m", LARGE)
    models.change(store, found.lease, model.id, tags=["b", "a"], labels={"cat": 1}, config="k = 1", comment="c", project="other")
    models.set_metadata(store, model.id, {"k": {"value": "1", "type": "int"}})
    models.report(store, found.lease, model.id, "t", "s", 0.5, 3)
    plots.report(
        store, found.lease, plots.NewPlot("plot", "t", "s", 0, plots.FIGURE, writer=written(store, b"{}")), model_id=model.id
    )
    seen = models.by_uid(store, model.uid)
    assert (seen.tags, seen.labels, seen.config, seen.comment, seen.project) == (("a", "b"), {"cat": 1}, "k = 1", "c", "other")
    assert (seen.file, seen.size, seen.task, seen.published) == ("m.pt", len(LARGE), task(store, number)["uid"], False)
    assert seen.metadata == {"k": {"value": "1", "type": "int"}}
    assert bytes(models.weights(store, seen)) == LARGE
    assert [(row["title"], row["value"], row["iteration"]) for row in models.points(store, model.id)] == [("t", 0.5, 3)]
    assert len(plots.of_model(store, model.id)) == 1
    assert models.tasks_of(store, model.id) == [(task(store, number)["uid"], "step", "output", "m")]
    finish(store, found)
    assert sane(store.path) == []


def test_a_published_model_keeps_its_content_and_may_change_its_labels_of_place(store: Store) -> None:
    number = step(store)
    model = make(store, None, number, "m")
    models.change(store, None, model.id, published=True)
    with pytest.raises(errors.IllegalMove, match="published"):
        models.set_weights(store, None, model.id, writer=written(store, LARGE))
    with pytest.raises(errors.IllegalMove, match="published"):
        models.change(store, None, model.id, config="new")
    models.change(store, None, model.id, comment="still free", tags=["t"])
    assert bytes(models.weights(store, models.by_uid(store, model.uid))) == b"w"
    with pytest.raises(errors.IllegalMove, match="published"):
        models.remove(store, model.id)
    models.remove(store, model.id, force=True)
    assert models.query(store) == [] and names(store, number) == []
    assert sane(store.path) == []


def test_models_are_found_by_project_name_and_state_newest_first(store: Store) -> None:
    number = step(store)
    first, second = make(store, None, number, "a"), make(store, None, number, "b")
    models.change(store, None, first.id, archived=True)
    assert [model.name for model in models.query(store)] == ["b"]
    assert [model.name for model in models.query(store, archived=True)] == ["b", "a"]
    assert models.query(store, name="b", project="p")[0].uid == second.uid
    assert models.query(store, project="nowhere") == models.query(store, published=True) == []


def test_another_model_under_the_same_name_of_a_task_takes_its_place(store: Store) -> None:
    number = step(store)
    make(store, None, number, "one", link="best")
    make(store, None, number, "two", link="best")
    assert [linked.model.name for linked in models.of_task(store, number)] == ["two"]


# -- the cache, resets and removal --------------------------------------------------------------------------------------


def test_models_and_plots_are_seen_through_a_cached_step_and_outlive_its_original(
    store: Store, worker: workers.Registration
) -> None:
    first = step(store, key_base="k", use_cache=True)
    found = claim(store, worker)
    draw(store, found.lease, first, data=b'{"data": [1]}')
    records.report(store, found.lease, first, "loss", "train", 0.5, 1)
    published = make(store, found.lease, first, "kept")
    models.change(store, found.lease, published.id, published=True)
    make(store, found.lease, first, "m", LARGE)
    finish(store, found)
    hit = step(store, key_base="k", use_cache=True)
    assert task(store, hit)["cached_from"] == first
    for _ in range(2):
        assert [plots.figure(store, plot)["data"] for plot in plots.of_task(store, hit)] == [[1]]
        assert [row["value"] for row in records.points(store, hit)] == [0.5]
        assert names(store, hit) == ["kept", "m"]
        assert sane(store.path) == []
        if task(store, first)["status"] == "completed":
            edits.reset(store, first)
            assert names(store, first) == [] and plots.of_task(store, first) == []
    removal.delete(store, first)
    assert names(store, hit) == ["kept", "m"] and len(plots.of_task(store, hit)) == 1
    assert [model.task for model in models.query(store)] == [None, None]
    assert sane(store.path) == []


def test_a_deleted_task_takes_its_models_along_unless_they_are_published_used_or_to_be_kept(store: Store) -> None:
    number, other = step(store), step(store)
    used, shown = make(store, None, number, "used"), make(store, None, number, "published")
    models.link(store, None, other, used.id, models.INPUT, "base")
    models.change(store, None, shown.id, published=True)
    make(store, None, number, "own")
    removal.delete(store, number)
    assert {model.name for model in models.query(store)} == {"used", "published"}
    make(store, None, other, "stays")
    removal.delete(store, other, with_models=False)
    assert {model.name for model in models.query(store)} == {"used", "published", "stays"}
    assert sane(store.path) == []


# -- monitoring ---------------------------------------------------------------------------------------------------------


def test_a_pattern_takes_the_lexicographically_last_model_and_a_star_the_last_created() -> None:
    made = [("model_2", 1), ("model_10", 2), ("other", 3), ("model_1", 4)]
    assert match("model_*", made) == ("model_2", 1)
    assert match("*", made) == ("model_1", 4)
    assert match("other", made) == ("other", 3)
    assert match("o?her", made) == ("other", 3)
    assert match("nothing*", made) is match("*", []) is None


def test_monitored_models_appear_on_the_run_while_the_step_runs_and_only_the_one_meant_stays(
    store: Store, worker: workers.Registration
) -> None:
    pipeline = run(store).id
    wanted = [
        tasks.Monitor("model", "model_*", "", "", ""),
        tasks.Monitor("model", "*", "", "newest", ""),
        tasks.Monitor("model", "best", "", "", ""),
    ]
    number = step(store, parent_id=pipeline, monitors=tuple(wanted))
    found = claim(store, worker)
    make(store, found.lease, number, "model_1")
    assert sorted(names(store, pipeline)) == ["model_1", "newest"]
    make(store, found.lease, number, "model_3")
    last = make(store, found.lease, number, "model_2")
    assert sorted(names(store, pipeline)) == ["model_3", "newest"]
    make(store, found.lease, number, "best", link="best")
    models.link(store, found.lease, number, last.id, models.OUTPUT, "again")
    finish(store, found, attempts.FAILED, reason="the step itself failed")
    meant = {linked.name: linked.model.name for linked in models.of_task(store, pipeline, models.OUTPUT)}
    assert meant == {"model_3": "model_3", "newest": "best", "best": "best"}
    assert sane(store.path) == []


def test_two_steps_may_monitor_models_of_one_name_and_both_are_kept(store: Store, worker: workers.Registration) -> None:
    pipeline = run(store).id
    monitor = (tasks.Monitor("model", "m", "", "", ""),)
    for name in ("a", "b"):
        number = step(store, name, parent_id=pipeline, monitors=monitor, key_base=name, use_cache=True)
        found = claim(store, worker)
        make(store, found.lease, number, "m", name.encode())
        finish(store, found)
    assert names(store, pipeline) == ["m", "m"]
    again = run(store).id
    step(store, "a", parent_id=again, monitors=monitor, key_base="a", use_cache=True)
    assert [bytes(models.weights(store, linked.model)) for linked in models.of_task(store, again)] == [b"a"]
    assert sane(store.path) == []
