# syntax=docker/dockerfile:1
# Airflow's image with firn, which its tasks run.
ARG AIRFLOW_VERSION
FROM firn:local AS firn
FROM apache/airflow:${AIRFLOW_VERSION}
COPY --from=firn /usr/local/bin/firn /usr/local/bin/firn
# A new volume there is its user's.
RUN mkdir /opt/airflow/data
