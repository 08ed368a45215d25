"""The catalogs as firn's configuration and as PyIceberg sees them, and what is stored below a table."""

from pathlib import Path

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.table import Table
from sqlalchemy.exc import OperationalError

from harness.lake import Lake
from harness.program import Config, hive_config, sqlite_config
from harness.rest import RestServer
from harness.stack import Stack

MODES_OF_COMMIT = {"hive-compare": "compare", "hive": "lock-and-compare", "hive-lock": "lock"}


class Place:
    """One catalog; `folder` is for what is kept in files."""

    def __init__(self, catalog: str, stack: Stack, lake: Lake, rest: RestServer, folder: Path) -> None:
        self.catalog = catalog
        self.stack = stack
        self.lake = lake
        self.rest = rest
        self.folder = folder

    def config(self, topic: str, namespace: str, mode: str) -> Config:
        if self.catalog == "sql":
            return sqlite_config(self.stack, self.folder, topics=[topic], namespace=namespace, group=namespace, mode=mode)
        config = hive_config(self.stack, topics=[topic], namespace=namespace, group=namespace, mode=mode)
        if self.catalog == "rest":
            config["catalog"] = {"type": "rest", "uri": self.rest.uri}
        else:
            config["catalog"]["commit_mode"] = MODES_OF_COMMIT[self.catalog]
        return config

    def table(self, name: str) -> Table | None:
        if self.catalog.startswith("hive"):
            return self.lake.table(name)
        if self.catalog == "sql" and not (self.folder / "catalog.db").exists():
            return None
        catalog = self._local()
        try:
            return catalog.load_table(name)
        except (NoSuchTableError, NoSuchNamespaceError):
            return None
        except OperationalError as e:
            # firn has made the database and not yet its tables.
            if "no such table" in str(e):
                return None
            raise
        finally:
            if self.catalog == "sql":
                catalog.engine.dispose()

    def _local(self) -> Catalog:
        io = {"py-io-impl": "pyiceberg.io.pyarrow.PyArrowFileIO"}
        if self.catalog == "rest":
            return load_catalog("rest", type="rest", uri=self.rest.uri, **io)
        uri = f"sqlite:///{self.folder / 'catalog.db'}"
        return load_catalog("firn", type="sql", uri=uri, warehouse=str(self.folder / "warehouse"), init_catalog_tables="false", **io)

    def files(self, table: Table) -> set[str]:
        """All that is stored below the table."""
        if self.catalog.startswith("hive"):
            return self.lake.objects(table.location())
        # Hadoop's local file system, which the REST server writes through, keeps a checksum beside each file.
        return {str(path) for path in Path(plain(table.location())).rglob("*") if path.is_file() and path.suffix != ".crc"}

    def is_locked(self, table: str) -> bool:
        return self.catalog.startswith("hive") and self.lake.is_locked(table)

    def drop(self, namespace: str) -> None:
        if self.catalog.startswith("hive"):
            self.lake.drop_schema(namespace)


def plain(location: str) -> str:
    """`s3://bucket/key` as `bucket/key`, `file:///path` and `file:/path` as `/path`."""
    scheme, _, rest = location.partition(":")
    return location if not rest else "/" + rest.lstrip("/") if scheme == "file" else rest.lstrip("/")
