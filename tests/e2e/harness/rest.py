"""Iceberg's own REST catalog server: the reference servlet over SQLite and files, a process for one test."""

import subprocess
import urllib.request
from pathlib import Path

from .program import free_port
from .stack import SCRIPT
from .waiting import until


class RestServer:
    """Its catalog and its tables are below `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = folder / "rest.log"

    def __enter__(self) -> "RestServer":
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([str(SCRIPT), "rest", str(self.port), str(self.folder)], stdout=log, stderr=subprocess.STDOUT)
        until("the REST catalog answers", self._answers, 60, then=lambda: self.log.read_text(errors="replace")[-2000:])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/v1/config", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-2000:]
            return False
