"""The stack for the whole run, and a name of its own for each test: topics, group, namespace, folder."""

import os
import re
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.clickhouse import ClickHouse
from harness.lake import Lake
from harness.program import Config, Firn, hive_config
from harness.redis import Redis, connect
from harness.stack import Stack
from harness.topics import Kafka
from harness.waiting import until

FULL = os.environ.get("FIRN_E2E_FULL") == "1"
KEEP = os.environ.get("FIRN_E2E_KEEP") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("full") and not FULL:
            item.add_marker(pytest.mark.skip(reason="full variant: FIRN_E2E_FULL=1"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows the end of firn's logs."""
    report = yield
    trial = getattr(item, "funcargs", {}).get("trial")
    if report.failed and isinstance(trial, Trial):
        report.sections.append(("firn", trial.tails()))
    return report


@pytest.fixture(scope="session")
def stack() -> Stack:
    return Stack.brought_up()


@pytest.fixture(scope="session")
def kafka(stack: Stack) -> Kafka:
    return Kafka(stack.kafka)


@pytest.fixture(scope="session")
def lake(stack: Stack) -> Lake:
    return Lake(stack)


@dataclass
class Trial:
    """What one test has for itself. `name` is new in every run, so a test may be run again on the same stack."""

    stack: Stack
    kafka: Kafka
    lake: Lake
    name: str
    folder: Path
    started: list[Firn] = field(default_factory=list)

    def topic(self, table: str = "items") -> str:
        """As Debezium would name it."""
        return f"{self.name}.public.{table}"

    def table(self, table: str = "items") -> str:
        return f"{self.name}.{table}"

    def wait_until_committed(self, table: str = "items", topic: str | None = None, within_s: float = 60) -> None:
        """Until the table holds its topic to the end; at once a failure when no firn runs any more."""
        topic = topic or self.topic(table)
        name = table if "." in table else self.table(table)

        def committed() -> bool:
            assert any(firn.running() for firn in self.started), f"no firn runs\n{self.tails()}"
            return self.lake.is_committed(self.kafka, topic, name)

        until(f"{name} holds {topic} to its end", committed, within_s, every_s=0.3)

    def tails(self) -> str:
        return "\n".join(firn.tail() for firn in self.started if firn.starts)

    def config(self, *topics: str, mode: str = "upsert", **lake: Any) -> Config:
        return hive_config(self.stack, topics=list(topics), namespace=self.name, group=self.name, mode=mode, **lake)

    def firn(self, config: Config, name: str = "firn") -> Firn:
        """Not started yet; killed at the end of the test if it still runs."""
        made = Firn(self.stack, self.folder, config, name)
        self.started.append(made)
        return made


def trial_named(stack: Stack, kafka: Kafka, lake: Lake, folder: Path, words: str) -> Iterator[Trial]:
    plain = re.sub(r"[^a-z0-9]+", "_", words.lower().removeprefix("test_"))[:24].strip("_")
    made = Trial(stack, kafka, lake, f"e2e_{plain}_{secrets.token_hex(3)}", folder)
    print(f"{made.name}: logs in {folder}")
    yield made
    for firn in made.started:
        firn.__exit__()
    if KEEP:
        return
    if topics := kafka.names(made.name):
        kafka.delete(*topics)
    lake.drop_schema(made.name)


@pytest.fixture
def trial(stack: Stack, kafka: Kafka, lake: Lake, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Trial]:
    yield from trial_named(stack, kafka, lake, tmp_path, request.node.name)


@pytest.fixture(scope="module")
def module_trial(stack: Stack, kafka: Kafka, lake: Lake, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Trial]:
    """For tests that look at the outcome of one long run."""
    words = request.node.path.stem
    yield from trial_named(stack, kafka, lake, tmp_path_factory.mktemp(words), words)


@pytest.fixture
def clickhouse(stack: Stack, trial: Trial) -> Iterator[ClickHouse]:
    """A database under the test's own name."""
    server = ClickHouse(stack["FIRN_CLICKHOUSE_URL"])
    server.run(f"CREATE DATABASE {trial.name}")
    yield ClickHouse(server.url, trial.name)
    if not KEEP:
        server.run(f"DROP DATABASE IF EXISTS {trial.name} SYNC")


@pytest.fixture
def redis(stack: Stack) -> Iterator[Redis]:
    """Empty; `harness.redis.redis_url` is its address for a configuration."""
    client = connect(stack)
    client.flushdb()
    yield client
    if not KEEP:
        client.flushdb()
    client.close()
