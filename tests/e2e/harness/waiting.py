"""Waiting for a condition: every wait here has a limit, and says what it waited for when the limit is over."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE = float(os.environ.get("FIRN_E2E_PATIENCE", "1"))
"""Multiplies every limit: above 1 on a busy machine."""


class TooLate(AssertionError):
    """The condition did not come true within its limit."""


def until(what: str, check: Callable[[], T | None], within_s: float, every_s: float = 0.2, then: Callable[[], str] = str) -> T:
    """Asks `check` until it answers something true, and returns that. The last answer is part of the failure, and so is what
    `then` has to say at that moment."""
    limit = within_s * PATIENCE
    end = time.monotonic() + limit
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TooLate(f"{what}: not within {limit:.0f} s (last answer: {answer!r})\n{then()}")
        time.sleep(every_s)


def pause(seconds: float) -> None:
    """Lets time pass where time itself is what the test is about; 10 s at most."""
    assert seconds <= 10, "a longer pause has to be a condition"
    time.sleep(seconds)
