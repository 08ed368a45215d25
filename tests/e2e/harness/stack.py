"""The real servers, by deploy/native/stack: endpoints, and what a test does to a server."""

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "deploy" / "native" / "stack"
SERVERS = ("postgres", "minio", "kafka", "registry", "connect", "metastore", "trino", "redis", "clickhouse")
"""What the tests use."""


@dataclass(frozen=True)
class Stack:
    """A running stack. `env` holds the FIRN_* variables that `stack env` prints."""

    env: dict[str, str]

    @classmethod
    def brought_up(cls) -> "Stack":
        """Starts what isn't up; an environment variable FIRN_STACK_STATE says which stack."""
        stack("up", *SERVERS, within_s=900)
        lines = stack("env", within_s=30).splitlines()
        pairs = (shlex.split(line)[1].partition("=") for line in lines if line.startswith("export "))
        return cls({name: value for name, _, value in pairs})

    def __getitem__(self, name: str) -> str:
        return self.env[name]

    @property
    def kafka(self) -> str:
        return self["FIRN_KAFKA_BOOTSTRAP"]

    @property
    def bucket(self) -> str:
        return self["FIRN_WAREHOUSE_BUCKET"]

    def restart(self, *servers: str) -> None:
        """Stops and starts; returns when they are ready."""
        stack("restart", *servers, within_s=300)

    def kill(self, *servers: str) -> None:
        """kill -9."""
        stack("kill", *servers, within_s=60)

    def start(self, *servers: str) -> None:
        stack("up", *servers, within_s=300)


def stack(*command: str, within_s: float, **environment: str) -> str:
    """Runs `deploy/native/stack ...` and returns what it prints."""
    done = subprocess.run([str(SCRIPT), *command], capture_output=True, text=True, timeout=within_s, env={**os.environ, **environment})
    assert done.returncode == 0, f"stack {' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}"
    return done.stdout
