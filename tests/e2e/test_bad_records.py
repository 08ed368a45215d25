"""Records that can't become rows: they go to the dead letters with origin and reason, and stop nothing but too many of themselves."""

import json

from conftest import Trial
from harness.envelopes import Items, items
from harness.sameness import assert_same

NOT_JSON = b"{ this is no JSON"


def letters(trial: Trial) -> list[dict[str, object]]:
    """The dead letter table as Trino shows it; none yet = none."""
    if not trial.lake.exists(f"{trial.name}.firn_dead_letters"):
        return []
    columns = [row[0] for row in trial.lake.sql(f"SHOW COLUMNS FROM {trial.name}.firn_dead_letters")]
    return [dict(zip(columns, row, strict=True)) for row in trial.lake.sql(f"SELECT * FROM {trial.name}.firn_dead_letters")]


def holds(letter: dict[str, object], *values: object) -> bool:
    return all(value in letter.values() for value in values)


def test_what_is_no_json_becomes_a_dead_letter(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=1)
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(100)))
    trial.kafka.send(trial.topic(), [(source.key(1), NOT_JSON)])
    source.put(items(range(100, 200)))
    with trial.firn(trial.config(trial.topic())) as firn:
        trial.wait_until_committed()
        rows = trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}")
        assert_same("the good rows", rows, source.expected())
        [letter] = letters(trial)
        assert holds(letter, trial.topic(), 0, 100, "not_json"), letter
        assert any(raw in (NOT_JSON, NOT_JSON.decode()) for raw in letter.values()), f"the raw bytes are missing: {letter}"
        assert firn.terminate() == 0, firn.tail()


def test_a_replay_writes_no_letter_twice(trial: Trial) -> None:
    """Killed at any moment between letter and rows, the letter is there once."""
    trial.kafka.create(trial.topic(), partitions=1)
    source = Items(trial.kafka, trial.topic())
    config = trial.config(trial.topic())
    config["dead_letters"]["min_rows"] = 1_000_000
    firn = trial.firn(config)
    with firn:
        for round_ in range(3):
            source.put(items(range(round_ * 50, round_ * 50 + 50)))
            trial.kafka.send(trial.topic(), [(source.key(n), NOT_JSON) for n in range(5)])
            firn.wait_until_it_says("committed")
            firn.kill()
            firn.start()
        trial.wait_until_committed()
    bad = sorted(message.origin[2] for message in trial.kafka.everything(trial.topic()) if message.value == NOT_JSON)
    found = letters(trial)
    offsets = sorted(value for letter in found for name, value in letter.items() if name.endswith("offset"))
    assert offsets == bad


def test_too_many_bad_records_stop_the_table_alone(trial: Trial) -> None:
    for table in ("items", "others"):
        trial.kafka.create(trial.topic(table))
    source, others = Items(trial.kafka, trial.topic()), Items(trial.kafka, trial.topic("others"))
    others.put(items(range(100)))
    trial.kafka.send(trial.topic(), [message for n in range(200) for message in (source.changed(items([n])[0]), (source.key(n), NOT_JSON))])
    config = trial.config(trial.topic(), trial.topic("others"))
    config["dead_letters"] |= {"max_share": 0.1, "min_rows": 50}
    with trial.firn(config) as firn:
        line = firn.wait_until_it_says("stopped", "max_share", "not_json")
        assert trial.topic() in line, line
        trial.wait_until_committed("others")
        assert firn.running(), firn.tail()
        firn.kill()
    # Nothing is lost: with the share allowed every good row arrives, every bad one is a letter.
    config["dead_letters"]["max_share"] = 1.0
    with trial.firn(config, "patient"):
        trial.wait_until_committed()
        assert_same("the good rows", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
        assert len(letters(trial)) == 200


def test_an_envelope_without_schema_needs_the_types_from_elsewhere(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic(), with_schema=False)
    source.put(items(range(100)))
    trial.kafka.create(trial.topic("others"))
    others = Items(trial.kafka, trial.topic("others"))
    others.put(items(range(50)))
    config = trial.config(trial.topic(), trial.topic("others"), infer_types=False)
    config["dead_letters"] |= {"max_share": 0.1, "min_rows": 10}
    with trial.firn(config) as firn:
        firn.wait_until_it_says("stopped", trial.topic(), "no_schema")
        trial.wait_until_committed("others")
        assert firn.running(), firn.tail()
    config["lake"]["tables"] = [{"topic": trial.topic(), "key": ["id"], "columns": {"id": "long", "name": "string", "quantity": "int"}}]
    with trial.firn(config, "declared"):
        trial.wait_until_committed()
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
    # Now the table is there, and its own columns are enough.
    del config["lake"]["tables"]
    source.put(items(range(100, 200)))
    with trial.firn(config, "from_the_table"):
        trial.wait_until_committed()
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())


def test_a_value_that_its_column_cannot_hold(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=1)
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(20)))
    good = json.loads(source.value("u", None, {"id": 3, "name": "x", "quantity": 1}))
    good["payload"]["after"]["quantity"] = "many"
    trial.kafka.send(trial.topic(), [(source.key(3), json.dumps(good).encode())])
    with trial.firn(trial.config(trial.topic())):
        trial.wait_until_committed()
        assert_same("the good rows", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
        [letter] = letters(trial)
        assert holds(letter, 20, "bad_value") and any("quantity" in str(v) for v in letter.values()), letter
