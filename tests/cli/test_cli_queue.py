"""``queue``: making, removing, emptying queues, and moving what waits in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from minipipe.store import attempts
from tests.cli.conftest import Filled

Invoke = Callable[..., Result]


def names(cli: Invoke) -> list[str]:
    return cli("queue", "-q").stdout.split()


def order(filled: Filled, queue: str = "default") -> list[str]:
    """Names of the tasks in the order in which a worker takes them."""
    found = []
    who = attempts.Claimant(filled.worker.id, (queue,))
    while (claim := attempts.claim_next(filled.store, who)) is not None:
        found.append(claim.name)
    return found


def test_a_queue_is_made_and_removed(filled: Filled, cli: Invoke) -> None:
    assert cli("queue", "create", "gpu").stdout == "queue gpu created\n"
    assert cli("queue", "create", "gpu").stdout == "queue gpu was there already\n"
    assert names(cli) == ["default", "gpu", "services"]
    assert cli("queue", "remove", "gpu").stdout == "queue gpu removed\n"
    assert names(cli) == ["default", "services"]


def test_creating_a_queue_makes_the_store(cli: Invoke, tmp_path: Path) -> None:
    assert cli("queue", "create", "gpu").exit_code == 0
    assert (tmp_path / ".minipipe" / "minipipe.db").exists()


@pytest.mark.parametrize("name", ["", " ", "\udcff"])
def test_a_queue_needs_a_name_that_can_be_typed(filled: Filled, cli: Invoke, name: str) -> None:
    assert cli("queue", "create", name).exit_code == 2
    assert names(cli) == ["default", "services"]


def test_the_two_standard_queues_and_busy_ones_stay(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "train", queue="gpu")
    for queue, hint in (("default", "minipipe queue pause default"), ("gpu", "minipipe queue purge gpu")):
        result = cli("queue", "remove", queue)
        assert result.exit_code == 2
        assert hint in result.stderr
    assert cli("queue", "remove", "gpuu").exit_code == 3
    assert names(cli) == ["default", "gpu", "services"]


def test_a_removed_queue_leaves_ended_tasks_and_their_history(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    step = filled.step(run, "train", queue="gpu")
    filled.finish(filled.claim("gpu"))
    assert cli("queue", "remove", "gpu").exit_code == 0
    assert filled.row(step)["status"] == "completed"
    events = filled.store.database.rows("SELECT detail FROM event WHERE task_id = ? AND kind = 'queue'", (step.id,))
    assert [row["detail"] for row in events] == ["its queue 'gpu' was removed"]


def test_purging_makes_drafts_of_what_waits_and_leaves_private_tasks(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    steps = [filled.step(run, name, queue="gpu") for name in "ab"]
    own = filled.step(run, "c", queue="gpu", private=True, session="s")
    result = cli("queue", "purge", "gpu")
    assert result.stdout == "queue gpu is empty: 2 tasks left it and are drafts\n"
    assert [filled.row(step)["status"] for step in (*steps, own)] == ["created", "created", "queued"]
    assert json.loads(cli("queue", "purge", "gpu", "--json").stdout) == {"queue": "gpu", "tasks": []}
    assert cli("queue", "purge", "gqu").exit_code == 3


def test_a_task_is_moved_to_the_head_or_the_end_of_its_queue(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    for name in "abc":
        filled.step(run, name)
    assert cli("queue", "move", "@last/c", "default", "--front").stdout == f"{run.uid[:8]}/c is at the head of queue default\n"
    assert cli("queue", "move", "@last/a", "default").stdout == f"{run.uid[:8]}/a is at the end of queue default\n"
    assert order(filled) == ["c", "b", "a"]


def test_a_task_of_higher_priority_is_taken_first_whenever_it_was_enqueued(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    for name in "abc":
        filled.step(run, name)
    for name, priority in (("c", "7"), ("b", "9"), ("a", "-1")):
        cli("queue", "move", f"@last/{name}", "default", "--priority", priority)
    filled.step(run, "d")
    assert order(filled) == ["b", "c", "d", "a"]


def test_the_head_is_before_tasks_of_higher_priority(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    for name in "abc":
        filled.step(run, name)
    said = cli("queue", "move", "@last/b", "default", "--priority", "7").stdout
    assert said == f"{run.uid[:8]}/b is before all below priority 7 of queue default\n"
    cli("queue", "move", "@last/b", "default")
    cli("queue", "move", "@last/a", "default", "--priority", "7")
    cli("queue", "move", "@last/c", "default", "--front")
    assert order(filled) == ["c", "a", "b"]


def test_a_task_is_moved_to_another_queue_which_is_made_and_nobody_serves(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "train")
    result = cli("queue", "move", "@last/train", "gpu")
    assert "no worker serves queue 'gpu'; start one: minipipe worker --queue gpu" in result.stderr
    assert order(filled) == []
    assert order(filled, "gpu") == ["train"]


def test_a_pending_task_gets_into_the_queue_when_its_turn_comes(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    first = filled.step(run, "load")
    filled.step(run, "train", (first,))
    result = cli("queue", "move", "@last/train", "gpu")
    assert result.stdout == f"{run.uid[:8]}/train is pending: it will stand at the end of queue gpu\n"
    filled.finish(filled.claim())
    assert order(filled, "gpu") == ["train"]


def test_what_does_not_wait_cannot_be_moved(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "load")
    filled.claim()
    result = cli("queue", "move", "@last/load", "gpu")
    assert result.exit_code == 2
    assert "is in_progress: it waits in no queue" in result.stderr
