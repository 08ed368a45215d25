"""A way to a TCP server that a test can shut, hold up, or make lose the answers."""

import socket
import threading


class Gate:
    """Passes connections on while it is open; nobody listens while it is shut, and what was connected is cut.

    While it loses answers, requests reach the server and nothing comes back. While it holds, bytes wait on their way in both directions
    and arrive afterwards, however late that is.
    """

    def __init__(self, host: str, port: int, listen: int = 0) -> None:
        self.upstream = (host, port)
        with socket.create_server(("127.0.0.1", listen)) as reserved:
            self.port = reserved.getsockname()[1]
        self.listener: socket.socket | None = None
        self.open_ends: list[socket.socket] = []
        self.losing = False
        self.passing = threading.Event()
        self.passing.set()

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def open(self) -> None:
        if self.listener is None:
            self.listener = socket.create_server(("127.0.0.1", self.port))
            threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def shut(self) -> None:
        listener, self.listener = self.listener, None
        if listener is not None:
            _end(listener)
        self._cut()

    def lose_answers(self) -> None:
        self.losing = True

    def answer(self) -> None:
        """Answers come again, on new connections: what is lost stays lost."""
        self.losing = False
        self._cut()

    def hold(self) -> None:
        self.passing.clear()

    def release(self) -> None:
        self.passing.set()

    def _cut(self) -> None:
        ends, self.open_ends = self.open_ends, []
        for end in ends:
            _end(end)
        self.release()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                inner, _ = listener.accept()
            except OSError:
                return
            try:
                outer = socket.create_connection(self.upstream)
            except OSError:
                inner.close()  # the server is away
                continue
            self.open_ends += [inner, outer]
            threading.Thread(target=self._pass_on, args=(inner, outer, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(outer, inner, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(262_144):
                self.passing.wait()
                if not (answers and self.losing):
                    target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, target):
                _end(end)


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    connection.close()
