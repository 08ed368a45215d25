# Spark with Iceberg's own runtime: a reader of format v3 for the tests, and for people. No server: one process a call.
# shellcheck shell=bash

fetch_spark() {
  rm -rf "$DIST/spark"
  python3 -m venv "$DIST/spark" >&2
  # PySpark is published as source alone; its sum stands beside its version.
  "$DIST/spark/bin/pip" -q install --disable-pip-version-check --require-hashes -r "$HERE/requirements-spark.txt" >&2
  mkdir -p "$DIST/spark/iceberg"
  cp "$(maven_file spark "org.apache.iceberg:iceberg-spark-runtime-3.5_2.12:$SPARK_ICEBERG_VERSION:jar")" "$DIST/spark/iceberg/"
  cp "$(maven_file spark "org.apache.iceberg:iceberg-aws-bundle:$SPARK_ICEBERG_VERSION:jar")" "$DIST/spark/iceberg/"
}

spark() { # STATEMENT...
  [ $# -gt 0 ] || die "usage: stack spark STATEMENT..."
  fetch_for spark
  find_java || die "no Java from $JAVA_MIN to $JAVA_MAX: set FIRN_JAVA to the java command of one"
  # Spark makes folders where it stands.
  mkdir -p "$FIRN_STACK_STATE/spark"
  cd "$FIRN_STACK_STATE/spark"
  JAVA_HOME=$(dirname "$(dirname "$(readlink -f "$(command -v "$JAVA_COMMAND")")")") SPARK_ICEBERG=$DIST/spark/iceberg \
    exec "$DIST/spark/bin/python" "$HERE/lib/spark_sql.py" "$@"
}
