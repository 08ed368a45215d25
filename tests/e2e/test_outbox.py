"""The outbox: every row of the table is in the topic once and marked, whatever breaks; and on from there into ClickHouse."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import FULL, Trial
from harness.clickhouse import ClickHouse
from harness.program import Firn, free_port, to_toml
from harness.source import Source, connector, database
from harness.stack import ROOT
from harness.topics import Kafka
from harness.waiting import until

EXAMPLE = ROOT / "examples" / "r5-outbox"


class Outbox:
    """The example's table in a database of the test's own, and its topic."""

    def __init__(self, trial: Trial, source: Source, partitions: int) -> None:
        self.trial = trial
        self.source = source
        self.topic = f"{trial.name}.user_event"
        source.run((EXAMPLE / "schema.sql").read_text())
        trial.kafka.create(self.topic, partitions=partitions)

    def firn(self, name: str = "firn", **outbox: Any) -> Firn:
        """Of this outbox alone."""
        firn = self.trial.firn({"kafka": {"bootstrap_servers": self.trial.stack.kafka, "group": self.trial.name}}, name)
        table = {"name": "logins", "url": self.source.url(), "table": "user_login", "flag": "sent_to_kafka", "topic": self.topic, "poll_ms": 50}
        firn.file.write_text(to_toml({**firn.config, "outbox": [table | outbox]}))
        return firn

    def insert(self, number: int) -> None:
        self.source.run(
            "INSERT INTO user_login (username, event_type, event_time) SELECT 'user ' || n, 'login', '2024-05-01 10:00:00' FROM generate_series(1, %s) n",
            (number,),
        )

    def sent(self) -> list[dict[str, Any]]:
        """What a reader of what is committed finds."""
        return [json.loads(message.value or b"") for message in self.trial.kafka.read(self.topic)]

    def unmarked(self) -> int:
        return int(self.source.run("SELECT count(*) FROM user_login WHERE sent_to_kafka IS NOT TRUE")[0][0])

    def assert_each_once(self) -> None:
        ids = Counter(row["id"] for row in self.sent())
        wanted = Counter(row[0] for row in self.source.run("SELECT id FROM user_login"))
        assert ids == wanted, f"more than once: {ids - wanted}, missing: {wanted - ids}"
        assert self.unmarked() == 0


@contextmanager
def outbox_of(trial: Trial, partitions: int = 3) -> Iterator[Outbox]:
    with database(trial.stack, trial.name) as source:
        yield Outbox(trial, source, partitions)


@pytest.fixture
def outbox(trial: Trial) -> Iterator[Outbox]:
    with outbox_of(trial) as made:
        yield made


def once(firn: Firn, *arguments: str) -> dict[str, Any]:
    ended = firn.command("outbox", "--once", "--output", "json", *arguments)
    assert ended.returncode == 0, ended.stderr
    [done] = json.loads(ended.stdout)
    return dict(done)


def test_a_run_sends_what_waits_and_another_sends_nothing(outbox: Outbox) -> None:
    firn = outbox.firn(batch_rows=10)
    outbox.insert(25)
    checked = firn.command("check")
    assert "user_login to topic" in checked.stdout and "rows wait" in checked.stdout, checked.stdout + checked.stderr
    assert once(firn) == {"outbox": "logins", "sent": 25, "found": 0, "refused": []}
    assert once(firn)["sent"] == 0
    outbox.assert_each_once()
    first = min(outbox.sent(), key=lambda row: row["id"])
    assert first == {"id": 1, "username": "user 1", "event_type": "login", "event_time": "2024-05-01T10:00:00"}
    # A person who takes a mark back wants the row to be sent again.
    outbox.source.run("UPDATE user_login SET sent_to_kafka = false WHERE id = 7")
    assert once(firn)["sent"] == 1
    assert Counter(row["id"] for row in outbox.sent())[7] == 2


def test_metrics_tell_what_waits_and_what_was_sent(outbox: Outbox) -> None:
    firn = outbox.firn()
    outbox.insert(25)
    firn.config["serve"] = {"listen": f"127.0.0.1:{free_port()}"}
    firn.start("outbox", "--listen", firn.config["serve"]["listen"])
    firn.wait_until_it_says("taken")
    named = 'outbox="logins"'
    until("all is sent", lambda: firn.metrics("firn_outbox_sent_total").get(named) == 25, 30, then=firn.tail)
    until("nothing waits", lambda: firn.metrics("firn_outbox_unsent_rows").get(named) == 0, 30, then=firn.tail)
    assert firn.metrics("firn_outbox_refused_rows") == {named: 0}


@pytest.mark.parametrize("action", ["crash", "lost-answer", "error"])
def test_whatever_fails_at_whatever_step_each_row_is_there_once(outbox: Outbox, action: str) -> None:
    firn = outbox.firn(batch_rows=10)
    armed = firn.folder / "armed"
    firn.environment["FIRN_FAILPOINTS"] = str(armed)
    for step in ("outbox-send", "outbox-commit", "outbox-mark"):
        for when in ("before", "after"):
            # In the middle: a batch before it is done, one after it waits.
            armed.write_text(f"{step}.{when}={action}@2\n")
            outbox.insert(25)
            firn.start("outbox", "--idle-exit", "500ms")
            code = firn.exit_code()
            assert armed.read_text() == "", f"{step}.{when} was not passed: {firn.tail()}"
            assert code == (-9 if action == "crash" else 0), f"{step}.{when}: {firn.tail()}"
            if action == "crash":
                behind = outbox.unmarked()
                done = once(firn)
                is_sent = (step, when) in (("outbox-commit", "after"), ("outbox-mark", "before"))
                assert (done["found"], done["sent"]) == ((10, behind - 10) if is_sent else (0, behind)), (step, when, done)
    outbox.assert_each_once()


@pytest.mark.parametrize("step", ["outbox-send.before", "outbox-commit.before", "outbox-commit.after", "outbox-mark.before"])
def test_of_two_processes_the_newer_one_goes_on(outbox: Outbox, step: str) -> None:
    old, new = outbox.firn("old", batch_rows=10), outbox.firn("new", batch_rows=10)
    armed = old.folder / "armed"
    old.environment["FIRN_FAILPOINTS"] = str(armed)
    armed.write_text(f"{step}=stall(6000)@2\n")
    outbox.insert(35)
    old.start("outbox")
    until("the old one stands still", lambda: armed.read_text() == "", 30, then=old.tail)
    new.start("outbox")
    until("the new one has sent the rest", lambda: outbox.unmarked() == 0, 30, then=new.tail)
    # Taken back on purpose while the old one is not awake: what it had under way must not be marked by it.
    outbox.source.run("UPDATE user_login SET sent_to_kafka = false WHERE id = 15")
    assert old.exit_code() == 4 and old.says("another process has taken the outbox logins"), old.tail()
    until("the row was sent again", lambda: outbox.unmarked() == 0, 30, then=new.tail)
    assert new.terminate() == 0, new.tail()
    ids = Counter(row["id"] for row in outbox.sent())
    assert ids == Counter(range(1, 36)) + Counter([15]), ids


def test_a_mark_that_does_not_stay_stops_it_before_anything_is_sent_again(outbox: Outbox) -> None:
    outbox.insert(5)
    outbox.source.run(
        "CREATE FUNCTION unmark() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.sent_to_kafka := false; RETURN NEW; END';"
        "CREATE TRIGGER unmark BEFORE UPDATE ON user_login FOR EACH ROW EXECUTE FUNCTION unmark()"
    )
    firn = outbox.firn()
    for _ in range(2):
        ended = firn.command("outbox", "--once")
        assert ended.returncode == 4 and "can't be marked" in ended.stderr, ended.stdout + ended.stderr
        assert Counter(row["id"] for row in outbox.sent()) == Counter(range(1, 6))
    outbox.source.run("DROP TRIGGER unmark ON user_login")
    assert once(firn) == {"outbox": "logins", "sent": 0, "found": 5, "refused": []}
    outbox.assert_each_once()


def crash_after_commit(outbox: Outbox, firn: Firn, rows: int) -> None:
    """These rows are in the topic and not marked."""
    armed = firn.folder / "armed"
    firn.environment["FIRN_FAILPOINTS"] = str(armed)
    armed.write_text("outbox-mark.before=crash\n")
    outbox.insert(rows)
    assert firn.command("outbox", "--once").returncode == -9
    assert outbox.unmarked() == rows


def test_rows_behind_another_producers_open_transaction_are_found(outbox: Outbox, kafka: Kafka) -> None:
    firn = outbox.firn()
    armed = firn.folder / "armed"
    firn.environment["FIRN_FAILPOINTS"] = str(armed)
    armed.write_text("outbox-mark.before=crash\n")
    firn.start("outbox").wait_until_it_says("taken")
    other = Kafka(kafka.bootstrap, f"{outbox.topic}-other")
    other.producer.begin_transaction()
    for partition in range(3):
        other.producer.produce(outbox.topic, value=b'{"id": 0}', partition=partition)
    assert other.producer.flush(30) == 0
    outbox.insert(20)
    assert firn.exit_code() == -9 and outbox.unmarked() == 20 and not outbox.sent(), firn.tail()
    firn.start("outbox", "--idle-exit", "500ms")
    time.sleep(3)
    assert firn.running() and outbox.unmarked() == 20, firn.tail()
    other.producer.abort_transaction(30)
    assert firn.exit_code() == 0, firn.tail()
    outbox.assert_each_once()


def test_a_topic_made_anew_and_one_that_has_grown(outbox: Outbox) -> None:
    firn = outbox.firn()
    outbox.insert(5)
    once(firn)
    outbox.trial.kafka.grow(outbox.topic, 6)
    crash_after_commit(outbox, firn, 40)
    assert once(firn) == {"outbox": "logins", "sent": 0, "found": 40, "refused": []}
    outbox.assert_each_once()
    outbox.trial.kafka.delete(outbox.topic)
    outbox.trial.kafka.create(outbox.topic, partitions=2)
    outbox.insert(5)
    ended = firn.command("outbox", "--once")
    assert ended.returncode == 0 and "made anew" in ended.stderr, ended.stderr
    # What was marked stays so: the old topic's rows were sent.
    assert sorted(row["id"] for row in outbox.sent()) == list(range(46, 51))


def test_what_retention_took_is_not_sent_twice_without_a_word(outbox: Outbox) -> None:
    firn = outbox.firn()
    crash_after_commit(outbox, firn, 10)
    outbox.trial.kafka.delete_records(outbox.topic, outbox.trial.kafka.ends(outbox.topic))
    refused = firn.command("outbox", "--once")
    assert refused.returncode == 4 and "--skip-lost" in refused.stderr, refused.stderr
    assert once(firn, "logins", "--skip-lost")["sent"] == 10
    outbox.assert_each_once()


def test_a_row_that_the_topic_does_not_take_stays_behind_alone(trial: Trial) -> None:
    with outbox_of(trial) as outbox:
        outbox.topic += ".small"
        trial.kafka.create(outbox.topic, partitions=2, max_message_bytes="20000")
        firn = outbox.firn()
        outbox.insert(40)
        outbox.source.run("UPDATE user_login SET username = repeat('x', 30000) WHERE id IN (5, 30)")
        ended = firn.command("outbox", "--once", "--output", "json")
        assert ended.returncode == 1, ended.stderr
        [done] = json.loads(ended.stdout)
        assert (done["sent"], done["refused"]) == (38, ["5", "30"])
        assert sorted(row["id"] for row in outbox.sent()) == [n for n in range(1, 41) if n not in (5, 30)]
        assert outbox.unmarked() == 2


def test_values_are_postgresqls_own_json(outbox: Outbox) -> None:
    outbox.source.run(
        """CREATE TABLE "Odd" (k uuid PRIMARY KEY, done boolean, "n""q" numeric, big bigint, f float8, ts timestamptz, d date, b bytea, j jsonb, a int[], t text);
        INSERT INTO "Odd" VALUES ('0b0e0d4c-7d2f-4f2c-9f93-3a6f0a5a8f11', NULL, 12345678901234567890.1230, 9007199254740993, 0.1, '2024-05-01 12:00:00+02',
        '2024-05-01', '\\x00ff', '{"x": [1, null]}', '{1,NULL}', E'"ä\\n');"""
    )
    firn = outbox.firn(table="public.Odd", key="k", flag="done", message_key="d")
    assert once(firn)["sent"] == 1
    [message] = outbox.trial.kafka.read(outbox.topic)
    assert message.key == b"2024-05-01"
    assert (message.value or b"").decode() == (
        '{"k":"0b0e0d4c-7d2f-4f2c-9f93-3a6f0a5a8f11","n\\"q":12345678901234567890.1230,"big":9007199254740993,"f":0.1,'
        '"ts":"2024-05-01T10:00:00+00:00","d":"2024-05-01","b":"\\\\x00ff","j":{"x": [1, null]},"a":[1,null],"t":"\\"ä\\n"}'
    )


def test_a_table_that_can_be_no_outbox_is_told_why(outbox: Outbox) -> None:
    for wrong, words in [({"table": "nothing"}, "no table public.nothing"), ({"key": "username"}, "does not tell rows apart"), ({"flag": "username"}, "has to be boolean")]:
        refused = outbox.firn(**wrong).command("outbox", "--once")
        assert refused.returncode == 1 and words in refused.stderr, refused.stderr
    refused = outbox.firn().command("outbox", "lagins")
    assert refused.returncode == 2 and "there are: logins" in refused.stderr, refused.stderr


def example(trial: Trial, outbox: Outbox, clickhouse: ClickHouse, folder: Path = EXAMPLE) -> tuple[Firn, Firn]:
    """`firn outbox` and `firn run` of the example, each a process of its own."""
    both = []
    for name in ("sender", "receiver"):
        firn = trial.firn({"serve": {"listen": ""}}, name)
        firn.file.write_text((folder / "firn.toml").read_text() + "\n" + to_toml(firn.config))
        firn.environment |= {
            "KAFKA_BOOTSTRAP": trial.stack.kafka,
            "FIRN_GROUP": trial.name,
            "OUTBOX_URL": outbox.source.url(password=trial.stack["FIRN_PG_PASSWORD"]),
            "TOPIC": outbox.topic,
            "CLICKHOUSE_URL": clickhouse.url,
            "CLICKHOUSE_DATABASE": clickhouse.database,
        }
        both.append(firn)
    return both[0], both[1]


def test_logins_reach_clickhouse_once_under_kills_and_late_commits(trial: Trial, clickhouse: ClickHouse) -> None:
    rounds, rows = (20, 500) if FULL else (6, 100)
    with outbox_of(trial) as outbox:
        sender, receiver = example(trial, outbox, clickhouse)
        checked = sender.command("check")
        assert checked.returncode == 0, checked.stdout
        with sender.start("outbox"), receiver.start():
            for n in range(rounds):
                # Its rows have the lowest ids of the round and show last.
                late = outbox.source.connect()
                late.set_session(autocommit=False)
                with late.cursor() as cursor:
                    cursor.execute("INSERT INTO user_login (username, event_type, event_time) VALUES ('late', 'logout', NULL)")
                for _ in range(5):
                    outbox.insert(rows // 5)
                    time.sleep(0.05)
                (sender if n % 2 == 0 else receiver).kill()
                late.commit()
                late.close()
                sender.start("outbox") if n % 2 == 0 else receiver.start()
            until("all are marked", lambda: outbox.unmarked() == 0, 60, then=sender.tail)
            outbox.assert_each_once()
            wanted = [list(row) for row in outbox.source.run("SELECT id, username, event_type, event_time::text FROM user_login ORDER BY id")]
            query = "SELECT id, username, event_type, substring(toString(event_time), 1, 19) FROM user_login ORDER BY id"
            until("ClickHouse has the table", lambda: clickhouse.rows("EXISTS TABLE user_login") == [[1]], 60, then=receiver.tail)
            until("ClickHouse has them", lambda: len(clickhouse.rows(query)) >= len(wanted), 60, then=receiver.tail)
            assert clickhouse.rows(query) == wanted
            assert sender.terminate() == 0 and receiver.terminate() == 0, sender.tail() + receiver.tail()


def test_an_outbox_captured_by_debezium_needs_no_more_than_a_select(trial: Trial, clickhouse: ClickHouse) -> None:
    """The pipeline of docs/outbox.md, as it stands there."""
    with database(trial.stack, trial.name) as source:
        source.run("CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb)")
        insert = "INSERT INTO outbox VALUES (gen_random_uuid(), '%s', '%d', 'placed', '{\"total\": %d}')"
        source.run(insert % ("order", 1, 10))
        with connector(source, "engagement", trial.name, **{"table.include.list": "public.content,public.outbox"}) as name:
            source.wait_until_published(name)
            for n in range(2, 6):
                # Written and deleted at once, as the router's users do.
                source.run(";".join([insert % ("order", n, n * 10), insert % ("invoice", n, 0), "DELETE FROM outbox WHERE aggregateid <> '1'"]))
            source.wait_until_published(name)
            firn = trial.firn({"kafka": {"bootstrap_servers": trial.stack.kafka, "group": trial.name}, "serve": {"listen": ""}})
            block = next(b for b in (ROOT / "docs" / "outbox.md").read_text().split("```toml\n") if b.startswith("[[pipelines]]")).split("```")[0]
            block = block.replace("postgres.public.outbox", trial.topic("outbox")).replace("http://localhost:8123", clickhouse.url)
            assert 'table = "order_events"' in block
            block = block.replace('table = "order_events"', f'table = "order_events"\ndatabase = "{clickhouse.database}"')
            firn.file.write_text(to_toml(firn.config) + block)
            ended = firn.command("run", "--idle-exit", "3s")
            assert ended.returncode == 0, ended.stderr
            rows = clickhouse.rows("SELECT order_id, type, payload FROM order_events ORDER BY order_id")
            assert rows == [[str(n), "placed", f'{{"total": {n * 10}}}'] for n in range(1, 6)]
