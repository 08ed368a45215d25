"""What a value of PostgreSQL becomes: one small rule for each way that Debezium sends it.

A rule gets what PostgreSQL itself prints (ISO dates, iso_8601 intervals, UTC; an array as a list) and answers what Trino and PyIceberg
must show, in the writing of writing.py. Nothing here asks Debezium or firn. Where they can't give the value back, the rule says so.
"""

import base64
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from . import writing
from .modes import AVRO, Mode
from .writing import Shown

SNAPSHOT, INSERT, UPDATE = "snapshot", "insert", "update"
"""How a value came: read before the stream began, or by an event `c` or `u`."""


@dataclass(frozen=True)
class Sent:
    """One value on its way. `value` is text, for an array column a list."""

    value: Any
    mode: Mode
    way: str


@dataclass(frozen=True)
class Cell:
    """What has to be in the table. `note` says what is lost, and why; `refused` is the reason code of the dead letter."""

    value: Shown
    note: str = ""
    refused: str = ""


Rule = Callable[[Sent], Cell]


def lost(note: str) -> Rule:
    """Debezium sends null."""
    return lambda _: Cell(None, note)


def rule(of: Callable[[str], Shown]) -> Rule:
    """A rule that needs nothing but PostgreSQL's text, and loses nothing."""
    return lambda sent: Cell(of(sent.value))


def each(inner: Rule) -> Rule:
    """An array, element by element."""

    def made(sent: Sent) -> Cell:
        if any(isinstance(v, list) for v in sent.value):
            return Cell([None] * len(sent.value), "Debezium sends nulls for arrays of arrays, and logs a warning")
        cells = [Cell(None) if v is None else inner(Sent(v, sent.mode, sent.way)) for v in sent.value]
        bad = next((c for c in cells if c.refused), None)
        return bad or Cell([c.value for c in cells], next((c.note for c in cells if c.note), ""))

    return made


# Text, bytes and numbers

same = rule(lambda text: text)
boolean = rule(lambda text: {"t": "true", "f": "false", "true": "true", "false": "false"}[text])
double = rule(lambda text: writing.double(float(text)))
real = rule(lambda text: writing.real(float(text)))
as_bytes = rule(lambda text: writing.binary(bytea(text)))


def streamed_only_if_unknown_types_are(sent: Sent) -> Cell:
    """Debezium's stream takes the type `name` for one that it doesn't know; its snapshot knows it."""
    if sent.way == SNAPSHOT or sent.mode["unknown"] == "true":
        return same(sent)
    return Cell(None, "Debezium leaves it out of the stream unless `include.unknown.datatypes` is true; snapshots have it")


def bytea(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("\\x"))


as_base64 = rule(lambda text: base64.b64encode(bytea(text)).decode())
as_base64_url = rule(lambda text: base64.urlsafe_b64encode(bytea(text)).decode())
as_hex = rule(lambda text: bytea(text).hex())
text_as_base64 = rule(lambda text: base64.b64encode(text.encode()).decode())

NAN_LOST = "Debezium sends null for NaN and infinity in this mode, and logs a warning"
ZEROS_LOST = "Debezium drops trailing zeros in this mode"
BEYOND_DOUBLE = "what a double can't hold is rounded"
SPECIAL = {"NaN", "Infinity", "-Infinity"}


def fixed(sent: Sent) -> Cell:
    """numeric(p,s): all its digits."""
    return Cell(None, NAN_LOST) if sent.value in SPECIAL else Cell(sent.value)


def without_trailing_zeros(sent: Sent) -> Cell:
    """numeric, as digits and a scale."""
    if sent.value in SPECIAL:
        return Cell(None, NAN_LOST)
    short = sent.value.rstrip("0").rstrip(".") if "." in sent.value else sent.value
    return Cell(short, ZEROS_LOST if short != sent.value else "")


def decimal_text(sent: Sent) -> Cell:
    """Debezium's words for what is no number."""
    words = {"NaN": "NAN", "Infinity": "POSITIVE_INFINITY", "-Infinity": "NEGATIVE_INFINITY"}
    word = words.get(sent.value)
    return Cell(word, "Debezium's word for it") if word else Cell(sent.value)


def decimal_double(sent: Sent) -> Cell:
    if sent.value in SPECIAL:
        return Cell(writing.double(float(sent.value)))
    value = float(sent.value)
    return Cell(writing.double(value), "" if Fraction(repr(value)) == Fraction(sent.value) else BEYOND_DOUBLE)


def unscaled_base64(sent: Sent) -> Cell:
    number = int(sent.value.replace(".", ""))
    data = number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True)
    return Cell(base64.b64encode(data).decode(), "no decimal of Iceberg can hold it, and without a schema nothing tells that this text is a number: use `string`")


def money(text: str) -> str:
    return text.replace("$", "").replace(",", "")


def of_money(inner: Rule) -> Rule:
    return lambda sent: inner(Sent(money(sent.value), sent.mode, sent.way))


def bits(text: str) -> bytes:
    """Little-endian, as many bytes as are needed for the highest bit that is set."""
    number = int(text or "0", 2)
    return number.to_bytes((number.bit_length() + 7) // 8, "little")


bit_string = rule(lambda text: writing.binary(bits(text)))


# Dates and times

BY_POLICY = "by policy"
"""Ends the note of each value that firn itself had no place for."""
INFINITY = {"infinity", "-infinity"}


def infinite(sent: Sent, first: str, last: str) -> Cell:
    """By the table's policy."""
    match sent.mode.lake.get("infinity"):
        case "clamp":
            return Cell(first if sent.value.startswith("-") else last, f"clamped, {BY_POLICY}")
        case "reject":
            return Cell(None, f"rejected, {BY_POLICY}", "bad_value")
        case _:
            return Cell(None, f"infinity has no counterpart in Iceberg: null, {BY_POLICY}")


def iso_years(text: str) -> str:
    """`0044-03-15 12:00:00 BC` is ISO's year -0043."""
    if not text.endswith(" BC"):
        return text
    year, rest = re.fullmatch(r"(\d+)(-.*) BC", text).groups()  # type: ignore[union-attr]
    year = 1 - int(year)
    return f"{'-' if year < 0 else ''}{abs(year):04}{rest}"


def date(sent: Sent) -> Cell:
    if sent.value in INFINITY:
        return infinite(sent, "0001-01-01", "9999-12-31")
    if sent.way == SNAPSHOT and sent.value.endswith(" BC"):
        return Cell(sent.value.removesuffix(" BC"), "Debezium's snapshot loses the era; the stream keeps it")
    if sent.way == SNAPSHOT and "1582-10-05" <= sent.value <= "1582-10-14":
        return Cell(f"1582-10-{int(sent.value[-2:]) + 10}", "the ten days that the Julian calendar lacks come ten days later in Debezium's snapshot; the stream keeps them")
    return Cell(iso_years(sent.value))


FIRST_MOMENT, LAST_MOMENT = "0001-01-01 00:00:00.000000", "9999-12-31 23:59:59.999999"
US_END = "beyond 294247-01-10, the last day that 64 bits of µs since 1970 can hold"


def timestamp(sent: Sent) -> Cell:
    if sent.value in INFINITY:
        return infinite(sent, FIRST_MOMENT, LAST_MOMENT)
    year = int(iso_years(sent.value).lstrip("-").partition("-")[0])
    if sent.mode["time"] == "nanoseconds" and not (1677 < year < 2262 and not sent.value.endswith("BC")):
        return Cell(None, "Debezium sends null in this mode for what 64 bits of ns since 1970 can't hold (1677 to 2262), and logs a warning")
    if year > 294_247:
        overflow = sent.mode["time"] in ("adaptive", "adaptive_time_microseconds", "microseconds")
        return Cell(None, f"{US_END}; Debezium sends a negative number" if overflow else US_END, "bad_value")
    return Cell(writing.micros(iso_years(sent.value)))


def timestamptz(sent: Sent) -> Cell:
    if sent.value in INFINITY:
        return infinite(sent, f"{FIRST_MOMENT}Z", f"{LAST_MOMENT}Z")
    if int(sent.value.partition("-")[0]) > 294_247:
        return Cell(None, US_END, "bad_value")
    text = sent.value.removesuffix(" BC")
    era = sent.value[len(text) :]
    return Cell(writing.micros(iso_years(text.removesuffix("+00") + era)) + "Z")


def of_millis(inner: Rule) -> Rule:
    """What is below a millisecond is cut off."""

    def made(sent: Sent) -> Cell:
        cell = inner(sent)
        if not isinstance(cell.value, str):
            return cell
        cut = re.sub(r"(\.\d{3})\d{3}", r"\g<1>000", cell.value)
        return Cell(cut, cell.note or ("Debezium cuts off the microseconds in this mode" if cut != cell.value else ""))

    return made


def time(sent: Sent) -> Cell:
    if sent.value.startswith("24:00") and sent.mode["time"] == "isostring":
        return Cell("00:00:00.000000", "Debezium sends 00:00 for 24:00 in this mode")
    if sent.value.startswith("24:00"):
        return Cell(None, "24:00 is no time of day in Iceberg: declare the column as long to keep it", "bad_value")
    return Cell(writing.micros(sent.value))


def time_in_array(sent: Sent) -> Cell:
    text = writing.micros(sent.value)
    short = text[:-3] + "000"
    return Cell(short, "Debezium cuts off microseconds in arrays" if short != text else "")


def timetz(sent: Sent) -> Cell:
    """Debezium shifts to UTC and forgets the zone."""
    clock, sign, offset = re.fullmatch(r"([\d:.]+)([+-])([\d:]+)", sent.value).groups()  # type: ignore[union-attr]
    hours, minutes, seconds = (*map(int, offset.split(":")), 0, 0)[:3]
    if seconds:
        return Cell(None, "Debezium sends null for an offset with seconds, and logs a warning")
    h, m, s = clock.split(":")
    us = (int(h) * 3600 + int(m) * 60) * 1_000_000 + int(Decimal(s) * 1_000_000)
    if us == writing.DAY_US and offset == "00":
        return Cell("24:00:00Z")
    us -= (1 if sign == "+" else -1) * (hours * 3600 + minutes * 60) * 1_000_000
    text = writing.time(us % writing.DAY_US)
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    return Cell(f"{whole}.{fraction}Z" if fraction else f"{whole}Z", "" if offset == "00" else "Debezium shifts to UTC")


def interval_parts(text: str) -> dict[str, Decimal]:
    found = re.fullmatch(r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?[\d.]+)S)?)?", text)
    assert found, text
    return {name: Decimal(part or 0) for name, part in zip(("Y", "M", "D", "h", "m", "s"), found.groups(), strict=True)}


I64_MAX = (1 << 63) - 1


def interval_micros(sent: Sent) -> Cell:
    """A year counts 365.25 days, a month a twelfth of it."""
    part = {name: Fraction(value) for name, value in interval_parts(sent.value).items()}
    days = (part["Y"] * 12 + part["M"]) * Fraction(36525, 1200) + part["D"]
    us = int((days * 86_400 + part["h"] * 3600 + part["m"] * 60 + part["s"]) * 1_000_000)
    if us > I64_MAX:
        return Cell(str(I64_MAX), "Debezium sends the largest number for what is beyond it")
    return Cell(str(us), "Debezium counts a year as 365.25 days, a month as a twelfth of that" if part["Y"] or part["M"] else "")


def interval_text(sent: Sent) -> Cell:
    part = interval_parts(sent.value)
    seconds = f"{part['s'].normalize():f}" if part["s"] else "0"
    return Cell(f"P{part['Y']}Y{part['M']}M{part['D']}DT{part['h']}H{part['m']}M{seconds}S")


# Structures


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]


def wkb_points(text: str) -> bytes:
    return struct.pack(f"<{len(numbers(text))}d", *numbers(text))


def wkb_point(text: str) -> bytes:
    return struct.pack("<BI", 1, 1) + wkb_points(text)


def point(text: str) -> Shown:
    x, y = numbers(text)
    return {"x": writing.double(x), "y": writing.double(y), "wkb": writing.binary(wkb_point(text)), "srid": None}


def line(text: str) -> Shown:
    return dict(zip("abc", map(writing.double, numbers(text)), strict=True))


def circle(text: str) -> Shown:
    x, y, radius = numbers(text)
    return {"center": point(f"({x},{y})"), "radius": writing.double(radius)}


def geometry(kind: str, wkb: bytes, **more: str) -> Shown:
    return {"wkb": writing.binary(wkb), "srid": None, "extensions": writing.sorted_by_key({"type": kind, **more})}


def line_string(kind: str, text: str, **more: str) -> Shown:
    return geometry(kind, struct.pack("<BII", 1, 2, len(numbers(text)) // 2) + wkb_points(text), **more)


def lseg(text: str) -> Shown:
    return line_string("lseg", text)


def path(text: str) -> Shown:
    return line_string("path", text, closed="false" if text.startswith("[") else "true")


def ring(kind: str, points: list[float]) -> Shown:
    return geometry(kind, struct.pack("<BIII", 1, 3, 1, len(points) // 2) + struct.pack(f"<{len(points)}d", *points))


def polygon(text: str) -> Shown:
    """The ring is closed: its first point comes again."""
    points = numbers(text)
    return ring("polygon", points + points[:2])


def box(text: str) -> Shown:
    x2, y2, x1, y1 = numbers(text)
    return ring("box", [x2, y2, x2, y1, x1, y1, x1, y2, x2, y2])


def hstore_entries(text: str) -> dict[str, str | None]:
    pair = r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|(NULL))'
    plain = lambda t: re.sub(r"\\(.)", r"\1", t)  # noqa: E731
    return {plain(k): None if null else plain(v) for k, v, null in re.findall(pair, text)}


def hstore_map(text: str) -> Shown:
    return writing.sorted_by_key(hstore_entries(text))


def hstore_json(text: str) -> Shown:
    return json.dumps(hstore_entries(text), separators=(",", ":"))


# Declared types


def no_number(sent: Sent) -> Cell:
    if sent.mode["decimal"] == "precise":
        return Cell(None, NAN_LOST)
    if sent.mode.lake.get("infinity") == "reject":
        return Cell(None, f"no number: rejected, {BY_POLICY}", "bad_value")
    return Cell(None, f"no number: null, {BY_POLICY}")


def declared_decimal(precision: int, scale: int) -> Rule:
    def made(sent: Sent) -> Cell:
        if sent.value in SPECIAL:
            return no_number(sent)
        with localcontext(prec=200):
            value = Decimal(sent.value)
            fits = value == value.quantize(Decimal(1).scaleb(-scale)) and abs(value) < Decimal(10) ** (precision - scale)
            return Cell(f"{value:.{scale}f}") if fits else Cell(None, f"does not fit decimal({precision},{scale})", "bad_value")

    return made


def time_count(sent: Sent) -> Cell:
    hours, minutes, seconds = sent.value.split(":")
    return Cell(str((int(hours) * 3600 + int(minutes) * 60) * 1_000_000 + int(Decimal(seconds) * 1_000_000)))


def timestamp_as_utc(sent: Sent) -> Cell:
    cell = timestamp(sent)
    return Cell(f"{cell.value}Z") if cell.value else cell


def point_json(text: str) -> str:
    x, y = numbers(text)
    return json.dumps({"x": x, "y": y, "wkb": base64.b64encode(wkb_point(text)).decode(), "srid": None}, separators=(",", ":"))


def int_array_json(sent: Sent) -> Cell:
    as_list = each(rule(lambda text: text))(sent)
    assert isinstance(as_list.value, list)
    return Cell("[" + ",".join("null" if v is None else str(v) for v in as_list.value) + "]", as_list.note)


# Columns with an expression


def generated(sent: Sent) -> Cell:
    if sent.way != SNAPSHOT:
        return Cell(None, "PostgreSQL's stream leaves generated columns out")
    return same(sent)


def default_7(sent: Sent) -> Cell:
    if sent.value is None and sent.mode.format == AVRO:
        return Cell("7", "the Avro converter writes the column's DEFAULT in place of NULL")
    return same(sent)
