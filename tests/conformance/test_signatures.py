"""``signatures.json`` is what the real package says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import oracle, surface

pytestmark = pytest.mark.conformance


def test_the_committed_signatures_are_those_of_the_real_package(tmp_path: Path) -> None:
    found = oracle.ask("read_real.py", surface.asked(), tmp_path)

    assert found["version"] == oracle.VERSION
    assert surface.write(found) == surface.SIGNATURES.read_text(), "to renew: python -m tests.conformance.table --signatures"
