"""Tables that are there already and don't fit: named, left as they are, and no hindrance to the others."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from conftest import Trial
from harness.envelopes import Items, items
from harness.sameness import assert_same


class Case(NamedTuple):
    name: str
    prepare: Callable[[Trial], object]
    words: tuple[str, ...]


def other_type(trial: Trial) -> object:
    return trial.lake.sql(f"CREATE TABLE {trial.table()} (id bigint, name varchar, quantity date)")


def not_iceberg(trial: Trial) -> object:
    return trial.lake.sql(f"CREATE VIEW {trial.table()} AS SELECT 1 AS id")


CASES = [
    Case("a column of another type", other_type, ("quantity", "date", "int")),
    Case("not an Iceberg table", not_iceberg, ("not an iceberg table",)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_table_that_does_not_fit_stops_alone(trial: Trial, case: Case) -> None:
    trial.lake.sql(f"CREATE SCHEMA {trial.name} WITH (location = 's3://{trial.stack.bucket}/{trial.name}')")
    case.prepare(trial)
    for table in ("items", "others"):
        trial.kafka.create(trial.topic(table))
    Items(trial.kafka, trial.topic()).put(items(range(50)))
    others = Items(trial.kafka, trial.topic("others"))
    others.put(items(range(50)))
    with trial.firn(trial.config(trial.topic(), trial.topic("others"))) as firn:
        firn.wait_until_it_says("stopped", trial.table(), *case.words)
        trial.wait_until_committed("others")
        assert_same("the other table", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table('others')}"), others.expected())
        assert firn.running(), firn.tail()


def test_a_table_that_fits_is_taken_over(trial: Trial) -> None:
    """Made by Trino beforehand, with a column more than the records have."""
    trial.lake.sql(f"CREATE SCHEMA {trial.name} WITH (location = 's3://{trial.stack.bucket}/{trial.name}')")
    trial.lake.sql(f"CREATE TABLE {trial.table()} (id bigint NOT NULL, note varchar, name varchar, quantity integer)")
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(50)))
    with trial.firn(trial.config(trial.topic())):
        trial.wait_until_committed()
        rows = trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()} WHERE note IS NULL")
        assert_same("Trino", rows, source.expected())
