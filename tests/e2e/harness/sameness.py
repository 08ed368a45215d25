"""Whether two readers see the same rows: by type and value, not by how they print."""

import datetime as dt
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any


def canonical(value: Any) -> tuple[str, Any]:
    """The value with its type, so that 1, 1.0 and Decimal("1.00") are three different things; clients' own types are folded."""
    match value:
        case None:
            return "null", ""
        case bool():
            return "boolean", value
        case int():
            return "int", value
        case float():
            return "float", repr(value)
        case Decimal():
            return "decimal", str(value)
        case uuid.UUID():
            return "text", str(value)
        case str():
            return "text", value
        case bytes() | memoryview():
            return "bytes", bytes(value)
        case dt.datetime() if value.tzinfo:
            return "timestamptz", value.astimezone(dt.UTC).isoformat(timespec="microseconds")
        case dt.datetime():
            return "timestamp", value.isoformat(timespec="microseconds")
        case dt.date():
            return "date", value.isoformat()
        case _:
            raise TypeError(f"{type(value)} is not expected here: {value!r}")


def assert_same(what: str, got: Iterable[Sequence[Any]], want: Iterable[Sequence[Any]]) -> int:
    """Each row as often as in the other. Answers how many rows there are; a difference shows the first of each side."""
    have = Counter(tuple(canonical(v) for v in row) for row in got)
    must = Counter(tuple(canonical(v) for v in row) for row in want)
    extra, missing = have - must, must - have
    if extra or missing:
        show = lambda side: "\n    ".join(str([v for _, v in row]) for row in sorted(side, key=str)[:5])  # noqa: E731
        raise AssertionError(
            f"{what}: {have.total()} rows, {must.total()} wanted; {extra.total()} wrong or too many, {missing.total()} missing\n"
            f"  wrong or too many:\n    {show(extra)}\n  missing:\n    {show(missing)}"
        )
    return must.total()
