"""Every cell of the matrix: a step, before or after it, what happens there, in which mode, with which catalog."""

import itertools
from typing import NamedTuple

STEPS = {
    "poll": "One call to the Kafka client, which brings a record. It strikes in the middle of a batch.",
    "decode": "From a record's bytes to a row, in the middle of a batch.",
    "open-file": "A data file is begun; nothing is stored yet.",
    "write-part": "A part of a data file's upload in several parts (above 8 MiB; a smaller file is one request).",
    "close-file": "A data file comes to be: the upload's completion, or its one request.",
    "delete-file": "A file of position deletes is written.",
    "manifest": "A manifest is written.",
    "manifest-list": "The snapshot's manifest list is written.",
    "metadata": "The next version of the table's metadata is written.",
    "lock": "The metastore's lock of the table is asked for.",
    "swap": "The catalog's compare-and-set, which makes the commit visible: `alter_table`, `UPDATE`, `POST`.",
    "unlock": "The lock is given back.",
    "offset-commit": "Kafka is told how far the table is, for lag tools.",
    "index-write": "The primary-key index takes in what was committed.",
}
WHENS = ("before", "after")
ACTIONS = ("crash", "error", "lost-answer", "stall")
MODES = ("append", "upsert")
CATALOGS = {
    "hive-compare": "HMS, compare",
    "hive": "HMS, lock and compare",
    "hive-lock": "HMS, lock",
    "sql": "SQL",
    "rest": "REST",
}


class Cell(NamedTuple):
    step: str
    when: str
    action: str
    mode: str
    catalog: str

    def __str__(self) -> str:
        return f"{self.step}.{self.when}={self.action}, {self.mode}, {self.catalog}"


def absent(step: str, mode: str, catalog: str) -> str | None:
    """Why there is no such step; None where there is."""
    if step == "delete-file" and mode == "append":
        return "an append table deletes no rows"
    if step == "index-write" and mode == "append":
        return "an append table has no index"
    if step in ("lock", "unlock") and catalog not in ("hive", "hive-lock"):
        return "without the metastore's lock a commit is guarded by the comparison alone"
    if step == "metadata" and catalog == "rest":
        return "a REST catalog's server writes it, within the swap"
    return None


ALL = [
    Cell(*names)
    for names in itertools.product(STEPS, WHENS, ACTIONS, MODES, CATALOGS)
    if absent(names[0], names[3], names[4]) is None
]


def representative() -> list[Cell]:
    """Each step with each fault once; modes and catalogs take turns so that each meets every step and every fault it can."""
    chosen = []
    for number, step in enumerate(STEPS):
        columns = [(mode, catalog) for catalog in CATALOGS for mode in MODES if absent(step, mode, catalog) is None]
        for turn, (when, action) in enumerate(itertools.product(WHENS, ACTIONS)):
            # Strides that let every pair occur; a test looks whether they still do.
            mode, catalog = columns[(9 * number + 3 * turn) % len(columns)]
            chosen.append(Cell(step, when, action, mode, catalog))
    return chosen
