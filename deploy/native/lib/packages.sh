# System packages: what is missing is installed with apt-get by root, named with its command for anyone else.
# shellcheck shell=bash

version_at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }   # MINIMUM VERSION

pg_bin() {
  local dir
  for dir in "/usr/lib/postgresql/$POSTGRES_MAJOR/bin" $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
    if [ -x "$dir/postgres" ]; then echo "$dir"; return; fi
  done
  dir=$(command -v postgres) && dirname "$dir"
}
# Sets JAVA_COMMAND; the first fitting one of FIRN_JAVA, the path and the installed ones.
find_java() {
  local java version
  [ -z "${JAVA_COMMAND:-}" ] || return 0
  for java in ${FIRN_JAVA:-} "$(command -v java)" /usr/lib/jvm/*/bin/java; do
    version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p') || continue
    if [ "${version:-0}" -ge "$JAVA_MIN" ] && [ "$version" -le "$JAVA_MAX" ]; then JAVA_COMMAND=$java; return 0; fi
  done
  return 1
}
python_ok() { python3 -c 'import venv, ensurepip' 2>/dev/null; }
go_ok() { local v; v=$(go env GOVERSION 2>/dev/null) && version_at_least "$GO_MIN" "${v#go}"; }

missing_packages() { # SERVER...: those of the rest, and a server's own only where it is wanted
  command -v curl >/dev/null || echo curl
  command -v unzip >/dev/null || echo unzip
  command -v openssl >/dev/null || echo openssl
  command -v setpriv >/dev/null || echo util-linux
  python_ok || echo python3-venv
  find_java || echo "openjdk-$JAVA_MIN-jre-headless"
  command -v mvn >/dev/null || echo maven
  pg_bin >/dev/null || echo postgresql
  [[ " $* " != *" redis "* ]] || command -v redis-server >/dev/null || echo redis-server
}

ensure_packages() { # SERVER...
  local packages line
  find_java || true   # here, not only in the subshell of the next line
  packages=$(missing_packages "$@" | tr '\n' ' ')
  [ -n "$packages" ] || return 0
  # RUNLEVEL=1: a package's own service (postgresql on port 5432) is not started
  line="RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ${packages% }"
  command -v apt-get >/dev/null || die "this machine lacks ${packages% } (Debian's names), and has no apt-get: install them yourself"
  [ "$(id -u)" = 0 ] || die "this machine lacks: ${packages% }. Run: sudo apt-get update && sudo $line"
  mkdir -p "$LOGS"
  say "installing system packages: ${packages% } (log: $LOGS/apt.log)"
  apt-get update >"$LOGS/apt.log" 2>&1 || { log_tail "$LOGS/apt.log"; die "apt-get update failed"; }
  env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive bash -c "apt-get install -y --no-install-recommends ${packages}" >>"$LOGS/apt.log" 2>&1 ||
    { log_tail "$LOGS/apt.log"; die "apt-get install failed: ${packages% }"; }
  find_java || die "no Java from $JAVA_MIN to $JAVA_MAX: set FIRN_JAVA to the java command of one"
}
