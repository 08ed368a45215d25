"""The engine: statements side by side, each on a connection of its own, so that a request's settings and database never reach another;
a session keeps its connection, and its statements come one after the other.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import chdb
from chdb.state.sqlitelike import Connection, StreamingInserter

from .errors import ClickHouseError, from_engine, refusal
from .statement import SPACE, Insert, format_of, identifier, insert_of, literal

Outcome = tuple[bytes, str | None, dict[str, int]]
"""Body, format and summary of an answer."""

AT_ONCE = 8   # statements that run at a time; the others wait
PIECE_BYTES = 4 << 20   # an INSERT's data are handed over in pieces; a copy of one is in memory besides


@dataclass(frozen=True)
class Session:
    name: str
    timeout_s: float = 60
    must_exist: bool = False


@dataclass(frozen=True)
class Request:
    sql: bytes
    database: str = ""
    default_format: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    session: Session | None = None
    readonly: int = 0
    """ClickHouse's setting: 1 reads alone, 2 may change settings too."""


@dataclass(frozen=True)
class Answer:
    body: bytes
    format: str | None
    """None after an INSERT."""
    summary: dict[str, int]


@dataclass
class OpenSession:
    connection: Connection
    end: float
    """When it is forgotten, on the monotonic clock."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Engine:
    """Its data are below `folder`; a second process on the same folder is refused by the engine."""

    def __init__(self, folder: str) -> None:
        self.folder = os.path.abspath(folder)
        files = Path(self.folder) / "user_files"
        files.mkdir(parents=True, exist_ok=True)
        os.chdir(files)   # where the table function file() looks
        self.turns = threading.BoundedSemaphore(AT_ONCE)
        self.lock = threading.Lock()   # of the sessions
        self.sessions: dict[str, OpenSession] = {}
        self.keeper = chdb.connect(self.folder)   # without any connection the engine would end
        self.timezone = self.told("SELECT timezone()")
        self.compresses = self.told("SELECT value FROM system.settings WHERE name = 'enable_http_compression'") == "1"

    def told(self, sql: str) -> str:
        return self.keeper.query(sql, "TSV").bytes().decode().strip()

    def run(self, request: Request) -> Answer:
        try:
            with self.turns, self.connection(request.session) as connection:
                self.prepare(connection, request)
                began = time.perf_counter_ns()
                inserted = insert_of(request.sql, request.default_format)
                body, format_name, summary = insert(connection, inserted, request) if inserted else query(connection, request)
                return Answer(body, format_name, {**summary, "elapsed_ns": time.perf_counter_ns() - began})
        except ClickHouseError:
            raise
        except Exception as error:
            raise from_engine(error) from None

    @contextmanager
    def connection(self, session: Session | None) -> Iterator[Connection]:
        if session is None:
            connection = chdb.connect(self.folder)
            try:
                yield connection
            finally:
                connection.close()
            return
        opened = self.opened(session)
        with opened.lock:
            yield opened.connection

    def opened(self, session: Session) -> OpenSession:
        with self.lock:
            now = time.monotonic()
            for name in [name for name, kept in self.sessions.items() if kept.end < now and not kept.lock.locked()]:
                self.sessions.pop(name).connection.close()
            kept = self.sessions.get(session.name)
            if kept is None:
                if session.must_exist:
                    raise refusal(372, "SESSION_NOT_FOUND", f"Session {session.name} not found")
                kept = self.sessions[session.name] = OpenSession(chdb.connect(self.folder), now)
            kept.end = now + session.timeout_s
            return kept

    @staticmethod
    def prepare(connection: Connection, request: Request) -> None:
        if request.database:
            connection.query(f"USE {identifier(request.database)}")
        for name, value in request.parameters.items():
            connection.query(f"SET param_{name} = {literal(value)}")
        if request.readonly == 1:   # before the settings: it forbids them
            connection.query("SET readonly = 1")
        if request.settings:
            connection.query("SET " + ", ".join(f"{name} = {literal(value)}" for name, value in request.settings.items()))
        if request.readonly == 2:
            connection.query("SET readonly = 2")

    def close(self) -> None:
        for _ in range(AT_ONCE):   # what runs is finished, and nothing begins any more
            self.turns.acquire()
        for kept in self.sessions.values():
            kept.connection.close()
        self.sessions.clear()
        self.keeper.close()


def insert(connection: Connection, given: Insert, request: Request) -> Outcome:
    if request.readonly:
        raise refusal(164, "READONLY", "Cannot execute query in readonly mode")
    stream = connection.send_insert(given.statement, given.format)
    try:
        for at in range(0, len(given.data), PIECE_BYTES):
            stream.append(given.data[at:at + PIECE_BYTES])
        done = stream.finish()
    except BaseException:
        abandon(stream)
        raise
    rows, size = done.rows_written, done.bytes_written
    return b"", None, {"written_rows": rows, "written_bytes": size, "result_rows": rows, "result_bytes": size}


def abandon(stream: StreamingInserter) -> None:
    try:
        stream.cancel()
    except Exception:   # it has failed already: that error is the one to tell
        pass


def query(connection: Connection, request: Request) -> Outcome:
    text = request.sql.decode()
    if b";" in request.sql.rstrip(SPACE + b";") and connection._conn.classify_query(text).get("statement_count", 1) > 1:
        raise refusal(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
    format_name = format_of(request.sql) or request.default_format or "TabSeparated"
    done = connection.query(text, format_name)
    body = done.bytes() if len(done) else b""
    return body, format_name, {
        "read_rows": done.storage_rows_read(), "read_bytes": done.storage_bytes_read(), "written_rows": done.rows_written(),
        "written_bytes": done.bytes_written(), "result_rows": done.rows_read(), "result_bytes": len(body),
    }
