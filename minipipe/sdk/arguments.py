"""How arguments travel to a step: scalars as parameters, lazy results by reference, everything else as bytes.

ClearML's rules (what is a parameter, what an artifact, how results are named); the references inside containers are minipipe's:
a lazy result in a list, dict, tuple or attribute is never fetched, the container is stored with holes that the child fills.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minipipe import errors, hashing
from minipipe.sdk import display, proxy, values
from minipipe.shown import warn
from minipipe.store import blobs, codec
from minipipe.store.home import Store
from minipipe.store.tasks import Link, Parameter

Serializer = Callable[[Any], bytes | bytearray] | None


@dataclass(frozen=True, slots=True)
class Reference:
    """A result that a step will have: what a lazy result stands for.

    Attributes:
        task_id, uid: the step's task.
        output: name of the result.
        store: path of its store; a result of another store is fetched, not referred to.
    """

    task_id: int
    uid: str
    output: str
    store: Path

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str] | None:
        return display.result_bundle(self.store, self.task_id, self.output)

    def _repr_html_(self) -> str | None:
        return (self._repr_mimebundle_() or {}).get("text/html")


@dataclass(slots=True)
class Arguments:
    """The arguments of one call, ready to be submitted."""

    parameters: list[Parameter] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    key_parts: list[str] = field(default_factory=list)
    unstable: list[str] = field(default_factory=list)


def bind(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any], step: str, depth: int = 2
) -> dict[str, Any]:
    """Name every argument, defaults included; surplus ones are called "0", "1" … (ClearML's rule).

    A required argument that the call leaves out is None, with a warning (ClearML's rule).

    Args:
        signature: of the function.
        args, kwargs: as given.
        step: shown in the warning.
        depth: frames between this function and the user's call, for the place that the warning names.

    Raises:
        BadCall: an unknown keyword, too many or double arguments; at the call, not in the step.
    """
    try:
        bound = signature.bind_partial(*args, **kwargs)
    except TypeError as error:
        said = str(error).removeprefix("got ")
        raise errors.BadCall(
            f"{step}() got {said}", f"it takes {', '.join(signature.parameters) or 'no arguments'}", "correct the call"
        ) from None
    found: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        name = parameter.name
        if parameter.kind is parameter.VAR_POSITIONAL:
            found.update((str(index), value) for index, value in enumerate(bound.arguments.get(name, ())))
        elif parameter.kind is parameter.VAR_KEYWORD:
            found.update(bound.arguments.get(name, {}))
        elif name in bound.arguments:
            found[name] = bound.arguments[name]
        elif parameter.default is not parameter.empty:
            found[name] = parameter.default
        else:
            warn(f"{step}() was called without {name!r}: None is passed", stacklevel=depth + 1)
            found[name] = None
    return found


def result_names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """The names of a step's results; a single text is one name, commas included (ClearML's rule).

    Raises:
        BadPipeline: a name is given twice.
    """
    names = (given,) if isinstance(given, str) else tuple(given or ())
    double = {name for name in names if names.count(name) > 1}
    if double:
        raise errors.BadPipeline(f"the results name {sorted(double)[0]!r} twice", hint="give each result its own name")
    return names


def encode(
    store: Store,
    step: str,
    run_uid: str,
    given: dict[str, Any],
    called: str = "result_{step}_{argument}",
    serialize: Serializer = None,
) -> Arguments:
    """Turn named values into parameters, links and edges; large ones are staged in the store.

    Args:
        store: where they are staged.
        step: name of the step.
        run_uid: id of its run.
        given: name -> value.
        called: what the run's artifact for a value that is no parameter is called.
        serialize: makes bytes of such a value.

    Raises:
        CannotTravel: an argument lives in one process; names step, argument and type.
    """
    found = Arguments()
    for name, value in given.items():
        if proxy.is_lazy(value):
            value = _encode_lazy(store, found, name, value)
            if value is _DONE:
                continue
        if values.is_scalar(value):
            found.parameters.append(values.cell("kwargs", name, value))
            found.key_parts += (name, codec.scalar_key(type(value).__name__, found.parameters[-1].value))
            continue
        try:
            _encode_object(store, found, name, value, called.format(step=step, argument=name), serialize)
        except errors.CannotTravel as error:
            kind = type(value)
            raise errors.CannotTravel(
                f"argument {name!r} of {step}() is a {kind.__module__}.{kind.__qualname__}", error.cause, error.hint
            ) from error
        if isinstance(value, (int, float, str)):  # a sub-class: shown as a parameter, passed with its type
            found.parameters.append(values.cell("kwargs", name, value))
        else:
            shown = f"{run_uid}.{called.format(step=step, argument=name)}"
            found.parameters.append(Parameter("kwargs_artifacts", name, shown, "", f'"{shown}"'))
    return found


_DONE = object()


def _encode_lazy(store: Store, found: Arguments, name: str, value: proxy.LazyEvalWrapper) -> Any:
    reference = proxy.reference_of(value)
    if not isinstance(reference, Reference) or reference.store != store.path:
        return proxy.fetch(value)
    found.links.append(Link("reference", name, None, reference.task_id, reference.output))
    found.parents.append(reference.task_id)
    found.key_parts += (name, "reference")
    shown = f"{reference.uid}.{reference.output}"
    found.parameters.append(Parameter("kwargs_artifacts", name, shown, "", f'"{shown}"'))
    return _DONE


def _encode_object(store: Store, found: Arguments, name: str, value: Any, published: str, serialize: Serializer) -> None:
    held: list[Reference] = []
    numbers: dict[int, int] = {}

    def hole(item: object) -> str | None:
        """What stands for a lazy result inside the pickle: its place in the list of references."""
        if not proxy.is_lazy(item):
            return None
        if id(item) not in numbers:
            reference = proxy.reference_of(item)
            if not isinstance(reference, Reference) or reference.store != store.path:
                return None
            numbers[id(item)] = len(held)
            held.append(reference)
        return f"{name}#{numbers[id(item)]}"

    own = serialize is not None and not isinstance(value, (int, float, str)) and not _holds_lazy(value)
    encoded = (
        codec.as_serialized(codec.encode(store, bytes(serialize(value)))) if serialize and own else _stage(store, value, hole)
    )
    if held:
        encoded = codec.as_structure(encoded)
    whole = not held and not isinstance(value, (int, float, str))
    found.links.append(Link("input", name, encoded, published=published if whole else None))
    for number, reference in enumerate(held):
        found.links.append(Link("reference", f"{name}#{number}", None, reference.task_id, reference.output))
        found.parents.append(reference.task_id)
    found.key_parts.append(name)
    try:
        found.key_parts.append(_key_of(value, encoded, hole))
    except hashing.Unstable as unstable:
        found.unstable.append(f"{name} ({unstable.message})")


def _stage(store: Store, value: Any, hole: Callable[[object], str | None]) -> codec.Encoded:
    if isinstance(value, (list, dict, tuple)) or not isinstance(value, (bytes, Path)):
        # One walk finds lazy results wherever they are; plain containers and arrays have a better format than pickle.
        if not _holds_lazy(value) and codec.has_own_format(value):
            return codec.encode(store, value)
        writer = blobs.Writer(store)
        try:
            codec.dump(value, writer, hole)
            staged = writer.finish()
        except BaseException:
            writer.discard()
            raise
        return codec.Encoded(staged, "pickle", codec.label_of(value), "", _preview(value), {}, writer)
    return codec.encode(store, value)


def _holds_lazy(value: Any) -> bool:
    todo, seen = [value], 0
    while todo and seen < 100_000:
        item = todo.pop()
        seen += 1
        if proxy.is_lazy(item):
            return True
        if type(item) in (list, tuple):
            todo.extend(item)
        elif type(item) is dict:
            todo.extend(item.values())
    return False


def _preview(value: Any) -> str:
    return f"{type(value).__name__} with results of other steps" if _holds_lazy(value) else codec.preview(value)


def _key_of(value: Any, encoded: codec.Encoded, hole: Callable[[object], str | None]) -> str:
    if encoded.key:
        return encoded.key

    def reference(item: object) -> str | None:
        place = hole(item)
        return None if place is None else hashing.combine("hole", place)

    return hashing.value_digest(value, reference=reference)
