"""The rows in PostgreSQL: one for each value of each type, so that a value which is refused hides no other."""

from contextlib import closing
from dataclasses import dataclass
from typing import Any

from harness.source import Source

from .columns import COLUMNS, Column
from .rules import INSERT, SNAPSHOT, UPDATE

SCHEMA = """
CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE addr_t AS (street text, zip int);
CREATE DOMAIN posint AS integer CHECK (VALUE > 0);
CREATE DOMAIN price AS numeric(12,4);
"""

TABLE = "public.types"
FIRST_ID = {SNAPSHOT: 1_000, INSERT: 2_000, UPDATE: 3_000}


Statement = tuple[str, list[Any]]


@dataclass(frozen=True)
class Row:
    """`id` counts from `FIRST_ID[way]`. One column has a value, or (the first rows) all have their typical one, or none."""

    number: int
    values: list[tuple[Column, str | None]]

    def id(self, way: str) -> int:
        return FIRST_ID[way] + self.number


NO_VALUES = Row(0, [])
TYPICAL = Row(1, [(column, column.values[0]) for column in COLUMNS])
CELLS = [Row(number, [cell]) for number, cell in enumerate(((c, v) for c in COLUMNS for v in c.values), 2)]
ROWS = [NO_VALUES, TYPICAL, *CELLS]


def create(source: Source) -> None:
    extra = [f"{c.through} integer" for c in COLUMNS if c.through]
    columns = ", ".join(["id integer PRIMARY KEY", *extra, *(f"{c.name} {c.sql}" for c in COLUMNS)])
    source.run(f"{SCHEMA} CREATE TABLE {TABLE} ({columns})")


def insert(source: Source, way: str) -> None:
    """All rows. Those that get their values by an update hold none before."""
    in_one_transaction(source, [_insert(row.id(way), [] if way == UPDATE else row.values) for row in ROWS])


def update(source: Source) -> None:
    in_one_transaction(source, [_update(row.id(UPDATE), row.values) for row in ROWS if row.values])


def _insert(id_: int, values: list[tuple[Column, str | None]]) -> Statement:
    given: dict[str, Any] = {"id": id_, **{c.name: None for c in COLUMNS if " DEFAULT " in c.sql}, **{c.through or c.name: v for c, v in values}}
    return f"INSERT INTO {TABLE} ({', '.join(given)}) VALUES ({', '.join(['%s'] * len(given))})", list(given.values())


def _update(id_: int, values: list[tuple[Column, str | None]]) -> Statement:
    changes = ", ".join(f"{c.through or c.name} = %s" for c, _ in values)
    return f"UPDATE {TABLE} SET {changes} WHERE id = %s", [*(v for _, v in values), id_]


def in_one_transaction(source: Source, statements: list[Statement]) -> None:
    with closing(source.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN")
        for statement, arguments in statements:
            cursor.execute(statement, arguments)
        cursor.execute("COMMIT")


def printed(source: Source, table: str = TABLE, columns: list[Column] = COLUMNS) -> dict[int, dict[str, Any]]:
    """id -> column -> what PostgreSQL itself prints; an array as a list of that."""
    # format() prints as PostgreSQL's own output does; a cast to text drops the padding of a char(n), and adds /32 to an address.
    texts = ", ".join(f"CASE WHEN {c.name} IS NOT NULL THEN format('%s', {c.name}){'::text[]' if c.is_array else ''} END" for c in columns)
    with closing(source.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SET IntervalStyle = iso_8601")
        cursor.execute(f"SELECT id, {texts} FROM {table}")
        return {id_: dict(zip((c.name for c in columns), values, strict=True)) for id_, *values in cursor.fetchall()}
