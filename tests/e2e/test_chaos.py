"""Three processes on one table of twelve partitions, a fourth on its history, while everything breaks: kill -9, SIGSTOP, restarts of Kafka,
the metastore and MinIO, and networks that are cut, hold bytes back or lose answers. At the end Trino and PyIceberg hold what PostgreSQL holds.

FIRN_CHAOS_SECONDS (30) and FIRN_CHAOS_CHANGES (60,000) say how long and how much; `make chaos` runs ten minutes and 5,000,000.
FIRN_E2E_SEED says which load and which trouble, as far as the machine lets it come again.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from conftest import Trial
from harness.background import Background
from harness.bulk import COLUMNS, SCHEMA, TABLE, BulkLoad
from harness.gate import Gate
from harness.program import Config, Firn
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.waiting import until

SECONDS = float(os.environ.get("FIRN_CHAOS_SECONDS", "30"))
CHANGES = int(os.environ.get("FIRN_CHAOS_CHANGES", "60000"))
SEED = int(os.environ.get("FIRN_E2E_SEED", random.SystemRandom().randrange(1_000_000)))
LONG = SECONDS >= 300
STOPPED_S = (15, 60) if LONG else (8, 9)
"""How long a process is stopped: beyond its session with Kafka."""
CUT_S = (2, 15) if LONG else (1, 4)
PARTITIONS = 12
BARE = {"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false"}


class Member:
    """A process with its own ways to the metastore and to MinIO, and perhaps to Kafka."""

    def __init__(self, trial: Trial, open_: ExitStack, name: str, config: Config, kafka: Gate | None = None) -> None:
        env = trial.stack
        metastore, minio = (address.rpartition("/")[2].split(":") for address in (env["FIRN_HMS_URI"], env["FIRN_S3_ENDPOINT"]))
        self.gates = {"metastore": Gate(metastore[0], int(metastore[1])), "minio": Gate(minio[0], int(minio[1]))}
        for gate in self.gates.values():
            open_.enter_context(gate).open()
        config["catalog"]["uri"] = f"thrift://{self.gates['metastore'].address}"
        config["catalog"]["properties"]["s3.endpoint"] = f"http://{self.gates['minio'].address}"
        if kafka:
            self.gates["kafka"] = kafka
            config["kafka"]["bootstrap_servers"] = kafka.address
        self.firn: Firn = trial.firn(config, name)


class Chaos(Background):
    """One trouble after the other until it is told to end; each kind comes once before one comes again. `seen` counts them."""

    def __init__(self, trial: Trial, members: list[Member], luck: random.Random) -> None:
        super().__init__("chaos")
        self.stack = trial.stack
        self.members = members
        self.luck = luck
        self.seen: Counter[str] = Counter()
        self.over = threading.Event()
        self.kinds: dict[str, Callable[[], None]] = {
            "kill -9": self.kill, "SIGSTOP": self.stop, "kafka restarted": lambda: self.restart("kafka"),
            "metastore restarted": lambda: self.restart("metastore"), "MinIO restarted": lambda: self.restart("minio"),
        }  # fmt: skip
        for server in ("metastore", "minio", "kafka"):
            for kind in (self.cut, self.lose, self.hold):
                self.kinds[f"{server}: {kind.__doc__}"] = lambda kind=kind, server=server: kind(self.gate(server))

    def work(self) -> None:
        while not self.over.is_set():
            for name in self.luck.sample(sorted(self.kinds), len(self.kinds)):
                if self.over.wait(self.luck.uniform(0, 3 if LONG else 0.5)):
                    return
                self.kinds[name]()
                self.seen[name] += 1

    def through(self) -> bool:
        return len(self.seen) == len(self.kinds)

    def gate(self, server: str) -> Gate:
        return self.luck.choice([m.gates[server] for m in self.members if server in m.gates])

    def kill(self) -> None:
        for member in self.luck.sample(self.members, self.luck.randint(1, 2)):
            member.firn.kill()
            self.over.wait(self.luck.uniform(0, 1))
            member.firn.start()

    def stop(self) -> None:
        with self.luck.choice(self.members).firn.stopped():
            self.over.wait(self.luck.uniform(*STOPPED_S))

    def restart(self, server: str) -> None:
        self.stack.kill(server)
        self.stack.start(server)

    def cut(self, gate: Gate) -> None:
        """the network is cut"""
        gate.shut()
        self.over.wait(self.luck.uniform(*CUT_S))
        gate.open()

    def lose(self, gate: Gate) -> None:
        """answers are lost"""
        gate.lose_answers()
        self.over.wait(self.luck.uniform(*CUT_S))
        gate.answer()

    def hold(self, gate: Gate) -> None:
        """bytes are held back"""
        gate.hold()
        self.over.wait(self.luck.uniform(*CUT_S))
        gate.release()


@dataclass
class Outcome:
    trial: Trial
    source: Source

    @property
    def topic(self) -> str:
        return f"{self.trial.name}.{TABLE}"

    def columns(self) -> str:
        return ", ".join(COLUMNS)


@pytest.fixture(scope="module")
def outcome(module_trial: Trial) -> Iterator[Outcome]:
    trial = module_trial
    env = trial.stack
    topic = f"{trial.name}.{TABLE}"
    print(f"{CHANGES} changes, {SECONDS:.0f} s, FIRN_E2E_SEED={SEED}")
    with ExitStack() as open_:
        source = open_.enter_context(database(env, trial.name))
        source.run(SCHEMA)
        trial.kafka.create(topic, PARTITIONS)
        settings = {"table.include.list": f"public.content,{TABLE}", "topic.creation.default.partitions": str(PARTITIONS), **BARE}
        name = open_.enter_context(connector(source, "engagement", trial.name, **settings))
        kafka = Gate("127.0.0.1", int(env["FIRN_KAFKA_GATED_PORT"]), int(env["FIRN_KAFKA_GATE_PORT"]))
        open_.enter_context(kafka).open()

        def config(mode: str, table: str) -> Config:
            made = trial.config(topic, mode=mode, table=table)
            made["kafka"] |= {"group": f"{trial.name}_{table}", "workers": 1}
            made["source"] = {"url": source.url()}
            made["index"] = {"dir": f"firn-index-{len(members)}"}
            return made

        members: list[Member] = []
        for number in range(3):
            members.append(Member(trial, open_, f"mirror-{number}", config("upsert", "readings"), kafka if number == 0 else None))
        members.append(Member(trial, open_, "history", config("append", "history")))
        for member in members:
            member.firn.start()
        source.wait_until_published(name)  # the connector's snapshot is over: from here on it streams
        load = BulkLoad(source, CHANGES, SECONDS, max(3_000, CHANGES // 20), SEED)
        load.start()
        chaos = Chaos(trial, members, random.Random(SEED))
        chaos.start()
        began = time.monotonic()

        def done() -> bool:
            for thread in (load, chaos):
                thread.check()
            return not load.is_alive() and chaos.through() and time.monotonic() - began >= SECONDS

        until("the load is made, and every trouble was there", done, 3 * SECONDS + 300, every_s=1)
        chaos.over.set()
        chaos.join(120)
        chaos.check()
        print(f"{load.changes} changes made; " + ", ".join(f"{kind} {times}x" for kind, times in sorted(chaos.seen.items())))
        source.wait_until_published(name, within_s=SECONDS + 300)
        for table in ("readings", "history"):
            trial.wait_until_committed(table, topic, within_s=SECONDS + 300)
        messages = sum(trial.kafka.ends(topic).values())
        print(f"all committed {time.monotonic() - began:.0f} s after the start; {messages} messages")
        assert messages >= load.changes, "not every change was streamed"
        for member in members:
            assert member.firn.terminate() == 0, member.firn.tail()
        yield Outcome(trial, source)


def test_trino_sees_what_postgresql_holds(outcome: Outcome) -> None:
    rows = outcome.trial.lake.sql(f"SELECT {outcome.columns()} FROM {outcome.trial.table('readings')}")
    count = assert_same("Trino", rows, outcome.source.run(f"SELECT {outcome.columns()} FROM {TABLE}"))
    print(f"{count} rows")
    assert count > 0


def test_pyiceberg_sees_what_postgresql_holds(outcome: Outcome) -> None:
    table = outcome.trial.lake.table(outcome.trial.table("readings"))
    assert table is not None
    arrow = table.scan(selected_fields=tuple(COLUMNS)).to_arrow()
    rows = zip(*(arrow.column(name).to_pylist() for name in COLUMNS), strict=True)
    assert_same("PyIceberg", rows, outcome.source.run(f"SELECT {outcome.columns()} FROM {TABLE}"))


def test_the_history_holds_every_message_once(outcome: Outcome) -> None:
    """A tombstone is no row. A connector that was cut off sends what was not acknowledged again: those are messages of their own."""
    messages = outcome.trial.kafka.read(outcome.topic, within_s=SECONDS + 120)
    sent = Counter(message.origin[1] for message in messages if message.value is not None)
    assert len(sent) == PARTITIONS
    for partition, count in sent.items():
        [[rows, offsets]] = outcome.trial.lake.sql(
            f"SELECT count(*), count(DISTINCT _firn_offset) FROM {outcome.trial.table('history')} WHERE _firn_partition = {partition}"
        )
        assert rows == offsets == count, f"partition {partition}: {rows} rows, {offsets} offsets, {count} messages with a value"


def test_the_history_adds_up_to_the_source(outcome: Outcome) -> None:
    """The fold by SQL: of each id the last change, unless it is a delete."""
    rows = outcome.trial.lake.sql(
        f"SELECT {outcome.columns()} FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY _firn_offset DESC) AS age"
        f" FROM {outcome.trial.table('history')}) WHERE age = 1 AND _firn_op <> 'd'"
    )
    assert_same("the fold of the history", rows, outcome.source.run(f"SELECT {outcome.columns()} FROM {TABLE}"))
