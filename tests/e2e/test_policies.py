"""`firn run` alone keeps its table fast: two processes under load, the one that keeps the table is killed, and quiet hours hold."""

import copy
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.error import URLError

from trino.exceptions import TrinoQueryError

from conftest import Trial
from harness.churn import churn
from harness.envelopes import Items, items
from harness.program import Config, Firn, free_port, to_toml
from harness.sameness import assert_same
from harness.waiting import until

KEYS = range(1_000)
COLUMNS = "id, name, quantity"
# With so many commits of three partitions and nobody who compacts there would be far more files.
COMMITS, MOST_FILES = 40, 40


def config_with(trial: Trial, **policy: Any) -> Config:
    config = copy.deepcopy(trial.config(trial.topic(), commit_interval_ms=300))
    config["kafka"]["workers"] = 1
    config["serve"]["listen"] = f"127.0.0.1:{free_port()}"
    config["maintain.policy"] = {
        "enabled": True,
        "compact_every": "2s",
        "manifests_every": "3s",
        "expire_every": "3s",
        "orphans_every": "10s",
        "expire_older_than": "10s",
        "retain_last": 3,
        **policy,
    }
    config["maintain.budget"] = {"cpu": 0.5, "bytes_per_second": 64 << 20}
    return config


def told(firn: Firn, name: str) -> dict[str, float]:
    """Nothing while it does not serve."""
    try:
        return firn.metrics(name)
    except URLError:
        return {}


def runs(firn: Firn, kind: str, what: str = "runs_total") -> float:
    return sum(value for labels, value in told(firn, f"firn_maintain_{what}").items() if f'kind="{kind}"' in labels)


def commits(firn: Firn) -> float:
    return sum(told(firn, "firn_commits_total").values())


def data_files(trial: Trial) -> int:
    schema, name = trial.table().split(".")
    counted: list[int] = []

    def counts() -> bool:
        try:
            counted.append(trial.lake.sql(f'SELECT count(*) FROM {schema}."{name}$files" WHERE content = 0')[0][0])
        except TrinoQueryError:
            # Snapshots go after ten seconds here: a query that is planned slowly finds its own gone.
            return False
        return True

    until("Trino counts the files", counts, 60)
    return counted[0]


def upkeep(firn: Firn, of: str = "tables") -> list[dict[str, Any]]:
    shown = json.loads(firn.command("status", "--output", "json").stdout)
    of_tables: list[dict[str, Any]] = [one for table in shown[of] for one in table["maintenance"]]
    return of_tables


def test_a_table_is_kept_fast_by_its_writers_alone(trial: Trial) -> None:
    trial.kafka.create(trial.topic(), partitions=3)
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    pair = [trial.firn(config_with(trial), name) for name in ("one", "two")]
    with pair[0], pair[1]:
        for firn in pair:
            until("both commit", lambda firn=firn: firn.says("committed"), 60, then=firn.tail)
        with churn(source, KEYS, seed=5):
            until("one of them compacts", lambda: any(runs(firn, "compact") >= 2 for firn in pair), 30, then=trial.tails)
            keeper, other = sorted(pair, key=lambda firn: -runs(firn, "compact"))
            keeper.kill()
            until("the other takes it over", lambda: runs(other, "compact") >= 3 and runs(other, "expire") >= 1, 40, then=other.tail)
            until("it commits many times", lambda: commits(other) >= COMMITS, 60, then=other.tail)
            files = data_files(trial)
            assert files <= MOST_FILES, f"{files} data files after {commits(other)} commits\n{other.tail()}"
            for kind in ("compact", "manifests", "expire", "orphans"):
                until(f"{kind} is done", lambda kind=kind: runs(other, kind, "last_success_seconds") > 0, 20, then=other.tail)
                assert runs(other, kind, "failures_total") == 0, other.tail()
            assert runs(other, "compact", "bytes_total") > 0 and runs(other, "compact", "cpu_ms_total") > 0
            shown = {one["kind"]: one for one in upkeep(other)}
            assert set(shown) == {"compact", "manifests", "expire", "orphans"}, shown
            assert shown["compact"]["last_result"] and shown["compact"]["last_error"] is None, shown
            loaded = trial.lake.table(trial.table())
            assert loaded is not None and len(loaded.snapshots()) < COMMITS, "snapshots went"
        trial.wait_until_committed()
        assert other.terminate(within_s=20) == 0, other.tail()
    assert_same("Trino", trial.lake.sql(f"SELECT {COLUMNS} FROM {trial.table()}"), source.expected())

    # From an hour ago to an hour from now, whatever the time is.
    now = datetime.now(UTC)
    hours = "-".join((now + timedelta(hours=h)).strftime("%H:%M") for h in (-1, 1))
    quiet = trial.firn(config_with(trial, quiet_hours=hours), "quiet")
    with quiet:
        with churn(source, KEYS, seed=6):
            until("it is due and waits", lambda: runs(quiet, "compact", "deferred_total") >= 1, 40, then=quiet.tail)
            before = commits(quiet)
            until("it goes on writing", lambda: commits(quiet) >= before + 15, 40, then=quiet.tail)
        assert runs(quiet, "compact") == 0 and not quiet.says("maintained"), quiet.tail()
        assert runs(quiet, "compact", "deferred_total") == 1, "told once"
        assert "quiet hours" in quiet.command("status").stdout
        trial.wait_until_committed()
        assert quiet.terminate(within_s=20) == 0, quiet.tail()
    assert_same("Trino", trial.lake.sql(f"SELECT {COLUMNS} FROM {trial.table()}"), source.expected())


def test_a_pipelines_table_is_kept_fast_by_who_writes_it(trial: Trial) -> None:
    """Without a table of `[lake]`, by two processes of which the keeper is killed; what the sink says goes before what all have."""
    trial.kafka.create(trial.topic(), partitions=3)
    source = Items(trial.kafka, trial.topic())
    source.put(items(KEYS))
    table = trial.table("mirrored")
    pair = []
    for name in ("one", "two"):
        config = config_with(trial, compact_every="300d")
        del config["lake"]
        firn = trial.firn(config, name)
        firn.file.write_text(f"""{to_toml(config)}
[[pipelines]]
name = "mirror"
sql = "SELECT image.id, image.name, image.quantity FROM i"
sources = [{{ topic = "{trial.topic()}", name = "i" }}]

[[pipelines.lake]]
table = "{table}"
mode = "upsert"
key = ["id"]
commit_interval_ms = 300
maintain = {{ compact_every = "2s" }}
""")
        pair.append(firn)

    def has_all() -> bool:
        return trial.lake.exists(table) and trial.lake.sql(f"SELECT count(*) FROM {table}") == [[len(source.expected())]]

    with pair[0], pair[1]:
        until("the table has the first rows", has_all, 60, every_s=1, then=trial.tails)
        with churn(source, KEYS, seed=7):
            until("one of them compacts", lambda: any(runs(firn, "compact") >= 2 for firn in pair), 60, then=trial.tails)
            keeper, other = sorted(pair, key=lambda firn: -runs(firn, "compact"))
            assert runs(other, "compact") == 0, "one of them alone"
            keeper.kill()
            until("the other takes it over", lambda: runs(other, "compact") >= 3 and runs(other, "expire") >= 1, 60, then=other.tail)
            until("it rewrites files", lambda: any("became" in (one["last_result"] or "") for one in upkeep(other, "sinks")), 40, then=other.tail)
        assert runs(other, "compact", "failures_total") == 0 and runs(other, "expire", "failures_total") == 0, other.tail()
        assert table in other.command("status").stdout and table in "".join(told(other, "firn_maintain_runs_total"))
        until("Trino has all", lambda: sorted(trial.lake.sql(f"SELECT {COLUMNS} FROM {table}")) == source.expected(), 60, every_s=1, then=other.tail)
        assert other.terminate(within_s=20) == 0, other.tail()


def test_a_compaction_is_held_to_its_limits(trial: Trial) -> None:
    """`--cpu` and `--bytes-per-second` of the one-shot command: it takes as long as the budget asks for, and loses nothing."""
    trial.kafka.create(trial.topic())
    source = Items(trial.kafka, trial.topic())
    firn = trial.firn(trial.config(trial.topic(), mode="append"))
    with firn:
        for _ in range(6):
            source.put(items(KEYS))
            trial.wait_until_committed()
        assert firn.terminate() == 0, firn.tail()
    wrong = firn.command("maintain", "compact", trial.table(), "--cpu", "0")
    assert wrong.returncode == 2 and "cores" in wrong.stderr, wrong.stderr
    done = firn.command("maintain", "compact", trial.table(), "--cpu", "0.2", "--bytes-per-second", "64KiB", "--output", "json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)[0]
    assert report["files_after"] < report["files_before"], report
    # What it read is paid for before it is through; a fifth of a second may be saved up.
    assert report["took_ms"] >= report["bytes_before"] / (64 << 10) * 800 - 250, report
    assert trial.lake.sql(f"SELECT count(*), count(DISTINCT id) FROM {trial.table()}") == [[6 * len(KEYS), len(KEYS)]]
