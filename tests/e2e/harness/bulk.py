"""A heavy load by SQL on one table: statements that change thousands of rows, so that the source is not what limits."""

import random
import time

from psycopg2.extensions import connection, cursor

from .background import Background
from .source import Source

TABLE = "public.readings"
COLUMNS = ["id", "sensor", "value", "label", "taken_at", "note"]

SCHEMA = f"""
CREATE TABLE {TABLE} (
  id bigint PRIMARY KEY,
  sensor integer NOT NULL,
  value numeric(14,4),
  label text,
  taken_at timestamptz NOT NULL,
  note text
)
"""

VALUES = (
    "(random() * 500)::int, CASE WHEN random() < 0.1 THEN NULL ELSE (random() * 1e9)::numeric(14,4) END, md5(random()::text), clock_timestamp(),"
    " (ARRAY[NULL, '', 'ü \" \\ 雪', repeat('x', 60)])[1 + (random() * 3)::int]"
)


class BulkLoad(Background):
    """Makes `total` row changes, spread over about `seconds`: `changes` counts what was committed. The rows stay below `rows`."""

    def __init__(self, source: Source, total: int, seconds: float, rows: int, seed: int) -> None:
        super().__init__("bulk-load")
        self.source = source
        self.total = total
        self.seconds = seconds
        self.rows = rows
        self.step = max(50, rows // 150)
        """Rows of one statement."""
        self.luck = random.Random(seed)
        self.changes = 0
        self.highest = 0

    def work(self) -> None:
        opened = self.source.connect()
        opened.autocommit = False
        began = time.monotonic()
        while self.changes < self.total:
            self.changes += self._transaction(opened)
            ahead = self.seconds * self.changes / self.total - (time.monotonic() - began)
            if ahead > 0:
                time.sleep(min(ahead, 1.0))
        opened.close()

    def _transaction(self, opened: connection) -> int:
        """One to three steps; one in twenty-five is rolled back and must leave no trace."""
        highest = self.highest
        steps = [self.insert, self.update, self.update, self.update, self.delete, self.move, self.insist]
        with opened.cursor() as c:
            made = sum(self.luck.choice(steps)(c) for _ in range(self.luck.randint(1, 3)))
        if self.luck.random() < 0.04:
            opened.rollback()
            self.highest = highest
            return 0
        opened.commit()
        return made

    def some(self, length: int) -> tuple[int, int]:
        """A range of ids; ids that are gone stay gone, so the older ones are few."""
        first = self.highest - int(min(self.highest, self.rows * 1.3) * self.luck.random())
        return first, first + length

    def insert(self, c: cursor) -> int:
        c.execute(f"SELECT count(*) FROM {TABLE}")
        [count] = c.fetchone() or [0]
        if count > self.rows:
            first, last = self.some(self.step * 2)
            c.execute(f"DELETE FROM {TABLE} WHERE id BETWEEN %s AND %s", (first, last))
            return c.rowcount
        c.execute(f"INSERT INTO {TABLE} SELECT g, {VALUES} FROM generate_series(%s, %s) g", (self.highest + 1, self.highest + self.step))
        self.highest += self.step
        return c.rowcount

    def update(self, c: cursor) -> int:
        c.execute(f"UPDATE {TABLE} SET (sensor, value, label, taken_at, note) = ROW ({VALUES}) WHERE id BETWEEN %s AND %s", self.some(self.step))
        return c.rowcount

    def delete(self, c: cursor) -> int:
        c.execute(f"DELETE FROM {TABLE} WHERE id BETWEEN %s AND %s", self.some(self.step // 8))
        return c.rowcount

    def move(self, c: cursor) -> int:
        """Changed keys: a delete of the old one and an insert of the new one, often in different partitions."""
        first, last = self.some(self.step // 20)
        c.execute(f"UPDATE {TABLE} SET id = id - %s + %s WHERE id BETWEEN %s AND %s", (first, self.highest + 1, first, last))
        self.highest += last - first + 1
        return 2 * c.rowcount

    def insist(self, c: cursor) -> int:
        """The same few rows over and over."""
        first, last = self.some(20)
        made = 0
        for _ in range(10):
            c.execute(f"UPDATE {TABLE} SET value = coalesce(value, 0) + 0.0001 WHERE id BETWEEN %s AND %s", (first, last))
            made += c.rowcount
        return made
