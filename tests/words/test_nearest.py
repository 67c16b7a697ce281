"""What a misspelt or abbreviated name may mean."""

from __future__ import annotations

import pytest

from minipipe.nearest import nearest


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("stage_dat", ["stage_data", "train"], "stage_data"),
        ("learning_rate", ["n", "lr", "seed"], "lr"),
        ("bs", ["batch_size", "lr"], "batch_size"),
        ("batchSize", ["bs", "n"], "bs"),
        ("evaluation", ["eval", "n"], "eval"),
        ("n", ["number"], None),
        ("xyzzy", ["n", "lr"], None),
        ("lr", [], None),
    ],
)
def test_the_nearest_name_is_the_one_that_is_meant(name: str, known: list[str], meant: str | None) -> None:
    assert nearest(name, known) == meant
