"""docs/faults.md: written from what was seen, and read again for comparison."""

from collections.abc import Mapping

from .cells import ACTIONS, CATALOGS, MODES, STEPS, WHENS, Cell, absent
from .outcome import MEANING, ORPHANS

NO_STEP = "no such step"
COLUMNS = [(mode, catalog) for mode in MODES for catalog in CATALOGS]

HEAD = """\
# What happens when something breaks

Each cell of the tables below was tried on a real firn process with a real Kafka: two batches are committed, then the fault strikes once while the
next one is on its way, then another batch follows. This page is written by that run (`make faults`); a part of it, each step with each
fault, runs with every change of firn and must agree with the page.

After each cell these promises are checked, by PyIceberg and against Kafka's log itself, not by firn:

- an upsert table equals the fold of the log; an append table holds every (partition, offset) exactly once;
- the checkpoint in the table stands at the end of the log, and the last snapshot carries it;
- there is no equality delete;
- a fault that the process survives leaves no file behind that nothing needs, a crash at most those of one commit;
- Kafka's own offsets of the group, which lag tools read, come to the same place.

## The faults

| fault | before the step | after the step |
|---|---|---|
| crash | kill -9 of the process, the step is not done | kill -9, the step is done |
| error | the server says no and has done nothing | the server has done it and says no |
| lost answer | the request never arrives, and no answer comes | it is done, and the answer never comes |
| stall | STALL pass, then it is done | it is done, and STALL pass before the answer |

Two steps have no server behind them that could say no. Decoding: an error before it is a value that can't be read, a lost answer a schema
registry that is silent; after it both are a batch that can't be kept. The Kafka client: an error is one that it does not recover from, a
lost answer a broker that is silent, which the client mends by itself; a record that it has handed over can't be taken back, so after
that both are its end.

## What can come of it

MEANINGS
`(lock)` behind it: the metastore's lock of the dead process stands in the way until the metastore takes it away (`metastore.txn.timeout`, 20 s
in `deploy/hive`); firn says so in its log and waits. `(lock?)`: the lock is asked for while the metadata file is written, and chance
decides which came first. `ORPHAN` behind it: files of the killed attempt stay in storage, in no snapshot. They do no
harm; `firn maintain orphans` takes them.

What recovers is always the same: the table. Its position and its rows change in one swap, so whatever was not committed is read again from
there, and a swap whose answer is missing is looked up by the batch's snapshot id before anything is sent again. Nothing else
has to survive: not the process, not the index, not Kafka's offsets.

## The columns

HMS is a Hive Metastore 4.0.0 on PostgreSQL with tables on MinIO: "compare" is `commit_mode = "compare"` (HIVE-26882), "lock and compare" is what
`auto` does, "lock" is `commit_mode = "lock"`. SQL is SQLite with local files. REST is Iceberg's own REST server with local files.
"""

TAIL = """
## Try a cell yourself

A debug build (`cargo build`) has a failpoint before and after each of these steps; a release build has none of them, and reads no such
variable. `FIRN_FAILPOINTS` names a file, and each line in it strikes once and is taken out of it:

```sh
echo 'swap.after=crash' > /tmp/failpoints        # or error, lost-answer, stall(30000); @3 behind it: at the third pass
FIRN_FAILPOINTS=/tmp/failpoints target/debug/firn run -c firn.toml
```

Lines can be added while firn runs. A wrong name is refused at the start, with all names. One cell as it was tried here, all checks included:

```sh
FIRN_FAULTS_ONLY='swap.after=crash, upsert, hive' tests/e2e/run test_faults.py
```

`make faults` runs them all and writes this page; `FIRN_FAULTS_STALL_MS` is how long a stall takes (30000 for this page).

The steps of `firn maintain compact` have [a page of their own](faults-compaction.md).
"""


def written(outcomes: Mapping[Cell, str], stall_ms: int) -> str:
    meanings = "| in the table | what it means |\n|---|---|\n" + "".join(f"| {word} | {meaning} |\n" for word, meaning in MEANING.items())
    stall = f"{stall_ms / 1000:g} s"
    head = HEAD.replace("STALL", stall).replace("MEANINGS", meanings).replace("ORPHAN", ORPHANS.strip())
    return head + "".join(_step(step, outcomes) for step in STEPS) + TAIL


def _step(step: str, outcomes: Mapping[Cell, str]) -> str:
    lines = [f"\n## {step}\n", f"{STEPS[step]}\n"]
    reasons = dict.fromkeys(reason for mode, catalog in COLUMNS if (reason := absent(step, mode, catalog)))
    if reasons:
        lines.append(f"{NO_STEP.capitalize()}: {'; '.join(reasons)}.\n")
    lines.append("| " + " | ".join(["", *(f"{mode}: {CATALOGS[catalog]}" for mode, catalog in COLUMNS)]) + " |")
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for when in WHENS:
        for action in ACTIONS:
            cells = [outcomes.get(Cell(step, when, action, mode, catalog), NO_STEP if absent(step, mode, catalog) else "") for mode, catalog in COLUMNS]
            lines.append("| " + " | ".join([f"{when}: {action.replace('-', ' ')}", *cells]) + " |")
    return "\n".join(lines) + "\n"


def read(text: str) -> dict[Cell, str]:
    """The outcome of every cell that the page has, empty ones and missing steps included."""
    found: dict[Cell, str] = {}
    step = ""
    for line in text.splitlines():
        if line.startswith("## "):
            step = line[3:]
        when, colon, rest = line.removeprefix("| ").partition(": ")
        if step in STEPS and colon and when in WHENS:
            action, *cells = (part.strip() for part in rest.rstrip(" |").split(" | "))
            for (mode, catalog), cell in zip(COLUMNS, cells, strict=True):
                found[Cell(step, when, action.replace(" ", "-"), mode, catalog)] = cell
    return found
