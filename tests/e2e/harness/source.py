"""PostgreSQL, the source: a database of its own for each test, and the connectors that read it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT, connection

from .connect import Connect
from .stack import ROOT, Stack, stack
from .waiting import until

TABLES: dict[str, list[str]] = {
    "inventory.customers": ["id", "first_name", "last_name", "email", "created_at"],
    "inventory.addresses": ["id", "customer_id", "street", "city", "state", "zip", "type"],
    "inventory.products": ["id", "sku", "name", "description", "weight", "price", "attributes"],
    "inventory.orders": ["id", "order_number", "customer_id", "status", "order_date", "total", "placed_at", "updated_at"],
    "inventory.order_items": ["order_id", "line_no", "product_id", "quantity", "unit_price"],
    "public.content": ["id", "slug", "title", "content_type", "length_seconds", "publish_ts"],
    "public.engagement_events": ["id", "content_id", "user_id", "event_type", "event_ts", "duration_ms", "device", "raw_payload"],
}
"""The five inventory tables and the two engagement tables, columns in the source's order."""

KEYS: dict[str, list[str]] = {name: ["id"] for name in TABLES} | {"inventory.order_items": ["order_id", "line_no"]}


class Source:
    """One database with the tables of deploy/postgres/source.sql."""

    def __init__(self, stack_: Stack, database: str) -> None:
        self.stack = stack_
        self.database = database

    def url(self, port: int | str = "", password: str = "${FIRN_PG_PASSWORD}") -> str:
        """For `[source] url`."""
        env = self.stack
        return f"postgres://{env['FIRN_PG_USER']}:{password}@{env['FIRN_PG_HOST']}:{port or env['FIRN_PG_PORT']}/{self.database}"

    def connect(self, database: str | None = None) -> connection:
        env = self.stack
        opened = psycopg2.connect(
            host=env["FIRN_PG_HOST"], port=env["FIRN_PG_PORT"], user=env["FIRN_PG_USER"], password=env["FIRN_PG_PASSWORD"],
            dbname=database or self.database, options="-c timezone=UTC",
        )  # fmt: skip
        opened.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
        return opened

    def run(self, statement: str, arguments: tuple[Any, ...] = (), database: str | None = None) -> list[tuple[Any, ...]]:
        opened = self.connect(database)
        try:
            with opened.cursor() as cursor:
                cursor.execute(statement, arguments or None)
                return cursor.fetchall() if cursor.description else []
        finally:
            opened.close()

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """All rows. JSON comes as PostgreSQL's own text, which is what Debezium sends."""
        columns = ", ".join(f"{c}::text" if c in ("attributes", "raw_payload") else c for c in TABLES[table])
        return self.run(f"SELECT {columns} FROM {table}")

    def wait_until_published(self, connector: str, within_s: float = 120) -> None:
        """Until everything that is committed now has reached Kafka, by the connector's own acknowledgement to PostgreSQL.

        Two changes of nothing give it something to acknowledge: the second one's position lies behind the first one's end.
        """
        table, column = ("public.content", "title") if connector.startswith("engagement") else ("inventory.products", "name")
        touch = f"UPDATE {table} SET {column} = {column} WHERE id = (SELECT id FROM {table} ORDER BY id LIMIT 1)"
        self.run(touch)
        [(end,)] = self.run("SELECT pg_current_wal_lsn()::text")
        self.run(touch)
        passed = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        slot = "firn_" + connector.replace("-", "_")
        runs = Connect(self.stack, connector)
        until(f"{connector} has published up to {end}", lambda: self.run(passed, (end, slot)) == [(True,)], within_s, then=runs.failure)


@contextmanager
def database(stack_: Stack, name: str) -> Iterator[Source]:
    """Makes it, and drops it at the end."""
    source = Source(stack_, name)
    admin = stack_["FIRN_PG_DATABASE"]
    source.run(f"CREATE DATABASE {name}", database=admin)
    try:
        source.run((ROOT / "deploy" / "postgres" / "source.sql").read_text())
        yield source
    finally:
        source.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", database=admin)


@contextmanager
def connector(source: Source, template: str, prefix: str, *, avro: bool = False, again: str = "", **settings: str) -> Iterator[str]:
    """Registers deploy/connect/TEMPLATE-connector.json under a name of its own; its topics begin with `prefix`. JSON, or Avro.
    With `again` it is another connector for the same topics, to be registered when the one before is gone.

    Two connectors of one prefix don't work: Debezium names its metrics after it, and the second one waits a minute, then fails.
    """
    name = f"{template}-{prefix}{again}"
    changed = {"topic.prefix": prefix, "database.dbname": source.database, **settings}
    formats = ["--avro"] if avro else []
    stack("connector", template, "--as", name, *formats, *(w for k, v in changed.items() for w in ("--set", f"{k}={v}")), within_s=180)
    try:
        yield name
    finally:
        stack("connector-delete", name, within_s=120)


@contextmanager
def connectors(source: Source, template: str, settings: dict[str, dict[str, str]], avro: set[str]) -> Iterator[None]:
    """Several at once, by their prefixes; those named in `avro` send Avro. What began is ended, also where another one failed."""
    begun: list[AbstractContextManager[str]] = []

    def begin(prefix: str) -> None:
        one = connector(source, template, prefix, avro=prefix in avro, **settings[prefix])
        one.__enter__()
        begun.append(one)

    with ThreadPoolExecutor(len(settings)) as pool:
        try:
            list(pool.map(begin, settings))
            yield
        finally:
            list(pool.map(lambda one: one.__exit__(None, None, None), begun))
