"""Changes as Debezium's PostgreSQL connector writes them, made by hand, and the table that they add up to.

For tests that need no database: `Items` is a source table of three columns whose rows it keeps itself.
"""

import itertools
import json
import random
import threading
from collections.abc import Iterable
from typing import Any

from .topics import Kafka

Row = dict[str, Any]
Message = tuple[bytes | None, bytes | None]

COLUMNS: list[dict[str, Any]] = [
    {"type": "int64", "optional": False, "field": "id"},
    {"type": "string", "optional": True, "field": "name"},
    {"type": "int32", "optional": True, "field": "quantity"},
]
"""As Connect writes them in a schema block."""

SOURCE: list[dict[str, Any]] = [
    {"type": kind, "optional": optional, "field": field}
    for field, kind, optional in [
        ("version", "string", False), ("connector", "string", False), ("name", "string", False), ("ts_ms", "int64", False),
        ("snapshot", "string", True), ("db", "string", False), ("schema", "string", False), ("table", "string", False),
        ("txId", "int64", True), ("lsn", "int64", True),
    ]
]  # fmt: skip


def _struct(name: str, fields: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"type": "struct", "fields": fields, "optional": more.pop("optional", False), "name": name, **more}


class Items:
    """A source table whose changes go to one topic. `rows` is what an upsert table has to hold in the end."""

    def __init__(self, kafka: Kafka, topic: str, *, columns: list[dict[str, Any]] | None = None, with_schema: bool = True) -> None:
        self.kafka = kafka
        self.topic = topic
        self.columns = columns or COLUMNS
        self.with_schema = with_schema
        self.rows: dict[int, Row] = {}
        # A row and its message belong together: two threads may change the table, each key's messages keep the rows' order.
        self.lock = threading.RLock()
        self.lsn = itertools.count(10_000_000)
        row = [_struct(f"{topic}.Value", self.columns, optional=True, field=side) for side in ("before", "after")]
        source = _struct("io.debezium.connector.postgresql.Source", SOURCE, field="source")
        tail = [{"type": "string", "optional": False, "field": "op"}, {"type": "int64", "optional": True, "field": "ts_ms"}]
        self._value_schema = _struct(f"{topic}.Envelope", [*row, source, *tail], version=2)
        self._key_schema = _struct(f"{topic}.Key", [c for c in self.columns if c["field"] == "id"])

    def put(self, rows: Iterable[Row]) -> None:
        """Inserts, or updates where the id is there already."""
        with self.lock:
            self.kafka.send(self.topic, [self.changed(row) for row in rows])

    def remove(self, ids: Iterable[int]) -> None:
        """Deletes; each is followed by its tombstone, as Debezium does."""
        with self.lock:
            self.kafka.send(self.topic, [message for key in ids for message in self.removed(key)])

    def changed(self, row: Row) -> Message:
        old = self.rows.get(row["id"])
        self.rows[row["id"]] = row
        return self.key(row["id"]), self.value("u" if old else "c", None, row)

    def removed(self, key: int) -> list[Message]:
        old = self.rows.pop(key)
        before = {name: (old[name] if name == "id" else None) for name in old}
        return [(self.key(key), self.value("d", before, None)), (self.key(key), None)]

    def key(self, key: int) -> bytes:
        return self._json(self._key_schema, {"id": key})

    def value(self, op: str, before: Row | None, after: Row | None) -> bytes:
        lsn = next(self.lsn)
        prefix, schema, table = (["", "", *self.topic.split(".")])[-3:]
        now_ms = 1_700_000_000_000 + lsn
        source = {
            "version": "3.7.0.Final", "connector": "postgresql", "name": prefix, "ts_ms": now_ms, "snapshot": "false", "db": "source",
            "schema": schema, "table": table, "txId": lsn // 10, "lsn": lsn,
        }  # fmt: skip
        return self._json(self._value_schema, {"before": before, "after": after, "source": source, "op": op, "ts_ms": now_ms})

    def _json(self, schema: dict[str, Any], payload: dict[str, Any]) -> bytes:
        return json.dumps({"schema": schema, "payload": payload} if self.with_schema else payload).encode()

    def expected(self) -> list[list[Any]]:
        """All rows, by id, in the columns' order."""
        return [[row.get(c["field"]) for c in self.columns] for _, row in sorted(self.rows.items())]


def item(key: int, seed: random.Random | None = None) -> Row:
    """A row with some variety: nulls, quotes, characters outside ASCII."""
    luck = seed or random.Random(key)
    name = luck.choice([f"item {key}", f'"{key}" \\ ü 雪', "", None])
    return {"id": key, "name": name, "quantity": luck.choice([None, 0, luck.randrange(-(2**31), 2**31)])}


def items(keys: Iterable[int], seed: random.Random | None = None) -> list[Row]:
    return [item(key, seed) for key in keys]
