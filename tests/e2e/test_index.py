"""The primary-key index on disk: a new process goes on with it, deleting it costs a scan, `firn index verify` holds it against the table."""

import json
import random
from typing import Any

from conftest import Trial
from harness.envelopes import Items, item, items
from harness.program import Firn, free_port
from harness.sameness import assert_same

KEYS = range(3_000)


def scans(firn: Firn) -> float:
    return sum(firn.metrics("firn_index_rebuild_seconds_count").values())


def verified(firn: Firn, trial: Trial) -> list[dict[str, Any]]:
    done = firn.command("index", "verify", trial.table(), "--output", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_index_outlives_the_process_and_its_loss_costs_a_scan(trial: Trial) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    config = trial.config(trial.topic())
    config["serve"]["listen"] = f"127.0.0.1:{free_port()}"
    firn = trial.firn(config)
    for round_, lost in enumerate([False, False, True]):
        if lost:
            firn.forget_index()
        with firn:
            source.put(item(key, random.Random(key + round_)) for key in KEYS[::2])
            source.remove(KEYS[round_ * 100 + 1 : round_ * 100 + 50])
            trial.wait_until_committed()
            assert (scans(firn) > 0) == lost, f"round {round_}"
            assert verified(firn, trial)[0]["in_use"]
            firn.kill()
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())
        [report] = verified(firn, trial)
        assert (report["rows"], report["missing"], report["misplaced"]) == (len(source.expected()), 0, 0), report
