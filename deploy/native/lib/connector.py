"""Registers and removes Debezium connectors. Called by ../stack; reads the endpoints from the environment.

register TEMPLATE [--as NAME | --fresh] [--avro] [--set KEY=VALUE ...]: waits until connector and task run, prints the name.
delete NAME: stops it, forgets its offsets, deletes it, drops its slot and publication.
"""
import argparse
import json
import os
import pathlib
import re
import secrets
import sys
import time
import urllib.error
import urllib.request

CONNECT = os.environ["FIRN_CONNECT_URL"]
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "connect"


def call(method, path, body=None):
    """Connect's answer as (status, JSON). While the worker is rebalancing, which it tells by 409 or 500, it is asked again for 30 s."""
    data = None if body is None else json.dumps(body).encode()
    for _ in range(60):
        request = urllib.request.Request(CONNECT + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            if error.code != 409 and "a rebalance is expected" not in text:
                try:
                    return error.code, json.loads(text)
                except ValueError:
                    return error.code, {"message": text}
        except urllib.error.URLError as error:
            sys.exit(f"stack: {CONNECT} doesn't answer ({error.reason}): is connect up? ('stack status')")
        time.sleep(0.5)
    sys.exit(f"stack: Connect is still rebalancing after 30 s ({method} {path})")


def must(answer, what):
    status, body = answer
    if status >= 300:
        sys.exit(f"stack: {what}: {status} {body.get('message', body) if isinstance(body, dict) else body}")
    return body


def wait(what, seconds, check):
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            sys.exit(f"stack: {what}: not within {seconds} s")
        time.sleep(0.1)


def running(name):
    status, body = call("GET", f"/connectors/{name}/status")
    if status != 200:
        return False
    parts = [body["connector"], *body["tasks"]]
    for part in parts:
        if part["state"] == "FAILED":
            sys.exit(f"stack: connector {name} failed: {part.get('trace', '')[:2000]}")
    return len(parts) > 1 and all(part["state"] == "RUNNING" for part in parts)


def register(options):
    template = FOLDER / f"{options.template}-connector.json"
    if not template.exists():
        known = ", ".join(sorted(p.name.removesuffix("-connector.json") for p in FOLDER.glob("*-connector.json")))
        sys.exit(f"stack: there is no {template.name} in deploy/connect; there are: {known}")
    config = json.loads(template.read_text())
    name = options.name or (f"{options.template}-{secrets.token_hex(4)}" if options.fresh else options.template)
    config["slot.name"] = config["publication.name"] = "firn_" + re.sub(r"[^a-z0-9]+", "_", name.lower())[:58]
    if options.avro:
        replaced = ("key.converter", "value.converter")
        config = {k: v for k, v in config.items() if not k.startswith(replaced)} | json.loads((FOLDER / "avro.json").read_text())
    for pair in options.set:
        key, sign, value = pair.partition("=")
        if not sign:
            sys.exit(f"stack: --set wants key=value, not '{pair}'")
        config[key] = value
    must(call("PUT", f"/connectors/{name}/config", config), f"connector {name} was refused")
    wait(f"connector {name} running", 90, lambda: running(name))
    print(name)


def delete(options):
    name = options.name
    config = must(call("GET", f"/connectors/{name}/config"), f"connector {name}")
    # Connect keeps a deleted connector's offsets, and the same name on a new slot would then fail.
    must(call("PUT", f"/connectors/{name}/stop"), f"stopping {name}")
    wait(f"connector {name} stopped", 60, lambda: (s := call("GET", f"/connectors/{name}/status"))[0] == 200
         and s[1]["connector"]["state"] == "STOPPED" and not s[1]["tasks"])
    must(call("DELETE", f"/connectors/{name}/offsets"), f"forgetting the offsets of {name}")
    must(call("DELETE", f"/connectors/{name}"), f"deleting {name}")
    wait(f"connector {name} gone", 30, lambda: call("GET", f"/connectors/{name}")[0] == 404)
    print(config["database.dbname"], config["slot.name"], config["publication.name"])


def main():
    parser = argparse.ArgumentParser(prog="stack")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("connector")
    one.add_argument("template", help="inventory, engagement: a file of deploy/connect")
    one.add_argument("--as", dest="name", help="the connector's name (default: the template's)")
    one.add_argument("--fresh", action="store_true", help="a name that was never used, with its own slot")
    one.add_argument("--avro", action="store_true", help="Avro with the schema registry in place of JSON")
    one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the connector")
    one.set_defaults(run=register)
    two = commands.add_parser("connector-delete")
    two.add_argument("name")
    two.set_defaults(run=delete)
    options = parser.parse_args()
    options.run(options)


main()
