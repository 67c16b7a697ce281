"""Randomness from the system: ids, jitter, choices.

Never from `random`: its state belongs to the user, whose seeded script must draw the same numbers with minipipe and without. Nor
from `secrets`, which brings OpenSSL with it: 4 MB that every fork of the step host would have to map again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def fresh_id() -> str:
    """128 random bits as 32 hexadecimal digits: unique and unguessable."""
    return os.urandom(16).hex()


def between(low: float, high: float) -> float:
    """A number between `low` and `high`, for waits that must not come back in step."""
    return low + (high - low) * int.from_bytes(os.urandom(4), "big") / 2**32


def pick(items: Sequence[T]) -> T:
    """One of the items."""
    return items[int.from_bytes(os.urandom(4), "big") % len(items)]
