"""The other side of the test in tests.rs: writes Parquet with field ids, and reads a table as PyIceberg sees it."""

import json
import sys

import pyarrow as pa
import pyarrow.parquet as pq


def field(name, kind, field_id, nullable=True):
    return pa.field(name, kind, nullable=nullable, metadata={"PARQUET:field_id": str(field_id)})


def write(path, columns, fields):
    table = pa.table(columns, schema=pa.schema(fields))
    pq.write_table(table, path)


def data(path, ids, values):
    write(path, [ids, values], [field("id", pa.int64(), 1, False), field("v", pa.string(), 2)])


def position_deletes(path, data_file, positions):
    fields = [field("file_path", pa.string(), 2147483546, False), field("pos", pa.int64(), 2147483545, False)]
    write(path, [[data_file] * len(positions), positions], fields)


def scan(uri, warehouse, table):
    from pyiceberg.catalog.sql import SqlCatalog

    catalog = SqlCatalog("suite", uri=uri, warehouse=warehouse)
    assert catalog.list_tables("db"), "PyIceberg lists no table"
    loaded = catalog.load_table(table)
    rows = loaded.scan().to_arrow().sort_by("id").to_pydict()
    deletes = loaded.inspect.delete_files().num_rows
    # and it writes on top of what we wrote
    loaded.append(pa.table({"id": [100], "v": ["theirs"]}, schema=pa.schema([pa.field("id", pa.int64(), False), pa.field("v", pa.string())])))
    print(json.dumps({"ids": rows["id"], "values": rows["v"], "delete_files": deletes, "snapshots": len(loaded.metadata.snapshots)}))


call = json.loads(sys.argv[1])
{"data": data, "position_deletes": position_deletes, "scan": scan}[call.pop("do")](**call)
