"""A connector is made anew over a table that firn has: rows deleted at the source meanwhile are in no message. They are told, shown, swept."""

import json

from conftest import Trial
from harness.envelopes import Items, Message, item
from harness.lake import checkpoint, positions
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.topics import Kafka
from harness.waiting import until

INCLUDE = {"table.include.list": "public.content,public.items"}


def mirror(trial: Trial) -> list[list[object]]:
    return trial.lake.sql(f"SELECT id, v FROM {trial.table()}")


def rows(source: Source) -> list[tuple[object, ...]]:
    return source.run("SELECT id, v FROM items")


def test_ghosts_of_a_new_snapshot_are_found_and_swept(trial: Trial) -> None:
    topic = trial.topic()
    trial.kafka.create(topic, partitions=3)
    with database(trial.stack, trial.name) as source, trial.firn(trial.config(topic, mode="upsert")) as firn:
        source.run("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items SELECT g, 'v' || g FROM generate_series(1, 500) g")
        with connector(source, "engagement", trial.name, **INCLUDE) as name:
            source.wait_until_published(name)
            trial.wait_until_committed("items", topic, within_s=120)
            source.run("UPDATE items SET v = v || ' changed' WHERE id % 5 = 0")
            source.wait_until_published(name)
            trial.wait_until_committed("items", topic)
            assert_same("before", mirror(trial), rows(source))
            none = firn.command("table", "sweep", trial.table(), "--output", "json")
            assert none.returncode == 0 and json.loads(none.stdout)["rows"] == 0, none
        assert not firn.says("read anew")
        # Nobody looks.
        source.run("DELETE FROM items WHERE id % 7 = 0; UPDATE items SET v = 'meanwhile' WHERE id % 11 = 0; INSERT INTO items VALUES (9000, 'new')")
        with connector(source, "engagement", trial.name, again="-again", **INCLUDE) as name:
            firn.wait_until_it_says("read anew", trial.table(), "firn table sweep", within_s=120)
            source.wait_until_published(name)
            trial.wait_until_committed("items", topic)
            ghosts = {id for id, _ in mirror(trial)} - {id for id, _ in rows(source)}
            assert ghosts == {id for id in range(1, 501) if id % 7 == 0}, "the ghosts are there"

            shown = firn.command("table", "sweep", trial.table(), "--dry-run")
            assert shown.returncode == 0 and f"{len(ghosts)} rows" in shown.stdout and "id=" in shown.stdout, shown
            assert len(mirror(trial)) == len(rows(source)) + len(ghosts), "a dry run removes nothing"
            # firn goes on meanwhile.
            source.run("UPDATE items SET v = 'after' WHERE id % 13 = 0; INSERT INTO items VALUES (7, 'back')")
            source.wait_until_published(name)
            trial.wait_until_committed("items", topic)
            swept = firn.command("table", "sweep", trial.table(), "--output", "json")
            assert swept.returncode == 0 and json.loads(swept.stdout)["rows"] == len(ghosts) - 1, swept
            assert_same("Trino", mirror(trial), rows(source))
            again = firn.command("table", "sweep", trial.table())
            assert again.returncode == 0 and "nothing to remove" in again.stdout, again

            source.run("UPDATE items SET v = 'last' WHERE id % 2 = 0; DELETE FROM items WHERE id % 17 = 0; INSERT INTO items VALUES (14, 'back')")
            source.wait_until_published(name)
            trial.wait_until_committed("items", topic)
            assert_same("Trino, later", mirror(trial), rows(source))
            assert firn.terminate() == 0, firn.tail()


def test_a_sweep_says_what_it_waits_for(trial: Trial) -> None:
    topic = trial.topic()
    with database(trial.stack, trial.name) as source:
        source.run("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (1, 'a')")
        with connector(source, "engagement", trial.name, **INCLUDE) as name:
            with trial.firn(trial.config(topic, mode="upsert")) as firn:
                source.wait_until_published(name)
                trial.wait_until_committed("items", topic, within_s=120)
                assert firn.terminate() == 0, firn.tail()
            source.run("UPDATE items SET v = 'b'")
            source.wait_until_published(name)
            behind = firn.command("table", "sweep", trial.table())
            assert behind.returncode == 1 and "not yet" in behind.stderr and topic in behind.stderr, behind


def test_a_sweep_does_not_wait_for_a_transactions_marker(trial: Trial) -> None:
    """The log of a source that writes in transactions ends with an offset that holds no record: no table gets past it."""
    topic = trial.topic()
    trial.kafka.create(topic, partitions=2)
    kafka = Kafka(trial.kafka.bootstrap, transactional_id=trial.name)
    source = Items(kafka, topic)

    def of_snapshot(key: int, mark: str) -> Message:
        at, value = source.changed(item(key))
        message = json.loads(value or b"")
        message["payload"]["op"] = "r"
        message["payload"]["source"] |= {"snapshot": mark, "lsn": 9_000_000}
        return at, json.dumps(message).encode()

    def committed() -> bool:
        stands = positions(checkpoint(trial.lake.table(trial.table())), topic)
        return stands == {partition: end - 1 for partition, end in kafka.ends(topic).items()}

    kafka.send(topic, [of_snapshot(key, "last" if key == 99 else "true") for key in range(100)])
    with trial.firn(trial.config(topic)) as firn:
        until("the snapshot is in the table", committed, 60)
        swept = firn.command("table", "sweep", trial.table())
        assert swept.returncode == 0 and "nothing to remove" in swept.stdout, swept
        assert firn.terminate() == 0, firn.tail()
