"""One browser for all tests of this folder. Without Chromium they skip and say so; with CHROMIUM=required they fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import Chromium, Page, find

SHOTS = Path(__file__).resolve().parents[2] / "build" / "screenshots"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    """A running browser."""
    path = find()
    if path is None:
        (pytest.fail if os.environ.get("CHROMIUM") == "required" else pytest.skip)("no Chromium here: apt-get install chromium")
    browser = Chromium(path)
    yield browser
    browser.close()


@pytest.fixture
def tab(chromium: Chromium) -> Iterator[Page]:
    """An empty page, 1280 wide, light."""
    page = chromium.page()
    yield page
    page.close()
