"""Avro through the schema registry: the tables are the source's, a registry that is away costs nothing but time."""

import struct

from conftest import Trial
from harness.program import Config
from harness.registry import RegistryGate
from harness.sameness import assert_same
from harness.source import TABLES, Source, connector, database
from harness.waiting import until
from test_bad_records import letters

INVENTORY = [table for table in TABLES if table.startswith("inventory.")]
PRODUCTS = "inventory.products"


def avro_config(trial: Trial, prefix: str, gate: RegistryGate) -> Config:
    config = trial.config(f"{prefix}.inventory.*")
    config["registry"] = {"url": gate.url}
    return config


def mirror(trial: Trial, table: str) -> str:
    return trial.table(table.partition(".")[2])


def assert_mirrors(trial: Trial, source: Source, prefix: str) -> None:
    for table in INVENTORY:
        trial.wait_until_committed(mirror(trial, table), f"{prefix}.{table}", within_s=120)
        columns = ", ".join(f'"{c}"' for c in TABLES[table])
        rows = trial.lake.sql(f"SELECT {columns} FROM {mirror(trial, table)}")
        assert assert_same(f"{table} in Trino", rows, source.rows(table)) > 0


def change(source: Source, serial: int) -> None:
    """Inserts, updates, a delete and a changed key."""
    source.run(
        "INSERT INTO inventory.products (sku, name, description, weight, price, attributes)"
        " SELECT %s || n, 'product ' || n, NULL, n / 4.0, n * 1.25, '{\"n\": 1}' FROM generate_series(1, 40) n",
        (f"avro-{serial}-",),
    )
    source.run("UPDATE inventory.products SET price = price + 1 WHERE sku LIKE %s", (f"avro-{serial}-%",))
    source.run("DELETE FROM inventory.products WHERE sku = %s", (f"avro-{serial}-7",))
    source.run("UPDATE inventory.products SET id = id + 1000000 WHERE sku = %s", (f"avro-{serial}-8",))
    source.run("UPDATE inventory.orders SET status = status, updated_at = now()")


def test_avro_tables_are_the_sources_and_an_absent_registry_loses_nothing(trial: Trial) -> None:
    prefix = f"{trial.name}_avro"
    with database(trial.stack, trial.name) as source, connector(source, "inventory", prefix, avro=True) as name, RegistryGate(trial.stack) as gate:
        with trial.firn(avro_config(trial, prefix, gate)) as firn:
            # Away from the beginning: every table waits, none stops, and no record is a dead letter.
            line = firn.wait_until_it_says("suspended", "registry", "schema")
            assert f"127.0.0.1:{gate.port}" in line, line
            answer = firn.command("check")
            assert answer.returncode != 0 and f"127.0.0.1:{gate.port}" in answer.stdout + answer.stderr, answer.stdout
            assert not any(trial.lake.exists(mirror(trial, table)) for table in INVENTORY)
            gate.open()
            source.wait_until_published(name)
            assert_mirrors(trial, source, prefix)
            answer = firn.command("check")
            assert answer.returncode == 0, answer.stdout + answer.stderr
            fetched = [path for path in gate.asked if "/schemas/ids/" in path]
            assert len(fetched) == len(set(fetched)) >= 2 * len(INVENTORY), f"each id is asked for once: {fetched}"

            change(source, 1)
            source.wait_until_published(name)
            assert_mirrors(trial, source, prefix)

            # Away when a new schema comes: what stands before it is committed, what is behind it waits.
            gate.shut()
            seen = len(firn.log())
            change(source, 2)
            source.run("ALTER TABLE inventory.products ADD COLUMN colour text")
            source.run("UPDATE inventory.products SET colour = 'blue' WHERE sku LIKE 'avro-2-1%'")
            source.wait_until_published(name)

            def waits() -> bool:
                lines = firn.log()[seen:].splitlines()
                return any("suspended" in line and f"{prefix}.{PRODUCTS}" in line and "registry" in line for line in lines)

            until("products wait for the registry", waits, 60, then=firn.tail)
            trial.wait_until_committed(mirror(trial, "inventory.orders"), f"{prefix}.inventory.orders")
            before = f"SELECT count(*) FROM {mirror(trial, PRODUCTS)} WHERE sku LIKE 'avro-2-%'"
            assert trial.lake.sql(before) == [[39]], "the rows before the new schema are there"
            assert "stopped" not in firn.log()[seen:], firn.tail()
            gate.open()
            assert_mirrors(trial, source, prefix)
            blue = trial.lake.sql(f"SELECT sku FROM {mirror(trial, PRODUCTS)} WHERE colour = 'blue'")
            assert_same("the new column", blue, source.run("SELECT sku FROM inventory.products WHERE colour = 'blue'"))
            assert letters(trial) == []
            assert firn.terminate() == 0, firn.tail()


def test_an_unknown_schema_id_is_a_dead_letter(trial: Trial) -> None:
    prefix = f"{trial.name}_avro"
    topic = f"{prefix}.{PRODUCTS}"
    unknown = 2_000_000_011
    with database(trial.stack, trial.name) as source, connector(source, "inventory", prefix, avro=True) as name, RegistryGate(trial.stack) as gate:
        gate.open()
        source.wait_until_published(name)
        sent = next(m for m in trial.kafka.everything(topic) if m.value is not None)
        trial.kafka.send(topic, [(sent.key, struct.pack(">bi", 0, unknown) + sent.value[5:]), (sent.key, sent.value[:-3])])
        with trial.firn(avro_config(trial, prefix, gate)) as firn:
            change(source, 1)
            source.wait_until_published(name)
            assert_mirrors(trial, source, prefix)
            found = sorted(letters(trial), key=lambda letter: str(letter["reason"]))
            assert [letter["reason"] for letter in found] == ["not_avro", "unknown_schema_id"], found
            assert str(unknown) in str(found[1]["detail"]) and found[1]["schema_id"] == unknown, found[1]
            assert found[0]["schema_id"] == struct.unpack(">bi", sent.value[:5])[1], found[0]
            assert firn.terminate() == 0, firn.tail()


def test_avro_without_a_registry_is_dead_letters_that_stop_the_table(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=1)
    trial.kafka.send(trial.topic(), [(b"\x00\x00\x00\x00\x01\x02", b"\x00\x00\x00\x00\x02\x02")] * 2)
    config = trial.config(trial.topic())
    config["dead_letters"] |= {"min_rows": 2}
    with trial.firn(config) as firn:
        firn.wait_until_it_says("stopped", trial.topic(), "registry.url")
        assert not trial.lake.exists(trial.table())
