"""compose-check [--self-test]"""
import pathlib
import sys

from . import alerts, images, native, self_test, shape
from .tree import Broken, Tree

CHECKS = {check.__name__: check for check in [*shape.CHECKS, *images.CHECKS, *native.CHECKS, *alerts.CHECKS]}


def problems(root):
    """(check, message) of everything that is wrong below root; a file that can't be read stands alone."""
    try:
        tree = Tree(root)
        return [(name, message) for name, check in CHECKS.items() for message in check(tree)]
    except Broken as broken:
        return [("read", str(broken))]


def main():
    root = pathlib.Path(__file__).resolve().parents[3]
    if sys.argv[1:] == ["--self-test"]:
        sys.exit(self_test.run(root, problems, CHECKS))
    if sys.argv[1:]:
        sys.exit("usage: compose-check [--self-test]")
    found = problems(root)
    for check, message in found:
        print(f"compose-check: {message} [{check}]", file=sys.stderr)
    if not found:
        print(f"compose-check: {len(Tree(root).services)} services, {len(CHECKS)} checks: good")
    sys.exit(bool(found))


main()
