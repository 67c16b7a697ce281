"""Where an attempt runs: in this Python, in an environment of its own packages, or in a container; one host for each place."""

from __future__ import annotations

import json
from collections.abc import Callable

from minipipe.engine import containers, environments, hosting
from minipipe.settings import Settings
from minipipe.store.attempts import Claim
from minipipe.store.home import Store

HERE = ""
Host = hosting.HostProcess | containers.ContainerHost
_MOST_SPARES = 4
_MOST_HOSTS = 4


class Places:
    """The hosts of one worker, and the environments that are being built for it.

    Args:
        store: the worker's.
        settings: that hold for it.
        slots: attempts at a time.
        say: what people should know of.

    Attributes:
        hosts: by place: `HERE`, the digest of an environment, or what describes a container.
        cold: imports that a host died of.
    """

    def __init__(self, store: Store, settings: Settings, slots: int, say: Callable[[str], None]) -> None:
        self.store = store
        self.settings = settings
        self.say = say
        self.hosts: dict[str, Host] = {}
        self.builds = environments.Builds(store, settings.environments)
        self.cold: set[str] = set()
        self._spares = min(slots, _MOST_SPARES)

    @property
    def pids(self) -> set[int]:
        """Processes that somebody waits for here."""
        return {pid for owner in (self.builds, *self.hosts.values()) for pid in owner.pids}

    @property
    def channels(self) -> list[object]:
        """What becomes readable when a host has something to say."""
        return [host.channel for host in self.hosts.values() if host.channel is not None and not host.lost]

    def special(self, claim: Claim) -> bool:
        """True if a task runs elsewhere than in this Python."""
        return bool(self._image_of(claim)) or self.builds.needed(claim) is not None

    def find(self, claim: Claim, busy: set[str]) -> tuple[str, Host] | None:
        """The place of a task and its host; None if the task waits for the build of its environment now.

        Args:
            claim: the task.
            busy: places whose hosts have to stay.
        """
        image = self._image_of(claim)
        wanted = None if image else self.builds.needed(claim)
        if wanted is not None and not self.builds.ready(claim, wanted):
            return None
        place = image or (wanted.digest if wanted is not None else HERE)
        host = self.hosts.pop(place, None)
        if host is None:
            idle = [one for one in self.hosts if one != HERE and one not in busy]
            for one in idle[: max(0, len(self.hosts) - _MOST_HOSTS + 1)]:
                self.hosts.pop(one).close()
            host = self._make(place, claim, bool(image))
        self.hosts[place] = host  # the last used is the last to go
        return place, host

    def _image_of(self, claim: Claim) -> str:
        """Describes the container that a task runs in; "" if it runs in none."""
        wanted, program = claim.entry.get("container"), self.settings.containers
        if not wanted or program == "off":
            return ""
        if not containers.answers(program):
            self.say(f"{claim.run[:8]}/{claim.name}: {program} does not answer; the step runs in this Python")
            return ""
        return f"{program} {json.dumps(wanted, sort_keys=True)}"

    def _make(self, place: str, claim: Claim, image: bool) -> Host:
        if image:
            facts = claim.entry["container"]
            return containers.ContainerHost(
                self.store, self.settings.containers, facts["image"], facts["arguments"], facts["setup"]
            )
        if place == HERE:
            return hosting.HostProcess(self.store, self._spares, self.cold)
        python = str(environments.python_of(self.store, place))
        return hosting.HostProcess(self.store, self._spares, self.cold, python, environments.host_environment(self.store, place))

    def kill(self) -> None:
        """End everything at once."""
        for host in self.hosts.values():
            host.kill()
        self.builds.kill()

    def close(self) -> None:
        """End idle hosts in order."""
        for host in self.hosts.values():
            host.close()
