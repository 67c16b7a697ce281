"""Digests by typed content: equal in every process, other for other content, and a clear refusal for the rest."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import io
import math
import os
import pickle
import re
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import types
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minipipe
from minipipe import hashing
from minipipe.errors import MinipipeError, StepFailed
from minipipe.hashing import Unstable, combine, digest_bytes, value_digest

quickly = settings(max_examples=150, deadline=None)


class Plain:
    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self, left: object, right: object) -> None:
        self.left, self.right = left, right


class Node:
    """Hashes by identity, like most classes."""

    def __init__(self, name: str, parent: Node | None = None) -> None:
        self.name, self.parent = name, parent
        self.children: Any = []


class Point(NamedTuple):
    x: object
    y: object


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    rate: float
    lock: object = None


@dataclasses.dataclass
class Loose:
    rate: float


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class MyList(list):  # type: ignore[type-arg]
    pass


class MyDict(dict):  # type: ignore[type-arg]
    pass


class MySet(set):  # type: ignore[type-arg]
    pass


class MyInt(int):
    pass


def module_function() -> None: ...


@functools.cache
def cached_function() -> None: ...


# -- bytes and parts ----------------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.text(), st.binary()), max_size=4), st.lists(st.one_of(st.text(), st.binary()), max_size=4))
@quickly
def test_combined_parts_are_equal_only_if_each_part_is(left: list[str | bytes], right: list[str | bytes]) -> None:
    assert (combine("t", *left) == combine("t", *right)) == (left == right)


def test_borders_between_parts_count() -> None:
    digests = {combine("t", *parts) for parts in (["ab"], ["a", "b"], ["", "ab"], ["ab", ""], [b"ab"], [])}
    assert len(digests) == 6
    assert combine("t", "a") != combine("ta") != combine("u", "a")


def test_digests_of_bytes_depend_on_the_tag_and_not_on_the_kind_of_buffer() -> None:
    for data in (b"", b"abc", bytes(5000)):
        assert digest_bytes(data, "t") == digest_bytes(memoryview(data), "t")
        assert re.fullmatch("[0-9a-f]{64}", digest_bytes(data))
    assert len({digest_bytes(b"abc"), digest_bytes(b"abc", "a"), digest_bytes(b"bc", "a"), digest_bytes(b"abd")}) == 4


def test_the_format_number_is_part_of_every_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Callable[[], str]] = [lambda: digest_bytes(b"a"), lambda: combine("t", "a"), lambda: value_digest([1])]
    before = [call() for call in calls]
    monkeypatch.setattr(hashing, "FORMAT", hashing.FORMAT + 1)
    assert not set(before) & {call() for call in calls}


def test_digests_are_those_of_the_last_release() -> None:
    # Other digests make every cache of every user miss: then raise FORMAT and write the new ones here.
    sample = {"rate": 0.1, "layers": [8, (None, True)], "names": {"b", "a"}, "config": Config(-0.0), "color": Color.RED}
    assert (hashing.FORMAT, value_digest(sample, code=lambda each: "class")) == (
        1,
        "f05db0d87087512b82c9a77ebf4a1de4c9fead979b3709c7e3738b1d29990d43",
    )
    assert combine("step", "a", b"b") == "c6eabee2dc1bb6888e0eecd51a2aa49b42b8eaa26ac0bbeb47b409e735dc1e17"


# -- values by typed content --------------------------------------------------------------------------------------------

atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.integers(),
    st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1j, -0j]),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["", "a", "\ud800", "\ud800\udc00", "\U00010000", "x" * 254, "x" * 255, "x" * 300]),
    st.binary(max_size=3),
)
keys = st.one_of(st.none(), st.integers(-2, 2), st.text(max_size=2), st.tuples(st.integers(0, 1), st.text(max_size=1)))
values = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.sets(keys, max_size=3),
        st.frozensets(keys, max_size=3),
        st.builds(Point, inner, inner),
        st.builds(Slotted, inner, inner),
        st.builds(Plain, a=inner, b=inner),
        st.lists(inner, max_size=2).map(MyList),
        st.lists(inner, max_size=2).map(collections.deque),
        st.dictionaries(keys, inner, max_size=2).map(MyDict),
        st.sets(keys, max_size=2).map(MySet),
    ),
    max_leaves=8,
)


def typed(value: Any) -> object:
    """A second, slow definition of the same equality, in plain comparable values."""
    kind = type(value).__name__
    if isinstance(value, dict):
        return kind, frozenset((typed(key), typed(item)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return kind, frozenset(map(typed, value))
    if isinstance(value, list | tuple | collections.deque):
        return kind, tuple(map(typed, value))
    if isinstance(value, Slotted):
        return kind, typed(value.left), typed(value.right)
    if isinstance(value, Plain):
        return kind, typed(value.__dict__)
    if isinstance(value, float):
        return kind, "nan" if math.isnan(value) else struct.pack("d", value)
    if isinstance(value, complex):
        return kind, typed(value.real), typed(value.imag)
    return kind, value


@given(values, values)
@quickly
def test_digests_are_equal_exactly_when_the_typed_values_are(left: object, right: object) -> None:
    assert (value_digest(left) == value_digest(right)) == (typed(left) == typed(right))


@given(values)
@quickly
def test_a_copy_and_a_pickled_copy_have_the_digest_of_the_value(value: object) -> None:
    digest = value_digest(value)
    assert value_digest(copy.deepcopy(value)) == digest
    assert value_digest(pickle.loads(pickle.dumps(value))) == digest


@given(values, values)
@quickly
def test_one_change_deep_inside_changes_the_digest(left: object, right: object) -> None:
    assume(typed(left) != typed(right))
    outer = [{"k": Plain(inner=(each, 1))} for each in (left, right)]
    assert value_digest(outer[0]) != value_digest(outer[1])


@given(st.dictionaries(keys, atoms, min_size=2, max_size=6), st.randoms(use_true_random=False))
@quickly
def test_the_order_of_a_dict_does_not_count(value: dict[object, object], random: Any) -> None:
    items = list(value.items())
    random.shuffle(items)
    for kind in (dict, MyDict, types.MappingProxyType, lambda pairs: Plain(**{repr(k): v for k, v in pairs.items()})):
        assert value_digest(kind(dict(items))) == value_digest(kind(value))


def test_the_order_of_an_ordered_dict_and_a_list_counts() -> None:
    pairs = [("a", 1), ("b", 2)]
    assert value_digest(collections.OrderedDict(pairs)) != value_digest(collections.OrderedDict(pairs[::-1]))
    assert value_digest(pairs) != value_digest(pairs[::-1])
    assert value_digest(collections.Counter("ab")) == value_digest(collections.Counter("ba"))


DISTINCT: list[object] = [
    None, False, True, 0, 1, -1, 255, 256, 2**5000, 0.0, -0.0, 1.0, math.nan, math.inf, 0j, complex(0, -0.0), 1 + 0j,
    "", "1", "a", "?", "\ud800", "\ud801", "\ud800\udc00", "\U00010000", b"", b"a", b"1", bytearray(b"a"), memoryview(b"a"),
    memoryview(b"aaaa"), memoryview(b"aaaa").cast("i"), [], (), {}, set(), frozenset(), [[]], [()], [None], (None,),
    {None: None}, {None}, frozenset({None}), [1, 2], [12], ["1", "2"], ["12"], {1: 2}, {2: 1}, {1, 2}, (1, 2), [(1, 2)],
    Point(1, 2), Slotted(1, 2), Plain(left=1, right=2), Plain(x=1, y=2), Config(1), Config(1.0), Loose(1), Color.RED,
    Color.BLUE, Access.READ, Access.READ | Access.WRITE, MyInt(1), MyList(), MyDict(), MySet(), MyList([1]),
    collections.deque([1]), collections.deque([1], 3), collections.defaultdict(int), collections.defaultdict(list),
    collections.OrderedDict(), collections.Counter(), types.MappingProxyType({}), types.SimpleNamespace(a=1),
    datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, fold=1), datetime.date(2024, 1, 1),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), datetime.time(1), datetime.timedelta(1), datetime.UTC,
    datetime.timezone(datetime.timedelta(hours=1)), decimal.Decimal(1), decimal.Decimal("1.0"), decimal.Decimal("nan"),
    fractions.Fraction(1), fractions.Fraction(1, 2), uuid.UUID(int=1), range(3), range(4), range(0, 4, 3), range(1, 4),
    range(0), slice(3), slice(0, 3), re.compile("a"), re.compile("a", re.IGNORECASE), re.compile(b"a"), Ellipsis,
    NotImplemented, int, float, Plain, len, print, "".join, ",".join, str.upper, module_function, cached_function, math,
    functools.partial(int, base=2), functools.partial(int, base=3), list[int], int | str, iter([1]), iter([2]),
    Path("/no/such/path"), Path("no"), PurePosixPath("no"), PurePosixPath("/no/such/path"), object(), ValueError("a"),
    ValueError("b"), KeyError("a"), collections.ChainMap({}), zip,
]  # fmt: skip


def test_values_of_other_type_or_content_have_other_digests() -> None:
    digests: dict[str, object] = {}
    for value in DISTINCT:
        digest = value_digest(value)
        assert digest not in digests, f"{value!r} has the digest of {digests[digest]!r}"
        digests[digest] = value


def test_values_that_differ_only_in_how_they_were_made_have_equal_digests() -> None:
    shared = [1]
    for left, right in [
        (math.nan, -math.nan),
        (range(0, 3, 2), range(0, 4, 2)),
        (range(0), range(5, 5, 7)),
        (range(1), range(0, 5, 9)),
        (uuid.UUID(int=7), uuid.UUID(str(uuid.UUID(int=7)), is_safe=uuid.SafeUUID.safe)),
        ([shared, shared], [[1], [1]]),
        (memoryview(b"abcdef")[::2], memoryview(b"ace")),
        (Access.READ | Access.WRITE, Access(3)),
        ("ab" * 200, "".join(["ab"] * 200)),
        (re.compile("a+"), pickle.loads(pickle.dumps(re.compile("a+")))),
    ]:
        assert value_digest(left) == value_digest(right)


# -- shape: depth, sharing, cycles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"k": inner}, lambda inner: Plain(inner=inner)])
def test_deep_values_are_walked_to_the_end(wrap: Callable[[object], object]) -> None:
    def nest(value: object) -> object:
        for _ in range(20_000 if wrap(0) == [0] else 2000):
            value = wrap(value)
        return value

    assert value_digest(nest(1)) != value_digest(nest(2))


def test_an_object_that_unfolds_for_ever_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless:
        def __reduce__(self) -> tuple[Any, ...]:
            return dict, (Endless(),)

    monkeypatch.setattr(hashing, "_DEEPEST", 1000)
    with pytest.raises(Unstable, match="nested too deeply"):
        value_digest(Endless())


def test_shared_parts_are_walked_once() -> None:
    value: object = []
    for _ in range(300):
        value = [value, value, {"k": value}]
    assert value_digest(value) == value_digest(pickle.loads(pickle.dumps(value)))


def _loop(length: int, end: object = None) -> list[object]:
    first: list[object] = []
    last = first
    for _ in range(length - 1):
        last.append([])
        last = last[0]  # type: ignore[assignment]
    last += (first, end)
    return first


def test_cycles_of_other_length_or_content_have_other_digests() -> None:
    cycles = [_loop(1), _loop(2), _loop(3), _loop(3, "x"), [_loop(1)], [_loop(2), 1]]
    assert len({value_digest(each) for each in cycles}) == len(cycles)
    for each in cycles:
        assert value_digest(pickle.loads(pickle.dumps(each))) == value_digest(each)


def test_cycles_through_dicts_tuples_and_objects_are_walked() -> None:
    by_dict: dict[str, object] = {}
    by_dict["self"] = (by_dict, [by_dict])
    by_object = Plain()
    by_object.me = {"again": by_object, "dict": by_object.__dict__}  # type: ignore[attr-defined]
    for value in (by_dict, by_object):
        assert value_digest(copy.deepcopy(value)) == value_digest(value)


def _tree(depth: int, parent: Node | None = None, order: int = 1, holder: type = list) -> Node:
    node = Node(f"level {depth}", parent)
    children = [_tree(depth - 1, node, order, holder) for _ in range(2)] if depth else []
    for at, child in enumerate(children):
        child.name += f" number {at}"
    node.children = holder(children[::order])
    return node


def test_a_tree_with_parents_has_one_digest_from_wherever_its_nodes_are_reached() -> None:
    root = _tree(4)
    value = [root.children[0].children[1], root, {"leaf": root.children[1]}, root.children[1]]
    assert value_digest(value) == value_digest(copy.deepcopy(value))
    assert value_digest(_tree(4)) == value_digest(root)
    assert value_digest(_tree(4, order=-1)) != value_digest(root)
    # What was walked before must not colour what comes after.
    assert value_digest({"a": 1, "z": root.children[0]}) == value_digest({"a": 1, "z": _tree(4).children[0]})


def _set_of_itself() -> object:
    node = Node("inner")
    node.children = {node}
    return node


def _key_of_itself() -> object:
    node = Node("inner")
    node.children = {(1, node): "me"}
    return [node]


def _set_with_attribute() -> object:
    tagged = MySet()
    tagged.add(Plain(up=tagged))
    return {"k": tagged}


@pytest.mark.parametrize("make", [lambda: _tree(2, holder=set), _set_of_itself, _key_of_itself, _set_with_attribute])
def test_a_cycle_through_a_set_or_a_key_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(Unstable, match="contains itself through a set or the key of a dict"):
        value_digest(make())


def test_sets_and_keys_may_hold_what_has_a_cycle_of_its_own() -> None:
    def ring(name: str) -> Node:
        node = Node(name)
        node.parent, node.children = node, [Node("child", node)]
        return node

    rings = [ring(name) for name in "abcd"]
    for values in (set(rings), dict.fromkeys(rings, 1), {(each, 1) for each in rings}):
        again = type(values)(values) if isinstance(values, set) else dict(reversed(values.items()))
        assert value_digest(values) == value_digest(again) == value_digest(copy.deepcopy(values))
    assert value_digest(set(rings)) != value_digest(set(rings[:3]))


Edges = set[tuple[int, int]]
EDGES = st.sets(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=9)


def _graph(edges: Edges, order: list[int], holder: type) -> Node:
    nodes = dict(sorted((at, Node(str(at))) for at in order))
    for node in nodes.values():
        ends = sorted(end for start, end in edges if nodes[start] is node)
        node.children = holder(nodes[end] for end in ends)
    return nodes[0]


def _reached(edges: Edges) -> Edges:
    found: set[int] = {0}
    for _ in range(5):
        found |= {end for start, end in edges if start in found}
    return {edge for edge in edges if edge[0] in found}


@given(EDGES, EDGES, st.permutations(range(5)), st.sampled_from([list, set]))
@quickly
def test_graphs_are_equal_exactly_when_their_edges_are(left: Edges, right: Edges, order: list[int], holder: type) -> None:
    if holder is set:
        left, right = ({(start, end) for start, end in edges if start < end} for edges in (left, right))
    digest = value_digest(_graph(left, [0, 1, 2, 3, 4], holder))
    assert digest == value_digest(_graph(left, order, holder)) == value_digest(copy.deepcopy(_graph(left, order, holder)))
    assert (digest == value_digest(_graph(right, order, holder))) == (_reached(left) == _reached(right))


def test_keys_of_equal_content_are_told_apart_by_their_values() -> None:
    def twins(*values: object) -> dict[Node, object]:
        return {Node("twin"): each for each in values}

    assert value_digest(twins(1, 2, [3])) == value_digest(twins([3], 2, 1)) != value_digest(twins(1, 1, [3]))


def _pair() -> tuple[Node, Node]:
    left, right = Node("left"), Node("right")
    left.parent, right.parent = right, left
    return left, right


def test_values_that_know_each_other_are_walked_in_the_order_of_their_keys() -> None:
    left, right = _pair()
    value = {"a": left, "b": right, "c": [left, right]}
    for names in ("abc", "bac", "cba"):
        assert value_digest({name: value[name] for name in names}) == value_digest(value)
    assert value_digest({"a": right, "b": left, "c": [left, right]}) != value_digest(value)
    items = [(Node("twin"), left), (Node("twin"), right)]
    assert value_digest(dict(items)) == value_digest(dict(items[::-1]))


def test_what_was_met_in_one_key_does_not_colour_the_next() -> None:
    left, right = _pair()
    holder = Plain(held=left)
    items = [((left, holder), 1), ((right, holder), 2)]
    assert value_digest(dict(items)) == value_digest(dict(items[::-1]))


def test_a_cycle_has_one_digest_at_every_depth() -> None:
    left, _ = _pair()
    again = copy.deepcopy(left)
    assert value_digest([left, [[left]]]) == value_digest([left, [[again]]]) == value_digest([again, [[left]]])


def test_objects_that_are_made_for_the_walk_are_not_taken_for_each_other() -> None:
    digests = {value_digest([Renewed(0), Renewed(last)]) for last in range(20)}
    assert len(digests) == 20


def test_objects_too_entangled_to_finish_are_refused_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_AGAIN", 2000)
    nodes = [Node(str(at)) for at in range(12)]
    for node in nodes:
        node.children = list(nodes)
    with pytest.raises(Unstable, match="entangled"):
        value_digest(nodes[0])


# -- other processes ----------------------------------------------------------------------------------------------------

SCRIPT = """
import collections, dataclasses, enum, sys
from minipipe.hashing import value_digest

names = [f"name {at}" for at in range(50)]

class Holder:
    def __init__(self):
        self.names, self.nested = set(names), {frozenset(names[:at]) for at in range(5)}
        self.nodes = {Leaf(name, names) for name in names}
        self.by_node = {leaf: leaf.name for leaf in self.nodes}

class Leaf:
    def __init__(self, name, parent):
        self.name, self.parent = name, parent

class Tagged(set):
    pass

Color = enum.Enum("Color", names)
tagged = Tagged(names)
tagged.note = frozenset(names)
values = [set(names), frozenset(names), {1, "a", None, (1, "b")}, Holder(), tagged, {str: int}, set(Color),
          {name: set(names) for name in sorted(names, key=hash)}, collections.Counter(names), [object(), len, Holder]]
for value in values:
    print(value_digest(value))
assert not {"numpy", "pandas"} & set(sys.modules)
"""


def test_digests_are_equal_under_every_hash_seed_and_need_no_numpy(tmp_path: Path) -> None:
    def run(seed: str) -> list[str]:
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(minipipe.__path__[0]).parent),
        }
        command = [sys.executable, "-c", SCRIPT]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    first, *others = [run(seed) for seed in ("1", "2", "33")]
    assert len(set(first)) == 10
    assert others == [first, first]


# -- lazy results and code ----------------------------------------------------------------------------------------------


class Bomb:
    """Like a lazy result: any use but `type` and `id` fails the test."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"touched: {name}")

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __lt__ = __bool__ = __len__ = __iter__ = __eq__  # type: ignore[assignment]


def test_what_the_caller_refers_to_is_never_touched() -> None:
    def reference(each: object) -> str | None:
        return f"result {id(each)}" if type(each) is Bomb else None

    bomb, other = Bomb(), Bomb()
    for place in (
        lambda each: each,
        lambda each: [each, each],
        lambda each: {"k": (each,)},
        lambda each: {each: 1},
        lambda each: {each},
        lambda each: Plain(a=each),
        lambda each: Point(1, each),
        lambda each: Config(1.0, each),
        lambda each: functools.partial(int, each),
    ):
        assert value_digest(place(bomb), reference=reference) == value_digest(place(bomb), reference=reference)
        assert value_digest(place(bomb), reference=reference) != value_digest(place(other), reference=reference)
    with pytest.raises(Unstable) as caught:
        value_digest({"a": bomb, "b": [bomb, Plain(c=bomb, d=threading.Lock())]}, reference=reference)
    assert caught.value.path == "value['b'][1].d"


def test_a_reference_is_not_the_text_that_it_consists_of() -> None:
    bomb = Bomb()
    assert value_digest([bomb], reference=lambda each: "a" if each is bomb else None) != value_digest(["a"])


def test_the_reference_is_asked_for_every_object_that_is_no_scalar() -> None:
    asked: list[object] = []
    value = {"k": [1, (None, MyInt(8))], "s": {2.5}, "p": Plain(a=Color.RED)}
    assert value_digest(value, reference=lambda each: asked.append(each)) == value_digest(value)  # type: ignore[func-returns-value]
    for part in (value, [1, (None, 8)], (None, 8), 8, {2.5}, value["p"], Color.RED):
        assert part in asked
    assert not {type(each) for each in asked} & {int, str, float, type(None)}


def test_errors_of_minipipe_pass_through_an_objects_own_reduce() -> None:
    class Touchy:
        def __reduce__(self) -> tuple[Any, ...]:
            raise StepFailed("step a failed")

    with pytest.raises(StepFailed):
        value_digest([Touchy()])


def test_classes_and_functions_count_by_the_callers_digest_of_their_code() -> None:
    def local() -> None: ...

    for value in (local, lambda: 1, Plain, Plain(a=1), [module_function], Color.RED, Config(1), cached_function, Point(1, 2)):
        one, two = (value_digest(value, code=lambda each, v=version: f"code {v}") for version in (1, 2))  # type: ignore[misc]
        assert one != two
        assert one == value_digest(value, code=lambda each: "code 1")
    assert value_digest(Plain, code=lambda each: None) == value_digest(Plain)


# -- refusals -----------------------------------------------------------------------------------------------------------


def _generator() -> Any:
    yield 1


class Fickle:
    count = 0

    def __getstate__(self) -> dict[str, object]:
        Fickle.count += 1
        return {"count": Fickle.count}


class Renewed:
    def __init__(self, number: int) -> None:
        self.number = number

    def __getstate__(self) -> dict[str, object]:
        return {"fresh": [self.number]}


class Wrapping:
    """Gives a new inner object at each call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Plain, (), {"inner": Plain(a=1)}


@pytest.mark.parametrize(
    ("make", "path", "kind"),
    [
        (threading.Lock, "", "_thread.lock"),
        (lambda: {"model": Plain(lock=threading.Lock())}, "['model'].lock", "_thread.lock"),
        (lambda: [1, (2, _generator())], "[1][1]", "generator"),
        (lambda: Plain(files={3: io.TextIOWrapper(io.BytesIO())}), ".files[3]", "_io.TextIOWrapper"),
        (lambda: Config(1.0, threading.RLock()), ".lock", "_thread.RLock"),
        (lambda: Slotted(1, lambda: 1), ".right", "function"),
        (lambda: Point(1, [_generator]), None, None),
        (lambda: Point(1, [lambda: 1]), ".y[0]", "function"),
        (lambda: [Fickle()], "[0]", f"{__name__}.Fickle"),
        (lambda: {"a": Plain(deep=[Fickle()])}, "['a'].deep[0]", f"{__name__}.Fickle"),
        (lambda: [Wrapping()], None, None),
        (lambda: {_generator()}, "{...}", "generator"),
        (lambda: {(1, _generator()): 1}, ".keys()[1]", "generator"),
        (lambda: {10**5000: _generator()}, "[<int>]", "generator"),
        (lambda: types.MappingProxyType({"k": _generator()}), "['k']", "generator"),
        (lambda: MyDict(k=_generator()), "['k']", "generator"),
        (lambda: collections.deque([_generator()]), "[0]", "generator"),
        (lambda: {Plain(): _generator()}, f"[<{__name__}.Plain>]", "generator"),
        (lambda: [type("Local", (), {"__qualname__": "f.<locals>.Local"})()], "[0]", "type"),
    ],
)
def test_the_refusal_names_the_place_and_the_type(make: Callable[[], object], path: str | None, kind: str | None) -> None:
    if path is None:
        assert value_digest(make()) == value_digest(make())
        return
    with pytest.raises(Unstable) as caught:
        value_digest(make(), name="config")
    error = caught.value
    assert error.path.startswith("config" + path)
    assert error.type_name == kind
    assert error.path in str(error)
    assert isinstance(error, MinipipeError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.type_name, str(again)) == (error.path, error.type_name, str(error))


def test_what_lives_in_one_process_is_refused(tmp_path: Path) -> None:
    with (
        open(tmp_path / "file", "wb") as file,
        socket.socket() as connection,
        sqlite3.connect(":memory:") as database,
        tempfile.TemporaryFile() as other,
    ):
        for value in (file, connection, database, other, threading.Event(), threading.local(), {}.keys(), sys._getframe()):
            with pytest.raises(Unstable):
                value_digest([value])
    database.close()
    view = memoryview(b"a")
    view.release()
    with pytest.raises(Unstable):
        value_digest(view)


def test_a_path_too_long_to_read_is_cut() -> None:
    value: object = threading.Lock()
    for _ in range(5000):
        value = [value]
    with pytest.raises(Unstable) as caught:
        value_digest(value)
    assert len(str(caught.value)) < 1000


# -- paths --------------------------------------------------------------------------------------------------------------


def _fill(folder: Path) -> Path:
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a")
    (folder / "sub" / "b.txt").write_bytes(b"b" * 3_000_000)
    return folder


def test_a_file_counts_by_its_content_and_not_by_its_name(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"x")
    missing = value_digest(two)
    two.write_bytes(b"x")
    assert value_digest(one) == value_digest(two) != missing
    assert value_digest({"data": [one]}) == value_digest({"data": [two]})
    two.write_bytes(b"y")
    assert value_digest(one) != value_digest(two)
    assert value_digest(str(one)) != value_digest(str(two))
    two.unlink()
    assert value_digest(two) == missing != value_digest(tmp_path / "three")


def test_a_folder_counts_by_relative_names_and_content(tmp_path: Path) -> None:
    left, right = _fill(tmp_path / "left"), _fill(tmp_path / "elsewhere" / "right")
    assert value_digest(left) == value_digest(right)
    changes: list[Callable[[], object]] = [
        lambda: (right / "a.txt").write_bytes(b"c"),
        lambda: (right / "a.txt").rename(right / "c.txt"),
        lambda: (right / "new").mkdir(),
        lambda: (right / "sub" / "b.txt").rename(right / "b.txt"),
        lambda: (right / "sub" / "empty").rmdir(),
        lambda: (right / "link").symlink_to("nowhere"),
        lambda: ((right / "link").unlink(), (right / "link").symlink_to("elsewhere")),
        lambda: ((right / "link").unlink(), (right / "link").symlink_to("link")),
        lambda: (right / "up").symlink_to(right),
        lambda: ((right / "up").unlink(), (right / "up").symlink_to(right / "sub")),
    ]
    seen = [value_digest(left)]
    for change in changes:
        change()
        seen.append(value_digest(right))
    assert len(set(seen)) == len(seen)


def test_links_that_lead_back_up_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, listed = _fill(tmp_path / "left"), []
    for name in ("x", "y"):
        (folder / "sub" / name).symlink_to(folder)
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: (listed.append(path), real(path) if len(listed) < 50 else [])[1])
    before = value_digest(folder)
    assert len(listed) < 50
    folder.rename(tmp_path / "right")
    for name in ("x", "y"):
        (tmp_path / "right" / "sub" / name).unlink()
        (tmp_path / "right" / "sub" / name).symlink_to("..")
    assert value_digest(tmp_path / "right") == before


def test_a_link_to_a_folder_counts_by_what_is_behind_it(tmp_path: Path) -> None:
    folder = _fill(tmp_path / "left")
    (tmp_path / "link").symlink_to(folder)
    assert value_digest(tmp_path / "link") == value_digest(folder)


def test_a_pipe_is_refused_and_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for value in (tmp_path / "pipe", tmp_path):
        with pytest.raises(Unstable, match="pipe"):
            value_digest([value])


def test_a_path_that_no_file_can_have_counts_by_its_text() -> None:
    odd = [Path("a\0b"), Path("x" * 5000), Path("/dev/null/below"), Path("y" * 5000)]
    assert len({value_digest(each) for each in odd}) == 4


# -- numpy, pandas, scikit-learn ----------------------------------------------------------------------------------------


def test_arrays_count_by_dtype_shape_and_items_in_any_layout() -> None:
    numpy = pytest.importorskip("numpy")
    base = numpy.arange(24, dtype="i4").reshape(4, 6)
    digest = value_digest(base)
    wide = numpy.zeros((8, 12), "i4")
    wide[::2, ::2] = base
    for same in (numpy.asfortranarray(base), wide[::2, ::2], base[::-1][::-1], pickle.loads(pickle.dumps(base))):
        assert value_digest(same) == digest
    others = [
        base.T,
        base.reshape(6, 4),
        base.astype("i8"),
        base.astype(">i4"),
        base.astype("u4"),
        base + 1,
        base.tolist(),
        base.ravel(),
    ]
    assert len({digest, *map(value_digest, others)}) == len(others) + 1


def test_large_arrays_are_walked_in_any_layout(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    large = numpy.arange(400_000, dtype="f8").reshape(1000, 400)
    mapped = numpy.memmap(tmp_path / "map", "f8", "w+", shape=large.shape)
    mapped[:] = large
    assert value_digest(large) == value_digest(numpy.asfortranarray(large)) == value_digest(mapped)
    times = large.astype("M8[s]")
    assert value_digest(times) == value_digest(times.copy()) != value_digest(times.astype("M8[ms]"))
    changed = large.copy()
    changed[-1, -1] += 1
    assert value_digest(changed) != value_digest(large)


def test_arrays_of_objects_texts_and_fields_count_by_their_items() -> None:
    numpy = pytest.importorskip("numpy")
    objects = numpy.array([{"a", "b"}, None, [1]], dtype=object)
    assert value_digest(objects) == value_digest(copy.deepcopy(objects)) != value_digest(objects[::-1])
    with pytest.raises(Unstable) as caught:
        value_digest({"x": numpy.array([1, _generator()], dtype=object)})
    assert caught.value.path == "value['x'][1]"
    texts = [f"text {at}" * 20 for at in range(5)]
    variable = (
        numpy.array(texts, dtype=numpy.dtypes.StringDType()) if hasattr(numpy.dtypes, "StringDType") else numpy.array(texts)
    )
    assert value_digest(variable) == value_digest(numpy.array(texts, dtype=variable.dtype)) != value_digest(variable[::-1])
    padded = numpy.dtype([("a", "u1"), ("b", "f8")], align=True)
    buffers = [bytearray([fill] * 32) for fill in (0, 255)]  # what lies between the fields is left as it is
    left, right = (numpy.frombuffer(each, padded) for each in buffers)
    for array in (left, right):
        array["a"], array["b"] = [1, 2], [0.5, 0.25]
    assert buffers[0] != buffers[1]
    assert value_digest(left) == value_digest(right) != value_digest(left[::-1])
    assert value_digest(left[0]) == value_digest(right[0]) != value_digest(left[1])


def test_the_padding_of_long_doubles_does_not_count() -> None:
    numpy = pytest.importorskip("numpy")
    if numpy.finfo(numpy.longdouble).nmant != 63:
        pytest.skip("this machine's long double has no padding")
    clean, dirty = (numpy.array([1.5, 2.5], numpy.longdouble) for _ in range(2))
    clean.view("u1").reshape(2, -1)[:, 10:] = 0
    dirty.view("u1").reshape(2, -1)[:, 10:] = 255
    assert value_digest(clean) == value_digest(dirty) != value_digest(clean[::-1])


def test_numpy_scalars_and_empty_arrays_are_typed() -> None:
    numpy = pytest.importorskip("numpy")
    distinct = [
        1.0, numpy.float64(1), numpy.float32(1), numpy.int64(1), numpy.uint64(1), numpy.bool_(True), numpy.str_("a"), "a",
        numpy.bytes_(b"a"), numpy.datetime64(1, "s"), numpy.datetime64(1, "ms"), numpy.timedelta64(1, "s"), numpy.array(1.0),
        numpy.array([1.0]), numpy.array([]), numpy.zeros((0, 3)), numpy.zeros((3, 0)), numpy.zeros(0, "i4"), numpy.longdouble(1),
        numpy.longdouble(1) / 3, numpy.array([1.0], numpy.longdouble), numpy.dtype("f8"), numpy.dtype("f4"), numpy.add, numpy.sin,
        numpy.float64, numpy.ma.array([1.0], mask=[True]), numpy.ma.array([1.0], mask=[False]), numpy.array(["a"]),
        numpy.random.default_rng(1), numpy.random.default_rng(2), numpy.zeros(3, "U0"),
    ]  # fmt: skip
    assert len({value_digest(each) for each in distinct}) == len(distinct)
    for each in distinct:
        assert value_digest(copy.deepcopy(each)) == value_digest(each)


def test_frames_count_by_labels_dtypes_and_values() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": [0.5, None, 1.5], "c": ["x", "y", None]})
    frame["d"] = frame["c"].astype("category")
    frame["e"] = pandas.date_range("2024-01-01", periods=3, tz="UTC")
    frame["f"] = pandas.array([1, None, 3], dtype="Int64")
    frame["g"] = pandas.Series([{1}, (2,), None], dtype=object)
    digest = value_digest(frame)
    for same in (frame.copy(), pickle.loads(pickle.dumps(frame)), pandas.concat([frame[["a"]], frame.drop(columns="a")], axis=1)):
        assert value_digest(same) == digest
    assert value_digest(frame.iloc[:2]) == value_digest(pickle.loads(pickle.dumps(frame.iloc[:2])))
    others = [
        frame.rename(columns={"a": "z"}), frame[list("bacdefg")], frame.set_axis([0, 1, 3]), frame.iloc[::-1], frame.iloc[:2],
        frame.astype({"a": "int32"}), frame.assign(a=[1, 2, 4]), frame.assign(c=["x", "y", "z"]), frame.assign(g=None),
        frame.assign(d=frame["d"].cat.as_ordered()), frame.assign(e=frame["e"].dt.tz_convert("CET")), frame.assign(f=1),
        frame.rename_axis("i"), frame.set_index(["a", "c"]), frame["a"], frame["a"].rename("z"), frame.index, frame.columns,
        frame[["a"]], frame.assign(d=frame["d"].cat.reorder_categories(["y", "x"])),
    ]  # fmt: skip
    assert len({digest, *map(value_digest, others)}) == len(others) + 1
    for other in others:
        assert value_digest(pickle.loads(pickle.dumps(other))) == value_digest(other)


def test_attributes_of_frames_and_their_subclasses_count() -> None:
    pandas = pytest.importorskip("pandas")

    class Labelled(pandas.DataFrame):  # type: ignore[misc, name-defined]
        _metadata = ("label",)

    def digest(kind: Any, name: str, text: str) -> str:
        frame = kind({"a": [1]})
        (frame.attrs if name == "attrs" else frame.__dict__)["label"] = text
        return value_digest(frame, code=lambda each: each.__name__)

    assert digest(Labelled, "label", "x") == digest(Labelled, "label", "x")
    assert (
        len({digest(kind, name, text) for kind, name in ((Labelled, "label"), (pandas.DataFrame, "attrs")) for text in "xy"}) == 4
    )


def test_other_pandas_arrays_and_scalars_are_walked() -> None:
    pandas = pytest.importorskip("pandas")
    numbers = pandas.Series([0, 0, 2])
    product = pandas.MultiIndex.from_product([[1, 2], ["a", "b"]])
    values = [
        *(pandas.Series(pandas.arrays.SparseArray([0, 0, last])) for last in (1, 2)),
        *(pandas.period_range("2024-01", periods=3, freq=each) for each in "MD"),
        *(pandas.Series(["a", last], dtype="string") for last in ("b", None)),
        *(numbers.astype(kind) for kind in ("Int8", "timedelta64[s]", "category")),
        pandas.Series(pandas.interval_range(0, 3)),
        *(product, product.set_names(["x", None]), product[::-1]),
        *(pandas.Timestamp(1), pandas.Timestamp(1, tz="UTC"), pandas.Interval(0, 1), pandas.NA, pandas.NaT),
    ]
    assert len({value_digest(each) for each in values}) == len(values)
    for each in values:
        assert value_digest(pickle.loads(pickle.dumps(each))) == value_digest(each)
    assert value_digest(pandas.RangeIndex(3)) == value_digest(pandas.Index([0, 1, 2]))


def test_the_refusal_names_the_column_of_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": pandas.Series([None, _generator()], dtype=object)})
    with pytest.raises(Unstable) as caught:
        value_digest([frame])
    assert caught.value.path == "value[0]['b']"


def test_estimators_count_by_parameters_and_what_they_learned() -> None:
    pytest.importorskip("sklearn")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def fitted(seed: int, trees: int = 2) -> Any:
        model = make_pipeline(StandardScaler(), RandomForestClassifier(trees, random_state=seed))
        return model.fit([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]], [0, 1, 0, 1])

    model = fitted(1)
    assert value_digest(pickle.loads(pickle.dumps(model))) == value_digest(model) == value_digest(fitted(1))
    raw = make_pipeline(StandardScaler(), RandomForestClassifier(2, random_state=1))
    assert len({value_digest(each) for each in (model, raw, fitted(2), fitted(1, 3))}) == 4
