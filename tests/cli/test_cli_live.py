"""The live block: what it shows, how it folds, and how it shares a terminal with what a script prints; and ``watch``."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from minipipe.cli import block, lines
from minipipe.cli.block import Block, fold
from minipipe.store import attempts, records, sessions, tasks, views
from tests.cli import flows
from tests.cli.conftest import PYTHON, Filled

Invoke = Callable[..., Result]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def live(filled: Filled, run: tasks.Submitted, headed: bool = False) -> Block:
    row = filled.store.database.row("SELECT * FROM task WHERE id = ?", (run.id,))
    assert row is not None
    return Block(filled.store, sessions.scope_of(filled.store, row, "nobody"), headed, "never", Terminal())


def shown(filled: Filled, run: tasks.Submitted, columns: int = 120, rows: int = 24, **how: object) -> list[str]:
    headed = bool(how.pop("headed", False))
    return live(filled, run, headed).lines(columns, rows, **how)  # type: ignore[arg-type]


# -- what it shows ------------------------------------------------------------------------------------------------------


def test_each_step_has_a_line_with_sign_status_and_what_there_is_to_say(filled: Filled) -> None:
    run = filled.run()
    load = filled.step(run, "load")
    filled.finish(filled.claim(), rows=7)
    train = filled.step(run, "train", (load,), max_retries=1)
    claim = filled.claim()
    records.report(filled.store, claim.lease, train.id, "loss", "train", 0.31, 1)
    records.set_progress(filled.store, claim.lease, train.id, 54)
    filled.log(train, b"epoch 1\nepoch 2 loss 0.31\n")
    filled.step(run, "evaluate", (train,))
    found = shown(filled, run)
    assert found[0] == "  ✔ load      completed    0.9s  rows=7"
    pattern = r"  ▶ train     in_progress  \d\.\ds  attempt 1/2  \[=====>    \] 54%  loss=0\.31  \| epoch 2 loss 0\.31"
    assert re.fullmatch(pattern, found[1])
    assert found[2] == "  ○ evaluate  pending      waits for train"
    assert re.fullmatch(r"  1 of 3 done  \d\.\ds", found[3])


def test_on_a_narrow_terminal_the_last_words_of_a_step_get_a_line_of_their_own(filled: Filled) -> None:
    run = filled.run()
    train = filled.step(run, "train")
    filled.claim()
    filled.log(train, b"a line that is much too long to stand beside the step on a terminal of fifty columns\n")
    found = shown(filled, run, columns=50)
    assert found[0].startswith("  ▶ train  in_progress  ")
    assert found[1].startswith("           | a line that is much")
    assert found[1].endswith("…")
    assert all(lines.width_of(line) < 50 for line in found)


def test_the_last_words_are_those_after_a_carriage_return_and_never_steer_the_terminal(filled: Filled) -> None:
    run = filled.run()
    train = filled.step(run, "train")
    filled.claim()
    filled.log(train, b"10%\r20%\r\x1b[2Jhalf\r")
    assert shown(filled, run)[0].endswith("| \\x1b[2Jhalf")


def test_a_run_that_nobody_serves_says_so_below(filled: Filled) -> None:
    run = filled.run()
    filled.step(run, "train", queue="gpu")
    view = live(filled, run)
    assert not any("waiting" in line for line in view.lines(120, 24))  # a passing moment is no reason to tell anybody
    flows.wait_for(lambda: any("waiting" in line for line in view.lines(120, 24)))
    assert view.lines(120, 24)[-1] == "  waiting: no worker serves queue 'gpu'; start one: minipipe worker --queue gpu"


def test_the_last_block_says_nothing_about_what_goes_on(filled: Filled) -> None:
    run = filled.run()
    filled.step(run, "train")
    filled.finish(filled.claim())
    filled.end(run)
    assert shown(filled, run, final=True) == ["  ✔ train  completed  0.9s"]


def test_watch_heads_the_block_with_the_run(filled: Filled) -> None:
    run = filled.run()
    head = shown(filled, run, headed=True)[0]
    pattern = rf"run {run.uid[:8]}  {run.run_name}  digits-demo 1\.0\.0 \(examples\)  in_progress  \d\.\ds  lr=0\.1"
    assert re.fullmatch(pattern, head)


def test_wide_and_combining_characters_keep_the_columns(filled: Filled) -> None:
    run = filled.run()
    for name in ("数据", "cafe\u0301", "plain"):
        filled.step(run, name)
    found = shown(filled, run)[:3]
    assert len({lines.width_of(line[: line.index("queued")]) for line in found}) == 1


def test_tasks_that_a_task_started_are_shown_below_it_and_templates_are_not(filled: Filled) -> None:
    new = tasks.NewTask(type="training", name="search", project="examples", entry={}, session="s", draft=True)
    search = tasks.submit(filled.store, new)
    attempts.start_here(filled.store, search.id, filled.worker.id)
    template = tasks.submit(
        filled.store, tasks.NewTask(type="training", name="svm", project="examples", entry={}, session="s", draft=True)
    )
    for number in range(2):
        filled.step(search, f"svm {number}")
    found = Block(filled.store, sessions.Scope("s"), False, "never", Terminal()).lines(100, 24)
    assert [line.split()[1:4] for line in found[:2]] == [["svm", "0", "queued"], ["svm", "1", "queued"]]
    assert not any(template.uid[:8] in line for line in found)


# -- folding ------------------------------------------------------------------------------------------------------------


def many(filled: Filled, number: int, prefix: str = "part") -> tasks.Submitted:
    run = filled.run()
    for index in range(number):
        filled.step(run, f"{prefix}_{index}" if index else prefix)
    return run


def test_steps_of_one_name_fold_where_they_would_not_fit(filled: Filled) -> None:
    run = many(filled, 30)
    filled.finish(filled.claim())
    filled.fail(filled.claim())
    claimed = filled.claim()
    found = shown(filled, run, rows=24)
    assert re.fullmatch(r"  ▶ part 2/30  in_progress  \d\.\ds  \[>         \]  1 failed, 1 in_progress, 27 queued", found[0])
    assert re.fullmatch(r"    ✘ part_1  failed       3\.1s  ValueError: loss is nan  flow\.py:31", found[1])
    assert found[2].startswith(f"    ▶ {claimed.name}  in_progress")
    assert len(shown(filled, run, rows=60)) == 31


def test_of_too_many_names_the_telling_ones_stay(filled: Filled) -> None:
    run = filled.run()
    for index in range(40):
        filled.step(run, f"step{chr(97 + index % 26)}{index}")
    for _ in range(30):
        filled.finish(filled.claim())
    filled.fail(filled.claim())
    filled.claim()
    found = shown(filled, run, rows=12)
    assert len(found) <= 10
    assert sum(" failed " in line for line in found) == 1
    assert sum(" in_progress " in line for line in found) == 1
    assert found[-2] == "  … 32 more: 2 queued, 30 completed"


@pytest.mark.parametrize("rows", [1, 5, 24, 50])
@pytest.mark.parametrize("columns", [20, 80, 200])
def test_it_is_never_larger_than_the_terminal(filled: Filled, rows: int, columns: int) -> None:
    run = many(filled, 60)
    for _ in range(3):
        filled.claim()
    found = shown(filled, run, columns=columns, rows=rows, headed=True)
    assert len(found) <= max(rows - 1, 4)
    assert all(lines.width_of(line) < columns for line in found)


def test_two_thousand_steps_are_laid_out_in_time_for_four_redraws_a_second(filled: Filled) -> None:
    run = filled.run()
    with filled.store.database.write() as connection:
        connection.executemany(
            "INSERT INTO task (uid, type, name, project_id, parent_id, status, created_at, updated_at)"
            " VALUES (?, 'training', ?, 1, ?, 'completed', 0, 0)",
            [(f"b{index:031x}", f"part_{index}" if index else "part", run.id) for index in range(2000)],
        )
    view = live(filled, run)
    spent = []
    for _ in range(5):
        start = time.process_time()
        found = view.lines(80, 24)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.25  # the best of some: neighbours on the machine cost cache misses
    assert found[0].startswith("  ✔ part 2000/2000  completed")


def test_many_runs_keep_their_headlines_as_far_as_there_is_room(filled: Filled) -> None:
    runs = [many(filled, 3) for _ in range(12)]
    row = sessions.scope_of(filled.store, filled.store.database.rows("SELECT * FROM task WHERE id = ?", (runs[0].id,))[0], "x")
    scope = sessions.Scope("x", row.after, 0, tuple((run.id, 0) for run in runs))
    for run in runs[:9]:
        filled.end(run)
    found = Block(filled.store, scope, False, "never", Terminal()).lines(100, 24)
    assert len(found) <= 23
    assert sum(line.startswith("run ") for line in found) >= 3
    assert all(any(run.uid[:8] in line for line in found) for run in runs[9:])


def test_folding_keeps_the_order_of_the_steps(filled: Filled) -> None:
    run = filled.run()
    for name in ("a", "a_1", "b", "a_2"):
        filled.step(run, name)
    steps = sessions.brief_steps(filled.store, run.id)
    kept, hidden = fold(steps, 4)
    assert [entry.name for entry in kept] == ["a", "a_1", "b", "a_2"]
    kept, hidden = fold(steps, 3)
    assert [(entry.name, len(entry.members)) for entry in kept] == [("a", 3), ("b", 1)]
    assert hidden == []
    assert block.last_words(filled.store, views.steps_of(filled.store, run.id)[0]) == ""


# -- on a real terminal -------------------------------------------------------------------------------------------------


class Screen:
    """A small terminal emulator: enough to see what a person sees after cursor movements."""

    def __init__(self) -> None:
        self.rows: list[str] = [""]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
            if part == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif part == "\r":
                self.column = 0
            elif part.startswith("\x1b["):
                number = int(part[2:-1] or 1) if part[2:-1].isdigit() or part[2:-1] == "" else 1
                if part.endswith("A"):
                    self.row = max(0, self.row - number)
                elif part.endswith("K"):
                    self.rows[self.row] = self.rows[self.row][: self.column]
                elif part.endswith("J"):
                    self.rows[self.row] = self.rows[self.row][: self.column]
                    del self.rows[self.row + 1 :]
            else:
                old = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = old[: self.column] + part + old[self.column + len(part) :]
                self.column += len(part)

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.rows if line.strip()]


def on_terminal(*words: str, once: dict[str, Callable[[int], object]] | None = None) -> tuple[str, int]:
    """What a command writes to a terminal that can redraw; what stands in `once` is done with it as soon as its words appear."""
    left = dict(once or {})
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30", "NO_COLOR": "1"}
    process = subprocess.Popen((*PYTHON, *words), stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    data, end = b"", time.monotonic() + flows.PATIENCE_S
    try:
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    data += os.read(ours, 1 << 16)
                except OSError:
                    break
            elif process.poll() is not None:
                break
            for words_seen in [each for each in left if each in data.decode(errors="replace")]:
                left.pop(words_seen)(ours)
        return data.decode(), process.wait(10)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


TALKING = (
    flows.HEAD
    + """
import subprocess

@PipelineDecorator.component(return_values=["x"])
def slow(i):
    wait_for_file("go")
    return i

@PipelineDecorator.pipeline(name="talking", project="tests", version="1.0")
def talking():
    xs = [slow(i) for i in range(2)]
    wait_for_file("drawn")
    print("before")
    subprocess.run(["sh", "-c", "echo child; while ! test -e child; do sleep 0.01; done; echo grandchild"])
    print("half a", end="", flush=True)
    wait_for_file("half")
    print(" line")
    print("hello", input("who? "))
    print("sum", sum(int(x) for x in xs))

if __name__ == "__main__":
    PipelineDecorator.run_locally()
    talking()
"""
)


def test_the_block_never_overwrites_what_a_script_its_children_or_its_questions_print() -> None:
    flows.write(TALKING)
    touched = {"▶ slow_1": "drawn", "child": "child", "half a": "half", "hello": "go"}
    once: dict[str, Callable[[int], object]] = {seen: lambda _, name=name: Path(name).touch() for seen, name in touched.items()}
    text, code = on_terminal("run", "flow.py", "-j", "2", once={**once, "who? ": lambda terminal: os.write(terminal, b"Ada\n")})
    assert code == 0, text
    assert "\x1b[" in text  # it did redraw
    screen = Screen()
    screen.feed(text)
    start = screen.lines.index("before")
    assert screen.lines[start : start + 9] == [
        "before",
        "child",
        "grandchild",
        "half a line",
        "who? Ada",
        "hello Ada",
        "sum 1",
        screen.lines[start + 7],
        screen.lines[start + 8],
    ]
    assert re.fullmatch(r"  ✔ slow    completed  \d\.\ds  x=0", screen.lines[start + 7])
    assert re.fullmatch(r"  ✔ slow_1  completed  \d\.\ds  x=1", screen.lines[start + 8])
    assert sum(line.startswith("  ✔ slow") for line in screen.lines) == 2


# -- watch --------------------------------------------------------------------------------------------------------------


def test_watch_of_an_ended_run_shows_every_ending_and_ends_as_the_run(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "load")
    filled.finish(filled.claim())
    filled.end(run)
    result = cli("watch")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == "completed load 0.9s"
    assert "completed in 1.4s   next: minipipe show @last" in result.stderr
    bad = filled.run()
    filled.step(bad, "train")
    filled.fail(filled.claim())
    filled.end(bad, "failed")
    result = cli("watch", "--exit-status", str(bad.run_name))
    assert result.exit_code == cli("watch", str(bad.run_name)).exit_code == 1
    assert "error: step 'train' failed: ValueError: loss is nan" in result.stderr
    assert cli("watch", "@last-failed", "--json").exit_code == 1
    assert json.loads(cli("watch", "@last-failed", "--json").stdout)["error"]["kind"] == "RunFailed"


def test_watch_as_jsonl_streams_endings_before_the_whole(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    filled.step(run, "load")
    filled.finish(filled.claim())
    filled.end(run)
    first, last = [json.loads(line) for line in cli("watch", "--format", "jsonl").stdout.splitlines()]
    assert (first["event"], first["name"], first["status"]) == ("step", "load", "completed")
    assert (last["id"], last["status"], last["exit_code"]) == (run.uid, "completed", 0)


def test_watch_gives_up_after_its_time_and_the_run_goes_on(filled: Filled, cli: Invoke) -> None:
    run = filled.run()
    result = cli("watch", "--timeout", "0.05")
    assert result.exit_code == 5
    assert f"run {run.uid[:8]} is still in_progress after 0.05 s" in result.stderr
    assert filled.row(run)["status"] == "in_progress"


def test_watch_of_a_step_or_a_draft_says_what_it_is(filled: Filled, cli: Invoke) -> None:
    run = filled.run(start=False, draft=True)
    assert "is a draft" in cli("watch").stderr
    step = filled.step(run, "load")
    result = cli("watch", f"{run.run_name}/load")
    assert result.exit_code == 2
    assert f"minipipe logs -f {step.uid[:8]}" in result.stderr


def test_ctrl_c_stops_the_watching_and_not_the_run(filled: Filled) -> None:
    run = filled.run()
    filled.step(run, "load", queue="gpu")
    process = subprocess.Popen((*PYTHON, "watch"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    # Off a terminal the reason is said once, as soon as it holds for a second.
    assert process.stderr.readline() == "waiting: no worker serves queue 'gpu'; start one: minipipe worker --queue gpu\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert filled.row(run)["status"] == "in_progress"


def test_watch_on_a_terminal_draws_the_block_in_place(filled: Filled) -> None:
    run = filled.run()
    filled.step(run, "load")
    filled.finish(filled.claim())
    filled.end(run)
    text, code = on_terminal("watch")
    screen = Screen()
    screen.feed(text)
    assert code == 0
    assert screen.lines[0].startswith(f"run {run.uid[:8]}  {run.run_name}")
    assert screen.lines[1] == "  ✔ load  completed  0.9s"
