"""Airflow DAGs that keep firn's tables fast: compaction, expiry, orphan files, checks; one mapped task a table."""

import os
from datetime import datetime, timedelta

from airflow.sdk import DAG, Param, task
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from firn_command import firn, late

# As many tasks at once, over all DAGs, as the pool has slots: `airflow pools set firn_maintenance 2 "firn's maintenance"`.
POOL = "firn_maintenance"

TABLES = Param([], type="array", items={"type": "string"}, title="Tables",
               description="As namespace.table; none: all that the catalog has.")
ENGINE = Param("embedded", enum=["embedded", "trino"], title="Engine",
               description="embedded: firn itself, on the worker; trino: the Trino that firn.toml names.")

COMPACT = """
### Compaction

Rewrites small files and files with many deleted rows, table by table (`firn maintain compact`). It never loses to the writer, so it needs no quiet
hour. A table without anything worth it takes a moment.

*Red task:* its log ends with the reason. What could not be reached is tried again; a table that is broken stays red, and the others go on.
"""
EXPIRE = """
### Expiry

Lets snapshots go by the age and the count that the table's properties say (`firn maintain expire`), and deletes the files that only they needed. Tags,
branches and the rewind horizon are kept.
"""
ORPHANS = """
### Orphan files

Deletes files below the table's location that nothing names and that are older than three days (`firn maintain orphans`): what killed writers and lost
attempts left behind.
"""
CHECK = """
### Checks

`firn check` asks every server that the configuration names; `firn table health` looks at each table. Red: a server is away, or a table can't be read.
What is advised stands in the task's log and in its XCom.
"""


def schedule_of(name, usual):
    """FIRN_COMPACT_SCHEDULE and the like of the environment say another one; empty: only by hand."""
    return os.environ.get(f"FIRN_{name.upper()}_SCHEDULE", usual) or None


def maintenance(name, schedule, hours, doc, command, engines=True):
    """A DAG that runs `firn COMMAND TABLE` for each table, those that failed alone again."""
    with DAG(
        dag_id=f"firn_{name}",
        schedule=schedule_of(name, schedule),
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        tags=["firn", "iceberg"],
        doc_md=doc,
        params={"tables": TABLES} | ({"engine": ENGINE} if engines else {}),
        default_args={
            "pool": POOL,
            "retries": 3,
            "retry_delay": timedelta(minutes=1),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=15),
            "execution_timeout": timedelta(hours=hours),
        },
        # What used to be an SLA.
        deadline=DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=timedelta(hours=hours),
                               callback=SyncCallback(late)),
    ) as dag:

        @task(doc_md="The tables of the catalog, or those that the run was started with.")
        def tables(params=None):
            return params["tables"] or [t["table"] for t in firn("table", "list")]

        @task(task_id=name, map_index_template="{{ task.op_kwargs['table'] }}", doc_md=doc)
        def each(table, params=None):
            engine = ["--engine", params["engine"]] if params.get("engine", "embedded") != "embedded" else []
            # Named, a table whose files are shared is refused; among all it is left alone.
            shared = ["--leave-shared"] if name in ("expire", "orphans") and not params["tables"] else []
            return firn(*command, table, *engine, *shared)

        each.expand(table=tables())
    return dag


compaction = maintenance("compact", "7 * * * *", 2, COMPACT, ["maintain", "compact"])
expiry = maintenance("expire", "23 2 * * *", 2, EXPIRE, ["maintain", "expire"])
orphans = maintenance("orphans", "41 3 * * 0", 4, ORPHANS, ["maintain", "orphans", "--delete"])
checks = maintenance("check", "*/15 * * * *", 1, CHECK, ["table", "health"], engines=False)

with checks:

    @task(task_id="servers", doc_md="Everything that firn.toml names.")
    def servers():
        return firn("check")

    servers()
