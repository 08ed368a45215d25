"""What Debezium sends beside rows is counted by kind, and is nothing else, though the topics' pattern takes it in."""

from conftest import Trial
from harness.program import free_port
from harness.sameness import assert_same
from harness.source import connector, database
from harness.waiting import until

KINDS = {"transaction", "message", "heartbeat"}


def test_messages_that_are_no_rows_make_no_tables(trial: Trial) -> None:
    config = trial.config(f"{trial.name}.*", f"__debezium-heartbeat.{trial.name}", mode="upsert")
    config["serve"]["listen"] = f"127.0.0.1:{free_port()}"
    include = {"table.include.list": "public.content,public.items", "heartbeat.interval.ms": "1000"}
    with database(trial.stack, trial.name) as source:
        source.run("CREATE TABLE items (id int PRIMARY KEY, v text); INSERT INTO items VALUES (1, 'a'), (2, 'b')")
        with connector(source, "engagement", trial.name, **include) as name, trial.firn(config) as firn:
            source.run("SELECT pg_logical_emit_message(true, 'prefix', 'in a transaction'), pg_logical_emit_message(false, 'prefix', 'alone')")
            source.wait_until_published(name)
            trial.wait_until_committed("items", trial.topic(), within_s=60)

            def kinds() -> set[str]:
                return {kind for kind in KINDS for labels in firn.metrics("firn_skipped_total") if f'kind="{kind}"' in labels}

            until("each kind is counted", lambda: kinds() == KINDS, 60, then=firn.tail)
            assert not firn.metrics("firn_rejected_total") and not firn.says("stopped"), firn.tail()
            heartbeats = f"__debezium-heartbeat.{trial.name}"

            def passed() -> bool:
                """The group stands behind heartbeats, which no table does."""
                noted = trial.kafka.group_offsets(f"{config['kafka']['group']}.lake", heartbeats)
                return bool(noted) and sum(noted.values()) > 0

            until("the heartbeats' position is noted", passed, 60, then=firn.tail)
            assert firn.terminate() == 0, firn.tail()
            # Started again it reads on from there.
            noted = trial.kafka.group_offsets(f"{config['kafka']['group']}.lake", heartbeats)
            firn.start()
            partition, behind = max(noted.items(), key=lambda at: at[1])
            line = firn.wait_until_it_says("reading", f"partition={heartbeats}/{partition} ")
            assert int(line.partition(" position=")[2].split()[0]) >= behind > 0, line
            assert firn.terminate() == 0, firn.tail()
        tables = {name for (name,) in trial.lake.sql(f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{trial.name}'")}
        assert tables == {"items", "content"}
        assert_same("Trino", trial.lake.sql(f"SELECT id, v FROM {trial.table()}"), source.run("SELECT id, v FROM items"))
