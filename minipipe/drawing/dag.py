"""The graph of a run: SVG, Mermaid, DOT; the same boxes, labels and classes in each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence

from minipipe import shown, states
from minipipe.drawing import layout
from minipipe.drawing.element import Markup, element, number
from minipipe.drawing.folds import Box, Folded, Link, fold
from minipipe.drawing.measure import clipped, width
from minipipe.store.picture import Picture

_HEIGHT = 48.0
_NARROWEST, _WIDEST = 112.0, 216.0
_MARGIN = 8.0
_ROOM = 1076.0  # wider than this the arrows run downwards
_SHORTEST = 44.0  # of an arrow that runs across
_CACHED = "↻"

Anchor = Callable[[Box], str | None]


def sign_of(box: Box) -> str:
    """The sign of a box; cached has its own."""
    return _CACHED if box.cached else shown.sign_of(box.status)


def class_of(box: Box) -> str:
    """CSS class of a box: its status, or cached."""
    return "cached" if box.cached and box.status in states.GOOD else box.status


# -- SVG ----------------------------------------------------------------------------------------------------------------


def svg(folded: Folded, name: str, anchor: Anchor = lambda box: None, style: str = "") -> Markup:
    """The graph as an SVG element.

    Args:
        folded: boxes and arrows.
        name: of the run, for the title.
        anchor: where a box links to; None for no link.
        style: CSS to stand inside, for a file of its own.
    """
    boxes, links = folded.boxes, folded.links
    widths = [_box_width(box) for box in boxes]
    count = max((box.layer for box in boxes), default=-1) + 1
    columns = [
        max((w for w, box in zip(widths, boxes, strict=True) if box.layer == layer), default=0.0) for layer in range(count)
    ]
    gaps = [_gap(boxes, links, layer) for layer in range(count - 1)]
    room = _ROOM - 2 * _MARGIN - sum(columns)
    across = len(gaps) * _SHORTEST <= room
    if across and sum(gaps) > room:
        spare = sum(gap - _SHORTEST for gap in gaps)
        gaps = [_SHORTEST + (gap - _SHORTEST) * (room - len(gaps) * _SHORTEST) / spare for gap in gaps]
    if across:
        depths, breadths = columns, [_HEIGHT + 8 * box.folded for box in boxes]
    else:
        depths, breadths, gaps = [_HEIGHT] * count, widths, [52.0] * max(count - 1, 0)
    placed = layout.place([box.layer for box in boxes], breadths, [(link.parent, link.child) for link in links])
    starts = [_MARGIN]
    for layer in range(1, count):
        starts.append(starts[-1] + depths[layer - 1] + gaps[layer - 1])
    long = (starts[-1] + depths[-1] if count else 0.0) + 2 * _MARGIN
    broad = placed.breadth + 2 * _MARGIN
    corners = []
    for box, middle, wide in zip(boxes, placed.across, widths, strict=True):
        along, other = starts[box.layer], middle + _MARGIN
        corners.append((along, other - _HEIGHT / 2) if across else (other - wide / 2, along))
    named = _named(links)
    arrows = [
        _arrow(link, corners, widths, _through(bends, starts, depths, across), across, place in named)
        for place, (link, bends) in enumerate(zip(links, placed.bends, strict=True))
    ]
    size = (long, broad) if across else (broad, long)
    return element(
        "svg",
        element("title", f"Graph of {name}"),
        element("desc", _described(folded)),
        element("style", Markup(style)) if style else None,
        [arrow for arrow, _ in arrows],
        [_card(box, corner, wide, anchor(box)) for box, corner, wide in zip(boxes, corners, widths, strict=True)],
        [label for _, label in arrows],
        xmlns="http://www.w3.org/2000/svg",
        class_="mp-dag",
        role="img",
        viewBox=f"0 0 {number(size[0])} {number(size[1])}",
        width=size[0],
        height=size[1],
    )


def _box_width(box: Box) -> float:
    need = max(width(box.name, 13, bold=True), width(box.note, 11.5) + 16) + 34
    return min(_WIDEST, max(_NARROWEST, need))


def _gap(boxes: Sequence[Box], links: Sequence[Link], layer: int) -> float:
    """Room between two layers, for the names on the arrows."""
    widest = max(
        (width(_label(link), 11) for link in links if boxes[link.parent].layer == layer or boxes[link.child].layer == layer + 1),
        default=0.0,
    )
    return min(150.0, max(52.0, widest + 28))


def _named(links: Sequence[Link]) -> set[int]:
    """Arrows that carry their names. Of three or more that spread from a box, or meet in one, with the same names: the middle one."""
    found = {place for place, link in enumerate(links) if link.names}
    for end in ("parent", "child"):
        groups: dict[tuple[object, ...], list[int]] = {}
        for place in sorted(found):
            groups.setdefault((getattr(links[place], end), links[place].names), []).append(place)
        for members in groups.values():
            if len(members) > 2:
                found -= set(members) - {members[len(members) // 2]}
    return found


def _label(link: Link) -> str:
    return ", ".join(link.names[:2]) + (f" +{len(link.names) - 2}" if len(link.names) > 2 else "")


def _described(folded: Folded) -> str:
    return "; ".join(f"{box.label}{_needs(folded, place)}" for place, box in enumerate(folded.boxes))


def _needs(folded: Folded, place: int) -> str:
    parents = [folded.boxes[link.parent].name for link in folded.links if link.child == place and not link.control]
    return f", depends on {' and '.join(parents)}" if parents else ""


def _through(
    bends: Sequence[tuple[int, float]], starts: Sequence[float], depths: Sequence[float], across: bool
) -> list[tuple[float, float, float, float]]:
    """Where an arrow enters and leaves the layers that it passes."""
    found = []
    for layer, at in bends:
        begin, end, other = starts[layer], starts[layer] + depths[layer], at + _MARGIN
        found.append((begin, other, end, other) if across else (other, begin, other, end))
    return found


def _arrow(
    link: Link,
    corners: Sequence[tuple[float, float]],
    widths: Sequence[float],
    through: Sequence[tuple[float, float, float, float]],
    across: bool,
    named: bool,
) -> tuple[Markup, Markup | None]:
    (px, py), (cx, cy) = corners[link.parent], corners[link.child]
    if across:
        start, end = (px + widths[link.parent], py + _HEIGHT / 2), (cx - 2, cy + _HEIGHT / 2)
    else:
        start, end = (px + widths[link.parent] / 2, py + _HEIGHT), (cx + widths[link.child] / 2, cy - 2)
    stops = [start, *(point for bend in through for point in ((bend[0], bend[1]), (bend[2], bend[3]))), end]
    path = [f"M{number(start[0])} {number(start[1])}"]
    for index, (one, two) in enumerate(itertools.pairwise(stops)):
        if index % 2:  # inside a layer that it passes: straight on
            path.append(f"L{number(two[0])} {number(two[1])}")
        elif across:
            middle = number((one[0] + two[0]) / 2)
            path.append(f"C{middle} {number(one[1])} {middle} {number(two[1])} {number(two[0])} {number(two[1])}")
        else:
            middle = number((one[1] + two[1]) / 2)
            path.append(f"C{number(one[0])} {middle} {number(two[0])} {middle} {number(two[0])} {number(two[1])}")
    x, y = end
    head = (
        f"M{number(x - 6)} {number(y - 4)}L{number(x)} {number(y)}L{number(x - 6)} {number(y + 4)}"
        if across
        else f"M{number(x - 4)} {number(y - 6)}L{number(x)} {number(y)}L{number(x + 4)} {number(y - 6)}"
    )
    kind = "mp-edge control" if link.control else "mp-edge"
    line = element("path", class_=kind, d="".join(path) + head)
    if not link.names or not named:
        return line, None
    # On the stretch that runs past other boxes if there is one: nothing else is there.
    first, last = (stops[1], stops[2]) if through else (stops[0], stops[1])
    at = ((first[0] + last[0]) / 2, (first[1] + last[1]) / 2)
    room = max(40.0, abs(last[0] - first[0]) - 14) if across else 130.0
    text = clipped(_label(link), room, 11)
    full = element("title", ", ".join(link.names)) if text != ", ".join(link.names) else None
    return line, element("text", text, full, class_="mp-carried", x=at[0], y=at[1] + (-5 if across else 4), text_anchor="middle")


def _card(box: Box, corner: tuple[float, float], wide: float, href: str | None) -> Markup:
    x, y = corner
    kind = class_of(box)
    behind = (
        [element("rect", class_="mp-behind", x=x + d, y=y + d, width=wide, height=_HEIGHT, rx=8) for d in (6.0, 3.0)]
        if box.folded
        else []
    )
    # The strip on the left, with the corners of the card.
    strip = (
        f"M{number(x + 8)} {number(y)}h-2a6 6 0 0 0 -6 6v{number(_HEIGHT - 12)}a6 6 0 0 0 6 6h2"
        f"a4 6 0 0 1 -4 -6v-{number(_HEIGHT - 12)}a4 6 0 0 1 4 -6z"
    )
    reasons = dict.fromkeys(node.reason for node in box.nodes if node.status in (*states.BAD, states.SKIPPED) and node.reason)
    children = [
        element("title", "\n".join([box.label, *list(reasons)[:3]]).replace("\n", " – ")),
        behind,
        element("rect", class_="mp-card", x=x, y=y, width=wide, height=_HEIGHT, rx=8),
        element("path", class_="mp-strip", d=strip),
        element("text", clipped(box.name, wide - 26, 13, bold=True), class_="mp-name", x=x + 16, y=y + 20),
        element("text", f"{sign_of(box)} {clipped(box.note, wide - 40, 11.5)}", class_="mp-note", x=x + 16, y=y + 37),
    ]
    if href is None:
        return element("g", children, class_=f"mp-node {kind}")
    return element("a", children, class_=f"mp-node {kind}", href=href, aria_label=box.label)


# -- text for other tools -----------------------------------------------------------------------------------------------

_CLASSES = {
    "completed": "fill:#e8f5ee,stroke:#1a7f4b",
    "published": "fill:#e8f5ee,stroke:#1a7f4b",
    "cached": "fill:#e6f4f5,stroke:#0f7785",
    "failed": "fill:#fbeae9,stroke:#c0352b",
    "stopped": "fill:#fbf1e3,stroke:#9a5b00",
    "in_progress": "fill:#e8f0fa,stroke:#1f63b5",
    "skipped": "fill:#f2f3f4,stroke:#646d77,stroke-dasharray:4 3",
    "queued": "fill:#f1f0f6,stroke:#6b6480",
    "pending": "fill:#f1f0f6,stroke:#6b6480",
    "created": "fill:#f1f0f6,stroke:#6b6480",
}
_MERMAID_UNSAFE = re.compile(r"[^\w .:,+=×()/…-]")


def mermaid(picture: Picture) -> str:
    """The graph as a Mermaid flowchart. Every character that could mean something to Mermaid is written as its code."""
    folded = fold(picture)
    told: set[int] = set()

    def box(place: int) -> str:
        if place in told:
            return f"s{place + 1}"
        told.add(place)
        one = folded.boxes[place]
        return f's{place + 1}["{_mermaid(one.name)}: {_mermaid(one.note)}"]:::{class_of(one)}'

    lines = ["flowchart LR"]
    for link in folded.links:
        arrow = "-.->" if link.control else "-->"
        names = f"|{_mermaid(', '.join(link.names))}|" if link.names else ""
        lines.append(f"  {box(link.parent)} {arrow}{names} {box(link.child)}")
    lines += [f"  {box(place)}" for place in range(len(folded.boxes)) if place not in told]
    used = dict.fromkeys(class_of(one) for one in folded.boxes)
    lines += [f"  classDef {kind} {_CLASSES[kind]},color:#1d2125" for kind in used]
    return "\n".join(lines)


def _mermaid(text: str) -> str:
    return _MERMAID_UNSAFE.sub(lambda match: f"#{ord(match[0])};", shown.escape(text))


def dot(picture: Picture, name: str) -> str:
    """The graph in Graphviz' language."""
    folded = fold(picture)
    lines = [
        f"digraph {_quoted(name)} {{",
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fontname="sans-serif", color="#646d77"];',
    ]
    for place, box in enumerate(folded.boxes):
        facts = dict(part.split(":") for part in _CLASSES[class_of(box)].split(",")[:2])
        lines.append(
            f"  s{place + 1} [label={_quoted(f'{box.name}: {box.note}')}, class={_quoted(class_of(box))},"
            f' fillcolor="{facts["fill"]}", color="{facts["stroke"]}"];'
        )
    for link in folded.links:
        facts = {"label": ", ".join(link.names)} if link.names else {}
        if link.control:
            facts["style"] = "dashed"
        shown_facts = ", ".join(f"{key}={_quoted(value)}" for key, value in facts.items())
        lines.append(f"  s{link.parent + 1} -> s{link.child + 1}" + (f" [{shown_facts}]" if facts else "") + ";")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    r"""A DOT string. A backslash is doubled: before ``n``, ``l``, ``N`` it would mean something."""
    safe = shown.escape(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{safe}"'
