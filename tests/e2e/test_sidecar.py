"""The sidecar: pipelines from PostgreSQL through Debezium into ClickHouse and Redis, against PostgreSQL's own join."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis

from conftest import FULL, Trial
from harness.clickhouse import ClickHouse
from harness.engagement import TYPES, Engagement, enriched, summaries, top
from harness.program import Firn, to_toml
from harness.receiver import receiver
from harness.redis import NUMBER
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.stack import ROOT, stack
from harness.waiting import until

ROWS = """
SELECT event_id, toString(content_id), toString(user_id), event_type, toUnixTimestamp64Milli(event_ts), duration_ms, device,
       engagement_seconds, engagement_percent, content_slug, content_title, content_type, length_seconds, toUnixTimestamp64Milli(publish_ts)
FROM enriched_engagements ORDER BY event_id
"""


def example(trial: Trial, name: str, clickhouse: ClickHouse, process: str = "firn") -> Firn:
    """`examples/NAME/firn.toml` with the test's own topics, group, database; its environment names are what a user would set."""
    firn = trial.firn({"serve": {"listen": ""}}, process)
    firn.file.write_text((ROOT / "examples" / name / "firn.toml").read_text() + "\n" + to_toml(firn.config))
    firn.environment |= {
        "KAFKA_BOOTSTRAP": trial.stack.kafka,
        "FIRN_GROUP": trial.name,
        "TOPIC_CONTENT": f"{trial.name}.public.content",
        "TOPIC_EVENTS": f"{trial.name}.public.engagement_events",
        "CLICKHOUSE_URL": clickhouse.url,
        "CLICKHOUSE_DATABASE": clickhouse.database,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": trial.stack["FIRN_REDIS_PORT"],
        "REDIS_DB": str(NUMBER),
        # Nobody is there, unless a test says who.
        "HTTP_URL": "http://127.0.0.1:9/rows",
    }
    return firn


@contextmanager
def captured(trial: Trial) -> Iterator[tuple[Source, str]]:
    with database(trial.stack, trial.name) as source, connector(source, "engagement", trial.name) as name:
        yield source, name


def summaries_in(redis: Redis) -> list[list[Any]]:
    return as_rows({k.split(":", 1)[1]: redis.hgetall(k) for k in redis.keys("content_summary:*")})


def have(clickhouse: ClickHouse) -> list[list[Any]]:
    return [[*r[:7], *(None if x is None else float(x) for x in r[7:9]), *r[9:]] for r in clickhouse.rows(ROWS)]


def as_rows(hashes: dict[str, dict[str, str]]) -> list[list[Any]]:
    return [[key, *(f"{k}={v}" for k, v in sorted(fields.items()))] for key, fields in sorted(hashes.items())]


def want(source: Source) -> list[list[Any]]:
    """The model as ClickHouse would print it."""

    def ms(at: Any) -> int | None:
        return None if at is None else int(at.timestamp() * 1000)

    zero = "00000000-0000-0000-0000-000000000000"
    number = lambda d: None if d is None else float(d)  # noqa: E731
    return [
        [r[0], r[1] or zero, r[2] or zero, r[3], ms(r[4]), r[5], r[6], number(r[7]), number(r[8]), *r[9:13], ms(r[13])] for r in enriched(source)
    ]


def assert_streams(redis: Redis, source: Source) -> None:
    for kind in TYPES:
        seen = sorted(int(fields["event_id"]) for _, fields in redis.xrange(f"enriched_events:{kind}"))
        assert seen == [r[0] for r in enriched(source) if r[11] == kind], kind


def test_engagement_is_enriched_into_clickhouse_and_redis(trial: Trial, clickhouse: ClickHouse, redis: Redis) -> None:
    contents, events, seconds, kills = (1_000, 100_000, 120, 5) if FULL else (60, 4_000, 15, 2)
    with captured(trial) as (source, name), receiver(secret="whsec") as hook:
        load = Engagement(source, contents, events, seconds, seed=5)
        firn = example(trial, "r2-enrichment", clickhouse)
        firn.environment |= {"HTTP_URL": hook.url, "HTTP_SECRET": "whsec"}
        # Of topics that are being made one may show an event before the other shows its content.
        source.wait_until_published(name)
        with firn.start():
            load.start()
            for n in range(kills):
                time.sleep(seconds / (kills + 1))
                firn.kill()
                if n == 0:
                    stack("restart", "redis", "clickhouse", within_s=60)
                firn.start()
            load.finished()
            source.wait_until_published(name)
            total = len(enriched(source))

            def arrived() -> bool:
                if len(hook.rows()) < total:
                    return False
                rows = int(clickhouse.rows("SELECT count() FROM enriched_engagements")[0][0])
                entries = sum(redis.xlen(f"enriched_events:{kind}") for kind in TYPES)
                return rows >= total and entries >= sum(1 for r in enriched(source) if r[11])

            until("all events are in ClickHouse and Redis", arrived, 120, then=firn.tail)
            assert_same("ClickHouse", have(clickhouse), want(source))
            rows = enriched(source)
            assert sorted(row["event_id"] for row in hook.rows()) == [r[0] for r in rows], f"of {hook.requests} requests the receiver took {len(hook.taken)}"
            assert {r["event_id"]: r["content_title"] for r in hook.rows()} == {r[0]: r[10] for r in rows}
            assert_same("hashes", summaries_in(redis), as_rows(summaries(source, rows)))
            assert_streams(redis, source)
            for kind in TYPES:
                # The window moves by the minute.
                now = time.time()
                scores = {member: int(score) for member, score in redis.zrevrange(f"top_engaging_content:{kind}", 0, -1, withscores=True)}
                least, most = top(rows, now - 600 + 60).get(kind, {}), top(rows, now - 600 - 60).get(kind, {})
                assert scores and set(scores) <= set(most), kind
                for member, score in most.items():
                    assert least.get(member, 0) <= scores.get(member, 0) <= score, (kind, member)
            assert firn.terminate() == 0, firn.tail()


def test_a_sink_that_is_away_holds_up_no_other(trial: Trial, clickhouse: ClickHouse, redis: Redis) -> None:
    away_s = 300 if FULL else 10
    with captured(trial) as (source, name):
        load = Engagement(source, 20, 1_000, away_s, seed=7)
        with example(trial, "r2-enrichment", clickhouse).start() as firn:
            until("Redis has the snapshot", lambda: redis.xlen("enriched_events:podcast") == 1, 60, then=firn.tail)
            stack("kill", "redis", within_s=60)
            try:
                load.start()
                load.finished()
                source.wait_until_published(name)
                until("ClickHouse has it all", lambda: have(clickhouse) == want(source), 60, then=firn.tail)
                assert firn.says("trying again", "enriched.redis"), firn.tail()
            finally:
                stack("up", "redis", within_s=60)

            def caught_up() -> bool:
                return sum(redis.xlen(f"enriched_events:{kind}") for kind in TYPES) >= sum(1 for r in enriched(source) if r[11])

            until("Redis has caught up", caught_up, 60, then=firn.tail)
            assert_streams(redis, source)
            assert firn.terminate() == 0, firn.tail()


def test_partitions_that_move_between_processes_are_delivered_once(trial: Trial, clickhouse: ClickHouse, redis: Redis) -> None:
    with captured(trial) as (source, name):
        source.wait_until_published(name)
        load = Engagement(source, 20, 12_000, 24, seed=11)
        first, second = (example(trial, "r2-enrichment", clickhouse, n) for n in ("first", "second"))
        for firn in (first, second):
            # So that a batch is open when partitions move.
            firn.file.write_text(firn.file.read_text().replace('name = "enriched"', 'name = "enriched"\nbatch_wait_ms = 1500'))
        with first.start():
            load.start()
            for _ in range(3):
                time.sleep(3)
                second.start()
                second.wait_until_it_says("reading", "enriched.", within_s=30)
                time.sleep(2)
                # Its last batch goes out, and its partitions go back.
                assert second.terminate() == 0, second.tail()
            load.finished()
            source.wait_until_published(name)

            def arrived() -> bool:
                entries = sum(redis.xlen(f"enriched_events:{kind}") for kind in TYPES)
                return len(have(clickhouse)) >= load.events + 3 and entries >= sum(1 for r in enriched(source) if r[11])

            until("all events are in ClickHouse and Redis", arrived, 60, then=first.tail)
            assert first.says("given up", "enriched."), "no partition moved"
            assert_same("ClickHouse", have(clickhouse), want(source))
            assert_streams(redis, source)
            assert first.terminate() == 0, first.tail()


AGAIN = """
[[pipelines]]
name = "{name}"
sql = '''
{sql}
'''

[[pipelines.sources]]
topic = "{source}"

[[pipelines.views]]
topic = "{view}"
{settings}

[[pipelines.clickhouse]]
url = "{clickhouse.url}"
database = "{clickhouse.database}"
table = "titles"
engine = "replacing"
version = "version"
order_by = ["event_id"]
[pipelines.clickhouse.columns]
version = "UInt64"
"""


def test_events_are_enriched_again_when_their_content_comes_or_changes(trial: Trial, clickhouse: ClickHouse) -> None:
    with captured(trial) as (source, name):
        source.run("ALTER TABLE public.engagement_events DROP CONSTRAINT engagement_events_content_id_fkey")
        source.wait_until_published(name)
        firn = trial.firn({"serve": {"listen": ""}})
        contents, events = (f"{trial.name}.public.{table}" for table in ("content", "engagement_events"))
        version = "CAST(greatest({}) AS BIGINT UNSIGNED) AS version"
        event = AGAIN.format(
            name="events", source=events, view=contents, settings="", clickhouse=clickhouse,
            sql="SELECT e.after.id AS event_id, e.after.content_id, c.title, " + version.format("e.source.lsn, c._firn_source_lsn")
            + " FROM engagement_events e LEFT JOIN content c ON c.id = e.after.content_id",
        )  # fmt: skip
        again = AGAIN.format(
            name="again", source=contents, view=events, settings='keep = "7d"', clickhouse=clickhouse,
            sql="SELECT e.id AS event_id, e.content_id, c.after.title, " + version.format("e._firn_source_lsn, c.source.lsn")
            + " FROM content c JOIN engagement_events e ON e.content_id = c.after.id",
        )  # fmt: skip
        kafka = {"kafka": {"bootstrap_servers": trial.stack.kafka, "group": trial.name}}
        firn.file.write_text(to_toml(firn.config | kafka) + event + again)
        model = "SELECT e.id, e.content_id::text, c.title FROM public.engagement_events e LEFT JOIN public.content c ON c.id = e.content_id ORDER BY e.id"
        seen = "SELECT event_id, toString(content_id), title FROM titles FINAL ORDER BY event_id"

        def same() -> bool:
            return clickhouse.rows_of("titles", seen) == [list(row) for row in source.run(model)]

        with firn.start():
            source.run(
                "INSERT INTO public.engagement_events (content_id, event_type, event_ts) SELECT"
                " ('00000000-0000-0000-0000-0000000000' || (10 + n % 10))::uuid, 'play', now() FROM generate_series(1, 300) n"
            )
            until("events are there without their content", same, 60, then=firn.tail)
            assert sum(row[2] is None for row in clickhouse.rows(seen)) == 300
            source.run(
                "INSERT INTO public.content (id, slug, title, publish_ts) SELECT"
                " ('00000000-0000-0000-0000-0000000000' || n)::uuid, 's-' || n, 'title ' || n, now() FROM generate_series(10, 18) n"
            )
            until("they have the content that came", same, 60, then=firn.tail)
            firn.kill()
            source.run("UPDATE public.content SET title = upper(title)")
            source.run("INSERT INTO public.engagement_events (content_id, event_type, event_ts) SELECT id, 'click', now() FROM public.content")
            firn.start()
            until("they have the content as it is", same, 60, then=firn.tail)
            assert sum(row[2] is None for row in clickhouse.rows(seen)) == 30
            assert firn.terminate() == 0, firn.tail()


def test_only_updates_are_mirrored_and_what_can_be_looked_at_beforehand(trial: Trial, clickhouse: ClickHouse) -> None:
    with database(trial.stack, trial.name) as source:
        source.run("CREATE TABLE my_table (id int PRIMARY KEY, name text, created_at timestamp DEFAULT '2024-05-01 10:00:00')")
        source.run("INSERT INTO my_table (id, name) SELECT n, 'name ' || n FROM generate_series(1, 50) n")
        with connector(source, "engagement", trial.name, **{"table.include.list": "public.content,public.my_table"}) as name:
            firn = example(trial, "r4-filtered-mirror", clickhouse)
            firn.environment["TOPIC"] = trial.topic("my_table")
            source.wait_until_published(name)
            checked = firn.command("check")
            assert checked.returncode == 0 and "sink changes.clickhouse" in checked.stdout, checked.stdout + checked.stderr
            explained = firn.command("pipeline", "explain", "changes")
            assert "created_at" in explained.stdout and "each row comes from one change" in explained.stdout, explained.stdout + explained.stderr
            with firn.start():
                source.run("UPDATE my_table SET name = upper(name) WHERE id % 5 = 0; DELETE FROM my_table WHERE id = 1; INSERT INTO my_table VALUES (99, 'new')")
                source.run("UPDATE my_table SET name = NULL WHERE id = 10")
                source.wait_until_published(name)
                query = "SELECT id, name, toString(created_at), op FROM changes ORDER BY id, _firn_offset"
                wanted = [[n, f"NAME {n}", "2024-05-01 10:00:00", "u"] for n in range(5, 51, 5)]
                wanted.insert(2, [10, None, "2024-05-01 10:00:00", "u"])
                until("the updates are there", lambda: clickhouse.rows_of("changes", query) == wanted, 60, then=firn.tail)
                assert firn.terminate() == 0, firn.tail()
            preview = firn.command("pipeline", "preview", "changes", "-n", "1000")
            assert preview.returncode == 0 and preview.stdout.count("NAME") == 10, preview.stdout + preview.stderr
            # A run that ends by itself.
            source.run("UPDATE my_table SET name = 'last' WHERE id = 50")
            source.wait_until_published(name)
            ended = firn.command("run", "--only", "changes", "--idle-exit", "3s")
            assert ended.returncode == 0 and clickhouse.rows(query)[-1] == [50, "last", "2024-05-01 10:00:00", "u"], ended.stdout + ended.stderr
            tail = firn.command("mirror", "tail", "changes", "-n", "2", "--by", "ts", "--output", "json")
            # By offset the order of several partitions would be none of times.
            assert json.loads(tail.stdout)[-1]["name"] == "last", tail.stdout + tail.stderr
            # A facts table that was emptied is filled again from the beginning.
            clickhouse.run("TRUNCATE TABLE changes")
            shown = firn.command("rewind", "--sink", "changes.clickhouse", "--to", "beginning", "--dry-run")
            assert shown.returncode == 0 and "next offset to deliver" in shown.stdout, shown.stdout + shown.stderr
            rewound = firn.command("rewind", "--sink", "changes.clickhouse", "--to", "beginning", "--yes")
            assert rewound.returncode == 0, rewound.stdout + rewound.stderr
            assert firn.command("run", "--idle-exit", "3s").returncode == 0
            assert clickhouse.rows(query) == [*wanted, [50, "last", "2024-05-01 10:00:00", "u"]]
            refused = firn.command("run", "--only", "chances")
            assert refused.returncode == 2 and "there are: changes, changes.clickhouse" in refused.stderr, refused.stderr
