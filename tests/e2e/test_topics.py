"""What topics do: appear late, are made anew, grow, lose old records, stand elsewhere than the table says."""

import json
import random


from conftest import Trial
from harness.envelopes import Items, item, items
from harness.lake import checkpoint, positions
from harness.program import Firn
from harness.sameness import assert_same
from harness.topics import Kafka
from harness.waiting import until


class Pair:
    """Two topics of one firn: the first gets the trouble, the second has to go on."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        for table in ("items", "others"):
            trial.kafka.create(trial.topic(table))
        self.items = Items(trial.kafka, trial.topic())
        self.others = Items(trial.kafka, trial.topic("others"))
        self.items.put(items(range(300)))
        self.others.put(items(range(300)))
        self.firn = trial.firn(trial.config(trial.topic(), trial.topic("others")))

    def committed(self, table: str) -> None:
        self.trial.wait_until_committed(table)

    def assert_others_go_on(self) -> None:
        self.others.put(item(key, random.Random(key + 77)) for key in range(400))
        self.committed("others")
        rows = self.trial.lake.sql(f"SELECT id, name, quantity FROM {self.trial.table('others')}")
        assert_same("the other table", rows, self.others.expected())
        assert self.firn.running(), self.firn.tail()


def rows(trial: Trial) -> list[list[object]]:
    return trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}")


def stands(trial: Trial) -> dict[int, int]:
    return positions(checkpoint(trial.lake.table(trial.table())), trial.topic())


def test_a_topic_that_comes_later(trial: Trial) -> None:
    trial.kafka.create(trial.topic("others"))
    others = Items(trial.kafka, trial.topic("others"))
    others.put(items(range(50)))
    with trial.firn(trial.config(trial.topic(), trial.topic("others"))) as firn:
        trial.wait_until_committed("others")
        firn.wait_until_it_says(trial.topic(), "not", within_s=30)  # it isn't there yet
        assert firn.running(), firn.tail()
        trial.kafka.create(trial.topic())
        source = Items(trial.kafka, trial.topic())
        source.put(items(range(100)))
        trial.wait_until_committed()
        assert_same("Trino", rows(trial), source.expected())


def test_a_topic_that_comes_later_fits_the_pattern(trial: Trial) -> None:
    with trial.firn(trial.config(f"{trial.name}.public.*")) as firn:
        trial.kafka.create(trial.topic())
        source = Items(trial.kafka, trial.topic())
        source.put(items(range(100)))
        trial.wait_until_committed()
        assert_same("Trino", rows(trial), source.expected())
        assert firn.terminate() == 0, firn.tail()


def test_a_topic_made_anew_while_firn_is_down(trial: Trial) -> None:
    """The new topic is even longer than the old one: only its id tells."""
    pair = Pair(trial)
    with pair.firn:
        pair.committed("items")
        pair.committed("others")
        assert pair.firn.terminate() == 0, pair.firn.tail()
    before, old = stands(trial), pair.items.expected()
    trial.kafka.delete(trial.topic())
    trial.kafka.create(trial.topic())
    Items(trial.kafka, trial.topic()).put(item(key, random.Random(key)) for key in range(1_000))
    with pair.firn:
        pair.firn.wait_until_it_says("stopped", trial.topic(), "made a")
        pair.assert_others_go_on()
    assert stands(trial) == before
    assert_same("what was there", rows(trial), old)


def test_added_partitions_keep_the_order_of_each_key(trial: Trial) -> None:
    """A key may move; its newer change in the new partition must not be overtaken by the older one."""
    grown = 4
    trial.kafka.create(trial.topic(), partitions=2)
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(500)))
    with trial.firn(trial.config(trial.topic())) as firn:
        trial.wait_until_committed()
        source.put(item(key, random.Random(key + 1)) for key in range(500))
        trial.kafka.grow(trial.topic(), grown)
        source.put(item(key, random.Random(key + 2)) for key in range(700))
        source.remove(range(0, 700, 9))
        trial.wait_until_committed()
        assert len(stands(trial)) == grown
        assert_same("Trino", rows(trial), source.expected())
        assert firn.terminate() == 0, firn.tail()


def test_added_partitions_do_not_wait_for_a_transactions_marker(trial: Trial) -> None:
    """The log of a source that writes in transactions ends with an offset that holds no record: no table gets past it."""
    trial.kafka.create(trial.topic(), partitions=2)
    kafka = Kafka(trial.kafka.bootstrap, transactional_id=trial.name)
    source = Items(kafka, trial.topic())

    def committed() -> bool:
        return stands(trial) == {p: end - 1 for p, end in kafka.ends(trial.topic()).items() if end > 0}

    source.put(items(range(200)))
    with trial.firn(trial.config(trial.topic())) as firn:
        until("the first rows are in the table", committed, 60)
        kafka.grow(trial.topic(), 4)
        kafka.send(trial.topic(), [source.changed(item(key, random.Random(key))) for key in range(500, 550)], partition=3)
        until("those of the new partition are", committed, 60)
        assert_same("Trino", rows(trial), source.expected())
        assert firn.terminate() == 0, firn.tail()


def test_a_growth_that_moves_keys_between_old_partitions_is_named(trial: Trial) -> None:
    """From 2 to 5 keys also move between the two old ones: nothing tells which change of a key is the newer one."""
    trial.kafka.create(trial.topic(), partitions=2)
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(500)))
    with trial.firn(trial.config(trial.topic())) as firn:
        trial.wait_until_committed()
        trial.kafka.grow(trial.topic(), 5)
        source.put(items(range(500, 900)))
        firn.wait_until_it_says("grew from 2 to 5 partitions", "not a multiple", within_s=60)
        trial.wait_until_committed()
        assert_same("Trino", rows(trial), source.expected())
        assert firn.terminate() == 0, firn.tail()


def test_offsets_gone_by_retention(trial: Trial) -> None:
    pair = Pair(trial)
    with pair.firn:
        pair.committed("items")
        assert pair.firn.terminate() == 0, pair.firn.tail()
    before, old = stands(trial), pair.items.expected()
    pair.items.put(item(key, random.Random(key + 1)) for key in range(300))
    trial.kafka.delete_records(trial.topic(), {p: end - 5 for p, end in trial.kafka.ends(trial.topic()).items()})
    with pair.firn:
        pair.firn.wait_until_it_says("stopped", trial.topic(), "offsets gone", "retention")
        assert_check_names(pair.firn, trial.topic(), "retention")
        pair.assert_others_go_on()
    assert stands(trial) == before
    assert_same("what was there", rows(trial), old)


def test_stored_offsets_ahead_of_the_log(trial: Trial) -> None:
    """As with another cluster's topic of the same name: the table says it has read what was never there."""
    pair = Pair(trial)
    with pair.firn:
        pair.committed("items")
        assert pair.firn.terminate() == 0, pair.firn.tail()
    move_position(trial, ahead=1_000)
    before, old = stands(trial), pair.items.expected()
    with pair.firn:
        pair.firn.wait_until_it_says("stopped", trial.topic(), "ahead of Kafka's log")
        assert_check_names(pair.firn, trial.topic(), "the log ends at")
        pair.assert_others_go_on()
    assert stands(trial) == before
    assert_same("what was there", rows(trial), old)


def move_position(trial: Trial, ahead: int) -> None:
    table = trial.lake.table(trial.table())
    assert table is not None
    stored = checkpoint(table)
    for place in stored["topics"][trial.topic()]["partitions"].values():
        place["next"] += ahead
    with table.transaction() as transaction:
        transaction.set_properties({"firn.checkpoint": json.dumps(stored)})


def test_a_topic_made_anew_while_firn_runs(trial: Trial) -> None:
    """Rows of the new topic must not be taken for the old one's; whichever sign comes first, the table stops with a reason."""
    pair = Pair(trial)
    with pair.firn:
        pair.committed("items")
        pair.committed("others")
        before, old = stands(trial), pair.items.expected()
        trial.kafka.delete(trial.topic())
        trial.kafka.create(trial.topic())
        fresh = Items(trial.kafka, trial.topic())
        fresh.put(item(key, random.Random(key + 3)) for key in range(2_000))
        until("the table stops", lambda: stopped(pair.firn, trial.topic()), 90, then=pair.firn.tail)
        pair.assert_others_go_on()
    assert stands(trial) == before
    assert_same("what was there", rows(trial), old)


def assert_check_names(firn: Firn, *words: str) -> None:
    """`firn check` sees the same trouble without starting anything."""
    answer = firn.command("check")
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert all(word in answer.stdout for word in words), answer.stdout


def stopped(firn: Firn, topic: str) -> str | None:
    return firn.says("stopped", topic, "made a") or firn.says("stopped", topic, "ahead of Kafka's log")
