"""Folders of files in versions (ClearML's `Dataset`, the small part that scripts need).

A data set is a task with the system tag ``dataset`` in the project ``PROJECT/.datasets/NAME``. Its files are stored by content: what
a version shares with others, whatever their names, is stored once and costs nothing.
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Sequence
from typing import Any

from minipipe import errors, states
from minipipe.sdk import notice, session, versions
from minipipe.sdk.dataset_files import HIDDEN, SYSTEM_TAG, DatasetFiles
from minipipe.sdk.task import Task
from minipipe.sdk.values import tags_of
from minipipe.store import datasets, edits, recorded, removal, tasks

_ALIAS = "Datasets"  # section of the parameters that say which data sets a task used


class Dataset(DatasetFiles):
    """One version of a data set. Make one with `Dataset.create` or `Dataset.get`."""

    @classmethod
    def create(
        cls,
        dataset_name: str | None = None,
        dataset_project: str | None = None,
        dataset_tags: Sequence[str] | None = None,
        parent_datasets: Sequence[str | Dataset] | None = None,
        use_current_task: bool = False,
        dataset_version: str | None = None,
        output_uri: str | None = None,
        description: str | None = None,
    ) -> Dataset:
        """A new version, open for files until `finalize`.

        Args:
            dataset_name: default that of the current task.
            dataset_project: default that of the current task.
            dataset_tags: tags.
            parent_datasets: it begins with their files; of files of one path the last one's counts. They have to be final.
            use_current_task: the current task becomes the data set, and keeps its project.
            dataset_version: a PEP 440 version; default the last one's with its last number plus 1, or 1.0.0.
            output_uri: recorded: one store holds everything.
            description: comment of the task.

        Raises:
            UsageError: no name, no version, or a parent that is not final.

        Transaction effect: some durable commits.
        """
        current = Task.current_task()
        name = dataset_name or (current.name if current is not None else None)
        project = dataset_project or (current.get_project_name() if current is not None else None)
        if not name or not project:
            raise errors.UsageError(
                "a data set needs a name and a project", hint='Dataset.create(dataset_name="…", dataset_project="…")'
            )
        parents = [each if isinstance(each, Dataset) else cls.get(dataset_id=str(each)) for each in parent_datasets or ()]
        for parent in parents:
            if not parent.is_final():
                raise errors.UsageError(f"data set {parent.id[:8]} {parent.name!r} is not final", hint="finalize() it first")
        version = versions.checked(dataset_version) or versions.following(_last_version(name, project))
        task = cls._task_for(current if use_current_task else None, name, project)
        for key, value in notice.kept("Dataset.create", {"output_uri": (output_uri, None, "one store holds everything")}).items():
            recorded.set_setting(task.store, task.row_id, key, value)
        edits.label(task.store, task.row_id, version=version, **({"comment": description} if description else {}))
        task.set_system_tags([*task.get_system_tags(), SYSTEM_TAG])
        if dataset_tags:
            task.add_tags(tags_of(dataset_tags))
        for parent in parents:
            datasets.inherit(task.store, task.row_id, parent._task.row_id)
        if parents:
            task.set_user_properties(parents=" ".join(parent.id for parent in parents))
        return cls(task)

    @classmethod
    def _task_for(cls, current: Task | None, name: str, project: str) -> Task:
        if current is not None:
            return current
        store = session.open_store()
        new = tasks.NewTask(
            type=str(states.TaskTypes.data_processing),
            name=name,
            project=f"{project}{HIDDEN}{name}",
            entry={"kind": "here", "cwd": os.getcwd(), "roots": [os.getcwd()]},
            draft=True,
            session=session.name(),
        )
        made = tasks.submit(store, new)
        return Task(store, made.id, made.uid)

    @classmethod
    def get(
        cls,
        dataset_id: str | None = None,
        dataset_project: str | None = None,
        dataset_name: str | None = None,
        dataset_tags: Sequence[str] | None = None,
        only_completed: bool = False,
        only_published: bool = False,
        include_archived: bool = False,
        auto_create: bool = False,
        writable_copy: bool = False,
        dataset_version: str | None = None,
        alias: str | None = None,
        overridable: bool = False,
        shallow_search: bool = False,
        silence_alias_warnings: bool = False,
        **kwargs: Any,
    ) -> Dataset:
        """A version by id, or the highest one of a name.

        Args:
            dataset_id: 32 hex digits.
            dataset_project, dataset_name: exact.
            dataset_tags: it must have all of these.
            only_completed, only_published: only final ones, only published ones.
            include_archived: also archived ones.
            auto_create: make one if there is none.
            writable_copy: a new version that begins with its files, open for changes.
            dataset_version: exactly this one.
            alias: note on the current task, as parameter ``Datasets/ALIAS``, which one it uses.
            overridable: where a worker runs a clone of that task, the id in that parameter counts.
            shallow_search, silence_alias_warnings, kwargs: accepted for ClearML.

        Raises:
            NotFound: there is none.
            UsageError: nothing to look for was given.
        """
        current = Task.current_task()
        if alias and overridable and current is not None and not Task.running_locally():
            dataset_id = current.get_parameter(f"{_ALIAS}/{alias}") or dataset_id
        if dataset_id:
            found = cls(Task.by_id(str(dataset_id)))
            if SYSTEM_TAG not in found._task.get_system_tags():
                raise errors.NotFound(f"task {found.id[:8]} {found._task.name!r} is no data set")
        else:
            if not (dataset_name or dataset_project or dataset_tags):
                raise errors.UsageError("nothing to look for", hint="Dataset.get(dataset_id=…), or dataset_name")
            rows = [
                row
                for row in _rows(dataset_project, dataset_name, dataset_tags, include_archived)
                if (dataset_version is None or row["version"] == dataset_version)
                and (row["status"] in states.GOOD or not (only_completed or only_published))
                and (row["status"] == states.PUBLISHED or not only_published)
            ]
            if not rows and auto_create:
                return cls.create(dataset_name, dataset_project, dataset_tags)
            if not rows:
                shown = "/".join(each for each in (dataset_project, dataset_name) if each)
                raise errors.NotFound(
                    f"no data set {shown!r}" + (f" of version {dataset_version}" if dataset_version else ""),
                    hint="Dataset.list_datasets(only_completed=False) lists them",
                )
            best = max(rows, key=lambda row: (versions.order(row["version"] or ""), row["id"]))
            found = cls(Task(session.open_store(), best["id"], best["uid"]))
        if alias and current is not None and current.status in (states.CREATED, states.IN_PROGRESS):
            current.set_parameter(f"{_ALIAS}/{alias}", found.id)
        if writable_copy:
            return cls.create(found.name, found.project, found.tags, [found])
        return found

    @classmethod
    def list_datasets(
        cls,
        dataset_project: str | None = None,
        partial_name: str | None = None,
        tags: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        only_completed: bool = True,
        recursive_project_search: bool = True,
        include_archived: bool = True,
    ) -> list[dict[str, Any]]:
        """Versions, newest first, as dicts of ``name``, ``created``, ``project``, ``id``, ``tags``, ``version``, ``status``.

        Args:
            dataset_project: exact name.
            partial_name: part of the name.
            tags: they must have all of these.
            ids: only these.
            only_completed: leave out those that are not final.
            recursive_project_search: also in projects below.
            include_archived: also archived ones.
        """
        found = []
        for row in _rows(dataset_project, None, tags, include_archived, recursive_project_search):
            if partial_name and partial_name not in row["name"]:
                continue
            if (ids is None or row["uid"] in ids) and (row["status"] in states.GOOD or not only_completed):
                one = cls(Task(session.open_store(), row["id"], row["uid"]))
                created = datetime.datetime.fromtimestamp(row["created_at"], datetime.UTC)
                facts = {"name": row["name"], "created": created, "project": one.project, "id": row["uid"]}
                found.append({**facts, "tags": one.tags, "version": row["version"], "status": row["status"]})
        return found

    @classmethod
    def delete(
        cls,
        dataset_id: str | None = None,
        dataset_project: str | None = None,
        dataset_name: str | None = None,
        force: bool = False,
        dataset_version: str | None = None,
        entire_dataset: bool = False,
        shallow_search: bool = False,
        delete_files: bool = True,
        delete_external_files: bool = False,
    ) -> None:
        """Remove a version, or with `entire_dataset` all versions of a name. Content that others have stays.

        Args:
            dataset_id, dataset_project, dataset_name, dataset_version: as for `get`.
            force: also if it is published, or another version was made from it.
            entire_dataset: all versions.
            shallow_search, delete_external_files: without effect, and said once: all versions are looked at, and no file is external.
            delete_files: False is refused: the files live in the version.

        Raises:
            NotFound: there is none.
            NotSupported: `delete_files` is False. Nothing was removed.
            UsageError: it is published or used, without `force`; or several versions fit. Nothing was removed.
        """
        if not delete_files:
            raise errors.NotSupported(
                "Dataset.delete(delete_files=False) is not offered",
                "the files are kept by their version and go with it",
                "keep the version; get_mutable_local_copy(FOLDER) writes its files out",
            )
        if shallow_search:
            notice.say("Dataset.delete(shallow_search=…)", "without effect: all versions are looked at")
        if delete_external_files:
            notice.say("Dataset.delete(delete_external_files=…)", "without effect: no file of a data set is external")
        if dataset_id:
            found = [cls.get(dataset_id=dataset_id)]
        else:
            cls.get(None, dataset_project, dataset_name, dataset_version=dataset_version, include_archived=True)
            rows = [row for row in _rows(dataset_project, dataset_name, None, True) if dataset_version in (None, row["version"])]
            found = [cls(Task(session.open_store(), row["id"], row["uid"])) for row in rows]
        if len(found) > 1 and not entire_dataset:
            raise errors.UsageError(f"{len(found)} versions fit", hint="dataset_version=…, or entire_dataset=True")
        mine = {one.id for one in found}
        for one in found if not force else ():
            if one._task.status == states.PUBLISHED:
                raise errors.UsageError(f"data set {one.id[:8]} {one.name!r} is published", hint="force=True")
            children = [each.id for each in _all() if one.id in each._parents() and each.id not in mine]
            if children:
                raise errors.UsageError(f"data set {one.id[:8]} {one.name!r} is a parent of {children[0][:8]}", hint="force=True")
        for one in found:
            shutil.rmtree(one._cache(), ignore_errors=True)
            removal.delete(one._task.store, one._task.row_id)


def _all() -> list[Dataset]:
    store = session.open_store()
    return [Dataset(Task(store, row["id"], row["uid"])) for row in datasets.sets(store, SYSTEM_TAG)]


def _rows(
    project: str | None, name: str | None, tags: Sequence[str] | None, archived: bool, recursive: bool = False
) -> list[Any]:
    """Rows of the data sets that fit, newest first."""
    found = []
    for row in datasets.sets(session.open_store(), SYSTEM_TAG):
        place = row["project"].partition(HIDDEN)[0]
        if project is not None and place != project and not (recursive and place.startswith(f"{project}/")):
            continue
        if (name is None or row["name"] == name) and (archived or not row["archived"]):
            found.append(row)
    if tags:
        store = session.open_store()
        found = [row for row in found if set(tags_of(tags)) <= set(Task(store, row["id"], row["uid"]).get_tags())]
    return found


def _last_version(name: str, project: str) -> str | None:
    known = [row["version"] for row in _rows(project, name, None, True) if row["version"]]
    return max(known, key=versions.order) if known else None
