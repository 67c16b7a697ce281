"""What a step needs in order to run: packages, code of a repository, limits; and what becomes of that when it is submitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from minipipe import errors, imports, requirements, settings
from minipipe.engine import environments, repository
from minipipe.limits import Limits
from minipipe.requirements import Requirements
from minipipe.sdk import notice
from minipipe.store.home import Store

CONTAINERS = 'steps run in the worker\'s Python; the setting containers = "docker" runs them in the image'


@dataclass(frozen=True, slots=True)
class Code:
    """Code of a repository, as its user names it (ClearML's ``repo``, ``repo_branch``, ``repo_commit``, ``working_dir``)."""

    repo: str
    branch: str | None = None
    commit: str | None = None
    working_dir: str | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """A container, as its user names it (ClearML's ``docker``, ``docker_args``, ``docker_bash_setup_script``)."""

    image: str
    arguments: str = ""
    setup: str = ""

    def facts(self) -> dict[str, str]:
        """As data, for a task's entry."""
        return {"image": self.image, "arguments": self.arguments, "setup": self.setup}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a step, or every step of a pipeline, needs.

    Attributes:
        packages: None for the worker's own Python as it is.
        code: None for the folder of the project.
        folder: of the step, below the root of the project; for a repository `code` has it.
        limits: of each attempt.
        container: None for none; without the setting ``containers`` it is only recorded.
    """

    packages: Requirements | None = None
    code: Code | None = None
    folder: str = ""
    limits: Limits = field(default_factory=Limits)
    container: Container | None = None

    def over(self, default: Needs) -> Needs:
        """These, and what the pipeline says for whatever they leave open."""
        own = self.code or self.folder
        return Needs(
            self.packages or default.packages,
            self.code if own else default.code,
            self.folder if own else default.folder,
            self.limits or default.limits,
            self.container or default.container,
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """What `plan` decided.

    Attributes:
        entry: joins the task's entry.
        environment: what an environment is made of, None if this Python has it all.
        key_parts: join the cache key.
    """

    entry: dict[str, Any]
    environment: Requirements | None = None
    key_parts: tuple[str, ...] = ()


def read(
    owner: str,
    packages: bool | str | Sequence[str] | None,
    repo: str | None,
    branch: str | None,
    commit: str | None,
    working_dir: str | None,
    docker: tuple[str | None, str | None, object] = (None, None, None),
    limited: Limits | None = None,
) -> Needs:
    """ClearML's arguments as needs.

    Args:
        owner: whose they are, for errors.
        packages: requirements, or the path of a requirements file; None or a bool: the worker's own Python.
        repo: folder of a local repository, or a git URL.
        branch, commit: of the repository; default what is checked out there, changes included.
        working_dir: folder of the steps below its root.
        docker: image, arguments of ``run``, setup script (a text or its lines).
        limited: limits of each attempt.

    Raises:
        UsageError: a requirements file that cannot be read; a branch, commit or folder without a repository.
    """
    code = None
    if repo:
        code = Code(str(repo), branch and str(branch), commit and str(commit), working_dir and str(working_dir))
    elif branch or commit:
        raise errors.UsageError(
            f"{owner}: a branch or commit of no repository", "repo is not given", "repo='.' is the repository of this folder"
        )
    folder = str(working_dir) if working_dir and code is None else ""
    image, arguments, setup = docker
    script = "\n".join(map(str, setup)) if isinstance(setup, (list, tuple)) else str(setup or "")
    container = Container(str(image), str(arguments or ""), script) if image else None
    return Needs(requirements.read(packages, owner), code, folder, limited or Limits(), container)


def of_call(owner: str, given: Mapping[str, Any], limited: Limits | None = None) -> Needs:
    """As `read`, of all arguments of a call of ClearML's, by name. Raises the same."""
    docker = (given["docker"], given["docker_args"], given["docker_bash_setup_script"])
    place = (given["repo"], given["repo_branch"], given["repo_commit"], given["working_dir"])
    return read(owner, given["packages"], *place, docker, limited)


def note_container(called: str) -> None:
    """Say once that a container is only recorded, unless the setting ``containers`` is on."""
    if settings.load_settings().containers == "off":
        notice.recorded(called, CONTAINERS)


class Planner:
    """Plans the steps of one run; equal needs are looked at once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.mode = settings.load_settings().environments
        self._pinned: dict[Code, repository.Pinned] = {}

    def plan(self, step: str, needs: Needs, entry: dict[str, Any]) -> Planned:
        """Decide where a step runs.

        Args:
            step: its name.
            needs: with the pipeline's own filled in.
            entry: of the task, as captured.

        Raises:
            RepositoryError: its code cannot be had. Nothing was queued.
        """
        planned = Planned({})
        if needs.limits:
            planned = replace(planned, entry={"limits": needs.limits.facts()})
        if needs.container is not None:
            planned = replace(planned, entry={**planned.entry, "container": needs.container.facts()})
        if needs.folder:
            folder = _folder(step, needs.folder, entry)
            planned = replace(planned, entry={**planned.entry, "cwd": folder}, key_parts=("folder", needs.folder))
        if needs.code is not None:
            planned = self._with_code(step, planned, needs.code, entry)
        if needs.packages is not None and self.mode != "off":
            planned = self._with_packages(planned, needs.packages)
        return planned

    def _with_code(self, step: str, planned: Planned, code: Code, entry: dict[str, Any]) -> Planned:
        if code not in self._pinned:
            pinned = repository.pin(self.store, step, code.repo, code.branch, code.commit, code.working_dir)
            repository.check_out(self.store, pinned)
            self._pinned[code] = pinned
        pinned = self._pinned[code]
        root = repository.tree_of(self.store, pinned)
        folder = root / pinned.working_dir
        roots = [str(folder), str(root), *entry.get("roots", ())]
        changed = {"pinned": pinned.facts(), "cwd": str(folder), "roots": list(dict.fromkeys(roots))}
        return replace(planned, entry={**planned.entry, **changed}, key_parts=(*planned.key_parts, "code", *pinned.key_parts))

    def _with_packages(self, planned: Planned, wanted: Requirements) -> Planned:
        entry = {**planned.entry, "packages": list(wanted.lines)}
        found = environments.satisfied(wanted.lines) if self.mode == "auto" else None
        if found is None:
            return replace(planned, entry=entry, environment=wanted, key_parts=(*planned.key_parts, "packages", wanted.digest))
        # This Python has them all: no environment, but another version of one of them is another key.
        entry["installed"] = list(found)
        return replace(planned, entry=entry, key_parts=(*planned.key_parts, "installed", *found))


def _folder(step: str, below: str, entry: dict[str, Any]) -> str:
    root = Path([*entry.get("roots", ()), entry["cwd"]][0])
    folder = (root / below).resolve()
    if not folder.is_dir():
        raise errors.UsageError(
            f"step {step!r}: no folder {below!r} in {root}", hint="working_dir is relative to the folder of the script"
        )
    return str(folder)


def check_imports(step: str, function: Callable[..., Any], roots: Sequence[str]) -> None:
    """Refuse a step whose imports cannot work in this Python, before anything of it is stored.

    Args:
        step: its name.
        function: what it runs.
        roots: folders that its imports start from.

    Raises:
        MissingModule: names module, file and line, and what to do.
    """
    found = imports.unmet(function, roots)
    if found is not None:
        raise errors.MissingModule(
            f"step {step!r}: no module named {found.module!r}",
            f"{found.file}:{found.line} imports it, and this Python does not have it",
            f"pip install {package_of(found.module)}   or give the step an environment: packages=[{package_of(found.module)!r}]",
            module=found.module,
        )


_PACKAGES = {
    "sklearn": "scikit-learn",
    "cv2": "opencv-python",
    "PIL": "pillow",
    "yaml": "pyyaml",
    "skimage": "scikit-image",
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
}


def package_of(module: str) -> str:
    """What to install for a module: the name is the same but for a few well-known ones."""
    return _PACKAGES.get(module, module)
