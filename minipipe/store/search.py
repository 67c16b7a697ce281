"""Tasks by what is known of them: projects, names, tags, status, text (ClearML's ``task_filter``). Everything here only reads."""

from __future__ import annotations

import datetime
import difflib
import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minipipe import errors, states
from minipipe.store.home import Store

ARCHIVED = "archived"  # ClearML's system tag; a column here

# What a task can be filtered, sorted and shown by: ClearML's name -> SQL.
_MOVED = "(SELECT max(e.at) FROM event e WHERE e.task_id = t.id AND e.kind = 'status')"
_FIELDS = {
    "id": "t.uid",
    "name": "t.name",
    "type": "t.type",
    "status": "t.status",
    "status_message": "t.reason",
    "status_reason": "t.reason",
    "comment": "t.comment",
    "project": "p.uid",
    "project.name": "p.name",
    "parent": "t.uid",  # replaced by the parent's id
    "created": "t.created_at",
    "started": "t.started_at",
    "completed": "t.ended_at",
    "last_update": "t.updated_at",
    "last_change": "t.updated_at",
    "status_changed": _MOVED,
    "last_iteration": "coalesce((SELECT max(m.iteration) FROM metric m WHERE m.task_id = t.id), 0)",
    "last_worker": "(SELECT w.name FROM event e JOIN worker w ON w.id = e.worker_id WHERE e.task_id = t.id ORDER BY e.id DESC LIMIT 1)",
    "active_duration": "t.duration_s",
    "execution.queue": "(SELECT q.uid FROM queue q WHERE q.name = t.queue)",
    "execution.queue.name": "t.queue",
    "script.entry_point": "coalesce(json_extract(t.entry, '$.file'), json_extract(t.entry, '$.qualname'))",
    "script.working_dir": "json_extract(t.entry, '$.cwd')",
    "script.binary": "json_extract(t.entry, '$.binary')",
    "script.repository": "json_extract(t.entry, '$.repository')",
    "script.branch": "json_extract(t.entry, '$.branch')",
    "script.version_num": "json_extract(t.entry, '$.commit')",
    "user": "''",
    "tags": "(SELECT json_group_array(g.name) FROM tag g WHERE g.task_id = t.id AND g.system = 0)",
    "system_tags": "(SELECT json_group_array(g.name) FROM tag g WHERE g.task_id = t.id AND g.system = 1)",
}
_TIMES = frozenset({"created", "started", "completed", "last_update", "last_change", "status_changed"})
_COMPARISON = re.compile(r"\s*(>=|<=|>|<)?\s*(\S.*?)\s*\Z")
_CHILDREN = (
    "t.id IN (WITH RECURSIVE given (id) AS (SELECT id FROM task WHERE uid IN (SELECT value FROM json_each(?))), child (id) AS ("
    "SELECT c.id FROM task c JOIN given g ON c.parent_id = g.id"
    " UNION SELECT c.id FROM task c JOIN task g ON c.template_id = g.id WHERE c.parent_id IS NULL AND g.parent_id IS NULL"
    " AND g.template_id IS NULL AND g.id IN given"
    " UNION SELECT c.id FROM task c JOIN child g ON c.template_id = g.id WHERE c.parent_id IS NULL) SELECT id FROM child)"
)


@dataclass(slots=True)
class _Query:
    """A SELECT that grows."""

    where: list[str] = field(default_factory=lambda: ["1"])
    values: list[Any] = field(default_factory=list)
    order: str = "t.updated_at DESC, t.id DESC"
    keep: list[Callable[[sqlite3.Row], bool]] = field(default_factory=list)
    page: int | None = None
    page_size: int = 500

    def add(self, sql: str, *values: Any) -> None:
        self.where.append(f"({sql})")
        self.values += values


def find(
    store: Store,
    *,
    ids: Sequence[str] | None = None,
    projects: Sequence[str] | None = None,
    name: str | None = None,
    pattern: str | None = None,
    tags: Sequence[str] = (),
    archived: bool = True,
    wanted: Mapping[str, Any] | None = None,
) -> list[sqlite3.Row]:
    """Rows of the tasks that fit, newest change first: all columns of ``task``, and the project as ``project`` and ``project_uid``.

    Args:
        store: where to look.
        ids: only these.
        projects: exact names.
        name: exact name.
        pattern: regular expression that is found anywhere in the name.
        tags: see `_tags`.
        archived: False leaves out archived ones.
        wanted: ClearML's ``task_filter``.

    Raises:
        UsageError: an unknown key or field of `wanted`, or a regular expression that is none.
    """
    query = _Query()
    if ids is not None:
        query.add("t.uid IN (SELECT value FROM json_each(?))", json.dumps([str(each) for each in ids]))
    if projects is not None:
        query.add("p.name IN (SELECT value FROM json_each(?))", json.dumps(list(projects)))
    if name is not None:
        query.add("t.name = ?", name)
    if pattern is not None:
        match = expression(pattern)
        query.keep.append(lambda row: match.search(row["name"]) is not None)
    if tags:
        _tags(query, tags, 0)
    if not archived:
        query.add("t.archived = 0")
    for key, value in (wanted or {}).items():
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1)
            raise errors.UsageError(
                f"task_filter has no key {key!r}", f"it knows {', '.join(_KEYS)}", f"did you mean {near[0]!r}?" if near else ""
            )
        if value is not None:
            _KEYS[key](query, value)
    rows = store.database.rows(
        "SELECT t.*, p.name AS project, p.uid AS project_uid FROM task t JOIN project p ON p.id = t.project_id"
        f" WHERE {' AND '.join(query.where)} ORDER BY {query.order}",
        query.values,
    )
    rows = [row for row in rows if all(keep(row) for keep in query.keep)]
    return rows if query.page is None else rows[query.page * query.page_size : (query.page + 1) * query.page_size]


def facts(store: Store, task_ids: Iterable[int], fields: Sequence[str]) -> list[dict[str, Any]]:
    """Fields of tasks by ClearML's names, in the order of the ids; times are datetimes in UTC.

    Raises:
        UsageError: an unknown field.
    """
    columns = ", ".join(f'{_field(name)} AS "{name}"' for name in fields)
    found = []
    for task_id in task_ids:
        row = store.database.row(f"SELECT {columns} FROM task t JOIN project p ON p.id = t.project_id WHERE t.id = ?", (task_id,))
        if row is not None:
            found.append({name: _shown(store, task_id, name, row[name]) for name in fields})
    return found


def _shown(store: Store, task_id: int, name: str, value: Any) -> Any:
    if name == "parent":
        return parent_of(store, task_id)
    if name in ("tags", "system_tags"):
        return json.loads(value)
    if name in _TIMES and value is not None:
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    return value


def parent_of(store: Store, task_id: int) -> str | None:
    """Id of a task's parent: its run or whatever was named; of a copy that of its source, else the source (ClearML's rule)."""
    found = store.database.row(
        # In one query: a script that copies itself makes a chain as long as you let it.
        "WITH RECURSIVE source (id, parent_id, template_id, far) AS (SELECT id, parent_id, template_id, 0 FROM task WHERE id = :id"
        " UNION ALL SELECT t.id, t.parent_id, t.template_id, far + 1 FROM source s JOIN task t ON t.id = s.template_id"
        " WHERE s.parent_id IS NULL)"
        " SELECT p.uid FROM task p WHERE p.id = (SELECT coalesce(parent_id, nullif(id, :id)) FROM source ORDER BY far DESC LIMIT 1)",
        {"id": task_id},
    )
    return None if found is None else str(found["uid"])


def projects(store: Store) -> list[sqlite3.Row]:
    """All projects: ``uid``, ``name``, and how many ``tasks`` each has, by name."""
    return store.database.rows(
        "SELECT p.id, p.uid, p.name, (SELECT count(*) FROM task t WHERE t.project_id = p.id) AS tasks FROM project p ORDER BY p.name"
    )


def missing_projects(store: Store, names: Iterable[str]) -> list[str]:
    """Those of the names that no project has."""
    return [name for name in names if store.database.row("SELECT 1 FROM project WHERE name = ?", (name,)) is None]


# -- task_filter ----------------------------------------------------------------------------------------------------------


def _field(name: str) -> str:
    if name not in _FIELDS:
        near = difflib.get_close_matches(name, _FIELDS, 1)
        raise errors.UsageError(
            f"a task has no field {name!r}", f"known are {', '.join(_FIELDS)}", f"did you mean {near[0]!r}?" if near else ""
        )
    return _FIELDS[name]


def _listed(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, (list, tuple, set, frozenset)) else [str(value)]


def expression(pattern: str) -> re.Pattern[str]:
    """A regular expression.

    Raises:
        UsageError: it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise errors.UsageError(f"{pattern!r} is no regular expression", str(error)) from None


def _one_of(sql: str) -> Callable[[_Query, Any], None]:
    def add(query: _Query, value: Any) -> None:
        given = _listed(value)
        out = [each.removeprefix("-") for each in given if each.startswith("-")]
        into = [each for each in given if not each.startswith("-")]
        if into:
            query.add(f"{sql} IN (SELECT value FROM json_each(?))", json.dumps(into))
        if out:
            query.add(f"{sql} NOT IN (SELECT value FROM json_each(?))", json.dumps(out))

    return add


def _status(query: _Query, value: Any) -> None:
    for each in _listed(value):
        if each.removeprefix("-") not in states.TaskStatusEnum.__members__:
            raise errors.UsageError(f"{each!r} is no status", f"known are {', '.join(states.STATUSES)}")
    _one_of("t.status")(query, value)


def _type(query: _Query, value: Any) -> None:
    for each in _listed(value):
        states.task_type(each.removeprefix("-"))
    _one_of("t.type")(query, value)


def _parents(query: _Query, value: Any) -> None:
    query.add(_CHILDREN, json.dumps(_listed(value)))


def _named(query: _Query, value: Any) -> None:
    match = expression(str(value))
    query.keep.append(lambda row: match.search(row["name"]) is not None)


def _text(query: _Query, value: Any) -> None:
    sql = " OR ".join(f"instr(lower({column}), lower(?))" for column in ("t.name", "t.comment", "t.uid"))
    query.add(sql, *[str(value)] * 3)


def _order(query: _Query, value: Any) -> None:
    parts = []
    for each in _listed(value):
        down = each.startswith("-")
        parts.append(f"{_field(each.removeprefix('-'))} {'DESC' if down else 'ASC'}")
    query.order = ", ".join([*parts, "t.id DESC"])


def _changed(sql: str) -> Callable[[_Query, Any], None]:
    def add(query: _Query, value: Any) -> None:
        for each in _listed(value):
            match = _COMPARISON.match(each)
            if match is None:
                raise errors.UsageError(f"{each!r} is no comparison with a time", hint='for example ">2024-01-31T12:00:00"')
            query.add(f"{sql} {match[1] or '='} ?", _time(match[2]))

    return add


def _time(text: str) -> float:
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise errors.UsageError(f"{text!r} is no time", hint="for example 2024-01-31T12:00:00") from None
    return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()


def _pattern(decide: Callable[[Iterable[bool]], bool]) -> Callable[[_Query, Any], None]:
    def add(query: _Query, value: Any) -> None:
        if not isinstance(value, Mapping) or set(value) != {"fields", "pattern"}:
            raise errors.UsageError(f"{value!r} is no pattern for task_filter", hint="dict(fields=['name'], pattern='…')")
        match, fields = expression(str(value["pattern"])), _listed(value["fields"])
        for name in fields:
            if name not in _TEXTS:
                raise errors.UsageError(f"task_filter has no text {name!r} to match", f"it has {', '.join(_TEXTS)}")
        query.keep.append(lambda row: decide(match.search(str(_TEXTS[name](row) or "")) is not None for name in fields))

    return add


def _entry(key: str) -> Callable[[sqlite3.Row], Any]:
    return lambda row: json.loads(row["entry"]).get(key)


_TEXTS: dict[str, Callable[[sqlite3.Row], Any]] = {
    "id": lambda row: row["uid"],
    "name": lambda row: row["name"],
    "comment": lambda row: row["comment"],
    "type": lambda row: row["type"],
    "status": lambda row: row["status"],
    "status_message": lambda row: row["reason"],
    "status_reason": lambda row: row["reason"],
    "project": lambda row: row["project_uid"],
    "project.name": lambda row: row["project"],
    "execution.queue.name": lambda row: row["queue"],
    "script.entry_point": lambda row: _entry("file")(row) or _entry("qualname")(row),
    "script.working_dir": _entry("cwd"),
    "script.binary": _entry("binary"),
    "script.repository": _entry("repository"),
    "script.branch": _entry("branch"),
    "script.version_num": _entry("commit"),
}


_Wish = tuple[str, bool]  # a tag, and whether it has to be there


def _wishes(value: Any) -> list[list[_Wish]]:
    """ClearML's rule: one of the tags; ``-x`` excludes; ``__$all``, ``__$and``, ``__$or`` hold for what follows them, ``__$not`` for
    the next tag. What an ``__$or`` begins is one condition, joined with the others by AND.

    Returns:
        Conditions that all have to hold, each a list of wishes of which one has to.
    """
    joined: list[list[_Wish]] = []
    groups: list[list[_Wish]] = []
    together = negate = said = False
    for each in _listed(value):
        if each in ("__$all", "__$and", "__$or"):
            together, said = each != "__$or", True
            if each == "__$or":
                groups.append([])
            continue
        if each == "__$not":
            negate = True
            continue
        out = each.startswith("-")
        wish = (each.removeprefix("-"), not (out or negate))
        if together or out or (negate and not said):
            joined.append([wish])
        else:
            if not groups:
                groups.append([])
            groups[-1].append(wish)
        negate = False
    return joined + [group for group in groups if group]


def tags_fit(wanted: Any, tags: Sequence[str]) -> bool:
    """True if tags are what is wanted, by the rule that tasks are searched by; nothing wanted always fits."""
    return not wanted or all(any((tag in tags) is there for tag, there in group) for group in _wishes(wanted))


def _tags(query: _Query, value: Any, system: int) -> None:
    for group in _wishes(value):
        parts = [(there, *_has_tag(tag, system)) for tag, there in group]
        sql = " OR ".join(sql if there else f"NOT {sql}" for there, sql, _ in parts)
        query.add(sql, *[value for _, _, values in parts for value in values])


def _has_tag(tag: str, system: int) -> tuple[str, list[Any]]:
    if system and tag == ARCHIVED:
        return "t.archived = 1", []
    return "EXISTS (SELECT 1 FROM tag g WHERE g.task_id = t.id AND g.name = ? AND g.system = ?)", [tag, system]


def _page(query: _Query, value: Any) -> None:
    query.page = int(value)


def _page_size(query: _Query, value: Any) -> None:
    query.page_size = int(value)
    query.page = query.page or 0


_KEYS: dict[str, Callable[[_Query, Any], None]] = {
    "id": _one_of("t.uid"),
    "name": _named,
    "status": _status,
    "type": _type,
    "parent": _parents,
    "project": _one_of("p.uid"),
    "tags": lambda query, value: _tags(query, value, 0),
    "system_tags": lambda query, value: _tags(query, value, 1),
    "order_by": _order,
    "search_text": _text,
    "page": _page,
    "page_size": _page_size,
    "status_changed": _changed(_MOVED),
    "last_update": _changed("t.updated_at"),
    "created": _changed("t.created_at"),
    "started": _changed("t.started_at"),
    "completed": _changed("t.ended_at"),
    "_all_": _pattern(all),
    "_any_": _pattern(any),
}
