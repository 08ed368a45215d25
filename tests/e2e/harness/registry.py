"""A way to the stack's schema registry that a test can shut."""

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import create_server
from typing import Any
from urllib.parse import urlsplit

from .stack import Stack


class RegistryGate:
    """Passes requests on while it is open; nobody listens while it is shut. `asked` counts the schemas that were asked for."""

    def __init__(self, stack: Stack) -> None:
        self.upstream = urlsplit(stack["FIRN_REGISTRY_URL"])
        with create_server(("127.0.0.1", 0)) as reserved:
            self.port = reserved.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}{self.upstream.path}"
        self.asked: list[str] = []
        self.server: ThreadingHTTPServer | None = None

    def __enter__(self) -> "RegistryGate":
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    def open(self) -> None:
        gate = self

        class Passing(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                gate.asked.append(self.path)
                request = urllib.request.Request(f"{gate.upstream.scheme}://{gate.upstream.netloc}{self.path}")
                try:
                    with urllib.request.urlopen(request, timeout=30) as response:
                        status, body = response.status, response.read()
                except urllib.error.HTTPError as error:
                    status, body = error.code, error.read()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Passing)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def shut(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
