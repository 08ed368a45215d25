# Clients that speak to the running stack, for people and tests.
# shellcheck shell=bash

tool() {
  local name=$1; shift
  case $name in
    psql) psql_as "$FIRN_PG_USER" "$FIRN_PG_DATABASE" "$@" ;;
    mc) mc "$@" ;;
    redis-cli) redis_cli "$@" ;;
    clickhouse) clickhouse_sql "$@" ;;
    trino) "$(java25_home)/bin/java" -Xmx256m -XX:TieredStopAtLevel=1 --enable-native-access=ALL-UNNAMED -Dorg.jline.terminal.dumb=true -jar "$DIST/bin/trino-cli.jar" --server "$FIRN_TRINO_URL" --user firn --catalog "$FIRN_TRINO_CATALOG" "$@" ;;
    kafka-topics) kafka_tool org.apache.kafka.tools.TopicCommand --bootstrap-server "$FIRN_KAFKA_BOOTSTRAP" "$@" ;;
    kafka-groups) kafka_tool org.apache.kafka.tools.consumer.group.ConsumerGroupCommand --bootstrap-server "$FIRN_KAFKA_BOOTSTRAP" "$@" ;;
    kafka-produce) kafka_tool org.apache.kafka.tools.ConsoleProducer --bootstrap-server "$FIRN_KAFKA_BOOTSTRAP" "$@" ;;
    kafka-consume) kafka_tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$FIRN_KAFKA_BOOTSTRAP" "$@" ;;
    kafka-consume-sasl) kafka_tool org.apache.kafka.tools.consumer.ConsoleConsumer --bootstrap-server "$FIRN_KAFKA_SASL_BOOTSTRAP" \
      --command-config "$ETC/kafka-client.properties" "$@" ;;
  esac
}

connector() { python3 "$HERE/lib/connector.py" connector "$@"; }
connector_delete() {
  local database slot publication removed
  removed=$(python3 "$HERE/lib/connector.py" connector-delete "$@")
  read -r database slot publication <<<"$removed"
  # shellcheck disable=SC2016  # Connect's own placeholder
  [ "$database" != '${env:FIRN_PG_DATABASE}' ] || database=$FIRN_PG_DATABASE
  psql_as "$FIRN_PG_USER" "$database" -qAt -v slot="$slot" -v publication="$publication" >/dev/null <<'SQL'
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = :'slot';
DROP PUBLICATION IF EXISTS :"publication";
SQL
}
