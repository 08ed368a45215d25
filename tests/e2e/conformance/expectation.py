"""What each row of the source must be in the lake, by the rules: the expectation that the test and the page share."""

from dataclasses import dataclass
from typing import Any

from .columns import COLUMNS, Column
from .declared import becomes
from .modes import Mode
from .rules import UPDATE, Cell, Sent
from .source import ROWS

Printed = dict[int, dict[str, Any]]
"""id -> column -> what PostgreSQL prints"""


@dataclass(frozen=True)
class Expected:
    """One row in one mode."""

    cells: dict[str, Cell]
    """Of every column that the mode has."""
    refused: str
    """The reason of the dead letter that the row becomes; empty where it becomes a row."""

    @property
    def has_row(self) -> bool:
        return bool(self.cells)


def cell(column: Column, value: Any, mode: Mode, way: str) -> Cell:
    """NULL is null, except where the column has an expression."""
    if value is None and " DEFAULT " not in column.sql:
        return Cell(None)
    return becomes(column, mode).rule(Sent(value, mode, way))


def expected(printed: Printed, mode: Mode, way: str) -> dict[int, Expected]:
    """id -> what it must be. An update that is refused leaves its row as it was, without values."""
    columns = [c for c in COLUMNS if becomes(c, mode).iceberg]
    rows: dict[int, Expected] = {}
    for row in ROWS:
        id_ = row.id(way)
        cells = {c.name: cell(c, printed[id_][c.name], mode, way) for c in columns}
        refused = next((c.refused for c in cells.values() if c.refused), "")
        if refused:
            cells = {c.name: cell(c, None, mode, way) for c in columns} if way == UPDATE else {}
        rows[id_] = Expected(cells, refused)
    return rows
