"""The sidecar's topics: written in transactions, read by a consumer from outside and by pipelines."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from conftest import FULL, Trial
from harness.clickhouse import ClickHouse
from harness.engagement import TYPES, Engagement, enriched, summaries
from harness.program import Firn
from harness.redis import OwnRedis
from harness.sameness import assert_same
from harness.source import Source
from harness.waiting import until
from test_sidecar import as_rows, assert_streams, captured, example, have, summaries_in, want

COLUMNS = [
    "event_id", "content_id", "user_id", "event_type", "event_ts", "duration_ms", "device", "engagement_seconds", "engagement_percent",
    "content_slug", "content_title", "content_type", "length_seconds", "publish_ts",
]  # fmt: skip


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[OwnRedis]:
    with OwnRedis(tmp_path / "redis") as server:
        yield server


def decoupled(trial: Trial, clickhouse: ClickHouse, redis: OwnRedis) -> Firn:
    firn = example(trial, "r3-decoupled", clickhouse)
    firn.environment |= {"ENRICH_TOPIC": enriched_topic(trial), "REDIS_PORT": str(redis.port), "REDIS_DB": "0"}
    return firn


def enriched_topic(trial: Trial) -> str:
    return f"{trial.name}.enriched_engagement_events"


def seen(trial: Trial) -> list[list[Any]]:
    """The topic's messages as a consumer from outside reads them committed, by event; doubles included."""

    def row(value: bytes) -> list[Any]:
        fields = json.loads(value)
        assert list(fields) == COLUMNS
        times = {name: at and datetime.fromisoformat(at) for name in ("event_ts", "publish_ts") for at in [fields[name]]}
        # JSON has no floats: 41 and 41.0 are one number.
        shares = {name: None if fields[name] is None else float(fields[name]) for name in ("engagement_seconds", "engagement_percent")}
        return [(fields | times | shares)[name] for name in COLUMNS]

    sent = trial.kafka.everything(enriched_topic(trial))
    for message in sent:
        content = json.loads(message.value)["content_id"]
        assert message.key == (json.dumps({"content_id": content}, separators=(",", ":")).encode() if content else None)
    return sorted((row(message.value) for message in sent), key=lambda r: r[0])


def model(source: Source) -> list[list[Any]]:
    number = lambda d: None if d is None else float(d)  # noqa: E731
    return [[*r[:7], number(r[7]), number(r[8]), *r[9:]] for r in enriched(source)]


def more(source: Source) -> None:
    """Events for every partition: a process that runs notices at its next delivery that a sink was set back."""
    source.run("INSERT INTO public.engagement_events (content_id, user_id, event_type, event_ts) SELECT id, gen_random_uuid(), 'click', now() FROM public.content, generate_series(1, 5)")


def in_streams(redis: Redis) -> int:
    return sum(redis.xlen(f"enriched_events:{kind}") for kind in TYPES)


def of_a_type(source: Source) -> int:
    return sum(1 for r in enriched(source) if r[11])


def test_enriched_events_stand_in_their_topic_once_and_are_served_from_there(trial: Trial, clickhouse: ClickHouse, own_redis: OwnRedis) -> None:
    contents, events, seconds, kills, away_s = (1_000, 100_000, 120, 5, 300) if FULL else (60, 4_000, 20, 3, 6)
    with captured(trial) as (source, name):
        load = Engagement(source, contents, events, seconds, seed=13)
        firn = decoupled(trial, clickhouse, own_redis)
        # Of topics that are being made one may show an event before the other shows its content.
        source.wait_until_published(name)
        with firn.start():
            load.start()
            for _ in range(kills):
                time.sleep(seconds / (kills + 1))
                firn.kill()
                firn.start()
            # Redis goes away, and the others go on.
            own_redis.stop()
            load.finished()
            source.wait_until_published(name)
            total = len(enriched(source))
            count = "SELECT count() FROM enriched_engagements"
            until("all events are in ClickHouse", lambda: int(clickhouse.rows(count)[0][0]) >= total, 120, then=firn.tail)
            until("all events are in the topic", lambda: len(seen(trial)) >= total, 120, every_s=1, then=firn.tail)
            assert firn.says("trying again", "serving.redis"), firn.tail()
            time.sleep(away_s)
            own_redis.start()
            until("Redis has caught up", lambda: in_streams(own_redis.client) >= of_a_type(source), 120, then=firn.tail)
            assert_same("the topic", seen(trial), model(source))
            assert_same("ClickHouse", have(clickhouse), want(source))
            assert_streams(own_redis.client, source)
            assert_same("hashes", summaries_in(own_redis.client), as_rows(summaries(source, enriched(source))))
            assert firn.terminate() == 0, firn.tail()


def test_one_sink_is_played_again_and_a_topic_too(trial: Trial, clickhouse: ClickHouse, own_redis: OwnRedis) -> None:
    with captured(trial) as (source, name):
        load = Engagement(source, 20, 500, 3, seed=17)
        firn = decoupled(trial, clickhouse, own_redis)
        source.wait_until_published(name)
        with firn.start():
            load.start()
            load.finished()
            source.wait_until_published(name)
            total = of_a_type(source)
            until("Redis has the events", lambda: in_streams(own_redis.client) >= total, 60, then=firn.tail)
            checked = firn.command("check")
            assert checked.returncode == 0 and "transactions go through" in checked.stdout, checked.stdout + checked.stderr
            # Redis alone, while firn runs.
            own_redis.client.flushall()
            rewound = firn.command("rewind", "--sink", "serving.redis", "--to", "beginning", "--yes")
            assert rewound.returncode == 0, rewound.stdout + rewound.stderr
            more(source)
            source.wait_until_published(name)
            until("Redis has them again", lambda: in_streams(own_redis.client) >= of_a_type(source), 60, then=firn.tail)
            assert_streams(own_redis.client, source)
            assert_same("the topic", seen(trial), model(source))
            # The topic is written once more by the process that runs: it notices that it was set back.
            rewound = firn.command("rewind", "--sink", "enriched.topic", "--to", "beginning", "--yes")
            assert rewound.returncode == 0, rewound.stdout + rewound.stderr
            before = model(source)
            more(source)
            source.wait_until_published(name)
            twice = sorted([*before, *model(source)], key=lambda r: r[0])
            until("the topic has each event once more", lambda: len(seen(trial)) >= len(twice), 60, every_s=1, then=firn.tail)
            assert_same("the topic", seen(trial), twice)
            assert_same("ClickHouse", have(clickhouse), want(source))
            assert firn.terminate() == 0, firn.tail()
