"""How a script writes what ClearML reads otherwise: defaults (MP104), decorators (MP105), results (MP106), references (MP107), names
and paths of this machine (MP108), parents (MP109), plain results into cached steps (MP110)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from minipipe.portable import Component, Finding, Script

_REFERENCE = re.compile(r"\$\{([^{}]*)\}")
# Calls whose result lives in one process: the last part of the name, and the module if it matters.
_UNSTORABLE = {
    "open": "an open file",
    "Lock": "a lock",
    "RLock": "a lock",
    "Semaphore": "a lock",
    "BoundedSemaphore": "a lock",
    "Condition": "a lock",
    "Event": "a lock",
    "Thread": "a thread",
    "Queue": "a queue",
    "socket": "a connection",
    "connect": "a connection",
    "create_connection": "a connection",
    "create_engine": "a connection",
    "Popen": "a process",
    "TemporaryFile": "an open file",
    "NamedTemporaryFile": "an open file",
}


def check(script: Script) -> Iterator[Finding]:
    """All findings but those about names."""
    yield from _defaults(script)
    yield from _decorators(script)
    yield from _results(script)
    yield from _steps(script)
    yield from _native(script)
    yield from _parents(script)
    yield from _plain_results(script)


# -- MP104 and paths (MP108) ----------------------------------------------------------------------------------------------


def _defaults(script: Script) -> Iterator[Finding]:
    for component in script.components:
        spec = component.node.args
        plain = [*spec.posonlyargs, *spec.args]
        pairs = list(zip(plain[len(plain) - len(spec.defaults) :], spec.defaults, strict=True))
        pairs += [(arg, default) for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if default is not None]
        for argument, default in pairs:
            what = _unstorable(default)
            if what:
                yield script.finding(
                    default, "MP104", f"default of '{argument.arg}' is {what}: it cannot be stored; make it in the component"
                )
            elif path := _local_path(script, default):
                yield script.finding(
                    default, "MP108", f"default of '{argument.arg}' is the path {path!r}: an agent has no such file"
                )
    for pipeline in script.pipelines:
        for default in (*pipeline.args.defaults, *(each for each in pipeline.args.kw_defaults if each is not None)):
            if path := _local_path(script, default):
                yield script.finding(default, "MP108", f"the default {path!r} is a path: an agent has no such file")


def _unstorable(node: ast.expr) -> str:
    if isinstance(node, ast.Lambda):
        return "a lambda"
    if isinstance(node, ast.GeneratorExp):
        return "a generator"
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return _UNSTORABLE.get(name, "")
    return ""


def _local_path(script: Script, node: ast.expr) -> str:
    """A text that is a path of this machine; "" if it is none."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Path") and len(node.args) == 1:
        node = node.args[0]
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or len(node.value) > 1000 or "\n" in node.value:
        return ""
    text = node.value
    if text.startswith(("~/", "./", "../")) or re.match(r"/(home|Users|root|tmp|data|mnt|opt|srv|var)/", text):
        return text
    separated = "/" in text.strip("/") or "." in text
    return text if separated and "://" not in text and "\0" not in text and (script.folder / text).exists() else ""


# -- MP105 ----------------------------------------------------------------------------------------------------------------


def _decorators(script: Script) -> Iterator[Finding]:
    for component in script.components:
        if not component.decorated:
            continue
        name = component.node.name
        for place, decorator in enumerate(component.node.decorator_list):
            function = decorator.func if isinstance(decorator, ast.Call) else decorator
            text = ast.unparse(function)
            if text.rpartition(".")[2] != "component":
                continue
            if not isinstance(decorator, ast.Call):
                wrong = "without parentheses"
            elif "." not in text:
                wrong = "as a bare name"
            elif text.count(".") > 1:
                wrong = "with its package"
            elif place:
                wrong = "below another decorator"
            else:
                continue
            yield script.finding(
                decorator,
                "MP105",
                f"@{text} of '{name}' {wrong} stays in the step's script; write @PipelineDecorator.component(…) first",
            )


# -- MP106 ----------------------------------------------------------------------------------------------------------------


def _results(script: Script) -> Iterator[Finding]:
    """Uses of what a component's call returns, in pipelines."""
    components = {component.node.name for component in script.components if component.decorated}
    for pipeline in script.pipelines:
        lazy: set[str] = set()
        for statement in ast.walk(pipeline):
            if isinstance(statement, ast.Assign) and _is_call(statement.value, components):
                for target in statement.targets:
                    lazy |= {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}
        for node in ast.walk(pipeline):
            yield from _use(script, node, components, lazy)


def _is_call(node: ast.AST, components: set[str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in components


def _use(script: Script, node: ast.AST, components: set[str], lazy: set[str]) -> Iterator[Finding]:
    def is_lazy(part: ast.AST) -> bool:
        return (isinstance(part, ast.Name) and part.id in lazy) or _is_call(part, components)

    def shown(part: ast.AST) -> str:
        return ast.unparse(part)[:30]

    if isinstance(node, ast.FormattedValue) and node.format_spec is not None and is_lazy(node.value):
        yield script.finding(
            node.value,
            "MP106",
            f"a format for the result '{shown(node.value)}' is a TypeError in ClearML; convert it first: float(…)",
        )
    elif isinstance(node, ast.BinOp) and is_lazy(node.right) and not is_lazy(node.left):
        sequence = isinstance(node.left, (ast.List, ast.Tuple, ast.JoinedStr)) or (
            isinstance(node.left, ast.Constant) and isinstance(node.left.value, (str, bytes))
        )
        if isinstance(node.op, ast.FloorDiv) or (isinstance(node.op, ast.Add) and sequence):
            yield script.finding(
                node,
                "MP106",
                f"`{shown(node)}` fails in ClearML: the result stands on the right; convert it first: str(…), int(…)",
            )
    elif isinstance(node, ast.Compare):
        for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            if isinstance(operator, (ast.Is, ast.IsNot)) and (is_lazy(left) or is_lazy(right)):
                yield script.finding(node, "MP106", f"`{shown(node)}` compares the result itself, never its value; write == None")
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        parts = [inner for argument in node.args for inner in ast.walk(argument) if is_lazy(inner)]
        if parts and (name in ("json.dumps", "json.dump", "open") or name.endswith(".join")):
            yield script.finding(
                parts[0], "MP106", f"{name}() needs the value of '{shown(parts[0])}'; convert it first: str(…), int(…)"
            )


# -- MP107 ----------------------------------------------------------------------------------------------------------------


def _steps(script: Script) -> Iterator[Finding]:
    calls = [
        node
        for node in ast.walk(script.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("add_step", "add_function_step")
    ]
    names = [_name(call) for call in calls]
    known = None if None in names else {name for name in names if name}
    for call, name in zip(calls, names, strict=True):
        if name == "pipeline":
            yield script.finding(call, "MP107", "a step cannot be called 'pipeline': ${pipeline.…} means the parameters")
        recursive = any(word.arg == "recursively_parse_parameters" for word in call.keywords)
        for word in call.keywords:
            if word.arg == "parameter_override" and isinstance(word.value, ast.Dict):
                yield from _sections(script, word.value)
            if word.arg in ("parameter_override", "function_kwargs", "task_overrides", "configuration_overrides"):
                yield from _references(script, word.value, known, recursive)


def _name(call: ast.Call) -> str | None:
    """The step's name; None if only running the script can say it."""
    given = next((word.value for word in call.keywords if word.arg == "name"), call.args[0] if call.args else None)
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None


def _sections(script: Script, overrides: ast.Dict) -> Iterator[Finding]:
    for key in overrides.keys:
        if isinstance(key, ast.Constant) and isinstance(key.value, str) and "/" not in key.value:
            yield script.finding(
                key, "MP107", f"parameter '{key.value}' has no section: write 'General/{key.value}' or 'Args/{key.value}'"
            )


def _references(script: Script, value: ast.expr, known: set[str] | None, recursive: bool) -> Iterator[Finding]:
    nested = {
        id(inner)
        for node in ast.walk(value)
        if isinstance(node, (ast.List, ast.Tuple, ast.Set)) or (isinstance(node, ast.Dict) and node is not value)
        for inner in ast.walk(node)
    }
    for node in ast.walk(value):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        for text in _REFERENCE.findall(node.value):
            step = text.partition(".")[0]
            if known is not None and step != "pipeline" and step not in known:
                yield script.finding(node, "MP107", f"'${{{text}}}' names no step; there are {', '.join(sorted(known))}")
            elif id(node) in nested and not recursive:
                yield script.finding(
                    node, "MP107", f"'${{{text}}}' in a list or dict is left as it is without recursively_parse_parameters=True"
                )


# -- MP108 ----------------------------------------------------------------------------------------------------------------


def _native(script: Script) -> Iterator[Finding]:
    told: set[int] = set()
    for name, node in script.native.items():
        if id(node) not in told:
            told.add(id(node))
            yield script.finding(
                node, "MP108", f"'{name}' comes from minipipe: an agent has clearml only; import it from clearml"
            )
    for component in script.components:
        for word in component.call.keywords if component.call is not None else ():
            if word.arg == "cache" and isinstance(word.value, ast.Constant) and not isinstance(word.value.value, bool):
                yield script.finding(
                    word.value, "MP108", f"cache={word.value.value!r} is minipipe's: ClearML knows True and False"
                )


# -- MP109, MP110 -----------------------------------------------------------------------------------------------------------


def _parents(script: Script) -> Iterator[Finding]:
    for component in script.components:
        given = _argument(component, "parents") if component.decorated else None
        if given is not None and not (
            isinstance(given, (ast.List, ast.Tuple, ast.Constant)) and not getattr(given, "elts", None)
        ):
            yield script.finding(
                given,
                "MP109",
                f"parents of component '{component.node.name}' only draw an edge in ClearML: it does not wait for them; give it one"
                " of their results",
            )


def _plain_results(script: Script) -> Iterator[Finding]:
    """Plain results of steps that run each time, as arguments of cached steps: ClearML's key then holds the new task's id."""
    known = {component.node.name: component for component in script.components if component.decorated}
    fickle = {name for name, component in known.items() if not _is_cached(component) and _is_plain(component.node)}
    for pipeline in script.pipelines:
        from_steps: dict[str, str] = {}
        for statement in ast.walk(pipeline):
            if isinstance(statement, ast.Assign) and _is_call(statement.value, fickle):
                for target in statement.targets:
                    if isinstance(target, ast.Name):
                        from_steps[target.id] = ast.unparse(statement.value.func)  # type: ignore[attr-defined]
        for call in ast.walk(pipeline):
            if not (_is_call(call, set(known)) and _is_cached(known[call.func.id])):  # type: ignore[attr-defined]
                continue
            assert isinstance(call, ast.Call)
            for given in (*call.args, *(word.value for word in call.keywords)):
                source = from_steps.get(given.id, "") if isinstance(given, ast.Name) else ""
                if not source and _is_call(given, fickle):
                    source = ast.unparse(given.func)  # type: ignore[attr-defined]
                if source:
                    yield script.finding(
                        given,
                        "MP110",
                        f"'{source}' runs each time and gives a plain value: in ClearML the cached"
                        f" '{ast.unparse(call.func)}' then runs each time too; cache '{source}' as well",
                    )


def _argument(component: Component, name: str) -> ast.expr | None:
    words = component.call.keywords if component.call is not None else []
    return next((word.value for word in words if word.arg == name), None)


def _is_cached(component: Component) -> bool:
    given = _argument(component, "cache")
    return isinstance(given, ast.Constant) and bool(given.value)


_PLAIN_CALLS = frozenset("int float str bool len sum round abs".split())


def _is_plain(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """True if it surely gives a number, text or bool: by its annotation, or by each of its return statements."""
    if isinstance(function.returns, ast.Name):
        return function.returns.id in ("int", "float", "str", "bool")
    given = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
    return bool(given) and all(
        isinstance(value, (ast.JoinedStr, ast.Compare))
        or (isinstance(value, ast.Constant) and value.value is not None)
        or (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in _PLAIN_CALLS)
        for value in given
    )
