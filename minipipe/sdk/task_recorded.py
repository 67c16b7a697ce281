"""Names of ClearML's `Task` that change nothing here: some are recorded and read back, the others say what to use instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from minipipe import errors
from minipipe.sdk import notice
from minipipe.sdk.task_base import TaskBase

_CODE = "the script's text is stored as it runs"
_SERVER = "there is no server to do it"


class TaskRecorded(TaskBase):
    """What is accepted for scripts that say it, and what is not."""

    @classmethod
    def force_store_standalone_script(cls, force: bool = True) -> None:
        """Accepted: a script's text is always stored."""
        notice.recorded("Task.force_store_standalone_script", _CODE)

    # -- recorded: what a process says of a server ----------------------------------------------------------------------

    _offline: ClassVar[bool] = False

    @classmethod
    def set_offline(cls, offline_mode: bool = False) -> None:
        """Accepted: there is no server, so everything works the same either way."""
        if offline_mode:
            notice.recorded("Task.set_offline", "there is no server, so everything works the same")
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
