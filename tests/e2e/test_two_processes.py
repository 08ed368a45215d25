"""Two firns in one group: partitions move between them, one is told to stop, one is killed, a third takes over."""

import random

import pytest

from conftest import Trial
from harness.churn import churn
from harness.envelopes import Items, item, items
from harness.sameness import assert_same
from harness.waiting import until

KEYS = range(1_500)


@pytest.mark.parametrize("mode", ["upsert", "append"])
def test_partitions_move_and_nothing_comes_twice(trial: Trial, mode: str) -> None:
    trial.kafka.create(trial.topic(), partitions=3)
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    config = trial.config(trial.topic(), mode=mode)
    config["kafka"]["workers"] = 1
    first, second, third = (trial.firn(config, name) for name in ("first", "second", "third"))
    with first:
        trial.wait_until_committed()
        with churn(source, KEYS, seed=3):
            second.start()
            until("both commit", lambda: second.says("committed"), 60, then=second.tail)
            assert first.terminate() == 0, first.tail()
            third.start()
            until("the third commits", lambda: third.says("committed"), 60, then=third.tail)
            second.kill()
            source.put(item(key, random.Random(key + 5)) for key in KEYS[::2])
        trial.wait_until_committed(within_s=90)
        assert third.terminate() == 0, third.tail()
    if mode == "upsert":
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
    else:
        rows = trial.lake.sql(f"SELECT _firn_topic, _firn_partition, _firn_offset FROM {trial.table()}")
        assert_same("origins", rows, [m.origin for m in trial.kafka.everything(trial.topic()) if m.value is not None])
