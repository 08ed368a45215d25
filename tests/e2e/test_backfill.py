"""Rows that no connector has seen are read anew at the source, into all sinks, while live changes flow and processes are killed."""

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conftest import FULL, Trial
from harness.clickhouse import ClickHouse
from harness.connect import Connect
from harness.engagement import Engagement
from harness.program import Firn, binary, to_toml
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.stack import ROOT
from harness.waiting import until
from test_sidecar import have, want

EVENTS = "public.engagement_events"
RANGE = ("--from", "2024-03-01", "--to", "2024-03-06")
IN_RANGE = "event_ts >= '2024-03-01' AND event_ts < '2024-03-06'"
OLD = 100_000 if FULL else 30_000
COLUMNS = "id, content_id, user_id, event_type, duration_ms, device, raw_payload"


def old_rows(source: Source) -> None:
    """Contents, events of the range and events before it: all from before there is a connector."""
    source.run("""
        INSERT INTO content SELECT gen_random_uuid(), 'old-' || n, 'Old ' || n, (ARRAY['podcast', 'newsletter', 'video', NULL])[n % 4 + 1],
               nullif(n % 50, 0) * 60, now() FROM generate_series(1, 200) n""")
    source.run(f"""
        INSERT INTO engagement_events (content_id, user_id, event_type, event_ts, duration_ms, device, raw_payload)
        SELECT CASE WHEN n % 9 > 0 THEN (SELECT id FROM content WHERE slug = 'old-' || n % 200 + 1) END, gen_random_uuid(), 'play',
               timestamptz '2024-03-05 23:59:59Z' - n * interval '400000 seconds' / {OLD}, nullif(n % 7000, 0), nullif('ios', left('ios', n % 4)), '{{}}'
        FROM generate_series(1, {OLD}) n""")
    source.run("INSERT INTO engagement_events (user_id, event_type, event_ts) SELECT gen_random_uuid(), 'play', '2023-01-01' FROM generate_series(1, 500)")
    [(rows,)] = source.run(f"SELECT count(*) FROM engagement_events WHERE {IN_RANGE}")
    assert rows == OLD


@contextmanager
def captured(trial: Trial, chunk_rows: int) -> Iterator[tuple[Source, str]]:
    """A connector that has read nothing. The smaller the chunks, the longer it takes for a range."""
    trial.kafka.create(f"{trial.name}-signal", partitions=1)
    settings = {
        "snapshot.mode": "no_data",
        "notification.sink.topic.name": f"{trial.name}-notifications",
        "incremental.snapshot.chunk.size": str(chunk_rows),
    }
    with database(trial.stack, trial.name) as source:
        old_rows(source)
        with connector(source, "engagement", trial.name, **settings) as name:
            source.wait_until_published(name)
            yield source, name


def configured(trial: Trial, source: Source, clickhouse: ClickHouse) -> Firn:
    """The example's ClickHouse tables, and the events in the lake."""
    config = trial.config(trial.topic("engagement_events"), mode="upsert")
    del config["kafka"]
    config |= {"connect": {"url": trial.stack["FIRN_CONNECT_URL"]}, "source": {"url": source.url()}}
    firn = trial.firn(config)
    head, *pipelines = (ROOT / "examples" / "r2-enrichment" / "firn.toml").read_text().split("[[pipelines]]")
    into_clickhouse = [re.split(r"\[\[pipelines\.(?:redis|http)\]\]", p)[0] for p in pipelines if "[[pipelines.clickhouse]]" in p]
    firn.file.write_text("[[pipelines]]".join([head, *into_clickhouse]) + "\n" + to_toml(config))
    firn.environment |= {
        "KAFKA_BOOTSTRAP": trial.stack.kafka,
        "FIRN_GROUP": trial.name,
        "TOPIC_CONTENT": trial.topic("content"),
        "TOPIC_EVENTS": trial.topic("engagement_events"),
        "CLICKHOUSE_URL": clickhouse.url,
        "CLICKHOUSE_DATABASE": clickhouse.database,
    }
    return firn


class Watched:
    """`firn backfill` as a process of its own."""

    def __init__(self, firn: Firn, *arguments: str) -> None:
        self.words = [binary(), "backfill", *arguments, "-c", str(firn.file)]
        self.environment = firn.environment
        self.log = firn.folder / "backfill.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.words, stdout=log, stderr=subprocess.STDOUT, env=self.environment)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until_it_says(self, word: str, within_s: float = 60) -> None:
        until(f"firn backfill says {word}", lambda: word in self.text(), within_s, then=self.text)


def standing(firn: Firn) -> dict[str, Any]:
    """The newest backfill."""
    shown = firn.command("backfill", "status", "--output", "json")
    assert shown.returncode == 0, shown.stderr
    return dict(json.loads(shown.stdout)[-1])


def ours(source: Source, since: int, rows: list[list[Any]]) -> list[list[Any]]:
    """Those of the range, and those that came live."""
    in_range = {r[0] for r in source.run(f"SELECT id FROM engagement_events WHERE {IN_RANGE} OR id > %s", (since,))}
    return [row for row in rows if row[0] in in_range]


def lake_rows(source: Source, since: int) -> list[tuple[Any, ...]]:
    wanted = "SELECT id, content_id::text, user_id::text, event_type, duration_ms, device, raw_payload::text FROM engagement_events"
    return source.run(f"{wanted} WHERE {IN_RANGE} OR id > %s", (since,))


def as_the_topic_tells(trial: Trial) -> tuple[list[list[Any]], set[int]]:
    """The rows by the topic's last word of each, and those of which the last word is one that was read before the change it follows.

    PostgreSQL writes a commit down a moment before others see it. Who reads a row in that moment reads it as it was, and Debezium, which
    has seen the commit, holds its row for the newer one.
    """
    rows, set_back = {}, set()
    for message in trial.kafka.read(trial.topic("engagement_events")):
        if message.value:
            change = json.loads(message.value)["payload"]
            row = [change["after"][column.strip()] for column in COLUMNS.split(",")]
            was = rows.get(row[0], row)
            (set_back.add if change["op"] == "r" and was != row else set_back.discard)(row[0])
            rows[row[0]] = row
    return list(rows.values()), set_back


def inserted_or_read(trial: Trial) -> set[int]:
    """Of the topic, the rows that came otherwise than by an update alone: one that changes while its chunk is read comes as that change."""
    changes = (json.loads(m.value)["payload"] for m in trial.kafka.read(trial.topic("engagement_events")) if m.value)
    return {change["after"]["id"] for change in changes if change["op"] in "cr"}


class Touching(threading.Thread):
    """Changes rows of the range, and adds some to it, until told to stop."""

    def __init__(self, source: Source) -> None:
        super().__init__(name="touching", daemon=True)
        self.source, self.over, self.rounds = source, threading.Event(), 0

    def run(self) -> None:
        # The tables of facts have no column of what changes.
        change = f"UPDATE engagement_events SET raw_payload = jsonb_build_object('n', %s) WHERE {IN_RANGE} AND id %% 211 = %s"
        add = "INSERT INTO engagement_events (user_id, event_type, event_ts) SELECT gen_random_uuid(), 'click', '2024-03-05' FROM generate_series(1, 5)"
        while not self.over.wait(0.3):
            self.rounds += 1
            self.source.run(change, (self.rounds, self.rounds % 211))
            self.source.run(add)


def test_a_range_comes_to_all_sinks_while_live_changes_flow(trial: Trial, clickhouse: ClickHouse) -> None:
    with captured(trial, chunk_rows=100) as (source, name):
        [(since,)] = source.run("SELECT max(id) FROM engagement_events")
        connect = Connect(trial.stack, name)
        with configured(trial, source, clickhouse) as firn:
            contents = firn.command("backfill", "--table", "public.content", "--all")
            assert contents.returncode == 0 and "100 %" in contents.stdout, contents.stdout + contents.stderr
            counted = "SELECT count() FROM content_dim FINAL"
            assert clickhouse.rows(counted) == [[len(source.run("SELECT id FROM content"))]], "once it has ended, the sinks have it"

            live, touching = Engagement(source, 30, 2_000, 20, seed=3), Touching(source)
            live.start()
            touching.start()
            with Watched(firn, "--table", EVENTS, *RANGE) as backfill:
                backfill.wait_until_it_says("running")
                paused = firn.command("backfill", "pause", "--table", EVENTS)
                assert paused.returncode == 0 and "paused" in paused.stdout, paused.stdout + paused.stderr
                firn.kill()
                backfill.kill()
                # Debezium forgets that it paused.
                connect.restart()
                firn.start()
                # The same command again: it is under way.
                backfill.start()
                backfill.wait_until_it_says("is under way")
                connect.pause()
                firn.kill()
                firn.start()
                connect.resume()
                until("the backfill ends", lambda: backfill.process.poll() is not None, 240, then=backfill.text)
                assert backfill.process.returncode == 0 and "100 % " in backfill.text(), backfill.text()
            live.finished()
            touching.over.set()
            touching.join()
            stands = standing(firn)
            assert (stands["state"], stands["table"]) == ("done", EVENTS), stands

            source.wait_until_published(name)
            wanted = ours(source, since, want(source))
            # The example's SELECT takes no updates.
            came = inserted_or_read(trial)
            first = [row for row in wanted if row[0] in came]
            assert len(wanted) - len(first) < OLD // 20
            until("ClickHouse has what came", lambda: len(have(clickhouse)) >= len(first), 60, then=firn.tail)
            assert_same("ClickHouse", have(clickhouse), first)
            assert touching.rounds > 10 and len(wanted) > OLD + 2_000
            trial.wait_until_committed("engagement_events")
            told, set_back = as_the_topic_tells(trial)
            lake = trial.lake.sql(f"SELECT {COLUMNS} FROM {trial.table('engagement_events')}")
            assert_same("the lake", lake, told)
            assert len(set_back) < OLD // 1_000, set_back
            assert_same("the lake", *([row for row in rows if row[0] not in set_back] for rows in (lake, lake_rows(source, since))))
            assert not firn.says("read anew"), "nothing of it is taken for a new snapshot"

            # The whole range once more, without changes: what is missing comes, and nothing twice.
            again = firn.command("backfill", "--table", EVENTS, *RANGE, within_s=240)
            assert again.returncode == 0 and "only what is missing" in again.stdout, again.stdout + again.stderr
            assert_same("ClickHouse, again", have(clickhouse), wanted)
            # What was enriched with other contents is made anew.
            source.run("UPDATE content SET title = upper(title) || ', revised' WHERE slug LIKE 'old-1%'")
            source.wait_until_published(name)
            until("the dimension has it", lambda: clickhouse.rows("SELECT count() > 100 FROM content_dim FINAL WHERE title LIKE '%revised'") == [[1]], 60)
            replaced = firn.command("backfill", "--table", EVENTS, *RANGE, "--replace", within_s=240)
            assert replaced.returncode == 0 and "rows deleted" in replaced.stdout, replaced.stdout + replaced.stderr
            assert_same("ClickHouse, replaced", have(clickhouse), ours(source, since, want(source)))
            trial.wait_until_committed("engagement_events")
            lake = trial.lake.sql(f"SELECT {COLUMNS} FROM {trial.table('engagement_events')}")
            assert_same("the lake, again", lake, lake_rows(source, since))
            assert firn.terminate() == 0, firn.tail()


def test_what_can_not_be_backfilled_is_said(trial: Trial, clickhouse: ClickHouse) -> None:
    with captured(trial, chunk_rows=5) as (source, _):
        firn = configured(trial, source, clickhouse)

        def refused(*arguments: str, says: str, code: int = 1) -> None:
            done = firn.command("backfill", *arguments)
            assert done.returncode == code and says in done.stderr, (arguments, done.stdout + done.stderr)

        refused("--table", EVENTS, says="say which rows", code=2)
        refused("--table", "public.nothing", "--all", says="no connector writes a topic called public.nothing")
        refused("--table", EVENTS, *RANGE, "--column", "device", says="there are: event_ts")
        refused("pause", "--table", EVENTS, says="is at no snapshot")
        planned = firn.command("backfill", "--table", EVENTS, *RANGE, "--dry-run")
        assert planned.returncode == 0 and "2024-03-01 00:00:00+00" in planned.stdout and "overwritten by key" in planned.stdout, planned
        # By the signal table; nobody delivers, so only the reading is waited for.
        by_table = firn.command("backfill", "--table", EVENTS, "--from", "2023-01-01", "--to", "2023-01-02", "--channel", "table", "--no-wait")
        assert by_table.returncode == 0 and "500 rows" in by_table.stdout, by_table.stdout + by_table.stderr
        # A column that only the configuration knows of.
        firn.file.write_text(firn.file.read_text().replace('url = "postgres', 'url = "postgres://firn@127.0.0.1:1/x" # '))
        refused("--table", EVENTS, *RANGE, says="the source database does not answer", code=3)
        firn.file.write_text("\n".join(line for line in firn.file.read_text().splitlines() if "127.0.0.1:1/x" not in line))
        refused("--table", EVENTS, *RANGE, "--column", "evnt_ts", says="the source database refused the query")
        # Begun, and given up.
        detached = firn.command("backfill", "--table", EVENTS, *RANGE, "--column", "event_ts", "--detach")
        assert detached.returncode == 0, detached.stdout + detached.stderr
        until("it runs", lambda: standing(firn)["state"] == "running", 60)
        for command, state in [("pause", "paused"), ("resume", "running")]:
            told = firn.command("backfill", command, "--table", EVENTS)
            assert told.returncode == 0 and state in told.stdout, told.stdout + told.stderr
        refused("--table", EVENTS, "--all", says="is at another snapshot")
        stopped = firn.command("backfill", "stop", "--table", EVENTS)
        assert stopped.returncode == 0 and "stopped" in stopped.stdout, stopped.stdout + stopped.stderr
        firn.file.write_text(firn.file.read_text().replace('snapshot_rows = "missing"', "").replace('snapshot_key = ["event_ts", "event_id"]', ""))
        refused("--table", EVENTS, "--all", says="would be doubled in enriched.clickhouse")
