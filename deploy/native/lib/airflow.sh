# Airflow with the DAGs of deploy/airflow: API server, DAG processor and scheduler (tasks run in its processes), on SQLite.
# shellcheck shell=bash

fetch_airflow() {
  rm -rf "$DIST/airflow"
  python3 -m venv "$DIST/airflow" >&2
  "$DIST/airflow/bin/pip" -q install --disable-pip-version-check --only-binary=:all: -r "$HERE/requirements-airflow.txt" >&2
}

airflow_settings() {
  export PATH=$DIST/airflow/bin:$PATH AIRFLOW_HOME=$DATA/airflow
  export AIRFLOW__CORE__DAGS_FOLDER=${FIRN_AIRFLOW_DAGS:-$DEPLOY/airflow/dags} AIRFLOW__CORE__LOAD_EXAMPLES=False
  export AIRFLOW__CORE__PARALLELISM=2 AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS=True
  export AIRFLOW__CORE__EXECUTION_API_SERVER_URL=$FIRN_AIRFLOW_URL/execution/
  export AIRFLOW__API__HOST=127.0.0.1 AIRFLOW__API__PORT=$FIRN_AIRFLOW_PORT AIRFLOW__API__WORKERS=1
  export AIRFLOW__API_AUTH__JWT_SECRET=firn-dev-secret-firn-dev-secret-firn-dev-secret-firn-dev-secret-firn-dev
  export AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT=$FIRN_AIRFLOW_LOG_PORT
  export AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL=5 AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL=5
  export AIRFLOW__CORE__MAX_MAP_LENGTH=100000 PYTHONDONTWRITEBYTECODE=1
}

airflow_start() {
  mkdir -p "$DATA/airflow"
  (airflow_settings && launch airflow bash "$DEPLOY/airflow/service")
}
airflow_ready() { curl -sf -m 2 -o /dev/null "$FIRN_AIRFLOW_URL/api/v2/monitor/health"; }
airflow_prepare() { :; }
