"""The whole way: PostgreSQL, Debezium, Kafka, firn, the Hive Metastore, MinIO, and Trino as the judge, under a mixed load and kills.

FIRN_E2E_CHANGES says how many row changes (5,000, in the full variant 100,000), FIRN_E2E_SEED which; FIRN_E2E_FULL=1 also restarts
Kafka in between.
"""

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from conftest import FULL, Trial
from harness.lake import Referenced, checkpoint, positions, referenced
from harness.load import MixedLoad
from harness.program import Firn
from harness.sameness import assert_same
from harness.source import KEYS, TABLES, Source, connector, database
from harness.waiting import pause, until


CHANGES = int(os.environ.get("FIRN_E2E_CHANGES", "100000" if FULL else "5000"))
SEED = int(os.environ.get("FIRN_E2E_SEED", random.SystemRandom().randrange(1_000_000)))
SECONDS = 150 if FULL else 30
"""The load is spread over this, so that the kills and restarts meet it."""
KILLS = 3
EVENTS = "public.engagement_events"


class Inventory:
    """What happened, once all of it is committed: one run of the servers, looked at by several tests."""

    def __init__(self, trial: Trial, source: Source) -> None:
        self.trial = trial
        self.source = source

    def topic(self, table: str) -> str:
        return f"{self.prefix(table)}.{table}"

    def prefix(self, table: str) -> str:
        """Each connector has its own."""
        return f"{self.trial.name}_{'inventory' if table.startswith('inventory.') else 'engagement'}"

    def mirror(self, table: str) -> str:
        """The upsert table."""
        return self.trial.table(table.partition(".")[2])

    @property
    def history(self) -> str:
        """The append table of the engagement events."""
        return self.trial.table("engagement_history")

    def referenced(self, table: str) -> Referenced:
        loaded = self.trial.lake.table(table)
        assert loaded is not None
        return referenced(loaded)


@pytest.fixture(scope="module")
def inventory(module_trial: Trial) -> Iterator[Inventory]:
    trial = module_trial
    luck = random.Random(SEED)
    print(f"{CHANGES} changes, FIRN_E2E_SEED={SEED}")
    with ExitStack() as open_:
        source = open_.enter_context(database(trial.stack, trial.name))
        made = Inventory(trial, source)
        names = [open_.enter_context(connector(source, t, f"{trial.name}_{t}")) for t in ("inventory", "engagement")]
        mirrors = trial.firn(trial.config(f"{trial.name}_inventory.inventory.*", *(made.topic(t) for t in TABLES if t.startswith("public."))), "mirrors")
        settings = trial.config(made.topic(EVENTS), mode="append", table="engagement_history")
        settings["kafka"]["group"] += "_history"
        history = trial.firn(settings, "history")
        for firn in (mirrors, history):
            firn.start()
        load = MixedLoad(source, CHANGES, SECONDS, SEED)
        load.start()
        for number, share in enumerate(sorted(luck.uniform(0.1, 0.85) for _ in range(KILLS)), 1):
            reach(load, share)
            kill_at_random_moment(luck, number, mirrors, history)
            if number == 1:
                trial.stack.restart("metastore")
            if number == 2 and FULL:
                trial.stack.restart("kafka")
        reach(load, 1)
        print(f"{load.changes} changes made")
        for name in names:
            source.wait_until_published(name)
        for table in TABLES:
            trial.wait_until_committed(made.mirror(table), made.topic(table), within_s=120)
        trial.wait_until_committed(made.history, made.topic(EVENTS))
        for firn in (mirrors, history):
            assert firn.terminate() == 0, firn.tail()
        yield made


def reach(load: MixedLoad, share: float) -> None:
    until(f"{share:.0%} of the load", lambda: load.failure or load.changes >= share * load.total, SECONDS + 180)
    load.check()


def kill_at_random_moment(luck: random.Random, number: int, *all_of: Firn) -> None:
    """Somewhere in a commit interval, staging or committing, whatever it is at."""
    for firn in all_of:
        moment = luck.uniform(0, 1.2)
        pause(moment)
        print(f"kill {number} of {firn.name} after {moment:.3f} s")
        firn.kill()
    for firn in all_of:
        firn.start()


@pytest.mark.parametrize("table", TABLES)
def test_trino_sees_what_postgresql_holds(inventory: Inventory, table: str) -> None:
    columns = ", ".join(f'"{c}"' for c in TABLES[table])
    rows = inventory.trial.lake.sql(f"SELECT {columns} FROM {inventory.mirror(table)}")
    assert assert_same(f"{table} in Trino", rows, inventory.source.rows(table)) > 0


@pytest.mark.parametrize("table", TABLES)
def test_pyiceberg_sees_what_postgresql_holds(inventory: Inventory, table: str) -> None:
    loaded = inventory.trial.lake.table(inventory.mirror(table))
    assert loaded is not None
    arrow = loaded.scan(selected_fields=tuple(TABLES[table])).to_arrow()
    rows = zip(*(arrow.column(name).to_pylist() for name in TABLES[table]), strict=True)
    assert_same(f"{table} in PyIceberg", rows, inventory.source.rows(table))


@pytest.mark.parametrize("table", TABLES)
def test_a_key_has_one_row(inventory: Inventory, table: str) -> None:
    keys = ", ".join(KEYS[table])
    assert inventory.trial.lake.sql(f"SELECT {keys} FROM {inventory.mirror(table)} GROUP BY {keys} HAVING count(*) > 1") == []


@pytest.mark.parametrize("table", TABLES)
def test_there_is_no_equality_delete(inventory: Inventory, table: str) -> None:
    name = inventory.mirror(table).partition(".")[2]
    assert inventory.trial.lake.sql(f'SELECT count(*) FROM {inventory.trial.name}."{name}$files" WHERE content = 2') == [[0]]
    assert inventory.referenced(inventory.mirror(table)).equality_deletes == set()


@pytest.mark.parametrize("table", TABLES)
def test_properties_and_summary_carry_the_offsets(inventory: Inventory, table: str) -> None:
    loaded = inventory.trial.lake.table(inventory.mirror(table))
    assert loaded is not None
    topic = inventory.topic(table)
    ends = {p: end for p, end in inventory.trial.kafka.ends(topic).items() if end > 0}
    assert positions(checkpoint(loaded), topic) == ends
    assert loaded.properties["firn.mode"] == "upsert"
    snapshot = loaded.current_snapshot()
    assert snapshot is not None and snapshot.summary is not None
    assert loaded.properties["firn.last-snapshot-id"] == str(snapshot.snapshot_id)
    assert snapshot.summary["firn.checkpoint"] == loaded.properties["firn.checkpoint"]


def test_a_kill_orphans_at_most_one_commits_files(inventory: Inventory) -> None:
    tables = [inventory.mirror(t) for t in TABLES] + [inventory.history]
    found: dict[str, str] = {}
    for name in tables:
        loaded = inventory.trial.lake.table(name)
        assert loaded is not None
        needed = referenced(loaded)
        stored = inventory.trial.lake.objects(f"{loaded.location()}/data")
        assert needed.data | needed.deletes <= stored, f"{name}: files that a snapshot needs are missing"
        orphans = stored - needed.data - needed.deletes
        allowed = KILLS * needed.largest_commit
        print(f"{name}: {len(stored)} files, {len(orphans)} orphans, {allowed} allowed")
        if len(orphans) > allowed:
            found[name] = f"{len(orphans)} orphans, {allowed} allowed ({KILLS} kills, {needed.largest_commit} files in the largest commit)"
    assert not found


def test_no_event_comes_twice_in_the_append_table(inventory: Inventory) -> None:
    where = "_firn_topic, _firn_partition, _firn_offset"
    [[rows, origins]] = inventory.trial.lake.sql(f"SELECT count(*), count(DISTINCT ({where})) FROM {inventory.history}")
    assert rows == origins > 0


def test_every_event_of_the_topic_is_in_the_append_table(inventory: Inventory) -> None:
    sent = inventory.trial.kafka.everything(inventory.topic(EVENTS))
    rows = inventory.trial.lake.sql(f"SELECT _firn_topic, _firn_partition, _firn_offset FROM {inventory.history}")
    assert_same("origins", rows, [m.origin for m in sent if m.value is not None])


def test_the_append_table_adds_up_to_the_source(inventory: Inventory) -> None:
    """The fold by SQL: of each id the last change, unless it is a delete."""
    columns = ", ".join(TABLES[EVENTS])
    rows = inventory.trial.lake.sql(
        f"SELECT {columns} FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY _firn_offset DESC) AS age FROM {inventory.history})"
        " WHERE age = 1 AND _firn_op <> 'd'"
    )
    assert_same("the fold of the history", rows, inventory.source.rows(EVENTS))
