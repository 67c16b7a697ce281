"""The page of a run: what stands in it, in which order, that it is one small file, the same each time, and only text from outside."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

from minipipe.report import facts, page, shows
from minipipe.store import attempts, lookup, plots, tasks, workers
from minipipe.store.blobs import Writer
from minipipe.store.home import Store
from tests.report import hostile, reference
from tests.report.conftest import Reference

ORDER = ["graph", "timeline", "parameters", "new-run", "comparison", "charts", "plots", "artifacts", "steps", "environment"]


class Reader(HTMLParser):
    """Counts elements and attributes by name, as a browser's parser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.ids: list[str] = []
        self.hrefs: list[str] = []
        self.shown: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        self.hrefs += [found["href"]] if found.get("href") else []

    def handle_data(self, data: str) -> None:
        self.shown.append(data)


def made(store: Store, run: sqlite3.Row, **options: object) -> str:
    return page.run_page(facts.of_run(store, run, facts.Options(**options)))  # type: ignore[arg-type]


def test_the_reference_run_makes_a_page_below_200_kb_in_less_than_a_second(reference_run: Reference, store: Store) -> None:
    began = time.perf_counter()
    text = made(*reference_run)
    assert time.perf_counter() - began < 1.0
    assert len(text.encode()) < 200_000
    assert len(made(store, reference.fill(store, separate=True)).encode()) < 200_000, "a chart for each series"


def test_a_finished_run_gives_the_same_bytes_each_time(reference_run: Reference) -> None:
    store, run = reference_run
    first = made(store, run)
    later = page.run_page(facts.of_run(store, run, now=time.time() + 86_400))
    assert first == later


def test_the_page_holds_no_script_and_asks_for_nothing(reference_run: Reference) -> None:
    text = made(*reference_run)
    head = '<!doctype html><!-- minipipe report -->\n<html lang="en">'
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert text.startswith(head) and f'content="{policy.replace(chr(39), "&#39;")}"' in text
    found = Reader(text)
    names = {tag for tag, _ in found.elements}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base"}
    assert all(href.startswith("#") for href in found.hrefs)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg)", text)


def test_sections_stand_in_the_promised_order_and_every_link_has_a_target(reference_run: Reference) -> None:
    found = Reader(made(*reference_run))
    sections = [name for name in found.ids if name in ORDER]
    assert sections == [name for name in ORDER if name not in ("comparison", "plots")]
    assert len(found.ids) == len(set(found.ids))
    assert {href[1:] for href in found.hrefs} <= set(found.ids)
    assert sum(tag == "h1" for tag, _ in found.elements) == 1
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in zip([0, *levels], levels, strict=False))


def test_headers_of_tables_say_what_they_head_and_drawings_have_words(reference_run: Reference) -> None:
    text = made(*reference_run)
    assert all("scope" in attributes for tag, attributes in Reader(text).elements if tag == "th")
    drawings = re.findall(r"<svg .*?</svg>", text, re.DOTALL)
    assert len(drawings) == 2 + reference.STEPS
    for drawing in drawings:
        assert 'role="img"' in drawing.partition(">")[0] and "<title>" in drawing and "<desc>" in drawing


def test_each_step_has_a_section_with_its_console_tail_and_its_code(reference_run: Reference) -> None:
    store, run = reference_run
    text = made(store, run)
    sections = re.findall(r'<article id="step-\d+".*?</article>', text, re.DOTALL)
    assert len(sections) == reference.STEPS
    assert all("epoch 39  loss" in one and "epoch 10  loss" in one and "epoch  9  loss" not in one for one in sections)
    assert all("value_0 = rows[0]" in one for one in sections)
    assert "minipipe:" not in "".join(re.findall(r"<pre.*?</pre>", "".join(sections), re.DOTALL))
    whole = made(store, run, full_logs=True)
    assert whole.count("epoch  0  loss") == reference.STEPS


def test_charts_have_all_points_and_the_table_has_their_values(reference_run: Reference) -> None:
    text = made(*reference_run)
    charts = re.search(r'<section id="charts".*?</section>', text, re.DOTALL)
    assert charts is not None
    lines = re.findall(r'<g class="mp-line s\d"><path d="M[\d. ]+?l([^"]*)"', charts[0])
    assert len(lines) == reference.STEPS * len(reference.SERIES)
    for line in lines:
        assert len(re.findall(r"-?\d*\.?\d+", line)) == 2 * (reference.POINTS - 1)
    assert charts[0].count("<tr><td>") == reference.STEPS * reference.POINTS
    assert "<tr><td>49<td>" in charts[0]


# -- hostile text -------------------------------------------------------------------------------------------------------


def test_hostile_text_in_every_field_adds_no_element_and_no_attribute(
    copy_store: Callable[[Path], Store], tmp_path: Path
) -> None:
    pages = []
    for number, text in enumerate((hostile.PLAIN, hostile.BAD)):
        store = copy_store(tmp_path / str(number))
        pages.append(made(store, hostile.fill(store, text)))
        store.close()
    plain, bad = map(Reader, pages)
    assert bad.elements == plain.elements
    assert bad.ids == plain.ids and bad.hrefs == plain.hrefs
    shown = "".join(bad.shown)
    assert shown.count(hostile.MARK) > 40, "the text itself is there to be read"
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e\u200b]", pages[1])
    assert "83810205" not in pages[1] and "{{12345*6789}}" in shown


# -- runs of other kinds ------------------------------------------------------------------------------------------------


def small(store: Store, parent: sqlite3.Row | None = None, lr: str = "0.1", fails: bool = False) -> sqlite3.Row:
    """A run of one step."""
    worker = workers.register(store, workers.AGENT, slots=1, queues=("default",))
    entry = {"kind": "here", "cwd": "/", "roots": []}
    run = tasks.submit(
        store,
        tasks.NewTask(
            type="controller",
            name="small",
            project="tests/.pipelines/small",
            controller=True,
            is_run=True,
            queue="services",
            entry=entry,
            template_id=parent["id"] if parent is not None else None,
            parameters=(tasks.Parameter("Args", "lr", lr, "float", lr, usual="0.1"),),
        ),
    )
    attempts.start_here(store, run.id, worker.id)
    code = (f"{lr:0>64}", "train", f"def train():\n    return {lr}\n", "[]")
    tasks.submit(
        store,
        tasks.NewTask(type="training", name="train", project="tests", parent_id=run.id, queue="default", entry=entry, code=code),
    )
    claim = attempts.claim_next(store, attempts.Claimant(worker.id, ("default",)))
    assert claim is not None
    error = {
        "type": "ValueError",
        "message": "loss is nan",
        "where": "flow.py:31, in train: raise",
        "traceback": "Traceback\nValueError",
    }
    ending = (attempts.FAILED, "ValueError: loss is nan", error) if fails else (attempts.DONE, "", None)
    attempts.finish(store, claim.lease, attempts.Outcome(*ending, (), 0.5))
    with store.database.write() as connection:
        connection.execute(
            "UPDATE task SET status = ?, worker_id = NULL, ended_at = started_at + 1 WHERE id = ?",
            ("failed" if fails else "completed", run.id),
        )
    worker.lock.release()
    return lookup.find_run(store, run.uid)


def test_a_failed_run_says_first_what_failed_and_where(store: Store) -> None:
    text = made(store, small(store, fails=True))
    header = text.partition("<main")[0]
    assert "ValueError: loss is nan" in header and "flow.py:31" in header and 'href="#step-1"' in header
    assert "Traceback of train" in text


def test_a_copied_run_is_compared_with_the_one_it_came_from(store: Store) -> None:
    first = small(store)
    second = small(store, first, lr="0.2")
    text = made(store, second)
    section = re.search(r'<section id="comparison".*?</section>', text, re.DOTALL)
    assert section is not None
    assert f"Comparison with {first['run_name']}" in section[0]
    assert re.search(r'lr<td class="value">0\.1<td class="value">0\.2', section[0])
    assert (
        '<span class="minus">-    return 0.1</span>' in section[0] and '<span class="plus">+    return 0.2</span>' in section[0]
    )
    assert f"minipipe rerun {second['run_name']} --set lr=0.2" in text
    assert "not the default, 0.1" in text and "not the default" not in made(store, first)


def test_a_page_of_a_running_run_reloads_itself_and_one_of_an_ended_run_does_not(store: Store) -> None:
    run = tasks.submit(
        store,
        tasks.NewTask(
            type="controller", name="r", project="p", controller=True, is_run=True, queue="services", entry={"kind": "here"}
        ),
    )
    row = lookup.find_run(store, run.uid)
    waiting = tasks.NewTask(type="training", name="train", project="p", parent_id=run.id, queue="gpu", entry={"kind": "here"})
    tasks.submit(store, waiting)
    text = page.run_page(facts.of_run(store, row), refresh=True)
    assert 'http-equiv="refresh"' in text and "no worker serves queue" in text
    assert 'http-equiv="refresh"' not in page.run_page(facts.of_run(store, small(store)), refresh=True)


# -- pictures -----------------------------------------------------------------------------------------------------------


def picture(store: Store, run: sqlite3.Row, name: str, size: int, kind: str = "image/png") -> None:
    writer = Writer(store)
    writer.write(b"\x89" * size)
    plots.report(store, None, plots.NewPlot(plots.SAMPLE, name, "s", 0, kind, f"{name}.png", writer), run["id"])


def test_small_pictures_are_embedded_up_to_two_megabytes_and_others_named(store: Store) -> None:
    run = small(store)
    picture(store, run, "large", shows.EACH + 1)
    for number in range(40):
        picture(store, run, f"small {number}", shows.EACH - number)
    text = made(store, run)
    assert text.count("<img ") == shows.ALL // shows.EACH
    assert "large.png, image/png, 64.0 kB: too large to embed" in text
    assert f"minipipe get {run['run_name']}/large/s" in text
    assert made(store, run, images="all").count("<img ") == 41
    nothing = made(store, run, images="none")
    assert nothing.count("<img ") == 0 and nothing.count("left out as asked") == 41


def test_what_cannot_be_drawn_is_collapsed_json_with_a_note(store: Store) -> None:
    run = small(store)
    for name, figure in (("deep", {"data": [{"type": "surface", "z": [[1]]}]}), ("odd", {"data": "no"}), ("empty", {"data": []})):
        writer = Writer(store)
        writer.write(json.dumps(figure).encode())
        plots.report(store, None, plots.NewPlot(plots.PLOT, name, "s", 0, plots.FIGURE, "", writer), run["id"])
    text = made(store, run)
    assert "a figure of kind surface is not drawn here" in text and text.count("Its JSON") == 3


def test_damage_and_absence_are_said_and_stop_nothing(store: Store) -> None:
    parent = small(store)
    run = small(store, parent, lr="0.2")
    picture(store, run, "broken", 40_000)
    picture(store, run, "whole", 100)
    row = store.database.row("SELECT digest FROM plot WHERE title = 'broken'")
    assert row is not None
    path = store.path / "blobs" / row["digest"][:2] / row["digest"]
    path.chmod(0o600)
    path.write_bytes(b"other bytes")
    text = made(store, run)
    assert "cannot be shown" in text and text.count("<img ") == 1
    path.unlink()
    assert "cannot be shown" in made(store, run)
