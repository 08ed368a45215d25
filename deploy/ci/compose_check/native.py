"""The compose file beside deploy/native: the same versions, names, ports and files, and every variable those files read."""
import re

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


# .env's name -> how versions.env says it
VERSIONS = {
    "POSTGRES_VERSION": ("POSTGRES_MAJOR", lambda v: v.split(".")[0]),
    "KAFKA_VERSION": ("KAFKA_VERSION", str),
    "DEBEZIUM_VERSION": ("DEBEZIUM_VERSION", str),
    "APICURIO_VERSION": ("APICURIO_VERSION", str),
    "HMS_VERSION": ("HMS_VERSION_DEFAULT", str),
    "TRINO_VERSION": ("TRINO_VERSION", str),
    # there a commit for Go, with the release in the comment behind it
    "MINIO_RELEASE": ("MINIO_VERSION", str),
    "MC_RELEASE": ("MC_VERSION", str),
}
# The shared files, and the service that has to mount each of them (or a folder above).
SHARED = {
    "postgres": ["deploy/postgres/init.sql", "deploy/postgres/source.sql", "deploy/postgres/postgresql.conf"],
    "kafka": ["deploy/kafka/server.properties", "deploy/kafka/log4j2.yaml"],
    "connect": ["deploy/connect/connect.properties"],
    "init": ["deploy/connect/inventory-connector.json", "deploy/connect/engagement-connector.json"],
    "metastore": ["deploy/hive/metastore-site.xml", "deploy/hive/core-site.xml"],
    "trino": ["deploy/trino/config.properties", "deploy/trino/catalog/lake.properties"],
    "redis": ["deploy/redis/redis.conf"],
}
# How the files of each service name a variable of the environment; a name with a default may be missing.
READS = {
    "connect": (["deploy/connect/*.json"], r"\$\{env:(\w+)\}"),
    "trino": (["deploy/trino/*.properties", "deploy/trino/catalog/*.properties"], r"\$\{ENV:(\w+)\}"),
    "metastore": (["deploy/hive/*.xml"], r"\$\{env\.([A-Z]\w*)\}"),
    "postgres": (["deploy/postgres/*.sql"], r"\\getenv \w+ (\w+)"),
    "firn": (["deploy/firn/firn.toml"], r"\$\{(\w+)\}"),
}
COMMENT = re.compile(r"<!--.*?-->|^\s*(?:#|--).*?$", re.S | re.M)


def versions(tree):
    for name, (theirs, shown) in VERSIONS.items():
        mine, wanted = tree.env.get(name, ""), tree.versions.get(theirs, "")
        release = re.search(rf"^{theirs}=.*# (RELEASE\.\S+)", tree.text("deploy/native/versions.env"), re.M)
        wanted = release[1] if release else wanted
        if shown(mine) != wanted:
            yield f".env: {name}={mine} is not what deploy/native/versions.env says ({theirs}, {wanted})"
    jdbc = re.search(r"postgresql-([\d.]+)\.jar", tree.text("deploy/compose/metastore.Dockerfile"))
    if not jdbc:
        yield "deploy/compose/metastore.Dockerfile adds no PostgreSQL driver"
    engine = re.search(r"^chdb-core==(\d+\.\d+)\.", tree.text("deploy/native/requirements-clickhouse.txt"), re.M)
    have = tree.env.get("CLICKHOUSE_VERSION", "")
    if not engine or not have.startswith(f"{engine[1]}."):
        yield f".env: CLICKHOUSE_VERSION={have} is not of the engine's line in deploy/native/requirements-clickhouse.txt ({engine and engine[1]})"
    client = re.search(r"^trino==(\S+)", tree.text("deploy/native/requirements.txt"), re.M)
    if client and tree.env.get("TRINO_CLIENT_VERSION") != client[1]:
        yield f".env: TRINO_CLIENT_VERSION is not deploy/native/requirements.txt's {client[1]}"


def services(tree):
    servers = re.search(r"^SERVERS=\(([^)]*)\)", tree.settings, re.M)[1].split()
    for name in [*servers, "firn", "init"]:
        if name not in tree.services:
            yield f"there is no service {name}, though deploy/native has such a server" if name in servers else f"there is no service {name}"


def native_ports(tree):
    base = int(re.search(r"^PORT_BASE=(\d+)", tree.settings, re.M)[1])
    native = {name: base + int(offset) for name, offset in re.findall(r"\[(FIRN_\w+_PORT)\]=(\d+)", tree.settings)}
    for name, port in native.items():
        if name in ("FIRN_KAFKA_CONTROLLER_PORT", "FIRN_KAFKA_GATED_PORT", "FIRN_KAFKA_GATE_PORT", "FIRN_AIRFLOW_LOG_PORT"):
            continue   # inside the container, and the tests' gate
        if tree.env.get(name) != str(port):
            yield f".env: {name}={tree.env.get(name)}, deploy/native has {port}"
    for name, value in tree.env.items():
        if name.endswith("_PORT") and name not in native and int(value) in native.values():
            yield f".env: {name}={value} is another server's port in deploy/native"


def names(tree):
    """Credentials, database, bucket, catalog: whatever deploy/native fixes as a literal is the same here, in .env and in the services."""
    native = {name: value for name, value in re.findall(r"\b(FIRN_\w+)=([\w.@-]+)(?=[\s}]|$)", tree.settings)}
    native |= dict(re.findall(r"\b(FIRN_WAREHOUSE_BUCKET)=\$\{\1:-([\w-]+)\}", tree.settings))
    native = {n: v for n, v in native.items() if not n.endswith("_HOST")}
    for name, value in sorted(native.items()):
        if name in tree.env and tree.env[name] != value:
            yield f".env: {name}={tree.env[name]}, deploy/native has {value}"
    for service in tree.services:
        for name, value in tree.environment(service).items():
            if name in native and value != native[name]:
                yield f"{service}: {name}={value}, deploy/native has {native[name]}"
    catalog = native.get("FIRN_TRINO_CATALOG")
    if not tree.exists(f"deploy/trino/catalog/{catalog}.properties"):
        yield f"deploy/trino/catalog has no {catalog}.properties, the catalog's name in deploy/native"
    bucket = tree.env.get("FIRN_WAREHOUSE_BUCKET")
    if f"mounttable.{bucket}." not in tree.text("deploy/hive/core-site.xml"):
        yield f"deploy/hive/core-site.xml doesn't list the bucket {bucket}: the metastore would refuse its tables"
    if not any(str(word).endswith(f"/{bucket}") for word in tree.services.get("bucket", {}).get("command") or []):
        yield f"the service bucket doesn't make the bucket {bucket}"
    if tree.environment("postgres").get("POSTGRES_DB") != native.get("FIRN_PG_DATABASE"):
        yield "postgres: POSTGRES_DB is not deploy/native's FIRN_PG_DATABASE, where the source tables belong"


def shared(tree):
    for service, files in SHARED.items():
        mounted = [source.removeprefix("./").rstrip("/") for source, _ in tree.mounts(service)]
        for file in files:
            if not tree.exists(file):
                yield f"{file} doesn't exist, though {service} needs it"
            elif not any(file == m or file.startswith(m + "/") for m in mounted):
                yield f"{service} doesn't mount {file}, which deploy/native uses"


def read_variables(tree):
    for service, (patterns, expression) in READS.items():
        have = tree.environment(service)
        for pattern in patterns:
            for file in sorted(tree.root.glob(pattern)):
                for name in sorted(set(re.findall(expression, COMMENT.sub("", file.read_text()))) - set(have)):
                    yield f"{file.relative_to(tree.root)} reads {name}, which {service} doesn't have in its environment"
    for service, script in (("kafka", "kafka"), ("connect", "connect"), ("init", "init"), ("superset", "superset")):
        read = set(re.findall(r"\$\{?((?:FIRN|SUPERSET)_\w+)(?!\w|:-)", tree.text(f"deploy/compose/{script}")))
        for name in sorted(read - set(tree.environment(service))):
            yield f"deploy/compose/{script} reads {name}, which {service} doesn't have in its environment"


def addresses(tree):
    """host:port of another service, wherever a service's environment names one: the service exists and is waited for."""
    for service in tree.services:
        for name, value in tree.environment(service).items():
            for host in re.findall(r"(?:^|//|@)([a-z][\w-]*):\d+", value):
                if host not in tree.services and host != "localhost":
                    yield f"{service}: {name} names {host}, which is no service"


def topics(tree):
    """firn reads what the connectors write."""
    try:
        config = tomllib.loads(tree.text("deploy/firn/firn.toml"))
    except tomllib.TOMLDecodeError as error:
        yield f"deploy/firn/firn.toml is not TOML: {error}"
        return
    wanted = config.get("lake", {}).get("topics", [])
    written = {}
    for name, connector in tree.connectors.items():
        lists = connector.get("schema.include.list") or connector.get("table.include.list") or ""
        for entry in lists.split(","):
            written[f"{connector['topic.prefix']}.{entry.split('.')[0]}."] = name
    for prefix, name in written.items():
        if not any(topic.startswith(prefix) for topic in wanted):
            yield f"deploy/firn/firn.toml reads no topic {prefix}*, which the connector {name} writes"
    for topic in [*wanted, *(t.get("topic", "") for t in config.get("lake", {}).get("tables", []))]:
        if not any(topic.startswith(prefix) for prefix in written):
            yield f"deploy/firn/firn.toml reads {topic}, which no connector of deploy/connect writes"
    listen = config.get("serve", {}).get("listen", "127.0.0.1:8088")
    published = [str(p).rsplit(":", 1)[-1] for p in tree.services.get("firn", {}).get("ports") or []]
    address, _, port = listen.rpartition(":")
    if address != "0.0.0.0" or port not in published:
        yield f"deploy/firn/firn.toml listens on {listen}, which the ports of firn ({', '.join(published)}) don't reach"


CHECKS = [versions, services, native_ports, names, shared, read_variables, addresses, topics]
