"""Work beside a test."""

import threading


class Background(threading.Thread):
    """Runs `work`. What goes wrong in it is kept for whoever asks, and raised by `finished`."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self.work()
        except BaseException as e:
            self.failure = e

    def work(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        if self.failure:
            raise self.failure

    def finished(self) -> None:
        self.join()
        self.check()
