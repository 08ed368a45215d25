"""Redis: a database that is the tests' alone."""

from redis import Redis

from .stack import Stack

NUMBER = 9
"""Not 0, which may hold what a person has put there."""


def redis_url(stack: Stack) -> str:
    """For firn's configuration."""
    return f"{stack['FIRN_REDIS_URL']}/{NUMBER}"


def connect(stack: Stack) -> Redis:
    """Answers text; goes on after a restart of the server."""
    return Redis.from_url(redis_url(stack), decode_responses=True)
