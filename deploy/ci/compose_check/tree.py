"""The files of a checkout as the checks want them: the compose file with .env filled in, Dockerfiles, the native stack's settings."""
import json
import pathlib
import re
import shlex

from ruamel.yaml import YAML, YAMLError

# $$ | ${NAME}, ${NAME:-default}, ${NAME:?message} ... | $NAME
VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::?(?P<sign>[-?+])(?P<word>[^}]*))?\}|(?P<bare>[A-Za-z_]\w*))")


class Broken(Exception):
    """A file that can't be read as what it is: nothing else can be checked."""


def assignments(text):
    """NAME=value lines, quotes and trailing comments understood as a shell does."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_]\w*)=(.*)", line)
        if match:
            words = shlex.split(match[2], comments=True)
            found[match[1]] = words[0] if words else ""
    return found


class Tree:
    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.env = assignments(self.text(".env"))
        self.raw_compose = self.text("docker-compose.yml")
        try:
            raw = YAML(typ="safe", pure=True).load(self.raw_compose)
        except YAMLError as error:
            raise Broken(f"docker-compose.yml is not YAML: {error}") from error
        self.used, self.unset = set(), set()
        self.compose = self.filled(raw)
        self.services = self.compose.get("services") or {}
        self.versions = assignments(self.text("deploy/native/versions.env"))
        self.settings = self.text("deploy/native/lib/settings.sh")
        self.connectors = {p.name.removesuffix("-connector.json"): json.loads(p.read_text())
                           for p in sorted((self.root / "deploy/connect").glob("*-connector.json"))}

    def text(self, path):
        try:
            return (self.root / path).read_text()
        except OSError as error:
            raise Broken(f"{path}: {error.strerror}") from error

    def exists(self, path):
        return (self.root / path).exists()

    def filled(self, value):
        """The value with every variable replaced, as compose does before it looks at anything."""
        if isinstance(value, dict):
            return {key: self.filled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.filled(item) for item in value]
        return VARIABLE.sub(self.value_of, value) if isinstance(value, str) else value

    def value_of(self, match):
        if match["escaped"]:
            return "$"
        name = match["name"] or match["bare"]
        self.used.add(name)
        if self.env.get(name):
            return match["word"] if match["sign"] == "+" else self.env[name]
        if match["sign"] == "-":
            return match["word"]
        self.unset.add(name)
        return ""

    def environment(self, service):
        """A service's environment as a map, whichever way it is written."""
        given = self.services.get(service, {}).get("environment") or {}
        if isinstance(given, list):
            given = dict(entry.partition("=")[::2] for entry in given)
        return {key: "" if value is None else str(value) for key, value in given.items()}

    def mounts(self, service):
        """(source, target) of every volume; a source with a path sign is a file of this checkout, else a named volume."""
        for volume in self.services.get(service, {}).get("volumes") or []:
            if isinstance(volume, dict):
                yield volume.get("source", ""), volume.get("target", "")
            else:
                source, _, target = volume.partition(":")
                yield source, target.removesuffix(":ro").removesuffix(":rw")

    def one_shot(self, service):
        return self.services[service].get("restart") == "no"

    def builds(self):
        """(service, context, Dockerfile's path, build arguments) of every service that is built here."""
        for name, service in self.services.items():
            build = service.get("build")
            if build is None:
                continue
            build = {"context": build} if isinstance(build, str) else build
            context = pathlib.PurePath(build.get("context", "."))
            yield name, context, str(context / build.get("dockerfile", "Dockerfile")), build.get("args") or {}
