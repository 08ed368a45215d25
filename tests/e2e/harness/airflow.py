"""Airflow with the DAGs of deploy/airflow, asked as a person's script asks it: by its REST API."""

import json
import urllib.request
from typing import Any

from .stack import Stack, stack
from .waiting import until

DONE = ("success", "failed")


class Airflow:
    """A service that was started with this environment; it stops at the end of the block."""

    def __init__(self, servers: Stack, **environment: str) -> None:
        self.url = servers["FIRN_AIRFLOW_URL"]
        self.environment = environment

    def __enter__(self) -> "Airflow":
        stack("down", "airflow", within_s=60)
        stack("up", "airflow", within_s=600, **self.environment)
        self.token = self._ask("GET", "/auth/token")["access_token"]
        return self

    def __exit__(self, *_: object) -> None:
        stack("down", "airflow", within_s=60)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask(method, f"/api/v2{path}", body)

    def run(self, dag: str, within_s: float, **conf: Any) -> tuple[str, dict[str, dict[str, Any]]]:
        """Triggers the DAG and waits: how the run ended, and its task instances by the table they are for (or their task's name)."""
        until(f"Airflow knows {dag}", lambda: self._knows(dag), 60)
        self.ask("PATCH", f"/dags/{dag}", {"is_paused": False})
        run = self.ask("POST", f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
        place = f"/dags/{dag}/dagRuns/{run}"
        until(f"{dag} has ended", lambda: self.ask("GET", place)["state"] in DONE, within_s, every_s=1)
        instances = self.ask("GET", f"{place}/taskInstances")["task_instances"]
        by_table = {i["rendered_map_index"] or i["task_id"]: {**i, "place": place} for i in instances}
        self.ask("PATCH", f"/dags/{dag}", {"is_paused": True})
        return self.ask("GET", place)["state"], by_table

    def log(self, instance: dict[str, Any]) -> str:
        """Of the last try."""
        path = f"{instance['place']}/taskInstances/{instance['task_id']}/logs/{instance['try_number']}?map_index={instance['map_index']}&full_content=true"
        return json.dumps(self.ask("GET", path), ensure_ascii=False)

    def _knows(self, dag: str) -> bool:
        errors = self.ask("GET", "/importErrors")["import_errors"]
        assert not errors, errors
        return any(d["dag_id"] == dag for d in self.ask("GET", "/dags?limit=100")["dags"])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if path != "/auth/token":
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())
