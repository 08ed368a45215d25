"""Records without schema, typed by the source database: the tables are those that schemas make; it may be altered, away, or refuse."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from conformance import source as rows
from conformance.columns import COLUMNS
from conformance.expectation import Printed, expected
from conformance.modes import BARE, MODES, UNWRAP, Mode
from conformance.rules import INSERT, SNAPSHOT, UPDATE
from conftest import Trial
from harness.gate import Gate
from harness.program import Config
from harness.sameness import assert_same
from harness.source import Source, connector, connectors, database
from harness.waiting import until
from test_bad_records import letters
from test_types import Mirror, differences, mirror, topic

WAYS = (SNAPSHOT, INSERT, UPDATE)
TOLD = [Mode("told", {"format": BARE}), Mode("toldflat", {"format": BARE})]
WITH_SCHEMA = next(mode for mode in MODES if mode.name == "json")
"""What the tables must be: what the same rows become with a schema in each record."""

BARE_CONVERTERS = {"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false"}


@dataclass
class Told:
    printed: Printed
    mirrors: dict[str, Mirror]
    log: str


@pytest.fixture(scope="module")
def told(module_trial: Trial) -> Iterator[Told]:
    trial = module_trial
    with ExitStack() as open_:
        source = open_.enter_context(database(trial.stack, trial.name))
        rows.create(source)
        rows.insert(source, SNAPSHOT)
        config = trial.config(mode="upsert")
        config["source"] = {"url": source.url()}
        config["dead_letters"] |= {"max_share": 1.0, "table": "mirror_letters"}
        config["lake"]["tables"] = [{"topic": topic(trial, mode), "table": f"mirror_{mode.name}"} for mode in TOLD]
        firn = trial.firn(config).start()
        settings = {
            f"{trial.name}_{mode.name}": {"table.include.list": rows.TABLE, **BARE_CONVERTERS, **(UNWRAP if mode.name == "toldflat" else {})}
            for mode in TOLD
        }
        open_.enter_context(connectors(source, "engagement", settings, set()))
        wait_for_records(trial, len(rows.ROWS))
        rows.insert(source, INSERT)
        rows.insert(source, UPDATE)
        rows.update(source)
        wait_for_records(trial, 4 * len(rows.ROWS) - 1)
        for mode in TOLD:
            trial.wait_until_committed(trial.table(f"mirror_{mode.name}"), topic(trial, mode), within_s=120)
        assert firn.terminate() == 0, firn.tail()
        yield Told(rows.printed(source), {mode.name: mirror(trial, "mirror", mode) for mode in TOLD}, firn.log())


def wait_for_records(trial: Trial, at_least: int) -> None:
    for mode in TOLD:
        until(f"{at_least} records for {mode.name}", lambda: sum(trial.kafka.ends(topic(trial, mode)).values()) >= at_least, 60)


each_told = pytest.mark.parametrize("mode", TOLD, ids=[mode.name for mode in TOLD])


@each_told
def test_each_column_has_the_type_that_a_schema_gives_it(told: Told, mode: Mode) -> None:
    types = {name: kind for name, kind in told.mirrors[mode.name].types.items() if name.startswith(("a_", "c_")) and name != "c_base"}
    assert types == {c.name: as_.iceberg for c in COLUMNS if (as_ := c.in_mode(WITH_SCHEMA)).iceberg}
    assert "taken from the first values" not in told.log


@each_told
@pytest.mark.parametrize("way", WAYS)
def test_each_value_is_what_a_schema_makes_of_it(told: Told, mode: Mode, way: str) -> None:
    seen = told.mirrors[mode.name]
    want = expected(told.printed, WITH_SCHEMA, way)
    assert not differences(seen, {id_: {c: cell.value for c, cell in row.cells.items()} for id_, row in want.items() if row.has_row}, want)
    assert {id_: reason for id_, reason in seen.letters if id_ in want} == {id_: row.refused for id_, row in want.items() if row.refused}


ITEMS = "CREATE TABLE items (id int PRIMARY KEY, day date, at timestamp(3), price numeric(8,2)); INSERT INTO items VALUES (1, '2024-02-29', '2024-02-29 12:34:56.789', 1.50)"


def items_config(trial: Trial, url: str, **lake: str) -> Config:
    config = trial.config(trial.topic(), **lake)
    config["source"] = {"url": url}
    return config


def assert_mirrors(trial: Trial, source: Source, columns: str) -> None:
    def count() -> bool:
        return trial.lake.exists(trial.table()) and trial.lake.sql(f"SELECT count(*) FROM {trial.table()}") == [[source.run("SELECT count(*) FROM items")[0][0]]]

    until("all items are there", count, 120, then=trial.tails)
    assert_same("items in Trino", trial.lake.sql(f"SELECT {columns} FROM {trial.table()}"), source.run(f"SELECT {columns} FROM items"))


def test_a_database_that_is_away_is_waited_for_and_its_new_columns_are_followed(trial: Trial) -> None:
    env = trial.stack
    # One partition: the row before the one that needs the database is read before it.
    trial.kafka.create(trial.topic(), 1)
    with (
        database(env, trial.name) as source,
        Gate(env["FIRN_PG_HOST"], int(env["FIRN_PG_PORT"])) as gate,
        trial.firn(items_config(trial, source.url(gate.port))) as firn,
    ):
        source.run(ITEMS)
        with connector(source, "engagement", trial.name, **{"table.include.list": "public.items", **BARE_CONVERTERS}):
            # Away from the beginning: the table waits, and no record is a dead letter.
            firn.wait_until_it_says("suspended", "source database")
            answer = firn.command("check")
            assert answer.returncode != 0 and "source.url" in answer.stdout + answer.stderr, answer.stdout
            assert not trial.lake.exists(trial.table())
            gate.open()
            assert_mirrors(trial, source, "id, day, at, price")

            source.run("ALTER TABLE items ADD COLUMN due date; INSERT INTO items VALUES (2, '2024-03-01', now(), 2, '2024-03-02')")
            assert_mirrors(trial, source, "id, day, at, price, due")

            # Away when a column comes: what stands before it is committed.
            gate.shut()
            source.run("INSERT INTO items VALUES (3, NULL, NULL, 3, NULL)")
            source.run("ALTER TABLE items ADD COLUMN amount numeric(9,3), ALTER COLUMN price TYPE numeric(12,2)")
            source.run("INSERT INTO items VALUES (4, NULL, NULL, 1234567890.12, NULL, 4.125)")
            until("row 3 is there", lambda: trial.lake.sql(f"SELECT id FROM {trial.table()} WHERE id = 3"), 60, then=firn.tail)
            gate.open()
            assert_mirrors(trial, source, "id, day, at, price, due, amount")
            assert letters(trial) == [] and not firn.says("stopped"), firn.tail()
            answer = firn.command("check")
            assert answer.returncode == 0 and "source postgres" in answer.stdout, answer.stdout
            assert firn.terminate() == 0, firn.tail()


def bare(id_: int, day: int) -> tuple[bytes, bytes]:
    value = {"before": None, "after": {"id": id_, "day": day}, "source": {"connector": "postgresql"}, "op": "c"}
    return json.dumps({"id": id_}).encode(), json.dumps(value).encode()


def test_a_wrong_password_stops_the_table_by_name(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=1)
    trial.kafka.send(trial.topic(), [bare(1, 19782)])
    with database(trial.stack, trial.name) as source, trial.firn(items_config(trial, source.url(password="${FIRN_E2E_WRONG:-hunter2}"))) as firn:
        firn.wait_until_it_says("stopped", trial.topic(), "source.url")
        assert "hunter2" not in firn.log(), firn.tail()
        answer = firn.command("check")
        assert answer.returncode != 0 and "source.url" in answer.stdout, answer.stdout
        assert not trial.lake.exists(trial.table())


def test_a_topic_of_another_name_is_typed_by_its_values_and_that_is_said_once(trial: Trial) -> None:
    trial.kafka.create(trial.topic("routed"), partitions=3)
    trial.kafka.send(trial.topic("routed"), [bare(id_, 19782) for id_ in range(100)])
    with ExitStack() as open_:
        source = open_.enter_context(database(trial.stack, trial.name))
        config = items_config(trial, source.url())
        config["lake"]["topics"] = [trial.topic("routed")]
        firn = open_.enter_context(trial.firn(config))
        trial.wait_until_committed("routed", trial.topic("routed"))
        lines = [line for line in firn.log().splitlines() if "no types from the source database" in line]
        assert len(lines) == 1 and "routed" in lines[0], lines
        assert trial.lake.sql(f"SELECT DISTINCT day FROM {trial.table('routed')}") == [[19782]]
        assert firn.terminate() == 0, firn.tail()


def test_a_change_of_scale_stops_the_table_before_it_could_be_misread(trial: Trial) -> None:
    with database(trial.stack, trial.name) as source:
        source.run(ITEMS)
        include = {"table.include.list": "public.items", **BARE_CONVERTERS}
        with connector(source, "engagement", trial.name, **include), trial.firn(items_config(trial, source.url())) as firn:
            assert_mirrors(trial, source, "id, day, at, price")
            assert firn.terminate() == 0, firn.tail()
            source.run("ALTER TABLE items ALTER COLUMN price TYPE numeric(12,4); INSERT INTO items VALUES (2, NULL, NULL, 2.5)")
            firn.start()
            line = firn.wait_until_it_says("stopped", "price")
            assert "decimal(8,2)" in line and "decimal(12,4)" in line, line
            assert trial.lake.sql(f"SELECT count(*) FROM {trial.table()}") == [[1]]
