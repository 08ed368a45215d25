"""Other writers are welcome: Trino compacts, deletes, expires and rolls back while firn writes.

What a DELETE in Trino means for an upsert table: the row stays away until the source changes it again; then it is back.
A rollback in Trino takes firn back too: it goes on from the checkpoint of the snapshot that was rolled back to.
"""

import random
from collections.abc import Callable, Collection

import pytest

from conftest import Trial
from harness.churn import churn
from harness.envelopes import Items, item, items
from harness.lake import checkpoint, positions, referenced
from harness.sameness import assert_same
from harness.waiting import pause, until

KEYS = range(2_000)


def same(trial: Trial, source: Items, without: Collection[int] = ()) -> None:
    rows = trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}")
    assert_same("Trino", rows, [row for row in source.expected() if row[0] not in without])


def test_optimize_and_delete_beside_firn(trial: Trial) -> None:
    """Trino's rewrite only lands between two commits that touch its files, so the interval is longer than the rewrite takes."""
    gone, back, busy = range(0, 100), range(100, 200), range(200, 2_000)
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    with trial.firn(trial.config(trial.topic(), commit_interval_ms=3_000)) as firn:
        trial.wait_until_committed()
        with churn(source, busy, seed=1):
            until("a few commits of updates", lambda: len(trial.lake.sql(f'SELECT 1 FROM {trial.name}."items$snapshots"')) > 4, 60)
            runs = [trial.lake.sql_again(f"DELETE FROM {trial.table()} WHERE id < {back.stop}", within_s=90)]
            # The source changes some of the deleted rows again; the others stay away.
            source.put(item(key, random.Random(key + 7)) for key in back)
            pause(1.5)
        with churn(source, busy, seed=2):
            for _ in range(3):
                runs.append(trial.lake.sql_again(f"ALTER TABLE {trial.table()} EXECUTE optimize", within_s=90))
        print(f"Trino ran its statements {runs} times")
        source.put(items(busy))
        trial.wait_until_committed()
        assert firn.running(), firn.tail()
        same(trial, source, without=gone)
        assert firn.terminate() == 0, firn.tail()
    loaded = trial.lake.table(trial.table())
    assert loaded is not None and referenced(loaded).equality_deletes == set()


def test_a_restart_after_optimize_and_delete(trial: Trial) -> None:
    """What another writer did while firn was down is caught up with at start: no old row comes back, none is doubled."""
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    firn = trial.firn(trial.config(trial.topic()))
    with firn:
        trial.wait_until_committed()
        source.put(item(key, random.Random(key + 1)) for key in KEYS[:500])
        trial.wait_until_committed()
        firn.kill()
    trial.lake.sql(f"ALTER TABLE {trial.table()} EXECUTE optimize")
    trial.lake.sql(f"DELETE FROM {trial.table()} WHERE id % 10 = 3")
    with firn:
        source.put(item(key, random.Random(key + 2)) for key in KEYS[:1000])
        source.remove(KEYS[1000:1500])
        trial.wait_until_committed()
        same(trial, source, without={key for key in KEYS[1500:] if key % 10 == 3})


def test_expired_snapshots_cost_no_position(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    firn = trial.firn(trial.config(trial.topic()))
    with firn:
        for round_ in range(3):
            source.put(item(key, random.Random(key * 7 + round_)) for key in KEYS)
            trial.wait_until_committed()
        trial.lake.sql_again(f"ALTER TABLE {trial.table()} EXECUTE optimize")
        expire(trial)
        source.put(item(key, random.Random(key * 7 + 5)) for key in KEYS[:300])
        trial.wait_until_committed()
        same(trial, source)
        firn.kill()
    trial.lake.sql(f"DELETE FROM {trial.table()} WHERE id = 1999")
    expire(trial)  # the last snapshot that firn made is gone now; the properties still say where the table stands
    with firn:
        source.put(item(key, random.Random(key * 7 + 6)) for key in KEYS[:600])
        trial.wait_until_committed()
        same(trial, source, without={1999})


def expire(trial: Trial) -> None:
    """All but the current snapshot. Trino's least retention, seven days, is a session property."""
    trial.lake.sql(f"SET SESSION {trial.stack['FIRN_TRINO_CATALOG']}.expire_snapshots_min_retention = '0s'")
    trial.lake.sql_again(f"ALTER TABLE {trial.table()} EXECUTE expire_snapshots(retention_threshold => '0s')")
    assert len(trial.lake.sql(f'SELECT snapshot_id FROM {trial.name}."items$snapshots"')) <= 2


@pytest.mark.parametrize("mode", ["upsert", "append"])
@pytest.mark.parametrize("state", ["running", "down"])
def test_after_a_rollback_firn_goes_on_from_there(trial: Trial, mode: str, state: str) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    firn = trial.firn(trial.config(trial.topic(), mode=mode))
    with firn:
        for round_ in range(4):
            source.put(item(key, random.Random(key * 11 + round_)) for key in KEYS[:400])
            trial.wait_until_committed()
        loaded = trial.lake.table(trial.table())
        assert loaded is not None
        ours = [s for s in loaded.snapshots() if s.summary and "firn.checkpoint" in s.summary.additional_properties]
        assert len(ours) >= 4
        if state == "down":
            assert firn.terminate() == 0, firn.tail()
        trial.lake.sql_again(f"ALTER TABLE {trial.table()} EXECUTE rollback_to_snapshot({ours[1].snapshot_id})")
        if state == "down":
            firn.start()
        source.put(item(key, random.Random(key * 11 + 9)) for key in KEYS[:50])
        trial.wait_until_committed()
        exactly_the_topic(trial, source, mode)
        assert firn.running(), firn.tail()
    stored = checkpoint(trial.lake.table(trial.table()))
    assert positions(stored, trial.topic()) == {p: e for p, e in trial.kafka.ends(trial.topic()).items() if e}


def exactly_the_topic(trial: Trial, source: Items, mode: str) -> None:
    """The same answer as if nobody had rolled back; the checkpoint alone can't tell, so the rows have to come true."""

    def true() -> bool:
        if mode == "upsert":
            same(trial, source)
            return True
        rows = trial.lake.sql(f"SELECT _firn_topic, _firn_partition, _firn_offset FROM {trial.table()}")
        assert_same("origins", rows, [m.origin for m in trial.kafka.everything(trial.topic()) if m.value is not None])
        return True

    until("the rows are those of the topic", lambda: passes(true), 60, every_s=1)
    true()


def passes(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except AssertionError:
        return False
