"""firn as a process: its configuration file, starting, stopping, killing, and its log."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .stack import Stack
from .waiting import until

Config = dict[str, dict[str, Any]]


def hive_config(stack: Stack, *, topics: list[str], namespace: str, group: str, mode: str = "upsert", **lake: Any) -> Config:
    """A configuration on the stack's Hive Metastore and bucket; `lake` adds to or replaces keys of `[lake]`."""
    return {
        "kafka": {
            "bootstrap_servers": stack.kafka,
            "group": group,
            "workers": 2,
            # A topic or partition that is made while firn runs shows within this; the session's end is how long a killed
            # process keeps its partitions.
            "properties": {"topic.metadata.refresh.interval.ms": "1000", "session.timeout.ms": "6000"},
        },
        "catalog": {
            "type": "hive",
            "uri": stack["FIRN_HMS_URI"],
            "warehouse": f"s3://{stack.bucket}/",
            "properties": {
                "s3.endpoint": stack["FIRN_S3_ENDPOINT"],
                "s3.region": stack["FIRN_S3_REGION"],
                "s3.path-style-access": "true",
                "s3.access-key-id": "${FIRN_S3_ACCESS_KEY}",
                "s3.secret-access-key": "${FIRN_S3_SECRET_KEY}",
            },
        },
        "lake": {"topics": topics, "namespace": namespace, "table": "{table}", "mode": mode, "commit_interval_ms": 500, **lake},
        "dead_letters": {"namespace": namespace},
        "serve": {"listen": ""},
    }


def sqlite_config(stack: Stack, folder: Path, *, topics: list[str], namespace: str, group: str, mode: str = "upsert") -> Config:
    """The embedded catalog and a warehouse of local files."""
    config = hive_config(stack, topics=topics, namespace=namespace, group=group, mode=mode)
    config["catalog"] = {
        "type": "sql",
        "uri": f"sqlite:{folder / 'catalog.db'}",
        "name": "firn",
        "warehouse": str(folder / "warehouse"),
    }
    return config


def to_toml(config: Mapping[str, Any]) -> str:
    """One `[section]` each, or one `[[section]]` for each of a list; everything deeper as inline tables and arrays."""

    def value(v: Any) -> str:
        if isinstance(v, Mapping):
            return "{ " + ", ".join(f"{json.dumps(k)} = {value(x)}" for k, x in v.items()) + " }"
        if isinstance(v, list):
            return "[" + ", ".join(value(x) for x in v) + "]"
        return json.dumps(v)

    lines: list[str] = []
    for section, entries in config.items():
        several = isinstance(entries, list)
        for one in entries if several else [entries]:
            lines += [f"[[{section}]]" if several else f"[{section}]", *(f"{key} = {value(v)}" for key, v in one.items()), ""]
    return "\n".join(lines)


class Firn:
    """One firn, started again as often as a test likes. Each start has a log of its own in `folder`."""

    def __init__(self, stack: Stack, folder: Path, config: Config, name: str = "firn") -> None:
        self.folder = folder
        self.name = name
        self.config = config
        self.file = folder / f"{name}.toml"
        self.file.write_text(to_toml(config))
        self.environment = {**os.environ, **stack.env, "RUST_BACKTRACE": "1", "NO_COLOR": "1"}
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def __enter__(self) -> "Firn":
        return self if self.running() else self.start()

    def __exit__(self, *_: object) -> None:
        if self.running():
            self.kill()

    def start(self, *arguments: str) -> "Firn":
        """`firn run`, or another command that stays."""
        assert not self.running(), f"{self.name} runs already"
        self.starts += 1
        with self.log_file().open("wb") as log:
            command = [binary(), *(arguments or ("run",)), "-c", str(self.file)]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True)
        return self

    def forget_index(self) -> None:
        """Deletes the stored key indexes: they are scanned anew."""
        shutil.rmtree(self.folder / "firn-index", ignore_errors=True)

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """kill -9: nothing can be finished."""
        self._signal(signal.SIGKILL, 30)

    def peak_rss_bytes(self) -> int:
        """The most memory that it has had so far, as the kernel counts."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) << 10

    def terminate(self, within_s: float = 60) -> int:
        """SIGTERM; the exit code."""
        return self._signal(signal.SIGTERM, within_s)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP, and SIGCONT when the block ends: it does not know that time has passed."""
        assert self.process is not None and self.running(), f"{self.name} has ended by itself:\n{self.tail()}"
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals, within_s: float) -> int:
        assert self.process is not None and self.running(), f"{self.name} has ended by itself:\n{self.tail()}"
        self.process.send_signal(number)
        return self.process.wait(timeout=within_s)

    def exit_code(self, within_s: float = 60) -> int:
        """Waits for it to end by itself."""
        process = self.process
        assert process is not None
        until(f"{self.name} ends by itself", lambda: process.poll() is not None, within_s)
        return process.returncode

    def log_file(self) -> Path:
        return self.folder / f"{self.name}-{self.starts}.log"

    def log(self) -> str:
        """Of the current start, without colours."""
        text = self.log_file().read_text(errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def tail(self, lines: int = 25) -> str:
        return f"--- the end of {self.log_file()}\n" + "\n".join(self.log().splitlines()[-lines:])

    def says(self, *words: str) -> str | None:
        """The log line that holds all of `words`, whatever their case."""
        for line in self.log().splitlines():
            if all(word.lower() in line.lower() for word in words):
                return line
        return None

    def wait_until_it_says(self, *words: str, within_s: float = 60) -> str:
        until(f"{self.name} says {words}", lambda: self.says(*words) or not self.running(), within_s, then=self.tail)
        line = self.says(*words)
        assert line, f"{self.name} ended without saying {words}:\n{self.tail()}"
        return line

    def metrics(self, name: str) -> dict[str, float]:
        """Labels -> value of a metric, as the running process tells it."""
        with urllib.request.urlopen(f"http://{self.config['serve']['listen']}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {labels: float(value) for labels, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)}

    def command(self, *arguments: str, within_s: float = 90) -> subprocess.CompletedProcess[str]:
        """`firn ARGUMENTS... -c FILE`, to its end."""
        words = [binary(), *arguments, "-c", str(self.file)]
        return subprocess.run(words, capture_output=True, text=True, timeout=within_s, env=self.environment)


def free_port() -> int:
    """For `serve.listen`."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def binary() -> str:
    """The program under test."""
    path = os.environ.get("FIRN_BIN", "")
    assert path and os.access(path, os.X_OK), f"FIRN_BIN must name the firn binary (it is '{path}')"
    return path
