"""Where the boxes of a layered drawing stand: few crossings, straight arrows, no overlap.

The usual three steps (Sugiyama, Tagawa and Toda 1981): long arrows get a bend in each layer that they pass; each layer is ordered
by the mean place of its neighbours; then each box moves as near to the mean of its neighbours as order and gaps allow, which is an
isotonic regression (pool adjacent violators).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

_SWEEPS = 8
_GAP = 18.0
_BEND = 10.0  # breadth that an arrow takes where it passes a layer


@dataclass(frozen=True, slots=True)
class Placed:
    """A layout.

    Attributes:
        across: centre of each box, across the direction of the arrows, from 0.
        bends: for each link the (layer, across) of the layers that it passes.
        breadth: of the whole.
    """

    across: tuple[float, ...]
    bends: tuple[tuple[tuple[int, float], ...], ...]
    breadth: float


def place(layers: Sequence[int], breadths: Sequence[float], links: Sequence[tuple[int, int]]) -> Placed:
    """Order and place boxes.

    Args:
        layers: of each box.
        breadths: of each box, across the arrows, in pixels.
        links: (parent, child) as places in `layers`; a child's layer is higher.
    """
    rows: list[list[int]] = [[] for _ in range(max(layers, default=-1) + 1)]
    sizes = list(breadths)
    level = list(layers)
    for box, layer in enumerate(layers):
        rows[layer].append(box)
    bends: list[list[int]] = []
    pairs: list[tuple[int, int]] = []
    for parent, child in links:
        chain = [parent]
        for layer in range(layers[parent] + 1, layers[child]):
            sizes.append(_BEND)
            level.append(layer)
            rows[layer].append(len(sizes) - 1)
            chain.append(len(sizes) - 1)
        chain.append(child)
        bends.append(chain[1:-1])
        pairs += itertools.pairwise(chain)
    up: list[list[int]] = [[] for _ in sizes]
    down: list[list[int]] = [[] for _ in sizes]
    for parent, child in pairs:
        up[child].append(parent)
        down[parent].append(child)
    _order(rows, up, down)
    across = _spread(rows, sizes, up, down)
    low = min((across[each] - sizes[each] / 2 for each in range(len(sizes))), default=0.0)
    high = max((across[each] + sizes[each] / 2 for each in range(len(sizes))), default=0.0)
    across = [value - low for value in across]
    found = tuple(tuple((level[each], across[each]) for each in chain) for chain in bends)
    return Placed(tuple(across[: len(layers)]), found, high - low)


def _order(rows: list[list[int]], up: list[list[int]], down: list[list[int]]) -> None:
    """Sort each layer by the mean place of its neighbours, there and back, and keep the order with the fewest crossings."""
    best, fewest = [list(row) for row in rows], _crossings(rows, down)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        forward = sweep % 2 == 0
        place: dict[int, float] = {each: float(i) for row in rows for i, each in enumerate(row)}
        for row in rows if forward else reversed(rows):
            near = up if forward else down

            def key(each: int, near: list[list[int]] = near, place: dict[int, float] = place) -> float:
                found = near[each]
                return sum(place[other] for other in found) / len(found) if found else place[each]

            row.sort(key=key)
            place.update({each: float(i) for i, each in enumerate(row)})
        count = _crossings(rows, down)
        if count < fewest:
            best, fewest = [list(row) for row in rows], count
    for row, kept in zip(rows, best, strict=True):
        row[:] = kept


def _crossings(rows: list[list[int]], down: list[list[int]]) -> int:
    total = 0
    for upper, lower in itertools.pairwise(rows):
        place = {each: i for i, each in enumerate(lower)}
        ends = [place[child] for each in upper for child in sorted(down[each], key=place.__getitem__)]
        if len(ends) > 2_000:
            return 1  # too many to count; the sweeps go on
        total += sum(a > b for i, a in enumerate(ends) for b in ends[i + 1 :])
    return total


def _spread(rows: list[list[int]], sizes: list[float], up: list[list[int]], down: list[list[int]]) -> list[float]:
    across = [0.0] * len(sizes)
    for row in rows:
        end = 0.0
        for each in row:
            across[each] = end + sizes[each] / 2
            end += sizes[each] + _GAP
        middle = (end - _GAP) / 2
        for each in row:
            across[each] -= middle
    for sweep in range(2 * _SWEEPS):
        near = up if sweep % 2 == 0 else down
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = []
            for each in row:
                found = near[each]
                wanted.append(sum(across[other] for other in found) / len(found) if found else across[each])
            for each, value in zip(row, _apart(wanted, [sizes[each] for each in row]), strict=True):
                across[each] = value
    return across


def _apart(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Centres as near to the wanted ones as the sizes allow, in the same order (least squares)."""
    offsets = [0.0]
    for one, two in itertools.pairwise(sizes):
        offsets.append(offsets[-1] + (one + two) / 2 + _GAP)
    pools: list[tuple[float, int]] = []  # (mean, number of members)
    for value, offset in zip(wanted, offsets, strict=True):
        mean, count = value - offset, 1
        while pools and pools[-1][0] > mean:
            other, n = pools.pop()
            mean, count = (mean * count + other * n) / (count + n), count + n
        pools.append((mean, count))
    flat = [mean for mean, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(flat, offsets, strict=True)]
