"""What stands in for what, and why something could not; what moves when a task ends."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator

import pytest

from minipipe import errors
from minipipe.store import attempts, blobs, cache, codec, records, steering, tasks, workers
from minipipe.store.home import Store
from tests.faults.sane import sane
from tests.store.making import agent, claim, finish, outputs, run, status, statuses, step, task, value, warnings, work

LARGE = b"x" * 50_000


@pytest.fixture
def worker(store: Store) -> Iterator[workers.Registration]:
    registration = agent(store)
    yield registration
    registration.lock.release()


def digest_of(store: Store, number: int) -> str:
    row = records.artifact_row(store, number, "out")
    assert row is not None
    return str(row["digest"])


# -- hits ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", ["small", LARGE], ids=["inline", "file"])
def test_an_equal_step_is_served_with_the_outputs_of_the_first(
    store: Store, worker: workers.Registration, result: object
) -> None:
    first = step(store, key_base="k", use_cache=True)
    work(store, worker, value=result)
    second = step(store, key_base="k", use_cache=True)
    row = task(store, second)
    assert (row["status"], row["cached_from"], row["attempt"]) == ("completed", first, 0)
    assert task(store, first)["uid"][:8] in row["reason"]
    assert value(store, second) == result
    assert digest_of(store, second) == digest_of(store, first)
    assert store.database.rows("SELECT count(*) FROM blob")[0][0] == 1
    assert sane(store.path) == []


def test_a_served_step_has_the_scalars_too(store: Store, worker: workers.Registration) -> None:
    step(store, key_base="k")
    scalar = tasks.Parameter("return", "out", "3", "int", "3", codec.scalar_key("int", "3"))
    found = claim(store, worker)
    attempts.finish(store, found.lease, attempts.Outcome(attempts.DONE, outputs=(attempts.Output("out", parameter=scalar),)))
    second = step(store, key_base="k", use_cache=True)
    assert value(store, second) == 3
    below = [step(store, of=[number], key_base="below", use_cache=True) for number in (second, found.lease.task)]
    assert len({task(store, number)["cache_key"] for number in below}) == 1


def test_a_step_that_does_not_ask_is_not_served_but_serves(store: Store, worker: workers.Registration) -> None:
    first = step(store, key_base="k")
    work(store, worker, value=1)
    second = step(store, key_base="k", use_cache=False)
    assert status(store, second) == "queued"
    work(store, worker, value=2)
    third = step(store, key_base="k", use_cache=True)
    assert task(store, third)["cached_from"] == second, "the newest serves"
    assert first < second


def test_a_served_step_never_serves(store: Store, worker: workers.Registration) -> None:
    first = step(store, key_base="k", use_cache=True)
    work(store, worker, value=1)
    served = [step(store, key_base="k", use_cache=True) for _ in range(3)]
    assert [task(store, number)["cached_from"] for number in served] == [first] * 3
    assert sane(store.path) == []


@pytest.mark.parametrize(
    "facts",
    [{"key_base": None, "use_cache": True}, {"key_base": "other", "use_cache": True}, {"key_base": "k", "use_cache": False}],
    ids=["no stable digest", "another key", "cache off"],
)
def test_what_has_another_key_or_none_runs(store: Store, worker: workers.Registration, facts: dict[str, object]) -> None:
    step(store, key_base="k")
    work(store, worker, value=1)
    assert status(store, step(store, **facts)) == "queued"  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", [attempts.FAILED, attempts.CRASHED, attempts.RETURNED])
def test_a_step_that_did_not_succeed_never_serves(store: Store, worker: workers.Registration, ending: str) -> None:
    number = step(store, key_base="k")
    found = claim(store, worker)
    records.upload(store, found.lease, number, "out", "partial")
    finish(store, found, ending)
    assert status(store, step(store, key_base="k", use_cache=True)) == "queued"
    assert store.database.rows("SELECT * FROM cache") == []


def test_a_result_of_changed_code_never_serves(store: Store, worker: workers.Registration) -> None:
    number = step(store, key_base="k")
    work(store, worker, value=1, code_changed=("a.py", "b.py"))
    assert status(store, step(store, key_base="k", use_cache=True)) == "queued"
    assert warnings(store, number) == ["code changed since submission: a.py, b.py"]


def test_an_archived_step_does_not_serve(store: Store, worker: workers.Registration) -> None:
    number = step(store, key_base="k")
    work(store, worker, value=1)
    with store.database.write() as connection:
        connection.execute("UPDATE task SET archived = 1")
    assert status(store, step(store, key_base="k", use_cache=True)) == "queued"
    with store.database.write() as connection:
        connection.execute("UPDATE task SET archived = 0")
    assert task(store, step(store, key_base="k", use_cache=True))["cached_from"] == number


def test_a_fully_cached_chain_needs_no_worker(store: Store, worker: workers.Registration) -> None:
    def submit_chain() -> list[int]:
        numbers: list[int] = []
        for place in range(5):
            numbers.append(step(store, of=numbers[-1:], key_base=f"k{place}", use_cache=True))
        return numbers

    first = submit_chain()
    for place in range(5):
        work(store, worker, value=place)
    held = step(store, hold="launch", key_base="k0", use_cache=True)
    below = held
    later = []
    for place in range(1, 5):
        below = step(store, of=[below], key_base=f"k{place}", use_cache=True)
        later.append(below)
    assert statuses(store, held, *later) == ["pending"] * 5
    steering.release(store, held)
    assert statuses(store, held, *later) == ["completed"] * 5
    assert [task(store, number)["cached_from"] for number in (held, *later)] == first
    assert sane(store.path) == []


def test_thousands_of_cached_steps_complete_in_one_go(store: Store, worker: workers.Registration) -> None:
    step(store, key_base="k")
    work(store, worker, value=1)
    before = held = step(store, hold="launch", key_base="k", use_cache=True)
    with store.database.write():
        for _ in range(1_500):
            before = step(store, after=[before], key_base="k", use_cache=True)
    steering.release(store, held)
    assert status(store, before) == "completed"


def test_a_served_step_with_a_gate_holds_its_children(store: Store, worker: workers.Registration) -> None:
    step(store, key_base="k")
    work(store, worker, value=1)
    gated = step(store, key_base="k", use_cache=True, gate=True)
    child = step(store, of=[gated])
    assert statuses(store, gated, child) == ["completed", "pending"]
    steering.open_gate(store, gated)
    assert status(store, child) == "queued"


def test_the_key_of_a_child_depends_on_values_not_on_who_made_them(store: Store, worker: workers.Registration) -> None:
    parents = [step(store, key_base=name) for name in "abc"]
    for result in (1, 1, 2):
        work(store, worker, value=result)
    children = [step(store, of=[parent], key_base="child") for parent in parents]
    first, equal, other = (task(store, child)["cache_key"] for child in children)
    assert first == equal != other


def test_an_order_edge_is_no_part_of_the_key(store: Store, worker: workers.Registration) -> None:
    before = step(store)
    work(store, worker, value=1)
    keys = {task(store, number)["cache_key"] for number in (step(store, key_base="k"), step(store, key_base="k", after=[before]))}
    assert len(keys) == 1


def test_the_output_of_a_parent_that_has_none_is_none(store: Store, worker: workers.Registration) -> None:
    parent = step(store)
    work(store, worker)
    child = step(store, of=[parent], key_base="k")
    row = records.artifact_row(store, child, "p0", role="reference")
    assert row is not None
    assert (row["codec"], row["preview"], row["digest"]) == ("none", "None", None)
    assert task(store, child)["cache_key"] is not None


# -- misses by damage ---------------------------------------------------------------------------------------------------


def test_a_damaged_output_is_a_miss_and_said_so(store: Store, worker: workers.Registration) -> None:
    first = step(store, key_base="k")
    work(store, worker, value=LARGE)
    path = blobs.path_of(store, digest_of(store, first))
    path.unlink()
    again = step(store, key_base="k", use_cache=True)
    assert status(store, again) == "queued"
    assert "missing or damaged" in warnings(store, first)[0]
    assert store.database.rows("SELECT * FROM cache") == []
    work(store, worker, value=LARGE)
    assert value(store, first) == LARGE, "the new run healed the old one"
    assert task(store, step(store, key_base="k", use_cache=True))["cached_from"] == again
    assert sane(store.path) == []


def test_an_older_whole_step_serves_when_the_newest_is_damaged(store: Store, worker: workers.Registration) -> None:
    first = step(store, key_base="k")
    work(store, worker, value="small")
    second = step(store, key_base="k")
    work(store, worker, value=LARGE)
    os.utime(blobs.path_of(store, digest_of(store, second)))
    assert task(store, step(store, key_base="k", use_cache=True))["cached_from"] == first


def test_damage_found_when_a_value_is_read_ends_its_cache_entries(store: Store, worker: workers.Registration) -> None:
    first = step(store, key_base="k")
    work(store, worker, value="small")
    with store.database.write() as connection:
        connection.execute("UPDATE blob SET bytes = CAST('\"smell\"' AS BLOB)")
    with pytest.raises(errors.ArtifactError, match="damaged"):
        value(store, first)
    again = step(store, key_base="k", use_cache=True)
    assert status(store, again) == "queued"
    work(store, worker, value="small")
    assert value(store, again) == value(store, first) == "small"


def test_a_value_that_is_not_there_is_named(store: Store, worker: workers.Registration) -> None:
    with pytest.raises(errors.NotFound, match="no output 'out'"):
        value(store, step(store))


# -- why ----------------------------------------------------------------------------------------------------------------


def code(digest: str, file: str = "steps.py") -> tuple[str, str, str, str]:
    part = {"name": "steps.train", "digest": digest, "file": file, "line": 7}
    return digest, "train", "source", json.dumps([part, {"name": "steps.same", "digest": "0", "file": file, "line": 1}])


def parameter(text: str) -> tasks.Parameter:
    return tasks.Parameter("kwargs", "rate", text, "float", text)


def literal(store: Store, data: object) -> tasks.Link:
    return tasks.Link("input", "data", codec.encode(store, data))


@pytest.mark.parametrize(
    ("change", "kind", "name", "words"),
    [
        ("param", "param", "rate", "0.1 -> 0.2"),
        ("new param", "param", "extra", "absent -> 1"),
        ("code", "code", "steps.train", "changed, steps.py:7"),
        ("input", "input", "data", " -> "),
    ],
)
def test_why_names_what_changed(
    store: Store, worker: workers.Registration, change: str, kind: str, name: str, words: str
) -> None:
    parent = run(store).id

    def submit(new: bool) -> int:
        extra = (tasks.Parameter("kwargs", "extra", "1", "int", "1"),) if new and change == "new param" else ()
        return step(
            store,
            parent_id=parent,
            key_base=str(new),
            use_cache=True,
            code=code("d2" if new and change == "code" else "d1"),
            parameters=(parameter("0.2" if new and change == "param" else "0.1"), *extra),
            links=(literal(store, [2 if new and change == "input" else 1]),),
        )

    old = submit(False)
    work(store, worker, value=1)
    new = submit(True)
    found = cache.why(store, new)
    assert found.nearest == task(store, old)["uid"]
    assert [(difference.kind, difference.name) for difference in found.differences] == [(kind, name)]
    assert words in found.differences[0].text
    assert "its key differs" in found.verdict


def test_why_says_which_step_served(store: Store, worker: workers.Registration) -> None:
    first = step(store, key_base="k")
    work(store, worker, value=1)
    served = step(store, key_base="k", use_cache=True)
    assert cache.why(store, served).verdict.startswith(f"cached from {task(store, first)['uid'][:8]}")


def test_why_says_that_there_is_no_key_no_earlier_one_or_no_wish(store: Store, worker: workers.Registration) -> None:
    unstable = step(store, code=code("d1"), use_cache=True)
    assert "no stable digest" in cache.why(store, unstable).verdict
    first = step(store, "other", key_base="k")
    assert cache.why(store, first).verdict == "ran: no earlier finished step of this name"
    for _ in range(2):
        work(store, worker, value=1)
    off = step(store, "other", key_base="k")
    assert "caching is off" in cache.why(store, off).verdict
    assert "equals the nearest" in cache.why(store, off).verdict


def test_why_says_that_the_equal_one_is_archived_or_lost(store: Store, worker: workers.Registration) -> None:
    step(store, key_base="k")
    work(store, worker, value=LARGE)
    with store.database.write() as connection:
        connection.execute("UPDATE task SET archived = 1")
    assert "is archived" in cache.why(store, step(store, key_base="k", use_cache=True)).verdict
    with store.database.write() as connection:
        connection.execute("UPDATE task SET archived = 0")
    shutil.rmtree(store.folder("blobs"))
    assert "were missing" in cache.why(store, step(store, key_base="k", use_cache=True)).verdict


# -- monitors -----------------------------------------------------------------------------------------------------------


def test_what_a_step_mirrors_reaches_its_run_and_counts_its_references(store: Store, worker: workers.Registration) -> None:
    parent = run(store).id
    monitors = (tasks.Monitor("artifact", "out", "", "best", ""), tasks.Monitor("metric", "loss", "a", "all", "b"))
    number = step(store, parent_id=parent, key_base="k", monitors=monitors)
    found = claim(store, worker)
    for result in ("first", "second"):
        records.upload(store, found.lease, number, "out", result)
    records.report(store, found.lease, number, "loss", "a", 0.5, 1)
    records.report(store, found.lease, number, "other", "a", 0.5, 1)
    finish(store, found)
    assert outputs(store, parent) == ["best"]
    assert [(point["title"], point["series"], point["value"]) for point in records.points(store, parent)] == [("all", "b", 0.5)]
    assert sane(store.path) == [], "a mirrored artifact that was replaced leaves no reference behind"

    other = run(store).id
    served = step(store, parent_id=other, key_base="k", use_cache=True, monitors=monitors)
    assert status(store, served) == "completed"
    assert outputs(store, other) == ["best"]
    assert [point["title"] for point in records.points(store, other)] == ["all"]
    assert sane(store.path) == []
