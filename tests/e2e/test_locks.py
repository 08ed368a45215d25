"""The metastore's locks outlive the process that took them: kill -9 in the middle of a commit leaves one behind."""

import random

from conftest import Trial
from harness.envelopes import Items, item, items
from harness.sameness import assert_same


def test_a_killed_writer_holds_up_nobody_for_good(trial: Trial) -> None:
    """An exclusive lock without heartbeat, as a killed writer leaves it. The metastore has to drop it (metastore.txn.timeout), or firn
    has to see that it is dead; and while firn waits it says for what."""
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(100)))
    with trial.firn(trial.config(trial.topic())) as firn:
        trial.wait_until_committed()
        trial.lake.take_lock(trial.table())
        source.put(item(key, random.Random(key + 1)) for key in range(150))
        firn.wait_until_it_says(trial.table(), "lock", within_s=30)
        trial.wait_until_committed(within_s=120)
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
