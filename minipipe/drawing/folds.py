"""What a picture of a run shows as one box: steps that are alike fold, so that 300 steps stay readable.

Alike are steps of one layer whose names differ in a trailing number only (a fan-out: ``train``, ``train_1`` …), and such steps one
after the other (a chain).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minipipe import shown, states
from minipipe.store.picture import Edge, Node, Picture

SMALL = 12  # up to so many steps nothing folds
LARGE = 60  # above so many steps small groups fold too
_NUMBER = re.compile(r"[ _#.:/-]*\d+\Z")
# What a box of several steps shows: the first of these that one of its steps has.
_WORST = (
    states.FAILED,
    states.STOPPED,
    states.IN_PROGRESS,
    states.QUEUED,
    states.PENDING,
    states.CREATED,
    states.SKIPPED,
    states.COMPLETED,
    states.PUBLISHED,
)
# The order in which statuses are told.
_TOLD = ("completed", "published", "cached", "in_progress", "queued", "pending", "created", "stopped", "failed", "skipped")


@dataclass(frozen=True, slots=True)
class Box:
    """A step, or several that are alike.

    Attributes:
        nodes: its steps, in the order of the run.
        layer: 0 for what needs nothing.
        chain: its steps follow each other.
    """

    nodes: tuple[Node, ...]
    layer: int
    chain: bool = False

    @property
    def folded(self) -> bool:
        """It stands for several steps."""
        return len(self.nodes) > 1

    @property
    def name(self) -> str:
        """The step's name; of several ``train ×34``."""
        first = self.nodes[0].name
        return f"{stem(first)} ×{len(self.nodes)}" if self.folded else first

    @property
    def status(self) -> str:
        """The step's status; of several that which needs attention most."""
        found = {node.status for node in self.nodes}
        return next(status for status in _WORST if status in found)

    @property
    def cached(self) -> bool:
        """All of it was served from the cache."""
        return all(node.cached_from for node in self.nodes)

    @property
    def seconds(self) -> float | None:
        """How long it ran; of several, the longest."""
        return max((node.seconds for node in self.nodes if node.seconds is not None), default=None)

    @property
    def note(self) -> str:
        """Its status in words: ``completed 0.2s``, ``cached``, ``30 completed, 4 failed``."""
        if self.folded:
            return tally(self.nodes)
        return words_of(self.nodes[0])

    @property
    def label(self) -> str:
        """What is read out: ``train, failed, 3.1s``."""
        note = self.note if self.folded else self.note.replace(" ", ", ", 1)
        return f"{self.name}, {note}"


@dataclass(frozen=True, slots=True)
class Link:
    """An arrow between two boxes (their places in `Folded.boxes`), with what travels along it."""

    parent: int
    child: int
    names: tuple[str, ...]
    control: bool


@dataclass(frozen=True, slots=True)
class Folded:
    """A picture as it is drawn."""

    boxes: tuple[Box, ...]
    links: tuple[Link, ...]


def words_of(node: Node) -> str:
    """Status and time of one step: ``completed 0.2s``, ``cached``, ``in_progress 12s``."""
    if node.cached_from:
        return "cached" if node.status == states.COMPLETED else f"{node.status} cached"
    return f"{node.status} {shown.duration(node.seconds)}".strip()


def tally(nodes: Iterable[Node]) -> str:
    """How many steps have which status: ``30 completed, 4 failed``; cached ones are counted by that word."""
    counts: dict[str, int] = {}
    for node in nodes:
        word = "cached" if node.cached_from and node.status == states.COMPLETED else node.status
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{counts[word]} {word}" for word in sorted(counts, key=_TOLD.index))


def stem(name: str) -> str:
    """A name without the number at its end; a name that is a number stays."""
    return _NUMBER.sub("", name) or name


def fold(picture: Picture, always: bool = False) -> Folded:
    """Boxes and arrows of a picture.

    Args:
        picture: any.
        always: fold whatever the size; for small places.
    """
    return fold_of(picture.nodes, picture.edges, always)


def fold_of(nodes: Sequence[Node], edges: Sequence[Edge], always: bool = False) -> Folded:
    """The same of steps and edges that are no run yet."""
    layers = layers_of([node.id for node in nodes], edges)
    least = 2 if always else len(nodes) + 1 if len(nodes) <= SMALL else 3 if len(nodes) > LARGE else 5
    groups: dict[tuple[object, ...], list[Node]] = {}
    for node in nodes:
        groups.setdefault((layers[node.id], stem(node.name)), []).append(node)
    boxes: list[Box] = []
    for (layer, _), members in groups.items():
        assert isinstance(layer, int)
        if len(members) >= least:
            boxes.append(Box(tuple(members), layer))
        else:
            boxes.extend(Box((member,), layer) for member in members)
    folded = Folded(tuple(boxes), _links(boxes, edges))
    return _chains(folded, edges, max(least, 3))


def layers_of(ids: Sequence[int], edges: Iterable[Edge]) -> dict[int, int]:
    """Layer of each step: one more than the highest layer among those it needs, 0 for those that need nothing."""
    parents: dict[int, list[int]] = {each: [] for each in ids}
    children: dict[int, list[int]] = {each: [] for each in ids}
    for edge in edges:
        if edge.parent in parents and edge.child in parents:
            parents[edge.child].append(edge.parent)
            children[edge.parent].append(edge.child)
    left = {each: len(found) for each, found in parents.items()}
    layers = dict.fromkeys(ids, 0)
    ready = [each for each in ids if not left[each]]
    while ready:
        each = ready.pop()
        for child in children[each]:
            layers[child] = max(layers[child], layers[each] + 1)
            left[child] -= 1
            if not left[child]:
                ready.append(child)
    return layers


def _links(boxes: Sequence[Box], edges: Iterable[Edge]) -> tuple[Link, ...]:
    place = {node.id: number for number, box in enumerate(boxes) for node in box.nodes}
    names: dict[tuple[int, int], dict[str, None]] = {}
    control: dict[tuple[int, int], bool] = {}
    for edge in edges:
        if edge.parent not in place or edge.child not in place:
            continue
        pair = place[edge.parent], place[edge.child]
        if pair[0] != pair[1]:
            names.setdefault(pair, {}).update(dict.fromkeys(edge.names))
            control[pair] = control.get(pair, True) and edge.control
    return tuple(Link(*pair, tuple(found), control[pair]) for pair, found in names.items())


def _chains(folded: Folded, edges: Iterable[Edge], least: int) -> Folded:
    """Boxes of one name that follow each other, each the only one before and after, become one."""
    after: dict[int, list[int]] = {}
    before: dict[int, list[int]] = {}
    for link in folded.links:
        after.setdefault(link.parent, []).append(link.child)
        before.setdefault(link.child, []).append(link.parent)

    def follows(number: int) -> int | None:
        """The next box of a chain."""
        found = after.get(number, [])
        if len(found) == 1 and len(before[found[0]]) == 1:
            one, two = folded.boxes[number], folded.boxes[found[0]]
            if stem(one.nodes[0].name) == stem(two.nodes[0].name):
                return found[0]
        return None

    seen: set[int] = set()
    boxes: list[Box] = []
    starts = {follows(number) for number in range(len(folded.boxes))}
    for number in [*(n for n in range(len(folded.boxes)) if n not in starts), *range(len(folded.boxes))]:
        if number in seen:
            continue
        chain = [number]
        while (following := follows(chain[-1])) is not None and following not in seen:
            chain.append(following)
        seen.update(chain)
        members = [folded.boxes[each] for each in chain]
        if sum(len(box.nodes) for box in members) >= least and len(chain) >= 3:
            boxes.append(Box(tuple(node for box in members for node in box.nodes), members[0].layer, chain=True))
        else:
            boxes.extend(members)
    if len(boxes) == len(folded.boxes):
        return folded
    links = _links(boxes, edges)
    layers = layers_of(range(len(boxes)), [Edge(link.parent, link.child) for link in links])
    moved = tuple(Box(box.nodes, layers[number], box.chain) for number, box in enumerate(boxes))
    return Folded(moved, links)
