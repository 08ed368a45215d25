"""The compose file by itself: the specification, variables, mounts, health checks, the order of starting."""
import importlib.resources
import json

import jsonschema


def specification(tree):
    """The compose specification's own JSON schema."""
    schema = json.loads((importlib.resources.files("check_jsonschema.builtin_schemas") / "vendor/compose-spec.json").read_text())
    for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(tree.compose):
        worst = jsonschema.exceptions.best_match([error])
        yield f"docker-compose.yml: {'.'.join(map(str, worst.absolute_path)) or 'top level'}: {worst.message}"


def variables(tree):
    for name in sorted(tree.unset):
        yield f"docker-compose.yml uses ${{{name}}}, which has no value in .env"
    for name in sorted(set(tree.env) - tree.used):
        yield f".env sets {name}, which docker-compose.yml doesn't use"


def mounts(tree):
    declared, used = set(tree.compose.get("volumes") or {}), set()
    for service in tree.services:
        for source, _ in tree.mounts(service):
            if source.startswith((".", "/", "~")):
                if source.startswith("./") and tree.exists(source):
                    continue
                yield f"{service} mounts {source}, which is not in this repository"
            else:
                used.add(source)
                if source not in declared:
                    yield f"{service} mounts the volume {source}, which is not declared under volumes"
    for volume in sorted(declared - used):
        yield f"volume {volume} is declared, but nothing uses it"


def has_health(tree, service):
    health = tree.services[service].get("healthcheck") or {}
    return bool(health.get("test")) and health["test"] != ["NONE"] and not health.get("disable")


def health(tree):
    for name, service in tree.services.items():
        restart = service.get("restart")
        if tree.one_shot(name):
            continue
        if restart not in ("unless-stopped", "always", "on-failure"):
            yield f"{name} has no restart policy (a one-shot says restart: \"no\")"
        if not has_health(tree, name):
            yield f"{name} runs for long, but has no health check"
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if not limits.get("memory"):
            yield f"{name} runs for long, but has no memory limit"


def order(tree):
    needs = {}
    for name, service in tree.services.items():
        wanted = service.get("depends_on") or {}
        if isinstance(wanted, list):
            yield f"{name}: depends_on is a plain list, it has to say a condition for each"
            wanted = {}
        needs[name] = set(wanted)
        for other, how in wanted.items():
            condition = (how or {}).get("condition")
            if other not in tree.services:
                yield f"{name} depends on {other}, which is no service"
            elif condition == "service_healthy":
                if not has_health(tree, other):
                    yield f"{name} waits for {other} to be healthy, but {other} has no health check"
            elif condition == "service_completed_successfully":
                if not tree.one_shot(other):
                    yield f"{name} waits for {other} to end, but {other} is not a one-shot"
            else:
                yield f"{name} depends on {other} by {condition}, which doesn't wait until it is ready"
            if other in tree.services and tree.services[other].get("profiles") and not service.get("profiles"):
                yield f"{name} depends on {other}, which starts only with a profile"
    remaining = {name: {n for n in wanted if n in needs} for name, wanted in needs.items()}
    while free := [name for name, wanted in remaining.items() if not wanted]:
        for name in free:
            del remaining[name]
        for wanted in remaining.values():
            wanted.difference_update(free)
    if remaining:
        yield f"depends_on goes in a circle: {', '.join(sorted(remaining))}"


def ports(tree):
    """Nothing listens beyond this machine: the passwords are public."""
    taken = {}
    for name, service in tree.services.items():
        for port in service.get("ports") or []:
            if isinstance(port, dict):
                address, published = port.get("host_ip", ""), str(port.get("published", ""))
            else:
                address, _, rest = str(port).rpartition(":")[0].rpartition(":")
                published = rest
            if address != "127.0.0.1":
                yield f"{name} publishes {port} beyond 127.0.0.1"
            if published in taken:
                yield f"{name} and {taken[published]} publish the same port {published}"
            taken[published] = name


CHECKS = [specification, variables, mounts, health, order, ports]
