# Python readers for the tests: PyIceberg, the Trino client, psycopg2, DuckDB, Redis' client.
# shellcheck shell=bash

fetch_readers() {
  rm -rf "$DIST/readers"
  python3 -m venv "$DIST/readers" >&2
  "$DIST/readers/bin/pip" -q install --disable-pip-version-check --only-binary=:all: -r "$HERE/requirements.txt" >&2
}
readers_python() { echo "$DIST/readers/bin/python"; }
