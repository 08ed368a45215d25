"""The embedded default: a SQLite catalog and local files, read by PyIceberg and by DuckDB."""

import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.table import Table

from conftest import Trial
from harness.envelopes import Items, item, items
from harness.lake import checkpoint, positions
from harness.program import sqlite_config
from harness.sameness import assert_same
from harness.waiting import until


def embedded_table(trial: Trial) -> Table | None:
    if not (trial.folder / "catalog.db").exists():
        return None
    catalog = SqlCatalog("firn", uri=f"sqlite:///{trial.folder / 'catalog.db'}", warehouse=str(trial.folder / "warehouse"), init_catalog_tables="false")
    try:
        return catalog.load_table(trial.table())
    except NoSuchTableError:
        return None
    finally:
        catalog.engine.dispose()


def embedded_rows(trial: Trial) -> list[tuple[Any, ...]]:
    table = embedded_table(trial)
    if table is None:
        return []
    arrow = table.scan(selected_fields=("id", "name", "quantity")).to_arrow()
    return list(zip(*(arrow.column(c).to_pylist() for c in ("id", "name", "quantity")), strict=True))


def with_iceberg() -> duckdb.DuckDBPyConnection:
    """DuckDB with its Iceberg extension from PyPI, since its own download site may not be reachable."""
    connection = duckdb.connect()
    for name in ("avro", "iceberg"):
        spec = find_spec(f"duckdb_extension_{name}")
        if spec is None or spec.origin is None:
            pytest.skip(f"duckdb_extension_{name} is not installed")
        [file] = Path(spec.origin).parent.rglob(f"{name}.duckdb_extension")
        connection.execute(f"LOAD '{file}'")
    return connection


def test_sqlite_and_local_files(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(500)))
    config = sqlite_config(trial.stack, trial.folder, topics=[trial.topic()], namespace=trial.name, group=trial.name)
    with trial.firn(config) as firn:
        until("the first rows", lambda: embedded_rows(trial), 60, then=firn.tail)
        source.put(item(key, random.Random(key + 1)) for key in range(0, 600, 3))
        source.remove(range(0, 500, 5))

        def committed() -> bool:
            stands = positions(checkpoint(embedded_table(trial)), trial.topic())
            return stands == {p: end for p, end in trial.kafka.ends(trial.topic()).items() if end}

        until("all of it is committed", committed, 60)
        assert firn.terminate() == 0, firn.tail()
    assert_same("PyIceberg", embedded_rows(trial), source.expected())
    table = embedded_table(trial)
    assert table is not None
    found = with_iceberg().execute(f"SELECT id, name, quantity FROM iceberg_scan('{table.metadata_location.removeprefix('file://')}')").fetchall()
    assert_same("DuckDB", found, source.expected())
    answer = firn.command("query", f"SELECT count(*) AS n FROM {trial.table()}", "--output", "json")
    assert answer.returncode == 0, answer.stderr
    assert str(len(source.rows)) in answer.stdout, answer.stdout
