"""`firn maintain compact` beside a firn that writes, struck by a fault: what came of it, and the page that tells it."""

import json
import os
import subprocess
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

from pyiceberg.table import Table

from harness.program import binary
from harness.waiting import until

from .catalogs import plain
from .cells import ACTIONS, CATALOGS, WHENS
from .cells import STEPS as WRITER_STEPS
from .ground import Ground

STEPS = {step: WRITER_STEPS[step] for step in ("open-file", "close-file", "manifest", "manifest-list", "metadata", "lock", "swap", "unlock")}
STEPS["delete-file"] = "Rows that the writer deleted while their files were rewritten are deleted from the new files."
PLACES = ("sql", "hive")
HOLD_MS = 3_000
"""The compaction waits so long before its first file, for the writer to delete rows meanwhile."""

COMPACTED = "is compacted"
BEFORE = "is as before"
KILLED = "killed, "
ORPHANS = " *"
NO_STEP = "no such step"


class Cell(NamedTuple):
    step: str
    when: str
    action: str
    catalog: str

    def __str__(self) -> str:
        return f"{self.step}.{self.when}={self.action}, {self.catalog}"


def is_absent(step: str, catalog: str) -> bool:
    """Without the metastore's lock a commit is guarded by the comparison alone."""
    return step in ("lock", "unlock") and catalog != "hive"


ALL = [Cell(*names) for names in product(STEPS, WHENS, ACTIONS, PLACES) if not is_absent(names[0], names[3])]


class CompactedGround(Ground):
    """A firn that writes an upsert table, and compactions of it that are struck."""

    def compact(self, armed: Path | None) -> "subprocess.Popen[str]":
        environment = self.firn.environment | ({"FIRN_FAILPOINTS": str(armed)} if armed else {})
        words = [binary(), "maintain", "compact", self.table_name, "--min-files", "2", "--output", "json", "-c", str(self.firn.file)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def strike(self, cell: Cell) -> str:
        """Strikes once, compacts again, writes on, and checks all promises. Answers what came of it."""
        for _ in range(2):
            self.send()
            self.wait_until_committed()
        before = self.compactions()
        armed = self.armed.with_name("armed-compaction")
        action = f"stall({self.stall_ms})" if cell.action == "stall" else cell.action
        meanwhile = cell.step == "delete-file"
        hold = f"open-file.before=stall({HOLD_MS})\n" if meanwhile else ""
        armed.write_text(f"{hold}{cell.step}.{cell.when}={action}\n")
        process = self.compact(armed)
        if meanwhile:
            until(f"{cell}: the first file is held up", lambda: "open-file" not in armed.read_text(), 30, every_s=0.05)
            self.send()
            self.wait_until_committed()
        said, errors = process.communicate(timeout=self.stall_ms / 1000 + 120)
        assert armed.read_text() == "", f"{cell} did not strike: exit code {process.returncode}\n{said}{errors}"
        died = process.returncode == -9
        assert died == (cell.action == "crash"), f"exit code {process.returncode}\n{said}{errors}"
        landed = self.compactions() > before
        if not died:
            [report] = json.loads(said)
            states = [group["state"] for group in report["groups"]]
            assert (process.returncode == 0) == (states == ["committed"]), f"exit code {process.returncode}\n{said}"
            assert landed == ("committed" in states), said
        self.check(since={})
        # The next one does what is left, and the writer finds its rows.
        again = self.compact(None)
        said, errors = again.communicate(timeout=120)
        assert again.returncode == 0, f"{said}{errors}"
        self.send()
        self.wait_until_committed()
        self.check(since={})
        orphans = self.new_orphans(clean_up_s=0.5 if died else 2)
        assert not orphans or died, f"{cell} leaves {orphans}"
        assert self.firn.running(), self.firn.tail()
        return (KILLED if died else "") + (COMPACTED if landed else BEFORE) + (ORPHANS if orphans else "")

    def compactions(self) -> int:
        summaries = [s.summary.additional_properties for s in self.table().snapshots() if s.summary]
        return sum("firn.compacted-groups" in summary for summary in summaries)

    def needed(self, table: Table) -> tuple[set[str], int]:
        """Also what tells the writer where rows went."""
        files, largest = super().needed(table)
        summaries = [s.summary.additional_properties for s in table.snapshots() if s.summary]
        return files | {plain(summary["firn.remap"]) for summary in summaries if "firn.remap" in summary}, largest


HEAD = """\
# What happens when a compaction breaks

As in [the writer's tables](faults.md): a firn writes an upsert table, `firn maintain compact` is struck once beside it, then another compaction and another batch
follow. This page is written by that run (`FIRN_FAULTS=all FIRN_E2E_WRITE_DOCS=1 tests/e2e/run test_compaction_faults.py`); a part of it runs with every
change of firn and must agree with the page. After each cell the table equals the fold of Kafka's log, the writer's position stands at its
end, the next compaction succeeds, and the writer goes on.

| | |
|---|---|
| is compacted | the compaction is in the table; where an answer was lost or wrong it was found there, or committed again |
| is as before | the group was given up and its new files were removed; the command says why, exit code 1 or 3 |
| killed, ... | the process died, and the table is so |

`*` behind it: files of the killed process stay in storage, in no snapshot; `firn maintain orphans` takes them. An empty cell was not tried yet.

| step | fault | COLUMNS |
|---|---|RULES|
"""


def written(outcomes: Mapping[Cell, str]) -> str:
    head = HEAD.replace("COLUMNS", " | ".join(CATALOGS[place] for place in PLACES)).replace("RULES", "---|" * len(PLACES))
    lines = []
    for step, when, action in product(STEPS, WHENS, ACTIONS):
        cells = [NO_STEP if is_absent(step, place) else outcomes.get(Cell(step, when, action, place), "") for place in PLACES]
        lines.append(f"| {step} | {when}: {action.replace('-', ' ')} | {' | '.join(cells)} |")
    return head.replace("---||", "---|") + "\n".join(lines) + "\n\n" + "\n".join(f"- *{step}*: {what}" for step, what in STEPS.items()) + "\n"


def read(text: str) -> dict[Cell, str]:
    found: dict[Cell, str] = {}
    for line in text.splitlines():
        step, _, rest = line.removeprefix("| ").partition(" | ")
        fault, _, rest = rest.partition(" | ")
        when, colon, action = fault.partition(": ")
        if step in STEPS and colon:
            for place, cell in zip(PLACES, rest.removesuffix("|").split("|"), strict=True):
                found[Cell(step, when, action.replace(" ", "-"), place)] = cell.strip()
    return found


def chosen() -> list[Cell]:
    """By itself what loses most: a crash, and an answer that does not come."""
    if only := os.environ.get("FIRN_FAULTS_ONLY"):
        return [cell for cell in ALL if str(cell) == only]
    if os.environ.get("FIRN_FAULTS") == "all":
        return ALL
    return [cell for cell in ALL if cell.action in ("crash", "lost-answer") and cell.catalog == ("hive" if "lock" in cell.step else "sql")]
