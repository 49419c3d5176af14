"""Looks for hangs now and then, wherever a session runs: ``python -m obsray.telemetry.hang_watch --session-dir DIR``.

What hangs is found out from the records of the whole session, which somebody must read. The collector knows whether
anything waits at all (``Waits``, which costs it a sum per batch). Once something has for a while, a dashboard looks
(it also does while the machine is idle); where none runs, this process is started after ``hang_seconds``, and it ends
when nothing waits any more. A busy session without long waits pays nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obsray import ids
from obsray.config import Config
from obsray.telemetry import live_stacks, session_file
from obsray.telemetry.events import HangKind, ProcessKind
from obsray.telemetry.pids import halted, process_alive
from obsray.telemetry.spine import Ring

if TYPE_CHECKING:
    from obsray.telemetry.columns import Batch
    from obsray.telemetry.views import Views

#: How often is looked, and which part of its time this process spends with looking at most.
LOOK_SECONDS, LOOK_SHARE = 15.0, 0.05
#: After one that looked has ended, and something still waits, the next is started so much later (unless
#: ``hang_seconds`` is shorter).
AGAIN_SECONDS = 60.0
#: A dashboard looks once something has waited so long, unless ``hang_seconds`` is shorter.
DASHBOARD_SECONDS = 5.0
#: Shorter waits of drivers are not told while they last (``wait_noticed``).
NOTICED_SECONDS = 1.0
#: What is recorded of the sentence of a hang.
SENTENCE_MAX = 2000
#: Where ``session.json`` says that something has waited for a while.
WAITS = "something_waits"
_NICE = 10

Row = dict[str, Any]


class HangRecords:
    """Records when a hang is found and when it is over. Has a ring as soon as there is one."""

    def __init__(self, directory: Path, kind: ProcessKind = ProcessKind.DASHBOARD) -> None:
        self._directory, self._kind = directory, kind
        self._ring: Ring | None = None
        #: Hangs by kind and first member, since when.
        self._open: dict[tuple[str, bytes], int] | None = None

    def looked(self, found: list[Row], now_ns: int, before: dict[tuple[str, bytes], int] | None = None) -> None:
        """Compare what hangs now with what did at the last look; at the first one with what somebody else had found
        (``before``, of ``recorded``)."""
        if self._open is None:
            self._open = dict(before or {})
        here = {(hang["kind"], bytes.fromhex(hang["members"][0]["id"])): hang for hang in found}
        if not (here or self._open):
            return
        ring = self._ring = self._ring or self._opened()
        for (kind, first), hang in here.items():
            if (kind, first) not in self._open:
                self._open[kind, first] = now_ns
                ring.hang_found(
                    now_ns, first, HangKind[kind.upper()], len(hang["members"]), hang["behind"],
                    ring.intern(hang["sentence"][:SENTENCE_MAX]),
                )  # fmt: skip
        for key in [key for key in self._open if key not in here]:
            since = self._open.pop(key)
            ring.hang_over(now_ns, key[1], HangKind[key[0].upper()], max(0, now_ns - since) / 1e9)

    def close(self) -> None:
        """Whoever looks ends."""
        if self._ring is not None:
            live_stacks.silence(self._ring.process)
            self._ring.close(time.time_ns())
            self._ring = None

    def _opened(self) -> Ring:
        node = bytes.fromhex(session_file.read(self._directory).get("node") or "00" * ids.NODE_ID_BYTES)
        own = ids.worker_id(node, os.urandom(ids.WORKER_ID_BYTES - ids.MARK_BYTES))
        ring = Ring(self._directory / "rings", own, self._kind, node)
        live_stacks.listen(ring.directory, own)
        return ring


def recorded(view: Views) -> dict[tuple[str, bytes], int]:
    """The hangs that are recorded and not over: kind and first member -> since when."""
    store, found = view.store, {}
    for record in store.rows("hang_found"):
        found[record["hang"], record["task"]] = record["time_ns"]
    for record in store.rows("hang_over"):
        if record["time_ns"] >= found.get((record["hang"], record["task"]), record["time_ns"] + 1):
            del found[record["hang"], record["task"]]
    return found


class Waits:
    """A fold: whether anything waits, as a balance of what began and what ended.

    Somebody who is killed while waiting counts on until somebody has looked and found nothing (``nothing_waits``).
    ``resumed``: something may wait that another collector was told of.
    """

    def __init__(self, resumed: bool = False) -> None:
        self._open, self._hangs = int(resumed), 0
        self._grew_at = time.monotonic()
        #: Since when there has always been something (monotonic); 0: there is nothing.
        self.since = self._grew_at if resumed else 0.0

    def update(self, batch: Batch) -> None:
        """Count what begins and what ends."""
        began = sum(len(batch[name]) for name in ("task_blocked", "wait_noticed") if name in batch)
        ended = sum(len(batch[name]) for name in ("task_unblocked", "await_ended") if name in batch)
        if "process_waited" in batch:
            ended += int((batch["process_waited"]["wait_seconds"] > NOTICED_SECONDS).sum())
        if began:
            self._grew_at = time.monotonic()
        # What ended may be read a moment before what began, from another process.
        self._open = max(self._open + began - ended, -1)
        self._hangs += len(batch["hang_found"]) if "hang_found" in batch else 0
        self._hangs -= len(batch["hang_over"]) if "hang_over" in batch else 0
        self.since = (self.since or time.monotonic()) if self._open > 0 or self._hangs > 0 else 0.0

    def nothing_waits(self, look_seconds: float = LOOK_SECONDS) -> None:
        """Somebody looked, as often as this, and nothing does."""
        if time.monotonic() - self._grew_at > 2 * look_seconds:
            self._open, self._hangs, self.since = 0, 0, 0.0


class Watching:
    """The process that looks, as the collector sees it. It is started when something has waited for ``seconds``."""

    def __init__(self, directory: Path, waits: Waits, seconds: float) -> None:
        self._directory, self._waits, self._seconds = directory, waits, seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._next = 0.0

    def look(self, facts: Row) -> None:
        """If something has waited for long, tell a dashboard to look, or start the process where none runs."""
        now = time.monotonic()
        waited = now - self._waits.since if self._waits.since else 0.0
        self._tell_dashboard(facts, waited)
        self._keep_process(facts, waited, now)

    def _tell_dashboard(self, facts: Row, waited: float) -> None:
        """Say in ``session.json`` whether something waits."""
        waits = waited > min(self._seconds, DASHBOARD_SECONDS)
        if waits is not bool(facts.get(WAITS)):
            with contextlib.suppress(OSError):  # tried again at the next look
                session_file.update(self._directory, **{WAITS: waits})

    def _keep_process(self, facts: Row, waited: float, now: float) -> None:
        """Start the process if it is time, and learn from one that has ended."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            if self._process.returncode == 0 and not dashboard_lives(facts):
                self._waits.nothing_waits(look_seconds(self._seconds))
            self._process, self._next = None, now + min(AGAIN_SECONDS, 3 * self._seconds)
        if waited <= self._seconds or now < self._next or dashboard_lives(facts):
            return
        command = [sys.executable, "-m", __spec__.name, "--session-dir", str(self._directory)]
        self._next = now + min(AGAIN_SECONDS, 3 * self._seconds)
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def close(self) -> None:
        """End it."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def something_waits(facts: Row) -> bool:
    """Whether a look for hangs may find any, by ``session.json``."""
    return bool(facts.get(WAITS))


def dashboard_lives(facts: Row) -> bool:
    """Whether a dashboard of the session runs, which looks by itself."""
    pid = int(facts.get("dashboard_pid") or 0)
    return bool(pid) and process_alive(pid) and not halted(pid)


def look_seconds(seconds: float) -> float:
    """How often is looked where something must wait for ``seconds`` before anybody looks."""
    return min(LOOK_SECONDS, seconds)


def watch(directory: Path, pause: Any = time.sleep, every_seconds: float = LOOK_SECONDS) -> int:
    """Look until nothing waits any more, twice; returns how often was looked."""
    from obsray.telemetry.snapshots import KeptViews

    parent, view = os.getppid(), KeptViews(directory)
    view.lie_in(directory)
    records = HangRecords(directory, ProcessKind.TOOL)
    looks = idle = 0
    try:
        while idle < 2 and os.getppid() == parent and not dashboard_lives(session_file.read(directory)):
            began = time.monotonic()
            found = view.hangs()
            if not found["live"]:
                break
            records.looked(found["hangs"], time.time_ns(), recorded(view) if not looks else None)
            view.keep()
            looks += 1
            idle = 0 if found["blocked"] or found["drivers"] or found["hangs"] else idle + 1
            pause_seconds = min((time.monotonic() - began) / LOOK_SHARE, every_seconds / LOOK_SHARE)
            until = time.monotonic() + max(every_seconds, pause_seconds)
            while time.monotonic() < until and os.getppid() == parent:
                pause(min(1.0, max(0.0, until - time.monotonic())))
    finally:
        records.close()
    return looks


def main(arguments: list[str] | None = None) -> int:
    """Watch one session."""
    parser = argparse.ArgumentParser(prog="python -m obsray.telemetry.hang_watch", description=__doc__)
    parser.add_argument("--session-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.nice(_NICE)
    with contextlib.suppress(FileNotFoundError):
        watch(options.session_dir, every_seconds=look_seconds(Config.from_environment().hang_seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
