"""The key of a function covers what the function does, and nothing else."""

from __future__ import annotations

import functools
import importlib
import json
import linecache
import os
import subprocess
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import minipipe
from minipipe import codekey
from minipipe.codekey import CodeKey, code_key

ROOT = Path(next(iter(minipipe.__path__))).parent
FLOW = """
import functools
import helpers
from helpers import Base, twice

RATE = 3
TABLE = {"a": [1, 2]}

class Model(Base):
    depth = 2
    def fit(self, x):
        return x * self.depth

@twice(2)
def step(x, y=1):
    return helpers.scale(x) + RATE + len(TABLE) + Model().fit(y)

def make(n):
    def inner(x):
        return x + n
    return inner

def lazy(x):
    import numpy as np
    from deeper import inner
    return inner(np.abs(x))

def rec(n):
    return 0 if n < 1 else other(n - 1)

def other(n):
    return rec(n - 1)
"""
HELPERS = """
import functools
from deeper import inner

def scale(x, factor=2):
    return inner(x) * factor

def unused(x):
    return x

def twice(times):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args):
            return [function(*args) for _ in range(times)]
        return wrapper
    return decorate

class Root:
    def save(self):
        return 1

class Base(Root):
    def load(self):
        return 2
"""
DEEPER = """
SHIFT = 1

def inner(x):
    return x + SHIFT
"""


class Project:
    """A folder with modules that are imported afresh for each key, as by a new process."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = patch
        folder.mkdir()
        patch.syspath_prepend(str(folder))
        patch.setattr(sys, "dont_write_bytecode", True)
        self.write(flow=FLOW, helpers=HELPERS, deeper=DEEPER)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)

    def change(self, name: str, old: str, new: str) -> None:
        path = self.folder / f"{name}.py"
        text = path.read_text()
        assert old in text, "the test changes nothing"
        path.write_text(text.replace(old, new))

    def load(self, name: str = "flow") -> Any:
        for path in self.folder.glob("*.py"):
            self.patch.delitem(sys.modules, path.stem, raising=False)
            linecache.cache.pop(str(path), None)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    def key(self, name: str = "step") -> CodeKey:
        return code_key(getattr(self.load(), name))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path / "project", monkeypatch)


def part(key: CodeKey, name: str) -> codekey.CodePart:
    return {each.name: each for each in key.parts}[name]


# -- what is not in the key


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("def step(x, y=1):\n", "def step(x, y=1):\n    # a comment\n", id="comment"),
        pytest.param("def step(x, y=1):\n", 'def step(x, y=1):\n    """What it does."""\n', id="docstring"),
        pytest.param("class Model(Base):\n", 'class Model(Base):\n    "What it is."\n', id="docstring of a class"),
        pytest.param("return helpers.scale(x) + RATE", "return (\n        helpers.scale( x )\n      + RATE)", id="format"),
        pytest.param("def step(x, y=1):", "def step(x: 'int', y: \"float\" = 1) -> list:", id="annotations"),
        pytest.param("import functools\n", "import functools\nimport json, shutil\n", id="unrelated import"),
        pytest.param("RATE = 3\n", "\n\n\nUNUSED = 8\nRATE = 3\n", id="other lines"),
        pytest.param("RATE = 3\n", "RATE = 2 + 1\n", id="constant of equal value"),
    ],
)
def test_the_key_stays_when_nothing_that_counts_changes(project: Project, old: str, new: str) -> None:
    before = project.key()
    project.change("flow", old, new)
    assert project.key().digest == before.digest


def test_the_key_stays_when_a_function_that_is_not_used_changes(project: Project) -> None:
    before = project.key()
    project.change("helpers", "def unused(x):\n    return x", "def unused(x):\n    return -x")
    assert project.key().digest == before.digest


def test_decorators_of_minipipe_are_not_in_the_key(project: Project) -> None:
    before = project.key("other")
    fake = "class P:\n    component = staticmethod(lambda **options: lambda f: f)\n"
    project.change("flow", "import functools\n", f"import functools\n{fake}")
    for line in ("@P.component(cache=True)\n", "@P.component(cache=False, name='x')\n"):
        project.change("flow", "def other(n)", f"{line}def other(n)")
    assert project.key("other").digest == before.digest


def test_a_component_alias_is_not_in_the_key(project: Project) -> None:
    flow = "def task(**options): return lambda f: f\nif 0:\n    from minipipe import component as task\n"
    project.write(flow=flow + "@task(queue='a')\ndef step(): return 1\n")
    before = project.key()
    project.change("flow", "queue='a'", "queue='b'")
    assert project.key().digest == before.digest


SCRIPT = """
import json, sys
sys.path[:0] = [{root!r}, {folder!r}]
{load}
from minipipe.codekey import code_key
if __name__ == "__main__":
    keys = [code_key(each) for each in (step, make(3), lazy, rec)]
    print(json.dumps([[key.digest, key.unstable] for key in keys]))
"""


def keys_of_process(folder: Path, seed: int, load: str) -> list[Any]:
    script = folder / "script.py"
    script.write_text(SCRIPT.format(root=str(ROOT), folder=str(folder), load=load))
    done = subprocess.run(
        [sys.executable, "-B", str(script)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: list[Any] = json.loads(done.stdout)
    return result


def test_hash_seed_folder_and_name_of_the_module_do_not_count(project: Project, tmp_path: Path) -> None:
    homes = "import pathlib, os\nHOME = pathlib.Path(__file__).parent\nHERE = os.path.dirname(__file__)"
    more = FLOW.replace("RATE = 3", f"RATE = 3\n{homes}")
    more = more.replace("+ RATE", "+ RATE + len(str(HOME) + HERE) + len({'a', 'b', 'c'}) + len(NAMES)")
    more += "\nNAMES = {'x', 'y', 'z', step, rec}\n"
    project.write(flow=more)
    moved = tmp_path / "elsewhere" / "deeply"
    moved.mkdir(parents=True)
    for path in project.folder.glob("*.py"):
        (moved / path.name).write_text(path.read_text())
    first = keys_of_process(project.folder, 1, "from flow import step, make, lazy, rec")
    assert keys_of_process(moved, 2, "from flow import step, make, lazy, rec") == first
    assert keys_of_process(moved, 3, more) == first
    assert all(unstable == [] for _, unstable in first)


def test_whether_a_module_was_imported_does_not_count(project: Project) -> None:
    project.change("flow", "import helpers\n", "")
    project.change("flow", "from helpers import Base, twice\n", "Base = object\ntwice = lambda n: lambda f: f\n")
    module = project.load()
    before = code_key(module.lazy)
    assert "deeper" not in sys.modules
    importlib.import_module("deeper")
    assert project.key("lazy").digest == before.digest
    assert [each.name for each in before.parts] == ["lazy", "deeper"]


# -- what is in the key


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        pytest.param("flow", "+ RATE", "- RATE", "step", id="the function"),
        pytest.param("helpers", "inner(x) * factor", "inner(x) / factor", "helpers.scale", id="helper"),
        pytest.param("deeper", "x + SHIFT", "x - SHIFT", "deeper.inner", id="helper of a helper in another module"),
        pytest.param("flow", "RATE = 3", "RATE = 4", "RATE", id="constant"),
        pytest.param("flow", "RATE = 3", "RATE = 3.0", "RATE", id="type of a constant"),
        pytest.param("flow", "[1, 2]", "[1, 3]", "TABLE", id="mutable constant"),
        pytest.param("deeper", "SHIFT = 1", "SHIFT = 2", "deeper.SHIFT", id="constant of another module"),
        pytest.param("flow", "y=1", "y=2", "step", id="default"),
        pytest.param("helpers", "factor=2", "factor=3", "helpers.scale", id="default of a helper"),
        pytest.param("flow", "@twice(2)", "@twice(3)", "step", id="argument of a decorator"),
        pytest.param("helpers", "[function(*args)", "[-function(*args)", "helpers.twice", id="user decorator"),
        pytest.param("flow", "return x * self.depth", "return x + self.depth", "Model", id="method"),
        pytest.param("flow", "depth = 2", "depth = 3", "Model", id="class attribute"),
        pytest.param("flow", "depth = 2", "depth: int = 2", "Model", id="annotation that makes a field"),
        pytest.param("helpers", "return 2", "return 3", "helpers.Base", id="base class"),
        pytest.param("helpers", "return 1", "return 3", "helpers.Root", id="base of a base class"),
    ],
)
def test_the_key_changes_with_the_code_and_names_the_part(project: Project, file: str, old: str, new: str, changed: str) -> None:
    before = project.key()
    project.change(file, old, new)
    after = project.key()
    assert after.digest != before.digest
    assert part(after, changed).digest != part(before, changed).digest


def test_closure_values_count(project: Project) -> None:
    make: Callable[[int], Any] = project.load().make
    assert code_key(make(1)).digest == code_key(make(1)).digest
    assert code_key(make(1)).digest != code_key(make(2)).digest
    assert code_key(make(1)).parts[1].name == "make.<locals>.inner: n"


def test_recursive_functions_have_a_key_that_depends_on_each_other(project: Project) -> None:
    before = project.key("rec")
    assert [each.name for each in before.parts] == ["rec", "other"]
    project.change("flow", "return rec(n - 1)", "return rec(n - 2)")
    assert project.key("rec").digest != before.digest


def test_who_uses_what_counts_and_not_only_the_set(project: Project) -> None:
    flow = "import left, right\ndef one(): return 1\ndef two(): return 2\n"
    flow += "def step(): return one, two, left.f(), right.g()\n"
    project.write(flow=flow, left="def f(): return t()\n", right="def g(): return t()\n")
    module = project.load()
    module.left.t, module.right.t = module.one, module.two
    before = code_key(module.step)
    module.left.t, module.right.t = module.two, module.one
    after = code_key(module.step)
    assert [each.digest for each in after.parts] == [each.digest for each in before.parts]
    assert after.digest != before.digest


def test_the_order_of_a_set_of_functions_does_not_count(project: Project) -> None:
    functions = "".join(f"def f{n}(): return {n}\n" for n in range(9))
    project.write(flow=f"{functions}ALL = {{f0, f1, f2, f3, f4, f5, f6, f7, f8}}\ndef step(): return len(ALL)\n")
    module = project.load()
    orders, digests = set(), set()
    for _ in range(20):
        for number in range(9):  # equal functions at other addresses, so with other hashes
            old = getattr(module, f"f{number}")
            new = types.FunctionType(old.__code__, old.__globals__)
            setattr(module, f"f{number}", new)
        module.ALL = {getattr(module, f"f{number}") for number in range(9)}
        orders.add(tuple(each.__name__ for each in module.ALL))
        digests.add(code_key(module.step).digest)
    assert len(orders) > 1
    assert len(digests) == 1


@pytest.mark.parametrize("name", ["nested", "comprehension", "klass", "fn", "default"])
def test_names_in_nested_code_are_followed(project: Project, name: str) -> None:
    text = """
    import helpers, functools
    def nested():
        def deep():
            return helpers.scale(1)
        return deep()
    def comprehension(): return [helpers.scale(x) for x in range(3) if x]
    def klass():
        class Local:
            value = helpers.scale(1)
        return Local
    fn = lambda x: (lambda y: helpers.scale(y))(x)
    def default():
        def deep(x=helpers.scale(1)): return x
        return deep
    """
    project.write(flow=textwrap.dedent(text))
    before = project.key(name)
    project.change("deeper", "x + SHIFT", "x * SHIFT")
    assert project.key(name).digest != before.digest
    assert "helpers.unused" not in {each.name for each in before.parts}


def test_local_names_hide_global_ones(project: Project) -> None:
    project.write(flow="X = 1\nY = 2\ndef step(X):\n    for Y in X: pass\n    return [X for X in Y]\n")
    assert [each.name for each in project.key().parts] == ["step"]


def test_a_module_that_is_passed_on_counts_as_a_whole(project: Project) -> None:
    project.write(flow="import helpers\ndef step(name): return getattr(helpers, name)(1)\n")
    before = project.key()
    assert part(before, "helpers").kind == "module"
    project.change("helpers", "def unused(x):\n    return x", "def unused(x):\n    return -x")
    assert project.key().digest != before.digest


@pytest.mark.parametrize(
    "body",
    [
        "from deeper import inner\n    return inner(1)",
        "import deeper\n    return deeper.inner(1)",
        "import deeper as d\n    return d.inner(1)",
        "import star as s\n    return s.inner(1)",
    ],
)
def test_imports_in_the_body_are_read_and_not_run(project: Project, body: str) -> None:
    project.write(flow=f"def step():\n    {body}\n", star="from deeper import *\nraise SystemExit")
    project.change("deeper", "SHIFT = 1\n", "SHIFT = 1\nprint('ran') or exit()\n")
    before = project.key()
    assert "deeper" not in sys.modules
    assert {"step", "deeper"} == {each.name for each in before.parts} - {"star"}
    assert str(project.folder / "deeper.py") in before.files
    project.change("deeper", "SHIFT = 1\n", "SHIFT = 22\n")
    assert project.key().digest != before.digest


def test_a_module_that_the_body_imports_counts_with_the_modules_that_it_imports(project: Project) -> None:
    project.write(flow="def step():\n    from helpers import scale\n    return scale(1)\n")
    before = project.key()
    assert [each.name for each in before.parts] == ["step", "helpers", "deeper"]
    assert before.imports == ("functools",)
    project.change("deeper", "SHIFT = 1", "# why\nSHIFT = 1")
    assert project.key().digest == before.digest
    project.change("deeper", "SHIFT = 1", "SHIFT = 2")
    assert project.key().digest != before.digest


def test_lazy_results_in_closures_count_by_their_value_and_are_not_touched_otherwise() -> None:
    class LazyEvalWrapper:
        __module__ = "minipipe.sdk.proxy"
        __slots__ = ("value",)

        def __init__(self, value: int) -> None:
            self.value = value

        def __getattribute__(self, name: str) -> Any:
            assert name == "__reduce_ex__", f"touched: {name}"
            return object.__getattribute__(self, name)

        def __reduce_ex__(self, protocol: object) -> Any:
            return int, (object.__getattribute__(self, "value"),)

    def make(value: int) -> Callable[[], Any]:
        lazy = LazyEvalWrapper(value)
        return lambda: lazy

    assert code_key(make(1)).digest == code_key(make(1)).digest != code_key(make(2)).digest


def test_relative_imports_in_the_body_are_followed(project: Project) -> None:
    package = project.folder / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("")
    work = "def step():\n    from .tools import tool\n    from . import tools\n    return tool() + tools.b()\n"
    (package / "work.py").write_text(work)
    (package / "tools.py").write_text("def tool(): return 1\ndef b(): return 2\ndef c(): return 3\n")
    key = code_key(importlib.import_module("pack.work").step)
    for name in ("pack", "pack.work", "pack.tools"):
        sys.modules.pop(name, None)
    assert [each.name for each in key.parts] == ["step", "pack.tools", "pack"]


@pytest.mark.parametrize(
    "body",
    ["import pack.sub.leaf\n    return pack.sub.leaf.f()", "from pack.sub.leaf import f\n    return f()"],
)
def test_packages_on_the_way_to_a_module_are_not_imported(project: Project, body: str) -> None:
    folder = project.folder / "pack" / "sub"  # pack has no __init__.py
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise SystemExit")
    (folder / "leaf.py").write_text("def f(): return 1\n")
    project.write(flow=f"def step():\n    {body}\n")
    key = project.key()
    assert [each.name for each in key.parts] == ["step", "pack.sub.leaf"]
    assert not {"pack", "pack.sub"} & sys.modules.keys()


@pytest.mark.parametrize("decorator", ["contextlib.contextmanager", "functools.singledispatch", "functools.cache"])
def test_functions_inside_wrappers_of_the_standard_library_are_followed(project: Project, decorator: str) -> None:
    text = f"import contextlib, functools\n@{decorator}\ndef inside(x):\n    yield 1\ndef step(): return inside(1)\n"
    project.write(flow=text)
    before = project.key()
    assert {each.name for each in before.parts} == {"step", "inside"}
    project.change("flow", "yield 1", "yield 2")
    assert project.key().digest != before.digest


def test_methods_of_a_dispatcher_are_followed_and_calls_leave_no_trace(project: Project) -> None:
    text = "import functools\n@functools.singledispatch\ndef show(x): return 1\n"
    text += "@show.register\ndef _(x: int): return 2\ndef step(): return show(1)\n"
    project.write(flow=text)
    before = project.key()
    project.change("flow", "return 2", "return 3")
    module = project.load()
    after = code_key(module.step)
    assert after.digest != before.digest
    module.step()
    assert code_key(module.step, helpers=[module.step]).parts == after.parts


def test_functions_in_values_count_by_their_text(project: Project) -> None:
    text = "def a(x): return x\ndef b(x): return a(x) + 1\nTABLE = {'f': b, 'g': [a]}\ndef step(n): return TABLE[n](1)\n"
    project.write(flow=text)
    before = project.key()
    assert {each.name for each in before.parts} == {"step", "TABLE", "a", "b"}
    project.change("flow", "a(x) + 1", "a(x) + 2")
    assert project.key().digest != before.digest


def test_partials_methods_and_caches_count_with_what_they_hold(project: Project) -> None:
    text = """
    import functools
    class Box:
        def __init__(self, n): self.n = n
        def get(self, x): return x + self.n
    def add(x, y): return x + y
    part = functools.partial(add, y=1)
    bound = Box(1).get
    box = Box(1)
    @functools.lru_cache
    def cached(x): return add(x, 1)
    def step(x): return part(x) + bound(x) + box.get(x) + cached(x)
    """
    project.write(flow=textwrap.dedent(text))
    before = project.key()
    seen = {before.digest}
    for old, new in (
        ("add, y=1", "add, y=2"),
        ("bound = Box(1)", "bound = Box(2)"),
        ("box = Box(1)", "box = Box(2)"),
        ("return add(x, 1)", "return add(x, 2)"),
        ("return x + self.n", "return x - self.n"),
        ("return x + y", "return x - y"),
    ):
        project.change("flow", old, new)
        seen.add(project.key().digest)
    assert len(seen) == 7
    assert before.unstable == ()


def test_a_decorated_step_counts_by_the_function_inside(project: Project) -> None:
    module = project.load()

    class Component:
        def __init__(self, function: Any) -> None:
            self.__minipipe_component__ = function
            self.lock = threading.Lock()

    plain = code_key(module.rec)
    module.other = Component(module.other)
    assert code_key(module.rec).digest == plain.digest
    assert code_key(Component(module.rec)).digest == plain.digest  # type: ignore[arg-type]


def test_helpers_count_although_they_are_not_named(project: Project) -> None:
    module = project.load()
    plain, helped = code_key(module.rec), code_key(module.rec, helpers=[module.lazy])
    assert plain.digest != helped.digest
    assert helped.parts[0].name == "rec"
    assert "lazy" in {each.name for each in helped.parts}


# -- what else a key tells


def test_parts_name_file_and_line(project: Project) -> None:
    key = project.key()
    wanted = {
        "step": ("function", "flow", FLOW, "@twice(2)"),
        "Model": ("class", "flow", FLOW, "class Model"),
        "RATE": ("constant", "flow", FLOW, "RATE ="),
        "helpers.scale": ("function", "helpers", HELPERS, "def scale"),
        "deeper.SHIFT": ("constant", "deeper", DEEPER, "SHIFT ="),
    }
    assert key.parts[0].name == "step"
    for name, (kind, file, text, start) in wanted.items():
        line = next(number for number, each in enumerate(text.splitlines(), 1) if each.startswith(start))
        found = part(key, name)
        assert (found.kind, found.file, found.line) == (kind, str(project.folder / f"{file}.py"), line)


def test_source_files_and_imports_are_told(project: Project) -> None:
    key = project.key()
    assert key.source.startswith("@twice(2)\ndef step(x, y=1):\n")
    assert set(key.files) == {str(project.folder / f"{name}.py") for name in ("flow", "helpers", "deeper")}
    assert project.key("lazy").imports == ("numpy",)
    imports = "import os.path, json as j\nfrom decimal import Decimal\n"
    project.write(flow=f"{imports}def step(): return j.dumps(Decimal(os.path.sep))\n")
    assert project.key().imports == ("json", "decimal", "os")


def test_values_of_one_process_are_named_as_unstable_and_loggers_are_not(project: Project) -> None:
    constants = "log = logging.getLogger(__name__)\nlock = threading.Lock()\ngen = (x for x in 'ab')\n"
    project.write(flow=f"import logging, threading\n{constants}def step(): log.info(gen, lock)\n")
    assert project.key().unstable == ("gen",)


INSTALLED = ["json", "os.path", "numpy", "pytest", "minipipe.errors", "clearml", "sys", "zipimport", "_thread"]


@pytest.mark.parametrize("name", INSTALLED)
def test_installed_modules_are_not_project_code(name: str) -> None:
    assert not codekey.is_project_module(name)


def test_modules_of_the_project_and_main_are_project_code(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "made_up", types.ModuleType("made_up"))
    assert all(map(codekey.is_project_module, ("__main__", "flow", "made_up", "is_nowhere")))


# -- functions without certain text


def defined(text: str, **names: Any) -> Any:
    names["__name__"] = "__main__"
    exec(compile(textwrap.dedent(text), "<nowhere>", "exec"), names)
    return names["step"]


def test_a_function_without_source_has_a_key_of_its_bytecode() -> None:
    key = code_key(defined("def step(x): return x + RATE", RATE=1))
    assert key.source == ""
    assert [each.name for each in key.parts] == ["step", "RATE"]
    assert code_key(defined("def step(x):\n\n    return x + RATE # no", RATE=1)).digest == key.digest
    assert code_key(defined("def step(x): return x - RATE", RATE=1)).digest != key.digest
    assert code_key(defined("def step(x): return x + RATE", RATE=2)).digest != key.digest
    assert code_key(defined("def step(x):\n    import json\n    return json", RATE=2)).imports == ("json",)


def test_a_cell_of_a_notebook_is_read_through_linecache(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "RATE = 2\ndef step(x):\n    # why\n    return x + RATE\n"
    monkeypatch.setitem(linecache.cache, "<cell 7>", (len(text), None, text.splitlines(keepends=True), "<cell 7>"))
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, "<cell 7>", "exec", dont_inherit=True), names)
    key = code_key(names["step"])
    assert key.source == text.partition("\n")[2]
    assert key.files == ()


def test_an_edited_file_does_not_lend_its_text_to_the_old_function(project: Project) -> None:
    module = project.load()
    project.change("flow", "return 0 if n < 1", "return 9 if n < 1")
    linecache.cache.pop(str(project.folder / "flow.py"), None)
    assert code_key(module.rec).source == ""
    fresh = project.load()
    key = code_key(fresh.rec)
    project.change("flow", "return 9 if n < 1", "return 8 if n < 1")
    linecache.checkcache()
    assert code_key(fresh.rec, helpers=[fresh.rec]).source == key.source != ""


def test_two_lambdas_in_one_line_are_told_apart(project: Project) -> None:
    project.write(flow="pair = [lambda x: x + 1, lambda x: x - 1]\nalone = [lambda x: x]\n")
    one, two = (code_key(each) for each in project.load().pair)
    assert (one.source, two.source) == ("", "")  # not certain
    assert one.digest != two.digest
    assert code_key(project.load().alone[0]).source == "alone = [lambda x: x]\n"


def test_a_class_without_source_counts_by_its_methods_and_values() -> None:
    text = "class Box:\n    n = {n}\n    def get(self): return self.n {op} 1\ndef step(): return Box().get()"
    keys = {code_key(defined(text.format(n=n, op=op))).digest for n, op in ((1, "+"), (2, "+"), (1, "-"), (1, "+"))}
    assert len(keys) == 3
    text = "class Base:\n    def get(self): return {n}\n"
    text += "def made(base):\n    class Box(base): pass\n    return Box\n"
    text += "Box = made(Base)\ndef step(): return Box"
    assert code_key(defined(text.format(n=1))).digest != code_key(defined(text.format(n=2))).digest


# -- memo


def test_a_repeated_call_returns_the_same_object_in_microseconds(project: Project) -> None:
    project.change("flow", " + len(TABLE)", "")
    function = project.load().step
    key = code_key(function)
    assert all(code_key(function) is key for _ in range(50))

    def seconds() -> float:  # the best of many: the machine may be busy
        start = time.perf_counter()
        for _ in range(200):
            code_key(function)
        return (time.perf_counter() - start) / 200

    assert min(seconds() for _ in range(20)) < 20e-6


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda flow, step: setattr(flow, "RATE", 5), id="constant"),
        pytest.param(lambda flow, step: flow.TABLE["a"].append(3), id="mutated constant"),
        pytest.param(lambda flow, step: setattr(sys.modules["helpers"], "scale", flow.rec), id="function of a module"),
        pytest.param(lambda flow, step: setattr(step, "__code__", (lambda x, y=1: x).__code__), id="code"),
        pytest.param(lambda flow, step: setattr(step, "__defaults__", (7,)), id="defaults"),
        pytest.param(lambda flow, step: setattr(sys.modules["helpers"].scale, "__defaults__", (7,)), id="defaults of a helper"),
        pytest.param(lambda flow, step: setattr(flow.Model, "depth", 5), id="class attribute"),
        pytest.param(lambda flow, step: setattr(flow.Model, "fit", flow.rec), id="method"),
        pytest.param(lambda flow, step: setattr(flow, "len", flow.rec), id="builtin that is hidden"),
    ],
)
def test_a_remembered_key_is_dropped_when_something_changes(project: Project, change: Callable[[Any, Any], None]) -> None:
    flow = project.load()
    step = flow.step.__wrapped__
    before = code_key(step)
    assert code_key(step) is before
    change(flow, step)
    assert code_key(step).digest != before.digest


def test_a_changed_closure_cell_drops_the_remembered_key(project: Project) -> None:
    inner = project.load().make(1)
    before = code_key(inner)
    inner.__closure__[0].cell_contents = 2
    assert code_key(inner).digest != before.digest


def test_remembered_keys_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codekey, "_REMEMBERED", 3)
    monkeypatch.setattr(codekey, "_memos", {})
    for _ in range(10):
        code_key(functools.partial(len))
    assert len(codekey._memos) == 3


def test_a_changed_file_that_the_body_imports_drops_the_remembered_key(project: Project) -> None:
    function = project.load("flow").lazy
    before = code_key(function)
    assert code_key(function) is before
    project.change("deeper", "x + SHIFT", "x - 10 * SHIFT")
    assert code_key(function).digest != before.digest
