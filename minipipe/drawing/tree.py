"""The graph of a run as a tree of lines: each step once, under its first parent, other parents named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from minipipe import shown, states
from minipipe.drawing.folds import Box, Folded, Link, words_of

Sign = Callable[[str], str]  # a status -> its sign, "" where none can be shown

_BRANCHES = ("├─ ", "└─ ", "│  ", "   ")
_PLAIN_BRANCHES = ("|- ", "`- ", "|  ", "   ")
_NAMED = 3


def lines(folded: Folded, sign: Sign, plain: bool = False) -> Iterator[tuple[str, Box, str]]:
    """(what stands before, the box, what is said of it) line by line; nothing is escaped yet.

    Args:
        folded: boxes and arrows.
        sign: of a status; where it is empty the word of the status is always said.
        plain: ASCII branches.
    """
    branches = _PLAIN_BRANCHES if plain else _BRANCHES
    parents: dict[int, list[Link]] = {}
    for link in folded.links:
        if not link.control:
            parents.setdefault(link.child, []).append(link)
    children: dict[int, list[int]] = {}
    for child, found in parents.items():
        children.setdefault(found[0].parent, []).append(child)

    # A work list, not recursion: a chain of steps may be longer than Python's stack.
    roots = [place for place in range(len(folded.boxes)) if place not in parents]
    waiting = [(place, "", "") for place in reversed(roots)]
    while waiting:
        place, first, rest = waiting.pop()
        box = folded.boxes[place]
        yield first, box, _said(folded, box, parents.get(place, []), sign)
        below = sorted(children.get(place, ()))
        for number, child in reversed(list(enumerate(below))):
            last = number == len(below) - 1
            waiting.append((child, rest + branches[1 if last else 0], rest + branches[3 if last else 2]))


def _said(folded: Folded, box: Box, links: list[Link], sign: Sign) -> str:
    if box.folded:
        note = box.note + _failed(box)
    else:
        node = box.nodes[0]
        note = words_of(node)
        if sign(box.status) and node.status == states.COMPLETED and not node.cached_from:
            note = shown.duration(node.seconds)
        elif node.cached_from:
            note = f"{note} from {node.cached_from[:8]}"
    carried = _carried(folded, links)
    return f"{note}  ({carried})" if carried else note


def _failed(box: Box) -> str:
    names = [node.name for node in box.nodes if node.status == states.FAILED]
    return f": {some(names)}" if names else ""


def _carried(folded: Folded, links: list[Link]) -> str:
    """``test_points; model from train``: what comes from the parent above, then what comes from others."""
    above = ", ".join(links[0].names) if links else ""
    others: dict[str, list[str]] = {}
    for link in links[1:]:
        others.setdefault(", ".join(link.names), []).append(folded.boxes[link.parent].name)
    parts = [f"{names} from {some(parents)}" if names else f"after {some(parents)}" for names, parents in others.items()]
    return "; ".join(part for part in (above, *parts) if part)


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
