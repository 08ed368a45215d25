"""Redis: a database that is the tests' alone, or a server."""

import socket
import subprocess
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from .stack import Stack
from .waiting import until

NUMBER = 9
"""Not 0, which may hold what a person has put there."""


def redis_url(stack: Stack) -> str:
    """For firn's configuration."""
    return f"{stack['FIRN_REDIS_URL']}/{NUMBER}"


def connect(stack: Stack) -> Redis:
    """Answers text; goes on after a restart of the server."""
    return Redis.from_url(redis_url(stack), decode_responses=True)


class OwnRedis:
    """A server of the test itself, to be stopped for a while. What it was told it knows again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            self.port = reserved.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Redis(port=self.port, decode_responses=True)

    def __enter__(self) -> "OwnRedis":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        options = ["--port", str(self.port), "--dir", str(self.folder), "--appendonly", "yes", "--save", ""]
        self.process = subprocess.Popen(["redis-server", *options], stdout=log, stderr=log)

        def answers() -> bool:
            try:
                return bool(self.client.ping())
            except RedisError:
                return False

        until("Redis answers", answers, 30)

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            process.wait(30)
