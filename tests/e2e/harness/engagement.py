"""Engagement events and their content: a load by SQL, and what its sinks must hold."""

import random
import time
from collections import Counter, defaultdict
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from psycopg2.extras import execute_values

from .background import Background
from .source import Source

TYPES = ["podcast", "newsletter", "video"]

CONTENT = ["slug", "title", "content_type", "length_seconds", "publish_ts"]

# Events that the load did not insert have the content of now.
ENRICHED = f"""
SELECT e.id, e.content_id::text, e.user_id::text, e.event_type, e.event_ts, e.duration_ms, e.device,
       round(e.duration_ms / 1000.0, 3), round(e.duration_ms / 1000.0 / nullif(c.length_seconds, 0) * 100, 2),
       {", ".join(f"c.{name}" for name in CONTENT)}
FROM public.engagement_events e LEFT JOIN LATERAL (
    SELECT {", ".join(CONTENT)} FROM public.as_of a WHERE a.event_id = e.id
    UNION ALL
    SELECT {", ".join(CONTENT)} FROM public.content c
    WHERE c.id = e.content_id AND NOT EXISTS (SELECT FROM public.as_of a WHERE a.event_id = e.id)
) c ON true ORDER BY e.id
"""
"""The model of the enriched events: PostgreSQL's own join, when the event was inserted."""


class Engagement(Background):
    """Inserts contents, then events in small transactions, over about `seconds`, while contents change."""

    def __init__(self, source: Source, contents: int, events: int, seconds: float, seed: int) -> None:
        super().__init__("engagement")
        self.source, self.contents, self.events, self.seconds = source, contents, events, seconds
        self.luck = random.Random(seed)

    def work(self) -> None:
        opened = self.source.connect()
        luck = self.luck
        with opened.cursor() as cursor:
            cursor.execute(f"CREATE TABLE public.as_of AS SELECT 0::bigint AS event_id, {', '.join(CONTENT)} FROM public.content WHERE false")
            cursor.execute("ALTER TABLE public.as_of ADD PRIMARY KEY (event_id)")
            rows = [
                (f"c-{n}", f"Title {n}", luck.choice([*TYPES, None]), luck.choice([None, 0, *range(60, 3600, 7)]), 1_700_000_000 + n)
                for n in range(self.contents)
            ]
            made = execute_values(
                cursor,
                "INSERT INTO public.content (id, slug, title, content_type, length_seconds, publish_ts) VALUES %s RETURNING id",
                rows, template="(gen_random_uuid(), %s, %s, %s, %s, to_timestamp(%s))", fetch=True,
            )  # fmt: skip
            ids: list[Any] = [row[0] for row in made] + [None]
            done, began = 0, time.monotonic()
            while done < self.events:
                n = min(luck.randint(1, max(1, self.events // 50)), self.events - done)
                events = [
                    (luck.choice(ids), luck.choice(["play", "pause", "finish", "click"]), luck.choice([None, *range(0, 500_000, 1_009)]), luck.choice(["ios", None]), luck.randint(0, 1_200))
                    for _ in range(n)
                ]
                execute_values(
                    cursor,
                    "WITH e AS (INSERT INTO public.engagement_events (content_id, user_id, event_type, duration_ms, device, event_ts)"
                    " VALUES %s RETURNING id, content_id)"
                    f" INSERT INTO public.as_of SELECT e.id, {', '.join(CONTENT)} FROM e LEFT JOIN public.content c ON c.id = e.content_id",
                    events, template="(%s, gen_random_uuid(), %s, %s, %s, now() - %s * interval '1 second')", page_size=len(events),
                )  # fmt: skip
                done += n
                cursor.execute(
                    "UPDATE public.content SET title = title || '.', length_seconds = %s WHERE id = ANY(%s::uuid[])",
                    (luck.choice([None, 0, *range(60, 3600, 7)]), luck.choices(ids[:-1], k=3)),
                )
                time.sleep(max(0.0, began + self.seconds * done / self.events - time.monotonic()))
        opened.close()


def enriched(source: Source) -> list[tuple[Any, ...]]:
    return source.run(ENRICHED)


def summaries(source: Source, rows: list[tuple[Any, ...]]) -> dict[str, dict[str, str]]:
    """`content_summary:{content_id}` as hashes: contents as they are, with their events counted."""
    counts: Counter[str] = Counter()
    seconds: defaultdict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        if (content := row[1]) is not None:
            counts[content] += 1
            seconds[content] += row[7] or 0
    names = ["content_slug", "content_title", "content_type", "length_seconds"]
    contents = source.run("SELECT id::text, slug, title, content_type, length_seconds FROM public.content")
    fields = {c[0]: {k: str(v) for k, v in zip(names, c[1:], strict=True) if v is not None} for c in contents}
    counted = {c: {"events": str(n), "engagement_seconds": str(int(seconds[c] * 1000))} for c, n in counts.items()}
    return {content: named | counted.get(content, {}) for content, named in fields.items()}


def top(rows: list[tuple[Any, ...]], since: float) -> dict[str, dict[str, int]]:
    """By type, the hundredths of percents of events since then."""
    found: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        if row[8] is not None and row[11] is not None and row[4].timestamp() >= since:
            found[row[11]][row[1]] += int((row[8] * 100).to_integral_value(ROUND_HALF_UP))
    return {kind: dict(scores) for kind, scores in found.items()}
