# up, down, restart, kill, status over the servers; each server gives NAME_start, NAME_ready and NAME_prepare.
# shellcheck shell=bash

needs() { case $1 in connect) echo kafka ;; metastore) echo postgres minio ;; trino) echo metastore postgres minio ;; esac; }
# What must be prepared before a server's process starts; Trino asks the metastore only when it is queried.
starts_after() { case $1 in connect) echo kafka ;; metastore) echo postgres ;; esac; }

known() {
  local name
  for name in "$@"; do
    [[ " ${SERVERS[*]} " == *" $name "* ]] || die "there is no server '$name'; there are: ${SERVERS[*]}"
  done
}
usual() { local name; for name in "${SERVERS[@]}"; do [[ " ${ON_DEMAND[*]} " == *" $name "* ]] || echo "$name"; done; }
# The named servers and what they need, in starting order; the usual ones without names.
selection() {
  local name wanted=" "
  # shellcheck disable=SC2046  # words on purpose
  [ $# -gt 0 ] || set -- $(usual)
  for name in "$@"; do wanted+="$name $(needs "$name") "; done
  for name in "${SERVERS[@]}"; do [[ "$wanted" != *" $name "* ]] || echo "$name"; done
}

is_up() { alive "$1" && [ -e "$RUN/$1.ready" ]; }

up() {
  local server pid status=0 began wanted todo=()
  known "$@"
  mapfile -t wanted < <(selection "$@")
  fetch_for "${wanted[@]}"
  lock_state
  load_settings   # once more: another run may have started something while this one waited
  began=$(now_ms)
  for server in "${wanted[@]}"; do
    if [ -e "$RUN/$server.variant" ] && [ -n "$("${server}_variant")" ] && alive "$server" && [ "$(<"$RUN/$server.variant")" != "$("${server}_variant")" ]; then
      say "$server: version $(<"$RUN/$server.variant") runs, $("${server}_variant") is wanted: restarting"
      stop_servers "$server"
    fi
    is_up "$server" || todo+=("$server")
  done
  for server in "${todo[@]}"; do alive "$server" || check_ports_free "$server"; done
  save_ports
  declare -A starting=()
  for server in "${todo[@]}"; do rm -f "$RUN/$server".{ready,failed}; done
  for server in "${todo[@]}"; do
    ( trap '[ -e "$RUN/$server.ready" ] || touch "$RUN/$server.failed"' EXIT; bring_up "$server" ) &
    starting[$server]=$!
  done
  for server in "${todo[@]}"; do
    pid=${starting[$server]}
    wait "$pid" || status=1
  done
  [ "$status" = 0 ] || die "not everything is up; logs: $LOGS"
  if [ "${#todo[@]}" -gt 0 ]; then say "${#todo[@]} servers up in $(seconds_since "$began")"; else say "already up: ${wanted[*]}"; fi
}
bring_up() {
  local server=$1 before began
  for before in $(starts_after "$server"); do
    until is_up "$before"; do [ ! -e "$RUN/$before.failed" ] || die "$server is not started, because $before failed"; sleep 0.1; done
  done
  began=$(now_ms)
  alive "$server" || "${server}_start"
  await "$server"
  "${server}_prepare"
  touch "$RUN/$server.ready"
  say "$(printf '%-10s up in %-7s pid %s' "$server" "$(seconds_since "$began")" "$(pid_of "$server")")"
}

# Those that use another one stop first; the ones of a group stop side by side. SIGINT is PostgreSQL's fast shutdown.
stop_servers() {
  local group server running
  for group in "airflow trino connect registry" "metastore kafka" "minio postgres redis clickhouse"; do
    running=()
    for server in $group; do
      [[ " $* " == *" $server "* ]] || continue
      if alive "$server"; then running+=("$server"); else rm -f "$RUN/$server".{pid,ready,failed,variant}; fi
    done
    for server in "${running[@]}"; do signal "$server" "$([ "$server" = postgres ] && echo INT || echo TERM)"; done
    for server in "${running[@]}"; do gone_or_kill "$server"; say "$server stopped"; done
  done
}
down() {
  known "$@"
  lock_state
  stop_servers "${@:-${SERVERS[@]}}"
}
restart() {
  [ $# -gt 0 ] || die "restart which server? ${SERVERS[*]}"
  down "$@"
  up "$@"
}
kill_servers() {
  local server
  [ $# -gt 0 ] || die "kill which server? ${SERVERS[*]}"
  known "$@"
  lock_state
  for server in "$@"; do
    alive "$server" || die "$server is not running"
    signal "$server" KILL
    gone_or_kill "$server"
    say "$server killed (kill -9)"
  done
}

status() {
  local server pid state rss bad=0
  known "$@"
  # shellcheck disable=SC2046  # words on purpose
  [ $# -gt 0 ] || set -- $(usual) $(for server in "${ON_DEMAND[@]}"; do ! alive "$server" || echo "$server"; done)
  printf '%-10s %-8s %-18s %-9s %s\n' SERVER PID PORT STATE 'RSS MB'
  for server in "$@"; do
    state=down rss=- pid=-
    if pid=$(pid_of "$server"); then
      state=starting
      [ ! -e "$RUN/$server.ready" ] || { "${server}_ready" >/dev/null 2>&1 && state=up || state=hangs; }
      rss=$(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$pid/status" 2>/dev/null || echo -)
    fi
    [ "$state" = up ] || bad=1
    printf '%-10s %-8s %-18s %-9s %s\n' "$server" "${pid:--}" "$(ports_shown "$server")" "$state" "$rss"
  done
  return "$bad"
}
ports_shown() { local name list=(); for name in ${PORTS_OF[$1]}; do list+=("${!name}"); done; (IFS=,; echo "${list[*]}"); }

wipe() {
  lock_state
  stop_servers "${SERVERS[@]}"
  ! pg_bin >/dev/null || postgres_wipe
  rm -rf "$DATA" "$RUN" "$LOGS" "$ETC" "$FIRN_STACK_STATE/ports"
  say "wiped $FIRN_STACK_STATE (the cache $DIST stays)"
}

show_log() {
  [ $# -gt 0 ] || die "whose log? ${SERVERS[*]}"
  known "$1"
  [ -f "$LOGS/$1.log" ] || die "$1 has no log yet ($LOGS/$1.log)"
  cat "$LOGS/$1.log"
}

lock_state() {
  mkdir -p "$DATA" "$RUN" "$LOGS" "$ETC"
  with_lock 9 "$FIRN_STACK_STATE/lock"
}
