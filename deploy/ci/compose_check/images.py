"""Images and Dockerfiles: pinned tags, sources that exist, all that the build of firn reads."""
import fnmatch
import pathlib
import re

from .tree import VARIABLE

MOVING = ("latest", "main", "master", "edge", "nightly", "stable", "dev")


def unpinned(reference):
    """Why the image reference could mean something else tomorrow; None if it can't."""
    if "@sha256:" in reference:
        return None
    _, sign, tag = reference.rsplit("/", 1)[-1].partition(":")
    if not sign or not tag:
        return "has no tag"
    if tag.startswith(MOVING):
        return f"has the moving tag {tag}"
    if not re.search(r"\d{3,}|\d+\.\d+", tag):
        return f"has the tag {tag}, which names no release"
    return None


def pinned(tree):
    for name, service in tree.services.items():
        if "build" in service:
            continue
        image = service.get("image")
        if not image:
            yield f"{name} has neither image nor build"
        elif why := unpinned(image):
            yield f"{name}: image {image} {why}"


def instructions(text):
    """(instruction, arguments) of a Dockerfile, continued lines joined, comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", " ", lines).splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word.upper(), rest.strip()


def dockerfiles(tree):
    for service, context, path, given in tree.builds():
        if not tree.exists(path):
            yield f"{service} is built from {path}, which doesn't exist"
            continue
        # An image that another service builds counts as a stage.
        contexts = tree.services[service].get("build", {}).get("additional_contexts", {})
        arguments, stages, user = {}, [name for name, of in contexts.items() if of.removeprefix("service:") in tree.services], None
        for word, rest in instructions(tree.text(path)):
            if word == "ARG":
                name, _, default = rest.partition("=")
                arguments[name] = given.get(name, default)
                if not arguments[name]:
                    yield f"{path}: ARG {name} gets no value from docker-compose.yml"
            elif word == "FROM":
                image, *alias = VARIABLE.sub(lambda m: arguments.get(m["name"] or m["bare"], ""), rest).split()
                if image not in stages and (why := unpinned(image)):
                    yield f"{path}: FROM {image} {why}"
                stages.append(alias[1] if len(alias) == 2 else image)
            elif word in ("COPY", "ADD"):
                yield from sources(tree, context, path, rest)
            elif word == "USER":
                user = rest
        for name in sorted(set(given) - set(arguments)):
            yield f"{service} gives {path} the argument {name}, which it doesn't have"
        if service == "firn" and (user or "root").split(":")[0] in ("root", "0"):
            yield f"{path}: firn runs as root"


def sources(tree, context, path, rest):
    words = rest.split()
    flags = [w for w in words if w.startswith("--")]
    if any(f.startswith("--from=") for f in flags):
        return
    for source in words[len(flags):-1]:
        if source.startswith("https://"):
            if not any(f.startswith("--checksum=sha256:") for f in flags):
                yield f"{path}: {source} is fetched without a checksum"
        elif not tree.exists(context / source):
            yield f"{path} copies {source}, which doesn't exist"
        elif ignored(tree, context, source):
            yield f"{path} copies {source}, which .dockerignore leaves out"


def ignored(tree, context, source):
    """The last line of .dockerignore that matches the path decides."""
    file, out = context / ".dockerignore", False
    for line in tree.text(file).splitlines() if tree.exists(file) else []:
        if line.strip() and not line.startswith("#"):
            kept, pattern = line.startswith("!"), line.strip().lstrip("!").strip("/")
            if fnmatch.fnmatch(source.strip("/"), pattern):
                out = not kept
    return out


def build_of_firn(tree):
    """What cargo looks for must be among the copied: the workspace's members, declared targets, files included into the source."""
    copied = {s for word, rest in instructions(tree.text("Dockerfile")) if word == "COPY" and "--from" not in rest for s in rest.split()[:-1]}
    manifest = tree.text("Cargo.toml")
    members = re.search(r"^members = \[([^\]]*)\]", manifest, re.M)
    wanted = {m for m in re.findall(r'"([^"]+)"', members[1] if members else "") if m != "."} | {"Cargo.toml", "Cargo.lock", "src"}
    for kind, folder in (("test", "tests"), ("bench", "benches"), ("example", "examples")):
        if re.search(rf"^\[\[{kind}\]\]", manifest, re.M):
            wanted.add(folder)
    if tree.exists("build.rs"):
        wanted.add("build.rs")
    for path in sorted(wanted - copied):
        yield f"Dockerfile: cargo needs {path}, which isn't copied"
    for top in sorted(c for c in copied if (tree.root / c).is_dir()):
        for file in sorted((tree.root / top).rglob("*.rs")):
            if file.name == "tests.rs" or "target" in file.parts:
                continue
            code = file.read_text().split("#[cfg(test)]")[0]
            for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', code):
                full = pathlib.Path(*resolved(file.parent.relative_to(tree.root) / included))
                if not any(full.is_relative_to(c) for c in copied):
                    yield f"Dockerfile: {file.relative_to(tree.root)} includes {full}, which isn't copied"
    minimum = re.search(r'^rust-version = "([\d.]+)"', manifest, re.M)
    have = tree.env.get("RUST_VERSION", "0")
    if minimum and [int(n) for n in have.split(".")] < [int(n) for n in minimum[1].split(".")]:
        yield f".env: RUST_VERSION={have} is below {minimum[1]}, which Cargo.toml asks for"


def resolved(path):
    parts = []
    for part in path.parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return parts


CHECKS = [pinned, dockerfiles, build_of_firn]
