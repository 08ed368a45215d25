# Apicurio Registry, which speaks the Confluent schema registry's API under /apis/ccompat/v7. Schemas live in its memory: they
# are gone after a stop, and Connect registers them again.
# shellcheck shell=bash

fetch_registry() {
  local archive
  archive=$(maven_file registry "io.apicurio:apicurio-registry-app:$APICURIO_VERSION:tar.gz:all")
  rm -rf "$DIST/registry" && mkdir -p "$DIST/registry"
  tar xzf "$archive" -C "$DIST/registry"
}

registry_start() {
  # shellcheck disable=SC2086  # several options in one variable
  launch registry "$JAVA_COMMAND" ${FIRN_REGISTRY_JVM:--Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1} -Dquarkus.http.host=127.0.0.1 \
    "-Dquarkus.http.port=$FIRN_REGISTRY_PORT" -jar "$DIST/registry/apicurio-registry-app-$APICURIO_VERSION-runner.jar"
}
registry_ready() { curl -sf -m 2 -o /dev/null "$FIRN_REGISTRY_URL/subjects"; }
registry_prepare() { :; }
