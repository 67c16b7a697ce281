"""The few calls of ClearML's server API that scripts make, answered from the store (ClearML's `APIClient`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minipipe import errors
from minipipe.sdk import session
from minipipe.store import queues, search

_HIDDEN = "/."  # projects of pipelines and data sets


class Entry:
    """One thing that the store knows, with the fields that were asked for as attributes."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = dict(facts)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_facts"][name]
        except KeyError:
            known = ", ".join(sorted(self.__dict__.get("_facts", {})))
            raise AttributeError(f"it has no field {name!r}; it has {known}") from None

    @property
    def data(self) -> Entry:
        """Itself: what ClearML wraps twice."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(self._facts)

    def __repr__(self) -> str:
        return f"<Entry {self._facts.get('name', self._facts.get('id'))!r}>"


class _Service:
    """One of the API's services: the calls that are offered, and a refusal for all others."""

    _name = ""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        calls = sorted(each for each in dir(type(self)) if not each.startswith("_"))
        raise errors.NotSupported(
            f"APIClient().{self._name}.{name} is not offered by minipipe",
            f"there is no server; offered are {', '.join(calls)}",
            "the methods of Task, PipelineController and Dataset",
        )


_TASK_FIELDS = (
    "id", "name", "type", "status", "status_message", "status_reason", "comment", "project", "parent", "tags", "system_tags",
    "created", "started", "completed", "last_update", "last_change", "status_changed", "last_iteration", "last_worker",
    "active_duration", "user",
)  # fmt: skip


class _Tasks(_Service):
    _name = "tasks"

    def get_all(
        self,
        id: Sequence[str] | None = None,
        name: str | None = None,
        only_fields: Sequence[str] | None = None,
        search_hidden: bool | None = None,
        **filters: Any,
    ) -> list[Entry]:
        """Tasks, newest change first.

        Args:
            id: only these.
            name: regular expression, found anywhere in the name.
            only_fields: fields of the result; default all.
            search_hidden: accepted for ClearML; tasks of pipelines are always found.
            filters: see `Task.query_tasks`: ``status``, ``type``, ``project`` (ids), ``parent``, ``tags``, ``system_tags``,
                ``order_by``, ``page``, ``page_size``, ``status_changed`` …

        Raises:
            UsageError: an unknown filter or field.
        """
        store = session.open_store()
        wanted = {key: value for key, value in filters.items() if not key.startswith("_allow_")}
        rows = search.find(store, ids=id, pattern=name, wanted=wanted)
        return [_entry(facts) for facts in search.facts(store, [row["id"] for row in rows], _fields(only_fields))]

    def get_by_id(self, task: str) -> Entry:
        """One task by its id.

        Raises:
            NotFound: there is none.
        """
        found = self.get_all(id=[task])
        if not found:
            raise errors.NotFound(f"no task {task!r}", hint="minipipe status --all")
        return found[0]


class _Projects(_Service):
    _name = "projects"

    def get_all(
        self,
        id: Sequence[str] | None = None,
        name: str | None = None,
        search_hidden: bool | None = None,
        page: int | None = None,
        page_size: int = 500,
        **others: Any,
    ) -> list[Entry]:
        """Projects by name: ``id``, ``name``, ``basename``.

        Args:
            id: only these.
            name: regular expression, found anywhere in the name.
            search_hidden: also the projects of pipelines and data sets.
            page, page_size: a part of them.
            others: ``only_fields`` and ``order_by`` are accepted.

        Raises:
            UsageError: an unknown argument.
        """
        _refuse(others, "projects")
        expression = search.expression(name or "")
        found = [
            Entry({"id": row["uid"], "name": row["name"], "basename": row["name"].rpartition("/")[2]})
            for row in search.projects(session.open_store())
            if (id is None or row["uid"] in id)
            and expression.search(row["name"])
            and (search_hidden or name or _HIDDEN not in row["name"])
        ]
        return found if page is None else found[page * page_size : (page + 1) * page_size]


class _Queues(_Service):
    _name = "queues"

    def get_all(self, id: Sequence[str] | None = None, name: str | None = None, **others: Any) -> list[Entry]:
        """Queues by name: ``id``, ``name``, ``created``, ``entries`` (ids of the tasks that wait, in order).

        Args:
            id: only these.
            name: regular expression, found anywhere in the name.
            others: ``only_fields``, ``order_by``, ``page``, ``page_size`` are accepted.

        Raises:
            UsageError: an unknown argument.
        """
        _refuse(others, "queues")
        expression = search.expression(name or "")
        return [
            Entry(one)
            for one in queues.entries(session.open_store())
            if (id is None or one["id"] in id) and expression.search(one["name"])
        ]


class APIClient:
    """Answers `tasks.get_all`, `tasks.get_by_id`, `projects.get_all` and `queues.get_all` from the store.

    Args:
        session, api_version, kwargs: accepted for ClearML; there is no server to talk to.
    """

    def __init__(self, session: Any = None, api_version: str | None = None, **kwargs: Any) -> None:
        self.tasks = _Tasks()
        self.projects = _Projects()
        self.queues = _Queues()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise errors.NotSupported(
            f"APIClient().{name} is not offered by minipipe", "offered are tasks, projects and queues", "the methods of Task"
        )


def _fields(wanted: Sequence[str] | None) -> list[str]:
    return list(dict.fromkeys(["id", *wanted])) if wanted else list(_TASK_FIELDS)


def _entry(facts: Mapping[str, Any]) -> Entry:
    """``project.name`` is ``entry.project.name``, unless ``project`` itself was asked for."""
    found = {name: value for name, value in facts.items() if "." not in name}
    for name, value in facts.items():
        first, dot, _ = name.partition(".")
        if dot and first not in found:
            found[first] = _entry({other.partition(".")[2]: facts[other] for other in facts if other.startswith(f"{first}.")})
        elif dot and not isinstance(found[first], Entry):
            found[name] = value
    return Entry(found)


def _refuse(others: Mapping[str, Any], service: str) -> None:
    unknown = others.keys() - {"only_fields", "order_by", "page", "page_size"}
    if unknown and not all(name.startswith("_allow_") for name in unknown):
        raise errors.UsageError(f"APIClient().{service}.get_all has no {', '.join(sorted(unknown))}", "it knows id and name")
