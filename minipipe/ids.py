"""Ids: 128 random bits as 32 hexadecimal digits.

Not from `secrets`: that module brings OpenSSL with it, 4 MB that every fork of the step host would have to copy page tables for.
"""

from __future__ import annotations

import os


def fresh_id() -> str:
    """A new id; unique and unguessable (the system's random source)."""
    return os.urandom(16).hex()
