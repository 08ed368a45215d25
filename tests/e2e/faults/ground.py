"""One topic, one table, one firn: where faults are tried one after another, and the promises looked at after each."""

import base64
import os
import random
import secrets
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, Or
from pyiceberg.manifest import DataFileContent
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from harness.envelopes import Items, item
from harness.lake import checkpoint, positions
from harness.program import Firn
from harness.sameness import assert_same
from harness.topics import Kafka
from harness.waiting import TooLate, until

from .catalogs import Place, plain
from .cells import Cell, absent
from .log import Fold
from .outcome import Seen

BATCH = 40
"""Changes of a batch: as many as end it, so that one batch is one commit."""
KEYS = range(60)
WIDE_BYTES = 250_000
"""Of a row of the batch that is uploaded in parts: the file has to be above 8 MiB after compression."""
MIDDLE = {"poll": 20, "decode": 20}
"""Steps of single records are struck in the middle of a batch."""
OTHER_FILES = 6
"""Manifests, manifest list and metadata of one commit, at most."""

Offsets = dict[int, int]


class Ground:
    def __init__(self, place: Place, mode: str, folder: Path, stall_ms: int) -> None:
        self.place = place
        self.mode = mode
        self.stall_ms = stall_ms
        self.name = f"e2e_faults_{place.catalog.replace('-', '_')}_{mode}_{secrets.token_hex(3)}"
        self.topic = f"{self.name}.public.items"
        self.table_name = f"{self.name}.items"
        self.kafka = Kafka(place.stack.kafka)
        self.items = Items(self.kafka, self.topic)
        self.luck = random.Random(self.name)
        self.fold = Fold(place.stack.kafka, self.topic)
        self.orphans: set[str] = set()
        self.parsed: dict[str, set[str]] = {}
        config = place.config(self.topic, self.name, mode)
        config["kafka"]["workers"] = 1
        # A process that is started again gets its partitions back at once.
        config["kafka"]["properties"]["group.instance.id"] = self.name
        config["lake"] |= {"commit_rows": BATCH, "commit_interval_ms": 3_000}
        config["log"] = {"filter": "info,firn_catalog::commit=debug"}
        folder.mkdir(parents=True, exist_ok=True)
        self.firn = Firn(place.stack, folder, config)
        self.armed = folder / "armed"
        self.firn.environment["FIRN_FAILPOINTS"] = str(self.armed)

    def __enter__(self) -> "Ground":
        self.kafka.create(self.topic, partitions=2)
        self.firn.start()
        for _ in range(2):
            self.send()
            self.wait_until_committed()
        self.check(since={})
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        try:
            if failure is None and self.firn.running():
                assert self.firn.terminate() == 0, self.firn.tail()
                self.check(since={})
        finally:
            self.firn.__exit__()
            self.fold.close()
            if os.environ.get("FIRN_E2E_KEEP") != "1":
                self.kafka.delete(self.topic)
                self.place.drop(self.name)

    def send(self, wide: bool = False) -> None:
        """One batch: updates, inserts, some deletes."""
        gone = self.luck.sample(sorted(self.items.rows), min(3, len(self.items.rows)))
        messages = [self.items.removed(key)[0] for key in gone]
        rows = [item(key, self.luck) for key in self.keys(BATCH - len(gone), wide)]
        for row in rows if wide else []:
            row["name"] = base64.b64encode(self.luck.randbytes(WIDE_BYTES)).decode()
        self.kafka.send(self.topic, messages + [self.items.changed(row) for row in rows])

    def keys(self, count: int, wide: bool) -> list[int]:
        """Wide rows all go to the file: each key once."""
        return self.luck.sample(KEYS, count) if wide else self.luck.choices(KEYS, k=count)

    def table(self) -> Table:
        table = self.place.table(self.table_name)
        assert table is not None, f"{self.table_name} is not there"
        return table

    def stands(self) -> Offsets:
        return positions(checkpoint(self.place.table(self.table_name)), self.topic)

    def is_at_the_end(self) -> bool:
        return self.stands() == {p: end for p, end in self.kafka.ends(self.topic).items() if end}

    def wait_until_committed(self, within_s: float = 90) -> None:
        def committed() -> bool:
            assert self.firn.running(), f"firn has ended\n{self.firn.tail()}"
            return self.is_at_the_end()

        until(f"{self.table_name} holds its topic to the end", committed, within_s, then=self.firn.tail)

    def meet(self, cell: Cell) -> Seen:
        """Strikes once, lets it go on, and checks all promises."""
        seen, before = Seen(), self.kafka.ends(self.topic)
        start = len(self.firn.log())
        action = f"stall({self.stall_ms})" if cell.action == "stall" else cell.action
        self.armed.write_text(f"{cell.step}.{cell.when}={action}@{MIDDLE.get(cell.step, 1)}\n")
        self.send(wide=cell.step == "write-part")
        until(f"{cell} strikes", lambda: self.armed.read_text() == "", 60, then=self.firn.tail)
        seen.died = cell.action == "crash"
        seen.ended = cell.step == "poll" and (cell.action == "error" or (cell.when, cell.action) == ("after", "lost-answer"))
        if seen.died or seen.ended:
            code = self.firn.exit_code(within_s=60)
            assert (code == -9) == seen.died and code != 0, f"exit code {code}\n{self.firn.tail()}"
            seen.landed = self.is_at_the_end()
            seen.locked = self.place.is_locked(self.table_name)
            seen.may_lock = cell.step == "metadata" and absent("lock", cell.mode, cell.catalog) is None
            self.firn.start()
            start = 0
        self.wait_until_committed(self.stall_ms / 1000 + 90)
        # And it goes on working.
        self.send()
        self.wait_until_committed()
        seen.said = self.firn.log()[start:]
        seen.letters = self.check(since=before, letters=cell.step == "decode")
        seen.orphans = self.new_orphans(clean_up_s=0.5 if seen.died else 2)
        assert not seen.orphans or seen.died, f"{cell} leaves {seen.orphans}"
        assert self.firn.running(), self.firn.tail()
        return seen

    def check(self, since: Offsets, letters: bool = False) -> int:
        """The promises of the table, rows of an append table from `since` on. Answers new dead letters."""
        table, ends = self.table(), self.kafka.ends(self.topic)
        rejected = self.rejected(since) if letters else set()
        self.fold.read_to(ends, rejected)
        if self.mode == "upsert":
            rows = table.scan(selected_fields=("id", "name", "quantity")).to_arrow().to_pylist()
            assert_same("the fold of the log", [[r["id"], r["name"], r["quantity"]] for r in rows], self.fold.rows.values())
        else:
            rows = table.scan(row_filter=newer(since), selected_fields=("_firn_partition", "_firn_offset")).to_arrow().to_pylist()
            want = [place for place in self.fold.places if place[1] >= since.get(place[0], 0)]
            assert_same("origins", [[r["_firn_partition"], r["_firn_offset"]] for r in rows], want)
        stored = checkpoint(table)
        assert positions(stored, self.topic) == ends, f"{stored} is not {ends}"
        snapshot = table.current_snapshot()
        assert snapshot is not None and snapshot.summary is not None
        assert "firn.checkpoint" in snapshot.summary.additional_properties, "the last snapshot has no checkpoint"
        until(f"Kafka is told {ends}", lambda: self.told() == ends, 10)
        return len(rejected)

    def told(self) -> Offsets:
        """The group's offsets in Kafka."""
        consumer = Consumer({"bootstrap.servers": self.kafka.bootstrap, "group.id": f"{self.name}.lake"})
        try:
            of = consumer.committed([TopicPartition(self.topic, p) for p in (0, 1)], timeout=20)
            return {p.partition: p.offset for p in of if p.offset >= 0}
        finally:
            consumer.close()

    def rejected(self, since: Offsets) -> set[tuple[int, int]]:
        letters = self.place.table(f"{self.name}.firn_dead_letters")
        if letters is None:
            return set()
        rows = letters.scan(selected_fields=("partition", "offset")).to_arrow().to_pylist()
        return {(r["partition"], r["offset"]) for r in rows if r["offset"] >= since.get(r["partition"], 0)}

    def new_orphans(self, clean_up_s: float) -> list[str]:
        """Files that no snapshot needs, once the clean-up behind the last commit had its time."""
        table = self.table()
        needed, largest = self.needed(table)
        found: set[str] = set()

        def none() -> bool:
            found.clear()
            found.update(self.place.files(table) - needed - self.orphans)
            return not found

        try:
            until("no orphans", none, clean_up_s, every_s=0.25)
        except TooLate:
            assert len(found) <= largest + OTHER_FILES, f"more orphans than one commit has files: {sorted(found)}"
        self.orphans |= found
        return sorted(found)

    def needed(self, table: Table) -> tuple[set[str], int]:
        """What the table's snapshots and metadata name; the most data and delete files that one snapshot added."""
        files = {plain(entry.metadata_file) for entry in table.metadata.metadata_log} | {plain(table.metadata_location)}
        largest = 0
        for snapshot in table.snapshots():
            files |= self.of_snapshot(table, snapshot)
            summary = snapshot.summary.additional_properties if snapshot.summary else {}
            largest = max(largest, int(summary.get("added-data-files", 0)) + int(summary.get("added-delete-files", 0)))
        return files, largest

    def of_snapshot(self, table: Table, snapshot: Snapshot) -> set[str]:
        if snapshot.manifest_list not in self.parsed:
            files = {plain(snapshot.manifest_list)}
            for manifest in snapshot.manifests(table.io):
                path = manifest.manifest_path
                if path not in self.parsed:
                    entries = manifest.fetch_manifest_entry(table.io, discard_deleted=False)
                    assert all(e.data_file.content != DataFileContent.EQUALITY_DELETES for e in entries), "an equality delete"
                    self.parsed[path] = {plain(e.data_file.file_path) for e in entries} | {plain(path)}
                files |= self.parsed[path]
            self.parsed[snapshot.manifest_list] = files
        return self.parsed[snapshot.manifest_list]


def newer(since: Offsets) -> And | Or:
    first, second = (And(EqualTo("_firn_partition", p), GreaterThanOrEqual("_firn_offset", since.get(p, 0))) for p in (0, 1))
    return Or(first, second)
