"""Row lineage of format v3, read by Spark: each row keeps its `_row_id` as long as its key lives, over updates, restarts, a lost index,
two processes, manifests written anew and compactions by Spark and by firn; no two rows have one.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from conftest import Trial
from harness.envelopes import Items, item, items
from harness.program import Firn
from harness.sameness import assert_same
from harness.spark import spark

KEYS = range(900)


@dataclass(frozen=True)
class Moment:
    """A snapshot, what it has to hold, and which keys were changed or deleted since the moment before it, whatever came back since."""

    snapshot: int
    sequence_number: int
    rows: list[list[Any]]
    updated: set[int]
    gone: set[int]

    @classmethod
    def now(cls, trial: Trial, source: Items, updated: set[int], gone: set[int] = frozenset()) -> "Moment":
        table = trial.lake.table(trial.table())
        assert table is not None
        snapshot = table.current_snapshot()
        assert snapshot is not None and snapshot.sequence_number is not None
        return cls(snapshot.snapshot_id, snapshot.sequence_number, source.expected(), set(updated), set(gone))


@dataclass
class Lineage:
    """What Spark said of the rows so far, moment by moment."""

    trial: Trial
    ids: dict[int, int] = field(default_factory=dict)
    changed_in: dict[int, int] = field(default_factory=dict)

    def sql(self, snapshot: int | None = None) -> str:
        at = f" VERSION AS OF {snapshot}" if snapshot else ""
        return f"SELECT id, name, quantity, _row_id, _last_updated_sequence_number FROM lake.{self.trial.table()}{at}"

    def check(self, moment: Moment, rows: Sequence[Sequence[Any]]) -> None:
        assert_same("Spark", [row[:3] for row in rows], moment.rows)
        assert not [row for row in rows if row[3] is None or row[4] is None], "a row without lineage"
        ids = {row[0]: row[3] for row in rows}
        numbers = {row[0]: row[4] for row in rows}
        assert len(set(ids.values())) == len(ids), "two rows have one id"
        for key, id_ in ids.items():
            if key not in self.ids or key in moment.gone:
                assert id_ not in self.ids.values(), f"key {key} is new, and has the row id {id_} of another"
                continue
            assert id_ == self.ids[key], f"key {key} had the row id {self.ids[key]}, and has {id_}"
            before = self.changed_in[key]
            if key in moment.updated:
                assert before < numbers[key] <= moment.sequence_number, f"key {key} was changed, and went from {before} to {numbers[key]}"
            else:
                assert numbers[key] == before, f"key {key} was not changed, and went from {before} to {numbers[key]}"
        self.ids, self.changed_in = ids, numbers


def put(source: Items, keys: list[int], seed: int) -> set[int]:
    source.put(item(key, random.Random(key * 1000 + seed)) for key in keys)
    return set(keys)


def test_a_row_keeps_its_id_through_everything(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=3)
    source = Items(trial.kafka, trial.topic())
    # A commit's manifest has several files, and is written anew when one of them goes: the others are carried then.
    config = trial.config(trial.topic(), format_version=3, partition_by=["bucket(4, id)"])
    config["kafka"]["workers"] = 1
    first, second = trial.firn(config, "first"), trial.firn(config, "second")
    luck = random.Random(7)
    moments: list[Moment] = []
    source.put(items(KEYS))
    with first:
        trial.wait_until_committed()
        moments.append(Moment.now(trial, source, set()))

        # Several commits: rows change more than once, some go, some go and come back.
        updated, gone = set(), set(luck.sample(KEYS, 60))
        for seed in range(1, 6):
            updated |= put(source, luck.sample(sorted(set(KEYS) - gone), 150), seed)
            trial.wait_until_committed()
        source.remove(gone)
        updated |= put(source, sorted(gone)[::2], 9)
        trial.wait_until_committed()
        moments.append(Moment.now(trial, source, updated, gone))
        first.kill()

    # Killed; the index is kept, then lost. Two processes, one of them killed: keys move between them.
    for lost in (False, True):
        updated = set()
        if lost:
            first.forget_index()
        with first:
            updated |= put(source, luck.sample(sorted(source.rows), 150), 20 + lost)
            trial.wait_until_committed()
            second.start()
            second.wait_until_it_says("reading", within_s=60)
            for seed in range(30, 33):
                updated |= put(source, luck.sample(sorted(source.rows), 150), seed + 10 * lost)
                trial.wait_until_committed()
            second.kill()
            updated |= put(source, luck.sample(sorted(source.rows), 150), 50 + lost)
            trial.wait_until_committed()
            assert first.terminate() == 0, first.tail()
        moments.append(Moment.now(trial, source, updated))

    # Spark reads all that, rewrites all files and keeps the ids in them; firn goes on from those.
    lineage = Lineage(trial)
    *read, [[carried]], _, rewritten = spark(
        *(lineage.sql(moment.snapshot) for moment in moments),
        f"SELECT count(*) FROM lake.{trial.table()}.all_entries WHERE status = 0 AND data_file.content = 0",
        f"CALL lake.system.rewrite_data_files(table => '{trial.table()}', options => map('rewrite-all', 'true'))",
        lineage.sql(),
    )
    for moment, rows in zip(moments, read, strict=True):
        lineage.check(moment, rows)
    assert carried > 0, "no manifest with several files was written anew"
    lineage.check(Moment.now(trial, source, set()), rewritten)
    with first:
        updated = put(source, luck.sample(sorted(source.rows), 300), 60)
        trial.wait_until_committed()
        assert first.terminate() == 0, first.tail()
    changed = Moment.now(trial, source, updated)

    # And firn rewrites them, without the rows that deletion vectors took: all that stay keep their ids and their ages.
    compacted = first.command("maintain", "compact", trial.table(), "--min-files", "2", "--output", "json")
    assert compacted.returncode == 0, compacted.stderr
    [report] = json.loads(compacted.stdout)
    assert report["files_after"] < report["files_before"] and report["deleted_rows"] > 0, report
    of_changed, of_compacted = spark(lineage.sql(changed.snapshot), lineage.sql())
    lineage.check(changed, of_changed)
    lineage.check(Moment.now(trial, source, set()), of_compacted)
    assert_same("PyIceberg", pyiceberg_rows(trial), source.expected())
    for report in verified(first, trial):
        assert (report["missing"], report["misplaced"], report["misnumbered"]) == (0, 0, 0), report
    done = first.command("table", "show", trial.table(), "--output", "json")
    shown = json.loads(done.stdout)
    assert (shown["format_version"], shown["size"]["rows"]) == (3, len(source.expected())), shown
    assert "deletion vectors" in first.command("check").stdout, "readers are not warned of"


def pyiceberg_rows(trial: Trial) -> list[list[Any]]:
    table = trial.lake.table(trial.table())
    assert table is not None
    return [list(row.values()) for row in table.scan(selected_fields=("id", "name", "quantity")).to_arrow().to_pylist()]


def verified(firn: Firn, trial: Trial) -> list[dict[str, Any]]:
    done = firn.command("index", "verify", trial.table(), "--output", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
