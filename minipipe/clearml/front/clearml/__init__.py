"""``import clearml`` in a Python that a process with minipipe's alias started: it becomes that alias.

The folder above stands in the ``PYTHONPATH`` of such processes. minipipe is loaded from where this file is, unless it is there
already: no other one gets in between.
"""

import importlib.util
import sys
from pathlib import Path

if "minipipe" not in sys.modules:
    _package = Path(__file__).resolve().parents[3]
    _spec = importlib.util.spec_from_file_location(
        "minipipe", _package / "__init__.py", submodule_search_locations=[str(_package)]
    )
    assert _spec is not None and _spec.loader is not None
    sys.modules["minipipe"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["minipipe"])

_alias = importlib.import_module("minipipe.clearml")
_alias.install()
del sys.modules["clearml"]
importlib.import_module("clearml")
