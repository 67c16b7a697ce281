"""In the place of Slack's client: what is posted goes to the file ``posted``."""

from __future__ import annotations

from typing import Any


class Response(dict[str, Any]):
    """An answer."""

    @property
    def data(self) -> Response:
        """Itself."""
        return self


class WebClient:
    """Knows one channel."""

    def __init__(self, token: str) -> None:
        assert token

    def api_test(self) -> None:
        """Say nothing."""

    def conversations_list(self, cursor: str | None = None) -> Response:
        """The one channel."""
        return Response(channels=[{"id": "C1", "name": "alerts"}], response_metadata={})

    def conversations_join(self, channel: str) -> None:
        """Only there."""
        assert channel == "C1"

    def chat_postMessage(self, channel: str, blocks: list[dict[str, Any]]) -> None:
        """Keep it."""
        with open("posted", "a", encoding="utf-8") as file:
            file.write(f"{blocks}\n")
