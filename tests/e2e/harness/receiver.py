"""The examples' HTTP receiver, in a thread of the test."""

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .stack import ROOT


@contextmanager
def receiver(secret: str = "") -> Iterator[Any]:
    """See `Receiver` in `examples/receiver.py`."""
    spec = importlib.util.spec_from_file_location("receiver", ROOT / "examples" / "receiver.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.Receiver(secret=secret)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
