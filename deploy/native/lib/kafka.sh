# Kafka, one KRaft node: broker and controller. A PLAINTEXT listener, and a SASL_SSL one with a certificate of its own authority.
# shellcheck shell=bash

fetch_kafka() {
  local artifacts=() name
  for name in kafka_2.13 kafka-tools connect-runtime connect-json connect-transforms; do artifacts+=("org.apache.kafka:$name:$KAFKA_VERSION"); done
  for name in log4j-slf4j-impl log4j-1.2-api; do artifacts+=("org.apache.logging.log4j:$name:$LOG4J_VERSION"); done
  maven_jars kafka "$DIST/kafka" - "${artifacts[@]}"
}

kafka_tool() { # MAIN-CLASS ARGUMENT...
  find_java || die "no Java here: run 'stack up' first"
  "$JAVA_COMMAND" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$DIST/kafka/*" "-Dlog4j2.configurationFile=$DEPLOY/kafka/log4j2-tools.yaml" "$@"
}

kafka_start() {
  kafka_certificates
  sed "s|@ETC@|$ETC|; s|@USER@|$FIRN_KAFKA_SASL_USERNAME|; s|@PASSWORD@|$FIRN_KAFKA_SASL_PASSWORD|" "$DEPLOY/kafka/client-sasl.properties" >"$ETC/kafka-client.properties"
  { cat "$DEPLOY/kafka/server.properties"
    sed "s|@PORT@|$FIRN_KAFKA_PORT|g; s|@CONTROLLER_PORT@|$FIRN_KAFKA_CONTROLLER_PORT|g; s|@SASL_PORT@|$FIRN_KAFKA_SASL_PORT|g; s|@GATED_PORT@|$FIRN_KAFKA_GATED_PORT|g; s|@GATE_PORT@|$FIRN_KAFKA_GATE_PORT|g; s|@DATA@|$DATA|; s|@ETC@|$ETC|g
      s|@USER@|$FIRN_KAFKA_SASL_USERNAME|g; s|@PASSWORD@|$FIRN_KAFKA_SASL_PASSWORD|g" "$HERE/kafka-listeners.properties"; } >"$ETC/kafka.properties"
  if [ ! -e "$DATA/kafka/meta.properties" ]; then
    kafka_tool kafka.tools.StorageTool format --standalone -t "$(kafka_cluster_id)" -c "$ETC/kafka.properties" \
      --add-scram "SCRAM-SHA-256=[name=$FIRN_KAFKA_SASL_USERNAME,password=$FIRN_KAFKA_SASL_PASSWORD]" >"$LOGS/kafka-format.log" 2>&1 ||
      { log_tail "$LOGS/kafka-format.log"; rm -rf "$DATA/kafka"; die "kafka: formatting its data folder failed"; }
  fi
  # shellcheck disable=SC2086  # several options in one variable
  launch kafka "$JAVA_COMMAND" ${FIRN_KAFKA_JVM:--Xmx512m -XX:+UseSerialGC} -cp "$DIST/kafka/*" "-Dlog4j2.configurationFile=$DEPLOY/kafka/log4j2.yaml" \
    kafka.Kafka "$ETC/kafka.properties"
}
kafka_cluster_id() { head -c 16 /dev/urandom | base64 | tr '+/' 'ab' | tr -d '='; }   # 16 bytes in base64url; - and _ are left out: none may lead
kafka_ready() { grep -q 'Kafka Server started' "$LOGS/kafka.log" && port_busy "$FIRN_KAFKA_PORT"; }
kafka_prepare() { :; }

# An authority and a server certificate for localhost; made once, removed by wipe.
kafka_certificates() {
  local tls=$ETC/tls
  [ ! -s "$tls/server.pem" ] || return 0
  mkdir -p "$tls"
  { openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj '/CN=firn development CA' -keyout "$tls/ca.key" -out "$tls/ca.pem" \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
    openssl req -newkey rsa:2048 -nodes -subj '/CN=localhost' -keyout "$tls/server.key" -out "$tls/server.csr"
    openssl x509 -req -in "$tls/server.csr" -CA "$tls/ca.pem" -CAkey "$tls/ca.key" -CAcreateserial -days 3650 -out "$tls/server.crt" \
      -extfile <(printf 'subjectAltName=DNS:localhost,DNS:kafka,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n')
  } >"$LOGS/openssl.log" 2>&1 || { log_tail "$LOGS/openssl.log"; die "kafka: making its certificate failed"; }
  cat "$tls/server.key" "$tls/server.crt" "$tls/ca.pem" >"$tls/server.pem"   # Kafka reads a key store of type PEM
  chmod 600 "$tls"/*.key "$tls/server.pem"
}
