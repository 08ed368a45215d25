"""Kafka Connect's REST API: a connector paused, resumed, restarted."""

import json
import urllib.request
from typing import Any

from .stack import Stack
from .waiting import until


class Connect:
    def __init__(self, stack: Stack, connector: str) -> None:
        self.root = f"{stack['FIRN_CONNECT_URL']}/connectors/{connector}"

    def _ask(self, method: str, path: str) -> str:
        with urllib.request.urlopen(urllib.request.Request(self.root + path, method=method), timeout=60) as answer:
            return str(answer.read().decode())

    def _status(self) -> list[dict[str, Any]]:
        """Of the connector and its tasks."""
        told = json.loads(self._ask("GET", "/status"))
        return [told["connector"], *told["tasks"]]

    def states(self) -> set[str]:
        return {one["state"] for one in self._status()}

    def failure(self) -> str:
        """Why it is not running; empty when it is."""
        return "\n".join(f"{one['state']}: {one.get('trace', '')}" for one in self._status() if one["state"] != "RUNNING")

    def _reach(self, state: str) -> None:
        until(f"{self.root} is {state}", lambda: self.states() == {state}, 60)

    def restart(self) -> None:
        """The connector with its task, which goes on from its stored offsets."""
        self._ask("POST", "/restart?includeTasks=true")
        self._reach("RUNNING")

    def pause(self) -> None:
        self._ask("PUT", "/pause")
        self._reach("PAUSED")

    def resume(self) -> None:
        self._ask("PUT", "/resume")
        self._reach("RUNNING")
