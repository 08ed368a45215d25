# Hive Metastore, the standalone server, with its tables in the stack's PostgreSQL.
# shellcheck shell=bash

fetch_hadoop() {   # what an installed Hadoop would bring; each one is needed, nothing here talks to S3
  maven_jars hadoop "$DIST/hadoop" alone "org.apache.hadoop:hadoop-client-api:$HADOOP_VERSION" \
    "org.apache.hadoop:hadoop-client-runtime:$HADOOP_VERSION" "org.apache.hadoop:hadoop-hdfs:$HADOOP_VERSION" \
    commons-io:commons-io:2.16.1 commons-collections:commons-collections:3.2.2 org.slf4j:slf4j-api:1.7.36 \
    javax.servlet:javax.servlet-api:3.1.0 org.apache.httpcomponents:httpclient:4.5.14 com.google.code.gson:gson:2.10.1
}
fetch_hive() { # VERSION
  local archive
  archive=$(maven_file "metastore-$1" "org.apache.hive:hive-standalone-metastore-server:$1:tar.gz:bin")
  rm -rf "$DIST/metastore-$1" && mkdir -p "$DIST/metastore-$1"
  tar xzf "$archive" -C "$DIST/metastore-$1" --strip-components=1
}
fetch_metastore_4.0.0() { fetch_hive 4.0.0; }
fetch_metastore_4.0.1() { fetch_hive 4.0.1; }

metastore_java() { # (launch metastore | env) MAIN-CLASS ARGUMENT...: started, or run to its end
  local home=$DIST/metastore-$FIRN_HMS_VERSION how=("$1"); shift
  [ "${how[0]}" = env ] || { how+=("$1"); shift; }
  # shellcheck disable=SC2086  # several options in one variable
  METASTORE_HOME=$home "${how[@]}" "$JAVA_COMMAND" ${FIRN_METASTORE_JVM:--Xmx512m -XX:+UseSerialGC -XX:TieredStopAtLevel=1} \
    -cp "$ETC/hive:$home/lib/*:$DIST/hadoop/*" "-Dlog4j2.configurationFile=file:$ETC/hive/log4j2.properties" "$@"
}

metastore_start() {
  local bucket line shadow=$DATA/metastore/locations
  mkdir -p "$ETC/hive" "$shadow"
  cp "$DEPLOY/hive/metastore-site.xml" "$DEPLOY/hive/log4j2.properties" "$ETC/hive/"
  # core-site.xml has one line for the bucket "warehouse"; here it is repeated for each bucket, on this machine's folder
  while IFS= read -r line; do
    case $line in
      *mounttable.warehouse.*) for bucket in $FIRN_BUCKETS; do
        mkdir -p "$shadow/$bucket"
        sed "s|mounttable.warehouse.|mounttable.$bucket.|; s|file:[^<]*|file://$shadow/$bucket|" <<<"$line"
      done ;;
      *) printf '%s\n' "$line" ;;
    esac
  done <"$DEPLOY/hive/core-site.xml" >"$ETC/hive/core-site.xml"
  if [ "$(metastore_sql "SELECT to_regclass('\"VERSION\"') IS NOT NULL")" != t ]; then
    (cd "$DATA" && metastore_java env org.apache.hadoop.hive.metastore.tools.schematool.MetastoreSchemaTool -dbType postgres -initSchema) >"$LOGS/metastore-schema.log" 2>&1 ||
      { log_tail "$LOGS/metastore-schema.log"; die "metastore: making its tables failed"; }
  fi
  metastore_java launch metastore org.apache.hadoop.hive.metastore.HiveMetaStore
  echo "$FIRN_HMS_VERSION" >"$RUN/metastore.variant"
}
metastore_variant() { echo "$HMS_VERSION_ASKED"; }   # nothing was asked for: whichever runs will do
metastore_sql() { psql_as "$FIRN_PG_ADMIN_USER" metastore -qAtc "$1"; }
metastore_ready() { port_busy "$FIRN_METASTORE_PORT"; }
metastore_prepare() { :; }
