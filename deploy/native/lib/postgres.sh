# PostgreSQL: one cluster for the source database (Debezium reads it) and the metastore's own database. From system packages.
# shellcheck shell=bash disable=SC2153

# The server refuses to run as root, so root starts it as the OS user postgres. That user must be able to enter the data
# folder: a state folder below root's home (mode 0700) is out, the data then goes to /var/lib.
as_postgres() {
  if [ "$(id -u)" = 0 ]; then (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups "$@"); else "$@"; fi
}
pg_data() {
  if [ -n "${FIRN_STACK_PG_DATA:-}" ]; then echo "$FIRN_STACK_PG_DATA"
  elif [ "$(id -u)" != 0 ] || as_postgres test -x "$FIRN_STACK_STATE"; then echo "$DATA/postgres"
  else echo "/var/lib/firn-stack-$(cksum <<<"$FIRN_STACK_STATE" | cut -d' ' -f1)/postgres"; fi
}

postgres_start() {
  local data bin as=()
  data=$(pg_data) bin=$(pg_bin)
  if [ ! -s "$data/PG_VERSION" ]; then pg_init "$data" "$bin"; fi
  [ "$(id -u)" != 0 ] || as=(setpriv --reuid=postgres --regid=postgres --init-groups env --chdir=/)
  launch postgres "${as[@]}" "$bin/postgres" -D "$data" -p "$FIRN_PG_PORT"
}
pg_init() { # DATA-FOLDER BIN-FOLDER
  local password_file
  mkdir -p "$1" && chmod 755 "$(dirname "$1")" && chmod 700 "$1"
  password_file=$(mktemp)
  printf '%s\n' "$FIRN_PG_ADMIN_PASSWORD" >"$password_file"
  [ "$(id -u)" != 0 ] || chown postgres: "$1" "$password_file"
  as_postgres "$2/initdb" -D "$1" -U "$FIRN_PG_ADMIN_USER" -A scram-sha-256 --pwfile="$password_file" -E UTF8 --locale=C.UTF-8 --no-sync >"$LOGS/initdb.log" 2>&1 ||
    { log_tail "$LOGS/initdb.log"; rm -f "$password_file"; die "initdb failed"; }
  rm -f "$password_file"
  as_postgres tee -a "$1/postgresql.conf" <"$DEPLOY/postgres/postgresql.conf" >/dev/null
  as_postgres tee -a "$1/postgresql.conf" >/dev/null <<<"listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off   # a development cluster: a crash of the machine may cost it, kill -9 doesn't"
}
postgres_ready() { "$(pg_bin)/pg_isready" -q -h 127.0.0.1 -p "$FIRN_PG_PORT"; }

# psql_as USER DATABASE ARGUMENT...
psql_as() {
  local user=$1 database=$2 password=$FIRN_PG_PASSWORD; shift 2
  [ "$user" != "$FIRN_PG_ADMIN_USER" ] || password=$FIRN_PG_ADMIN_PASSWORD
  PGPASSWORD=$password PGOPTIONS='--client-min-messages=warning' "$(pg_bin)/psql" -X -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$FIRN_PG_PORT" -U "$user" -d "$database" "$@"
}
postgres_prepare() {
  psql_as "$FIRN_PG_ADMIN_USER" postgres -q -f "$DEPLOY/postgres/init.sql" >&2
  [ "$(psql_as "$FIRN_PG_USER" "$FIRN_PG_DATABASE" -qAtc "SELECT to_regnamespace('inventory') IS NOT NULL")" = t ] ||
    psql_as "$FIRN_PG_USER" "$FIRN_PG_DATABASE" -q1 -f "$DEPLOY/postgres/source.sql" >&2
}
postgres_wipe() {
  local data
  data=$(pg_data)
  case $data in "$DATA"/*) ;; /var/lib/firn-stack-*) rm -rf "$(dirname "$data")" ;; *) [ ! -s "$data/PG_VERSION" ] || rm -rf "$data" ;; esac
}
