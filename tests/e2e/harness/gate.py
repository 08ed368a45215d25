"""A way to a TCP server that a test can shut."""

import socket
import threading


class Gate:
    """Passes connections on while it is open; nobody listens while it is shut, and what was connected is cut."""

    def __init__(self, host: str, port: int) -> None:
        self.upstream = (host, port)
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            self.port = reserved.getsockname()[1]
        self.listener: socket.socket | None = None
        self.open_ends: list[socket.socket] = []

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    def open(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def shut(self) -> None:
        if self.listener is None:
            return
        ends, self.open_ends = [self.listener, *self.open_ends], []
        self.listener = None
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                inner, _ = listener.accept()
            except OSError:
                return
            outer = socket.create_connection(self.upstream)
            self.open_ends += [inner, outer]
            for source, target in ((inner, outer), (outer, inner)):
                threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
