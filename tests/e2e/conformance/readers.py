"""The tables as Trino and as PyIceberg show them, each value in the writing of writing.py, by the column's Iceberg type."""

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyiceberg.table import Table
from pyiceberg.types import (
    BinaryType, BooleanType, DateType, DecimalType, DoubleType, FloatType, IcebergType, IntegerType, ListType, LongType, MapType,
    StringType, StructType, TimestampType, TimestamptzType, TimeType, UUIDType,
)  # fmt: skip

from harness.lake import Lake

from . import writing
from .writing import Shown

Rows = dict[int, dict[str, Shown]]
"""id -> column -> value"""


def by_trino(lake: Lake, name: str, table: Table) -> Rows:
    """Trino itself writes every scalar (a CAST to varchar), so no client's type can lose anything."""
    fields = [f for f in table.schema().fields if not f.name.startswith("_firn")]
    texts = ", ".join(_trino_text(f'"{f.name}"', f.field_type) for f in fields)
    rows = lake.sql(f"SELECT {texts} FROM {name}")
    return {int(row["id"]): row for row in ({f.name: _from_trino(value, f.field_type) for f, value in zip(fields, values, strict=True)} for values in rows)}


def _trino_text(column: str, kind: IcebergType, depth: int = 0) -> str:
    """A varchar, or arrays, maps and rows of them."""
    inner = f"x{depth}"
    match kind:
        case BinaryType():
            return f"lower(to_hex({column}))"
        case StringType():
            return column
        case FloatType():
            return f"CAST(CAST({column} AS double) AS varchar)"  # a real's own text is rounded to seven digits
        case ListType():
            return f"transform({column}, {inner} -> {_trino_text(inner, kind.element_type, depth + 1)})"
        case MapType():
            return f"transform_values({column}, (k{depth}, {inner}) -> {_trino_text(inner, kind.value_type, depth + 1)})"
        case StructType():
            # A row's members become an array, nested ones its JSON.
            members = [_trino_text(f'{column}."{f.name}"', f.field_type, depth + 1) for f in kind.fields]
            written = [t if _is_scalar(f.field_type) else f"json_format(CAST({t} AS JSON))" for t, f in zip(members, kind.fields, strict=True)]
            return f"IF({column} IS NULL, NULL, ARRAY[{', '.join(written)}])"
        case _:
            return f"CAST({column} AS varchar)"


def _is_scalar(kind: IcebergType) -> bool:
    return not isinstance(kind, (ListType, MapType, StructType))


def _from_trino(value: Any, kind: IcebergType) -> Shown:
    if value is None:
        return None
    match kind:
        case ListType():
            return [_from_trino(v, kind.element_type) for v in value]
        case MapType():
            return writing.sorted_by_key({k: _from_trino(v, kind.value_type) for k, v in value.items()})
        case StructType():
            return {f.name: _from_trino(v if _is_scalar(f.field_type) or v is None else json.loads(v), f.field_type) for f, v in zip(kind.fields, value, strict=True)}
        case FloatType():
            return writing.real(float(value))
        case DoubleType():
            return writing.double(float(value))
        case BinaryType():
            return f"x'{value}'"
        case DateType() | TimestampType():
            return value.removeprefix("+")
        case TimestamptzType():
            return value.removeprefix("+").removesuffix(" UTC") + "Z"
        case _:
            return value


def type_name(kind: IcebergType) -> str:
    """As configurations and `firn table show` write it."""
    match kind:
        case ListType():
            return f"list<{type_name(kind.element_type)}>"
        case MapType():
            return f"map<{type_name(kind.key_type)}, {type_name(kind.value_type)}>"
        case StructType():
            return f"struct<{', '.join(f'{f.name}: {type_name(f.field_type)}' for f in kind.fields)}>"
        case _:
            return str(kind).replace(", ", ",")


def by_pyiceberg(table: Table) -> Rows:
    """From PyIceberg's Arrow columns."""
    arrow = table.scan().to_arrow()
    fields = [f for f in table.schema().fields if not f.name.startswith("_firn")]
    columns = {f.name: [_from_arrow(v, f.field_type) for v in arrow.column(f.name).combine_chunks()] for f in fields}
    return {int(i): {name: values[at] for name, values in columns.items()} for at, i in enumerate(arrow.column("id").to_pylist())}


def _from_arrow(value: pa.Scalar, kind: IcebergType) -> Shown:
    if not value.is_valid:
        return None
    match kind:
        case ListType():
            return [_from_arrow(v, kind.element_type) for v in value.values]
        case MapType():
            return writing.sorted_by_key({str(k): _from_arrow(v, kind.value_type) for k, v in _entries(value)})
        case StructType():
            return {f.name: _from_arrow(value[f.name], f.field_type) for f in kind.fields}
        case _:
            return SCALARS[type(kind)](value)


def _entries(value: pa.MapScalar) -> list[tuple[pa.Scalar, pa.Scalar]]:
    return [(entry["key"], entry["value"]) for entry in value.values]


SCALARS: dict[type[IcebergType], Callable[[pa.Scalar], str]] = {
    BooleanType: lambda v: str(v.as_py()).lower(),
    IntegerType: lambda v: str(v.as_py()),
    LongType: lambda v: str(v.as_py()),
    FloatType: lambda v: writing.real(v.as_py()),
    DoubleType: lambda v: writing.double(v.as_py()),
    DecimalType: lambda v: f"{v.as_py():f}",
    StringType: lambda v: v.as_py(),
    UUIDType: lambda v: str(v.as_py()),
    BinaryType: lambda v: writing.binary(v.as_py()),
    DateType: lambda v: writing.date(v.cast(pa.int32()).as_py()),
    TimeType: lambda v: writing.time(v.cast(pa.int64()).as_py()),
    TimestampType: lambda v: writing.timestamp(v.cast(pa.int64()).as_py()),
    TimestamptzType: lambda v: writing.timestamp(v.cast(pa.int64()).as_py()) + "Z",
}
