# Where things are, which ports they use and which credentials. What one server must know about another is exported here
# under the names that the files in deploy/{hive,trino,connect,postgres} read, so docker-compose.yml can set the same names.
# shellcheck shell=bash disable=SC2034,SC2153  # the other files use these

FIRN_STACK_DIR=${FIRN_STACK_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/firn-stack}
FIRN_STACK_STATE=${FIRN_STACK_STATE:-$FIRN_STACK_DIR/state}
FIRN_STACK_WAIT_S=${FIRN_STACK_WAIT_S:-120}   # readiness limit of one server; a start takes seconds, a busy machine 3x that
HMS_VERSION_ASKED=${FIRN_HMS_VERSION:-}
FIRN_HMS_VERSION=${FIRN_HMS_VERSION:-$HMS_VERSION_DEFAULT}

DEPLOY=$(cd "$HERE/.." && pwd)
DIST=$FIRN_STACK_DIR/dist      # what was fetched; shared by every state directory
BUILD=$FIRN_STACK_DIR/build    # needed only while fetching
DATA=$FIRN_STACK_STATE/data RUN=$FIRN_STACK_STATE/run LOGS=$FIRN_STACK_STATE/logs ETC=$FIRN_STACK_STATE/etc

# In the order in which they are started and shown.
SERVERS=(postgres minio kafka registry connect metastore trino redis clickhouse airflow)
# Started only where they are named.
ON_DEMAND=(airflow)

PORT_BASE=29080
declare -A PORT_OFFSET=([FIRN_TRINO_PORT]=0 [FIRN_REGISTRY_PORT]=1 [FIRN_CONNECT_PORT]=2 [FIRN_METASTORE_PORT]=3 [FIRN_PG_PORT]=4
  [FIRN_REDIS_PORT]=5 [FIRN_CLICKHOUSE_PORT]=6 [FIRN_AIRFLOW_PORT]=7
  [FIRN_AIRFLOW_LOG_PORT]=17 [FIRN_MINIO_PORT]=10 [FIRN_KAFKA_PORT]=12 [FIRN_KAFKA_CONTROLLER_PORT]=13 [FIRN_KAFKA_SASL_PORT]=14
  [FIRN_KAFKA_GATED_PORT]=15 [FIRN_KAFKA_GATE_PORT]=16)
declare -A PORTS_OF=([postgres]=FIRN_PG_PORT [minio]=FIRN_MINIO_PORT [registry]=FIRN_REGISTRY_PORT [connect]=FIRN_CONNECT_PORT
  [kafka]="FIRN_KAFKA_PORT FIRN_KAFKA_CONTROLLER_PORT FIRN_KAFKA_SASL_PORT FIRN_KAFKA_GATED_PORT" [metastore]=FIRN_METASTORE_PORT [trino]=FIRN_TRINO_PORT
  [redis]=FIRN_REDIS_PORT [clickhouse]=FIRN_CLICKHOUSE_PORT [airflow]="FIRN_AIRFLOW_PORT FIRN_AIRFLOW_LOG_PORT")

# A running stack keeps the ports it was started with, whatever the environment says now. Else: the port's own variable,
# FIRN_STACK_PORT_BASE, the last start's ports, 29080 onwards (below the range that the kernel hands out by itself). A server that the
# last start did not know yet goes beside the others.
choose_ports() {
  local name beside base=${FIRN_STACK_PORT_BASE:-} running=no
  declare -A saved=()
  if [ -f "$FIRN_STACK_STATE/ports" ]; then
    while IFS='=' read -r name value; do saved[$name]=$value; done <"$FIRN_STACK_STATE/ports"
    any_alive && running=yes
  fi
  beside=${saved[FIRN_TRINO_PORT]:-$PORT_BASE}
  for name in "${!PORT_OFFSET[@]}"; do
    if [ "$running" = yes ] && [ -n "${saved[$name]:-}" ]; then
      [ "${!name:-${saved[$name]}}" = "${saved[$name]}" ] || say "note: $name=${!name} is not used, the running stack has ${saved[$name]} ('stack down' first)"
      printf -v "$name" %s "${saved[$name]}"
    elif [ -z "${!name:-}" ]; then
      if [ -z "$base" ] && [ -n "${saved[$name]:-}" ]; then printf -v "$name" %s "${saved[$name]}"
      else printf -v "$name" %s "$((${base:-$beside} + PORT_OFFSET[$name]))"; fi
    fi
    case ${!name} in '' | *[!0-9]*) die "$name is '${!name}', not a port number" ;; esac
  done
}
save_ports() {
  local name
  for name in "${!PORT_OFFSET[@]}"; do printf '%s=%s\n' "$name" "${!name}"; done | sort >"$FIRN_STACK_STATE/ports"
}

# Development credentials: fixed, public, and every server listens on 127.0.0.1 only. Never use them elsewhere.
choose_endpoints() {
  FIRN_PG_HOST=127.0.0.1 FIRN_PG_USER=cdc FIRN_PG_PASSWORD=cdc-dev FIRN_PG_DATABASE=inventory
  FIRN_PG_ADMIN_USER=postgres FIRN_PG_ADMIN_PASSWORD=postgres-dev
  FIRN_METASTORE_DB_URL=jdbc:postgresql://127.0.0.1:$FIRN_PG_PORT/metastore FIRN_METASTORE_DB_USER=hms FIRN_METASTORE_DB_PASSWORD=hms-dev
  FIRN_METASTORE_BIND_HOST=127.0.0.1
  FIRN_KAFKA_BOOTSTRAP=127.0.0.1:$FIRN_KAFKA_PORT FIRN_KAFKA_SASL_BOOTSTRAP=127.0.0.1:$FIRN_KAFKA_SASL_PORT
  FIRN_KAFKA_SASL_MECHANISM=SCRAM-SHA-256 FIRN_KAFKA_SASL_USERNAME=firn FIRN_KAFKA_SASL_PASSWORD=firn-dev-secret
  FIRN_KAFKA_CA_PEM=$ETC/tls/ca.pem
  FIRN_CONNECT_URL=http://127.0.0.1:$FIRN_CONNECT_PORT
  FIRN_REGISTRY_URL=http://127.0.0.1:$FIRN_REGISTRY_PORT/apis/ccompat/v7
  FIRN_REGISTRY_NATIVE_URL=http://127.0.0.1:$FIRN_REGISTRY_PORT/apis/registry/v2
  FIRN_S3_ENDPOINT=http://127.0.0.1:$FIRN_MINIO_PORT FIRN_S3_REGION=us-east-1
  FIRN_S3_ACCESS_KEY=firn-dev FIRN_S3_SECRET_KEY=firn-dev-secret
  FIRN_WAREHOUSE_BUCKET=${FIRN_WAREHOUSE_BUCKET:-warehouse}
  FIRN_BUCKETS=${FIRN_BUCKETS:-}   # more buckets: the metastore knows only the listed ones
  [[ " $FIRN_BUCKETS " == *" $FIRN_WAREHOUSE_BUCKET "* ]] || FIRN_BUCKETS="$FIRN_WAREHOUSE_BUCKET $FIRN_BUCKETS"
  FIRN_HMS_URI=thrift://127.0.0.1:$FIRN_METASTORE_PORT
  FIRN_TRINO_URL=http://127.0.0.1:$FIRN_TRINO_PORT FIRN_TRINO_CATALOG=lake
  FIRN_REDIS_URL=redis://127.0.0.1:$FIRN_REDIS_PORT FIRN_CLICKHOUSE_URL=http://127.0.0.1:$FIRN_CLICKHOUSE_PORT
  FIRN_AIRFLOW_URL=http://127.0.0.1:$FIRN_AIRFLOW_PORT
  FIRN_INDEX_DIR=${FIRN_INDEX_DIR:-$FIRN_STACK_STATE/firn-index}
}

ENV_NAMES=(FIRN_KAFKA_BOOTSTRAP FIRN_KAFKA_GATED_PORT FIRN_KAFKA_GATE_PORT FIRN_KAFKA_SASL_BOOTSTRAP FIRN_KAFKA_SASL_MECHANISM FIRN_KAFKA_SASL_USERNAME FIRN_KAFKA_SASL_PASSWORD
  FIRN_KAFKA_CA_PEM FIRN_CONNECT_URL FIRN_REGISTRY_URL FIRN_REGISTRY_NATIVE_URL FIRN_PG_HOST FIRN_PG_PORT FIRN_PG_USER
  FIRN_PG_PASSWORD FIRN_PG_DATABASE FIRN_PG_ADMIN_USER FIRN_PG_ADMIN_PASSWORD FIRN_S3_ENDPOINT FIRN_S3_ACCESS_KEY
  FIRN_S3_SECRET_KEY FIRN_S3_REGION FIRN_WAREHOUSE_BUCKET FIRN_HMS_URI FIRN_METASTORE_DB_URL FIRN_METASTORE_DB_USER
  FIRN_METASTORE_DB_PASSWORD FIRN_INDEX_DIR FIRN_TRINO_URL FIRN_TRINO_CATALOG FIRN_TRINO_PORT FIRN_METASTORE_PORT FIRN_METASTORE_BIND_HOST
  FIRN_REDIS_URL FIRN_REDIS_PORT FIRN_CLICKHOUSE_URL FIRN_CLICKHOUSE_PORT FIRN_AIRFLOW_URL)

load_settings() {
  choose_ports
  choose_endpoints
  export "${ENV_NAMES[@]}"
}

print_env() {
  local name
  for name in "${ENV_NAMES[@]}"; do printf 'export %s=%q\n' "$name" "${!name}"; done
}
