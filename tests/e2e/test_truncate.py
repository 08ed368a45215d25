"""TRUNCATE in PostgreSQL, under load: it is told to one of three partitions, and concerns the rows of all, in both processes."""

import random
import threading

from conftest import Trial
from harness.lake import checkpoint
from harness.program import free_port
from harness.sameness import assert_same
from harness.source import Source, connector, database
from harness.waiting import pause

ROUNDS = 4
WRITERS = 2
INCLUDE = {"table.include.list": "public.content,public.items,public.others"}


class Writers:
    """Sessions that insert, update and delete, in transactions of their own, so that log positions interleave."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source = source
        self.over = threading.Event()
        self.failures: list[BaseException] = []
        self.threads = [threading.Thread(target=self.work, args=(seed + n,), daemon=True) for n in range(WRITERS)]

    def __enter__(self) -> "Writers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        assert not self.failures, self.failures[0]

    def work(self, seed: int) -> None:
        luck = random.Random(seed)
        try:
            opened = self.source.connect()
            opened.autocommit = False
            with opened.cursor() as c:
                while not self.over.is_set():
                    # In the order of the keys: two sessions wait for each other, but not in a circle.
                    for key in sorted(luck.sample(range(2_000), 25)):
                        if luck.random() < 0.2:
                            c.execute("DELETE FROM items WHERE id = %s", (key,))
                        else:
                            c.execute("INSERT INTO items VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v", (key, f"{seed} {luck.random()}"))
                    opened.commit() if luck.random() < 0.95 else opened.rollback()
                    self.over.wait(0.02)
            opened.close()
        except BaseException as e:
            self.failures.append(e)


def test_a_truncate_empties_the_table_in_every_process(trial: Trial) -> None:
    topics = {table: f"{trial.name}.public.{table}" for table in ("items", "others")}
    for topic in topics.values():
        trial.kafka.create(topic, partitions=3)
    with database(trial.stack, trial.name) as source:
        source.run("CREATE TABLE items (id int PRIMARY KEY, v text); CREATE TABLE others (id int PRIMARY KEY, v text)")
        source.run("INSERT INTO items SELECT g, 'before ' || g FROM generate_series(0, 1999) g")
        source.run("INSERT INTO others SELECT g, 'other ' || g FROM generate_series(1, 30) g")
        config = trial.config(*topics.values(), mode="upsert", commit_interval_ms=500)
        config["kafka"]["workers"] = 1
        first, second = trial.firn(config, "first"), trial.firn(config, "second")
        with connector(source, "engagement", trial.name, **INCLUDE) as name, first, second:
            trial.wait_until_committed("items", topics["items"], within_s=120)
            with Writers(source, seed=11):
                for number in range(ROUNDS):
                    pause(2)
                    if number % 2 == 0:
                        source.run("TRUNCATE items")
                    else:
                        # With rows of its own before and after, and another table.
                        source.run(
                            "BEGIN; INSERT INTO items VALUES (5000, 'gone'); TRUNCATE items, others RESTART IDENTITY;"
                            f" INSERT INTO items VALUES ({6000 + number}, 'its own'); INSERT INTO others VALUES ({number}, 'anew'); COMMIT"
                        )
                    if number == 1:
                        second.kill()
                        pause(1)
                        second.start()
                pause(2)
            source.wait_until_published(name)
            for table, topic in topics.items():
                trial.wait_until_committed(table, topic, within_s=180)
            for firn in (first, second):
                assert firn.terminate() == 0, firn.tail()
            for table, topic in topics.items():
                rows = trial.lake.sql(f"SELECT id, v FROM {trial.table(table)}")
                assert_same(f"{table} in Trino", rows, source.run(f"SELECT id, v FROM {table}"))
                stands = checkpoint(trial.lake.table(trial.table(table)))["topics"][topic]
                assert stands["truncated"]["lsn"] > 0 and len(stands["partitions"]) == 3
            assert source.run("SELECT count(*) FROM items WHERE id >= 6000") == [(1,)], "its own rows outlive a TRUNCATE"


def test_an_append_table_keeps_its_rows(trial: Trial) -> None:
    topic = f"{trial.name}.public.items"
    with database(trial.stack, trial.name) as source:
        source.run("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items SELECT g, 'r' FROM generate_series(1, 20) g")
        with connector(source, "engagement", trial.name, **{"table.include.list": "public.content,public.items"}) as name:
            config = trial.config(topic, mode="append")
            config["serve"]["listen"] = f"127.0.0.1:{free_port()}"
            with trial.firn(config) as firn:
                trial.wait_until_committed("items", topic, within_s=120)
                source.run("TRUNCATE items; INSERT INTO items VALUES (1, 'after')")
                source.wait_until_published(name)
                trial.wait_until_committed("items", topic)
                assert any('kind="truncate"' in labels for labels in firn.metrics("firn_skipped_total"))
                assert firn.terminate() == 0, firn.tail()
        rows = trial.lake.sql(f"SELECT id, v, _firn_op FROM {trial.table()}")
        assert_same("Trino", rows, [(g, "r", "r") for g in range(1, 21)] + [(1, "after", "c")])
