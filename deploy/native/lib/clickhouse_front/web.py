"""HTTP as ClickHouse's server speaks it: SQL in ?query=, in the body, or begun in one and continued in the other."""

import base64
import binascii
import json
import re
import sys
import urllib.parse
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .compression import decoded, encoded, from_frames
from .engine import Answer, Engine, Request, Session
from .errors import ClickHouseError, refusal

# Parameters of the protocol. `param_...` fills in a placeholder; whatever else stands in a URL is a setting of the engine.
PROTOCOL = {
    "query", "query_id", "database", "default_format", "user", "password", "quota_key", "session_id", "session_timeout", "session_check",
    "compress", "decompress", "client_protocol_version", "buffer_size", "wait_end_of_query",
}
SETTING = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
SUMMARY = ("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read", "result_rows", "result_bytes", "elapsed_ns")
CONTENT_TYPES = [
    (re.compile(r"JSON\w*EachRow|NDJSON|JSONLines", re.I), "application/x-ndjson; charset=UTF-8"),
    (re.compile(r"JSON", re.I), "application/json; charset=UTF-8"),
    (re.compile(r"TSV|TabSeparated", re.I), "text/tab-separated-values; charset=UTF-8"),
    (re.compile(r"CSV", re.I), "text/csv; charset=UTF-8; header=absent"),
    (re.compile(r"RowBinary|Native|Arrow|Parquet|ORC|Avro|MsgPack|Protobuf|Npy|BSON", re.I), "application/octet-stream"),
]
PLAIN = "text/plain; charset=UTF-8"


@dataclass(frozen=True)
class User:
    name: str
    password: str = ""
    readonly: int = 0

    @classmethod
    def parsed(cls, text: str) -> "User":
        """NAME:PASSWORD[:readonly]"""
        name, password, *more = text.split(":")
        if more not in ([], ["readonly"]):
            raise ValueError(text)
        return cls(name, password, len(more))


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], engine: Engine, users: dict[str, User]) -> None:
        super().__init__(address, Handler)
        self.engine, self.users = engine, users


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "clickhouse-front"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.serve(may_write=False)

    def do_POST(self) -> None:
        self.serve(may_write=True)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Errors alone are logged, by `serve`."""

    def serve(self, may_write: bool) -> None:
        try:
            body = self.read_body()
        except (ConnectionError, ValueError):
            self.close_connection = True   # a body that was cut off: nothing of it is run
            return
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/ping":
            return self.reply(200, b"Ok.\n")
        if url.path != "/":
            return self.reply(404, f"There is no handle {url.path}\n".encode())
        given = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        headers = {"X-ClickHouse-Query-Id": given.get("query_id") or str(uuid.uuid4()), "X-ClickHouse-Timezone": self.server.engine.timezone}
        try:
            request = self.asked(given, body, may_write)
            if request is None:
                return self.reply(200, b"Ok.\n", headers)
            self.answer(self.server.engine.run(request), headers, self.may_compress(given))
        except ClickHouseError as error:
            self.log_message("%s", error)
            self.reply(error.status, f"{error}\n".encode(), {**headers, "X-ClickHouse-Exception-Code": str(error.code)})

    def read_body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or "").lower():
            return self.read_exactly(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(65536).split(b";")[0], 16):
            pieces.append(self.read_exactly(size))
            if self.rfile.read(2) != b"\r\n":
                raise ConnectionError("a chunk without its end")
        while self.rfile.readline(65536) not in (b"\r\n", b"\n", b""):
            pass   # trailers
        return b"".join(pieces)

    def read_exactly(self, size: int) -> bytes:
        body = self.rfile.read(size) if size else b""
        if len(body) != size:
            raise ConnectionError("the body is cut off")
        return body

    def asked(self, given: dict[str, str], body: bytes, may_write: bool) -> Request | None:
        """None where nothing is asked."""
        user = self.user(given)
        body = decoded(self.headers.get("Content-Encoding") or "", body)
        if given.get("decompress") == "1":
            body = from_frames(body)
        if given.get("compress") == "1":
            raise refusal(48, "NOT_IMPLEMENTED", "compress=1 is not offered here: ask by Accept-Encoding with enable_http_compression=1")
        sql = given.get("query", "").encode()
        sql = sql + b"\n" + body if sql else body
        if not sql.strip():
            if may_write:
                raise refusal(62, "SYNTAX_ERROR", "Empty query")
            return None
        settings = {name: value for name, value in given.items() if name not in PROTOCOL and not name.startswith("param_")}
        for name in settings:
            if not SETTING.fullmatch(name):
                raise refusal(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'")
        return Request(
            sql=sql,
            database=given.get("database") or self.headers.get("X-ClickHouse-Database") or "",
            default_format=given.get("default_format") or self.headers.get("X-ClickHouse-Format") or "",
            settings=settings,
            parameters={name.removeprefix("param_"): value for name, value in given.items() if name.startswith("param_")},
            session=session(given),
            readonly=user.readonly or (0 if may_write else 2),   # as the server: a GET never changes anything
        )

    def user(self, given: dict[str, str]) -> User:
        name, password = self.credentials(given)
        user = self.server.users.get(name)
        if user is None or user.password != password:
            raise refusal(516, "AUTHENTICATION_FAILED", f"{name}: Authentication failed: password is incorrect, or there is no user with such name")
        return user

    def credentials(self, given: dict[str, str]) -> tuple[str, str]:
        kind, _, value = (self.headers.get("Authorization") or "").partition(" ")
        if kind.lower() == "basic":
            try:
                name, _, password = base64.b64decode(value).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise refusal(36, "BAD_ARGUMENTS", "Invalid HTTP Authorization header") from None
            return name or "default", password
        if kind:
            raise refusal(516, "AUTHENTICATION_FAILED", f"Authorization {kind} is not offered here")
        if (name := self.headers.get("X-ClickHouse-User")) is not None:
            return name, self.headers.get("X-ClickHouse-Key") or ""
        return given.get("user") or "default", given.get("password") or ""

    def may_compress(self, given: dict[str, str]) -> bool:
        asked = given.get("enable_http_compression")
        return self.server.engine.compresses if asked is None else asked in ("1", "true")

    def answer(self, answer: Answer, headers: dict[str, str], may_compress: bool) -> None:
        summary = {name: str(answer.summary.get(name, 0)) for name in SUMMARY}
        headers = {**headers, "X-ClickHouse-Summary": json.dumps(summary, separators=(",", ":"))}
        body, content_type = answer.body, PLAIN
        if answer.format is not None:
            headers["X-ClickHouse-Format"] = answer.format
            content_type = next((kind for pattern, kind in CONTENT_TYPES if pattern.match(answer.format)), PLAIN)
        if body and may_compress:
            encoding, body = encoded(self.headers.get("Accept-Encoding") or "", body)
            if encoding:
                headers["Content-Encoding"] = encoding
        self.reply(200, body, headers, content_type)

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, content_type: str = PLAIN) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def session(given: dict[str, str]) -> Session | None:
    if not (name := given.get("session_id")):
        return None
    return Session(name, float(given.get("session_timeout") or 60), given.get("session_check") == "1")
