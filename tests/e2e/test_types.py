"""Every PostgreSQL type in every mode of Debezium: Trino and PyIceberg show what PostgreSQL holds, or there is a stated reason why not.

The rules in `conformance/` are the expectation, and docs/types.md is written from them and from what was seen:
`FIRN_E2E_WRITE_DOCS=1 tests/e2e/run test_types.py` writes it, and any other run fails when it differs.
"""

import difflib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from conformance import page, readers, source as rows
from conformance.columns import COLUMNS
from conformance.expectation import Printed, expected
from conformance.modes import AVRO, BARE, MODES, Mode
from conformance.rules import INSERT, SNAPSHOT, UPDATE
from conformance.readers import Rows
from conftest import Trial
from harness.program import Config
from harness.source import connectors, database
from harness.stack import ROOT
from harness.waiting import until

PAGE = ROOT / "docs" / "types.md"
WAYS = (SNAPSHOT, INSERT, UPDATE)


@dataclass
class Seen:
    """One mode's tables, once everything is committed."""

    types: dict[str, str]
    trino: Rows
    pyiceberg: Rows
    letters: dict[int, str]
    """id -> reason, of the upsert table."""
    records: int
    history: list[list[Any]]
    """id, op and number of the append table's rows."""
    history_letters: list[tuple[int, str]]
    """id and reason."""
    last_of_history: Rows
    """Of each id the last row, by Trino."""


@dataclass
class Matrix:
    printed: Printed
    """What PostgreSQL holds."""
    seen: dict[str, Seen]


@pytest.fixture(scope="module")
def matrix(module_trial: Trial) -> Iterator[Matrix]:
    trial = module_trial
    with ExitStack() as open_:
        source = open_.enter_context(database(trial.stack, trial.name))
        rows.create(source)
        rows.insert(source, SNAPSHOT)
        firns = [trial.firn(config(trial, mode), mode).start() for mode in ("upsert", "append")]
        settings = {prefix(trial, mode): mode.settings() | {"table.include.list": rows.TABLE} for mode in MODES}
        avro = {prefix(trial, mode) for mode in MODES if mode.format == AVRO}
        open_.enter_context(connectors(source, "engagement", settings, avro))
        wait_for_records(trial, len(rows.ROWS))
        rows.insert(source, INSERT)
        rows.insert(source, UPDATE)
        rows.update(source)
        wait_for_records(trial, 4 * len(rows.ROWS) - 1)
        for mode in MODES:
            for table in (mirror(trial, mode), history(trial, mode)):
                trial.wait_until_committed(table, topic(trial, mode))
        for firn in firns:
            assert firn.terminate() == 0, firn.tail()
        yield Matrix(rows.printed(source), {mode.name: look(trial, mode) for mode in MODES})


def prefix(trial: Trial, mode: Mode) -> str:
    return f"{trial.name}_{mode.name}"


def topic(trial: Trial, mode: Mode) -> str:
    return f"{prefix(trial, mode)}.{rows.TABLE}"


def mirror(trial: Trial, mode: Mode) -> str:
    """The upsert table."""
    return trial.table(prefix(trial, mode))


def history(trial: Trial, mode: Mode) -> str:
    """The append table."""
    return f"{mirror(trial, mode)}_history"


def config(trial: Trial, mode: str) -> Config:
    """One firn for all connectors' topics; those without schemas have their columns declared."""
    name = {"upsert": "{prefix}", "append": "{prefix}_history"}[mode]
    made = trial.config(*(topic(trial, m) for m in MODES), mode=mode, table=name)
    made["kafka"]["group"] += f"_{mode}"
    made["dead_letters"] |= {"max_share": 1.0, "table": f"{mode}_letters"}
    made["lake"]["tables"] = [declared(topic(trial, m), m) for m in MODES if m.format == BARE]
    return made


def declared(name: str, mode: Mode) -> dict[str, Any]:
    columns = {"id": "int"} | {c.name: c.in_mode(mode).iceberg for c in COLUMNS if c.in_mode(mode).iceberg}
    # By default Debezium counts ms where the source has no more than three digits.
    return {"topic": name, "columns": columns, "encodings": {"c_time3": "ms", "c_ts0": "ms", "c_ts3": "ms"}}


def wait_for_records(trial: Trial, at_least: int) -> None:
    for mode in MODES:
        until(f"{at_least} records of {mode.name}", lambda: sum(trial.kafka.ends(topic(trial, mode)).values()) >= at_least, 60)


def look(trial: Trial, mode: Mode) -> Seen:
    name, log = mirror(trial, mode), history(trial, mode)
    table = trial.lake.table(name)
    assert table is not None
    letters = letters_of(trial, "upsert", mode)
    assert len(letters) == len(dict(letters)), f"a record became two dead letters: {sorted(letters)}"
    return Seen(
        types={f.name: readers.type_name(f.field_type) for f in table.schema().fields},
        trino=readers.by_trino(trial.lake, name, table),
        pyiceberg=readers.by_pyiceberg(table),
        letters=dict(letters),
        records=sum(trial.kafka.ends(topic(trial, mode)).values()),
        history=trial.lake.sql(f"SELECT id, _firn_op, count(*) FROM {log} GROUP BY id, _firn_op"),
        history_letters=letters_of(trial, "append", mode),
        last_of_history=readers.by_trino(trial.lake, f"{LAST.format(log)}", table),
    )


LAST = "(SELECT *, row_number() OVER (PARTITION BY id ORDER BY _firn_offset DESC) AS age FROM {}) WHERE age = 1"
"""A key stays in its partition."""


def letters_of(trial: Trial, mode: str, of: Mode) -> list[tuple[int, str]]:
    """(id, reason) of each dead letter of a topic."""
    name = trial.table(f"{mode}_letters")
    found = trial.lake.sql(f"SELECT key, reason FROM {name} WHERE topic = '{topic(trial, of)}'") if trial.lake.exists(name) else []
    return [(id_of(key, of), reason) for key, reason in found]


def id_of(key: bytes, mode: Mode) -> int:
    """The key's one field, an int."""
    if mode.format != AVRO:
        fields = json.loads(key)
        return fields.get("payload", fields)["id"]
    zigzag = sum((byte & 0x7F) << 7 * at for at, byte in enumerate(key[5:]))
    return zigzag >> 1


each_mode = pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])


@each_mode
def test_each_column_has_the_type_that_the_matrix_says(matrix: Matrix, mode: Mode) -> None:
    types = {name: kind for name, kind in matrix.seen[mode.name].types.items() if name.startswith(("a_", "c_")) and name != "c_base"}
    assert types == {c.name: c.in_mode(mode).iceberg for c in COLUMNS if c.in_mode(mode).iceberg}


@each_mode
@pytest.mark.parametrize("way", WAYS)
def test_each_value_is_what_the_matrix_says(matrix: Matrix, mode: Mode, way: str) -> None:
    """Rows by snapshot, insert and update; rows with all their values and with none; and no row that PostgreSQL hasn't."""
    seen = matrix.seen[mode.name]
    wrong: list[str] = []
    for id_, want in expected(matrix.printed, mode, way).items():
        if seen.letters.get(id_, "") != want.refused:
            wrong.append(f"{id_}: dead letter {seen.letters.get(id_)!r} and not {want.refused!r}")
        for reader, got in (("Trino", seen.trino), ("PyIceberg", seen.pyiceberg)):
            if (id_ in got) != want.has_row:
                wrong.append(f"{id_}: {reader} has {'a' if id_ in got else 'no'} row")
                continue
            wrong += [
                f"{id_} {name} = {matrix.printed[id_][name]!r}: {reader} shows {got[id_][name]!r} and not {cell.value!r}"
                for name, cell in want.cells.items()
                if got[id_][name] != cell.value
            ]
    assert not wrong, f"{len(wrong)} differences\n" + "\n".join(wrong[:30])


@each_mode
def test_nothing_is_unexplained(matrix: Matrix, mode: Mode) -> None:
    """In both modes of firn: rows and dead letters are together what was sent."""
    seen = matrix.seen[mode.name]
    assert set(seen.trino) == set(seen.pyiceberg)
    assert set(seen.trino) | set(seen.letters) == set(matrix.printed)
    assert sum(count for _, _, count in seen.history) + len(seen.history_letters) == seen.records
    assert sorted(seen.history_letters) == sorted(seen.letters.items())


@each_mode
def test_the_append_table_holds_every_change(matrix: Matrix, mode: Mode) -> None:
    """With the ops that PostgreSQL did; and folded, it is the upsert table."""
    seen = matrix.seen[mode.name]
    wanted = {(row.id(SNAPSHOT), "r") for row in rows.ROWS} | {(row.id(way), "c") for row in rows.ROWS for way in (INSERT, UPDATE)}
    wanted |= {(row.id(UPDATE), "u") for row in rows.ROWS if row.values}
    refused = {(id_, "u" if id_ >= rows.FIRST_ID[UPDATE] else "c" if id_ >= rows.FIRST_ID[INSERT] else "r") for id_ in seen.letters}
    assert sorted((id_, op, count) for id_, op, count in seen.history) == sorted((id_, op, 1) for id_, op in wanted - refused)
    assert seen.last_of_history == seen.trino


def test_the_published_matrix_is_what_was_seen(matrix: Matrix) -> None:
    seen = {mode.name: page.Tables(s.trino, s.pyiceberg) for mode, s in ((m, matrix.seen[m.name]) for m in MODES)}
    text = page.written(matrix.printed, seen)
    if os.environ.get("FIRN_E2E_WRITE_DOCS") == "1":
        PAGE.write_text(text)
    published = PAGE.read_text() if PAGE.exists() else ""
    changes = list(difflib.unified_diff(published.splitlines(), text.splitlines(), "docs/types.md", "seen", lineterm="", n=0))
    assert not changes, "docs/types.md is not what was seen: FIRN_E2E_WRITE_DOCS=1 writes it\n" + "\n".join(changes[:40])
