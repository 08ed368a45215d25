"""Runs the firn program for a task and tells Airflow what its answer means.

Where firn is and which configuration it reads say the environment's FIRN_BIN ("firn") and FIRN_CONFIG ("firn.toml").
"""

import json
import logging
import os
import signal
import subprocess
import threading

from airflow.sdk.exceptions import AirflowException, AirflowFailException

log = logging.getLogger(__name__)

# Something was away or refused the credentials: worth another try. Every other failure needs a person.
UNREACHABLE = 3


def firn(*arguments: str):
    """The answer of `firn ARGUMENTS --output json`; its log goes into the task's."""
    command = [os.environ.get("FIRN_BIN", "firn"), *arguments, "--output", "json"]
    log.info("%s", " ".join(command))
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except OSError as e:
        raise AirflowFailException(f"{command[0]} can't be started ({e.strerror}): set FIRN_BIN to its path") from e
    with _stopped_with_the_task(process):
        said = _relay(process)
        answer = process.stdout.read()
        code = process.wait()
        said.join()
    if code == 0:
        return json.loads(answer) if answer.strip() else None
    if answer.strip():
        log.error("%s", answer.strip())
    reason = said.last or f"firn ended with {code}"
    raise (AirflowException if code == UNREACHABLE or code < 0 else AirflowFailException)(reason)


def late(context=None, **_):
    """What a missed deadline does; put a message to your on-call here."""
    run = (context or {}).get("dag_run") or {}
    log.error("firn's maintenance is late: %s", run)


class _Relay(threading.Thread):
    def __init__(self, lines):
        super().__init__(daemon=True)
        self.lines, self.last = lines, None

    def run(self):
        for line in self.lines:
            log.info("%s", line.rstrip())
            # What firn says of a failure begins so; a line of its log or a hint may follow.
            if line.startswith("error: ") or not (self.last or "").startswith("error: "):
                self.last = line.strip() or self.last


def _relay(process):
    relay = _Relay(process.stderr)
    relay.start()
    return relay


class _stopped_with_the_task:
    """A task that is stopped (a time-out, a person) lets firn end what it is about, then ends it."""

    def __init__(self, process):
        self.process = process

    def __enter__(self):
        return self.process

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
