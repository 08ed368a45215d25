"""The alerting rules: YAML as Prometheus takes it. Which metrics they name is compared with firn's own list by a test of src/serve/metrics.rs."""
from ruamel.yaml import YAML, YAMLError

FILE = "deploy/prometheus/firn.rules.yml"


def alerts(tree):
    try:
        rules = YAML(typ="safe", pure=True).load(tree.text(FILE))
    except YAMLError as error:
        yield f"{FILE} is not YAML: {error}"
        return
    seen = set()
    for group in rules["groups"]:
        for rule in group["rules"]:
            name = rule.get("alert")
            if name in seen:
                yield f"{FILE}: two alerts are called {name}"
            seen.add(name)
            if extra := set(rule) - {"alert", "expr", "for", "labels", "annotations"}:
                yield f"{FILE}: {name} has {', '.join(sorted(extra))}, which no alert has"
            if not isinstance(rule.get("expr"), str) or rule["expr"].count("(") != rule["expr"].count(")"):
                yield f"{FILE}: {name} has no expression, or one whose brackets don't match"
            for key in ("summary", "description", "runbook_url"):
                if not isinstance((rule.get("annotations") or {}).get(key), str):
                    yield f"{FILE}: {name} lacks {key}"


CHECKS = [alerts]
