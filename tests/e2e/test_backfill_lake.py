"""A new sink gets rows from the lake whose history Kafka has lost, while live changes touch them and the command is killed at every step."""

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conftest import Trial
from harness.clickhouse import ClickHouse
from harness.program import Firn, to_toml
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.waiting import until
from test_backfill import COLUMNS as OF_THE_SOURCE
from test_backfill import EVENTS, IN_RANGE, RANGE, Watched, standing

ROWS = 9_000
COLUMNS = "id, event_type, duration_ms, device"
FROM_LAKE = ("--table", EVENTS, *RANGE, "--from-lake")


def old_rows(source: Source) -> None:
    source.run(f"""
        INSERT INTO engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload)
        SELECT CASE WHEN n % 2 > 0 THEN (SELECT id FROM content LIMIT 1) END, gen_random_uuid(), (ARRAY['play', 'click'])[n % 2 + 1],
               timestamptz '2024-03-05 23:59:59.000001Z' - n * interval '400000 seconds' / {ROWS}, nullif(n % 70, 0), nullif('ios', left('ios', n % 4)),
               jsonb_build_object('n', n, 'text', E'a "b" \\\\ \\u00e9')
        FROM generate_series(1, {ROWS}) n""")
    source.run("INSERT INTO engagement_events (user_id, event_type, event_ts) SELECT gen_random_uuid(), 'play', '2023-01-01' FROM generate_series(1, 500)")


@contextmanager
def lost(trial: Trial, schemas: str = "true") -> Iterator[tuple[Source, str]]:
    """A table that the lake has whole, and the topic the last record of each partition."""
    converters = {f"{side}.converter.schemas.enable": schemas for side in ("key", "value")}
    with database(trial.stack, trial.name) as source:
        old_rows(source)
        with connector(source, "engagement", trial.name, **converters) as name:
            source.wait_until_published(name)
            with lake(trial, source):
                trial.wait_until_committed("engagement_events")
            topic = trial.topic("engagement_events")
            trial.kafka.delete_records(topic, {partition: end - 1 for partition, end in trial.kafka.ends(topic).items() if end > 0})
            yield source, name


def lake(trial: Trial, source: Source, name: str = "firn", more: str = "") -> Firn:
    """Without Kafka Connect; of the source database only the types, for records that have none."""
    config = trial.config(trial.topic("engagement_events"), mode="upsert") | {"source": {"url": source.url()}}
    firn = trial.firn(config, name)
    firn.file.write_text(to_toml(config) + more)
    return firn


def mirrored(trial: Trial, clickhouse: ClickHouse) -> str:
    return f"""
[[pipelines]]
name = "mirror"
sql = "SELECT image.id, image.event_type, image.event_ts, image.duration_ms, image.device, image.raw_payload FROM e"

[[pipelines.sources]]
topic = "{trial.topic("engagement_events")}"
name = "e"

[[pipelines.clickhouse]]
url = "{clickhouse.url}"
database = "{clickhouse.database}"
table = "mirror"
engine = "replacing"
order_by = ["id"]
"""


def sides(source: Source, clickhouse: ClickHouse) -> tuple[list[list[Any]], list[tuple[Any, ...]]]:
    """The range in the mirror, and in PostgreSQL."""
    micros = "toUnixTimestamp64Micro(event_ts)"
    have = clickhouse.rows(f"SELECT {COLUMNS}, raw_payload, {micros} FROM mirror FINAL WHERE {micros} >= 1709251200000000 AND {micros} < 1709683200000000")
    want = source.run(f"SELECT {COLUMNS}, raw_payload::text, (extract(epoch FROM event_ts) * 1000000)::bigint FROM engagement_events WHERE {IN_RANGE}")
    return [[*row[:5], int(row[5])] for row in have], want


def differing(source: Source, clickhouse: ClickHouse) -> set[tuple[Any, ...]]:
    have, want = sides(source, clickhouse)
    return {tuple(row) for row in have} ^ set(want)


def assert_mirrored(source: Source, clickhouse: ClickHouse) -> None:
    assert_same("the mirror", *sides(source, clickhouse))


def reads(trial: Trial) -> Counter[int]:
    """How often each row is in the topic as one from the lake."""
    found: Counter[int] = Counter()
    for message in trial.kafka.read(trial.topic("engagement_events")):
        change = json.loads(message.value or b"{}")
        change = change.get("payload", change)
        if change and change["op"] == "r" and change["source"]["snapshot"] == "incremental":
            found[change["after"]["id"]] += 1
    return found


class Live(threading.Thread):
    """Changes, deletes and adds rows of the range, a tenth of all and no others, until told to stop."""

    def __init__(self, source: Source) -> None:
        super().__init__(name="live", daemon=True)
        self.source, self.over, self.rounds = source, threading.Event(), 0

    def run(self) -> None:
        change = f"UPDATE engagement_events SET raw_payload = jsonb_build_object('n', %s), duration_ms = 7 WHERE {IN_RANGE} AND id %% 40 = %s"
        delete = f"DELETE FROM engagement_events WHERE id IN (SELECT id FROM engagement_events WHERE {IN_RANGE} AND id %% 40 = 5 LIMIT %s)"
        add = "INSERT INTO engagement_events (user_id, event_type, event_ts) SELECT gen_random_uuid(), 'click', '2024-03-05' FROM generate_series(1, 5)"
        while not self.over.wait(0.3):
            self.rounds += 1
            self.source.run(change, (self.rounds, self.rounds % 3))
            self.source.run(delete, (3,))
            self.source.run(add)


def test_a_new_sink_gets_from_the_lake_what_kafka_has_lost(trial: Trial, clickhouse: ClickHouse) -> None:
    with lost(trial) as (source, name), lake(trial, source, "both", mirrored(trial, clickhouse)) as firn:
        live = Live(source)
        live.start()
        armed = firn.folder / "armed"
        firn.environment["FIRN_FAILPOINTS"] = str(armed)
        for step in ("backfill-send.before", "backfill-send.after", "backfill-commit.before", "backfill-commit.after"):
            armed.write_text(f"{step}=crash@2\n")
            killed = firn.command("backfill", *FROM_LAKE)
            assert killed.returncode == -signal.SIGKILL, (step, killed.stdout + killed.stderr)
            assert standing(firn)["state"] == "running"
        sent = sum(reads(trial).values())
        assert 1_000 < sent < ROWS, "each time a transaction or two, and none by halves"

        # Paused while a transaction is open, which is lost by that.
        armed.write_text("backfill-send.after=stall(3000)@1\n")
        with Watched(firn, *FROM_LAKE) as backfill:
            until("a transaction is open", lambda: armed.read_text() == "", 30, then=backfill.text)
            paused = firn.command("backfill", "pause", "--table", EVENTS)
            assert paused.returncode == 0 and "paused" in paused.stdout, paused.stdout + paused.stderr
            backfill.wait_until_it_says("paused")
            before = sum(reads(trial).values())
            other = firn.command("backfill", "--table", EVENTS, "--all", "--from-lake")
            assert other.returncode == 1 and "another backfill" in other.stderr, other.stderr
            backfill.kill()
            # The same command: it goes on, once it is let.
            armed.write_text("backfill-commit.after=lost-answer@2\n")
            backfill.start()
            until("it is there again", lambda: backfill.text().count("goes on") == 2, 30, then=backfill.text)
            assert sum(reads(trial).values()) == before and standing(firn)["state"] == "paused"
            resumed = firn.command("backfill", "resume", "--table", EVENTS)
            assert resumed.returncode == 0 and "running" in resumed.stdout, resumed.stdout + resumed.stderr
            until("the backfill ends", lambda: backfill.process.poll() is not None, 90, then=backfill.text)
            assert backfill.process.returncode == 0 and "100 % " in backfill.text(), backfill.text()
        live.over.set()
        live.join()
        stands = standing(firn)
        assert (stands["state"], stands["table"]) == ("done", trial.table("engagement_events")), stands

        came = reads(trial)
        assert max(came.values()) == 1, "no row comes twice"
        assert sum(came.values()) == stands["rows"] and stands["rows"] + stands["left_out"] == ROWS and 0 < stands["left_out"] <= ROWS // 10, stands
        source.wait_until_published(name)
        until("the mirror has all", lambda: len(differing(source, clickhouse)) == 0, 60, then=firn.tail)
        assert_mirrored(source, clickhouse)
        [[outside]] = clickhouse.rows("SELECT count() FROM mirror FINAL WHERE event_ts < '2024-01-01'")
        assert int(outside) <= 3, "of other rows the topic's last ones alone"
        whole = source.run("SELECT id, content_id::text, user_id::text, event_type, duration_ms, device, raw_payload::text FROM engagement_events")

        def in_lake() -> list[list[Any]]:
            return trial.lake.sql(f"SELECT {OF_THE_SOURCE} FROM {trial.table('engagement_events')}")

        until("the lake has all", lambda: len(in_lake()) == len(whole), 60, every_s=1, then=firn.tail)
        assert_same("the lake", in_lake(), whole)

        # Once more, and given up.
        armed.write_text("backfill-send.after=stall(3000)@3\n")
        with Watched(firn, *FROM_LAKE) as backfill:
            until("it is under way", lambda: armed.read_text() == "", 30, then=backfill.text)
            stopped = firn.command("backfill", "stop", "--table", EVENTS)
            assert stopped.returncode == 0 and "stopped" in stopped.stdout, stopped.stdout + stopped.stderr
            until("the command ends", lambda: backfill.process.poll() is not None, 30, then=backfill.text)
            assert backfill.process.returncode == 1 and "was stopped" in backfill.text(), backfill.text()
        assert standing(firn)["state"] == "stopped"
        assert firn.terminate() == 0, firn.tail()


def test_a_topic_made_anew_is_not_taken_for_the_one_that_the_backfill_began_with(trial: Trial) -> None:
    with lost(trial) as (source, _):
        firn, topic = lake(trial, source, "killed"), trial.topic("engagement_events")
        armed = firn.folder / "armed"
        firn.environment["FIRN_FAILPOINTS"] = str(armed)
        armed.write_text("backfill-commit.after=crash@1\n")
        killed = firn.command("backfill", *FROM_LAKE)
        assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
        # Longer than the old one was: every offset is there, with another record.
        ends = trial.kafka.ends(topic)
        one = next(message for message in trial.kafka.read(topic) if message.value)
        trial.kafka.delete(topic)
        trial.kafka.create(topic, len(ends))
        for partition, end in ends.items():
            trial.kafka.send(topic, [(one.key, one.value)] * (end + 10), partition)
        refused = firn.command("backfill", *FROM_LAKE)
        assert refused.returncode == 1 and "was made anew since the backfill began" in refused.stderr, refused.stdout + refused.stderr
        assert not reads(trial), "nothing was sent"


class Overtaking(threading.Thread):
    """Changes of one row after the other, straight into the partitions that the rows' changes are in, until told to stop."""

    def __init__(self, trial: Trial, pause_s: float) -> None:
        super().__init__(name="overtaking", daemon=True)
        self.trial, self.pause_s, self.over = trial, pause_s, threading.Event()
        self.topic = trial.topic("engagement_events")
        self.places = trial.lake.sql(f"SELECT id, \"_firn_partition\" FROM {trial.table('engagement_events')} ORDER BY user_id")
        self.like = next(message for message in trial.kafka.read(self.topic) if message.value)

    def run(self) -> None:
        key, value = (json.loads(text or b"") for text in (self.like.key, self.like.value))
        value["payload"]["op"] = "u"
        for row, partition in self.places:
            if self.over.wait(self.pause_s):
                return
            key["payload"]["id"] = value["payload"]["after"]["id"] = row
            written = [json.dumps(part, separators=(",", ":")).encode() for part in (key, value)]
            self.trial.kafka.producer.produce(self.topic, *reversed(written), partition=partition)
            self.trial.kafka.producer.poll(0)


def test_a_row_from_the_lake_comes_before_every_change_since(trial: Trial) -> None:
    """A transaction's rows reach a partition in several batches, and changes come between these, too."""
    with lost(trial) as (source, _), lake(trial, source) as firn:
        overtaking = Overtaking(trial, 0.003)
        overtaking.start()
        done = firn.command("backfill", *FROM_LAKE, "--output", "json")
        overtaking.over.set()
        overtaking.join()
        assert trial.kafka.producer.flush(60) == 0
        assert done.returncode == 0, done.stdout + done.stderr
        progress = json.loads(done.stdout)["progress"]
        came: dict[int, list[str]] = {}
        for message in trial.kafka.read(overtaking.topic):
            change = json.loads(message.value or b"{}").get("payload")
            if change and (change["op"] == "u" or change["source"]["snapshot"] == "incremental"):
                came.setdefault(change["after"]["id"], []).append(change["op"])
        assert sum(ops.count("r") for ops in came.values()) == progress["rows"] > 100, progress
        assert progress["left_out"] > 10, progress
        late = {row: ops for row, ops in came.items() if "r" in ops[1:]}
        assert not late, f"{len(late)} rows come behind a change of them"
        assert firn.terminate() == 0, firn.tail()


def test_records_without_schema_are_written_as_they_are(trial: Trial, clickhouse: ClickHouse) -> None:
    with lost(trial, schemas="false") as (source, _), lake(trial, source, "both", mirrored(trial, clickhouse)) as firn:
        done = firn.command("backfill", *FROM_LAKE, "--output", "json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["progress"]["rows"] == ROWS
        assert_mirrored(source, clickhouse)
        assert firn.terminate() == 0, firn.tail()


def test_what_can_not_come_from_the_lake_is_said(trial: Trial) -> None:
    trial.kafka.create(trial.topic())

    def refused(*arguments: str, says: str, code: int = 1, mode: str = "upsert") -> None:
        firn = trial.firn(trial.config(trial.topic(), mode=mode))
        done = firn.command("backfill", "--from-lake", *arguments)
        assert done.returncode == code and says in done.stderr, (arguments, done.stdout + done.stderr)

    refused("--table", "public.items", says="say which rows", code=2)
    refused("--table", "public.items", "--all", "--detach", says="cannot be used with", code=2)
    refused("--table", "public.items", "--all", "--channel", "table", says="cannot be used with", code=2)
    refused("--table", "public.items", "--all", "--replace", says="isn't offered", code=2)
    refused("--table", "public.nothing", "--all", says="reads no topic called public.nothing")
    refused("--table", "public.items", "--all", says=f"there is no lake table {trial.table()} yet")
    refused("--table", "public.items", "--all", says="mode append", mode="append")
