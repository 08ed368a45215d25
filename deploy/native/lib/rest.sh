# Iceberg's own REST catalog server. Not one of the stack's servers: a test starts its own, in the foreground, over a folder.
# shellcheck shell=bash

fetch_rest() {   # the servlet is published among Iceberg's tests; its files go through Hadoop's local file system
  maven_jars rest "$DIST/rest" - "org.apache.iceberg:iceberg-core:$ICEBERG_VERSION" "org.xerial:sqlite-jdbc:$SQLITE_JDBC_VERSION" \
    "org.eclipse.jetty.ee10:jetty-ee10-servlet:$JETTY_VERSION" "org.eclipse.jetty:jetty-xml:$JETTY_VERSION"
  cp "$(maven_file rest "org.apache.iceberg:iceberg-core:$ICEBERG_VERSION:jar:tests")" "$DIST/rest/"
}
rest() { # PORT FOLDER
  [ $# -eq 2 ] && [ -d "$2" ] || die "usage: stack rest PORT FOLDER"
  fetch_for rest
  exec "$JAVA_COMMAND" -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$DIST/rest/*:$DIST/hadoop/*" \
    org.eclipse.jetty.xml.XmlConfiguration "port=$1" "folder=$(readlink -f "$2")" "$DEPLOY/rest/jetty.xml"
}
