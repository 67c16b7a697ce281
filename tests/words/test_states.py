"""The life cycle as data."""

from __future__ import annotations

import pytest

from minipipe import states
from minipipe.states import MOVES, STATUSES, TaskStatusEnum, TaskTypes


def test_every_status_has_its_moves_and_every_move_leads_to_a_status() -> None:
    assert set(MOVES) == set(STATUSES)
    for old, (free, forced) in MOVES.items():
        assert set(free) | set(forced) <= set(STATUSES)
        assert not set(free) & set(forced), f"{old}: a move is either free or forced"
        assert old not in (*free, *forced), f"{old}: staying is no move"
        assert len({*free, *forced}) == len(free) + len(forced)


def test_the_kinds_of_ending_agree() -> None:
    assert states.GOOD < states.ENDED
    assert states.BAD < states.ENDED
    assert not states.GOOD & states.BAD
    assert {states.SKIPPED} == states.ENDED - states.GOOD - states.BAD
    assert set(STATUSES) - states.ENDED == {states.CREATED, states.PENDING, states.QUEUED, states.IN_PROGRESS}


def test_published_is_for_ever() -> None:
    assert MOVES[states.PUBLISHED] == ((), ())


def test_only_what_has_ended_can_be_published() -> None:
    leading = {old for old, (free, forced) in MOVES.items() if states.PUBLISHED in (*free, *forced)}
    assert leading == {states.COMPLETED, states.FAILED, states.STOPPED}


def test_every_status_can_be_reached_and_left_in_the_end() -> None:
    def reachable(start: str) -> set[str]:
        seen, work = {start}, [start]
        while work:
            for new in MOVES[work.pop()][0]:
                if new not in seen:
                    seen.add(new)
                    work.append(new)
        return seen

    assert reachable(states.CREATED) == set(STATUSES)
    for status in set(STATUSES) - {states.PUBLISHED}:
        assert reachable(status) & states.GOOD, f"{status} can never end well"


def test_only_a_queued_task_or_a_run_taken_here_can_start() -> None:
    starting = {old for old, (free, _) in MOVES.items() if states.IN_PROGRESS in free}
    assert starting == {states.CREATED, states.QUEUED, states.STOPPED, states.COMPLETED}


@pytest.mark.parametrize("kind", [TaskStatusEnum, TaskTypes])
def test_members_are_their_strings(kind: type[TaskStatusEnum] | type[TaskTypes]) -> None:
    for member in kind:
        assert member == member.value == str(member) == f"{member}" == member.name


def test_clearml_knows_all_statuses_by_name() -> None:
    assert set(STATUSES) <= {member.value for member in TaskStatusEnum}
