"""The same shop as for the engine."""

from __future__ import annotations

from tests.engine.conftest import shop

__all__ = ["shop"]
