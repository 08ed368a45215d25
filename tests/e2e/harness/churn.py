"""A source that never rests: changes go on in the background while a block of the test runs."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .envelopes import Items, item


@contextmanager
def churn(source: Items, keys: range, seed: int) -> Iterator[None]:
    """Inserts, updates and deletes among `keys`, a few hundred a second, until the block ends."""
    over = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        luck = random.Random(seed)
        try:
            while not over.is_set():
                with source.lock:
                    source.put([item(luck.choice(keys), luck) for _ in range(60)])
                    source.remove(luck.sample(sorted(source.rows.keys() & set(keys)), 5))
                over.wait(0.2)
        except BaseException as e:
            failures.append(e)

    thread = threading.Thread(target=work, name="churn", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(60)
    assert not failures, failures[0]
