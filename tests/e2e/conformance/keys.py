"""A table whose primary key is one column of each type that may be one; its rows differ in a single key column each.

So an update, a delete or a changed key finds its row only if every type of key is read alike from key and row, snapshot and stream.
"""

from harness.source import Source

from .columns import COLUMNS
from .declared import becomes
from .modes import BARE, Mode
from .rules import SNAPSHOT, Sent
from .source import Statement, in_one_transaction, printed
from .writing import Shown

TABLE = "public.keyed"

OTHER_VALUES = {
    "c_smallint": "32767",
    "c_int": "0",
    "c_bigint": "9223372036854775807",
    "c_oid": "1",
    "c_numeric_10_2": "0.01",
    "c_numeric_38_18": "12345678901234567890.123456789012345678",
    "c_numeric": "12345.678",
    "c_money": "$0.01",
    "c_domain_int": "8",
    "c_bool": "f",
    "c_char": "b",
    "c_varchar": "ü🦀\n\"",
    "c_text": "",
    "c_citext": "other",
    "c_enum": "sad",
    "c_uuid": "00000000-0000-0000-0000-000000000000",
    "c_inet": "10.0.0.1",
    "c_macaddr": "ff:ff:ff:ff:ff:ff",
    "c_ltree": "a",
    "c_bytea": "\\x",
    "c_bit8": "00000001",
    "c_date": "0001-01-01",
    "c_time": "00:00:00",
    "c_time3": "00:00:00.001",
    "c_timetz": "10:11:12+00",
    "c_ts": "1969-12-31 23:59:59.999",
    "c_ts3": "1969-12-31 23:59:59.999",
    "c_tstz": "9999-12-31 23:59:59.999999+00",
    "c_interval": "PT0S",
    "c_int4range": "empty",
}
"""Beside each column's typical value. An index of PostgreSQL has 32 columns at most; Iceberg's keys are no floats."""

KEYS = [column for column in COLUMNS if column.name in OTHER_VALUES]
TYPICAL = {column.name: column.values[0] for column in KEYS}
ROWS = [TYPICAL, *(TYPICAL | {column.name: OTHER_VALUES[column.name]} for column in KEYS)]


def create(source: Source) -> None:
    columns = ", ".join(f"{c.name} {c.sql}" for c in KEYS)
    source.run(f"CREATE TABLE {TABLE} (id integer, note text, {columns}, PRIMARY KEY ({', '.join(c.name for c in KEYS)}))")


def insert(source: Source) -> None:
    in_one_transaction(source, [_insert(id_, "snapshot") for id_ in range(len(ROWS))])


def change(source: Source) -> None:
    """Of three rows one is updated, one deleted and inserted anew, one deleted; each time the first row takes the deleted one's value
    into its own key."""
    statements: list[Statement] = []
    for id_, column in enumerate(KEYS, 1):
        match id_ % 3:
            case 0:
                statements.append((f"UPDATE {TABLE} SET note = 'updated' WHERE id = %s", [id_]))
            case 1:
                statements += [(f"DELETE FROM {TABLE} WHERE id = %s", [id_]), _insert(id_, "inserted anew")]
            case _:
                statements.append((f"DELETE FROM {TABLE} WHERE id = %s", [id_]))
                statements.append((f"UPDATE {TABLE} SET {column.name} = %s, note = 'moved' WHERE id = 0", [OTHER_VALUES[column.name]]))
    in_one_transaction(source, statements)


RECORDS = len(ROWS) + sum({0: 1, 1: 3, 2: 5}[id_ % 3] for id_ in range(1, len(ROWS)))
"""That Debezium makes of all this: a delete is two, the second a tombstone; a changed key is a delete and an insert."""


def _insert(id_: int, note: str) -> Statement:
    values = {"id": id_, "note": note, **ROWS[id_]}
    return f"INSERT INTO {TABLE} ({', '.join(values)}) VALUES ({', '.join(['%s'] * len(values))})", list(values.values())


def expected(source: Source, mode: Mode) -> dict[int, dict[str, Shown]]:
    """id -> column -> value. No type of key here is one whose snapshot differs from the stream."""
    notes = dict(source.run(f"SELECT id, note FROM {TABLE}"))
    return {
        id_: {"id": str(id_), "note": notes[id_], **{c.name: becomes(c, mode).rule(Sent(row[c.name], mode, SNAPSHOT)).value for c in KEYS}}
        for id_, row in printed(source, TABLE, KEYS).items()
    }


def declared(mode: Mode) -> dict[str, str]:
    """For records without schema."""
    return {"id": "int", "note": "string"} | {c.name: becomes(c, mode).iceberg for c in KEYS} if mode.format == BARE else {}
