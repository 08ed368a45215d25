"""Large values that PostgreSQL logs only when they change: Debezium sends a placeholder, the table keeps the value.

Through changed keys (which move between the topic's partitions), kill -9 and a start with an empty index; Trino has to equal PostgreSQL.
"""

import random

from conftest import Trial
from harness.sameness import assert_same
from harness.source import Source, connector, database

ROWS = 60
LARGE = 4_000
"""Characters: above the 2 kB from which PostgreSQL stores a value outside its row."""

CREATE = """
CREATE SCHEMA toast;
CREATE TABLE toast.docs (id int PRIMARY KEY, note text, big text, doc jsonb, raw bytea, tags text[]);
ALTER TABLE toast.docs ALTER big SET STORAGE EXTERNAL, ALTER doc SET STORAGE EXTERNAL, ALTER raw SET STORAGE EXTERNAL,
    ALTER tags SET STORAGE EXTERNAL;
"""


def insert(source: Source, keys: range) -> None:
    for key in keys:
        luck = random.Random(key)
        text = "".join(luck.choices("abcdef ghé雪", k=LARGE))
        source.run(
            "INSERT INTO toast.docs VALUES (%s, 'new', %s, jsonb_build_object('text', %s::text), convert_to(%s, 'UTF8'), ARRAY[%s, 'x', NULL])",
            (key, text, text[::-1], text, text.upper()),
        )


def assert_equals_postgresql(trial: Trial, source: Source) -> None:
    expected = source.run("SELECT id, note, big, doc::text, encode(raw, 'hex'), array_to_string(tags, '|', '-') FROM toast.docs")
    rows = trial.lake.sql(f"SELECT id, note, big, doc, lower(to_hex(raw)), array_join(tags, '|', '-') FROM {trial.table('docs')}")
    assert_same("Trino", rows, expected)
    lost = trial.lake.sql(f"SELECT id, _firn_unavailable FROM {trial.table('docs')} WHERE _firn_unavailable IS NOT NULL")
    assert lost == []


def test_values_that_were_not_sent_are_those_of_the_stored_row(trial: Trial) -> None:
    topic = f"{trial.name}.toast.docs"
    with database(trial.stack, trial.name) as source:
        source.run(CREATE)
        insert(source, range(ROWS))
        with connector(source, "inventory", trial.name, **{"schema.include.list": "inventory,toast"}) as name:
            firn = trial.firn(trial.config(topic, commit_interval_ms=500, unavailable_column=True))

            def settle() -> None:
                source.wait_until_published(name)
                trial.wait_until_committed("docs", topic)
                assert_equals_postgresql(trial, source)

            with firn:
                settle()
                source.run("UPDATE toast.docs SET note = 'touched'")
                settle()
                # In one batch mostly: a new value, an update without it, a changed key, another update.
                source.run("UPDATE toast.docs SET big = repeat('B', 5000) || id WHERE id % 4 = 0")
                source.run("UPDATE toast.docs SET note = note || '!' WHERE id % 3 = 0")
                source.run("UPDATE toast.docs SET id = id + 1000 WHERE id % 5 = 0")
                source.run("UPDATE toast.docs SET note = 'moved' WHERE id >= 1000")
                source.wait_until_published(name)
                firn.kill()
                source.run("DELETE FROM toast.docs WHERE id % 7 = 0")
                insert(source, range(2000, 2010))
                source.run("UPDATE toast.docs SET note = 'while it was down', id = id + 5000 WHERE id % 2 = 0")
                firn.start()
                settle()
                firn.kill()
                firn.forget_index()
                trial.lake.sql(f"ALTER TABLE {trial.table('docs')} EXECUTE optimize")
                firn.start()
                source.run("UPDATE toast.docs SET note = 'compacted'")
                settle()
                assert firn.terminate() == 0, firn.tail()
            values = trial.kafka.everything(topic)
            assert any(m.value is not None and b"__debezium_unavailable_value" in m.value for m in values), "nothing was withheld"
