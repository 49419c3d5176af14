"""Shell: the node's end of the zygote (``runtime/zygote.py``), which forks workers and reports how they ended."""

from __future__ import annotations

import os
import signal
import socket
from collections import deque
from pathlib import Path
from typing import Any

import msgpack

from obsray.core.system.processes import MARK_VARIABLE, send_signal, spawn

SOCKET_FD = 3
PACKET_BYTES_MAX = 1 << 20
_RUN = "from obsray.core.runtime.zygote import main; main()"


class Forks:
    """One zygote process."""

    def __init__(self, session: Path) -> None:
        self._session = session
        self._backlog: deque[bytes] = deque()
        self.pid = 0
        self._started = 0
        #: Workers that exist as far as the zygote has said, and their pids.
        self.pids: dict[bytes, int] = {}
        self._asked: dict[bytes, None] = {}
        #: What was said since the zygote was last asked whether it hears; it answers in order.
        self._unheard = 0
        self._pinged = False
        #: It has not said yet that it can be asked.
        self.starting = True
        self.socket: socket.socket | None = None

    def start(self) -> None:
        """Start the process. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            log = self._session / "logs" / "zygote.log"
            self._started += 1
            self.pid = spawn(["-c", _RUN], {**os.environ, MARK_VARIABLE: self.mark}, log, {SOCKET_FD: theirs.fileno()})
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self.socket, self.starting = ours, True
        self._say("start", str(self._session))

    @property
    def mark(self) -> str:
        """What all inherit that the zygote and its workers start, so that it is found when these are gone."""
        return f"{self._session}/{self._started}"

    def fork(self, worker: bytes, environment: dict[str, str], place: dict[str, Any]) -> bool:
        """Ask for a process that starts in ``place``; False if there is no zygote to ask."""
        if self.socket is None:
            return False
        self._asked[worker] = None
        self._say("fork", worker, environment, place)
        self._expect_answer()
        return True

    def signal(self, worker: bytes, number: int) -> None:
        """Send a signal to a worker if it still exists."""
        if self.socket is not None:
            self._say("signal", worker, number)
            self._expect_answer()

    def _expect_answer(self) -> None:
        if self._pinged:
            self._unheard += 1
        else:
            self._pinged, self._unheard = True, 0
            self._say("ping")

    @property
    def owes(self) -> bool:
        """Whether the zygote was told something and has not shown yet that it has heard that."""
        return self._pinged and self.socket is not None

    def _say(self, *message: Any) -> None:
        self._backlog.append(msgpack.packb(message))
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the zygote takes it."""
        while self._backlog and self.socket is not None:
            try:
                self.socket.send(self._backlog[0])
            except BlockingIOError:
                return
            except OSError:
                # It died; the next read says so.
                return
            self._backlog.popleft()

    def backlog(self) -> int:
        """How many packets the zygote has not taken yet."""
        return len(self._backlog)

    def receive(self) -> list[tuple[Any, ...]] | None:
        """What the zygote has said since the last call; None if it is gone."""
        said: list[tuple[Any, ...]] = []
        while self.socket is not None:
            try:
                packet = self.socket.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                break
            except OSError:
                packet = b""
            if not packet:
                return said or None
            message: tuple[Any, ...] = msgpack.unpackb(packet, use_list=False)
            match message:
                case ("forked", worker, pid):
                    self._asked.pop(worker, None)
                    self.pids[worker] = pid
                case ("failed", worker, _):
                    self._asked.pop(worker, None)
                case ("ended", worker, *_):
                    self.pids.pop(worker, None)
                case ("ready", _):
                    self.starting = False
                case ("pong",):
                    self._pinged = False
                    if self._unheard:
                        self._expect_answer()
                    continue
            said.append(message)
        return said

    def lost(self) -> dict[bytes, int]:
        """The zygote is gone, and its workers with it: their ids and pids (0 if never forked)."""
        gone = {**dict.fromkeys(self._asked, 0), **self.pids}
        self._asked.clear()
        self.pids.clear()
        self._backlog.clear()
        self._pinged, self._unheard = False, 0
        self.close()
        return gone

    def wake(self) -> None:
        """Have a zygote go on that somebody has stopped: nobody else can end its workers."""
        if self.socket is not None:
            send_signal(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Close the socket: the zygote ends its workers and itself."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
