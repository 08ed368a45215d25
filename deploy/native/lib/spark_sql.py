"""Runs SQL statements in Spark, one after the other, on the stack's lake (catalog `lake`). Called by ../stack, which exports the
endpoints. Prints the rows of each statement as one line of JSON, lists in a list; what JSON has no form for as text.
"""
import json
import os
import pathlib
import sys

from pyspark.sql import SparkSession

jars = ",".join(str(jar) for jar in sorted(pathlib.Path(os.environ["SPARK_ICEBERG"]).glob("*.jar")))
lake = {
    "": "org.apache.iceberg.spark.SparkCatalog",
    ".type": "hive",
    ".uri": os.environ["FIRN_HMS_URI"],
    ".io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
    ".s3.endpoint": os.environ["FIRN_S3_ENDPOINT"],
    ".s3.path-style-access": "true",
    ".s3.access-key-id": os.environ["FIRN_S3_ACCESS_KEY"],
    ".s3.secret-access-key": os.environ["FIRN_S3_SECRET_KEY"],
    ".client.region": os.environ["FIRN_S3_REGION"],
    # A table is as it is at the statement, not as an earlier one saw it.
    ".cache-enabled": "false",
}
builder = (
    SparkSession.builder.master("local[2]")
    .config("spark.driver.memory", "1g")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.shuffle.partitions", "4")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.jars", jars)
    .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
)
for key, value in lake.items():
    builder = builder.config(f"spark.sql.catalog.lake{key}", value)
session = builder.getOrCreate()
session.sparkContext.setLogLevel("ERROR")
for statement in sys.argv[1:]:
    rows = [list(row) for row in session.sql(statement).collect()]
    print(json.dumps(rows, default=str), flush=True)
session.stop()
