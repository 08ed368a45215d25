"""docs/types.md, written from what was seen and from the rules' notes. The same sight gives the same text: no clock, no chance."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .columns import COLUMNS, GROUPS, Column
from .declared import COLUMNS_OF, becomes
from .expectation import Printed, cell
from .modes import DECLARED, MODES, SETTINGS, Mode
from .readers import Rows
from .rules import INFINITY, INSERT, SNAPSHOT, UPDATE
from .source import CELLS, Row
from .writing import in_one_line

HEAD = (Path(__file__).parent / "head.md").read_text()
TAIL = (Path(__file__).parent / "tail.md").read_text()
TITLES = "| PostgreSQL | mode | Iceberg | in PostgreSQL | in Trino | in PyIceberg | note |\n|---|---|---|---|---|---|---|\n"
LONGEST = 64
"""Characters of a value; what is longer is cut in the middle."""
WAYS = {SNAPSHOT: "snapshot", INSERT: "stream", UPDATE: "stream"}


@dataclass(frozen=True)
class Tables:
    """One mode's table, as the two readers show it."""

    trino: Rows
    pyiceberg: Rows


@dataclass(frozen=True)
class Outcome:
    """What became of a value, as the page shows it."""

    iceberg: str
    trino: str
    pyiceberg: str
    note: str


Where = frozenset[tuple[str, str]]
"""Modes and ways."""


def written(printed: Printed, tables: dict[str, Tables]) -> str:
    parts = [HEAD]
    for group in GROUPS:
        parts.append(_table(group.title, (line for c in group.columns for line in _lines(c, MODES, printed, tables))))
    again = [line for mode in DECLARED for c in COLUMNS if c.name in COLUMNS_OF[mode.name] for line in _lines(c, [mode], printed, tables)]
    parts += [_table("Declared columns", again), _table("Infinity", _infinities(printed, tables)), TAIL]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(title: str, lines: Iterable[str]) -> str:
    return f"## {title}\n\n{TITLES}" + "\n".join(lines)


def _infinities(printed: Printed, tables: dict[str, Tables]) -> Iterator[str]:
    """By the policies that the tables of the other sections don't have."""
    for mode in DECLARED:
        for row in CELLS:
            [(column, value)] = row.values
            if "infinity" in mode.lake and value in INFINITY:
                [(outcome, _)] = _outcomes(column, row, [mode], printed, tables).items()
                yield _line(_name(column), f'`infinity = "{mode.lake["infinity"]}"`', [value], outcome, [outcome.note])


def _lines(column: Column, modes: list[Mode], printed: Printed, tables: dict[str, Tables]) -> Iterator[str]:
    """The typical value in each mode; then what differs from PostgreSQL, unless the typical value has said it. What simply comes back
    stands beside the typical value."""
    rows = [row for row in CELLS if row.values[0][0] is column]
    typical, *others = [(printed[row.id(SNAPSHOT)][column.name], _outcomes(column, row, modes, printed, tables)) for row in rows]
    plain = [value for value, found in others if not any(o.note for o in found)]
    name, also = _name(column), f"also: {', '.join(_code(v, 36) for v in plain)}" if plain else ""
    for outcome, (units, general) in typical[1].items():
        yield _line(name, _where(column, modes, units), [typical[0]], outcome, [general, outcome.note, also])
        name = also = ""
    said = {(o.note, where[0]) for o, where in typical[1].items()}
    lines: dict[tuple[Outcome, Where], list[Any]] = {}
    for value, found in others:
        for outcome, (units, _) in found.items():
            if outcome.note and (outcome.note, units) not in said:
                lines.setdefault((outcome, units), []).append(value)
    for (outcome, units), values in lines.items():
        yield _line("", _where(column, modes, units), values, outcome, [outcome.note])


def _line(name: str, where: str, values: list[Any], outcome: Outcome, notes: list[str]) -> str:
    iceberg = _code(outcome.iceberg) if outcome.iceberg else "no column"
    cells = [name, where, iceberg, ", ".join(map(_code, values)), outcome.trino, outcome.pyiceberg, "; ".join(n for n in notes if n)]
    return f"| {' | '.join(cells)} |"


def _name(column: Column) -> str:
    base = column.sql.removesuffix("[]")
    kind = {"posint": "domain over integer", "price": "domain over numeric(12,4)", "mood": "enum", "addr_t": "composite"}.get(base)
    return f"{kind}{' array' if column.is_array else ''}" if kind else _code(column.sql)


def _outcomes(column: Column, row: Row, modes: list[Mode], printed: Printed, tables: dict[str, Tables]) -> dict[Outcome, tuple[Where, str]]:
    """Each different outcome in the order of the modes, with the modes and ways that have it and what holds for all values there."""
    found: dict[Outcome, tuple[set[tuple[str, str]], str]] = {}
    for mode, way in itertools.product(modes, WAYS):
        id_ = row.id(way)
        want = cell(column, printed[id_][column.name], mode, way)
        iceberg, general = becomes(column, mode).iceberg, becomes(column, mode).note
        seen = [t[id_][column.name] if iceberg and id_ in t else None for t in (tables[mode.name].trino, tables[mode.name].pyiceberg)]
        if want.refused:
            outcome = Outcome(iceberg, "dead letter", "dead letter", f"`{want.refused}`: {want.note}")
        elif not iceberg:
            outcome = Outcome("", "", "", want.note)
        else:
            outcome = Outcome(iceberg, *(_code(v) for v in seen), want.note)
        found.setdefault(outcome, (set(), general))[0].add((mode.name, WAYS[way]))
    return {outcome: (frozenset(units), general) for outcome, (units, general) in found.items()}


def _where(column: Column, all_modes: list[Mode], units: Where) -> str:
    """The modes in few words: the settings that these and no other have."""
    by_ways: dict[str, list[Mode]] = {}
    for mode in all_modes:
        ways = sorted(way for name, way in units if name == mode.name)
        if ways:
            by_ways.setdefault("" if len(ways) == len(set(WAYS.values())) else "/".join(ways), []).append(mode)
    words = [", ".join(w for w in (_settings(column, modes, all_modes), ways) if w) for ways, modes in by_ways.items()]
    return "; ".join(words) or "all"


def _settings(column: Column, modes: list[Mode], all_modes: list[Mode]) -> str:
    """Settings of one dimension, if need be with formats, that are just these modes': the column's own dimension if that will do."""
    if len(modes) == len(all_modes) and len(modes) > 1:
        return ""
    formats = _distinct(mode.format for mode in modes)
    for dimension in dict.fromkeys((column.by or "format", "format", *SETTINGS)):
        values = _distinct(mode[dimension] for mode in modes)
        words = ", ".join(values) if dimension == "format" else f"{dimension} {', '.join(f'`{v}`' for v in values)}"
        if all((mode[dimension] in values) == (mode in modes) for mode in all_modes):
            return words
        if all((mode[dimension] in values and mode.format in formats) == (mode in modes) for mode in all_modes):
            return f"{words} ({', '.join(formats)})"
    raise AssertionError(f"{column.name}: {[m.name for m in modes]} have no setting in common")


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _code(value: Any, longest: int = LONGEST) -> str:
    """As a code span of one line within a table's cell."""
    if value is None:
        return "null"
    text = in_one_line(value) if isinstance(value, (str, list, dict)) else str(value)
    text = text.replace("\n", "\\n").replace("\t", "\\t")
    text = "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
    if len(text) > longest:
        text = f"{text[: longest - 12]}…{text[-8:]}"
    if text == "":
        return "(empty)"
    ticks = "``" if "`" in text else "`"
    return f"{ticks}{text}{ticks}".replace("|", "\\|")
