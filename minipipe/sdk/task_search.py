"""Finding tasks (ClearML's `Task.get_task`, `get_tasks`, `query_tasks`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from minipipe import errors
from minipipe.sdk import session
from minipipe.sdk.task_base import TaskBase
from minipipe.sdk.values import tags_of
from minipipe.shown import warn
from minipipe.store import records, search


class TaskSearch(TaskBase):
    """Finding tasks by id, project, name, tags and facts."""

    @classmethod
    def get_task(
        cls,
        task_id: str | None = None,
        project_name: str | None = None,
        task_name: str | None = None,
        tags: Sequence[str] | None = None,
        allow_archived: bool = True,
        task_filter: dict[str, Any] | None = None,
    ) -> Self:
        """A task by id, or the newest of exactly that project and name (ClearML's rule: None if no task matches).

        Args:
            task_id: 32 hex digits.
            project_name: exact name.
            task_name: exact name.
            tags: it must have one of these; see `query_tasks` for operators.
            allow_archived: take an archived one if nothing else matches.
            task_filter: see `query_tasks`.

        Raises:
            NotFound: no task of that id, or no such project.
            UsageError: nothing to look for was given, or an unknown key in `task_filter`.
        """
        if task_id is not None:
            return cls.by_id(str(task_id))
        if not (project_name or task_name or tags or task_filter):
            raise errors.UsageError("nothing to look for", hint="Task.get_task(task_id=…), or project_name and task_name")
        store = session.open_store()
        if project_name and records.project_of(store, name=project_name) is None:
            raise errors.NotFound(f"no project {project_name!r}")
        rows = search.find(
            store,
            projects=[project_name] if project_name else None,
            name=task_name or None,
            tags=tags_of(tags),
            archived=allow_archived,
            wanted=task_filter,
        )
        rows.sort(key=lambda row: bool(row["archived"]))  # stable: newest first within both groups
        return cls(store, rows[0]["id"], rows[0]["uid"]) if rows else None  # type: ignore[return-value]

    @classmethod
    def get_by_name(cls, task_name: str) -> Self:
        """The newest task of exactly that name, over all projects; None if there is none."""
        rows = search.find(session.open_store(), name=task_name)
        return cls(session.open_store(), rows[0]["id"], rows[0]["uid"]) if rows else None  # type: ignore[return-value]

    @classmethod
    def get_tasks(
        cls,
        task_ids: Sequence[str] | None = None,
        project_name: Sequence[str] | str | None = None,
        task_name: str | None = None,
        tags: Sequence[str] | None = None,
        allow_archived: bool = True,
        task_filter: dict[str, Any] | None = None,
    ) -> list[Self]:
        """All tasks that fit, newest change first.

        Args:
            task_ids: only these.
            project_name: exact name, or several; unknown ones are left out with a warning.
            task_name: regular expression, found anywhere in the name.
            tags, task_filter: see `query_tasks`.
            allow_archived: False leaves out archived ones.

        Raises:
            UsageError: an unknown key in `task_filter`, or a regular expression that is none.
        """
        rows = _find(task_ids, project_name, task_name, tags, allow_archived, task_filter)
        return [cls(session.open_store(), row["id"], row["uid"]) for row in rows]

    @classmethod
    def query_tasks(
        cls,
        project_name: Sequence[str] | str | None = None,
        task_name: str | None = None,
        tags: Sequence[str] | None = None,
        additional_return_fields: Sequence[str] | None = None,
        task_filter: dict[str, Any] | None = None,
    ) -> list[str] | list[dict[str, str]]:
        """Ids of all tasks that fit, newest change first; with `additional_return_fields` dicts of these fields and ``id``.

        Args:
            project_name, task_name: as in `get_tasks`.
            tags: one of them; ``-x`` excludes, ``__$all`` wants all that follow, ``__$or``, ``__$and``, ``__$not`` (ClearML's rule).
            additional_return_fields: ``name``, ``status``, ``last_update``, ``project.name``, ``script.entry_point`` …
            task_filter: ``status``, ``type``, ``parent``, ``project`` (ids), ``tags``, ``system_tags``, ``order_by``
                (``["-last_update"]``), ``search_text``, ``page``, ``page_size``, ``status_changed`` (``[">TIME"]``), ``_all_`` and
                ``_any_`` (``dict(fields=…, pattern=…)``).

        Raises:
            UsageError: an unknown key or field.
        """
        rows = _find(None, project_name, task_name, tags, True, task_filter)
        if not additional_return_fields:
            return [row["uid"] for row in rows]
        fields = list(dict.fromkeys(["id", *additional_return_fields]))
        return search.facts(session.open_store(), [row["id"] for row in rows], fields)


def _find(
    ids: Sequence[str] | None,
    project: Sequence[str] | str | None,
    pattern: str | None,
    tags: Sequence[str] | None,
    archived: bool,
    wanted: Mapping[str, Any] | None,
) -> list[Any]:
    store = session.open_store()
    projects = [project] if isinstance(project, str) else list(project or ())
    missing = search.missing_projects(store, projects)
    if missing:
        warn(f"no project of the name {', '.join(map(repr, missing))}", stacklevel=3)
    return search.find(
        store,
        ids=[ids] if isinstance(ids, str) else list(ids) if ids else None,
        projects=projects or None,
        pattern=pattern or None,
        tags=tags_of(tags),
        archived=archived,
        wanted=wanted,
    )
