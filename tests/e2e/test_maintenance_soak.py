"""A table under 2,000 upserts a second is compacted, expired and cleaned all the while: nothing fails, nothing grows, and it equals its source.

Two minutes with a round every twenty seconds; with FIRN_E2E_FULL=1 twenty minutes with a round every minute. FIRN_SOAK_SECONDS says otherwise.
"""

import json
import os
import time
from dataclasses import dataclass
from typing import Any

import pytest

from conftest import FULL, Trial
from harness.background import Background
from harness.lake import Lake
from harness.program import Firn
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.waiting import pause, until

SECONDS = int(os.environ.get("FIRN_SOAK_SECONDS", "1200" if FULL else "120"))
EVERY_S = 60 if FULL else 20
RATE = 2_000
KEYS = 20_000
COLUMNS = "id, version, name"


class Upserts(Background):
    """Transactions of a hundred changes over uniform keys, one in ten a delete, until it is told to stop."""

    def __init__(self, source: Source) -> None:
        super().__init__("upserts")
        self.source = source
        self.changes = 0
        self.over = False

    def work(self) -> None:
        opened = self.source.connect()
        began = time.monotonic()
        with opened.cursor() as c:
            while not self.over:
                c.execute(
                    "BEGIN; WITH k AS (SELECT DISTINCT (random() * %s)::int AS id FROM generate_series(1, 90)) "
                    "INSERT INTO items SELECT id, 1, 'name ' || id FROM k ON CONFLICT (id) DO UPDATE SET version = items.version + 1; "
                    "DELETE FROM items WHERE id IN (SELECT (random() * %s)::int FROM generate_series(1, 10)); COMMIT",
                    (KEYS, KEYS),
                )
                self.changes += 100
                pause(max(0.0, self.changes / RATE - (time.monotonic() - began)))
        opened.close()

    def stop(self) -> None:
        self.over = True
        self.finished()


@dataclass
class Round:
    """What a table has after one."""

    data_files: int
    delete_files: int
    manifests: int
    snapshots: int
    metadata_files: int
    scan_s: float


def maintain(firn: Firn, *arguments: str) -> Any:
    done = firn.command("maintain", *arguments, "--output", "json", within_s=300)
    assert done.returncode == 0, f"maintain {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return json.loads(done.stdout)


def look(trial: Trial, lake: Lake, name: str) -> Round:
    table = trial.table(name)
    schema, short = table.split(".")
    count = lambda of, where="": lake.sql(f'SELECT count(*) FROM {schema}."{short}${of}"{where}')[0][0]  # noqa: E731
    began = time.monotonic()
    lake.sql(f"SELECT sum(version), max(name) FROM {table}")
    scan_s = time.monotonic() - began
    loaded = lake.table(table)
    assert loaded is not None
    return Round(
        data_files=count("files", " WHERE content = 0"),
        delete_files=count("files", " WHERE content <> 0"),
        manifests=count("manifests"),
        snapshots=count("snapshots"),
        metadata_files=sum(path.endswith(".metadata.json") for path in lake.objects(loaded.location())),
        scan_s=scan_s,
    )


@pytest.mark.parametrize("engine", ["embedded"])
def test_a_table_that_never_rests_stays_as_fast_as_it_was(trial: Trial, lake: Lake, engine: str) -> None:
    with database(trial.stack, trial.name) as source:
        source.run("CREATE TABLE items (id int PRIMARY KEY, version int NOT NULL, name text)")
        with connector(source, "engagement", trial.name, **{"table.include.list": "public.content,public.items"}) as name:
            properties = {"write.metadata.delete-after-commit.enabled": "true", "write.metadata.previous-versions-max": "20"}
            config = trial.config(trial.topic(), rewind_horizon_ms=10_000, properties=properties)
            firn = trial.firn(config)
            table, rounds = trial.table(), []
            load = Upserts(source)
            with firn.start():
                load.start()
                began = time.monotonic()
                until("rows are in the table", lambda: lake.exists(table) and lake.sql(f"SELECT count(*) FROM {table}") != [[0]], 60, then=firn.tail)
                while time.monotonic() - began < SECONDS:
                    due = began + EVERY_S * (len(rounds) + 1)
                    until("the next round", lambda due=due: time.monotonic() >= due, EVERY_S + 5, every_s=0.5)
                    compacted = maintain(firn, "compact", table)
                    maintain(firn, "expire", table, "--older-than", "20s")
                    maintain(firn, "orphans", table, "--delete", "--older-than", "1d")
                    rounds.append(look(trial, lake, "items"))
                    print(f"{load.changes} changes", rounds[-1], json.dumps(compacted)[:200])
                    load.check()
                load.stop()
                source.wait_until_published(name)
                trial.wait_until_committed(within_s=120)
                assert firn.terminate() == 0, firn.tail()
            print(f"{load.changes} changes in {SECONDS} s")
            assert_same("Trino", lake.sql(f"SELECT {COLUMNS} FROM {table}"), source.run(f"SELECT {COLUMNS} FROM items"))
            # A commit or two for each half second of a round, whatever the number of rounds.
            first, last = rounds[0], rounds[-1]
            most = {"data_files": 40, "delete_files": 40, "manifests": 60, "snapshots": 150, "metadata_files": 60}
            grown = {what: (getattr(first, what), getattr(last, what)) for what, bound in most.items() if getattr(last, what) > bound}
            assert not grown, (grown, rounds)
