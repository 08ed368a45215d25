# Kafka Connect with Debezium's PostgreSQL connector and Apicurio's Avro converter.
# shellcheck shell=bash

fetch_debezium() {
  local archive
  archive=$(maven_file debezium "io.debezium:debezium-connector-postgres:$DEBEZIUM_VERSION:tar.gz:plugin")
  rm -rf "$DIST/connect/debezium-connector-postgres" && mkdir -p "$DIST/connect"
  tar xzf "$archive" -C "$DIST/connect"
}
fetch_converter() {
  local folder=$DIST/connect/apicurio-converter services=META-INF/services
  # What Connect provides itself must not be in a plugin's folder a second time.
  maven_jars converter "$folder" connect-api,connect-json,kafka-clients,lz4-java,snappy-java,zstd-jni,slf4j-api,javax.ws.rs-api \
    "io.apicurio:apicurio-registry-utils-converter:$APICURIO_VERSION"
  # The converter's jar doesn't announce itself; this one-file jar does. So plugin.discovery=service_load finds it, which
  # starts Connect in a third of the time.
  mkdir -p "$BUILD/converter/$services"
  echo io.apicurio.registry.utils.converter.AvroConverter >"$BUILD/converter/$services/org.apache.kafka.connect.storage.Converter"
  (cd "$BUILD/converter" && python3 -m zipfile -c "$folder/announce.jar" META-INF/)
}

connect_start() {
  { cat "$DEPLOY/connect/connect.properties"
    printf '%s\n' "bootstrap.servers=$FIRN_KAFKA_BOOTSTRAP" "listeners=$FIRN_CONNECT_URL" "rest.advertised.host.name=127.0.0.1" \
      "rest.advertised.port=$FIRN_CONNECT_PORT" "plugin.path=$DIST/connect"; } >"$ETC/connect.properties"
  # shellcheck disable=SC2086  # several options in one variable
  launch connect "$JAVA_COMMAND" ${FIRN_CONNECT_JVM:--Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1} -cp "$DIST/kafka/*" \
    "-Dlog4j2.configurationFile=$DEPLOY/kafka/log4j2.yaml" org.apache.kafka.connect.cli.ConnectDistributed "$ETC/connect.properties"
}
connect_ready() { curl -sf -m 2 -o /dev/null "$FIRN_CONNECT_URL/connectors"; }
connect_prepare() { :; }

