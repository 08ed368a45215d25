"""Dead letters looked at and replayed by the commands, beside a running firn: what came later is neither overwritten nor revived."""

import json
from typing import Any

from conftest import Trial
from harness.envelopes import Items, Message, items
from harness.program import Config, Firn
from harness.sameness import assert_same

LARGE = 5_000_000_000
"""A quantity that no int holds."""

NOT_JSON = b"{ this is no JSON"


def declared(trial: Trial, quantity: str, **more: Any) -> Config:
    config = trial.config(trial.topic())
    columns = {"id": "long", "name": "string", "quantity": quantity}
    config["lake"]["tables"] = [{"topic": trial.topic(), "columns": columns, **more}]
    config["dead_letters"] |= {"max_share": 1.0}
    return config


def ask(firn: Firn, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    """What `firn dead-letters` answers."""
    done = firn.command("dead-letters", *arguments, "--output", "json")
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    answer: list[dict[str, Any]] = json.loads(done.stdout)
    return answer


def statuses(answer: list[dict[str, Any]]) -> dict[int, str]:
    return {int(letter["origin"].rsplit("@", 1)[1]): letter["status"] for letter in answer}


def too_large(source: Items, key: int) -> Message:
    """An update that the source has made and the table can't hold."""
    return source.changed({"id": key, "name": f"large {key}", "quantity": LARGE})


def rows(trial: Trial) -> list[list[Any]]:
    return trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}")


def test_letters_are_listed_shown_and_replayed(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=1)
    source = Items(trial.kafka, trial.topic(), with_schema=False)
    source.put(items(range(20)))
    letters = [too_large(source, key) for key in (1, 2, 3, 100)]
    trial.kafka.send(trial.topic(), [*letters, (source.key(4), NOT_JSON)])
    with trial.firn(declared(trial, "int")) as running:
        trial.wait_until_committed()
        # In a later commit: key 2 is updated, key 3 deleted.
        source.put([{"id": 2, "name": "later", "quantity": 2}])
        source.remove([3])
        trial.wait_until_committed()

        found = ask(running, "list")
        assert statuses(found) == {offset: "pending" for offset in range(20, 25)}
        assert {letter["reason"] for letter in found} == {"bad_value", "not_json"}
        assert [letter["offset"] for letter in ask(running, "list", "--reason", "not_json")] == [24]
        assert len(ask(running, "list", "--limit", "2", "--table", trial.table(), "--since", "1h")) == 2
        assert ask(running, "list", "--table", "no.other") == []
        [shown] = ask(running, "show", f"{trial.topic()}/0@20")
        assert json.loads(shown["value"]["text"])["after"]["quantity"] == LARGE and json.loads(shown["key"]["text"]) == {"id": 1}
        assert str(LARGE) in running.command("dead-letters", "show", f"{trial.topic()}/0@20").stdout
        assert running.command("dead-letters", "show", f"{trial.topic()}/0@19").returncode == 1

        # Without a remedy nothing changes.
        assert set(statuses(ask(running, "replay", code=1)).values()) == {"pending"}

        # The column may be long from now on; the running firn still has its old configuration.
        mended = trial.firn(declared(trial, "long"), "mended")
        outcomes = statuses(ask(mended, "replay", code=1))
        assert outcomes == {20: "replayed", 21: "superseded", 22: "superseded", 23: "replayed", 24: "pending"}
        assert_same("Trino", rows(trial), source.expected())
        assert statuses(ask(mended, "replay", code=1)) == {24: "pending"}, "once more changes nothing"
        assert_same("Trino", rows(trial), source.expected())

        # The running firn goes on, on the rows that came by the replay too.
        source.put([{"id": 1, "name": "after the replay", "quantity": 1}])
        source.remove([100])
        trial.wait_until_committed()
        assert_same("Trino", rows(trial), source.expected())

        assert statuses(ask(mended, "discard", f"{trial.topic()}/0@24")) == {24: "discarded"}
        assert ask(mended, "list") == []
        assert running.terminate() == 0, running.tail()
    columns = "offset, reason, status, key_text, from_utf8(key), value = to_utf8(value_text), rejected_ts IS NOT NULL, status_ts IS NOT NULL"
    in_trino = trial.lake.sql(f'SELECT {columns} FROM {trial.name}.firn_dead_letters ORDER BY "offset"')
    want = [(20, 1, "replayed"), (21, 2, "superseded"), (22, 3, "superseded"), (23, 100, "replayed"), (24, 4, "discarded")]
    reasons = {24: "not_json"}
    keys = {key: source.key(key).decode() for _, key, _ in want}
    assert in_trino == [[o, reasons.get(o, "bad_value"), status, keys[key], keys[key], True, True, True] for o, key, status in want]


def test_letters_in_a_topic(trial: Trial) -> None:
    """At least once: a killed firn may write a letter again, under the same identity."""
    letters = trial.topic("letters")
    for topic in (trial.topic(), letters):
        trial.kafka.create(topic, partitions=2)
    source = Items(trial.kafka, trial.topic(), with_schema=False)
    config = declared(trial, "int")
    config["dead_letters"] |= {"to": "topic", "topic": letters}
    firn = trial.firn(config)
    with firn:
        for round_ in range(3):
            source.put(items(range(round_ * 50, round_ * 50 + 50)))
            trial.kafka.send(trial.topic(), [too_large(source, key) for key in range(round_ * 50, round_ * 50 + 5)])
            firn.wait_until_it_says("committed")
            firn.kill()
            firn.start()
        trial.wait_until_committed()
        sent = trial.kafka.everything(trial.topic())
        bad = {message.origin: message for message in sent if str(LARGE).encode() in (message.value or b"")}
        assert len(bad) == 15
        kept = trial.kafka.everything(letters)
        assert {(m.key, m.value) for m in kept} == {(m.key, m.value) for m in bad.values()}, "key and value as they came"
        found = ask(firn, "list")
        assert {(letter["topic"], letter["partition"], letter["offset"]) for letter in found} == set(bad)
        assert len(found) == len(bad), "however often it was written"
        source.put([{"id": 0, "name": "later", "quantity": 0}])
        source.remove([1])
        trial.wait_until_committed()
        config = declared(trial, "long")
        config["dead_letters"] |= {"to": "topic", "topic": letters}
        mended = trial.firn(config, "mended")
        outcomes = ask(mended, "replay")
        assert sorted(letter["status"] for letter in outcomes) == ["replayed"] * 13 + ["superseded"] * 2
        assert_same("Trino", rows(trial), source.expected())
        assert ask(mended, "list") == [] and ask(mended, "replay") == []
        assert len(ask(mended, "list", "--status", "all")) == 15
        assert firn.terminate() == 0, firn.tail()


def test_a_letter_with_an_unreadable_key_goes_by_the_log(trial: Trial) -> None:
    """Nothing tells firn what to watch; the replay, under a configuration that names the key, reads Kafka's log onward. Where
    retention has removed that, it refuses."""
    trial.kafka.create(trial.topic(), partitions=1)
    source = Items(trial.kafka, trial.topic(), with_schema=False)
    source.put(items(range(10)))
    for key in (1, 2, 3):
        _, value = source.changed({"id": key, "name": "by the log", "quantity": key})
        trial.kafka.send(trial.topic(), [(NOT_JSON, value)])
    source.put([{"id": 2, "name": "later", "quantity": 2}])
    source.remove([3])
    with trial.firn(declared(trial, "int")):
        trial.wait_until_committed()
        mended = trial.firn(declared(trial, "int", key=["id"]), "mended")
        assert statuses(ask(mended, "replay")) == {10: "replayed", 11: "superseded", 12: "superseded"}
        assert_same("Trino", rows(trial), source.expected())

        _, value = source.changed({"id": 5, "name": "never to be", "quantity": 5})
        trial.kafka.send(trial.topic(), [(NOT_JSON, value)])
        source.put(items(range(20, 30)))
        trial.wait_until_committed()
        [letter] = ask(mended, "list")
        trial.kafka.delete_records(trial.topic(), {0: letter["offset"] + 2})
        [refused] = ask(mended, "replay", code=1)
        assert refused["status"] == "pending" and "retention" in refused["detail"], refused


def test_an_append_table_gets_the_row_once(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=1)
    source = Items(trial.kafka, trial.topic(), with_schema=False)
    source.put(items(range(10)))
    trial.kafka.send(trial.topic(), [too_large(source, 1)])
    source.remove([1])
    with trial.firn(declared(trial, "int", mode="append")):
        trial.wait_until_committed()
        mended = trial.firn(declared(trial, "long", mode="append"), "mended")
        for _ in range(2):
            ask(mended, "replay")
        got = trial.lake.sql(f"SELECT id, quantity, _firn_offset, _firn_op FROM {trial.table()} WHERE _firn_offset >= 10 ORDER BY _firn_offset")
        assert got == [[1, LARGE, 10, "u"], [1, None, 11, "d"]]
