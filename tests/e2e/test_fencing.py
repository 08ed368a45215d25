"""Stale writers: a process that was stopped while others took over, a commit that arrives late, a batch in flight while partitions move, two
groups on one table. The stale one is refused, says so, and goes on from the table; nothing comes twice, nothing is lost.
"""

import json
import os

import pytest

from conftest import Trial
from harness.churn import churn
from harness.envelopes import Items, items
from harness.gate import Gate
from harness.program import Config, Firn
from harness.sameness import assert_same
from harness.waiting import pause, until

STOPPED_S = 60 if os.environ.get("FIRN_E2E_FULL") == "1" else 10
"""Longer than a session with Kafka (6 s in these tests)."""
KEYS = range(1_200)


def config(trial: Trial, mode: str, **lake: object) -> Config:
    made = trial.config(trial.topic(), mode=mode, **lake)
    made["kafka"]["workers"] = 1
    return made


def assert_whole(trial: Trial, source: Items, mode: str) -> None:
    if mode == "upsert":
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
        return
    rows = trial.lake.sql(f"SELECT _firn_topic, _firn_partition, _firn_offset FROM {trial.table()}")
    assert_same("origins", rows, [m.origin for m in trial.kafka.everything(trial.topic()) if m.value is not None])


def assert_no_commit_is_half(trial: Trial) -> None:
    """At every snapshot an append table holds exactly the offsets below its checkpoint; a tombstone is no row."""
    tombstones = {m.origin[1:] for m in trial.kafka.everything(trial.topic()) if m.value is None}
    table = trial.lake.table(trial.table())
    assert table is not None and len(table.snapshots()) > 3
    for snapshot in table.snapshots():
        assert snapshot.summary is not None
        stored = json.loads(snapshot.summary["firn.checkpoint"] or "{}")
        stands = {int(p): at["next"] for p, at in stored["topics"].get(trial.topic(), {}).get("partitions", {}).items()}
        want = [(p, offset) for p, end in stands.items() for offset in range(end) if (p, offset) not in tombstones]
        rows = trial.lake.sql(f"SELECT _firn_partition, _firn_offset FROM {trial.table()} FOR VERSION AS OF {snapshot.snapshot_id}")
        assert_same(f"snapshot {snapshot.snapshot_id}", rows, want)


@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_a_stopped_process_goes_on_from_the_table(trial: Trial, mode: str) -> None:
    """SIGSTOP beyond its session: another one takes its partitions and commits; then SIGCONT, with a batch in its hands."""
    trial.kafka.create(trial.topic(), partitions=3)
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    # It commits seldom: when it is stopped it has read what it has not committed.
    first = trial.firn(config(trial, mode, commit_interval_ms=4_000), "first")
    second = trial.firn(config(trial, mode), "second")
    with first:
        trial.wait_until_committed()
        with churn(source, KEYS, seed=11):
            pause(2)
            with first.stopped():
                second.start()
                until("the second commits", lambda: second.says("committed"), 60, then=second.tail)
                for _ in range(STOPPED_S // 10):
                    pause(10)
            line = first.wait_until_it_says("given up, going on from the table", within_s=60)
            assert "WARN" in line and trial.table() in line, line
        trial.wait_until_committed(within_s=90)
        assert first.running() and second.running()
        assert first.terminate() == 0 and second.terminate() == 0
    assert_whole(trial, source, mode)


@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_a_swap_that_arrives_late_is_refused(trial: Trial, mode: str) -> None:
    """The first one's swap is held on its way to the metastore while the second one takes over; then it arrives."""
    trial.kafka.create(trial.topic(), partitions=3)
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    host, port = trial.stack["FIRN_HMS_URI"].rpartition("/")[2].split(":")
    with Gate(host, int(port)) as gate:
        gate.open()
        late = config(trial, mode)
        late["catalog"]["uri"] = f"thrift://{gate.address}"
        first, second = trial.firn(late, "first"), trial.firn(config(trial, mode), "second")
        with first:
            trial.wait_until_committed()
            gate.hold()
            source.put(items(KEYS[::3]))
            pause(2)  # more than a commit interval: the commit has begun, and waits
            with first.stopped():
                second.start()
                trial.wait_until_committed(within_s=90)
                source.remove(KEYS[::7])
                trial.wait_until_committed(within_s=60)
                gate.release()
                pause(2)
            first.wait_until_it_says("given up, going on from the table", within_s=60)
            source.put(items(KEYS[1::5]))
            trial.wait_until_committed(within_s=60)
            assert first.terminate() == 0 and second.terminate() == 0
    assert_whole(trial, source, mode)


def test_a_batch_in_flight_is_not_half_committed_when_partitions_move(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=6)
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    made = [trial.firn(config(trial, "append"), name) for name in ("first", "second", "third")]
    with made[0]:
        trial.wait_until_committed()
        with churn(source, KEYS, seed=12):
            for firn in made[1:]:
                firn.start()
                until(f"{firn.name} commits", lambda firn=firn: firn.says("committed"), 60, then=firn.tail)
            for firn in made[1:]:
                assert firn.terminate() == 0, firn.tail()
        trial.wait_until_committed(within_s=90)
        assert made[0].terminate() == 0, made[0].tail()
    assert_whole(trial, source, "append")
    assert_no_commit_is_half(trial)


@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_two_groups_on_one_table_hurt_nobody(trial: Trial, mode: str) -> None:
    """Both read everything: of two commits of the same offsets one is refused."""
    trial.kafka.create(trial.topic(), partitions=3)
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    one, other = config(trial, mode), config(trial, mode)
    other["kafka"]["group"] += "_other"
    both: list[Firn] = [trial.firn(one, "one"), trial.firn(other, "other")]
    with both[0], both[1]:
        with churn(source, KEYS, seed=13):
            until("one of them was refused", lambda: any(f.says("given up, going on from the table") for f in both), 60)
            pause(3)
        trial.wait_until_committed(within_s=90)
        for firn in both:
            assert firn.terminate() == 0, firn.tail()
    assert_whole(trial, source, mode)
