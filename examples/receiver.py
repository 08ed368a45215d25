#!/usr/bin/env python3
"""A receiver for `[[pipelines.http]]` that takes of each Idempotency-Key the first request: `python3 examples/receiver.py 8099`.

It keeps the keys in memory and prints the rows. One that has to survive a restart stores key and rows in one transaction of its database. With
FIRN_HOOK_SECRET it checks signatures.
"""

import hashlib
import hmac
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """Keys with the bodies that came under them, in the order of their coming."""

    daemon_threads = True

    def __init__(self, port: int = 0, secret: str = "") -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.secret = secret
        self.lock = threading.Lock()
        self.taken: dict[str, list[Any]] = {}
        self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/rows"

    def rows(self) -> list[Any]:
        with self.lock:
            return [row for rows in self.taken.values() for row in rows]

    def take(self, key: str, rows: list[Any]) -> bool:
        """Whether they are new."""
        with self.lock:
            self.requests += 1
            new = key not in self.taken
            if new:
                self.taken[key] = rows
            return new

    def is_signed(self, header: str, body: bytes) -> bool:
        if not self.secret:
            return True
        parts = dict(part.partition("=")[::2] for part in header.split(","))
        made = hmac.new(self.secret.encode(), f"{parts.get('t', '')}.".encode() + body, hashlib.sha256).hexdigest()
        is_recent = abs(time.time() - int(parts.get("t") or 0)) < 300
        return hmac.compare_digest(made, parts.get("v1", "")) and is_recent


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.is_signed(self.headers.get("X-Firn-Signature", ""), body):
            return self.answer(401)
        rows = json.loads(body)
        rows = rows if isinstance(rows, list) else [rows]
        if self.server.take(self.headers["Idempotency-Key"], rows) and __name__ == "__main__":
            for row in rows:
                print(json.dumps(row), flush=True)
        self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    Receiver(int(sys.argv[1]) if len(sys.argv) > 1 else 8099, os.environ.get("FIRN_HOOK_SECRET", "")).serve_forever()
