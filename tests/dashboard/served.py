"""The dashboard as the process that users get, over any session directory."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Served:
    process: subprocess.Popen[str]
    url: str
    token: str
    log: list[str] = field(default_factory=list)

    def get(self, path: str, token: str | None = None) -> tuple[int, str]:
        request = urllib.request.Request(self.url + path)
        request.add_header("authorization", f"Bearer {self.token if token is None else token}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@contextmanager
def served(directory: Path, port: int = 0) -> Iterator[Served]:
    """A running dashboard; it has said where it serves before the block begins, and is gone after it."""
    command = [sys.executable, "-m", "obsray.dashboard.process", "--session-dir", str(directory), "--port", str(port)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log: list[str] = []
    try:
        for line in process.stderr:
            log.append(line)
            if ": serving " in line:
                break
        else:
            raise AssertionError(f"the dashboard did not start: {''.join(log)}")
        # The pipe is emptied to the end, so that the process never waits for its reader.
        reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
        reader.start()
        yield Served(process, log[-1].split()[-1], (directory / "token").read_bytes().hex(), log)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        process.stderr.close() if process.poll() is None else None
