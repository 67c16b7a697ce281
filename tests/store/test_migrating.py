"""A new store costs what it needs: sqlite-utils would bring numpy and pandas along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, threading
from pathlib import Path
from minipipe.store import migrating
from minipipe.store.home import Store

store = Store.open(Path(sys.argv[1]), durability="fast")
assert not {"numpy", "pandas", "sqlite_utils"} & sys.modules.keys()

with migrating.sqlite_utils():
    other = threading.Thread(target=__import__, args=("numpy",))
    other.start()
    other.join()
assert "numpy" in sys.modules  # only the thread that migrates is told that there is none

import numpy
row = {"a": numpy.int64(3)}
assert store.db["own"].insert(row).schema == 'CREATE TABLE "own" (\\n   "a" INTEGER\\n)', store.db["own"].schema
"""


def test_making_a_store_imports_neither_numpy_nor_pandas_and_its_db_knows_both_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    done = subprocess.run(
        (sys.executable, "-c", SCRIPT, str(tmp_path / "store")), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
