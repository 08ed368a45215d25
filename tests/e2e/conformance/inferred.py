"""Types by value: what a record without schema says itself is the expectation, since nobody else says anything."""

import base64
import json
from decimal import Decimal, localcontext
from typing import Any

from harness.topics import Sent

from . import writing
from .writing import Shown

KINDS = {bool: "boolean", int: "long", float: "double", str: "string", list: "string", dict: "string"}


def last_rows(records: list[Sent]) -> dict[int, dict[str, Any]]:
    """id -> the last row that its topic has; nothing is deleted."""
    rows: dict[int, dict[str, Any]] = {}
    for record in records:
        if record.value is not None:
            row = json.loads(record.value)["after"]
            rows[row["id"]] = row
    return rows


def kinds(first: dict[str, Any]) -> dict[str, str]:
    """By the first row that has values."""
    return {name: KINDS[type(value)] for name, value in first.items() if value is not None}


def shown(value: Any, kind: str) -> Shown:
    """Of what is nested the JSON; as readers.py writes the rest."""
    match value:
        case None:
            return None
        case bool():
            return str(value).lower()
        case {"scale": scale, "value": unscaled} if len(value) == 2:
            # A numeric of no declared scale: its digits, as with a schema.
            number = Decimal(int.from_bytes(base64.b64decode(unscaled), "big", signed=True))
            with localcontext(prec=200):
                return f"{number.scaleb(-scale):f}"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        case _ if kind == "double":
            return writing.double(float(value))
        case _:
            return str(value)
