"""Breaks a copy of the checkout in one way after the other: each check must refuse what it is for, and nothing else may be needed."""
import pathlib
import shutil
import tempfile

C, E, D = "docker-compose.yml", ".env", "Dockerfile"
# (check, file, what stands there, what is put in its place, part of the refusal). An empty "what stands there" makes a new file.
BREAKS = [
    ("read", C, "services:\n", "services:\n  a: [\n", "not YAML"),
    ("read", "deploy/native/versions.env", None, None, "deploy/native/versions.env"),
    ("specification", C, "    stop_grace_period: 60s", "    stop_grace_time: 60s", "stop_grace_time"),
    ("specification", C, "condition: service_healthy", "condition: service_well", "is not"),
    ("specification", C, "command: [server, /data, --address, \":9000\"]", "command: 9000", "services.minio.command"),
    ("variables", E, "FIRN_S3_REGION=us-east-1\n", "", "${FIRN_S3_REGION}, which has no value"),
    ("variables", E, "FIRN_S3_REGION=us-east-1\n", "FIRN_S3_REGION=us-east-1\nLEFT_OVER=1\n", "LEFT_OVER, which"),
    ("mounts", C, "./deploy/firn/firn.toml:", "./deploy/firn/fern.toml:", "fern.toml, which is not in"),
    ("mounts", C, "minio:/data", "/var/data:/data", "/var/data, which is not in"),
    ("mounts", C, "minio:/data", "mini:/data", "volume mini, which is not declared"),
    ("mounts", C, "volumes:\n  postgres:\n", "volumes:\n  postgres:\n  spare:\n", "spare is declared"),
    ("health", C, "      test: [CMD, mc, ready, local]", "      disable: true", "minio runs for long, but has no health check"),
    ("health", C, "memory: 2g", "pids: 100", "trino runs for long, but has no memory limit"),
    ("health", C, "    restart: unless-stopped\n    # The image gives", "    # The image gives", "trino has no restart policy"),
    ("order", C, "      registry: { condition: service_healthy }\n      metastore:", "      regitsry: { condition: service_healthy }\n      metastore:", "regitsry, which is no service"),
    ("order", C, "      test: [CMD, mc, ready, local]", "      disable: true", "but minio has no health check"),
    ("order", C, "bucket: { condition: service_completed_successfully }", "kafka: { condition: service_completed_successfully }", "kafka is not a one-shot"),
    ("order", C, "minio: { condition: service_healthy }", "minio: { condition: service_started }", "doesn't wait"),
    ("order", C, "    depends_on:\n      kafka: { condition: service_healthy }\n", "    depends_on: [kafka]\n", "plain list"),
    ("order", C, "    depends_on:\n      kafka: { condition: service_healthy }\n", "    depends_on:\n      firn: { condition: service_healthy }\n", "in a circle"),
    ("order", C, "      metastore: { condition: service_healthy }\n      minio: { condition: service_healthy }\n    ports: [\"127.0.0.1:${FIRN_TRINO",
     "      superset: { condition: service_healthy }\n    ports: [\"127.0.0.1:${FIRN_TRINO", "starts only with a profile"),
    ("ports", C, "127.0.0.1:${FIRN_PG_PORT}", "${FIRN_PG_PORT}", "beyond 127.0.0.1"),
    ("ports", C, "${FIRN_HTTP_PORT}:8088", "${FIRN_TRINO_PORT}:8088", "publish the same port"),
    ("pinned", C, "trinodb/trino:${TRINO_VERSION}", "trinodb/trino", "has no tag"),
    ("pinned", C, "trinodb/trino:${TRINO_VERSION}", "trinodb/trino:latest", "moving tag latest"),
    ("pinned", C, "postgres:${POSTGRES_VERSION}-bookworm", "postgres:15", "names no release"),
    ("pinned", C, "    image: apache/kafka:${KAFKA_VERSION}\n", "", "neither image nor build"),
    ("dockerfiles", C, "dockerfile: metastore.Dockerfile", "dockerfile: metastor.Dockerfile", "doesn't exist"),
    ("dockerfiles", D, "COPY src src", "COPY src src\nCOPY sources sources", "copies sources, which doesn't exist"),
    ("dockerfiles", ".dockerignore", "!src\n", "", "copies src, which .dockerignore leaves out"),
    ("dockerfiles", D, "FROM debian:${DEBIAN_VERSION}-slim", "FROM debian:stable-slim", "moving tag stable-slim"),
    ("dockerfiles", D, "ARG DEBIAN_VERSION", "ARG DEBIAN_RELEASE", "ARG DEBIAN_RELEASE gets no value"),
    ("dockerfiles", D, "ARG DEBIAN_VERSION", "ARG DEBIAN_RELEASE", "the argument DEBIAN_VERSION, which it doesn't have"),
    ("dockerfiles", D, "USER 10001:10001\n", "", "firn runs as root"),
    ("dockerfiles", "deploy/compose/metastore.Dockerfile", "--checksum=sha256:89e8bffa8b37b9487946012c690cf04f3103953051c1c193d88ee36b68d365ae ", "", "without a checksum"),
    ("build_of_firn", D, "COPY catalog catalog\n", "", "cargo needs catalog"),
    ("build_of_firn", "Cargo.toml", "[package]", "[[example]]\nname = \"one\"\n\n[package]", "cargo needs examples"),
    ("build_of_firn", "src/outside.rs", "", 'const NOTE: &str = include_str!("../docs/note.md");\n', "includes docs/note.md"),
    ("build_of_firn", E, "RUST_VERSION=1.95.0", "RUST_VERSION=1.80.0", "RUST_VERSION=1.80.0 is below"),
    ("versions", E, "KAFKA_VERSION=4.3.1", "KAFKA_VERSION=4.3.0", "KAFKA_VERSION=4.3.0 is not"),
    ("versions", E, "POSTGRES_VERSION=15.", "POSTGRES_VERSION=16.", "POSTGRES_VERSION=16"),
    ("versions", E, "MINIO_RELEASE=RELEASE.2025-09-07", "MINIO_RELEASE=RELEASE.2025-09-08", "MINIO_RELEASE"),
    ("versions", "deploy/native/versions.env", "TRINO_VERSION=476", "TRINO_VERSION=477", "TRINO_VERSION=476 is not"),
    ("versions", E, "TRINO_CLIENT_VERSION=0.340.0", "TRINO_CLIENT_VERSION=0.300.0", "requirements.txt"),
    ("versions", E, "CLICKHOUSE_VERSION=26.9.", "CLICKHOUSE_VERSION=25.8.", "CLICKHOUSE_VERSION=25.8.6.6 is not"),
    ("versions", "deploy/compose/metastore.Dockerfile", "postgresql-42.5.1.jar", "derby.jar", "no PostgreSQL driver"),
    ("services", C, "  registry:\n    image", "  schemas:\n    image", "no service registry"),
    ("ports", E, "FIRN_HTTP_PORT=29088", "FIRN_HTTP_PORT=29080", "publish the same port 29080"),
    ("native_ports", E, "FIRN_KAFKA_PORT=29092", "FIRN_KAFKA_PORT=9092", "FIRN_KAFKA_PORT=9092, deploy/native has 29092"),
    ("native_ports", E, "FIRN_REDIS_PORT=29085\n", "FIRN_REDIS_PORT=6379\n", "FIRN_REDIS_PORT=6379, deploy/native has 29085"),
    ("native_ports", E, "FIRN_HTTP_PORT=29088", "FIRN_HTTP_PORT=29093", "another server's port"),
    ("names", E, "FIRN_PG_PASSWORD=cdc-dev", "FIRN_PG_PASSWORD=other", "FIRN_PG_PASSWORD=other, deploy/native has cdc-dev"),
    ("names", E, "FIRN_WAREHOUSE_BUCKET=warehouse", "FIRN_WAREHOUSE_BUCKET=lake", "doesn't list the bucket lake"),
    ("names", C, "FIRN_TRINO_CATALOG: lake", "FIRN_TRINO_CATALOG: pond", "FIRN_TRINO_CATALOG=pond"),
    ("names", "deploy/trino/catalog/lake.properties", None, None, "no lake.properties"),
    ("names", C, "\"lake/${FIRN_WAREHOUSE_BUCKET}\"", "lake/other", "doesn't make the bucket"),
    ("names", C, "POSTGRES_DB: ${FIRN_PG_DATABASE}", "POSTGRES_DB: postgres", "POSTGRES_DB"),
    ("shared", C, "./deploy/kafka/server.properties:", "./deploy/compose/kafka-listeners.properties:", "kafka doesn't mount deploy/kafka/server.properties"),
    ("shared", C, "./deploy/redis/redis.conf:", "./deploy/compose/kafka:", "redis doesn't mount deploy/redis/redis.conf"),
    ("shared", "deploy/postgres/source.sql", None, None, "source.sql doesn't exist"),
    ("read_variables", C, "FIRN_REGISTRY_NATIVE_URL:", "FIRN_REGISTRY_OTHER_URL:", "avro.json reads FIRN_REGISTRY_NATIVE_URL"),
    ("read_variables", C, "      FIRN_TRINO_PORT: \"8080\"\n", "", "config.properties reads FIRN_TRINO_PORT"),
    ("read_variables", C, "      FIRN_METASTORE_DB_URL:", "      FIRN_METASTORE_DB:", "metastore-site.xml reads FIRN_METASTORE_DB_URL"),
    ("read_variables", "deploy/firn/firn.toml", "${FIRN_HMS_URI}", "${FIRN_HMS_URL}", "reads FIRN_HMS_URL"),
    ("read_variables", "deploy/postgres/init.sql", "\\getenv cdc_password FIRN_PG_PASSWORD", "\\getenv cdc_password FIRN_CDC_PASSWORD", "reads FIRN_CDC_PASSWORD"),
    ("read_variables", C, "      FIRN_KAFKA_SASL_PORT: ${FIRN_KAFKA_SASL_PORT}\n", "", "compose/kafka reads FIRN_KAFKA_SASL_PORT"),
    ("addresses", C, "http://clickhouse:8123", "http://clickhose:8123", "names clickhose, which is no service"),
    ("addresses", C, "thrift://metastore:9083", "thrift://metastor:9083", "names metastor, which is no service"),
    ("topics", "deploy/connect/inventory-connector.json", '"topic.prefix": "inventory-server"', '"topic.prefix": "stock"', "reads no topic stock.inventory.*"),
    ("topics", "deploy/firn/firn.toml", 'topic = "postgres.public.engagement_events"', 'topic = "postgres.engagement_events"', "which no connector"),
    ("topics", "deploy/firn/firn.toml", 'listen = "0.0.0.0:8088"', 'listen = "0.0.0.0:9090"', "listens on 0.0.0.0:9090"),
    ("topics", "deploy/firn/firn.toml", "[kafka]", "[kafka", "not TOML"),
    ("alerts", "deploy/prometheus/firn.rules.yml", "groups:\n", "groups: [\n", "not YAML"),
    ("alerts", "deploy/prometheus/firn.rules.yml", "          summary: ", "          sumary: ", "lacks summary"),
    ("alerts", "deploy/prometheus/firn.rules.yml", "expr: min_over_time(", "expr: min_over_time((", "brackets"),
    ("alerts", "deploy/prometheus/firn.rules.yml", "alert: FirnLag\n", "alert: FirnTableStopped\n", "two alerts"),
]
COPIED = ["docker-compose.yml", ".env", "Dockerfile", ".dockerignore", "Cargo.toml", "Cargo.lock", "deploy", "catalog", "src", "benches", "tests"]


def run(root, problems, checks):
    """0 when the checkout is good, each break is refused by its own check, and each check has a break."""
    failed = []
    untried = set(checks) - {check for check, *_ in BREAKS}
    failed += [f"no break tries the check {check}" for check in sorted(untried)]
    with tempfile.TemporaryDirectory(prefix="compose-check-") as folder:
        copy = pathlib.Path(folder)
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("target", "__pycache__"))
            else:
                shutil.copy(root / name, copy / name)
        failed += [f"unbroken, {check} refuses: {message}" for check, message in problems(copy)]
        for check, name, old, new, wanted in BREAKS:
            failed += one(copy / name, (check, old, new, wanted), lambda: problems(copy))
    for message in failed:
        print(f"compose-check --self-test: {message}")
    if not failed:
        print(f"compose-check --self-test: {len(BREAKS)} breaks, all refused by the check they are for")
    return bool(failed)


def one(file, broken, problems):
    check, old, new, wanted = broken
    before = file.read_text() if file.exists() else None
    what = f"{file.name}: {old!r} -> {new!r}"
    if old and old not in (before or ""):
        return [f"{what}: that text isn't there any more"]
    if old is None:
        file.unlink()
    else:
        file.write_text(before.replace(old, new, 1) if old else new)
    try:
        found = problems()
    finally:
        if before is None:
            file.unlink()
        else:
            file.write_text(before)
    if any(by == check and wanted in message for by, message in found):
        return []
    return [f"{what}: {check} doesn't say {wanted!r}, found: {found}"]
