"""Graphs of any size: what folds, where boxes stand, and that nothing overlaps or is lost."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from minipipe.drawing import dag, folds, layout, tree
from minipipe.store import picture
from minipipe.store.home import Store
from tests.drawing import runs

SVG = "{http://www.w3.org/2000/svg}"


def drawn(found: picture.Picture) -> ElementTree.Element:
    return ElementTree.fromstring(dag.svg(folds.fold(found), "name"))


def fan(store: Store, width: int) -> picture.Picture:
    """load -> train, train_1 … -> choose."""
    run = runs.run(store)
    load = runs.step(store, run, "load")
    trains = [runs.step(store, run, f"train_{n}" if n else "train", [(load, "rows")]) for n in range(width)]
    runs.step(store, run, "choose", [(train, "model") for train in trains])
    return picture.of_run(store, run)


def test_a_small_fan_shows_every_step(store: Store) -> None:
    found = folds.fold(fan(store, 6))
    assert [box.name for box in found.boxes] == ["load", "train", *(f"train_{n}" for n in range(1, 6)), "choose"]
    assert len(found.links) == 12


@pytest.mark.parametrize("width", [28, 298])
def test_a_wide_fan_folds_into_three_boxes_and_keeps_what_flows(store: Store, width: int) -> None:
    found = folds.fold(fan(store, width))
    assert [box.name for box in found.boxes] == ["load", f"train ×{width}", "choose"]
    assert [(link.parent, link.child, link.names) for link in found.links] == [(0, 1, ("rows",)), (1, 2, ("model",))]
    assert [box.layer for box in found.boxes] == [0, 1, 2]
    assert found.boxes[1].note == f"{width} pending"


def test_fans_of_several_layers_fold_by_layer(store: Store) -> None:
    run = runs.run(store)
    loads = [runs.step(store, run, f"load_{n}") for n in range(20)]
    cleans = [runs.step(store, run, f"clean_{n}", [(load, "rows")]) for n, load in enumerate(loads)]
    runs.step(store, run, "join", [(clean, "rows") for clean in cleans])
    found = folds.fold(picture.of_run(store, run))
    assert [box.name for box in found.boxes] == ["load ×20", "clean ×20", "join"]


def test_a_long_chain_of_one_name_folds_and_one_of_many_names_does_not(store: Store) -> None:
    run = runs.run(store)
    first = runs.step(store, run, "start")
    steps = [first]
    for n in range(300):
        steps.append(runs.step(store, run, f"step_{n}", [(steps[-1], "out")]))
    runs.step(store, run, "end", [(steps[-1], "out")])
    found = folds.fold(picture.of_run(store, run))
    assert [(box.name, box.chain, box.layer) for box in found.boxes] == [
        ("start", False, 0),
        ("step ×300", True, 1),
        ("end", False, 2),
    ]
    other = runs.run(store, "names")
    runs.chain(store, other, [f"{a}{b}" for a in "abcdefghijklmnopqrst" for b in "uvw"])
    assert len(folds.fold(picture.of_run(store, other)).boxes) == 60


def test_no_two_boxes_overlap_and_every_arrow_points_forward(store: Store) -> None:
    run = runs.run(store)
    names = "abcdefghijkl"
    made: list[int] = []
    for number, letter in enumerate(names):
        parents = [(made[k], "x") for k in (number - 1, number - 3, number // 2) if 0 <= k < number]
        made.append(runs.step(store, run, letter * (number + 1), parents))
    root = drawn(picture.of_run(store, run))
    cards = [card for card in root.iter(f"{SVG}rect") if card.get("class") == "mp-card"]
    places = [tuple(float(card.get(key) or 0) for key in ("x", "y", "width", "height")) for card in cards]
    assert len(places) == len(names)
    for i, (x, y, w, h) in enumerate(places):
        for x2, y2, w2, h2 in places[i + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y, (places[i], (x2, y2, w2, h2))
    view = [float(part) for part in (root.get("viewBox") or "").split()]
    assert all(x >= 0 and x + w <= view[2] and y >= 0 and y + h <= view[3] for x, y, w, h in places)


def test_the_layout_takes_crossings_out() -> None:
    # Two arrows that cross as given: a1 -> b2, a2 -> b1.
    placed = layout.place([0, 0, 1, 1], [40.0] * 4, [(0, 3), (1, 2)])
    assert (placed.across[0] < placed.across[1]) == (placed.across[3] < placed.across[2])
    assert placed.across[0] == pytest.approx(placed.across[3]) and placed.across[1] == pytest.approx(placed.across[2])


def test_an_empty_run_has_an_empty_picture(store: Store) -> None:
    found = picture.of_run(store, runs.run(store))
    assert found.nodes == () and list(drawn(found).iter(f"{SVG}rect")) == []
    assert dag.mermaid(found) == "flowchart LR"


def test_the_tree_shows_each_step_once_under_its_first_parent_and_names_the_others(store: Store) -> None:
    run = runs.run(store)
    load = runs.step(store, run, "load")
    split = runs.step(store, run, "split", [(load, "data")])
    train = runs.step(store, run, "train", [(split, "train_points")])
    runs.step(store, run, "evaluate", [(split, "test_points"), (train, "model")])
    runs.step(store, run, "clean", [(train, "")])
    found = folds.fold(picture.of_run(store, run))
    shown = [f"{before}{box.name} {said}" for before, box, said in tree.lines(found, lambda status: "")]
    assert shown == [
        "load queued",
        "└─ split pending  (data)",
        "   ├─ train pending  (train_points)",
        "   │  └─ clean pending",
        "   └─ evaluate pending  (test_points; model from train)",
    ]


def test_a_chain_longer_than_the_stack_is_a_tree(store: Store) -> None:
    nodes = tuple(picture.Node(n, f"{n:032x}", f"{'ab'[n % 2]}{n}x", "training", "completed", 1, 1, 0.1) for n in range(3000))
    edges = tuple(picture.Edge(n, n + 1) for n in range(2999))
    found = picture.Picture(runs.run(store), nodes, edges, 0.0)
    assert len(list(tree.lines(folds.fold(found), lambda status: "x"))) == 3000


HOSTILE = "a\"]; b --> c\n<img src=x onerror=alert(1)>&\u202e\x1b[31m`'#quot;\\n</style></svg>"


def test_a_hostile_name_stays_a_label_in_every_form(store: Store) -> None:
    run = runs.run(store)
    first = runs.step(store, run, HOSTILE)
    runs.step(store, run, "second", [(first, HOSTILE)])
    found = picture.of_run(store, run)
    root = drawn(found)
    assert {child.tag.removeprefix(SVG) for child in root.iter()} <= {"svg", "title", "desc", "path", "g", "rect", "text"}
    assert {key for child in root.iter() for key in child.attrib if key.startswith("on")} == set()
    lines = dag.mermaid(found).splitlines()
    # One arrow, two styles: the name made no line of its own, and only codes of characters that mean something.
    assert len(lines) == 4 and lines[1].count('"') == 4 and lines[1].count("-->") == 1
    assert re.search(r"<|`|\\|&", lines[1]) is None
    text = dag.dot(found, HOSTILE)
    assert text.count(" -> ") == 1 and "\x1b" not in text
    strings = re.findall(r'"(?:[^"\\]|\\.)*"', text)
    assert text.count('"') - sum(one.count('\\"') for one in strings) == 2 * len(strings)


def test_labels_and_classes_are_the_same_in_every_form(store: Store) -> None:
    found = fan(store, 3)
    boxes = folds.fold(found).boxes
    root = drawn(found)
    assert [node.get("class") for node in root.iter(f"{SVG}g")] == [f"mp-node {dag.class_of(box)}" for box in boxes]
    for box in boxes:
        label = f"{box.name}: {box.note}"
        assert f'["{label}"]:::{dag.class_of(box)}' in dag.mermaid(found)
        assert f'label="{label}", class="{dag.class_of(box)}"' in dag.dot(found, "x")
