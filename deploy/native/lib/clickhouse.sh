# ClickHouse: its own engine from PyPI (chdb), behind the HTTP front in clickhouse_front. Debian's ClickHouse is of 2018, and its makers
# publish binaries in no registry.
# shellcheck shell=bash

fetch_clickhouse() {
  rm -rf "$DIST/clickhouse"
  python3 -m venv "$DIST/clickhouse" >&2
  "$DIST/clickhouse/bin/pip" -q install --disable-pip-version-check --only-binary=:all: --no-deps -r "$HERE/requirements-clickhouse.txt" >&2
}

clickhouse_start() {
  mkdir -p "$DATA/clickhouse"
  PYTHONPATH=$HERE/lib launch clickhouse "$DIST/clickhouse/bin/python" -B -m clickhouse_front --path "$DATA/clickhouse" --port "$FIRN_CLICKHOUSE_PORT"
}
clickhouse_ready() { curl -sf -m 2 -o /dev/null "$FIRN_CLICKHOUSE_URL/ping"; }
clickhouse_prepare() { :; }

clickhouse_sql() { # [SQL]: else from standard input; an INSERT may bring its data after its first line
  if [ $# -gt 0 ]; then clickhouse_sql <<<"$*"; return; fi
  curl -sS --fail-with-body --data-binary @- "$FIRN_CLICKHOUSE_URL"
}
