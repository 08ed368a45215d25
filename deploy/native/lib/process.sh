# Starting and stopping by recorded process id. A record is "pid start-time boot-id": a recycled id has another start time,
# so no process is ever touched that this stack did not start.
# shellcheck shell=bash

BOOT_ID=$(</proc/sys/kernel/random/boot_id)

# State letter and start time (fields 3 and 22 of /proc/PID/stat; the name in field 2 may hold spaces).
proc_stat() {
  local stat
  { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  # shellcheck disable=SC2086  # split into fields on purpose
  set -- ${stat##*) }
  printf '%s %s\n' "$1" "${20}"
}

# pid_of SERVER: prints the id if that very process still runs.
pid_of() {
  local pid start boot state started
  [ -s "$RUN/$1.pid" ] || return 1
  read -r pid start boot <"$RUN/$1.pid"
  [ "$boot" = "$BOOT_ID" ] && read -r state started < <(proc_stat "$pid") && [ "$started" = "$start" ] && [ "$state" != Z ] && echo "$pid"
}
alive() { pid_of "$1" >/dev/null; }
any_alive() { local s; for s in "${SERVERS[@]}"; do alive "$s" && return 0; done; return 1; }

# launch SERVER COMMAND...: detached, log kept (three older ones too), without the locks that this script holds.
launch() {
  local server=$1 i pid started; shift
  for i in 2 1; do [ ! -f "$LOGS/$server.log.$i" ] || mv "$LOGS/$server.log.$i" "$LOGS/$server.log.$((i + 1))"; done
  [ ! -f "$LOGS/$server.log" ] || mv "$LOGS/$server.log" "$LOGS/$server.log.1"
  (cd "$DATA" && exec setsid "$@" >"$LOGS/$server.log" 2>&1 </dev/null 8>&- 9>&-) &
  pid=$!
  started=$(proc_stat "$pid") || started='- 0'   # ended already: await shows its log
  printf '%s %s %s\n' "$pid" "${started#* }" "$BOOT_ID" >"$RUN/$server.pid"
}

log_tail() { say "--- the end of $1"; tail -n "${2:-25}" "$1" >&2 || true; }

# await SERVER: until its own check passes, it dies, or the limit is over.
await() {
  local server=$1 end=$((SECONDS + FIRN_STACK_WAIT_S))
  until "${server}_ready" >/dev/null 2>&1; do
    alive "$server" || { log_tail "$LOGS/$server.log"; die "$server ended while starting (log: $LOGS/$server.log)"; }
    [ "$SECONDS" -lt "$end" ] || { log_tail "$LOGS/$server.log"; die "$server is not ready after $FIRN_STACK_WAIT_S s (FIRN_STACK_WAIT_S; log: $LOGS/$server.log)"; }
    sleep 0.1
  done
}

# signal SERVER SIGNAL, then gone_or_kill SERVER: two steps, so that several servers stop at the same time.
signal() { local pid; ! pid=$(pid_of "$1") || kill "-$2" "$pid" 2>/dev/null || true; }
gone_or_kill() {
  local server=$1 end=$((SECONDS + 40)) pid
  pid=$(cut -d' ' -f1 "$RUN/$server.pid")
  while alive "$server"; do
    if [ "$SECONDS" -ge "$end" ]; then say "$server ignores the stop signal for 40 s: kill -9"; signal "$server" KILL; fi
    sleep 0.1
  done
  wait_for_group "$pid"
  rm -f "$RUN/$server".{pid,ready,failed,variant}
}
# Its children end a moment after it (PostgreSQL's, when their parent was killed), and init may take its time to collect it;
# until then the next start would take it for a running one.
wait_for_group() {
  local end=$((SECONDS + 10))
  while kill -0 -- "-$1" 2>/dev/null && [ "$SECONDS" -lt "$end" ]; do sleep 0.1; done
}

port_busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
check_ports_free() { # SERVER
  local name
  for name in ${PORTS_OF[$1]}; do
    ! port_busy "${!name}" || die "port ${!name} ($name, for $1) is taken by another process: set $name, or FIRN_STACK_PORT_BASE to move all ports"
  done
}

# with_lock FD FILE: waits for a second run of this script; the lock ends with this process.
with_lock() {
  mkdir -p "$(dirname "$2")"
  case $1 in 8) exec 8>"$2" ;; 9) exec 9>"$2" ;; esac
  flock -n "$1" || { say "waiting for another run of this script ($2)"; flock "$1"; }
}
