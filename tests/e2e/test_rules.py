"""Rules over the shop's changes: alerts with a cool-down, running statistics, counts; the same whatever is killed."""

import random
import statistics
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from typing import Any

from redis import Redis

from conftest import FULL, Trial
from harness.program import Firn, to_toml
from harness.receiver import receiver
from harness.redis import NUMBER
from harness.source import Source, connector, database
from harness.stack import ROOT
from harness.waiting import until

EXAMPLE = ROOT / "examples" / "r1-lakehouse-live"


def live(trial: Trial, hook_url: str) -> Firn:
    firn = trial.firn({"serve": {"listen": ""}})
    firn.file.write_text((EXAMPLE / "firn.toml").read_text() + "\n" + to_toml(firn.config))
    firn.environment |= {
        "KAFKA_BOOTSTRAP": trial.stack.kafka,
        "FIRN_GROUP": trial.name,
        "TOPIC_PREFIX": trial.name,
        "HTTP_URL": hook_url,
        "HTTP_SECRET": "whsec",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": trial.stack["FIRN_REDIS_PORT"],
        "REDIS_DB": str(NUMBER),
    }
    return firn


def unusual(orders: list[tuple[int, int, float, bool]]) -> dict[int, tuple[int, float, float]]:
    """The model: of orders (id, customer, total, whether it was there before the connector) those that are far from the ones before."""
    before: defaultdict[int, list[float]] = defaultdict(list)
    found = {}
    for order, customer, total, snapshot in orders:
        had = before[customer]
        if not snapshot and len(had) >= 5 and abs(total - statistics.fmean(had)) > 3 * statistics.stdev(had):
            found[order] = (len(had), statistics.fmean(had), statistics.stdev(had))
        had.append(total)
    return found


def shop(source: Source, luck: random.Random) -> None:
    """Some changes of every kind."""
    customer = luck.randint(1, 4)
    total = round(luck.gauss(50 * customer, 5), 2) if luck.random() < 0.9 else round(luck.uniform(500, 900), 2)
    source.run(
        "INSERT INTO inventory.orders (order_number, customer_id, status, order_date, total, placed_at) VALUES (gen_random_uuid(), %s, 'NEW', now(), %s, now())",
        (customer, total),
    )
    if luck.random() < 0.5:
        source.run("UPDATE inventory.stock SET quantity = quantity - 30 WHERE product_id = %s", (luck.randint(1, 4),))
    if luck.random() < 0.3:
        source.run("UPDATE inventory.products SET price = price + 1 WHERE id = %s", (luck.randint(1, 4),))
    if luck.random() < 0.2:
        source.run("UPDATE inventory.customers SET email = 'c' || id || '-' || %s WHERE id = %s", (luck.random(), customer))


def test_alerts_come_once_and_statistics_go_on_whatever_is_killed(trial: Trial, redis: Redis) -> None:
    changes, kills = (2_000, 5) if FULL else (160, 3)
    luck = random.Random(11)
    with ExitStack() as stack:
        source = stack.enter_context(database(trial.stack, trial.name))
        source.run("SET ROLE cdc; " + (EXAMPLE / "prepare.sql").read_text())
        # Of one partition the statistics are those of the table.
        settings = {"topic.creation.default.partitions": "1"}
        name = stack.enter_context(connector(source, "inventory", trial.name, **settings))
        source.wait_until_published(name)
        there = {row[0] for row in source.run("SELECT id FROM inventory.orders")}
        hook = stack.enter_context(receiver(secret="whsec"))
        firn = live(trial, hook.url)
        checked = firn.command("check")
        assert checked.returncode == 0 and "sink replenish.http" in checked.stdout, checked.stdout + checked.stderr
        preview = firn.command("pipeline", "preview", "unusual_orders")
        assert preview.returncode == 0 and "usual" in preview.stdout, preview.stdout + preview.stderr
        with firn.start():
            for n in range(1, changes + 1):
                shop(source, luck)
                # In the middle of what came while nobody read, or of nothing.
                if n % (changes // (kills + 1)) == 0 and n < changes:
                    time.sleep(luck.choice([0.0, 0.3, 1.5]))
                    firn.wait_until_it_says("remembered", "unusual_orders.http")
                    firn.kill()
                    firn.start()
                time.sleep(0.02)
            source.wait_until_published(name)

            def of(alert: str) -> list[dict[str, Any]]:
                return [row for row in hook.rows() if row["alert"] == alert]

            orders = source.run("SELECT id, customer_id, total::float, placed_at FROM inventory.orders ORDER BY id")
            want = unusual([(r[0], r[1], r[2], r[0] in there) for r in orders])
            assert want, "the load has some"
            until("the unusual orders are told", lambda: len(of("unusual")) >= len(want), 60, then=firn.tail)
            told = {row["order_id"]: (row["orders_before"], row["usual"], row["spread"]) for row in of("unusual")}
            assert sorted(row["order_id"] for row in of("unusual")) == sorted(want), "each once"
            for order, (count, mean, stddev) in want.items():
                assert told[order][0] == count and abs(told[order][1] - mean) < 1e-6 and abs(told[order][2] - stddev) < 1e-6, order

            low = {r[0] for r in source.run("SELECT product_id FROM inventory.stock WHERE quantity < reorder_level")}
            until("the stock is told", lambda: {row["product_id"] for row in of("replenish")} >= low, 60, then=firn.tail)
            # It fell further many times since: the cool-down has outlived every process.
            assert sorted(row["product_id"] for row in of("replenish")) == sorted(low)
            skus = dict(source.run("SELECT id, sku FROM inventory.products"))
            assert all(row["sku"] == skus[row["product_id"]] for row in of("replenish"))

            # Each price by itself: they rose by one.
            risen = {r[0]: r[1] for r in source.run("SELECT id, price::text FROM inventory.products")}

            def price_changes() -> dict[int, list[float]]:
                found: defaultdict[int, list[float]] = defaultdict(list)
                for row in of("price"):
                    found[row["product_id"]].append(float(row["price"]))
                return found

            last = {p: float(v) for p, v in risen.items() if p <= 4}
            until("the prices are told", lambda: all(last[p] in seen for p, seen in price_changes().items()), 60, then=firn.tail)
            for product, seen in price_changes().items():
                assert seen == [round(last[product] - n, 2) for n in reversed(range(len(seen)))], product

            def counted() -> Counter[str]:
                counts: Counter[str] = Counter()
                for key in redis.keys("operations:orders:*"):
                    counts.update({k: int(v) for k, v in redis.hgetall(key).items()})
                return counts

            until("the orders are counted", lambda: counted()["inserts"] >= changes, 60, then=firn.tail)
            assert counted()["inserts"] == changes
            spent: defaultdict[int, list[float]] = defaultdict(list)
            for row in orders:
                spent[row[1]].append(row[2])

            def behaviour() -> dict[int, tuple[int, int]]:
                found = {key: redis.hgetall(key) for key in redis.keys("customer:*")}
                return {int(key.split(":")[1]): (int(f["orders"]), int(f["spent_cents"])) for key, f in found.items()}

            wanted = {c: (len(t), round(sum(t) * 100)) for c, t in spent.items()}
            until("the customers are counted", lambda: behaviour() == wanted, 60, then=firn.tail)
            assert redis.zcard("top_customers") > 0
            assert firn.terminate() == 0, firn.tail()
