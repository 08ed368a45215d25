"""`firn rewind` beside a firn that runs, and as the way on for a table that stopped: nothing doubles, nothing is lost."""

import json
import random
import re
from typing import Any

import pytest

from conftest import Trial
from harness.churn import churn
from harness.envelopes import Items, item, items
from harness.lake import checkpoint, positions
from harness.program import Firn
from harness.sameness import assert_same
from harness.waiting import until

KEYS = range(600)


def rewind(firn: Firn, trial: Trial, *arguments: str) -> dict[str, Any]:
    done = firn.command("--output", "json", "rewind", trial.table(), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def refused(firn: Firn, trial: Trial, *arguments: str) -> str:
    done = firn.command("rewind", trial.table(), *arguments)
    assert done.returncode in (1, 2), done.stdout + done.stderr
    return re.sub(r"\s+", " ", done.stderr)


def stands(trial: Trial) -> dict[int, int]:
    return positions(checkpoint(trial.lake.table(trial.table())), trial.topic())


def has_come_true(trial: Trial, source: Items, mode: str) -> None:
    """The checkpoint alone can't tell: while firn has not noticed the rewind its own view of the end is an old one."""

    def same() -> None:
        if mode == "upsert":
            rows = trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}")
            assert_same("Trino", rows, source.expected())
            return
        rows = trial.lake.sql(f"SELECT _firn_topic, _firn_partition, _firn_offset FROM {trial.table()}")
        assert_same("origins", rows, [m.origin for m in trial.kafka.everything(trial.topic()) if m.value is not None])
        [[distinct, total]] = trial.lake.sql(f"SELECT count(DISTINCT (_firn_partition, _firn_offset)), count(*) FROM {trial.table()}")
        assert distinct == total

    def true() -> bool:
        try:
            same()
        except AssertionError:
            return False
        return True

    until("the table is that of the topic", true, 60, every_s=0.5)
    same()


@pytest.mark.parametrize("mode", ["append", "upsert"])
def test_a_table_is_rewound_while_firn_writes_to_it(trial: Trial, mode: str) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    with trial.firn(trial.config(trial.topic(), mode=mode)) as firn:
        trial.wait_until_committed()
        middle = stands(trial)
        with churn(source, KEYS, seed=5):
            until("a few commits of changes", lambda: sum(stands(trial).values()) > sum(middle.values()) + 300, 60)
            target = "offset=" + ",".join(f"{p}:{o - 20}" for p, o in middle.items())
            shown = rewind(firn, trial, "--to", target, "--dry-run")
            assert shown["snapshot_id"] is None and shown["generation"] == 1
            assert "nothing was done" in refused(firn, trial, "--to", target), "without a terminal it wants --yes"
            done = rewind(firn, trial, "--to", target, "--yes")
            firn.wait_until_it_says("rewound", "generation 1", within_s=30)
        went = {m["partition"]: m["to"] or 0 for m in done["positions"]}
        wanted = {p: o - 20 for p, o in middle.items()}
        if mode == "append":
            assert done["how"] == "take_out" and done["rows"] > 300 and went == wanted, done
        else:  # restored where a commit was made in time, else read over the rows
            assert done["how"] in ("restore", "replay") and all(went[p] <= o for p, o in wanted.items()), done
        has_come_true(trial, source, mode)
        # And when nothing comes for it: the running process looks by itself.
        done = rewind(firn, trial, "--to", "beginning", "--yes", *(["--replay"] if mode == "upsert" else []))
        assert done["rows"] > 0 if mode == "append" else done["replaying"], done
        firn.wait_until_it_says("rewound", "generation=2", within_s=30)
        has_come_true(trial, source, mode)
        if mode == "upsert":
            firn.wait_until_it_says("caught up", trial.table())
        # To a snapshot of before, whose rows Trino sees at once.
        table = trial.lake.table(trial.table())
        assert table is not None
        ours = [s for s in table.snapshots() if s.summary and s.summary.additional_properties.get("firn.checkpoint", "").startswith('{"generation":0')]
        done = rewind(firn, trial, "--to", f"snapshot={ours[1].snapshot_id}", "--yes")
        assert done["how"] == "restore" and done["generation"] == 3
        then = trial.lake.sql(f"SELECT count(*) FROM {trial.table()} FOR VERSION AS OF {ours[1].snapshot_id}")
        assert trial.lake.sql(f"SELECT count(*) FROM {trial.table()} FOR VERSION AS OF {done['snapshot_id']}") == then
        has_come_true(trial, source, mode)
        assert firn.terminate() == 0, firn.tail()


def test_ways_on_after_retention_and_after_a_topic_was_made_anew(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(200)))
    firn = trial.firn(trial.config(trial.topic()))
    with firn:
        trial.wait_until_committed()
        assert firn.terminate() == 0, firn.tail()
    before = stands(trial)
    source.put(item(key, random.Random(key + 1)) for key in range(200))
    trial.kafka.delete_records(trial.topic(), {p: end - 5 for p, end in trial.kafka.ends(trial.topic()).items()})
    with firn:
        line = firn.wait_until_it_says("stopped", "offsets gone", f"firn rewind {trial.table()} --skip-lost")
        assert "retention" in line
        assert "begins only at" in refused(firn, trial, "--to", "beginning", "--yes")
        done = rewind(firn, trial, "--skip-lost", "--yes")
        assert {m["partition"]: m["from"] for m in done["positions"]} == before
        # The process that had stopped goes on by itself; a snapshot of the source brings what was lost.
        source.put(list(source.rows.values()))
        trial.wait_until_committed()
        has_come_true(trial, source, "upsert")
        shown = firn.command("--output", "json", "table", "show", trial.table())
        lost = json.loads(shown.stdout)["lost_ranges"]
        assert {r["partition"]: r["from"] for r in lost} == before, lost

        trial.kafka.delete(trial.topic())
        trial.kafka.create(trial.topic())
        source.put(list(source.rows.values()))
        until("the table stops", lambda: firn.says("stopped", "--new-topic"), 60, then=firn.tail)
        assert "--new-topic" in refused(firn, trial, "--to", "beginning", "--yes")
        done = rewind(firn, trial, "--new-topic", "--yes")
        assert {m["to"] for m in done["positions"]} == {0}
        source.put(items(range(300, 350)))
        trial.wait_until_committed()
        has_come_true(trial, source, "upsert")
        assert firn.terminate() == 0, firn.tail()
