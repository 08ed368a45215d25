"""A table under 2,000 upserts a second is compacted, expired and cleaned all the while: nothing fails, nothing grows, and it equals its source.

By firn itself, then by Trino. Two minutes with a round every twenty seconds; with FIRN_E2E_FULL=1 twenty minutes with a round every
minute. FIRN_SOAK_SECONDS says otherwise.
"""

import json
import os
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

from conftest import FULL, Trial
from harness.background import Background
from harness.lake import Lake
from harness.program import Firn
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.waiting import pause, until

SECONDS = int(os.environ.get("FIRN_SOAK_SECONDS", "1200" if FULL else "120"))
EVERY_S = 60 if FULL else 20
#: Of an engine, for what a scan costs in the first half and in the second.
ROUNDS_TO_COMPARE = 8
RATE = 2_000
KEYS = 20_000
COLUMNS = "id, region, version, name"


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
                    "INSERT INTO items SELECT id, id %% 4, 1, 'name ' || id FROM k ON CONFLICT (id) DO UPDATE SET version = items.version + 1; "
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

    #: Since it began.
    commits: int
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


def last_commit(trial: Trial, lake: Lake, name: str) -> int:
    loaded = lake.table(trial.table(name))
    assert loaded is not None
    return loaded.metadata.last_sequence_number


def look(trial: Trial, lake: Lake, name: str, began_at: int) -> Round:
    table = trial.table(name)
    schema, short = table.split(".")
    count = lambda of, where="": lake.sql(f'SELECT count(*) FROM {schema}."{short}${of}"{where}')[0][0]  # noqa: E731
    loaded = lake.table(table)
    assert loaded is not None
    return Round(
        commits=last_commit(trial, lake, name) - began_at,
        data_files=count("files", " WHERE content = 0"),
        delete_files=count("files", " WHERE content <> 0"),
        manifests=count("manifests"),
        snapshots=count("snapshots"),
        metadata_files=sum(path.endswith(".metadata.json") for path in lake.objects(loaded.location())),
        # The best of some: what else the machine does is not the table's cost.
        scan_s=min(scan(lake, table) for _ in range(3)),
    )


def scan(lake: Lake, table: str) -> float:
    began = time.monotonic()
    lake.sql(f"SELECT sum(version), max(name) FROM {table}")
    return time.monotonic() - began


@dataclass(frozen=True)
class Engine:
    """Who does the work, and how often firn commits: Trino's rewrite has to fit between two commits, firn's own does not."""

    commit_interval_ms: int
    words: tuple[str, ...] = ()


ENGINES = [Engine(500), Engine(10_000, ("--engine", "trino"))]


def test_a_table_that_never_rests_stays_as_fast_as_it_was(trial: Trial, lake: Lake) -> None:
    with database(trial.stack, trial.name) as source:
        source.run("CREATE TABLE items (id int PRIMARY KEY, region int NOT NULL, version int NOT NULL, name text)")
        with connector(source, "engagement", trial.name, **{"table.include.list": "public.content,public.items"}) as name:
            table, load = trial.table(), Upserts(source)
            load.start()
            for engine in ENGINES:
                rounds = maintained(trial, lake, load, engine)
                # What is left is of the commits since the round began, in four partitions, and of files too few to be worth it, whatever the
                # number of rounds.
                last = rounds[-1]
                files = 4 * last.commits + 60
                most = {"data_files": files, "delete_files": files, "manifests": 2 * last.commits + 60, "snapshots": last.commits + 60, "metadata_files": 60}
                grown = {what: getattr(last, what) for what, bound in most.items() if getattr(last, what) > bound}
                assert not grown, (engine, grown, rounds)
                # Of few rounds the first ones, with Trino's code cold, would be half.
                first, second = (median(of.scan_s for of in half) for half in (rounds[: len(rounds) // 2], rounds[len(rounds) // 2 :]))
                print(f"{engine}: a scan took {first:.2f} s, later {second:.2f} s")
                assert len(rounds) < ROUNDS_TO_COMPARE or second <= 2 * first, (engine, rounds)
            load.stop()
            print(f"{load.changes} changes in {SECONDS} s")
            with trial.firn(trial.config(trial.topic()), "last") as firn:
                source.wait_until_published(name)
                trial.wait_until_committed(within_s=120)
                assert firn.terminate() == 0, firn.tail()
            assert_same("Trino", lake.sql(f"SELECT {COLUMNS} FROM {table}"), source.run(f"SELECT {COLUMNS} FROM items"))


def maintained(trial: Trial, lake: Lake, load: Upserts, engine: Engine) -> list[Round]:
    """Half of the time with a firn that this engine maintains."""
    table, rounds = trial.table(), []
    properties = {"write.metadata.delete-after-commit.enabled": "true", "write.metadata.previous-versions-max": "20"}
    layout = {"partition_by": ["region"], "commit_interval_ms": engine.commit_interval_ms}
    config = trial.config(trial.topic(), rewind_horizon_ms=10_000, properties=properties, **layout)
    config["maintain"] = {"trino": {"url": trial.stack["FIRN_TRINO_URL"], "catalog": trial.stack["FIRN_TRINO_CATALOG"]}}
    with trial.firn(config, f"commits-every-{engine.commit_interval_ms}") as firn:
        began = time.monotonic()
        until("rows are in the table", lambda: lake.exists(table) and lake.sql(f"SELECT count(*) FROM {table}") != [[0]], 60, then=firn.tail)
        while time.monotonic() - began < SECONDS / 2:
            due = began + EVERY_S * (len(rounds) + 1)
            until("the next round", lambda due=due: time.monotonic() >= due, EVERY_S + 5, every_s=0.5)
            began_at = last_commit(trial, lake, "items")
            compacted = maintain(firn, "compact", table, *engine.words)
            maintain(firn, "expire", table, "--older-than", "20s", *engine.words)
            maintain(firn, "orphans", table, "--delete", "--older-than", "1d", *engine.words)
            rounds.append(look(trial, lake, "items", began_at))
            print(f"{load.changes} changes", rounds[-1], json.dumps(compacted)[:300])
            load.check()
        assert firn.terminate() == 0, firn.tail()
    return rounds
