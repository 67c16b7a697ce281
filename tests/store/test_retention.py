"""Which runs a rule removes, and what keeps one that it names."""

from __future__ import annotations

import pytest

from minipipe.store import attempts, blobs, cache, collect, edits, models, removal, retention, steering, tasks, workers
from minipipe.store.home import Store
from minipipe.store.retention import Rule
from tests.faults.sane import sane
from tests.store import making


@pytest.fixture
def worker(store: Store) -> workers.Registration:
    return making.agent(store)


def ended_run(store: Store, worker: workers.Registration, value: object = "x" * 20_000, **step: object) -> tuple[int, int]:
    """A completed run with one completed step: (run, step)."""
    run = making.run(store)
    attempts.start_here(store, run.id, worker.id)
    child = making.step(store, parent_id=run.id, **step)
    if making.status(store, child) == "queued":
        making.work(store, worker, value=value)
    edits.move(store, run.id, "completed")
    return run.id, child


def going(store: Store, rule: Rule) -> list[int]:
    return [run.id for run in retention.plan(store, rule).runs]


def test_the_newest_runs_stay_and_the_others_go_whole(store: Store, worker: workers.Registration) -> None:
    runs = [ended_run(store, worker, f"{number}" * 20_000) for number in range(4)]
    planned = retention.plan(store, Rule(keep_runs=2))
    assert [run.id for run in planned.runs] == [runs[1][0], runs[0][0]]
    assert (planned.kept, planned.published, planned.blobs, planned.blob_bytes) == (2, 0, 2, sum((20_002, 20_002)))
    assert [run.tasks for run in planned.runs] == [2, 2]
    assert retention.remove(store, runs[0][0]) == 2
    assert [row["id"] for row in store.database.rows("SELECT id FROM task ORDER BY id")] == [
        task for pair in runs[1:] for task in pair
    ]
    collect.sweep(store)
    assert sane(store.path, after_gc=True) == []


def test_without_a_rule_no_run_goes(store: Store, worker: workers.Registration) -> None:
    ended_run(store, worker)
    planned = retention.plan(store, Rule())
    assert (planned.runs, planned.kept) == ((), 1)


def test_age_counts_from_the_end_and_both_rules_have_to_name_a_run(store: Store, worker: workers.Registration) -> None:
    old, new = ended_run(store, worker)[0], ended_run(store, worker)[0]
    with store.database.write() as connection:
        connection.execute("UPDATE task SET ended_at = ended_at - 3600 WHERE id = ?", (old,))
    assert going(store, Rule(older_than_s=1800)) == [old]
    assert going(store, Rule(older_than_s=7200)) == []
    assert going(store, Rule(keep_runs=2, older_than_s=1800)) == []
    assert going(store, Rule(keep_runs=0, older_than_s=1800)) == [old]
    assert going(store, Rule(keep_runs=0)) == [new, old]


def test_a_task_that_belongs_to_no_run_stays_whatever_its_age(store: Store, worker: workers.Registration) -> None:
    alone = making.step(store)
    making.work(store, worker)
    assert edits.clone(store, alone, "draft").status == "created"
    assert going(store, Rule(keep_runs=0)) == []
    run = ended_run(store, worker)[0]
    assert going(store, Rule(keep_runs=0, older_than_s=-1)) == [run]


@pytest.mark.parametrize("status", ["published", "in_progress", "queued"])
def test_a_run_that_holds_something_published_or_alive_stays(store: Store, worker: workers.Registration, status: str) -> None:
    run, step = ended_run(store, worker)
    if status == "published":
        edits.move(store, step, "published")
    else:
        making.step(store, parent_id=run)
        if status == "in_progress":
            making.claim(store, worker)
    assert going(store, Rule(keep_runs=0)) == []
    assert retention.remove(store, run) == 0


def test_what_a_kept_run_was_served_from_stays_with_its_whole_run_and_so_on(store: Store, worker: workers.Registration) -> None:
    same = {"key_base": "k", "use_cache": True}
    origin = ended_run(store, worker, **same)
    served = ended_run(store, worker, **same)
    assert making.task(store, served[1])["cached_from"] == origin[1]
    planned = retention.plan(store, Rule(keep_runs=1))
    assert (planned.runs, planned.needed) == ((), 1)
    assert retention.remove(store, origin[0]) == 0
    assert going(store, Rule(keep_runs=0)) == [served[0], origin[0]]


def test_what_a_kept_step_takes_its_input_from_stays(store: Store, worker: workers.Registration) -> None:
    source = ended_run(store, worker)
    ended_run(store, worker, of=[source[1]])
    assert going(store, Rule(keep_runs=1)) == []


def test_a_run_that_is_needed_since_it_was_planned_stays(store: Store, worker: workers.Registration) -> None:
    same = {"key_base": "k", "use_cache": True}
    origin = ended_run(store, worker, **same)
    assert going(store, Rule(keep_runs=0)) == [origin[0]]
    served = ended_run(store, worker, **same)
    assert retention.remove(store, origin[0]) == 0
    assert making.value(store, served[1]) == "x" * 20_000


def test_a_copy_that_has_run_does_not_keep_what_it_was_copied_from_and_one_that_waits_does(
    store: Store, worker: workers.Registration
) -> None:
    run, step = ended_run(store, worker)
    copy = edits.clone(store, step, "copy")
    steering.enqueue(store, copy.id, "default")
    assert going(store, Rule(keep_runs=0)) == []
    making.work(store, worker)
    assert going(store, Rule(keep_runs=0)) == [run]
    retention.remove(store, run)
    assert making.task(store, copy.id)["template_id"] is None
    assert sane(store.path) == []


def test_a_large_run_goes_in_batches_and_leaves_the_cache_first(store: Store, worker: workers.Registration) -> None:
    run = making.run(store)
    attempts.start_here(store, run.id, worker.id)
    for number in range(retention.BATCH * 2 + 30):
        making.step(store, parent_id=run.id, name=f"s{number}", key_base=f"k{number}")
        making.work(store, worker)
    edits.move(store, run.id, "completed")
    commits = store.database._commits
    assert retention.remove(store, run.id) == retention.BATCH * 2 + 31
    assert store.database._commits - commits == 4
    assert (
        store.database.rows("SELECT * FROM cache") == store.database.rows("SELECT * FROM tally WHERE scope = ?", (run.id,)) == []
    )
    assert sane(store.path) == []


def test_a_run_that_is_resumed_while_it_is_removed_keeps_what_is_left(
    store: Store, worker: workers.Registration, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, step = ended_run(store, worker)
    monkeypatch.setattr(retention, "BATCH", 1)
    erase = removal.erase

    def resume_then(connection: object, task_id: int) -> None:
        erase(connection, task_id)  # type: ignore[arg-type]
        connection.execute("UPDATE task SET status = 'in_progress', worker_id = ? WHERE id = ?", (worker.id, run))  # type: ignore[attr-defined]

    monkeypatch.setattr(removal, "erase", resume_then)
    assert retention.remove(store, run) == 1
    assert making.status(store, run) == "in_progress"
    assert store.database.row("SELECT 1 FROM task WHERE id = ?", (step,)) is None


def test_a_removed_run_serves_nobody_and_its_bytes_are_gone(store: Store, worker: workers.Registration) -> None:
    run, step = ended_run(store, worker, key_base="k")
    digest = store.database.rows("SELECT digest FROM artifact WHERE task_id = ?", (step,))[0][0]
    retention.remove(store, run)
    with store.database.write() as connection:
        assert cache.lookup(store, connection, str(making.task), 0) is None
    freed = collect.sweep(store)
    assert (freed.number["blobs"], freed.size["blobs"]) == (1, 20_002)
    assert not blobs.path_of(store, digest).exists()
    assert store.database.rows("SELECT * FROM blob") == []


def test_a_copy_whose_template_is_gone_shares_no_key_with_copies_that_have_other_parameters(store: Store) -> None:
    template = making.step(store, key_base="same")
    copies = [edits.clone(store, template, f"copy{number}") for number in range(2)]
    for number, copy in enumerate(copies):
        edits.set_parameters(store, copy.id, [tasks.Parameter("Args", "lr", str(number), "int", str(number))])
    steering.abort(store, [template])
    removal.delete(store, template)
    for copy in copies:
        steering.enqueue(store, copy.id, "default")
    assert [making.task(store, copy.id)["cache_key"] for copy in copies] == [None, None]


def test_models_go_with_their_run_unless_they_are_published_or_used_elsewhere(store: Store, worker: workers.Registration) -> None:
    run, step = ended_run(store, worker)
    user, _ = ended_run(store, worker, "z")
    made = {}
    for number, name in enumerate(("mine", "published", "used")):
        model = models.create(store, None, models.NewModel(name, "p", task_id=step))
        writer = blobs.Writer(store)
        writer.write(bytes([number]) * 20_000)
        models.set_weights(store, None, model.id, writer=writer)
        models.link(store, None, step, model.id, "output", name)
        models.link(store, None, run, model.id, "output", name)
        made[name] = model.id
    models.change(store, None, made["published"], published=True)
    models.link(store, None, user, made["used"], "input", "used")
    planned = retention.plan(store, Rule(keep_runs=1))
    assert [one.id for one in planned.runs] == [run]
    assert retention.remove(store, run) == 2
    assert [row["name"] for row in store.database.rows("SELECT name FROM model ORDER BY id")] == ["published", "used"]
    freed = collect.sweep(store)
    assert (freed.number["blobs"], freed.size["blobs"]) == (2, 40_002)
    assert sane(store.path, after_gc=True) == []
