"""How wide text is, near enough to draw boxes around it without a font."""

from __future__ import annotations

import unicodedata

_NARROW = frozenset("iljtfrI.,:;'`|!()[]{}/\\ ")
_BROAD = frozenset("mwMWQOGD@%&—…×")


def width(text: str, size: float = 13.0, bold: bool = False) -> float:
    """Pixels that a line of text takes in a usual sans-serif font of `size` pixels."""
    units = 0.0
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            units += 1.05
        elif character in _NARROW:
            units += 0.34
        elif character in _BROAD:
            units += 0.88
        elif character.isupper():
            units += 0.68
        else:
            units += 0.56
    return units * size * (1.06 if bold else 1.0)


def clipped(text: str, room: float, size: float = 13.0, bold: bool = False) -> str:
    """The text, or as much of its two ends as fits the room, with … between them."""
    if width(text, size, bold) <= room:
        return text
    kept = len(text)
    while kept > 2:
        kept -= 1
        head = (kept + 1) // 2
        shorter = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
        if width(shorter, size, bold) <= room:
            return shorter
    return "…"
