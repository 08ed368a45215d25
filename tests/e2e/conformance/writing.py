"""One writing for a value, whoever read it: text for scalars, lists and dictionaries of it for what is nested.

Dates and times are written from days and µs, since Python's own know neither years before 1 nor after 9999.
"""

import json
import struct
from typing import Any

Shown = None | str | list["Shown"] | dict[str, "Shown"]

DAY_US = 86_400_000_000


NO_NUMBER = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def double(value: float) -> str:
    """The shortest text that is this number."""
    return NO_NUMBER.get(repr(value), repr(value))


def real(value: float) -> str:
    """The shortest text that is this 32-bit float."""
    if repr(value) in NO_NUMBER:
        return double(value)
    exact = struct.pack("f", value)
    return next(repr(short) for digits in range(1, 18) if _packed(short := float(f"{value:.{digits}g}")) == exact)


def _packed(value: float) -> bytes:
    """Empty where rounding went beyond the largest float."""
    try:
        return struct.pack("f", value)
    except OverflowError:
        return b""


def binary(value: bytes) -> str:
    return f"x'{value.hex()}'"


def date(days: int) -> str:
    """`YYYY-MM-DD` of the proleptic Gregorian calendar; the year before 1 is 0000, before that -0001."""
    # Days since 0000-03-01, in eras of 400 years; Howard Hinnant's civil_from_days.
    era, of_era = divmod(days + 719_468, 146_097)
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month_from_march = (5 * of_year + 2) // 153
    day = of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    year += era * 400 + (month <= 2)
    return f"{'-' if year < 0 else ''}{abs(year):04}-{month:02}-{day:02}"


def time(us: int) -> str:
    seconds, us = divmod(us, 1_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{us:06}"


def timestamp(us: int) -> str:
    days, us = divmod(us, DAY_US)
    return f"{date(days)} {time(us)}"


def micros(text: str) -> str:
    """A time or timestamp as text, with six digits after the point."""
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction:<06}"


def in_one_line(value: Shown) -> str:
    """For people."""
    match value:
        case None:
            return "null"
        case str():
            return value
        case list():
            return "[" + ", ".join(_member(v) for v in value) + "]"
        case dict():
            return "{" + ", ".join(f"{name}: {_member(v)}" for name, v in value.items()) + "}"


def _member(value: Shown) -> str:
    """Within something else a text has quotes where it could be mistaken."""
    if not isinstance(value, str):
        return in_one_line(value)
    return json.dumps(value, ensure_ascii=False) if value in ("", "null") or any(c in value for c in ', "{}[]:\\\n') else value


def sorted_by_key(entries: dict[str, Any]) -> dict[str, Any]:
    """A map has no order."""
    return dict(sorted(entries.items()))
