# syntax=docker/dockerfile:1
# Superset's image and the client that lets it query Trino.
ARG SUPERSET_VERSION
FROM apache/superset:${SUPERSET_VERSION}
ARG TRINO_CLIENT_VERSION
USER root
RUN uv pip install --no-cache --python /app/.venv/bin/python "trino==${TRINO_CLIENT_VERSION}"
USER superset
