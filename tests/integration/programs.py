"""Driver programs as processes of their own, what they leave behind, and questions to their telemetry."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

ROOT = Path(__file__).resolve().parents[2]
#: How long anything here may take before a test fails; long, because machines are slow at times.
PATIENCE_SECONDS = 30.0
#: What takes a part of a second on an idle machine may take this long on one that does five things at once.
SOON_SECONDS = 5.0

#: ``say`` answers the test, ``listen`` waits for it.
_PREAMBLE = """
import ctypes, json, os, signal, subprocess, sys, time
import obsray

def say(**facts):
    print(json.dumps(facts), flush=True)

def listen():
    return sys.stdin.readline().strip()

def start(**options):
    options = {"num_cpus": 2, "include_dashboard": False} | options
    context = obsray.init(**options)
    say(directory=context.address_info["session_dir"], node_pid=context.process.pid)
    return context

"""


class Program:
    """A driver program whose sessions lie below ``root``; it says JSON lines on its output."""

    def __init__(self, source: str, root: Path, **environment: str) -> None:
        self._heard = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(root), **environment},
            start_new_session=True,
        )

    def hear(self) -> dict[str, Any]:
        """The next thing it says. Raises AssertionError with its stderr if it ends or is silent instead."""
        assert self.process.stdout is not None and self.process.stderr is not None
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\n" not in self._heard:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                self.process.kill()
                raise AssertionError(f"it said nothing more; its stderr:\n{self.errors()}")
            self._heard += data
        line, _, self._heard = self._heard.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def errors(self) -> str:
        """What it wrote to its stderr; waits until it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def tell(self, text: str = "") -> None:
        """Let ``listen`` return."""
        assert self.process.stdin is not None
        os.write(self.process.stdin.fileno(), f"{text}\n".encode())

    def family(self) -> list[psutil.Process]:
        """The program and everything it started, however deep."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def wait(self) -> int:
        """Its exit code."""
        return self.process.wait(PATIENCE_SECONDS)

    def end(self) -> None:
        """Leave nothing of it, whatever the test did."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate()


def gone(processes: list[psutil.Process], within_seconds: float = PATIENCE_SECONDS) -> float:
    """Wait until they have ended; returns how long that took. Raises AssertionError naming those that live on."""
    started = time.monotonic()
    while alive := [process for process in processes if _runs(process)]:
        assert time.monotonic() < started + within_seconds, (
            f"still there after {within_seconds} s: {[(process.pid, process.cmdline()) for process in alive]}"
        )
        time.sleep(0.01)
    return time.monotonic() - started


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def leftovers(root: Path) -> list[str]:
    """Sockets, spilled objects and shared memory that belong to runtimes below ``root``."""
    found = [str(path) for path in root.rglob("*") if path.is_socket() or path.suffix == ".sock"]
    found += [str(path) for path in root.rglob("spill/*")]
    found += [str(path) for path in Path("/dev/shm").glob("*") if "obsray" in path.name]
    found += [line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if f" {root}/" in line]
    return found


def eventually(what: Callable[[], Any], within_seconds: float = PATIENCE_SECONDS) -> Any:
    """What ``what`` returns as soon as that is true. Raises AssertionError with its last answer."""
    deadline = time.monotonic() + within_seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"not within {within_seconds} s; the last answer was {answer!r}"
        # Nobody can be told when another process has written something: look again.
        time.sleep(0.02)
    return answer


def conserved(directory: Path | str) -> dict[str, Any]:
    """The books of a session once they close: no event lost, and every task in exactly one place."""

    def closed() -> dict[str, Any] | None:
        book = views(directory).ledger()
        tasks, totals = book["tasks"], book["totals"]
        placed = sum(tasks[state] for state in ("finished", "failed", "cancelled", "pending"))
        whole = tasks["balance_ok"] and tasks["submitted"] == placed and not tasks["unaccounted"]
        return book if whole and totals["events_lost"] == 0 and totals["events_recorded"] >= placed > 0 else None

    found: dict[str, Any] = eventually(closed)
    return found


def views(directory: Path | str) -> Views:
    """The views of a session, live or over."""
    return Views(Store.open(Path(directory)))
