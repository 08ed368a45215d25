"""Servers that aren't there, buckets that don't exist, keys that don't fit: a named error that says what to do, in `firn check` and in
the log of `firn run`; with the cause gone every row arrives."""

import random
import subprocess
from collections.abc import Callable
from typing import NamedTuple

import pytest

from conftest import Trial
from harness.envelopes import Items, items
from harness.program import Config, sqlite_config
from harness.sameness import assert_same
from harness.waiting import until
from test_catalogs import embedded_rows

NOWHERE = "127.0.0.1:9"
"""The discard port: nobody listens."""


class Case(NamedTuple):
    name: str
    spoil: Callable[[Config], None]
    words: tuple[str, ...]
    """All of them, in one line of what firn says."""
    catalog: str = "hive"
    """The missing bucket is named by the SQL catalog: a Hive Metastore puts databases where its own settings say."""


def broker(c: Config) -> None:
    c["kafka"]["bootstrap_servers"] = NOWHERE


def metastore(c: Config) -> None:
    c["catalog"]["uri"] = f"thrift://{NOWHERE}"


def object_store(c: Config) -> None:
    c["catalog"]["properties"]["s3.endpoint"] = f"http://{NOWHERE}"


def bucket(c: Config) -> None:
    c["catalog"]["warehouse"] = "s3://firn-e2e-no-such-bucket/"


def s3_key(c: Config) -> None:
    c["catalog"]["properties"]["s3.secret-access-key"] = "${FIRN_E2E_WRONG:-wrong-secret}"


CASES = [
    Case("broker", broker, (NOWHERE, "kafka")),
    Case("metastore", metastore, (NOWHERE, "metastore")),
    Case("object store", object_store, (NOWHERE, "s3")),
    Case("missing bucket", bucket, ("firn-e2e-no-such-bucket", "bucket"), catalog="sql"),
    Case("wrong S3 key", s3_key, ("denied", "s3.secret-access-key")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_it_is_named_and_nothing_is_lost(trial: Trial, case: Case) -> None:
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    source.put(items(range(200)))
    good = trial.config(trial.topic())
    bad = trial.config(trial.topic())
    if case.catalog == "sql":
        bad["catalog"] |= {"type": "sql", "uri": f"sqlite:{trial.folder / 'catalog.db'}"}
    case.spoil(bad)

    spoiled = trial.firn(bad, "spoiled")
    answer = spoiled.command("check")
    assert answer.returncode != 0, answer.stdout
    said = (answer.stdout + answer.stderr).lower()
    assert all(word.lower() in said for word in case.words), f"`firn check` lacks {case.words}:\n{said}"
    with spoiled:
        spoiled.wait_until_it_says(*case.words, within_s=60)
        if not spoiled.running():
            assert spoiled.exit_code() not in (0, 101), spoiled.tail()

    with trial.firn(good, "repaired"):
        trial.wait_until_committed()
        assert_same("Trino", trial.lake.sql(f"SELECT id, name, quantity FROM {trial.table()}"), source.expected())


def test_a_full_disk_is_waited_for(trial: Trial) -> None:
    """The warehouse on a file system of 1 MiB, which grows later."""
    warehouse = trial.folder / "warehouse"
    warehouse.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "firn-e2e", str(warehouse)], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        trial.kafka.create(trial.topic())
        source = Items(trial.kafka, trial.topic())
        # Names that no codec makes smaller than the disk.
        source.put({"id": key, "name": random.Random(key).randbytes(300).hex(), "quantity": key} for key in range(8_000))
        config = sqlite_config(trial.stack, trial.folder, topics=[trial.topic()], namespace=trial.name, group=trial.name)
        with trial.firn(config) as firn:
            firn.wait_until_it_says("no space left", within_s=60)
            assert firn.running(), firn.tail()
            subprocess.run(["mount", "-o", "remount,size=200m", str(warehouse)], check=True)
            until("all rows", lambda: len(embedded_rows(trial)) == len(source.rows), 60, then=firn.tail)
            assert_same("PyIceberg", embedded_rows(trial), source.expected())
            assert firn.terminate() == 0, firn.tail()
    finally:
        subprocess.run(["umount", "-l", str(warehouse)], check=False)
