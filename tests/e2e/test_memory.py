"""The memory budget: rows of 10 MB, and a backlog that is many times what memory may hold."""

import hashlib
import random
import string
from typing import Any

from pyiceberg.expressions import GreaterThanOrEqual

from conftest import Trial
from harness.envelopes import Items
from harness.program import Config, Firn, free_port
from harness.waiting import until

MIB = 1 << 20
BUDGET_BYTES = 128 * MIB
BESIDE_BYTES = 150 * MIB
"""What a process needs beside its budget (docs/configuration.md), and 50 MiB for the code of a debug build."""

LARGE_BYTES = 10 * MIB
LARGE_ROWS = 30
LARGE_ROW_COPIES = 2 * 10
"""Of the largest row: ten a worker."""
BACKLOG_TABLES = 20
BACKLOG_PARTITIONS = 12
BACKLOG_ROWS = 600_000


def small_budget(trial: Trial, *topics: str, **lake: Any) -> Config:
    config = trial.config(*topics, **lake)
    config["memory"] = {"budget_bytes": BUDGET_BYTES}
    config["serve"]["listen"] = f"127.0.0.1:{free_port()}"
    return config


def assert_within_budget(firn: Firn, more_bytes: int = 0) -> None:
    peak = firn.peak_rss_bytes()
    print(f"peak {peak // MIB} MiB of memory with a budget of {BUDGET_BYTES // MIB} MiB")
    assert peak < BUDGET_BYTES + BESIDE_BYTES + more_bytes, f"{peak // MIB} MiB"


def digest(text: str | None) -> str:
    return hashlib.md5((text or "").encode()).hexdigest()


def large_text(key: int) -> str:
    """Hard to compress, so that files are as large as their rows."""
    luck = random.Random(key)
    block = "".join(luck.choices(string.ascii_letters + string.digits + "\"ü雪", k=1 << 16))
    return "".join(block[at:] + block[:at] for at in luck.sample(range(1 << 16), k=LARGE_BYTES >> 16))


def test_rows_of_10_mb(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=2, max_message_bytes=str(32 * MIB))
    source = Items(trial.kafka, trial.topic(), with_schema=False)
    config = small_budget(trial, trial.topic())
    with trial.firn(config) as firn:
        for key in range(LARGE_ROWS):
            source.put([{"id": key, "name": large_text(key), "quantity": key}])
        source.put([{"id": key, "name": large_text(key + 1_000), "quantity": -key} for key in range(0, LARGE_ROWS, 5)])
        # One that is no row, and as large: it becomes a letter.
        trial.kafka.send(trial.topic(), [(source.key(10_000), b"{" + b"x" * LARGE_BYTES)])
        trial.wait_until_committed(within_s=120)
        assert_within_budget(firn, LARGE_ROW_COPIES * LARGE_BYTES)
        rejected = firn.metrics("firn_rejected_total")
        assert list(rejected.values()) == [1.0], rejected
    want = [[key, digest(name), quantity] for key, name, quantity in source.expected()]
    sql = f"SELECT id, lower(to_hex(md5(to_utf8(name)))), quantity FROM {trial.table()} ORDER BY id"
    assert trial.lake.sql(sql) == want
    table = trial.lake.table(trial.table())
    assert table is not None
    tail = table.scan(row_filter=GreaterThanOrEqual("id", LARGE_ROWS - 5), selected_fields=("id", "name", "quantity")).to_arrow()
    assert sorted([row["id"], digest(row["name"]), row["quantity"]] for row in tail.to_pylist()) == want[-5:]
    letters = trial.lake.sql(f"SELECT length(value), reason FROM {trial.name}.firn_dead_letters")
    assert letters == [[LARGE_BYTES + 1, "not_json"]]


def test_a_backlog_many_times_the_memory(trial: Trial) -> None:
    """Twenty tables of twelve partitions, all behind by all their records."""
    tables = [f"t{i:02d}" for i in range(BACKLOG_TABLES)]
    for table in tables:
        trial.kafka.create(trial.topic(table), partitions=BACKLOG_PARTITIONS)
    rows = BACKLOG_ROWS // BACKLOG_TABLES
    for table in tables:
        source = Items(trial.kafka, trial.topic(table), with_schema=False)
        template = source.value("c", None, {"id": 4242424242, "name": "n" * 200, "quantity": 1}).decode()
        changes = ((f'{{"id":{key}}}'.encode(), template.replace("4242424242", str(key)).encode()) for key in range(rows))
        trial.kafka.send(trial.topic(table), changes)
    # Nothing but the memory ends a batch.
    config = small_budget(trial, *(trial.topic(table) for table in tables), commit_interval_ms=600_000, commit_rows=100_000_000)
    with trial.firn(config) as firn:
        firn.wait_until_it_says("status page")

        def read() -> float:
            return sum(firn.metrics("firn_records_total").values())

        until("the backlog is read", lambda: firn.running() and read() >= BACKLOG_ROWS, 300, every_s=1, then=firn.tail)
        assert_within_budget(firn)
        assert firn.terminate() == 0, firn.tail()
    for table in tables:
        assert trial.lake.sql(f"SELECT count(*), count(DISTINCT id), min(id), max(id) FROM {trial.table(table)}") == [[rows, rows, 0, rows - 1]]
