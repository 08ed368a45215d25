"""`firn maintain compact` beside a firn that writes: no compaction fails, and Trino equals the source at the end."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import Trial
from harness.churn import churn
from harness.envelopes import Items, item, items
from harness.lake import positions, checkpoint, referenced
from harness.program import Firn
from harness.sameness import assert_same

KEYS = range(3_000)
#: How long the source changes rows while compactions run one after the other.
BUSY_S = 25


def compact(firn: Firn, trial: Trial, *arguments: str) -> dict[str, Any]:
    done = firn.command("maintain", "compact", trial.table(), "--min-files", "2", "--output", "json", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    [report] = json.loads(done.stdout)
    assert report["error"] is None
    assert all(group["state"] in ("committed", "lost", "planned") for group in report["groups"]), report
    return report


@pytest.mark.parametrize("layout", [{}, {"partition_by": ["bucket(4, id)"]}, {"sort_by": ["name", "id"]}], ids=["plain", "partitioned", "sorted"])
def test_an_upsert_table_is_compacted_while_it_is_written(trial: Trial, layout: dict[str, Any]) -> None:
    trial.kafka.create(trial.topic(), partitions=2)
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    with trial.firn(trial.config(trial.topic(), commit_interval_ms=500, **layout)) as firn:
        trial.wait_until_committed()
        reports = []
        with churn(source, KEYS, seed=3):
            end = time.monotonic() + BUSY_S
            while time.monotonic() < end:
                reports.append(compact(firn, trial))
        committed = [group for report in reports for group in report["groups"] if group["state"] == "committed"]
        moved = sum(report["moved_deletes"] for report in reports)
        print(f"{len(reports)} compactions, {len(committed)} groups, {moved} rows deleted meanwhile moved along")
        assert len(reports) > 2 and committed
        source.put(item(key, random.Random(key + 5)) for key in KEYS[:500])
        source.remove(sorted(source.rows.keys() & set(KEYS[500:700])))
        trial.wait_until_committed()
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())

        # With nobody between, what is left is large files alone.
        compact(firn, trial, "--delete-ratio", "0.01")
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
        files = trial.lake.sql(f'SELECT content, count(*) FROM {trial.name}."items$files" GROUP BY content ORDER BY content')
        assert files[0][1] <= 5, files

        # The writer finds its rows in the new files.
        source.put(item(key, random.Random(key + 6)) for key in KEYS[:300])
        source.remove(sorted(source.rows.keys() & set(KEYS[300:400])))
        trial.wait_until_committed()
        assert firn.running(), firn.tail()
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
        assert firn.terminate() == 0, firn.tail()
    loaded = trial.lake.table(trial.table())
    assert loaded is not None and referenced(loaded).equality_deletes == set()
    assert positions(checkpoint(loaded), trial.topic())


@pytest.mark.parametrize("step", ["open-file.after", "close-file.before", "close-file.after", "delete-file.after", "manifest.before", "metadata.after", "swap.before", "swap.after"])
def test_a_compaction_that_is_killed_leaves_the_table_whole(trial: Trial, tmp_path: Path, step: str) -> None:
    trial.kafka.create(trial.topic(), partitions=1)
    source = Items(trial.kafka, trial.topic())
    armed = tmp_path / "failpoints"
    with trial.firn(trial.config(trial.topic(), commit_interval_ms=500)) as firn:
        for part in range(4):
            source.put(items(KEYS[part * 100 : part * 100 + 150]))
            trial.wait_until_committed()
        firn.environment["FIRN_FAILPOINTS"] = str(armed)
        armed.write_text(f"{step}=crash\n")
        killed = firn.command("maintain", "compact", trial.table(), "--min-files", "2")
        struck = armed.read_text() == ""
        # Without a delete while files are rewritten none is written.
        assert struck == (killed.returncode < 0) and (struck or step.startswith("delete-file")), killed.stderr
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
        armed.write_text("")
        source.put(item(key, random.Random(key + 5)) for key in KEYS[:200])
        source.remove(KEYS[20:40])
        trial.wait_until_committed()
        compact(firn, trial)
        source.put(item(key, random.Random(key + 6)) for key in KEYS[100:300])
        trial.wait_until_committed()
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
        assert firn.terminate() == 0, firn.tail()
