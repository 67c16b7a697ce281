"""Names of ClearML's `Task` that change nothing here: some are recorded and read back, the others say what to use instead."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from minipipe import errors
from minipipe.sdk import notice
from minipipe.sdk.task_base import TaskBase
from minipipe.store import edits, records

_ENVIRONMENT = "a task runs in its worker's Python; a step's packages= makes an environment of its own"
_CONTAINER = "there are no containers: a task runs in its worker's Python"
_CODE = "the script's text is stored as it runs"
_SERVER = "there is no server to do it"


class TaskRecorded(TaskBase):
    """What is accepted for scripts that say it, and what is not."""

    # -- recorded: what a task needs ------------------------------------------------------------------------------------

    def set_packages(self, packages: str | Path | Sequence[str]) -> None:
        """Record packages: a list, or a requirements file. Transaction effect: one durable commit."""
        if isinstance(packages, (str, Path)) and os.path.isfile(packages):
            packages = Path(packages).read_text(encoding="utf-8").splitlines()
        lines = [packages] if isinstance(packages, (str, Path)) else packages
        self._record("requirements", [str(line) for line in lines if str(line).strip()], "Task.set_packages", _ENVIRONMENT)

    def get_requirements(self) -> dict[str, str]:
        """What `set_packages` recorded, as ``{"pip": lines}``; empty if nothing was."""
        found = self._recorded("requirements")
        return {"pip": "\n".join(found)} if found else {}

    _requirements: ClassVar[dict[str, str]] = {}

    @classmethod
    def add_requirements(cls, package_name: str, package_version: str | None = None) -> None:
        """Accepted for scripts that prepare an agent's environment: there is none here to add to.

        Args:
            package_name: a package, or a requirements file.
            package_version: ``1.2``, ``>=1.2`` …
        """
        TaskRecorded._requirements[str(package_name)] = str(package_version or "")
        notice.recorded("Task.add_requirements", _ENVIRONMENT)

    @classmethod
    def ignore_requirements(cls, package_name: str) -> None:
        """Accepted; see `add_requirements`."""
        TaskRecorded._requirements.pop(str(package_name), None)
        notice.recorded("Task.ignore_requirements", _ENVIRONMENT)

    @classmethod
    def force_requirements_env_freeze(cls, force: bool = True, requirements_file: str | Path | None = None) -> None:
        """Accepted; see `add_requirements`."""
        notice.recorded("Task.force_requirements_env_freeze", _ENVIRONMENT)

    @classmethod
    def force_store_standalone_script(cls, force: bool = True) -> None:
        """Accepted: a script's text is always stored."""
        notice.recorded("Task.force_store_standalone_script", _CODE)

    def set_repo(self, repo: str | None = None, branch: str | None = None, commit: str | None = None) -> None:
        """Record where the code comes from. Transaction effect: one durable commit."""
        given = {"repo": repo, "branch": branch, "commit": commit}
        self._record("set_repo", {key: str(value) for key, value in given.items() if value}, "Task.set_repo", _CODE)

    def set_script(
        self,
        repository: str | None = None,
        branch: str | None = None,
        commit: str | None = None,
        diff: str | None = None,
        working_dir: str | None = None,
        entry_point: str | None = None,
        binary: str | None = None,
    ) -> None:
        """Record how an agent would run the task. Transaction effect: one durable commit."""
        given = {
            "repository": repository,
            "branch": branch,
            "commit": commit,
            "diff": diff,
            "working_dir": working_dir,
            "entry_point": entry_point,
            "binary": binary,
        }
        self._record("set_script", {key: str(value) for key, value in given.items() if value}, "Task.set_script", _CODE)

    def set_base_docker(
        self,
        docker_cmd: str | None = None,
        docker_image: str | None = None,
        docker_arguments: str | Sequence[str] | None = None,
        docker_setup_bash_script: str | Sequence[str] | None = None,
    ) -> None:
        """Record a container. Transaction effect: one durable commit."""
        words = [docker_arguments] if isinstance(docker_arguments, str) else list(docker_arguments or ())
        parts = [docker_image or docker_cmd, *words]
        self._record("docker", " ".join(str(part) for part in parts if part), "Task.set_base_docker", _CONTAINER)

    def get_base_docker(self) -> str:
        """What `set_base_docker` recorded: image and arguments; "" if nothing was."""
        return str(self._recorded("docker") or "")

    def _record(self, name: str, value: Any, called: str, why: str) -> None:
        edits.set_setting(self.store, self.row_id, name, value or None)
        notice.recorded(called, why)

    def _recorded(self, name: str) -> Any:
        return records.settings_of(self.store, self.row_id).get(name)

    # -- recorded: what a process says of a server ----------------------------------------------------------------------

    _offline: ClassVar[bool] = False

    @classmethod
    def set_offline(cls, offline_mode: bool = False) -> None:
        """Accepted: there is no server, so everything works the same either way."""
        TaskRecorded._offline = bool(offline_mode)

    @classmethod
    def is_offline(cls) -> bool:
        """What `set_offline` was told last, False if nothing."""
        return TaskRecorded._offline

    @classmethod
    def set_credentials(
        cls,
        api_host: str | None = None,
        web_host: str | None = None,
        files_host: str | None = None,
        key: str | None = None,
        secret: str | None = None,
        store_conf_file: bool = False,
    ) -> None:
        """Accepted: there is nothing to log in to. Nothing of it is kept."""
        notice.say("Task.set_credentials", "there is no server to log in to; nothing of it is kept")

    @classmethod
    def set_resource_monitor_iteration_timeout(
        cls,
        seconds_from_start: float = 30.0,
        wait_for_first_iteration_to_start_sec: float = 180.0,
        max_wait_for_first_iteration_to_start_sec: float = 1800.0,
    ) -> None:
        """Accepted: resources are not monitored."""
        notice.recorded("Task.set_resource_monitor_iteration_timeout", "resources are not monitored")

    @property
    def resource_monitor(self) -> None:
        """None: resources are not monitored."""
        return

    @property
    def report_subprocess_enabled(self) -> bool:
        """True: child processes always report to their parent's task."""
        return True

    # -- refused --------------------------------------------------------------------------------------------------------

    def launch_multi_node(
        self,
        total_num_nodes: int,
        port: int | None = 29500,
        queue: str | None = None,
        wait: bool = False,
        addr: str | None = None,
        devices: int | Sequence[int] | None = None,
        hide_children: bool = False,
    ) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: clone and enqueue.
        """
        _refuse("launch_multi_node", "there is one machine", "Task.enqueue(Task.clone(task), queue) as often as you need it")

    def get_http_router(self) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: serve from your own code.
        """
        _refuse("get_http_router", _SERVER, "serve from your own code")

    def request_external_endpoint(
        self,
        port: int,
        protocol: str = "http",
        wait: bool = False,
        wait_interval_seconds: float = 3.0,
        wait_timeout_seconds: float = 90.0,
        static_route: str | None = None,
        endpoint_name: str | None = None,
    ) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: serve from your own code.
        """
        _refuse("request_external_endpoint", _SERVER, "serve from your own code")

    def wait_for_external_endpoint(
        self,
        wait_interval_seconds: float = 3.0,
        wait_timeout_seconds: float = 90.0,
        protocol: str | None = "http",
        endpoint_name: str | None = None,
    ) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: serve from your own code.
        """
        _refuse("wait_for_external_endpoint", _SERVER, "serve from your own code")

    def list_external_endpoints(self, protocol: str | None = None) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: serve from your own code.
        """
        _refuse("list_external_endpoints", _SERVER, "serve from your own code")

    @classmethod
    def import_offline_session(
        cls, session_folder_zip: str, previous_task_id: str | None = None, iteration_offset: int | None = 0
    ) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: minipipe import.
        """
        _refuse("import_offline_session", "there are no offline sessions: every task is in the store", "minipipe import FILE.zip")

    def get_offline_mode_folder(self) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: minipipe export.
        """
        _refuse("get_offline_mode_folder", "there are no offline sessions: every task is in the store", "minipipe export RUN")

    def send(self, req: Any, ignore_errors: bool = False, raise_on_errors: bool = True, async_enable: bool = False) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: the methods of Task.
        """
        _refuse("send", "there is no server to send it to", "the methods of Task")

    @property
    def session(self) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: the methods of Task.
        """
        _refuse("session", "there is no server to talk to", "the methods of Task")

    @property
    def default_session(self) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: the methods of Task.
        """
        _refuse("default_session", "there is no server to talk to", "the methods of Task")

    @property
    def metrics_manager(self) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: the methods of Logger.
        """
        _refuse("metrics_manager", "there is no server to talk to", "the methods of Logger")

    def set_dataview(self, dataview: Any) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: connect.
        """
        _refuse("set_dataview", "there are no data views", "task.connect(dict)")

    def get_dataviews(self) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: connect.
        """
        _refuse("get_dataviews", "there are no data views", "task.connect(dict)")

    def set_artifacts(self, artifacts_list: Sequence[Any] | None = None) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: upload_artifact.
        """
        _refuse("set_artifacts", "an artifact has content here", "task.upload_artifact(name, object)")

    def setup_upload(
        self,
        bucket_name: str,
        host: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        multipart: bool = True,
        https: bool = True,
        region: str | None = None,
        verify: bool = True,
    ) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: a local directory.
        """
        _refuse("setup_upload", "one store holds everything", "nothing is needed; StorageManager.upload_file copies to a folder")

    def setup_aws_upload(
        self,
        bucket: str,
        subdir: str | None = None,
        host: str | None = None,
        key: str | None = None,
        secret: str | None = None,
        token: str | None = None,
        region: str | None = None,
        multipart: bool = True,
        secure: bool = True,
        verify: bool = True,
        profile: str | None = None,
    ) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: a local directory.
        """
        _refuse(
            "setup_aws_upload", "one store holds everything", "nothing is needed; StorageManager.upload_file copies to a folder"
        )

    def setup_gcp_upload(
        self,
        bucket: str,
        subdir: str = "",
        project: str | None = None,
        credentials_json: str | None = None,
        pool_connections: int | None = None,
        pool_maxsize: int | None = None,
    ) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: a local directory.
        """
        _refuse(
            "setup_gcp_upload", "one store holds everything", "nothing is needed; StorageManager.upload_file copies to a folder"
        )

    def setup_azure_upload(
        self,
        account_name: str,
        account_key: str | None = None,
        container_name: str | None = None,
        use_default_credential: bool = False,
    ) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: a local directory.
        """
        _refuse(
            "setup_azure_upload", "one store holds everything", "nothing is needed; StorageManager.upload_file copies to a folder"
        )

    def save_exec_model_design_file(self, filename: str = "model_design.txt", use_cache: bool = False) -> NoReturn:
        """Refused.

        Raises:
            NotSupported: set_configuration_object.
        """
        _refuse("save_exec_model_design_file", "a design is a configuration object", "task.set_configuration_object(name, text)")


def _refuse(name: str, why: str, instead: str) -> NoReturn:
    raise errors.NotSupported(f"Task.{name} is not offered", why, instead)
