"""ClickHouse over HTTP: statements, and rows as JSON has them."""

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlencode

ROWS = {
    "default_format": "JSONCompactEachRow",
    # Python keeps a whole number of any length; a decimal comes as text with all its places, as from PostgreSQL.
    "output_format_json_quote_64bit_integers": 0,
    "output_format_json_quote_decimals": 1,
    "output_format_decimal_trailing_zeros": 1,
}


class Refused(Exception):
    """ClickHouse's own error; `code` is its number."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class ClickHouse:
    def __init__(self, url: str, database: str = "default") -> None:
        """`database` is what a table's name without one means."""
        self.url = url
        self.database = database

    def run(self, statement: str, data: bytes = b"", **settings: str | int) -> str:
        """One statement, an INSERT with its data; `settings` are ClickHouse's own."""
        query = urlencode({"query": statement, "database": self.database, **settings})
        try:
            with urllib.request.urlopen(f"{self.url}/?{query}", data=data, timeout=60) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as refused:
            raise Refused(int(refused.headers.get("X-ClickHouse-Exception-Code", 0)), refused.read().decode().strip()) from None

    def rows_of(self, table: str, query: str) -> list[list[Any]]:
        """Of a table that may not be made yet."""
        return self.rows(query) if self.rows(f"EXISTS {table}") == [[1]] else []

    def rows(self, query: str, **settings: str | int) -> list[list[Any]]:
        return [json.loads(line) for line in self.run(query, **ROWS, **settings).splitlines()]
