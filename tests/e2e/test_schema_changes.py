"""A table that is altered in every way while it is written to: PostgreSQL, Debezium, a 3-partition topic, two firns, a kill, Trino."""

import json
import random
import threading
from typing import Any

import pytest

from conftest import Trial
from harness.background import Background
from harness.envelopes import COLUMNS, Items, items
from harness.program import Firn
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.waiting import pause, until

STILL = range(1, 21)
"""Rows that nobody changes after they were made."""

ALTERATIONS = [
    "ADD COLUMN added text DEFAULT 'dflt'",
    "ALTER COLUMN a TYPE bigint",
    "ALTER COLUMN b TYPE numeric(14,2)",
    "ALTER COLUMN c TYPE text",
    "ALTER COLUMN e DROP NOT NULL",
    "RENAME COLUMN r TO renamed",
    "DROP COLUMN gone",
    "ALTER COLUMN d TYPE int USING length(d)",
    "ALTER COLUMN f SET NOT NULL",
]


class Load(Background):
    """Inserts, updates and deletes under whatever columns the table has, until it is told to end."""

    def __init__(self, source: Source, seed: int) -> None:
        super().__init__("load")
        self.source = source
        self.luck = random.Random(seed)
        self.over = threading.Event()
        self.rounds = 0

    def work(self) -> None:
        opened = self.source.connect()
        opened.autocommit = False
        while not self.over.is_set():
            with opened.cursor() as c:
                # An ALTER waits for the end of this: the columns stay as they are read here.
                c.execute("LOCK TABLE altered IN ROW EXCLUSIVE MODE")
                c.execute(
                    "SELECT column_name, data_type FROM information_schema.columns"
                    " WHERE table_name = 'altered' AND column_name <> 'id' ORDER BY ordinal_position"
                )
                columns: dict[str, str] = dict(c.fetchall())
                for _ in range(5):
                    self.change(c, columns)
            opened.commit()
            self.rounds += 1
            self.over.wait(0.02)
        opened.close()

    def change(self, c: Any, columns: dict[str, str]) -> None:
        key = self.luck.randrange(STILL.stop, 400)
        if self.luck.random() < 0.1:
            c.execute("DELETE FROM altered WHERE id = %s", (key,))
            return
        values = [self.value(kind) for kind in columns.values()]
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        sets = ", ".join(f"{name} = excluded.{name}" for name in columns)
        c.execute(f"INSERT INTO altered (id, {names}) VALUES (%s, {places}) ON CONFLICT (id) DO UPDATE SET {sets}", (key, *values))

    def value(self, kind: str) -> Any:
        match kind:
            case "integer":
                return self.luck.randrange(-(2**31), 2**31)
            case "bigint":
                return self.luck.randrange(-(2**62), 2**62)
            case "numeric":
                return self.luck.randrange(0, 10**9) / 100
            case _:
                return self.luck.choice(["", "ü 雪", '"x"', "text"])

    def goes_on(self, rounds: int = 6) -> None:
        until_rounds = self.rounds + rounds
        until("the load goes on", lambda: self.failure or self.rounds >= until_rounds, 60)
        self.check()

    def end(self) -> None:
        self.over.set()
        self.join(60)
        self.check()


@pytest.mark.parametrize(("dropped", "avro"), [("keep", False), ("drop", False), ("drop", True)], ids=["keep", "drop", "drop-avro"])
def test_a_table_that_is_altered_under_load_by_two_processes_and_a_kill(trial: Trial, dropped: str, avro: bool) -> None:
    luck = random.Random(11)
    with database(trial.stack, trial.name) as source:
        source.run(
            "CREATE TABLE altered (id bigint PRIMARY KEY, touched int NOT NULL, a int, b numeric(9,2), c varchar(10), d text,"
            " e text NOT NULL, f text, gone text, r text)"
        )
        source.run("INSERT INTO altered SELECT i, 0, i, i, 'c', 'four', 'e', 'f', 'gone', 'r' FROM generate_series(1, 60) i")
        include = {"table.include.list": "public.content,public.altered"}
        with connector(source, "engagement", trial.name, avro=avro, **include) as name:
            topic = trial.topic("altered")
            config = trial.config(topic, on_type_change="new_column", on_dropped_column=dropped)
            config["kafka"]["workers"] = 1
            if avro:
                config["registry"] = {"url": trial.stack["FIRN_REGISTRY_URL"]}
            first, second, third = (trial.firn(config, name) for name in ("first", "second", "third"))
            load = Load(source, seed=7)
            with first, second:
                trial.wait_until_committed("altered", topic)
                load.start()
                for number, alteration in enumerate(ALTERATIONS):
                    load.goes_on()
                    if "USING" in alteration:
                        # Debezium looks an altered table up as it is by then: rows of before this type that wait behind another
                        # alteration would end the connector.
                        source.wait_until_published(name)
                    source.run(f"ALTER TABLE altered {alteration}")
                    pause(luck.uniform(0, 0.8))
                    if number == 4:
                        second.kill()
                        third.start()
                load.goes_on()
                load.end()
                # What a row has from before an alteration is PostgreSQL's to rewrite: it sends no change for it.
                source.run("UPDATE altered SET touched = touched + 1 WHERE id >= %s", (STILL.stop,))
                source.wait_until_published(name)
                trial.wait_until_committed("altered", topic, within_s=120)
                judge(trial, source, dropped)
                assert_history(trial, first, topic, dropped)
                for firn in (first, third):
                    assert firn.terminate() == 0, firn.tail()


def judge(trial: Trial, source: Source, dropped: str) -> None:
    table = trial.table("altered")
    here = "id, touched, a, b, c, d__v2, e, f, renamed, added"
    there = "id, touched, a, b, c, d, e, f, renamed, added"
    rows = trial.lake.sql(f"SELECT {here} FROM {table} WHERE id >= {STILL.stop}")
    assert assert_same("Trino", rows, source.run(f"SELECT {there} FROM altered WHERE id >= {STILL.stop}")) > 0
    # Those that were not changed since have what was sent of them; columns that came later are null (format version 2).
    rows = trial.lake.sql(f"SELECT id, a, b, c, d, d__v2, renamed, added FROM {table} WHERE id < {STILL.stop}")
    assert_same("rows left alone", rows, source.run(f"SELECT id, a, b, c, 'four', null::int, null, null FROM altered WHERE id < {STILL.stop}"))
    types = {row[0]: row[1] for row in trial.lake.sql(f"DESCRIBE {table}")}
    assert (types["a"], types["b"], types["c"], types["d"], types["d__v2"]) == ("bigint", "decimal(14,2)", "varchar", "varchar", "integer")
    assert ("gone" in types, "r" in types) == ((True, True) if dropped == "keep" else (False, False)), types
    if dropped == "keep":
        late = trial.lake.sql(f"SELECT count(*), count(gone), count(r) FROM {table} WHERE id >= {STILL.stop}")
        assert late[0][0] > 0 and late[0][1:] == [0, 0], late


def assert_history(trial: Trial, firn: Firn, topic: str, dropped: str) -> None:
    """`firn table show` tells each change, when, and the record that asked for it."""
    answer = firn.command("table", "show", trial.table("altered"), "--output", "json")
    assert answer.returncode == 0, answer.stderr
    shown = json.loads(answer.stdout)
    history = shown["schema_history"]
    told = {(c["change"], c.get("column"), c.get("into")) for entry in history for c in entry["changes"]}
    want = {
        ("created", None, None), ("added", "added", None), ("widened", "a", None), ("widened", "b", None),
        ("added", "renamed", None), ("versioned", "d", "d__v2"),
    }  # fmt: skip
    gone = {("dropped", "gone", None), ("dropped", "r", None)}
    assert told == (want | gone if dropped == "drop" else want), history
    ends = trial.kafka.ends(topic)
    for entry in history:
        assert entry["topic"] == topic and 0 <= entry["offset"] < ends[entry["partition"]], entry
        assert entry["lsn"] > 0 and entry["at_ms"] > 1_700_000_000_000, entry
    assert history[-1]["schema_id"] == shown["schema_id"]
    text = firn.command("table", "show", trial.table("altered")).stdout
    widened = next(e for e in history if any(c["change"] == "widened" and c["column"] == "a" for c in e["changes"]))
    assert f"{topic}/{widened['partition']}@{widened['offset']}" in text and "widened a from int to long" in text, text
    assert "added d__v2 int for d, which was string" in text, text


TEXT = [*COLUMNS[:2], {"type": "string", "optional": True, "field": "quantity"}]
"""The items' columns once quantity is a text."""


@pytest.mark.parametrize("policy", ["stop", "dead_letters"])
def test_a_type_that_no_promotion_leads_to(trial: Trial, policy: str) -> None:
    for table in ("items", "others"):
        trial.kafka.create(trial.topic(table))
    source, others = Items(trial.kafka, trial.topic()), Items(trial.kafka, trial.topic("others"))
    source.put(items(range(100)))
    others.put(items(range(100)))
    config = trial.config(trial.topic(), trial.topic("others"), on_type_change=policy)
    config["dead_letters"]["max_share"] = 1.0
    with trial.firn(config) as firn:
        trial.wait_until_committed()
        trial.wait_until_committed("others")
        later = Items(trial.kafka, trial.topic(), columns=TEXT)
        later.put({"id": key, "name": "text", "quantity": "many"} for key in range(200, 230))
        if policy == "stop":
            firn.wait_until_it_says("stopped", trial.table(), "column quantity", "on_type_change")
        else:
            source.put(items(range(100, 150)))
            trial.wait_until_committed()
            reasons = f"SELECT reason, count(*) FROM {trial.name}.firn_dead_letters GROUP BY reason"
            assert trial.lake.sql(reasons) == [["incompatible_schema", 30]]
        others.put(items(range(100, 300)))
        trial.wait_until_committed("others")
        for one in (source, others):
            name = one.topic.rpartition(".")[2]
            assert_same(name, trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table(name)}"), one.expected())
        assert firn.running(), firn.tail()
