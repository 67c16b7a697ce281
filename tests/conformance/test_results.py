"""What the real package computes without a server, minipipe computes too: both answer the same questions, known and generated ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance import oracle

pytestmark = pytest.mark.conformance
Both = Callable[..., tuple[Any, Any]]
GENEROUS = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Side:
    """A process that answers."""

    def __init__(self, python: str, which: str, home: Path) -> None:
        home.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MINIPIPE", "CLEARML", "PYTHON"))}
        self.errors = open(home / "errors", "w")  # noqa: SIM115
        self.process = subprocess.Popen(
            (python, str(oracle.HERE / "answers.py"), which),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=home,
            env={
                **kept,
                "HOME": str(home),
                "CLEARML_CACHE_DIR": str(home),
                "CLEARML_OFFLINE_MODE": "1",
                "MINIPIPE_DURABILITY": "fast",
                "MINIPIPE_PROGRESS": "off",
                "PYTHONHASHSEED": "0",  # a set of texts is printed in the same order by both
            },
        )

    def ask(self, function: str, *arguments: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([function, arguments]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"no answer to {function} {arguments}: {Path(self.errors.name).read_text()[-2000:]}"
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """`both(function, *arguments)`: the answers of the real package and of minipipe."""
    folder = tmp_path_factory.mktemp("sides")
    real, ours = Side(str(oracle.python()), "real", folder / "real"), Side(sys.executable, "ours", folder / "ours")
    yield lambda function, *arguments: (real.ask(function, *arguments), ours.ask(function, *arguments))
    real.close()
    ours.close()


# -- known questions ----------------------------------------------------------------------------------------------------

SAME: dict[str, list[tuple[Any, ...]]] = {
    "connect": [
        ("{'i': 1, 'f': 2.5, 'b': True, 's': 'x', 'n': None, 'e': ''}",),
        ("{'l': [1, 2], 't': (1, 2), 'd': {}, 'nest': {'c': 1, 'deep': {'z': [1, 'a']}}}",),
        ("{'mixed': [1, 'a', None], 'lf': [1.5, 2.0], 'el': [], 'et': ()}",),
        ("{'en': Color.red, 'en2': Color.green}",),
        ("{'big': 10**30, 'nan': nan, 'inf': inf, 'neg': -0.0}",),
        ("{'t1': ('a',), 'dl': [{'a': 1}], 'ld': {'x': [1]}}",),
        ("{'k with/slash': 3, 'ü': 'ö'}",),
        ("{'left out': b'abc', 'ok': 1, 'path': Path('a/b'), 'set': {1}}",),
        ("{'d': {1: 2}}",),
        ("{'s': '[1, 2]', 't': '1', 'u': 'true'}",),
    ],
    "connect_object": [("{'a': 1, 'b': 'x', '_c': 3, 'd': [1], 'e': {'f': 1}, 'g': None, 'h': Color.red, 'i': (1, 2)}",)],
    "nested": [
        ("{'i': 1, 'nest': {'c': 1, 'deep': {'z': [1]}}}",),
        ("{'z': {'a': 1, 'a/b': 2}}",),
        ("{'d': {}}",),
    ],
    "override": [
        ({"a": "5"}, "{'a': 1}"),
        ({"a": "x"}, "{'a': 1}"),
        ({"a": "2"}, "{'a': 1.5}"),
        ({"a": ""}, "{'a': 1}"),
        ({"a": ""}, "{'a': 'x'}"),
        ({"a": "false"}, "{'a': True}"),
        ({"a": "0"}, "{'a': True}"),
        ({"a": "2"}, "{'a': False}"),
        ({"a": "[3, 4]"}, "{'a': [1]}"),
        ({"a": "[3, 4]"}, "{'a': (1,)}"),
        ({"a": "(3, 4)"}, "{'a': (1,)}"),
        ({"a": "[a, b]"}, "{'a': ['x']}"),
        ({"a": "['a', 'b']"}, "{'a': ['x']}"),
        ({"a": "3"}, "{'a': None}"),
        ({"a": "None"}, "{'a': None}"),
        ({"a": "null"}, "{'a': None}"),
        ({"a": "x", "new": "y"}, "{'a': 'y'}"),
        ({"a/b": "7"}, "{'a': {'b': 1, 'c': 2}}"),
        ({"a": "green"}, "{'a': Color.red}"),
        ({"a": "1_000"}, "{'a': 1}"),
        ({"a": " 5 "}, "{'a': 1}"),
        ({"a": "True"}, "{'a': 1}"),
        ({"a": "nan"}, "{'a': 1.0}"),
        ({"a": "5"}, "{'a': 'x'}"),
    ],
    "set_and_get": [
        (text,) for text in ("1", "'x'", "None", "[1, 2]", "{'a': 1}", "True", "1.5", "(1,)", "''", "{'a': {'b': 2}}")
    ],
    "update_twice": [("1", "'2'"), ("1", "'x'"), ("True", "'false'"), ("[1]", "'[2]'"), ("(1,)", "'[2]'"), ("None", "3")],
    "command_line": [
        (
            [
                ["--a", {"type": "int", "default": 3}],
                ["--flag", {"action": "store_true"}],
                ["--l", {"nargs": "+", "type": "int"}],
                ["--s", {}],
                ["--ch", {"choices": ["x", "y"], "default": "x"}],
                ["--c", {"action": "count", "default": 0}],
            ],
            ["--a", "5", "--l", "1", "2", "--c", "--c"],
        )
    ],
    "artifact": [
        ("[1, 'a']", {}),
        ("{'a': 1}", {}),
        ("{1: 2}", {}),
        ("'text'", {}),
        ("None", {}),
        ("''", {}),
        ("np.arange(4).reshape(2, 2)", {}),
        ("np.arange(4).reshape(2, 2)", {"extension_name": ".csv.gz"}),
        ("pd.DataFrame({'a': [1, 2], 'b': ['x', 'y']})", {}),
        ("pd.DataFrame({'a': [1.5]})", {"extension_name": ".pickle"}),
        ("pd.DataFrame({'a': [1]}, index=['r'])", {}),
        ("pd.Series([1, 2])", {}),
        ("{'a': 1, 'b': [1, {'c': None}]}", {"extension_name": ".yaml"}),
        ("{'a': (1, 2)}", {}),
        ("{'a': {1, 2}}", {}),
        ("{'a': nan}", {}),
        ("3", {}),
        ("True", {}),
        ("(1, 2)", {}),
        ("{'b': 1, 'a': 2}", {"sort_keys": False}),
        ("{'b': 1, 'a': 2}", {}),
        ("b'abc'", {}),
        ("[1]", {"extension_name": ".pkl"}),
        ("{'a': 1}", {"extension_name": ".pkl"}),
        ("'x' * 3000", {}),
        ("np.float64(2.5)", {}),
        ("'ü\\nline'", {}),
        ("[1]", {"auto_pickle": False}),
    ],
    "artifact_hash": [("'text'",), ("{'a': 1}",), ("{'b': [1, 2], 'a': None}",)],
    "reference": [
        (text,)
        for text in (
            "plain",
            "$one",
            "x ${one.id} ${two_b.id} y",
            "${pipeline.lr}",
            "${pipeline.nope}",
            "${pipeline}",
            "${nope.id}",
            "${one}",
            "${}",
            "${one.id}",
            "${one.artifacts}",
            "${one.artifacts.out.url}",
            "${two_b.artifacts.a.hash}",
            "${one.parameters}",
            "${one.parameters.Args/x.y}",
            "${one.foo}",
            "${one.out}",
            "${one.models.output.-1.url}",
            "${one.models.input.0.name}",
            "${one.models.output.x.url}",
            "${one.models.output}",
            "${one.models.other.0.url}",
            "${one.models.output.0.nothing}",
        )
    ],
}


@pytest.mark.parametrize(("function", "arguments"), [(name, one) for name, cases in SAME.items() for one in cases], ids=str)
def test_both_give_the_same_answer(both: Both, function: str, arguments: tuple[Any, ...]) -> None:
    real, ours = both(function, *arguments)

    assert ours == real


# Question, the real package's answer, minipipe's, why. Both are checked: an entry that is not true any more has to go.
DIFFERENT: list[tuple[str, tuple[Any, ...], Any, Any, str]] = [
    (
        "connect",
        ("{'a': {'b': {}}}",),
        [["b", "{}", "{}"]],
        [["a/b", "{}", "{}"]],
        "an empty dict inside a dict loses its path",
    ),
    ("connect", ("{'x': np.float64(1.5)}",), [["x", "1.5", "'1.5'"]], [["x", "1.5", "1.5"]], "D13: the typed value is kept"),
    ("override", ({"a": "5.5"}, "{'a': 1}"), "{'a': 1}", "{'a': 5.5}", "a number that was set is not dropped in silence"),
    ("override", ({"a": "1e3"}, "{'a': 1}"), "{'a': 1}", "{'a': 1000.0}", "a number that was set is not dropped in silence"),
    ("override", ({"a": "yes"}, "{'a': False}"), "{'a': False}", "{'a': True}", "who says yes does not mean no"),
    ("override", ({"a": "x"}, "{'a': True}"), "{'a': False}", "{'a': True}", "nonsense changes nothing, with a warning"),
    ("override", ({"a": '{"x": 2}'}, "{'a': {}}"), "{'a': {}}", "{'a': {'x': 2}}", "what was set holds, for a dict too"),
    ("update_twice", ("1", "0.5"), [["x", "0.5", "'0.5'"]], [["x", "0.5", "0.5"]], "D14: a value sets its own tag"),
    ("update_twice", ("'x'", "2"), [["x", "2", "'2'"]], [["x", "2", "2"]], "D14: a value sets its own tag"),
    ("update_twice", ("1", "None"), [["x", "", "''"]], [["x", "", "None"]], "D13: None is not the empty text"),
    (
        "command_line",
        ([["--ap", {"action": "append"}]], ["--ap", "1"]),
        [[["ap", "['1']"]], [["ap", "['1']"]]],
        [[["ap", "['1']"]], [["ap", '["1"]']]],
        "lists are JSON everywhere",
    ),
    ("reference", ("${one.artifacts.out}",), "waits for ['one']", "ValueError", "a missing part is said before anything runs"),
    ("lazy", ("'a'", "x + p", "'b'"), "raises AttributeError", "'ba'", "D11"),
    ("lazy", ("3.14159", "f'{p:.2f}'", "0"), "raises TypeError", "'3.14'", "D11"),
    ("lazy", ("2", "x // p", "7"), "raises TypeError", "3", "D11"),
    ("lazy", ("3", "p[0]", "0"), "raises AttributeError", "raises TypeError", "errors are those of the value"),
    ("lazy", ("3", "p()", "0"), "raises AttributeError", "raises TypeError", "errors are those of the value"),
]


@pytest.mark.parametrize(("function", "arguments", "real", "ours", "why"), DIFFERENT, ids=str)
def test_known_differences_are_as_they_are_described(
    both: Both, function: str, arguments: tuple[Any, ...], real: Any, ours: Any, why: str
) -> None:
    assert both(function, *arguments) == (real, ours)
    assert why


def test_an_array_of_objects_comes_back_as_it_was(both: Both) -> None:
    real, ours = both("artifact", "np.array([{}], dtype=object)", {})

    assert real[:2] == ["numpy", ".npz"] and real[2].startswith("PosixPath"), "D28: it cannot be read there"
    assert ours == ["pickle", ".pkl", "object [{}]"]


# -- generated questions ------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
NAMES = st.text("abcxyz_019 .-", min_size=1, max_size=6).filter(str.strip)
SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False) | WORDS
FLAT = SCALARS | st.lists(SCALARS, max_size=4) | st.lists(SCALARS, max_size=4).map(tuple)
TREES = st.dictionaries(
    NAMES, st.recursive(FLAT, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=6)
)


@given(tree=TREES)
@GENEROUS
def test_any_dict_is_flattened_written_and_read_alike(both: Both, tree: dict[str, Any]) -> None:
    real, ours = both("connect", repr(tree))

    assert ours == real


@given(value=FLAT)
@GENEROUS
def test_any_value_is_set_and_read_alike(both: Both, value: Any) -> None:
    real, ours = both("set_and_get", repr(value))

    assert ours == real


def dumped(value: Any) -> str:
    """As JSON, but for escapes: the real package's reader leaves halves of surrogate pairs apart."""
    return json.dumps(value, ensure_ascii=False)


NUMBERS = st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9)


@given(
    pair=st.tuples(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9).map(str))
    | st.tuples(st.floats(-1e9, 1e9), NUMBERS.map(str))
    | st.tuples(st.booleans(), st.sampled_from(["true", "false", "True", "FALSE", "1", "0", "0.0", "no"]))
    | st.tuples(WORDS.filter(bool), WORDS)
    | st.tuples(st.lists(NUMBERS, min_size=1, max_size=3), st.lists(NUMBERS | WORDS, max_size=3).map(dumped))
    | st.tuples(st.lists(NUMBERS, min_size=1, max_size=3).map(tuple), st.lists(NUMBERS, max_size=3).map(dumped))
)
@GENEROUS
def test_any_text_that_fits_overrides_alike(both: Both, pair: tuple[Any, str]) -> None:
    value, text = pair

    real, ours = both("override", {"a": text}, repr({"a": value}))

    assert ours == real


JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=8)


@given(value=(JSON | FLAT).filter(lambda value: not isinstance(value, str) or not os.path.exists(os.path.expanduser(value))))
@GENEROUS
def test_any_value_is_stored_and_read_back_alike(both: Both, value: Any) -> None:
    real, ours = both("artifact", repr(value), {})

    assert ours == real


@given(value=st.dictionaries(WORDS, JSON, max_size=4) | WORDS.map("text {}".format))  # not the name of a file
@GENEROUS
def test_equal_content_has_the_digest_that_clearml_gives_it(both: Both, value: Any) -> None:
    real, ours = both("artifact_hash", repr(value))

    assert ours == real


OPTIONS = st.one_of(
    st.tuples(st.just({"type": "int", "default": 1}), st.integers(-99, 99).map(lambda n: [str(n)])),
    st.tuples(st.just({"type": "float"}), st.floats(-9, 9).map(lambda x: [f"{x!r}"])),
    st.tuples(st.just({"default": "x"}), WORDS.filter(lambda text: text and not text.startswith("-")).map(lambda text: [text])),
    st.tuples(st.just({"nargs": "*", "type": "int"}), st.lists(st.integers(0, 9).map(str), max_size=3)),
    st.tuples(st.just({"action": "store_true"}), st.just([])),
    st.tuples(st.just({"action": "store_false"}), st.just([])),
    st.tuples(st.just({"choices": ["a", "b"]}), st.sampled_from([["a"], ["b"]])),
)


@given(options=st.lists(st.tuples(OPTIONS, st.booleans()), min_size=1, max_size=5))
@GENEROUS
def test_any_command_line_is_recorded_alike(both: Both, options: list[tuple[tuple[dict[str, Any], list[str]], bool]]) -> None:
    arguments = [[f"--o{number}", option] for number, ((option, _), _) in enumerate(options)]
    given_ = [
        word
        for number, ((_, words), used) in enumerate(options)
        if used
        for word in ([f"--o{number}={words[0]}"] if len(words) == 1 else [f"--o{number}", *words])
    ]

    real, ours = both("command_line", arguments, given_)

    assert ours == real


OPERATIONS = (
    """
p + x|p - x|p * x|p / x|p // x|p % x|p ** x|x * p|x - p|p == x|p != x|p < x|p <= x|p > x|p >= x|x == p|x < p|p & x|p | x|p ^ x|-p|+p|~p
abs(p)|len(p)|list(p)|tuple(p)|dict(p)|set(p)|sorted(p)|reversed(p) and 1|int(p)|float(p)|complex(p)|str(p)|repr(p)|bool(p)|not p
hash(p) == hash(p)|round(p)|math.floor(p)|math.trunc(p)|range(p)|[10, 20, 30][p]|p[0]|p[-1]|p[1:]|p["a"]|p.upper()|p.items() and 1
p.append(1)|x in p|p and x|p or x|f"{p}"|"{}".format(p)|"%s" % p|isinstance(p, int)|isinstance(p, str)|p.__class__.__name__
p if p else x|[*p]|{**p}|max(p)|sum(p)|any(p)|" ".join(p)|p.nope|json.dumps(p)|print(p)|enumerate(p) and 1|zip(p, p) and 1
""".strip()
    .replace("\n", "|")
    .split("|")
)
HELD = st.sampled_from(
    ["0", "1", "-3", "2.5", "True", "'abc'", "''", "'a,b'", "[1, 2]", "[]", "(3, 1)", "{'a': 1}", "{1, 2}", "None", "b'ab'"]
)


@given(value=HELD, operation=st.sampled_from(OPERATIONS), other=HELD)
@settings(GENEROUS, max_examples=400)
def test_what_an_operation_on_a_lazy_result_gives_there_it_gives_here(both: Both, value: str, operation: str, other: str) -> None:
    real, ours = both("lazy", value, operation, other)

    assert ours == real or real.startswith("raises"), "D11: what fails there may work here, or fail as the value itself does"


PARTS = st.sampled_from(
    [
        "one",
        "two_b",
        "pipeline",
        "nope",
        "id",
        "artifacts",
        "parameters",
        "out",
        "url",
        "hash",
        "lr",
        "x/y",
        "models",
        "output",
        "0",
        "",
    ]
)


@given(parts=st.lists(PARTS, min_size=1, max_size=5))
@GENEROUS
def test_what_is_no_reference_there_is_none_here_and_parents_are_the_same(both: Both, parts: list[str]) -> None:
    real, ours = both("reference", "${" + ".".join(parts) + "}")

    # minipipe also refuses what could only fail at launch: an artifact without a part that it has, an id with parts.
    assert ours in (real, "ValueError")
