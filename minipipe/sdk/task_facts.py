"""What is known of a task and can be changed at any time: name, project, type, parent, comment, tags (ClearML's `Task`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from minipipe import errors, states
from minipipe.sdk import git_facts, notice, session
from minipipe.sdk.task_base import TaskBase
from minipipe.store import edits, records, search


class TaskFacts(TaskBase):
    """Facts and labels."""

    archived_tag = search.ARCHIVED

    # -- name, status, type -------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self._column("name"))

    @name.setter
    def name(self, value: str) -> None:
        self.set_name(value)

    def set_name(self, name: str) -> None:
        """Change its name, in any status. Transaction effect: one durable commit."""
        edits.label(self.store, self.row_id, name=name)

    def rename(self, new_name: str) -> bool:
        """As `set_name`. Returns True."""
        self.set_name(new_name)
        return True

    def get_status(self) -> str:
        """See `status`."""
        return self.status

    def get_status_message(self) -> str:
        """Why it is in that status."""
        return str(self._column("reason"))

    @property
    def task_type(self) -> str:
        """One of `TaskTypes`."""
        return str(self._column("type"))

    def set_task_type(self, task_type: str | states.TaskTypes) -> None:
        """Change its type.

        Raises:
            UsageError: none of `TaskTypes`.

        Transaction effect: one durable commit.
        """
        edits.label(self.store, self.row_id, type=states.task_type(task_type))

    # -- project ------------------------------------------------------------------------------------------------------

    @property
    def project(self) -> str:
        """Id of its project."""
        return self._project("uid")

    def get_project_name(self) -> str:
        """Name of its project."""
        return self._project("name")

    def _project(self, column: str) -> str:
        row = records.project_of(self.store, row_id=self._column("project_id"))
        return str(row[column]) if row else ""

    @classmethod
    def get_project_id(cls, project_name: str, search_hidden: bool = True) -> str | None:
        """Id of a project by its exact name, None if there is none.

        Args:
            project_name: its name.
            search_hidden: False leaves out the projects of pipelines (ClearML's rule).
        """
        row = records.project_of(session.open_store(), name=project_name)
        hidden = "/.pipelines" in project_name
        return None if row is None or (hidden and not search_hidden) else str(row["uid"])

    def set_project(self, project_id: str | None = None, project_name: str | None = None) -> bool | None:
        """Move it to a project, by id or by name; a project of a new name is made. Returns True.

        Raises:
            UsageError: neither was given.
            NotFound: no project of that id.

        Transaction effect: one durable commit.
        """
        if project_id:
            row = records.project_of(self.store, uid=str(project_id))
            if row is None:
                raise errors.NotFound(f"no project {project_id!r}")
            project_name = row["name"]
        if not project_name:
            raise errors.UsageError("no project was named", hint="project_name=…")
        edits.set_project(self.store, self.row_id, project_name)
        return True

    def move_to_project(
        self,
        new_project_id: str | None = None,
        new_project_name: str | None = None,
        system_tags: Sequence[str] | None = None,
    ) -> bool:
        """As `set_project`. Returns True; `system_tags` (of a new project) have no effect, which is said once."""
        if system_tags:
            notice.say("Task.move_to_project(system_tags=…)", "projects have no tags here")
        return bool(self.set_project(new_project_id, new_project_name))

    # -- parent and comment -------------------------------------------------------------------------------------------

    @property
    def parent(self) -> str | None:
        """Id of its parent: the run of a step, what was named; of a clone that of its source, else the source."""
        return search.parent_of(self.store, self.row_id)

    @parent.setter
    def parent(self, value: str | TaskBase | None) -> None:
        self.set_parent(value)

    def set_parent(self, parent: str | TaskBase | None) -> None:
        """Put it under another task, by id or object; None takes it away.

        Raises:
            UsageError: the parent is below it.

        Transaction effect: one durable commit.
        """
        edits.set_parent(self.store, self.row_id, None if parent is None else TaskBase.of(parent).row_id)

    @property
    def comment(self) -> str:
        """Free text."""
        return str(self._column("comment"))

    @comment.setter
    def comment(self, value: str) -> None:
        self.set_comment(value)

    def set_comment(self, comment: str) -> None:
        """Change its comment, in any status. Transaction effect: one durable commit."""
        edits.label(self.store, self.row_id, comment="" if comment is None else str(comment))

    # -- tags ---------------------------------------------------------------------------------------------------------

    def get_tags(self) -> list[str]:
        """Its tags, sorted."""
        return records.tags(self.store, self.row_id)

    def set_tags(self, tags: Sequence[str]) -> None:
        """Replace its tags. Transaction effect: one durable commit."""
        edits.set_tags(self.store, self.row_id, _texts(tags))

    def add_tags(self, tags: Sequence[str] | str) -> None:
        """Add tags; a text is one for each of its words (ClearML's rule). Transaction effect: one durable commit."""
        records.add_tags(self.store, self.row_id, words_of(tags))

    def remove_tags(self, tags: Sequence[str] | str) -> None:
        """Take tags away; a text means each of its words. Transaction effect: one durable commit."""
        edits.remove_tags(self.store, self.row_id, words_of(tags))

    def get_system_tags(self) -> list[str]:
        """Its system tags, sorted; ``archived`` is one of them."""
        found = records.tags(self.store, self.row_id, system=True)
        return sorted({*found, *([self.archived_tag] if self.get_archived() else [])})

    def set_system_tags(self, tags: Sequence[str]) -> None:
        """Replace its system tags; ``archived`` among them archives it. Transaction effect: two durable commits."""
        given = _texts(tags)
        edits.set_tags(self.store, self.row_id, [tag for tag in given if tag != self.archived_tag], system=True)
        self.set_archived(self.archived_tag in given)

    def set_archived(self, archive: bool) -> None:
        """Hide it from listings, or show it again. Transaction effect: one durable commit."""
        edits.label(self.store, self.row_id, archived=int(bool(archive)))

    def get_archived(self) -> bool:
        """True if it is hidden from listings."""
        return bool(self._column("archived"))

    # -- places -------------------------------------------------------------------------------------------------------

    @property
    def cache_dir(self) -> Path:
        """A folder of the store for what a task's code wants to keep; not made by asking."""
        return self.store.path / "cache" / self.id

    def get_script(self) -> dict[str, str | None]:
        """What it runs: ``working_dir``, ``entry_point``, ``branch``, ``repository`` (ClearML's keys), and, where the code is in a git
        repository, ``commit`` and ``diff`` (what was not committed)."""
        found = self._script()
        extra = {key: found[key] for key in ("commit", "diff") if found[key]}
        return {**{key: found[key] for key in ("working_dir", "entry_point", "branch", "repository")}, **extra}

    def _script(self) -> dict[str, str | None]:
        """Facts of its code: what was pinned is what runs, else as the script was found."""
        git_facts.settle(self.store, self.row_id)
        entry, settings = edits.facts(self.store, self.row_id), records.settings_of(self.store, self.row_id)
        function = f"{entry['module']}:{entry['qualname']}" if "module" in entry else None
        code = entry.get("pinned") or {**entry, "url": entry.get("repository"), "patch": entry.get("diff")}
        return {
            "working_dir": code.get("working_dir") or entry.get("cwd"),
            "entry_point": entry.get("file") or function,
            "binary": settings.get("binary"),
            "branch": code.get("branch"),
            "repository": code.get("url"),
            "commit": code.get("commit"),
            "diff": code.get("patch"),
        }

    def get_output_log_web_page(self) -> str:
        """A ``file://`` URL of the log of its last attempt."""
        return records.log_of(self.store, self.row_id).as_uri()

    @classmethod
    def get_task_output_log_web_page(cls, task_id: str, project_id: str | None = None, app_server_host: str | None = None) -> str:
        """As `get_output_log_web_page`, by id.

        Args:
            task_id: 32 hex digits.
            project_id, app_server_host: accepted for ClearML; the log is a file.
        """
        return TaskFacts.of(task_id).get_output_log_web_page()


def words_of(tags: Sequence[str] | str) -> list[str]:
    """The tags that `Task.add_tags` is given."""
    return tags.split() if isinstance(tags, str) else _texts(tags)


def _texts(tags: Sequence[str] | str) -> list[str]:
    return [tags] if isinstance(tags, str) else [str(tag) for tag in tags]
