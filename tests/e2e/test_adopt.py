"""`firn adopt`: on with tables that another writer filled, from where that stood in Kafka; PyIceberg fills them and reads them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.types import DateType, IntegerType, LongType, NestedField, StringType

from conftest import Trial
from harness.envelopes import Items, item, items
from harness.program import Firn, sqlite_config
from harness.sameness import assert_same
from harness.waiting import until

FIELDS = (
    NestedField(1, "id", LongType(), required=True),
    NestedField(2, "name", StringType(), required=False),
    NestedField(3, "quantity", IntegerType(), required=False),
)


def catalog_of(trial: Trial) -> SqlCatalog:
    return SqlCatalog("firn", uri=f"sqlite:///{trial.folder / 'catalog.db'}", warehouse=str(trial.folder / "warehouse"))


def filled(trial: Trial, rows: list[list[Any]], fields: tuple[NestedField, ...] = FIELDS, **properties: str) -> None:
    """The table as another writer left it."""
    catalog = catalog_of(trial)
    catalog.create_namespace_if_not_exists(trial.name)
    table = catalog.create_table(trial.table(), Schema(*fields, identifier_field_ids=[1]), properties=properties)
    if rows:
        columns = list(zip(*rows, strict=True))
        table.append(pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, table.schema().as_arrow(), strict=True)], schema=table.schema().as_arrow()))
    catalog.engine.dispose()


def table_of(trial: Trial) -> Table:
    catalog = catalog_of(trial)
    try:
        return catalog.load_table(trial.table())
    finally:
        catalog.engine.dispose()


def rows_of(trial: Trial) -> list[list[Any]]:
    arrow = table_of(trial).scan(selected_fields=("id", "name", "quantity")).to_arrow()
    return sorted(([*row] for row in zip(*(arrow.column(c).to_pylist() for c in ("id", "name", "quantity")), strict=True)), key=repr)


def spark_checkpoint(folder: Path, batches: list[dict[str, dict[int, int]]], done: int) -> Path:
    """As Spark Structured Streaming leaves it: batches 0, 1 ..., of which those up to `done` were finished."""
    for name in ("offsets", "commits", "sources", "state"):
        (folder / name).mkdir(parents=True)
    for n, offsets in enumerate(batches):
        about = {"batchWatermarkMs": 0, "batchTimestampMs": 1_700_000_000_000 + n, "conf": {}}
        (folder / "offsets" / str(n)).write_text(f"v1\n{json.dumps(about)}\n{json.dumps(offsets)}")
        (folder / "offsets" / f".{n}.crc").write_bytes(b"crc")
        if n <= done:
            (folder / "commits" / str(n)).write_text('v1\n{"nextBatchWatermarkMs":0}')
    return folder


def firn_of(trial: Trial, mode: str = "upsert") -> Firn:
    return trial.firn(sqlite_config(trial.stack, trial.folder, topics=[trial.topic()], namespace=trial.name, group=trial.name, mode=mode))


def test_an_upsert_table_goes_on_from_sparks_checkpoint(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(50)))
    first = trial.kafka.ends(trial.topic())
    source.put({**item(n), "name": "second"} for n in range(10, 20))
    filled(trial, source.expected())
    # Of the second batch the rows are in the table, and Spark was killed before it said so.
    folder = spark_checkpoint(trial.folder / "spark", [{trial.topic(): first}, {trial.topic(): trial.kafka.ends(trial.topic())}], done=0)
    source.put({**item(n), "name": "third"} for n in range(40, 60))
    source.remove(range(5))

    firn = firn_of(trial)
    adopt = ("adopt", trial.table(), "--spark-checkpoint", str(folder))
    shown = firn.command(*adopt, "--dry-run", "--output", "json")
    assert shown.returncode == 0, shown.stderr
    outlook = json.loads(shown.stdout)
    assert outlook["next_offsets"] == {str(p): n for p, n in first.items()} and outlook["rows"] == 50 and outlook["snapshot_id"] is None
    assert any("_firn_offset" in change for change in outlook["columns"]) and "batch 1" in outlook["warnings"][0], outlook
    asked = firn.command(*adopt)
    assert asked.returncode == 2 and "--yes" in asked.stderr, asked.stderr
    done = firn.command(*adopt, "--yes")
    assert done.returncode == 0 and "goes on" in done.stdout, done.stdout + done.stderr
    again = firn.command(*adopt, "--yes")
    assert again.returncode == 1 and "firn has a position in it already" in again.stderr, again.stderr
    with firn.start():
        until("the table equals the source", lambda: rows_of(trial) == sorted(source.expected(), key=repr), 60, then=firn.tail)
        assert firn.terminate() == 0, firn.tail()
    # Nothing was read from before the checkpoint.
    arrow = table_of(trial).scan().to_arrow()
    read = [(p, o) for p, o in zip(arrow["_firn_partition"].to_pylist(), arrow["_firn_offset"].to_pylist(), strict=True) if o is not None]
    assert read and all(offset >= first[partition] for partition, offset in read)


def test_an_append_table_goes_on_from_offsets(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(30)))
    filled(trial, source.expected())
    ends = trial.kafka.ends(trial.topic())
    firn = firn_of(trial, "append")
    half = spark_checkpoint(trial.folder / "spark", [{trial.topic(): ends}, {trial.topic(): ends}], done=0)
    refused = firn.command("adopt", trial.table(), "--spark-checkpoint", str(half), "--yes")
    assert refused.returncode == 1 and "twice then" in refused.stderr, refused.stderr
    missing = firn.command("adopt", trial.table(), "--offsets", f"0:{ends[0]}", "--yes")
    assert missing.returncode == 1 and "say its offset too" in missing.stderr, missing.stderr
    beyond = firn.command("adopt", trial.table(), "--offsets", ",".join(f"{p}:{n + 1}" for p, n in ends.items()), "--yes")
    assert beyond.returncode == 1 and "beyond the log's end" in beyond.stderr, beyond.stderr
    source.put(items(range(30, 60)))
    done = firn.command("adopt", trial.table(), "--offsets", ",".join(f"{p}:{n}" for p, n in ends.items()), "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    with firn.start():
        until("all are there", lambda: len(rows_of(trial)) >= 60, 60, then=firn.tail)
        assert firn.terminate() == 0, firn.tail()
    assert_same("PyIceberg", rows_of(trial), source.expected())


def test_tables_that_can_not_be_gone_on_with_are_told_why(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(20)))
    firn = firn_of(trial)
    cases: list[tuple[list[list[Any]], tuple[NestedField, ...], dict[str, str], list[str]]] = [
        ([*source.expected(), [7, "twice", 1], [7, "thrice", 2], [9, "twice", 1]], FIELDS, {}, ["2 keys have several rows", "(id = 7) 3 times", "(id = 9) 2 times"]),
        (source.expected(), FIELDS, {"format-version": "1"}, ["format version 1", "upgrade it first"]),
        ([], (*FIELDS[:2], NestedField(3, "quantity", DateType(), required=False)), {}, ["quantity", "date"]),
    ]
    for rows, fields, properties, words in cases:
        filled(trial, rows, fields, **properties)
        before = table_of(trial).metadata_location
        refused = firn.command("adopt", trial.table(), "--timestamp", "1h", "--yes")
        assert refused.returncode == 1 and all(word in refused.stderr for word in words), (words, refused.stderr)
        assert table_of(trial).metadata_location == before
        catalog = catalog_of(trial)
        catalog.drop_table(trial.table())
        catalog.engine.dispose()
