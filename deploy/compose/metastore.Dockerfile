# syntax=docker/dockerfile:1
# Hive's image and the JDBC driver that it lacks: the same file that the standalone metastore of deploy/native carries.
ARG HMS_VERSION
FROM apache/hive:${HMS_VERSION}
ADD --chmod=644 --checksum=sha256:89e8bffa8b37b9487946012c690cf04f3103953051c1c193d88ee36b68d365ae \
  https://repo1.maven.org/maven2/org/postgresql/postgresql/42.5.1/postgresql-42.5.1.jar /opt/hive/lib/
