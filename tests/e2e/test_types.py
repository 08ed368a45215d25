"""Every PostgreSQL type in every mode of Debezium: Trino and PyIceberg show what PostgreSQL holds, or there is a stated reason why not.

The rules in `conformance/` are the expectation, and docs/types.md is written from them and from what was seen:
`FIRN_E2E_WRITE_DOCS=1 tests/e2e/run test_types.py` writes it, and any other run fails when it differs.
"""

import difflib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest

from conformance import inferred, keys, page, readers, source as rows
from conformance.columns import COLUMNS
from conformance.declared import becomes, declared
from conformance.expectation import Printed, expected
from conformance.modes import AVRO, DECLARED, INFERRED, MODES, Mode
from conformance.rules import BY_POLICY, INSERT, SNAPSHOT, UPDATE
from conformance.readers import Rows
from conftest import Trial
from harness.program import Config, free_port
from harness.source import connectors, database
from harness.stack import ROOT
from harness.topics import Sent
from harness.waiting import until

PAGE = ROOT / "docs" / "types.md"
WAYS = (SNAPSHOT, INSERT, UPDATE)


@dataclass
class Mirror:
    """An upsert table."""

    types: dict[str, str]
    tables: page.Tables
    letters: list[tuple[int, str]]
    """id and reason."""
    count: int


@dataclass
class History:
    """An append table."""

    rows: list[list[Any]]
    """id, op and number of the rows with both."""
    last: Rows
    """Of each id the last row, by Trino."""
    letters: list[tuple[int, str]]
    records: int
    """Of the topic."""


@dataclass
class Matrix:
    printed: Printed
    """What PostgreSQL holds."""
    mirrors: dict[str, Mirror]
    histories: dict[str, History]
    infinite_rows: dict[str, float]
    """What firn has counted."""
    bare_records: list[Sent]
    """Without schema."""
    keyed_rows: dict[str, Rows]
    """What PostgreSQL holds in the table whose key has all types, as the mode sends it."""
    keyed: dict[str, Mirror]


@pytest.fixture(scope="module")
def matrix(module_trial: Trial) -> Iterator[Matrix]:
    trial = module_trial
    with ExitStack() as open_:
        source = open_.enter_context(database(trial.stack, trial.name))
        rows.create(source)
        rows.insert(source, SNAPSHOT)
        keys.create(source)
        keys.insert(source)
        firns = [trial.firn(config(trial, name), name).start() for name in FIRNS]
        settings = {prefix(trial, mode): mode.settings() | {"table.include.list": f"{rows.TABLE},{keys.TABLE}"} for mode in MODES}
        avro = {prefix(trial, mode) for mode in MODES if mode.format == AVRO}
        open_.enter_context(connectors(source, "engagement", settings, avro))
        wait_for_records(trial, len(rows.ROWS))
        rows.insert(source, INSERT)
        rows.insert(source, UPDATE)
        rows.update(source)
        keys.change(source)
        wait_for_records(trial, 4 * len(rows.ROWS) - 1)
        wait_for_records(trial, keys.RECORDS, keys.TABLE)
        for name, (_, modes) in FIRNS.items():
            for mode in modes:
                trial.wait_until_committed(table(trial, name, mode), topic(trial, mode))
        for mode in MODES:
            trial.wait_until_committed(table(trial, "keyed", mode), topic(trial, mode, keys.TABLE))
        figures = firns[0].metrics("firn_infinite_rows_total")
        for firn in firns:
            assert firn.terminate() == 0, firn.tail()
        yield Matrix(
            printed=rows.printed(source),
            infinite_rows={mode.name: figures[f'topic="{topic(trial, mode)}"'] for mode in MODES},
            mirrors={m.name: mirror(trial, name, m) for name, (mode, modes) in FIRNS.items() if mode == "upsert" for m in modes},
            histories={mode.name: history(trial, "history", mode) for mode in MODES},
            bare_records=trial.kafka.everything(topic(trial, INFERRED)),
            keyed_rows={mode.name: keys.expected(source, mode) for mode in MODES},
            keyed={mode.name: mirror(trial, "keyed", mode) for mode in MODES},
        )


FIRNS = {"mirror": ("upsert", MODES), "history": ("append", MODES), "again": ("upsert", [*DECLARED, INFERRED])}
"""A process each: its name, its mode, and which tables it writes."""


def prefix(trial: Trial, mode: Mode) -> str:
    return f"{trial.name}_{mode.connector}"


def topic(trial: Trial, mode: Mode, source_table: str = rows.TABLE) -> str:
    return f"{prefix(trial, mode)}.{source_table}"


def table(trial: Trial, firn: str, mode: Mode) -> str:
    return trial.table(f"{firn}_{mode.name}")


def config(trial: Trial, firn: str) -> Config:
    mode, modes = FIRNS[firn]
    made = trial.config(mode=mode)
    made["kafka"]["group"] += f"_{firn}"
    made["registry"] = {"url": trial.stack["FIRN_REGISTRY_URL"]}
    made["dead_letters"] |= {"max_share": 1.0, "table": f"{firn}_letters"}
    made["lake"]["tables"] = [
        {"topic": topic(trial, m), "table": f"{firn}_{m.name}", "columns": declared(m), **m.lake} for m in modes
    ]
    if firn == "mirror":
        made["serve"]["listen"] = f"127.0.0.1:{free_port()}"
        made["lake"]["tables"] += [
            {"topic": topic(trial, m, keys.TABLE), "table": f"keyed_{m.name}", "columns": keys.declared(m), **m.lake} for m in modes
        ]
    return made


def wait_for_records(trial: Trial, at_least: int, source_table: str = rows.TABLE) -> None:
    for mode in MODES:
        of = topic(trial, mode, source_table)
        until(f"{at_least} records in {of}", lambda: sum(trial.kafka.ends(of).values()) >= at_least, 60)


def mirror(trial: Trial, firn: str, mode: Mode) -> Mirror:
    name = table(trial, firn, mode)
    loaded = trial.lake.table(name)
    assert loaded is not None
    return Mirror(
        types={f.name: readers.type_name(f.field_type) for f in loaded.schema().fields},
        tables=page.Tables(readers.by_trino(trial.lake, name, loaded), readers.by_pyiceberg(loaded)),
        letters=letters_of(trial, firn, mode) if firn != "keyed" else [],
        count=trial.lake.sql(f"SELECT count(*) FROM {name}")[0][0],
    )


def history(trial: Trial, firn: str, mode: Mode) -> History:
    name = table(trial, firn, mode)
    loaded = trial.lake.table(name)
    assert loaded is not None
    # A key stays in its partition, so its offsets are the order of its changes.
    last = f"(SELECT *, row_number() OVER (PARTITION BY id ORDER BY _firn_offset DESC) AS age FROM {name}) WHERE age = 1"
    return History(
        rows=trial.lake.sql(f"SELECT id, _firn_op, count(*) FROM {name} GROUP BY id, _firn_op"),
        last=readers.by_trino(trial.lake, last, loaded),
        letters=letters_of(trial, firn, mode),
        records=sum(trial.kafka.ends(topic(trial, mode)).values()),
    )


def letters_of(trial: Trial, firn: str, mode: Mode) -> list[tuple[int, str]]:
    """(id, reason) of each dead letter of a topic."""
    name = trial.table(f"{firn}_letters")
    found = trial.lake.sql(f"SELECT key, reason FROM {name} WHERE topic = '{topic(trial, mode)}'") if trial.lake.exists(name) else []
    return [(id_of(key, mode), reason) for key, reason in found]


def id_of(key: bytes, mode: Mode) -> int:
    """The key's one field, an int."""
    if mode.format != AVRO:
        fields = json.loads(key)
        return fields.get("payload", fields)["id"]
    zigzag = sum((byte & 0x7F) << 7 * at for at, byte in enumerate(key[5:]))
    return zigzag >> 1


def differences(seen: Mirror, want: Rows, ids: Iterable[int] = ()) -> list[str]:
    """The first of them, cell by cell; in the rows `ids`, or in all."""
    found: list[str] = []
    for reader, got in (("Trino", seen.tables.trino), ("PyIceberg", seen.tables.pyiceberg)):
        for id_ in ids or sorted(got.keys() | want.keys()):
            if (id_ in got) != (id_ in want):
                found.append(f"{id_}: {reader} has {'a' if id_ in got else 'no'} row")
            elif id_ in got:
                found += [f"{id_} {c}: {reader} shows {got[id_].get(c)!r} and not {must!r}" for c, must in want[id_].items() if got[id_].get(c) != must]
    return found[:30]


each_mode = pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])
each_mirror = pytest.mark.parametrize("mode", MODES + DECLARED, ids=[mode.name for mode in MODES + DECLARED])


@each_mirror
def test_each_column_has_the_type_that_the_matrix_says(matrix: Matrix, mode: Mode) -> None:
    types = {name: kind for name, kind in matrix.mirrors[mode.name].types.items() if name.startswith(("a_", "c_")) and name != "c_base"}
    assert types == {c.name: kind for c in COLUMNS if (kind := becomes(c, mode).iceberg)}


@each_mirror
@pytest.mark.parametrize("way", WAYS)
def test_each_value_is_what_the_matrix_says(matrix: Matrix, mode: Mode, way: str) -> None:
    """Rows by snapshot, insert and update; rows with all their values and with none; and no row that PostgreSQL hasn't."""
    seen = matrix.mirrors[mode.name]
    want = expected(matrix.printed, mode, way)
    assert not differences(seen, {id_: {c: cell.value for c, cell in row.cells.items()} for id_, row in want.items() if row.has_row}, want)
    assert {id_: reason for id_, reason in seen.letters if id_ in want} == {id_: row.refused for id_, row in want.items() if row.refused}


@each_mirror
def test_rows_and_dead_letters_are_what_postgresql_holds(matrix: Matrix, mode: Mode) -> None:
    seen = matrix.mirrors[mode.name]
    assert set(seen.tables.trino) == set(seen.tables.pyiceberg)
    assert set(seen.tables.trino) | {id_ for id_, _ in seen.letters} == set(matrix.printed)
    assert len(seen.letters) == len({id_ for id_, _ in seen.letters}), "a record became two dead letters"
    assert seen.count == len(seen.tables.trino), "an id has more than one row"


@each_mode
def test_infinite_values_are_counted(matrix: Matrix, mode: Mode) -> None:
    of_ways = (expected(matrix.printed, mode, way).values() for way in WAYS)
    infinite = sum(any(cell.note.endswith(BY_POLICY) for cell in row.cells.values()) for rows_ in of_ways for row in rows_)
    assert matrix.infinite_rows[mode.name] == infinite > 0


@each_mode
def test_the_append_table_holds_every_change(matrix: Matrix, mode: Mode) -> None:
    """With the ops that PostgreSQL did; rows and dead letters are all records; and folded, it is the upsert table."""
    seen, letters = matrix.histories[mode.name], matrix.mirrors[mode.name].letters
    assert sorted(seen.letters) == sorted(letters)
    assert sum(count for _, _, count in seen.rows) + len(letters) == seen.records
    wanted = {(row.id(SNAPSHOT), "r") for row in rows.ROWS} | {(row.id(way), "c") for row in rows.ROWS for way in (INSERT, UPDATE)}
    wanted |= {(row.id(UPDATE), "u") for row in rows.ROWS if row.values}
    refused = {(id_, "u" if id_ >= rows.FIRST_ID[UPDATE] else "c" if id_ >= rows.FIRST_ID[INSERT] else "r") for id_, _ in letters}
    assert sorted((id_, op, count) for id_, op, count in seen.rows) == sorted((id_, op, 1) for id_, op in wanted - refused)
    assert seen.last == matrix.mirrors[mode.name].tables.trino


def test_inferred_types_hold_what_the_records_hold(matrix: Matrix) -> None:
    seen = matrix.mirrors[INFERRED.name]
    sent = inferred.last_rows(matrix.bare_records)
    kinds = inferred.kinds(sent[rows.TYPICAL.id(SNAPSHOT)])
    assert {name: kind for name, kind in seen.types.items() if not name.startswith("_firn")} == kinds
    want = {id_: {name: inferred.shown(row.get(name), kind) for name, kind in kinds.items()} for id_, row in sent.items()}
    assert seen.letters == []
    assert not differences(seen, want)


@each_mode
def test_a_row_is_found_by_a_key_of_any_type(matrix: Matrix, mode: Mode) -> None:
    seen = matrix.keyed[mode.name]
    assert not differences(seen, matrix.keyed_rows[mode.name])
    assert seen.count == len(seen.tables.trino), "a key has more than one row"


def test_the_published_matrix_is_what_was_seen(matrix: Matrix) -> None:
    text = page.written(matrix.printed, {name: seen.tables for name, seen in matrix.mirrors.items()})
    if os.environ.get("FIRN_E2E_WRITE_DOCS") == "1":
        PAGE.write_text(text)
    published = PAGE.read_text() if PAGE.exists() else ""
    changes = list(difflib.unified_diff(published.splitlines(), text.splitlines(), "docs/types.md", "seen", lineterm="", n=0))
    assert not changes, "docs/types.md is not what was seen: FIRN_E2E_WRITE_DOCS=1 writes it\n" + "\n".join(changes[:40])
