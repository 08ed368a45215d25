"""The lake as others see it: Trino's SQL, PyIceberg's metadata and rows, the objects in the bucket."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import trino
from hive_metastore.ttypes import LockComponent, LockLevel, LockRequest, LockState, LockType, ShowLocksRequest
from pyarrow.fs import FileSelector, FileType, S3FileSystem
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.hive import HiveCatalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.manifest import DataFileContent, ManifestEntry
from pyiceberg.table import Table

from .stack import Stack
from .topics import Kafka
from .waiting import until

CONFLICT = ("ICEBERG_COMMIT_ERROR", "TRANSACTION_CONFLICT")


class Lake:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        url = urlparse(stack["FIRN_TRINO_URL"])
        self._trino = trino.dbapi.connect(host=url.hostname, port=url.port, user="firn", catalog=stack["FIRN_TRINO_CATALOG"])
        self.files = S3FileSystem(
            endpoint_override=stack["FIRN_S3_ENDPOINT"],
            access_key=stack["FIRN_S3_ACCESS_KEY"],
            secret_key=stack["FIRN_S3_SECRET_KEY"],
            region=stack["FIRN_S3_REGION"],
        )

    def sql(self, statement: str) -> list[list[Any]]:
        """One statement in Trino, to its end."""
        cursor = self._trino.cursor()
        cursor.execute(statement)
        return cursor.fetchall()

    def sql_again(self, statement: str, within_s: float = 60) -> int:
        """A statement that may meet firn's commit: run again while Trino reports a conflict. Answers how often it was run."""
        runs = 0

        def done() -> bool:
            nonlocal runs
            runs += 1
            try:
                self.sql(statement)
            except trino.exceptions.TrinoQueryError as e:
                if e.error_name not in CONFLICT:
                    raise
                return False
            return True

        until(f"Trino wins with {statement}", done, within_s, every_s=0.1)
        return runs

    def exists(self, table: str) -> bool:
        return self.table(table) is not None

    def table(self, name: str) -> Table | None:
        """`namespace.table` as PyIceberg loads it anew; None where there is none."""
        try:
            return self._catalog().load_table(name)
        except (NoSuchTableError, NoSuchNamespaceError):
            return None

    def _catalog(self) -> Catalog:
        return load_catalog(
            "lake",
            **{
                "type": "hive",
                "uri": self.stack["FIRN_HMS_URI"],
                "py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO",
                "s3.endpoint": self.stack["FIRN_S3_ENDPOINT"],
                "s3.access-key-id": self.stack["FIRN_S3_ACCESS_KEY"],
                "s3.secret-access-key": self.stack["FIRN_S3_SECRET_KEY"],
                "s3.region": self.stack["FIRN_S3_REGION"],
                "s3.force-virtual-addressing": "false",
            },
        )

    def take_lock(self, name: str) -> None:
        """An exclusive lock on a table in the metastore, never released and never kept alive."""
        namespace, _, table = name.partition(".")
        part = LockComponent(LockType.EXCLUSIVE, LockLevel.TABLE, namespace, table)
        catalog = self._catalog()
        assert isinstance(catalog, HiveCatalog)
        with catalog._client as client:
            answer = client.lock(LockRequest(component=[part], user="firn-e2e", hostname="nowhere", agentInfo="a killed writer"))
        assert answer.state == LockState.ACQUIRED, answer

    def is_locked(self, name: str) -> bool:
        """Whether somebody holds a lock on the table in the metastore, or waits for one."""
        namespace, _, table = name.partition(".")
        catalog = self._catalog()
        assert isinstance(catalog, HiveCatalog)
        with catalog._client as client:
            return bool(client.show_locks(ShowLocksRequest(dbname=namespace, tablename=table)).locks)

    def drop_schema(self, namespace: str) -> None:
        self.sql(f"DROP SCHEMA IF EXISTS {namespace} CASCADE")

    def is_committed(self, kafka: Kafka, topic: str, table: str) -> bool:
        """Whether the table's own checkpoint stands at the end of every partition's log."""
        ends = {p: end for p, end in kafka.ends(topic).items() if end > 0}
        stands = positions(checkpoint(self.table(table)), topic)
        return bool(ends) and {p: stands.get(p) for p in ends} == ends

    def objects(self, prefix: str) -> set[str]:
        """Keys below `s3://bucket/...`, as `bucket/key`."""
        where = FileSelector(bare(prefix), recursive=True, allow_not_found=True)
        return {info.path for info in self.files.get_file_info(where) if info.type == FileType.File}


def checkpoint(table: Table | None) -> dict[str, Any]:
    """What the table's properties say about where it stands; empty where firn has not committed yet."""
    return json.loads(table.properties.get("firn.checkpoint", "{}")) if table else {}


def positions(stored: dict[str, Any], topic: str) -> dict[int, int]:
    """Partition -> next offset."""
    partitions = stored.get("topics", {}).get(topic, {}).get("partitions", {})
    return {int(partition): place["next"] for partition, place in partitions.items()}


def bare(location: str) -> str:
    """`s3://bucket/key` or `s3a://...` as `bucket/key`."""
    return location.partition("://")[2].rstrip("/")


@dataclass(frozen=True)
class Referenced:
    """Every file that some snapshot of a table needs."""

    data: set[str]
    deletes: set[str]
    equality_deletes: set[str]
    largest_commit: int
    """Most data and delete files that one snapshot added."""


def referenced(table: Table) -> Referenced:
    data: set[str] = set()
    deletes: set[str] = set()
    equality: set[str] = set()
    added: dict[int, int] = {}
    for entry in _entries(table):
        content, path = entry.data_file.content, bare(entry.data_file.file_path)
        (data if content == DataFileContent.DATA else deletes).add(path)
        if content == DataFileContent.EQUALITY_DELETES:
            equality.add(path)
    for snapshot in table.snapshots():
        summary = snapshot.summary.additional_properties if snapshot.summary else {}
        added[snapshot.snapshot_id] = int(summary.get("added-data-files", 0)) + int(summary.get("added-delete-files", 0))
    return Referenced(data, deletes, equality, max(added.values(), default=0))


def _entries(table: Table) -> Iterator[ManifestEntry]:
    seen: set[str] = set()
    for snapshot in table.snapshots():
        for manifest in snapshot.manifests(table.io):
            if manifest.manifest_path not in seen:
                seen.add(manifest.manifest_path)
                yield from manifest.fetch_manifest_entry(table.io, discard_deleted=False)
