"""A lazy result is its value: same results, types and errors, fetched once, when first needed."""

import abc
import asyncio
import cmath
import collections
import collections.abc
import contextlib
import copy
import dataclasses
import datetime
import decimal
import fractions
import functools
import inspect
import io
import json
import math
import operator
import os
import pickle
import random
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Self

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from minipipe.sdk.proxy import LazyEvalWrapper, fetch, is_lazy, peek, reference_of, resolve


def lazy(value: Any) -> Any:
    """A lazy result that nobody has used yet."""
    return LazyEvalWrapper(lambda: value)


class Counting:
    """A callback that counts its calls."""

    def __init__(self, value: Any = None, error: Exception | None = None) -> None:
        self.value, self.error, self.calls = value, error, 0

    def __call__(self) -> Any:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return self.value


# --- The table: op(lazy(v)) is op(v) ----------------------------------------------------------------------------------


class Money:
    """A user's class: in-place addition that changes the object, arithmetic from both sides, ordering, calling."""

    limit = 100

    def __init__(self, amount: int) -> None:
        self.amount = amount

    def __iadd__(self, other: Any) -> Self:
        self.amount += getattr(other, "amount", other)
        return self

    def __add__(self, other: Any) -> "Money":
        return Money(self.amount + getattr(other, "amount", other))

    def __rsub__(self, other: int) -> int:
        return other - self.amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and self.amount == other.amount

    def __hash__(self) -> int:
        return hash(("Money", self.amount))

    def __call__(self, factor: int = 1, *, plus: int = 0) -> int:
        return self.amount * factor + plus

    def __matmul__(self, other: Any) -> str:
        return f"@{other}"

    def __rmatmul__(self, other: Any) -> str:
        return f"{other}@"

    def __format__(self, spec: str) -> str:
        return f"<{self.amount}|{spec}>"

    def __dir__(self) -> list[str]:
        return ["amount", "limit"]

    def __repr__(self) -> str:
        return f"Money({self.amount})"


class Sparse:
    """No ufuncs: arrays leave operators to it (the protocol of NumPy before ``__array_ufunc__``)."""

    __array_priority__ = 10.0

    def __rmul__(self, other: Any) -> str:
        return f"{other.shape} times sparse"

    __rmatmul__ = __radd__ = __rmul__


class Resource:
    """A context manager, both kinds, that writes down what happens."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def __enter__(self) -> list[str]:
        self.log.append("enter")
        return self.log

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> bool:
        self.log.append(f"exit {kind and kind.__name__}")
        return True

    async def __aenter__(self) -> list[str]:
        self.log.append("aenter")
        return self.log

    async def __aexit__(self, kind: object, error: object, traceback: object) -> None:
        self.log.append("aexit")


class Answer:
    """An awaitable."""

    def __await__(self) -> Generator[Any, None, int]:
        yield from ()
        return 42


async def agen(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i


def add_all(*numbers: int, scale: int = 1) -> int:
    """The sum, scaled."""
    return sum(numbers) * scale


def changed(statement: str) -> Callable[[Any], Any]:
    """An operation: runs a statement on a copy of the value named p, and gives p as it is afterwards."""
    code = compile(statement, f"<{statement}>", "exec")

    def run(p: Any) -> Any:
        names = {"p": p, "np": np}
        exec(code, names)
        return names["p"]

    return run


def touched(statement: str) -> Callable[[Any], Any]:
    """An operation: runs a statement that changes the value of p, and gives that value."""
    return lambda p: resolve(changed(statement)(p))


def expression(text: str) -> Callable[[Any], Any]:
    """An operation: the value of an expression of p and the names of this module."""
    return eval(f"lambda p: {text}", globals())  # type: ignore[no-any-return]


NAMED_IN_EXPRESSIONS = (asyncio, fractions, random, PurePath, clone, train_test_split, StandardScaler)


def matched(p: Any) -> str:
    match p:
        case 5:
            return "literal"
        case str():
            return "class"
        case Money(amount=3):
            return "class with attribute"
        case cmath.inf:
            return "value"
    return "nothing"


def using(p: Any) -> Any:
    with p as inside:
        inside.append("body")
        raise KeyError("swallowed")
    return list(inside)


async def using_async(p: Any) -> Any:
    async with p as inside:
        inside.append("body")
    return list(inside)


async def collecting(p: Any) -> list[Any]:
    return [item async for item in p]


async def awaiting(p: Any) -> Any:
    return await p


def filled(p: Any) -> pd.DataFrame:
    frame = pd.DataFrame({"a": [1, 2]})
    frame["c"] = p
    return frame


def extended(p: Any) -> tuple[bool, list[Any]]:
    rows: list[Any] = [0]
    same = rows
    rows += p
    return rows is same, rows


def united(p: Any) -> tuple[bool, set[Any]]:
    members = {0}
    same = members
    members |= p
    return members is same, members


def queued(p: Any) -> tuple[bool, Any]:
    queue = collections.deque([0])
    same = queue
    queue += p
    return queue is same, queue


def added_to_array(p: Any) -> tuple[bool, Any]:
    array = np.arange(3.0)
    same = array
    array += p
    return array is same, array


TABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "int": (
        lambda: 5,
        """
        p + 2; 2 + p; p - 2; 2 - p; p * 3; 3 * p; p / 2; 2 / p; p // 2; 7 // p; p % 3; 7 % p; p ** 2; 2 ** p;
        pow(p, 2, 3); p << 1; 1 << p; p >> 1; 64 >> p; p & 4; 4 & p; p ^ 1; 1 ^ p; p | 2; 2 | p; divmod(p, 2);
        divmod(17, p); p @ 2; 2 @ p; -p; +p; ~p; abs(p); round(p); round(p, -1); int(p); float(p); complex(p);
        operator.index(p); math.floor(p); math.ceil(p); math.trunc(p); math.sqrt(p); math.gcd(p, 10); bool(p); not p;
        p and 1; p or 1; 1 if p else 2; str(p); repr(p); bytes(p); f'{p}'; f'{p:05d}'; f'{p!r:>4}'; '%d' % p; '%s' % p;
        '%(x)s' % {'x': p}; '{:>4}'.format(p); hash(p); p == 5; 5 == p; p != 5; p < 6; 6 < p; p <= 5; p >= 5; p > 5;
        p == '5'; p < '5'; p in {5}; p in [5]; {p: 1}[5]; {5: 1}[p]; range(p); list(range(10))[p]; list(range(10))[:p];
        'abcdefg'[p]; [0] * p; p * [0]; 'ab' * p; chr(p); hex(p); bin(p); len(p); iter(p); next(p); list(p); p[0];
        1 in p; p(); p.real; p.missing; p.bit_length(); p.__class__; isinstance(p, int); isinstance(p, str);
        isinstance(p, (str, int)); isinstance(p, list); isinstance(p, collections.abc.Mapping); hasattr(p, '__len__');
        hasattr(p, '__iter__'); hasattr(p, 'shape'); dir(p); p + lazy(2); 2 ** p ** lazy(2); p + 'a'; 'a' + p; p + None;
        os.fspath(p); reversed(p); sum([p, p]); sorted([p, 1]); max(p, 3); [1, 2] + p; extended(p); matched(p);
        copy.copy(p); copy.deepcopy({'a': [p]}); pickle.loads(pickle.dumps(p)); using(p); p.x; math.sin(p);
        decimal.Decimal(3) + p; fractions.Fraction(1, 2) * p; asyncio.run(awaiting(p)); asyncio.run(collecting(p));
        asyncio.run(using_async(p)); issubclass(int, p); isinstance(1, p); random.Random(1).randint(0, p);
        np.asarray(p); np.asarray(p, dtype=float); np.add(p, 1); np.sin(p); np.arange(3) + p; np.arange(3) < p;
        np.float64(2) ** p; np.zeros(p); np.zeros((p, 1)); np.full(2, p); np.arange(9)[p]; np.mean(p);
        np.array([p, 1.5]); np.linspace(0, 1, p); np.isscalar(p); pd.Series([1, 2]) + p; pd.Series([1, 2]) == p;
        pd.DataFrame({'a': [1]}) * p; pd.Series(range(9)).loc[p]; added_to_array(p); str(p).zfill(3);
        inspect.isclass(p); types.SimpleNamespace(x=p).x + 0
        """,
    ),
    "bool": (
        lambda: True,
        """
        p + 1; not p; p & False; int(p); operator.index(p); [1, 2][p]; f'{p}'; p == 1; ~np.bool_(p); str(p); -p;
        float(p); round(p)
        """,
    ),
    "float": (
        lambda: 2.5,
        """
        p + 1; 1 - p; p // 1; 7 // p; 7 % p; divmod(7, p); divmod(p, 2); 2 ** p; p ** 2; round(p); round(p, 1); int(p);
        float(p); complex(p); math.floor(p); math.ceil(p); math.trunc(p); f'{p:.2f}'; '%.1f' % p; '%d' % p;
        '{:e}'.format(p); hash(p); p == 2.5; 2.5 == p; p < 3; 3 < p; range(p); [1, 2, 3][p]; operator.index(p); p | 1;
        1 | p; ~p; abs(-p); p.is_integer(); bytes(p); datetime.timedelta(1) * p; datetime.timedelta(1) / p;
        np.float64(1) + p; np.float32(1) + p; np.sqrt(p); np.arange(3) * p; np.asarray(p); statistics(p); open(p);
        np.linspace(0, p, 3); p @ p; p.__round__()
        """,
    ),
    "complex": (
        lambda: 1 + 2j,
        """
        p + 1; 1j * p; abs(p); complex(p); float(p); int(p); cmath.sqrt(p); p.conjugate(); p < 1; -p
        """,
    ),
    "str": (
        lambda: "3 ab",
        """
        p + 'x'; 'x' + p; p * 2; 2 * p; p % 1; '%s!' % p; '%r' % p; f'{p:>8}'; f'{p!r}'; '{0[0]}'.format(p); p[0];
        p[-2:]; p[lazy(1)]; len(p); 'ab' in p; 3 in p; list(p); [*p]; sorted(p); list(reversed(p)); int(p); float(p[0]);
        p == '3 ab'; '3 ab' == p; p < 'z'; 'z' < p; hash(p); {p: 1}['3 ab']; {'3 ab': 1}[p]; p.upper(); p.split();
        str(p); repr(p); bytes(p); p(); p.missing; os.fspath(p); os.path.join(p, 'x'); os.path.join('x', p); Path(p);
        Path('x') / p; PurePath(p).name; p / 'x'; p - 'x'; isinstance(p, str); matched(p); p == 5; next(p); p[9];
        np.asarray(p); extended(p); os.fsencode(p); bool(p); not p; p and 1; copy.copy(p); list(enumerate(p));
        dict(zip(p, p)); ','.join(p); p.encode(); -p; os.path.basename(p)
        """,
    ),
    "list": (
        lambda: [3, 1, 2],
        """
        p + [1]; [1] + p; p + lazy([1]); p * 2; 2 * p; p[0]; p[1:]; p[::-1]; p[lazy(0):lazy(2)]; len(p);
        iter(p).__next__(); next(p); list(p); tuple(p); set(p); sorted(p); sum(p); max(p); list(reversed(p)); 1 in p;
        9 in p; [*p, 0]; add_all(*p); p == [3, 1, 2]; [3, 1, 2] == p; p != [3]; p < [4]; [4] < p; hash(p); {p: 1}; p();
        bool(p); not p; str(p); repr(p); f'{p}'; f'{p:>9}'; '%s' % p; p.index(1); p.append(9); p.missing; p + (1,);
        (1,) + p; p + 1; p - [1]; -p; int(p); float(p); os.fspath(p); bytes(p); extended(p); united(p); queued(p);
        copy.copy(p); copy.deepcopy(p); pickle.loads(pickle.dumps(p)); isinstance(p, list);
        isinstance(p, collections.abc.MutableSequence); (lambda a, b, c: b)(*p); np.asarray(p);
        np.asarray(p, dtype=float); np.array(p, copy=False); np.add(p, 1); np.add(p, lazy(p)); np.add.reduce(p);
        np.mean(p); np.max(p); np.sort(p); np.concatenate([p, p]); np.concatenate(p); np.arange(4)[p]; np.zeros(p);
        np.where([1, 0, 1], p, 0); np.sum(np.arange(3) * p); np.reshape(p, (3, 1)); np.dot(p, p); pd.Series(p);
        pd.Series(p, name='x'); pd.DataFrame({'a': p}); pd.Index(p); pd.Series([1, 2, 3]) + p; filled(p[:2]);
        [x for x in p]; dict.fromkeys(p); list(map(str, p)); p.sort()
        """,
    ),
    "tuple": (
        lambda: (1, "b"),
        """
        p + (2,); (2,) + p; p[0]; p[1:]; hash(p); {p: 1}[(1, 'b')]; {(1, 'b'): 1}[p]; p == (1, 'b'); (1, 'b') == p;
        len(p); list(p); p * 2; p + [1]; [1] + p; extended(p); p.count(1); isinstance(p, tuple); p < (2,); str(p);
        dict([p]); np.zeros((2,) + p[:1]); touched("p[0] = 1")(p); changed("a, b = p\\np = b")(p);
        changed("a, *p = p")(p); changed("a, b, c = p")(p)
        """,
    ),
    "dict": (
        lambda: {"a": 1, "b": [2]},
        """
        p['a']; p['z']; p[lazy('a')]; len(p); list(p); 'a' in p; p.keys(); p.items(); p.get('z'); dict(p); {**p};
        add_all(**p); dict(**p); p | {'c': 3}; {'c': 3} | p; p == {'a': 1, 'b': [2]}; {'a': 1} == p; '%(a)s' % p;
        '{a}'.format(**p); '{a}'.format_map(p); hash(p); list(reversed(p)); str(p); p.a; p + 1; p < {};
        isinstance(p, dict); bool(p); isinstance(p, collections.abc.Mapping); copy.deepcopy(p);
        collections.ChainMap(p)['a']; collections.Counter(p)['a']; touched("p['c'] = 3")(p); touched("del p['a']")(p);
        touched("del p['z']")(p); np.asarray(p); pd.Series(p); pd.DataFrame(p); pd.DataFrame([p]);
        functools.reduce(operator.or_, [{}, p]); types.MappingProxyType(dict(p))['a']
        """,
    ),
    "set": (
        lambda: {1, 2},
        """
        p | {3}; {3} | p; p & {1}; {1} & p; p - {1}; {1, 5} - p; p ^ {1}; {1} ^ p; p <= {1, 2, 3}; {1} <= p; {1} < p;
        p > {1}; 1 in p; len(p); sorted(p); {1}.union(p); p.union({4}); p == {1, 2}; {1, 2} == p; hash(p); p[0];
        frozenset(p); p + p; united(p); extended(p); p | [3]; [3] | p; isinstance(p, set);
        isinstance(p, collections.abc.Set); p.issubset([1, 2])
        """,
    ),
    "bytes": (
        lambda: b"ab",
        """
        p + b'c'; b'c' + p; p[0]; p[:1]; bytes(p); bytearray(p); list(p); p.decode(); b'a' in p; p == b'ab'; hash(p);
        str(p); os.fspath(p); os.path.join(p, b'c'); int(p); p * 2; b'%s' % b'x' + p; Path(p); changed("p += b'c'")(p)
        """,
    ),
    "Path": (
        lambda: Path("dir/file.txt"),
        """
        p / 'x'; 'x' / p; Path('x') / p; p.name; p.parent; p.suffix; str(p); repr(p); os.fspath(p);
        os.path.join(p, 'x'); os.path.basename(p); Path(p); hash(p); p == Path('dir/file.txt'); Path('a') < p;
        p < Path('z'); open(p); p.exists(); isinstance(p, Path); isinstance(p, os.PathLike); f'{p}'; p + 'x'; len(p);
        iter(p); bool(p); copy.copy(p); os.fsencode(p); pickle.loads(pickle.dumps(p)); p.with_suffix('.csv');
        p.__fspath__(); pd.read_csv(p); int(p); next(p); p()
        """,
    ),
    "None": (
        lambda: None,
        """
        p == None; None == p; p != None; bool(p); not p; p or 'other'; str(p); repr(p); f'{p}'; f'{p:>5}'; p + 1; 1 + p;
        p[0]; p.x; p(); len(p); iter(p); hash(p); {None: 1}[p]; p < 1; int(p); isinstance(p, type(None)); -p;
        os.fspath(p); copy.deepcopy(p); pickle.loads(pickle.dumps(p)); 1 in p; with_none(p); p == False; np.asarray(p);
        bytes(p); abs(p); dir(p); p.__class__
        """,
    ),
    "function": (
        lambda: add_all,
        """
        p(1, 2); p(1, 2, scale=3); p(*lazy([1, 2])); p('a'); p.__name__; p.__doc__; inspect.signature(p);
        functools.partial(p, 1)(2); list(map(p, [1, 2])); hash(p); p == add_all; isinstance(p, types.FunctionType);
        p + 1; len(p); p.x; p[0]; pickle.loads(pickle.dumps(p))(1); pickle.loads(cloudpickle.dumps(p))(1); bool(p);
        inspect.isfunction(p); copy.copy(p)
        """,
    ),
    "class": (
        lambda: Money,
        """
        p(3); p.limit; isinstance(Money(1), p); isinstance(1, p); issubclass(Money, p); issubclass(int, p); p == Money;
        inspect.isclass(p); isinstance(p, type); p[int]; p.__name__; str(p); pickle.loads(pickle.dumps(p)); len(p);
        hash(p); p()
        """,
    ),
    "generic": (
        lambda: list,
        """
        p[int]; p([1]); p | None; None | p; isinstance([], p); p.mro(); p.append
        """,
    ),
    "Money": (
        lambda: Money(3),
        """
        p + 1; p + lazy(Money(2)); Money(1) + p; 10 - p; p - 10; p @ 2; 2 @ p; np.float64(2) @ p; p == Money(3);
        Money(3) == p; hash(p); {Money(3): 1}[p]; p(); p(2, plus=1); p(1, 2); p.amount; p.limit; p.missing; f'{p:abc}';
        dir(p); matched(p); bool(p); p < p; isinstance(p, Money); copy.copy(p); copy.deepcopy([p, p]);
        pickle.loads(pickle.dumps(p)); vars(p); len(p); p[0]; iter(p); p.__class__; type(p.amount); abs(p); p ** 2;
        2 ** p; round(p); int(p); changed("p += 4")(p); touched("p.amount = 7")(p);
        changed("del p.amount\\np = vars(p)")(p); touched("del p.missing")(p); changed("p.new = 1\\np = vars(p)")(p);
        p.__dict__
        """,
    ),
    "iterator": (
        lambda: iter([1, 2, 3]),
        """
        next(p); next(p) + next(p); list(p); len(p); iter(p).__next__(); [next(p), list(p)]; sum(p); dict(zip('ab', p));
        p[0]; 2 in p; extended(p); list(enumerate(p)); max(p); next(p, None); [*p]; (lambda a, *b: b)(*p); reversed(p);
        operator.length_hint(p)
        """,
    ),
    "generator": (
        lambda: (n * n for n in range(3)),
        """
        list(p); next(p); p.send(None); p.close(); sum(p); len(p); extended(p); sorted(p);
        isinstance(p, types.GeneratorType)
        """,
    ),
    "context manager": (
        Resource,
        """
        using(p); asyncio.run(using_async(p)); contextlib.ExitStack().enter_context(p); p.log; p + 1
        """,
    ),
    "nullcontext": (
        lambda: contextlib.nullcontext([1]),
        """
        p.__enter__(); contextlib.ExitStack().enter_context(p)
        """,
    ),
    "awaitable": (
        Answer,
        """
        asyncio.run(awaiting(p)); p + 1; asyncio.run(collecting(p)); asyncio.run(asyncio.wait_for(p, 9))
        """,
    ),
    "async iterator": (
        lambda: agen(3),
        """
        asyncio.run(collecting(p)); list(p); asyncio.run(awaiting(p)); asyncio.run(first(p))
        """,
    ),
    "array": (
        lambda: np.arange(4.0).reshape(2, 2),
        """
        p + 1; 1 + p; p @ p; p @ lazy(p); np.eye(2) @ p; p @ np.eye(2); np.eye(2) * p; np.eye(2) - p; np.eye(2) == p;
        np.eye(2) < p; p == 1; p < 2; -p; abs(p); p ** 2; 2 ** p; p // 2; 7 // p[p > 0]; divmod(p, 2); p[0]; p[0, 1];
        p[:, 1]; p[p > 1]; p[lazy(0)]; p.T; p.shape; p.dtype; p.mean(); p.sum(axis=0); len(p); list(p); [*p]; bool(p);
        not p; 1.0 in p; float(p); int(p[0, 1]); hash(p); str(p); repr(p); np.asarray(p); np.asarray(p, dtype=int);
        np.array(p, copy=True); np.asanyarray(p); np.sin(p); np.add(p, 1); np.add(1, p); np.add(p, lazy(1));
        np.multiply.outer([1, 2], p); np.add.reduce(p); np.add.accumulate(p, axis=1); np.mean(p); np.sum(p, axis=0);
        np.concatenate([p, np.eye(2)]); np.vstack([p, lazy(np.ones(2))]); np.where(p > 1, p, 0); np.linalg.inv(p);
        np.linalg.norm(p); np.dot(p, [1, 2]); np.einsum('ij,jk', p, p); np.clip(p, 0, 1); np.allclose(p, p);
        np.arange(4)[p]; np.add(1, 1, out=p); np.eye(2).dot(p); round(p[0, 1]);
        isinstance(p, np.ndarray); pd.DataFrame(p); pd.DataFrame(p, columns=['a', 'b']); pd.Series(p[0]); pd.Series(p);
        StandardScaler().fit_transform(p); LinearRegression().fit(p, [1, 2]).coef_;
        LinearRegression().fit([[1], [2]], p).coef_; train_test_split(p, random_state=0);
        scipy.sparse.csr_matrix(p).toarray(); copy.copy(p); copy.deepcopy(p); pickle.loads(pickle.dumps(p));
        changed("p += 1")(p); changed("p @= p")(p); touched("p[0, 0] = 9")(p); p(); touched("p[:, 0] += np.ones(2)")(p);
        memoryview(np.asarray(p)).shape; np.float64(2) * p; p.tolist(); np.savetxt(io.StringIO(), p);
        scipy.sparse.csr_matrix(p) @ p; pd.DataFrame({'a': [1, 2], 'b': [3, 4]}) + p; pd.DataFrame([[1, 2], [3, 4]]) @ p
        """,
    ),
    "dates": (
        lambda: np.array(["2020-01-01", "2020-01-02"], "M8[D]"),
        """
        np.asarray(p); np.asarray([p, p]); p + np.timedelta64(1, 'D'); pd.Series(p); pd.to_datetime(p); p[0];
        np.diff(p); p.max()
        """,
    ),
    "index array": (
        lambda: np.array([1, 0]),
        """
        np.arange(4)[p]; list('ab')[p]; np.eye(2)[p]; np.arange(4).take(p); [1, 0] + p; extended(p)
        """,
    ),
    "numpy scalar": (
        lambda: np.float64(1.5),
        """
        p + 1; 1 + p; 2 ** p; p ** 2; round(p); round(p, 1); f'{p:.2f}'; float(p); int(p); np.arange(2) + p; np.sqrt(p);
        repr(p); p == 1.5; hash(p); isinstance(p, float); np.asarray(p); complex(p); p.item(); p.dtype; range(p);
        7 // p; divmod(7, p); math.floor(p); -p
        """,
    ),
    "frame": (
        lambda: pd.DataFrame({"a": [1, 2, 3], "b": [0.5, 1.5, 2.5]}),
        """
        p + 1; 1 + p; p * 2; p + p; p + lazy(p); p - pd.DataFrame({'a': [1, 2, 3], 'b': [1, 1, 1]}); p == p; p < 2; -p;
        p ** 2; 2 ** p; pd.DataFrame({'a': [1, 2, 3], 'b': [1, 1, 1]}) - p; pd.Series([1, 2], index=['a', 'b']) + p;
        p['a']; p[['a']]; p[p['a'] > 1]; p['z']; p.a; p.z; p.loc[0]; p.iloc[0, 1]; p.shape; p.columns; list(p); len(p);
        'a' in p; bool(p); hash(p); str(p); repr(p); p.sum(); p.mean().round(2); p.describe(); p.to_dict(); p.to_csv();
        p.groupby('a').sum(); np.asarray(p); np.sqrt(p); np.add(p, 1); np.add(np.ones((3, 2)), p); np.ones((3, 2)) + p;
        p.T @ np.ones(3); np.ones(3) @ p; np.mean(p); pd.DataFrame(p); pd.DataFrame(p, columns=['a']);
        pd.concat([p, p]); pd.concat([p, lazy(p)], axis=1); pd.merge(p, p, on='a'); p.merge(lazy(p));
        isinstance(p, pd.DataFrame); copy.copy(p); pickle.loads(pickle.dumps(p)); touched("p['c'] = 1")(p); p();
        touched("del p['a']")(p); changed("p *= 2")(p); touched("p.loc[0, 'a'] = 9")(p); [name for name in p];
        LinearRegression().fit(p[['a']], p['b']).coef_; LinearRegression().fit(p, [1, 2, 3]).feature_names_in_;
        train_test_split(p, p['a'], random_state=0); StandardScaler().set_output(transform='pandas').fit_transform(p)
        """,
    ),
    "series": (
        lambda: pd.Series([1, 2], name="n"),
        """
        p + 1; 1 + p; p + p; pd.Series([1, 2]) + p; pd.Series([1, 2]) == p; pd.DataFrame({'n': [1, 2]}) + p;
        np.arange(2) + p; np.exp(p); np.add(pd.Series([1, 2]), p); p[0]; p[p > 1]; p.max(); p.name; list(p); sum(p);
        pd.Series(p); pd.DataFrame({'x': p}); filled(p); pd.DataFrame(p); float(p); bool(p);
        pd.DataFrame({'a': [1, 2]})[p > 1]; pd.DataFrame({'a': [1, 2]}).loc[p > 1];
        pd.DataFrame({'a': [1, 2]}).assign(b=p); np.where(p > 1, 1, 0); divmod(p, 2); p @ p; np.array([1, 2]) @ p;
        pd.isna(p)
        """,
    ),
    "column": (
        lambda: "a",
        """
        pd.DataFrame({'a': [1]})[p]; pd.DataFrame({'b': [1]})[p]; pd.Series({'a': 1})[p]
        """,
    ),
    "columns": (
        lambda: ["a"],
        """
        pd.DataFrame({'a': [1], 'b': [2]})[p]; pd.DataFrame({'a': [1]}).drop(columns=p)
        """,
    ),
    "buffer": (
        lambda: io.StringIO("a,b\n1,2\n"),
        """
        pd.read_csv(p); p.read(); list(p); next(p); print('x', file=p); using(p)
        """,
    ),
    "opts out of ufuncs": (
        Sparse,
        """
        np.ones((2, 3)) * p; np.ones((2, 3)) @ p; np.ones((2, 3)) + p; 2 * p; p * 2
        """,
    ),
    "sparse": (
        lambda: scipy.sparse.csr_matrix(np.eye(2)),
        """
        (np.ones((2, 2)) @ p); (p @ np.ones((2, 2))); (p @ p).toarray(); (p * 2).toarray(); p.shape;
        np.ones((2, 2)) * p; len(p); scipy.sparse.issparse(p); scipy.sparse.vstack([p, p]).toarray();
        StandardScaler(with_mean=False).fit(p).scale_
        """,
    ),
    "estimator": (
        lambda: LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0]),
        """
        p.predict([[3.0]]); p.coef_; clone(p).get_params(); isinstance(p, LinearRegression);
        p.score([[1.0], [2.0]], [1.0, 2.0]); p.z
        """,
    ),
    "decimal": (
        lambda: decimal.Decimal("1.5"),
        """
        p + 1; 1 + p; p * p; decimal.Decimal(2) ** p; round(p); f'{p:.2f}'; int(p); p + 1.0
        """,
    ),
    "timedelta": (
        lambda: datetime.timedelta(1),
        """
        datetime.datetime(2020, 1, 1) + p; datetime.datetime(2020, 1, 2) - p; p / 2; p + p; p.days;
        p == datetime.timedelta(1); abs(p)
        """,
    ),
}


def statistics(p: Any) -> Any:
    return math.fsum([p, p]) / max(p, 1)


def with_none(p: Any) -> list[str]:
    return [str(x) for x in (p, [p], {"a": p}.get("a"))]


async def first(p: Any) -> Any:
    return await anext(p)


OPERATIONS = [(kind, make, text.strip()) for kind, (make, texts) in TABLE.items() for text in texts.split(";")]

# Uses that hand back one of their operands as it is, not the result of an operation.
HAND_BACK = {"p or 1", "p or 'other'", "max(p, 3)"}
# Errors of the same type in other words: Python names the syntax, or its C code the type it tried first.
OTHER_WORDS = {
    *("using(p)", "asyncio.run(awaiting(p))", "asyncio.run(collecting(p))", "asyncio.run(using_async(p))"),
    *("[1, 2, 3][p]", "open(p)", "np.arange(4)[p]"),
}


def outcome(operation: Callable[[Any], Any], p: Any) -> Any:
    """What an operation gives, or the exception it ends with."""
    try:
        return operation(p)
    except Exception as error:
        return error


def alike(one: Any, two: Any) -> bool:
    """Whether two outcomes have the same types and values, to any depth."""
    if type(one) is not type(two):
        return False
    if isinstance(one, (pd.DataFrame, pd.Series, pd.Index)):
        return bool(one.equals(two)) and repr(one) == repr(two)
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and repr(one) == repr(two)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(alike, one, two))
    if isinstance(one, dict):
        return alike(list(one.items()), list(two.items()))
    if isinstance(one, BaseException):
        return str(one) == str(two)
    if any("__eq__" in base.__dict__ for base in type(one).__mro__[:-1]):
        return bool(one == two)
    return True  # iterators, bound methods...: nothing to compare but the type


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("kind", "make", "text"), OPERATIONS, ids=[f"{kind}: {text}" for kind, _, text in OPERATIONS])
def test_an_operation_on_a_lazy_result_ends_like_one_on_the_value(kind: str, make: Callable[[], Any], text: str) -> None:
    operation = expression(text)
    expected, proxy = outcome(operation, make()), LazyEvalWrapper(callback := Counting(make()))
    assert not isinstance(expected, (NameError, SyntaxError)), "the table has a typing error"
    got = outcome(operation, proxy)
    assert not is_lazy(got) or text in HAND_BACK
    got = resolve(got)
    same = alike(got, expected) or (isinstance(got, Exception) and type(got) is type(expected) and text in OTHER_WORDS)
    assert same, f"{got!r} ({type(got)}) instead of {expected!r} ({type(expected)})"
    assert "LazyEvalWrapper" not in str(got)
    assert callback.calls == 1


# --- When the value is fetched ----------------------------------------------------------------------------------------


class Record(NamedTuple):
    """A named tuple."""

    name: Any
    score: Any


@dataclasses.dataclass
class Holder:
    """Something that keeps a lazy result."""

    result: Any


def has_abstract_methods(p: Any) -> bool:
    return inspect.isabstract(abc.ABCMeta("Base", (), {"attribute": p}))


NO_FETCH: list[Callable[[Any], Any]] = [
    lambda p: [p, {"a": p}, (p,)],
    lambda p: type(p) is LazyEvalWrapper,
    lambda p: id(p),
    lambda p: isinstance(p, LazyEvalWrapper),
    lambda p: isinstance(p, (LazyEvalWrapper, int)),
    lambda p: callable(p),
    lambda p: p is None,
    lambda p: is_lazy(p),
    lambda p: peek(p),
    lambda p: reference_of(p),
    lambda p: weakref.ref(p)() is p,
    lambda p: Holder(p).result is p,
    lambda p: functools.partial(print, p, key=p),
    lambda p: hasattr(p, "_repr_html_"),
    lambda p: hasattr(p, "_repr_mimebundle_"),
    lambda p: hasattr(p, "_ipython_display_"),
    lambda p: hasattr(p, "_ipython_canary_method_should_not_exist_"),
    has_abstract_methods,
    lambda p: object.__repr__(p),
]


@pytest.mark.parametrize("use", NO_FETCH, ids=lambda use: inspect.getsource(use).strip().splitlines()[0])
def test_handling_a_lazy_result_does_not_fetch_it(use: Callable[[Any], Any]) -> None:
    use(LazyEvalWrapper(callback := Counting(5), "reference"))
    assert callback.calls == 0


def test_a_lazy_result_is_callable_and_of_its_own_type_and_never_none() -> None:
    p = lazy(None)
    assert callable(p)
    assert type(p) is LazyEvalWrapper
    assert isinstance(p, LazyEvalWrapper)
    assert p is not None


@pytest.mark.parametrize("value", [None, 0, "", [], 5, float("nan")])
def test_a_value_is_fetched_once_however_often_it_is_used(value: Any) -> None:
    p: Any = LazyEvalWrapper(callback := Counting(value))
    assert (str(p), bool(p), repr(p)) == (str(value), bool(value), repr(value))
    assert fetch(p) is value
    assert resolve(p) is value
    assert callback.calls == 1


def test_display_attributes_are_those_of_the_value_once_it_is_there() -> None:
    p = lazy(pd.DataFrame({"a": [1]}))
    assert not hasattr(p, "_repr_html_")
    fetch(p)
    assert "<table" in p._repr_html_()


def test_peek_tells_whether_the_value_is_there() -> None:
    p = lazy("v")
    assert peek(p) == (False, None)
    fetch(p)
    assert peek(p) == (True, "v")


def test_a_lazy_result_that_gives_a_lazy_result_is_the_innermost_value() -> None:
    assert type(fetch(lazy(lazy(lazy(3))))) is int


def test_a_subclass_is_lazy_too() -> None:
    class Own(LazyEvalWrapper):
        __slots__ = ()

    p: Any = Own(lambda: 4)
    assert lazy(1) + p == 5
    assert resolve([p]) == [4]
    assert is_lazy(p)


@pytest.mark.parametrize("obj", [5, None, int, LazyEvalWrapper, [lazy(1)]])
def test_other_objects_are_not_lazy(obj: Any) -> None:
    assert not is_lazy(obj)


def waiting_for_a_fetch(threads: list[threading.Thread]) -> int:
    """How many threads stand before the lock of a fetch."""
    frames = sys._current_frames()
    stacks = [frames[thread.ident] for thread in threads if thread.ident in frames]
    callers = [frame.f_back for frame in stacks if frame.f_code.co_qualname == "Mutex.__enter__"]
    return sum(caller is not None and caller.f_code.co_qualname == "_Cell.fetch" for caller in callers)


def test_threads_share_one_fetch_and_all_wait_for_it() -> None:
    release, calls, results = threading.Event(), [], []

    def callback() -> list[int]:
        calls.append(1)
        assert release.wait(30)
        return [7]

    p, barrier = LazyEvalWrapper(callback), threading.Barrier(4)

    def use() -> None:
        barrier.wait(30)
        results.append(fetch(p))

    threads = [threading.Thread(target=use, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    give_up = time.monotonic() + 30
    while waiting_for_a_fetch(threads) < 3 and len(calls) < 2 and time.monotonic() < give_up:
        os.sched_yield()
    assert (results, peek(p)) == ([], (False, None))
    release.set()
    for thread in threads:
        thread.join(30)
    assert len(calls) == 1
    assert results == [[7]] * 4
    assert all(result is results[0] for result in results)


def test_the_callback_is_let_go_when_the_value_is_there() -> None:
    callback = Counting(1)
    gone, p = weakref.ref(callback), LazyEvalWrapper(callback)
    del callback
    assert gone() is not None
    fetch(p)
    assert gone() is None


def test_the_reference_is_there_while_another_thread_waits_for_the_value() -> None:
    started, release = threading.Event(), threading.Event()

    def callback() -> int:
        started.set()
        assert release.wait(30)
        return 1

    p = LazyEvalWrapper(callback, lambda: "task.result")
    thread = threading.Thread(target=fetch, args=(p,))
    thread.start()
    assert started.wait(30)
    seen: list[object] = []
    asking = threading.Thread(target=lambda: seen.append(reference_of(p)), daemon=True)
    asking.start()
    asking.join(30)
    release.set()
    thread.join(30)
    assert seen == ["task.result"]


# --- A step that failed -----------------------------------------------------------------------------------------------


class StepBroke(ValueError):
    """Stands for the error of a failed step."""


FAILING_USES = [str, bool, len, hash, iter, fetch, resolve, os.fspath, pickle.dumps, copy.copy, np.asarray, next, float]


@pytest.mark.parametrize("use", FAILING_USES, ids=lambda use: use.__name__)
def test_each_use_of_a_failed_result_raises_its_error(use: Callable[[Any], Any]) -> None:
    p: Any = LazyEvalWrapper(callback := Counting(error=StepBroke("step 'train' failed")))
    for _ in range(3):
        with pytest.raises(StepBroke, match="step 'train' failed"):
            use(p)
    assert callback.calls == 1
    assert peek(p) == (False, None)


def test_the_traceback_of_a_failed_result_does_not_grow_with_its_uses() -> None:
    p: Any = LazyEvalWrapper(Counting(error=StepBroke("no")))

    def depth() -> int:
        with pytest.raises(StepBroke) as caught:
            str(p)
        return len(caught.traceback)

    depth()
    assert depth() == depth() == depth()


def test_an_interrupted_fetch_starts_again_at_the_next_use() -> None:
    answers = iter([KeyboardInterrupt(), 5])

    def callback() -> Any:
        if isinstance(answer := next(answers), BaseException):
            raise answer
        return answer

    p: Any = LazyEvalWrapper(callback)
    with pytest.raises(KeyboardInterrupt):
        str(p)
    assert p + 1 == 6


def test_a_callback_that_uses_its_own_result_fails_instead_of_hanging() -> None:
    p: Any = LazyEvalWrapper(lambda: p + 1)
    with pytest.raises(RecursionError):
        str(p)


# --- References, constructor ------------------------------------------------------------------------------------------


def test_a_reference_is_any_object_or_a_callable_that_is_asked_once() -> None:
    marker, make = object(), Counting(print)
    assert reference_of(LazyEvalWrapper(Counting())) is None
    assert reference_of(LazyEvalWrapper(Counting(), marker)) is marker
    p = LazyEvalWrapper(Counting(), make)
    assert reference_of(p) is reference_of(p) is print
    assert make.calls == 1


def test_the_constructor_takes_the_arguments_of_clearml() -> None:
    parameters = inspect.signature(LazyEvalWrapper).parameters.values()
    assert [(p.name, p.default, p.kind.name) for p in parameters] == [
        ("callback", inspect.Parameter.empty, "POSITIONAL_OR_KEYWORD"),
        ("remote_reference", None, "POSITIONAL_OR_KEYWORD"),
    ]


def test_attributes_with_any_name_belong_to_the_value() -> None:
    own = types.SimpleNamespace(_minipipe_cell=1, callback=2, done=3, fetch=4)
    p = lazy(own)
    assert (p._minipipe_cell, p.callback, p.done, p.fetch) == (1, 2, 3, 4)
    p._minipipe_cell = "new"
    assert own._minipipe_cell == "new"
    assert vars(p) is vars(own)


# --- In place ---------------------------------------------------------------------------------------------------------


def test_in_place_operators_bind_the_name_to_the_plain_value() -> None:
    own = [1]
    p = lazy(own)
    p += [2]
    assert p is own
    assert own == [1, 2]
    n = lazy(5)
    n -= lazy(2)
    assert type(n) is int
    money = Money(3)
    m = lazy(money)
    m += 4
    assert m is money
    assert money.amount == 7


@pytest.mark.parametrize(
    ("operation", "value"),
    [(extended, [1]), (extended, (1,)), (extended, {1}), (united, {1}), (queued, [1]), (queued, (1,)), (queued, {1})],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_a_container_takes_a_lazy_result_in_place(operation: Callable[[Any], Any], value: Any) -> None:
    same, grown = operation(lazy(value))
    assert same
    assert list(grown) == [0, 1]


def test_addition_makes_a_new_list() -> None:
    rows = [0]
    assert rows + lazy([1]) == [0, 1]
    assert operator.add(rows, lazy([1])) == [0, 1]
    assert rows == [0]


def test_in_place_operators_of_arrays_change_the_array() -> None:
    array = np.ones(2)
    same = array
    array *= lazy(3)
    assert array is same
    assert array.tolist() == [3, 3]
    out = np.zeros(2)
    assert np.add(lazy([1, 2]), 1, out=out) is out
    assert np.asarray(lazy(out)) is out


# --- Files, contexts, exact types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_a_path_opens_and_joins_as_the_value(kind: Callable[[Any], Any], tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("content")
    p = lazy(kind(tmp_path / "data.txt"))
    with open(p) as file:
        assert file.read() == "content"
    assert os.fspath(p) == os.fspath(fetch(p))
    assert type(os.path.join(p, p)) is type(os.fspath(fetch(p)))
    with open(lazy(os.open(fetch(p), os.O_RDONLY))) as file:
        assert file.read() == "content"


def test_a_lazy_file_closes_after_its_with_block(tmp_path: Path) -> None:
    own = open(tmp_path / "out", "w")  # noqa: SIM115
    with lazy(own) as file:
        assert file is own
        print("text", file=lazy(own))
    assert own.closed
    assert (tmp_path / "out").read_text() == "text\n"


def test_c_code_that_tests_exact_types_needs_the_resolved_value() -> None:
    p = lazy([lazy("a"), "b"])
    with pytest.raises(TypeError):
        json.dumps(p)
    assert json.dumps(resolve({"x": p})) == '{"x": ["a", "b"]}'
    with pytest.raises(TypeError):
        "".join([lazy("a")])
    assert "".join(resolve(p)) == "ab"


# --- resolve ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nested", "plain"),
    [
        (lazy(1), 1),
        ([lazy(1), [lazy(2)]], [1, [2]]),
        ((lazy(1), 2), (1, 2)),
        (Record(lazy("n"), [lazy(0.5)]), Record("n", [0.5])),
        ({"a": lazy(1), lazy("b"): {"c": (lazy(2),)}}, {"a": 1, "b": {"c": (2,)}}),
        ({lazy(1), 2}, {1, 2}),
        (frozenset([lazy(1)]), frozenset([1])),
        (lazy([lazy(1)]), [1]),
        (lazy(None), None),
        (collections.OrderedDict(x=lazy(1)), collections.OrderedDict(x=1)),
        (collections.Counter({"a": lazy(2)}), collections.Counter({"a": 2})),
    ],
    ids=lambda value: type(value).__name__,
)
def test_resolve_gives_plain_values_at_any_depth(nested: Any, plain: Any) -> None:
    assert alike(resolve(nested), plain)
    assert "LazyEvalWrapper" not in str(pickle.dumps(resolve(nested)))


@pytest.mark.parametrize(
    "value",
    [5, None, "text", [1, [2]], (1, (2,)), {"a": [1]}, {1}, frozenset([1]), Record(1, 2), np.ones(2), Holder(lazy(1))],
    ids=lambda value: type(value).__name__,
)
def test_resolve_returns_what_holds_nothing_lazy_as_it_is(value: Any) -> None:
    assert resolve(value) is value


def test_resolve_changes_no_container_and_keeps_the_untouched_parts() -> None:
    p, part = lazy(1), [0]
    nested: dict[str, Any] = {"a": [p], "b": part}
    plain = resolve(nested)
    assert nested["a"][0] is p
    assert plain["b"] is part


def test_resolve_keeps_default_factories_and_shared_parts() -> None:
    table = collections.defaultdict(list, {"a": lazy([1])})
    assert resolve(table)["other"] == []
    shared = [lazy(1)]
    one, two = resolve([shared, shared])
    assert one is two


def test_resolve_ends_on_a_container_that_contains_itself() -> None:
    loop: list[Any] = [lazy(1)]
    loop.append(loop)
    assert resolve(loop)[0] == 1


# --- Copies and pickles -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [None, 5, "text", [1], {"a": (1, 2)}, int, len, Money(3), Path("x")], ids=repr)
def test_a_pickle_holds_the_value_and_never_the_wrapper(value: Any, protocol: int) -> None:
    data = pickle.dumps(lazy(value), protocol)
    assert b"minipipe" not in data
    assert b"LazyEvalWrapper" not in data
    assert alike(pickle.loads(data), value)
    assert alike(pickle.loads(pickle._dumps(lazy(value), protocol)), value)  # type: ignore[attr-defined]


def test_pickles_keep_one_object_one() -> None:
    own = [1]
    p = lazy(own)
    first_one, second_one, third_one = pickle.loads(pickle.dumps([p, p, own]))
    assert first_one is second_one is third_one


def test_functions_behind_lazy_results_travel_by_value() -> None:
    assert pickle.loads(cloudpickle.dumps({"f": lazy(lambda x: x + 1)}))["f"](1) == 2


def test_copies_are_copies_of_the_value() -> None:
    own = [[1]]
    shallow, deep = copy.copy(lazy(own)), copy.deepcopy(lazy(own))
    assert type(shallow) is type(deep) is list
    assert shallow is not own
    assert shallow[0] is own[0]
    assert deep[0] is not own[0]


# --- Any numbers, any texts -------------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-40, 40), st.floats(-1e6, 1e6), st.booleans(), st.fractions(max_denominator=50))
ARITHMETIC = [
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, divmod),
    *(operator.and_, operator.or_, operator.xor, operator.lshift, operator.eq, operator.ne, operator.lt, operator.ge),
    *(operator.iadd, operator.isub, operator.imul, operator.ifloordiv, operator.matmul),
]


@given(NUMBERS, NUMBERS, st.sampled_from(ARITHMETIC))
def test_arithmetic_with_lazy_results_on_either_side_is_that_of_the_values(
    one: Any, two: Any, operation: Callable[[Any, Any], Any]
) -> None:
    expected = outcome(lambda _: operation(one, two), None)
    assert alike(outcome(lambda p: operation(p, two), lazy(one)), expected)
    assert alike(outcome(lambda p: operation(one, p), lazy(two)), expected)
    assert alike(outcome(lambda p: operation(p, lazy(two)), lazy(one)), expected)


def test_a_power_with_a_modulo_works_from_the_right_where_python_asks_for_it() -> None:
    p = lazy(3)
    assert type(p).__rpow__(p, 2, 5) == 3  # pow(2, p, 5) in Python 3.14


@given(st.one_of(st.text(max_size=8), st.lists(st.integers(), max_size=4)), st.integers(-9, 9), st.integers(-9, 9))
def test_indexing_slicing_and_repeating_are_those_of_the_value(value: Any, start: int, stop: int) -> None:
    p = lazy(value)
    assert alike(p[start:stop], value[start:stop])
    assert alike(value[lazy(start) : lazy(stop)], value[start:stop])
    assert alike(outcome(lambda q: q[start], p), outcome(lambda q: q[start], value))
    assert alike(lazy(start) * value, start * value)
    assert alike(value * lazy(start), start * value)


def test_the_module_needs_no_numpy() -> None:
    script = (
        "import sys\nfrom minipipe.sdk.proxy import LazyEvalWrapper\n"
        "p = LazyEvalWrapper(lambda: [1])\nassert (p + [2], str(p), p == [1]) == ([1, 2], '[1]', True)\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2], timeout=60)
