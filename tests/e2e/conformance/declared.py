"""Columns that the configuration declares, for records whose schema says something else."""

from . import rules as r
from .columns import BIGINT, COLUMNS, TEXT, As, Column
from .modes import BARE, INFERRED, Mode

COLUMNS_OF: dict[str, dict[str, As]] = {
    "declared": {
        "c_int": BIGINT,
        "c_bool": As("string", r.boolean),
        "c_numeric_10_2": As("decimal(20,4)", r.declared_decimal(20, 4)),
        "c_numeric_38_0": TEXT,
        "c_numeric": As("decimal(38,10)", r.declared_decimal(38, 10)),
        "c_money": As("decimal(19,2)", r.of_money(r.fixed)),
        "c_uuid": TEXT,
        "c_time": As("long", r.time_count, "µs since midnight, as Debezium counts"),
        "c_ts": As("timestamptz", r.timestamp_as_utc, "read as UTC"),
        "c_point": As("string", r.rule(r.point_json), "the JSON as Debezium sends it"),
        "a_int": As("string", r.int_array_json, "the JSON as Debezium sends it"),
    },
    "restored": {
        "c_numeric_10_2": As("decimal(10,2)", r.declared_decimal(10, 2)),
        "c_numeric_38_18": As("decimal(38,18)", r.declared_decimal(38, 18)),
        "c_numeric": As("decimal(38,10)", r.declared_decimal(38, 10)),
        "c_bytea": As("binary", r.as_bytes),
    },
    "unhexed": {
        "c_numeric_10_2": As("decimal(10,2)", r.declared_decimal(10, 2)),
        "c_bytea": As("binary", r.as_bytes, 'with `encodings = { c_bytea = "hex" }`'),
    },
}
"""Mode -> column -> what it becomes."""


def declared(mode: Mode) -> dict[str, str]:
    """What the configuration says: a few columns, or where records have no schema all."""
    if mode.format == BARE and mode != INFERRED:
        return {"id": "int"} | {c.name: kind for c in COLUMNS if (kind := becomes(c, mode).iceberg)}
    return {name: as_.iceberg for name, as_ in COLUMNS_OF.get(mode.name, {}).items()}


def becomes(column: Column, mode: Mode) -> As:
    return COLUMNS_OF.get(mode.name, {}).get(column.name) or column.in_mode(mode)
