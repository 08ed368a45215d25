"""Airflow's DAGs keep the tables: triggered by the REST API, a task a table, and a broken table is one red task that says why."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from conftest import Trial
from harness.airflow import Airflow
from harness.lake import Lake, bare
from harness.program import binary

FILES = 8


@contextmanager
def airflow_of(trial: Trial) -> Iterator[Airflow]:
    firn = trial.firn(trial.config(trial.topic()))
    by_hand = {f"FIRN_{name}_SCHEDULE": "" for name in ("COMPACT", "EXPIRE", "ORPHANS", "CHECK")}
    environment = {**firn.environment, **by_hand, "FIRN_BIN": binary(), "FIRN_CONFIG": str(firn.file)}
    with Airflow(trial.stack, **environment) as airflow:
        yield airflow


def files(lake: Lake, table: str) -> list[str]:
    namespace, name = table.split(".")
    return [path for [path] in lake.sql(f"SELECT file_path FROM {namespace}.\"{name}$files\" ORDER BY 1")]


@pytest.fixture
def tables(trial: Trial, lake: Lake) -> list[str]:
    """Of many small files each."""
    made = [trial.table(name) for name in ("orders", "customers")]
    lake.sql(f"CREATE SCHEMA IF NOT EXISTS {trial.name}")
    for table in made:
        lake.sql(f"CREATE TABLE {table} (id bigint, name varchar)")
        for n in range(FILES):
            lake.sql(f"INSERT INTO {table} VALUES ({n}, 'name {n}')")
    return made


def test_compaction_of_all_tables_goes_green_and_a_broken_one_is_red_alone(trial: Trial, lake: Lake, tables: list[str]) -> None:
    orders, customers = tables
    assert len(files(lake, orders)) == FILES
    with airflow_of(trial) as airflow:
        state, tasks = airflow.run("firn_compact", within_s=180, tables=tables)
        assert state == "success", {name: (t["state"], airflow.log(t)) for name, t in tasks.items()}
        assert tasks[orders]["state"] == tasks[customers]["state"] == "success"
        for table in tables:
            assert len(files(lake, table)) == 1
            assert lake.sql(f"SELECT id, name FROM {table} ORDER BY id") == [[n, f"name {n}"] for n in range(FILES)]

        for table in tables:
            for n in range(FILES):
                lake.sql(f"INSERT INTO {table} VALUES ({FILES + n}, 'more')")
        lost = files(lake, orders)[0]
        lake.files.delete_file(bare(lost))
        state, tasks = airflow.run("firn_compact", within_s=180, tables=tables)
        ended = {name: task["state"] for name, task in tasks.items()}
        assert state == "failed" and ended == {"tables": "success", orders: "failed", customers: "success"}, ended
        assert tasks[orders]["try_number"] == 1, "what needs a person is not tried again"
        assert lost.rsplit("/", 1)[-1] in airflow.log(tasks[orders])
        assert len(files(lake, customers)) == 1


def test_expiry_orphans_and_checks_go_green(trial: Trial, lake: Lake, tables: list[str]) -> None:
    with airflow_of(trial) as airflow:
        for dag in ("firn_expire", "firn_orphans", "firn_check"):
            state, tasks = airflow.run(dag, within_s=180, tables=tables)
            assert state == "success", (dag, {name: (t["state"], airflow.log(t)) for name, t in tasks.items()})
            assert set(tables) < set(tasks)
    for table in tables:
        assert lake.sql(f"SELECT count(*) FROM {table}") == [[FILES]]
