"""How tasks come to be and are steered: submit, hold, gate, abort, enqueue, revive, reattach."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator

import pytest

from minipipe import errors, states
from minipipe.store import attempts, codec, records, resume, steering, tasks, workers
from minipipe.store.home import Store
from tests.faults.sane import sane
from tests.store.making import (
    agent,
    claim,
    finish,
    new_step,
    outcome,
    outputs,
    run,
    status,
    statuses,
    step,
    task,
    value,
    work,
)


@pytest.fixture
def worker(store: Store) -> Iterator[workers.Registration]:
    registration = agent(store)
    yield registration
    assert sane(store.path) == []
    registration.lock.release()


# -- submitting ---------------------------------------------------------------------------------------------------------


def test_a_task_that_waits_for_nothing_is_queued_at_once(store: Store, worker: workers.Registration) -> None:
    made = tasks.submit(store, new_step())
    assert made.status == status(store, made.id) == "queued"
    assert len(made.uid) == 32
    assert made.run_name is None


def test_a_run_and_a_draft_wait_for_somebody(store: Store, worker: workers.Registration) -> None:
    made = run(store)
    assert made.status == "created"
    assert made.run_name is not None
    assert len(made.run_name.split("-")) == 2
    assert status(store, step(store, draft=True)) == "created"


def test_all_that_was_given_is_stored(store: Store, worker: workers.Registration) -> None:
    parent = run(store)
    number = step(
        store,
        parent_id=parent.id,
        queue="gpu",
        time_limit_s=5.0,
        max_retries=2,
        tags=("a", "a", "b"),
        system_tags=("s",),
        settings={"x": 1},
        parameters=(tasks.Parameter("kwargs", "n", "1", "int", "1"), tasks.Parameter("kwargs", "n", "2", "int", "2")),
        links=(tasks.Link("input", "data", codec.encode(store, {"a": 1})),),
    )
    row = task(store, number)
    assert (row["queue"], row["time_limit_s"], row["max_retries"], json.loads(row["settings"])) == ("gpu", 5.0, 2, {"x": 1})
    assert store.database.row("SELECT 1 FROM queue WHERE name = 'gpu'") is not None
    tags = store.database.rows("SELECT name, system FROM tag WHERE task_id = ? ORDER BY name", (number,))
    assert [tuple(tag) for tag in tags] == [("a", 0), ("b", 0), ("s", 1)]
    assert [parameter["value"] for parameter in records.parameters(store, number)] == ["2"]
    stored = records.artifact_row(store, number, "data", role="input")
    assert stored is not None
    assert stored["bytes"] == b'{"a":1}'


def test_a_submission_that_fails_leaves_nothing(store: Store, worker: workers.Registration) -> None:
    with pytest.raises(errors.NotFound, match="is gone.*\n.*FOREIGN KEY"):
        step(store, after=[12345], links=(tasks.Link("input", "data", codec.encode(store, b"x" * 20_000)),))
    assert store.database.rows("SELECT * FROM task") == []
    assert store.database.rows("SELECT * FROM blob") == []


@pytest.mark.parametrize(
    ("parent", "child"), [("completed", "queued"), ("failed", "skipped"), ("stopped", "skipped"), ("skipped", "skipped")]
)
def test_a_child_of_an_ended_parent_starts_or_is_skipped(
    store: Store, worker: workers.Registration, parent: str, child: str
) -> None:
    first = step(store, hold="launch" if parent == "skipped" else None)
    if parent == "skipped":
        steering.release(store, first, skip=True)
    elif parent == "stopped":
        steering.abort(store, [first])
    else:
        work(store, worker, attempts.DONE if parent == "completed" else attempts.FAILED)
    assert statuses(store, first, step(store, after=[first])) == [parent, child]


def test_a_control_edge_decides_nothing(store: Store, worker: workers.Registration) -> None:
    first = step(store)
    assert status(store, tasks.submit(
        store, dataclasses.replace(new_step(), parents=((first, "control"),))).id) == "queued"  # fmt: skip


def test_a_parent_named_twice_is_waited_for_once(store: Store, worker: workers.Registration) -> None:
    first = step(store)
    child = step(store, of=[first], after=[first])
    assert task(store, child)["waiting_on"] == 1
    assert store.database.rows("SELECT kind FROM edge WHERE child_id = ?", (child,))[0][0] == "data", "the first mention counts"
    work(store, worker, value=1)
    assert status(store, child) == "queued"


def test_equal_priorities_are_served_in_order_of_enqueueing(store: Store, worker: workers.Registration) -> None:
    first, second = step(store), step(store, hold="launch")
    third = step(store)
    steering.release(store, second)
    assert [work(store, worker) for _ in range(3)] == [first, third, second]


# -- hold and gate ------------------------------------------------------------------------------------------------------


def test_a_held_step_waits_for_its_controller(store: Store, worker: workers.Registration) -> None:
    held = step(store, hold="launch")
    assert status(store, held) == "pending"
    steering.release(store, held)
    assert status(store, held) == "queued"


def test_a_held_step_that_is_let_go_skipped_takes_its_descendants_along(store: Store, worker: workers.Registration) -> None:
    held = step(store, hold="launch")
    child = step(store, of=[held])
    grandchild = step(store, after=[child])
    steering.release(store, held, skip=True)
    assert statuses(store, held, child, grandchild) == ["skipped"] * 3
    assert {task(store, number)["reason"] for number in (held, child, grandchild)} == {"skipped on request"}


@pytest.mark.parametrize(("ending", "child"), [(attempts.DONE, "queued"), (attempts.FAILED, "skipped")])
def test_children_of_a_gated_step_wait_until_its_callbacks_have_run(
    store: Store, worker: workers.Registration, ending: str, child: str
) -> None:
    gated = step(store, gate=True)
    below = step(store, after=[gated])
    work(store, worker, ending)
    late = step(store, after=[gated])
    assert statuses(store, below, late) == ["pending", "pending"]
    steering.open_gate(store, gated)
    assert statuses(store, below, late) == [child, child]
    steering.open_gate(store, gated)
    assert statuses(store, below, late) == [child, child]


def test_a_failed_attempt_that_asks_waits_for_the_answer(store: Store, worker: workers.Registration) -> None:
    asking = step(store, ask_retry=True)
    child = step(store, after=[asking])
    work(store, worker, attempts.FAILED)
    assert (status(store, asking), task(store, asking)["hold"]) == ("pending", "retry")
    steering.answer_retry(store, asking, True)
    assert (status(store, asking), task(store, asking)["retries"]) == ("queued", 1)
    work(store, worker, attempts.FAILED)
    steering.answer_retry(store, asking, False)
    assert statuses(store, asking, child) == ["failed", "skipped"]
    steering.answer_retry(store, asking, True)
    assert status(store, asking) == "failed", "an answer that nobody waits for changes nothing"


# -- abort --------------------------------------------------------------------------------------------------------------


def be_created(store: Store, worker: workers.Registration) -> int:
    return step(store, draft=True)


def be_pending(store: Store, worker: workers.Registration) -> int:
    return step(store, hold="launch")


def be_queued(store: Store, worker: workers.Registration) -> int:
    return step(store)


def be_in_progress(store: Store, worker: workers.Registration) -> int:
    number = step(store)
    claim(store, worker)
    return number


def be_completed(store: Store, worker: workers.Registration) -> int:
    step(store)
    return work(store, worker)


def be_failed(store: Store, worker: workers.Registration) -> int:
    step(store)
    return work(store, worker, attempts.FAILED)


def be_stopped(store: Store, worker: workers.Registration) -> int:
    number = step(store)
    steering.abort(store, [number], "before")
    return number


def be_skipped(store: Store, worker: workers.Registration) -> int:
    number = step(store, hold="launch")
    steering.release(store, number, skip=True)
    return number


def be_published(store: Store, worker: workers.Registration) -> int:
    number = be_completed(store, worker)
    with store.database.write() as connection:
        connection.execute("UPDATE task SET status = 'published' WHERE id = ?", (number,))
    return number


@pytest.mark.parametrize(
    ("make", "after", "touched"),
    [
        (be_created, "stopped", True),
        (be_pending, "stopped", True),
        (be_queued, "stopped", True),
        (be_in_progress, "in_progress", True),
        (be_completed, "completed", False),
        (be_failed, "failed", False),
        (be_stopped, "stopped", False),
        (be_skipped, "skipped", False),
        (be_published, "published", False),
    ],
)
def test_abort_stops_what_waits_marks_what_runs_and_leaves_what_has_ended(
    store: Store, worker: workers.Registration, make: Callable[[Store, workers.Registration], int], after: str, touched: bool
) -> None:
    number = make(store, worker)
    before = task(store, number)
    child = step(store, after=[number], hold="launch")
    waits = status(store, child) == "pending"
    assert steering.abort(store, [number], "no more") == ([(number, before["status"])] if touched else [])
    row = task(store, number)
    assert row["status"] == after
    if touched:
        assert row["reason"] == "no more"
        assert bool(row["abort_requested"]) == (after == "in_progress")
    else:
        assert tuple(row) == tuple(before)
    if waits and after == "stopped":
        assert status(store, child) == "skipped"
    steering.abort(store, [number, child])  # again, and all of it: no step is left that waits for ever
    assert status(store, number) == after


def test_once_an_abort_is_committed_no_result_changes_it(store: Store, worker: workers.Registration) -> None:
    for ending in (attempts.DONE, attempts.FAILED, attempts.CRASHED, attempts.RETURNED):
        number = step(store, max_retries=3, use_cache=True, key_base=ending)
        child = step(store, of=[number])
        found = claim(store, worker)
        steering.abort(store, [number], "no more")
        assert set(attempts.aborted(store, worker.id)) == {number}
        assert finish(store, found, ending, 1) == "stopped"
        assert task(store, number)["reason"] == "no more"
        assert status(store, child) == "skipped"
        assert outputs(store, number) == []
        assert not attempts.aborted(store, worker.id)
    assert store.database.rows("SELECT * FROM cache") == []


def test_abort_of_a_search_takes_the_pipelines_under_it_and_that_of_a_run_leaves_its_clones(
    store: Store, worker: workers.Registration
) -> None:
    search = step(store, parent_id=None)
    trial, template = run(store, parent_id=search), run(store)
    clone = run(store, parent_id=template.id)
    for each in (trial, clone):
        steering.enqueue(store, each.id, "services")

    steering.abort(store, [search, template.id])

    assert [status(store, each) for each in (search, trial.id, template.id, clone.id)] == [
        "stopped",
        "stopped",
        "stopped",
        "queued",
    ]


def test_abort_of_a_run_takes_everything_below_it(store: Store, worker: workers.Registration) -> None:
    outer = run(store)
    inner = run(store, parent_id=outer.id, nested=True)
    clone = run(store, parent_id=outer.id)  # stands under it, and is none of its work
    running = step(store, parent_id=inner.id)
    waiting = step(store, parent_id=inner.id, after=[running])
    other = step(store)
    claim(store, worker)
    steering.abort(store, [outer.id])
    assert statuses(store, outer.id, inner.id, waiting) == ["stopped"] * 3
    assert statuses(store, running, other, clone.id) == ["in_progress", "queued", "created"]
    assert task(store, running)["abort_requested"]


def test_the_first_failure_stops_the_other_steps_of_a_strict_run(store: Store, worker: workers.Registration) -> None:
    strict = run(store, abort_on_failure=True)
    failing, running, queued = (step(store, parent_id=strict.id) for _ in range(3))
    pending = step(store, parent_id=strict.id, after=[running])
    first = claim(store, worker)
    claim(store, worker)
    finish(store, first, attempts.FAILED)
    assert statuses(store, failing, running, queued, pending) == ["failed", "in_progress", "stopped", "skipped"]
    assert task(store, running)["abort_requested"]


def test_a_tolerated_failure_stops_nothing_but_its_descendants(store: Store, worker: workers.Registration) -> None:
    strict = run(store, abort_on_failure=True)
    tolerated, other = step(store, parent_id=strict.id, tolerated=True), step(store, parent_id=strict.id)
    child = step(store, parent_id=strict.id, after=[tolerated])
    work(store, worker, attempts.FAILED)
    assert statuses(store, tolerated, other, child) == ["failed", "queued", "skipped"]


# -- once more ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [be_created, be_failed, be_stopped])
def test_enqueue_gives_a_task_a_new_go_with_full_budgets(
    store: Store, worker: workers.Registration, make: Callable[[Store, workers.Registration], int]
) -> None:
    number = make(store, worker)
    with store.database.write() as connection:
        connection.execute("UPDATE task SET crashes = 2, retries = 2, returns = 1, abort_requested = 1 WHERE id = ?", (number,))
    steering.enqueue(store, number, "later")
    row = task(store, number)
    assert (row["status"], row["queue"], row["abort_requested"], row["ended_at"]) == ("queued", "later", 0, None)
    assert (row["crashes"], row["retries"], row["returns"]) == (0, 0, 0)
    found = attempts.claim_next(store, attempts.Claimant(worker.id, ("later",)))
    assert found is not None
    assert finish(store, found) == "completed"


@pytest.mark.parametrize("make", [be_pending, be_queued, be_in_progress, be_completed, be_skipped, be_published])
def test_enqueue_refuses_every_other_status(
    store: Store, worker: workers.Registration, make: Callable[[Store, workers.Registration], int]
) -> None:
    number = make(store, worker)
    before = tuple(task(store, number))
    with pytest.raises(errors.IllegalMove, match="cannot become queued"):
        steering.enqueue(store, number, "default")
    assert tuple(task(store, number)) == before


def test_enqueue_forgets_what_the_last_go_uploaded(store: Store, worker: workers.Registration) -> None:
    number = step(store)
    found = claim(store, worker)
    records.upload(store, found.lease, number, "part", 1)
    finish(store, found, attempts.FAILED)
    assert outputs(store, number) == ["part"]
    steering.enqueue(store, number, "default")
    assert outputs(store, number) == []


def chain(parent: int, *before: int, base: str = "b") -> tasks.NewTask:
    names = "abcdefg"
    return new_step(names[len(before)], of=list(before[-1:]), parent_id=parent, key_base=base, code=("c", "f", "src", "[]"))


def failed_chain(store: Store, worker: workers.Registration) -> tuple[int, list[int]]:
    """A run of a -> b -> c -> d: a completed, b failed, c and d skipped."""
    parent, numbers = run(store).id, list[int]()
    for _ in range(4):
        numbers.append(tasks.submit(store, chain(parent, *numbers)).id)
    work(store, worker, value=1)
    found = claim(store, worker)
    records.upload(store, found.lease, numbers[1], "half", 2)
    finish(store, found, attempts.FAILED)
    assert statuses(store, *numbers) == ["completed", "failed", "skipped", "skipped"]
    return parent, numbers


def test_a_revived_run_keeps_what_completed_and_runs_the_rest_again(store: Store, worker: workers.Registration) -> None:
    parent, numbers = failed_chain(store, worker)
    assert resume.revive(store, parent) == (1, 3)
    again = [resume.reattach(store, parent, chain(parent, *numbers[:place])) for place in range(4)]
    assert [found and found.id for found in again] == numbers
    assert [found and found.status for found in again] == ["completed", "queued", "pending", "pending"]
    assert outputs(store, numbers[1]) == []
    for place in range(1, 4):
        assert work(store, worker, value=place) == numbers[place]
    assert statuses(store, *numbers) == ["completed"] * 4
    assert value(store, numbers[3]) == 3


def test_reattach_without_revival_takes_steps_as_they_are(store: Store, worker: workers.Registration) -> None:
    parent, numbers = failed_chain(store, worker)
    again = [resume.reattach(store, parent, chain(parent, *numbers[:place])) for place in range(4)]
    assert [found and found.status for found in again] == ["completed", "failed", "skipped", "skipped"]


def test_reattach_awaits_a_step_that_runs_or_waits(store: Store, worker: workers.Registration) -> None:
    parent = run(store).id
    running = tasks.submit(store, chain(parent)).id
    claim(store, worker)
    waiting = tasks.submit(store, chain(parent, running)).id
    found = [resume.reattach(store, parent, chain(parent)), resume.reattach(store, parent, chain(parent, running))]
    assert [(entry.id, entry.status) for entry in found if entry] == [(running, "in_progress"), (waiting, "pending")]
    assert resume.reattach(store, parent, dataclasses.replace(chain(parent), name="new")) is None


@pytest.mark.parametrize("change", ["base", "code", "inputs", "no base"])
def test_a_step_with_other_code_or_inputs_is_superseded(store: Store, worker: workers.Registration, change: str) -> None:
    parent, numbers = failed_chain(store, worker)
    resume.revive(store, parent)
    new = chain(parent, *numbers[:1])
    other = {
        "base": dataclasses.replace(new, key_base="other"),
        "code": dataclasses.replace(new, code=("d", "f", "src", "[]")),
        "inputs": dataclasses.replace(new, links=()),
        "no base": dataclasses.replace(new, key_base=None),
    }[change]
    assert resume.reattach(store, parent, other) is None
    assert task(store, numbers[1])["superseded"] == 1
    fresh = tasks.submit(store, other)
    found = resume.reattach(store, parent, other)
    if change == "no base":
        assert found is None
    else:
        assert found is not None
        assert found.id == fresh.id


def test_a_superseded_step_that_still_runs_is_no_step_of_its_run(store: Store, worker: workers.Registration) -> None:
    parent = run(store).id
    old = tasks.submit(store, chain(parent)).id
    found = claim(store, worker)
    assert resume.reattach(store, parent, chain(parent, base="other")) is None
    finish(store, found, value=1)
    assert status(store, old) == "completed"
    tally = store.database.rows("SELECT status, n FROM tally WHERE scope = ? AND n <> 0", (parent,))
    assert [tuple(row) for row in tally] == []


def test_a_resumed_step_has_full_budgets(store: Store, worker: workers.Registration) -> None:
    parent = run(store).id
    number = tasks.submit(store, dataclasses.replace(chain(parent), max_retries=1)).id
    work(store, worker, attempts.RETURNED)
    for _ in range(3):
        work(store, worker, attempts.CRASHED)
    assert status(store, number) == "failed"
    resume.revive(store, parent)
    resume.reattach(store, parent, dataclasses.replace(chain(parent), max_retries=1))
    row = task(store, number)
    assert (row["status"], row["crashes"], row["retries"], row["returns"]) == ("queued", 0, 0, 0)


# -- attempts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _retries_are_due_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "RETRY_BASE_S", 0.0)


@pytest.mark.usefixtures("_retries_are_due_at_once")
def test_a_step_runs_again_as_often_as_it_may(store: Store, worker: workers.Registration) -> None:
    number = step(store, max_retries=2)
    child = step(store, after=[number])
    for expected in ("queued", "queued", "failed"):
        found = claim(store, worker)
        assert finish(store, found, attempts.FAILED, reason="boom") == expected
    row = task(store, number)
    assert (row["attempt"], row["retries"], row["crashes"], row["reason"]) == (3, 2, 0, "boom")
    assert status(store, child) == "skipped"


@pytest.mark.usefixtures("_retries_are_due_at_once")
def test_failures_and_crashes_are_counted_apart(store: Store, worker: workers.Registration) -> None:
    number = step(store, max_retries=2)
    for ending in (attempts.FAILED, attempts.CRASHED, attempts.RETURNED, attempts.FAILED, attempts.CRASHED, attempts.DONE):
        work(store, worker, ending)
    row = task(store, number)
    assert (row["status"], row["attempt"], row["retries"], row["crashes"], row["returns"]) == ("completed", 6, 2, 2, 1)


def test_the_third_crash_ends_a_task_and_names_the_count(store: Store, worker: workers.Registration) -> None:
    number = step(store, max_retries=9)
    for _ in range(3):
        work(store, worker, attempts.CRASHED, reason="killed by SIGKILL")
    assert status(store, number) == "failed"
    assert task(store, number)["reason"] == "killed by SIGKILL, 3 times"


def test_a_final_failure_is_not_tried_again(store: Store, worker: workers.Registration) -> None:
    number = step(store, max_retries=9, ask_retry=True)
    work(store, worker, attempts.FAILED, final=True)
    assert status(store, number) == "failed"


def test_a_retry_waits_longer_each_time_and_nobody_claims_it_early(store: Store, worker: workers.Registration) -> None:
    number, waits = step(store, max_retries=30), []
    who = attempts.Claimant(worker.id, ("default",))
    for _ in range(12):
        work(store, worker, attempts.FAILED)
        row = task(store, number)
        waits.append(row["not_before"] - row["updated_at"])
        assert attempts.claim_next(store, who) is None
        assert not attempts.anything_for(store, who, step=True)
        assert attempts.anything_for(store, who, step=True, due=False)
        with store.database.write() as connection:
            connection.execute("UPDATE task SET not_before = 0")
        assert attempts.anything_for(store, who, step=True)
    for count, wait in enumerate(waits):
        longest = min(states.RETRY_CAP_S, attempts.RETRY_BASE_S * 2**count)
        assert longest / 2 <= wait <= longest * 1.001


def test_a_late_ending_changes_nothing(store: Store, worker: workers.Registration) -> None:
    number = step(store)
    first = claim(store, worker)
    finish(store, first, attempts.RETURNED)
    second = claim(store, worker)
    before = tuple(task(store, number))
    assert finish(store, first, value="late") is None
    assert tuple(task(store, number)) == before
    assert outputs(store, number) == []
    with pytest.raises(errors.AttemptLost):
        records.upload(store, first.lease, number, "late", b"x" * 20_000)
    with pytest.raises(errors.AttemptLost):
        records.report(store, first.lease, number, "t", "s", 1.0, 0)
    assert store.database.rows("SELECT * FROM metric") == []
    assert [path for path in store.folder("tmp").iterdir() if path.suffix != ".d"] == []
    assert finish(store, second, value="on time") == "completed"
    assert value(store, number) == "on time"


def test_an_ending_that_was_stored_although_its_commit_raised_is_recognised(store: Store, worker: workers.Registration) -> None:
    number, other = step(store), step(store)
    found, who = claim(store, worker), attempts.Claimant(worker.id, ("default",))
    first = attempts.finish(store, found.lease, outcome(store, value=1), who=who)
    assert first.next is not None
    # The worker heard only of an error and tries again; it must get hold of what was claimed for it.
    again = attempts.finish(store, found.lease, outcome(store, value=1))
    assert (again.status, again.next) == ("completed", first.next)
    assert attempts.finish(store, again.next.lease, outcome(store)).status == "completed"
    assert attempts.finish(store, found.lease, outcome(store, value=1), who=who) == attempts.Finished("completed")
    assert statuses(store, number, other) == ["completed", "completed"]
    assert outputs(store, number) == ["out"]


def test_an_ending_whose_transaction_was_rolled_back_can_be_stored_again(store: Store, worker: workers.Registration) -> None:
    number = step(store)
    found, ending = claim(store, worker), outcome(store, value=b"x" * 50_000)

    def finish_and_fail() -> None:
        with store.database.write():
            attempts.finish(store, found.lease, ending)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        finish_and_fail()
    assert status(store, number) == "in_progress"
    assert attempts.finish(store, found.lease, ending).status == "completed"
    assert value(store, number) == b"x" * 50_000


def test_a_lost_attempts_uploads_do_not_mix_with_the_next_ones(store: Store, worker: workers.Registration) -> None:
    number = step(store, max_retries=9)
    for ending in (attempts.FAILED, attempts.CRASHED, attempts.RETURNED):
        found = claim(store, worker)
        records.upload(store, found.lease, number, ending, 1)
        finish(store, found, ending)
        assert outputs(store, number) == []
        with store.database.write() as connection:
            connection.execute("UPDATE task SET not_before = 0")
    work(store, worker, value=1)
    assert outputs(store, number) == ["out"]


def test_a_paused_queue_is_not_served(store: Store, worker: workers.Registration) -> None:
    number, who = step(store), attempts.Claimant(worker.id, ("default",))
    with store.database.write() as connection:
        connection.execute("UPDATE queue SET paused = 1 WHERE name = 'default'")
    assert attempts.claim_next(store, who) is None
    assert not attempts.anything_for(store, who, step=True)
    with store.database.write() as connection:
        connection.execute("UPDATE queue SET paused = 0")
    assert claim(store, worker).lease.task == number


def test_queues_are_served_in_their_order_and_others_not(store: Store, worker: workers.Registration) -> None:
    other, second, first = step(store, queue="c"), step(store, queue="b"), step(store, queue="a")
    who = attempts.Claimant(worker.id, ("a", "b"))
    claims = [attempts.claim_next(store, who) for _ in range(3)]
    assert [found and found.lease.task for found in claims] == [first, second, None]
    assert status(store, other) == "queued"


def test_a_private_task_is_for_workers_of_its_session_only(store: Store, worker: workers.Registration) -> None:
    private = step(store, session="s", private=True)
    public = step(store, session="s", queue="served")
    own, left = attempts.Claimant(worker.id, session="s"), attempts.Claimant(worker.id, session="s", left_alone=("served",))
    assert attempts.claim_next(store, attempts.Claimant(worker.id, session="t")) is None
    found = attempts.claim_next(store, left)
    assert found is not None
    assert (found.lease.task, found.private, found.session) == (private, True, "s")
    assert not attempts.anything_for(store, left, step=True)
    assert attempts.claim_next(store, left) is None, "somebody else serves that queue"
    assert attempts.anything_for(store, own, step=True)
    found = attempts.claim_next(store, own)
    assert found is not None
    assert found.lease.task == public


def test_a_controller_takes_no_step_slot(store: Store, worker: workers.Registration) -> None:
    number, controller = step(store), step(store, controller=True)
    who = attempts.Claimant(worker.id, ("default",))
    found = attempts.claim_next(store, who, step=False)
    assert found is not None
    assert (found.lease.task, found.controller) == (controller, True)
    assert attempts.claim_next(store, who, step=False) is None
    assert not attempts.anything_for(store, who, step=False)
    assert claim(store, worker).lease.task == number


def test_an_ending_can_claim_the_next_step_for_its_slot(store: Store, worker: workers.Registration) -> None:
    first = step(store)
    child = step(store, of=[first])
    found, who = claim(store, worker), attempts.Claimant(worker.id, ("default",))
    done = attempts.finish(store, found.lease, outcome(store, value=1), who=who)
    assert done.next is not None
    assert done.next.lease.task == child
    assert done.next.lease.token not in ("", found.lease.token)
    assert attempts.finish(store, done.next.lease, outcome(store, value=2), who=who) == attempts.Finished("completed")


def test_a_chain_of_thousands_ends_without_recursion(store: Store, worker: workers.Registration) -> None:
    first = before = step(store, hold="launch")
    with store.database.write():
        for _ in range(2_000):
            before = step(store, after=[before])
    steering.release(store, first, skip=True)
    rows = store.database.rows("SELECT status, count(*) FROM task GROUP BY status")
    assert [tuple(row) for row in rows] == [("skipped", 2_001)]


def test_a_wait_beyond_the_longest_one_was_set_before_the_clock_was_set_back_and_is_over(
    store: Store, worker: workers.Registration
) -> None:
    number = step(store)
    who = attempts.Claimant(worker.id, ("default",))
    with store.database.write() as connection:
        connection.execute("UPDATE task SET not_before = ?", (time.time() + 86_400,))
    assert attempts.anything_for(store, who, step=True)
    found = attempts.claim_next(store, who)
    assert found is not None and found.lease.task == number
