"""The lazy result of a step: becomes the value when touched, travels as a reference when passed on.

The value is fetched once, when first needed. Each method of the class hands the work to the matching builtin (``len``,
``operator.add``...) applied to the value, so results, types and errors are those of the value.

A wrapper cannot intercept a few uses; call ``resolve`` first for:

* ``p is None``, and C code that tests exact types (``json.dumps``, ``"".join``, ``time.sleep``, scalars in pandas);
* ``os.stat``, ``os.path.exists``, ``os.listdir``, which take what has ``__index__`` for a file descriptor (``open``,
  ``os.fspath``, ``os.path.join`` and ``Path(p)`` work);
* ``"%s %s" % p`` and ``array[p]`` where the value is a tuple, and ``pow(2, p, 5)`` before Python 3.14.
"""

import copy
import dis
import functools
import math
import operator
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeGuard, TypeVar

from minipipe.mutex import Mutex

__all__ = ["LazyEvalWrapper", "fetch", "is_lazy", "peek", "reference_of", "resolve"]

T = TypeVar("T")

# Guards the references of all proxies. Not the lock of a fetch: passing a proxy on must not wait for its step (D1).
_reference_lock = Mutex()


class _Cell:
    """What one proxy knows: its callback until the value or the error is there, and its reference."""

    __slots__ = ("callback", "done", "error", "lock", "pending_reference", "reference", "value")

    def __init__(self, callback: Callable[[], Any], reference: object) -> None:
        self.callback: Any = callback
        self.done = False
        self.value: Any = None
        self.error: Exception | None = None
        self.lock = Mutex()  # re-entrant: a callback that uses its own proxy must fail, not hang
        self.reference = reference
        self.pending_reference = True

    def fetch(self) -> Any:
        with self.lock:
            if self.error is not None:
                raise self.error.with_traceback(None)  # or the traceback would grow with each use
            if not self.done:
                try:
                    self.value = _plain(self.callback())
                except Exception as error:  # an interrupt is no result: the next use asks again
                    self.error, self.callback = error, None
                    raise
                self.done, self.callback = True, None  # the callback may hold much and is not needed again
            return self.value


class LazyEvalWrapper:
    """A value that is fetched once, when first used (ClearML's class and constructor).

    ``type(p)``, ``id(p)``, ``callable(p)`` (True) and ``isinstance(p, LazyEvalWrapper)`` do not fetch; ``p.__class__``
    and ``isinstance(p, X)`` do and tell the value's class. Copies and pickles are those of the value.

    Args:
        callback: returns the value; called once, by the first thread in need. What it raises is raised at every use.
        remote_reference: what travels when the proxy is passed on, or a callable that returns it (called once).
    """

    __slots__ = ("__weakref__", "_minipipe_cell")

    def __init__(self, callback: Callable[[], Any], remote_reference: object = None) -> None:
        object.__setattr__(self, "_minipipe_cell", _Cell(callback, remote_reference))

    def __getattribute__(self, name: str) -> Any:
        cell = _cell(self)
        if name in _HIDDEN:
            raise AttributeError(name)
        if not cell.done:
            if name in _DISPLAYED:  # until it has its value, a notebook shows what it stands for
                return getattr(reference_of(self), name)
            if name.startswith(_PROBED):
                raise AttributeError(name)
            if name == "__class__" and _asked_by_a_display(sys._getframe(1)):
                return LazyEvalWrapper
        value = cell.value if cell.done else cell.fetch()
        own = _OWN_ATTRIBUTES.get(name)
        return getattr(value, name) if own is None else own(value)

    # NumPy finds these two on the class, so they take part even when the proxy is not the first operand.
    def __array_ufunc__(self, ufunc: Any, method: str, /, *inputs: Any, **kwargs: Any) -> Any:
        operands, last = [_plain(operand) for operand in inputs], type(_plain(inputs[-1]))
        if hasattr(last, "__array_priority__") and not hasattr(last, "__array_ufunc__") and not kwargs:
            # ``array @ p`` with a sparse matrix: array leaves the work to it, which only the operator can say.
            ufunc = _OPERATOR_OF_UFUNC.get((ufunc.__name__, method), ufunc)
        return getattr(ufunc, method)(*operands, **resolve(kwargs))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return func(*resolve(args), **resolve(kwargs))


def is_lazy(obj: object) -> TypeGuard[LazyEvalWrapper]:
    """Whether an object is a lazy result; never fetches."""
    return issubclass(type(obj), LazyEvalWrapper)


def fetch(proxy: LazyEvalWrapper) -> Any:
    """The value of a lazy result, waiting for it if need be; raises what its callback raised."""
    cell = _cell(proxy)
    return cell.value if cell.done else cell.fetch()


def peek(proxy: LazyEvalWrapper) -> tuple[bool, Any]:
    """Whether a lazy result has its value already, and the value (else None); never fetches or waits."""
    cell = _cell(proxy)
    return (True, cell.value) if cell.done else (False, None)


def reference_of(proxy: LazyEvalWrapper) -> object:
    """What a lazy result refers to (its ``remote_reference``); never fetches or waits for the value."""
    cell = _cell(proxy)
    with _reference_lock:
        if cell.pending_reference and callable(cell.reference):
            cell.reference = cell.reference()
        cell.pending_reference = False
    return cell.reference


def resolve(value: T) -> T:
    """The plain value behind lazy results, also inside lists, tuples, dicts (keys and values) and sets at any depth.

    Containers that hold nothing lazy are returned as they are, others are rebuilt with their own type; none is changed.
    Other objects are not looked into. Raises what the callback of a lazy result raised.

    >>> resolve({"loss": [LazyEvalWrapper(lambda: 0.5)]})
    {'loss': [0.5]}
    """
    plain: T = _resolve(value, {})
    return plain


def _resolve(value: Any, seen: dict[int, Any]) -> Any:
    if not isinstance(value := _plain(value), (list, tuple, dict, set, frozenset)):
        return value
    if id(value) not in seen:
        seen[id(value)] = value  # ends the walk of a container that contains itself
        old = [part for item in value.items() for part in item] if isinstance(value, dict) else list(value)
        new = [_resolve(part, seen) for part in old]
        if any(map(operator.is_not, old, new)):
            seen[id(value)] = _rebuilt(value, new)
    return seen[id(value)]


def _rebuilt(container: Any, parts: list[Any]) -> Any:
    """A container like the given one with other parts (of a dict: key, value, key, value...)."""
    if isinstance(container, (tuple, frozenset)):
        make = getattr(type(container), "_make", type(container))  # a named tuple takes its parts one by one
        return make(parts)
    rebuilt = copy.copy(container)  # keeps a default factory and other attributes of sub-classes
    rebuilt.clear()
    if isinstance(container, dict):
        for key, item in zip(parts[::2], parts[1::2], strict=True):
            rebuilt[key] = item  # not update(): a Counter would add up
    else:
        (rebuilt.extend if isinstance(container, list) else rebuilt.update)(parts)
    return rebuilt


def _cell(proxy: LazyEvalWrapper) -> _Cell:
    cell: _Cell = object.__getattribute__(proxy, "_minipipe_cell")
    return cell


def _plain(obj: Any) -> Any:
    return fetch(obj) if is_lazy(obj) else obj


# Notebooks and ABCMeta look for these on anything they meet; being asked is no use of the value.
_PROBED = ("_repr_", "_ipython_", "__isabstractmethod__")
_DISPLAYED = ("_repr_mimebundle_", "_repr_html_")
# NumPy prefers these to __array__, but they lose the unit of datetime64 and cannot carry objects.
_HIDDEN = ("__array_interface__", "__array_struct__")


def _asked_by_a_display(frame: FrameType) -> bool:
    """Whether IPython itself, not code in a cell, asks for the class: it does before it displays anything."""
    if frame.f_globals.get("__name__") == "inspect" and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")).startswith("IPython.")


def _as_array(value: Any, dtype: Any = None, copy: bool | None = None) -> Any:
    return sys.modules["numpy"].array(value, dtype=dtype, copy=copy)


_OWN_ATTRIBUTES: dict[str, Callable[[Any], Any]] = {
    # Numbers, lists... get one too, or NumPy would store the proxy as an object.
    "__array__": lambda value: getattr(value, "__array__", functools.partial(_as_array, value)),
    # isinstance(p, os.PathLike) is True for any proxy: pandas then asks for this and takes what it gets.
    "__fspath__": lambda value: getattr(value, "__fspath__", lambda: value),
    # A call whose result is the value itself, from the standard library: the reader of the pickle needs no minipipe.
    "__reduce_ex__": lambda value: lambda protocol: (operator.getitem, ((value,), 0)),
}


def _by_name(*calls: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    return {f"__{call.__name__}__": call for call in calls}


# Operators and protocols: Python looks them up on the class, so each needs a method.
_UNARY = _by_name(
    *(operator.neg, operator.pos, operator.invert, operator.index, abs, math.trunc, math.floor, math.ceil),
    *(int, float, complex, str, bytes, bool, repr, hash, len, iter, next, reversed, aiter, anext),
    *(operator.length_hint, dir, os.fspath, copy.copy),
)
_BINARY = _by_name(
    *(operator.lt, operator.le, operator.eq, operator.ne, operator.gt, operator.ge),
    *(operator.getitem, operator.delitem, operator.contains, delattr, format, copy.deepcopy),
)
_ANY_ARGUMENTS = _by_name(round, pow, setattr, operator.setitem)
_WITHOUT_BUILTIN = ("__enter__", "__exit__", "__aenter__", "__aexit__", "__await__")
_ARITHMETIC = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "lshift", "rshift", "and", "xor", "or")
_UFUNCS = {"add": "add", "subtract": "sub", "multiply": "mul", "matmul": "matmul", "divide": "truediv"}
_OPERATOR_OF_UFUNC = {(ufunc, "__call__"): getattr(operator, name) for ufunc, name in _UFUNCS.items()}


def _unary(op: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda self: op(fetch(self))


def _left(op: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda self, other: op(fetch(self), _plain(other))


def _swapped(op: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda self, other: op(other, fetch(self))


def _right(op: Callable[..., Any], name: str) -> Callable[..., Any]:
    """``x op p``; for ``x op= p`` with a built-in x the in-place form, which has to change x itself."""
    in_place_name, in_place = f"__i{name}__", getattr(operator, f"i{name}")

    def method(self: LazyEvalWrapper, other: Any, *modulo: Any) -> Any:
        if hasattr(type(other), in_place_name) and _is_augmented(sys._getframe(1)):
            return in_place(other, fetch(self))
        return op(other, fetch(self), *modulo)

    return method


def _any_arguments(op: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, /, *args, **kwargs: op(fetch(self), *args, **kwargs)


def _call(self: LazyEvalWrapper, /, *args: Any, **kwargs: Any) -> Any:
    value = fetch(self)
    # pandas (``frame[p]``) calls what is callable, as every proxy seems to be, and takes the rest as it is.
    if not callable(value) and sys._getframe(1).f_code.co_name == "apply_if_callable":
        return value
    return value(*args, **kwargs)


def _special(name: str) -> Callable[..., Any]:
    def method(self: LazyEvalWrapper, /, *args: Any) -> Any:
        cls = type(value := fetch(self))
        if not hasattr(cls, name):
            raise TypeError(f"{cls.__name__!r} object does not support the protocol of {name}")
        return getattr(cls, name)(value, *args)

    return method


@functools.cache
def _augmented_instructions() -> frozenset[tuple[int, int | None]]:
    """Opcode and argument of each augmented assignment, as this interpreter compiles it."""
    code = compile("a+=b;a-=b;a*=b;a@=b;a/=b;a//=b;a%=b;a**=b;a<<=b;a>>=b;a&=b;a^=b;a|=b", "", "exec")
    return frozenset((i.opcode, i.arg) for i in dis.get_instructions(code) if i.opname == "BINARY_OP")


def _is_augmented(frame: FrameType) -> bool:
    """Whether a frame is executing ``x op= p`` rather than ``x op p``.

    Python asks p for the reflected method before it extends a list or set x in place, and does not say which of the two
    was written: without this, ``rows += p`` would leave other names of the same list behind, and fail for a tuple.
    """
    return tuple(frame.f_code.co_code[frame.f_lasti : frame.f_lasti + 2]) in _augmented_instructions()


def _forwarders() -> dict[str, Callable[..., Any]]:
    """The methods of the proxy class, by name."""
    methods = {name: _unary(op) for name, op in _UNARY.items()}
    methods |= {name: _left(op) for name, op in _BINARY.items()}
    methods |= {name: _any_arguments(op) for name, op in _ANY_ARGUMENTS.items()}
    methods |= {name: _special(name) for name in _WITHOUT_BUILTIN}
    for name in _ARITHMETIC:
        op = getattr(operator, f"__{name}__")
        in_place = getattr(operator, f"i{name}")
        methods |= {f"__{name}__": _left(op), f"__r{name}__": _right(op, name), f"__i{name}__": _left(in_place)}
    return methods | {
        "__call__": _call,
        "__divmod__": _left(divmod),
        "__rdivmod__": _swapped(divmod),
        "__rpow__": _right(pow, "pow"),
        "__ipow__": _left(operator.ipow),
        "__instancecheck__": _swapped(isinstance),
        "__subclasscheck__": _swapped(issubclass),
    }


for _name, _method in _forwarders().items():
    setattr(LazyEvalWrapper, _name, _method)
