"""Just enough of ClickHouse's grammar to find where an INSERT ends and its data begin, and which format an answer is asked in. The
engine takes an INSERT's data apart from its text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

SPACE = b" \t\r\n\f\v"
WORD = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
# What is skipped as a whole: quoted text and names, comments, numbers.
SKIPPED = re.compile(
    rb"""'(?:[^'\\]|\\.|'')*'?|"(?:[^"\\]|\\.|"")*"?|`(?:[^`\\]|\\.|``)*`?|--[^\n]*|\#[ !][^\n]*|/\*.*?(?:\*/|\Z)|[0-9][0-9A-Za-z_.]*""",
    re.DOTALL,
)


@dataclass(frozen=True)
class Insert:
    statement: str
    format: str
    data: bytes


def words(sql: bytes, start: int = 0) -> Iterator[tuple[bytes, int, int]]:
    """(WORD, start, end) of each bare word outside brackets, text and comments."""
    at, depth = start, 0
    while at < len(sql):
        if skipped := SKIPPED.match(sql, at):
            at = skipped.end()
        elif word := WORD.match(sql, at):
            at = word.end()
            if depth == 0:
                yield word.group().upper(), word.start(), at
        else:
            depth += {b"(": 1, b"[": 1, b"{": 1, b")": -1, b"]": -1, b"}": -1}.get(sql[at:at + 1], 0)
            at += 1


def insert_of(sql: bytes, default_format: str) -> Insert | None:
    """None for anything but an INSERT that brings its data: an INSERT ... SELECT is run as it is."""
    found = words(sql)
    if next(found, (b"",))[0] != b"INSERT":
        return None
    next(found, None)   # INTO, or the table's name
    for word, start, end in found:
        if sql[:start].rstrip(SPACE).endswith(b"."):
            continue   # a table's name after its database's
        if word in (b"SELECT", b"WITH", b"FROM"):
            return None
        if word == b"VALUES":
            return Insert(sql[:start].decode(), "Values", sql[end:])
        if word == b"FORMAT" and (name := WORD.match(sql, skip_space(sql, end))):
            return with_format(sql, start, name)
    # Neither FORMAT nor VALUES: the statement is the first line.
    line, _, data = sql.partition(b"\n")
    return Insert(line.rstrip(SPACE + b";").decode(), default_format or "Values", data)


def with_format(sql: bytes, start: int, name: re.Match[bytes]) -> Insert:
    head, end = sql[:start], name.end()
    after = skip_space(sql, end)
    if next(words(sql[after:after + 16]), (b"", 1))[:2] == (b"SETTINGS", 0):
        # INSERT ... FORMAT x SETTINGS a = 1, then the data on the next line
        end = sql.find(b"\n", after)
        end = len(sql) if end < 0 else end
        head += b" " + sql[after:end].rstrip(b"; \t\r")
    while sql[end:end + 1] in (b" ", b"\t", b"\r", b"\f", b"\v", b";"):
        end += 1
    format_name = name.group().decode()
    return Insert(head.decode(), "Values" if format_name.upper() == "VALUES" else format_name, sql[end:].removeprefix(b"\n"))


def skip_space(sql: bytes, at: int) -> int:
    while sql[at:at + 1] and sql[at] in SPACE:
        at += 1
    return at


def format_of(sql: bytes) -> str | None:
    """The FORMAT that a statement asks its answer in."""
    asked, after_format = None, False
    for word, start, end in words(sql):
        if after_format:
            asked = sql[start:end].decode()
        after_format = word == b"FORMAT"
    return asked


def literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def identifier(text: str) -> str:
    return "`" + text.replace("\\", "\\\\").replace("`", "\\`") + "`"
