"""A pipeline's rows in Iceberg tables: what Trino reads against PostgreSQL's own join."""

import json
import time
from typing import Any

from conftest import FULL, Trial
from harness.engagement import CONTENT as COLUMNS
from harness.engagement import Engagement, enriched
from harness.program import Firn, to_toml
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.stack import ROOT
from harness.waiting import until

ROWS = """
SELECT event_id, CAST(content_id AS varchar), CAST(user_id AS varchar), event_type, event_ts, duration_ms, device, engagement_seconds,
       engagement_percent, content_slug, content_title, content_type, length_seconds, publish_ts
FROM {}.enriched_engagements
"""
CONTENT = "SELECT CAST(content_id AS varchar), slug, title, content_type, minutes FROM {}.content"
CONTENT_MODEL = "SELECT id::text, slug, title, content_type, length_seconds / 60.0::float8 FROM public.content"


def example(trial: Trial, process: str = "firn") -> Firn:
    firn = trial.firn({"serve": {"listen": ""}}, process)
    text = (ROOT / "examples" / "enriched-lake" / "firn.toml").read_text().replace("commit_interval_ms = 10000", "commit_interval_ms = 1500")
    firn.file.write_text(text + "\n" + to_toml(firn.config))
    stack = trial.stack
    firn.environment |= {
        "KAFKA_BOOTSTRAP": stack.kafka,
        "FIRN_GROUP": trial.name,
        "NAMESPACE": trial.name,
        "TOPIC_CONTENT": f"{trial.name}.public.content",
        "TOPIC_EVENTS": f"{trial.name}.public.engagement_events",
        "HMS_URI": stack["FIRN_HMS_URI"],
        "WAREHOUSE": f"s3://{stack.bucket}/",
        "S3_ENDPOINT": stack["FIRN_S3_ENDPOINT"],
        "S3_REGION": stack["FIRN_S3_REGION"],
        "S3_ACCESS_KEY": stack["FIRN_S3_ACCESS_KEY"],
        "S3_SECRET_KEY": stack["FIRN_S3_SECRET_KEY"],
    }
    return firn


def events(source: Source) -> list[list[Any]]:
    number = lambda d: None if d is None else float(d)  # noqa: E731
    return [[*r[:7], number(r[7]), number(r[8]), *r[9:]] for r in enriched(source)]


def more_events(source: Source) -> None:
    """One for each content; the model remembers what that was."""
    content = ", ".join(f"c.{name}" for name in COLUMNS)
    source.run(
        "WITH e AS (INSERT INTO public.engagement_events (content_id, event_type, event_ts)"
        " SELECT id, 'click', now() FROM public.content RETURNING id, content_id)"
        f" INSERT INTO public.as_of SELECT e.id, {content} FROM e JOIN public.content c ON c.id = e.content_id"
    )


def count(trial: Trial, table: str) -> int:
    return int(trial.lake.sql(f"SELECT count(*) FROM {trial.table(table)}")[0][0]) if trial.lake.exists(trial.table(table)) else 0


def assert_whole(trial: Trial, source: Source) -> None:
    assert_same("events", trial.lake.sql(ROWS.format(trial.name)), events(source))
    assert_same("content", trial.lake.sql(CONTENT.format(trial.name)), source.run(CONTENT_MODEL))
    [[distinct, total]] = trial.lake.sql(f"SELECT count(DISTINCT (_firn_partition, _firn_offset)), count(*) FROM {trial.table('enriched_engagements')}")
    assert distinct == total


def is_whole(trial: Trial, source: Source) -> bool:
    try:
        assert_whole(trial, source)
    except AssertionError:
        return False
    return True


def test_what_a_pipeline_makes_is_in_the_lake_once(trial: Trial) -> None:
    contents, number, seconds, kills = (500, 60_000, 90, 5) if FULL else (60, 6_000, 20, 3)
    with database(trial.stack, trial.name) as source, connector(source, "engagement", trial.name) as name:
        firn = example(trial)
        source.wait_until_published(name)
        checked = firn.command("check")
        assert checked.returncode == 0 and "sink enriched.lake" in checked.stdout, checked.stdout + checked.stderr
        load = Engagement(source, contents, number, seconds, seed=13)
        with firn.start():
            load.start()
            for _ in range(kills):
                time.sleep(seconds / (kills + 1))
                firn.kill()
                firn.start()
            load.finished()
            source.run("INSERT INTO public.content (id, slug, title, publish_ts) VALUES ('00000000-0000-0000-0000-00000000dead', 'gone', 'gone', now())")
            source.run("DELETE FROM public.content WHERE slug = 'gone'")
            source.wait_until_published(name)
            until("all events are in the table", lambda: count(trial, "enriched_engagements") >= len(enriched(source)), 90, then=firn.tail)
            until("the content is as it is", lambda: is_whole(trial, source), 60, then=firn.tail)
            assert_whole(trial, source)
            table = trial.lake.table(trial.table("enriched_engagements"))
            assert table is not None
            commits = [s for s in table.metadata.snapshots if s.summary and "firn.checkpoint" in s.summary.additional_properties]
            rate = 1.0 / 1.5
            assert 1 <= len(commits) <= (seconds + 120) * rate, f"{len(commits)} commits: rows are gathered"

            # Set back while it runs: the rows from there on go, and are made anew.
            rewound = firn.command("rewind", "--sink", "enriched.lake", "--to", "beginning", "--yes")
            assert rewound.returncode == 0, rewound.stdout + rewound.stderr
            more_events(source)
            source.wait_until_published(name)
            until("the events are there again", lambda: is_whole(trial, source), 90, then=firn.tail)
            rewound = firn.command("rewind", "--sink", "content.lake", "--to", "beginning", "--yes")
            assert rewound.returncode == 0, rewound.stdout + rewound.stderr
            source.run("UPDATE public.content SET title = upper(title) WHERE slug LIKE 'c-%'")
            source.wait_until_published(name)
            until("the content is there again", lambda: is_whole(trial, source), 90, then=firn.tail)
            assert firn.terminate() == 0, firn.tail()

        # One sink alone, to its end.
        more_events(source)
        source.wait_until_published(name)
        ended = firn.command("run", "--only", "enriched.lake", "--idle-exit", "4s")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert_whole(trial, source)


def test_rows_without_a_key_are_dead_letters_and_partitions_move(trial: Trial) -> None:
    with database(trial.stack, trial.name) as source, connector(source, "engagement", trial.name) as name:
        source.run("ALTER TABLE public.engagement_events DROP CONSTRAINT engagement_events_content_id_fkey")
        source.wait_until_published(name)
        pipeline = f"""
[[pipelines]]
name = "last"
sql = "SELECT after.content_id, after.id AS event_id, after.event_type FROM engagement_events WHERE op <> 'd'"
sources = [{{ topic = "{trial.name}.public.engagement_events", name = "engagement_events" }}]

[[pipelines.lake]]
table = "{trial.name}.last_event"
mode = "upsert"
key = ["content_id"]
commit_interval_ms = 2000
"""
        config = trial.config(f"{trial.name}.public.content")
        both = [trial.firn(config, process) for process in ("first", "second")]
        for firn in both:
            firn.file.write_text(firn.file.read_text() + pipeline)
        first, second = both
        insert = "INSERT INTO public.engagement_events (content_id, event_type, event_ts) SELECT {}, 'play', now() FROM generate_series({}) n"
        key = "('00000000-0000-0000-0000-0000000000' || (10 + n % 40))::uuid"
        with first.start():
            for n in range(4):
                source.run(insert.format(key, f"{n * 100}, {n * 100 + 99}"))
                source.run(insert.format("NULL", "1, 2"))
                if n % 2 == 0:
                    second.start()
                    second.wait_until_it_says("reading", "last.lake", within_s=30)
                else:
                    assert second.terminate() == 0, second.tail()
                time.sleep(1)
            source.wait_until_published(name)
            # Rows of a key come from several partitions: of each one is left, and which is theirs to say.
            wanted = sorted(row[0] for row in source.run("SELECT DISTINCT content_id::text FROM public.engagement_events WHERE content_id IS NOT NULL"))
            seen = f"SELECT CAST(content_id AS varchar) FROM {trial.table('last_event')} ORDER BY 1"
            nulls = source.run("SELECT count(*) FROM public.engagement_events WHERE content_id IS NULL")[0][0]
            letters = f"SELECT count(*) FROM {trial.table('firn_dead_letters')} WHERE target = 'last.lake' AND reason = 'sink_refused'"

            def arrived() -> bool:
                if not trial.lake.exists(trial.table("last_event")) or not trial.lake.exists(trial.table("firn_dead_letters")):
                    return False
                return [row[0] for row in trial.lake.sql(seen)] == wanted and trial.lake.sql(letters) == [[nulls]]

            until("one row a key, and a letter for each row without one", arrived, 60, then=first.tail)
            status = json.loads(first.command("--output", "json", "pipeline", "list").stdout)
            assert [p["sinks"] for p in status] == [["lake"]], status
            assert first.terminate() == 0, first.tail()
