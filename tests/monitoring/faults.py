"""What goes wrong on purpose, in what a cluster stands on: storage, a disk, a driver of GPUs, rings."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import psutil
import pytest

from obsray import ids
from obsray.core.control.resp import Connection
from obsray.telemetry import session_file, spine
from obsray.telemetry.events import ProcessKind
from tests.monitoring.live import wait_for

NVML_SOURCE = Path(__file__).resolve().parents[1] / "integration" / "fake_nvml.c"
_CLONE_NEWNS = 0x00020000


class Redis:
    """A Redis server that can be slow, and full."""

    def __init__(self, base: Path) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: scripts/system-package redis-server redis-server"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(base), "--save", ""]
        self.address = f"redis://127.0.0.1:{port}"
        self.process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        self._connection = Connection("127.0.0.1", port, "", 30.0)
        wait_for("redis", self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self._connection.ask("PING") == "PONG")
        except OSError:
            return False

    def room(self, limited: bool) -> None:
        """Whether it has more than it may keep already."""
        self._connection.ask("CONFIG", "SET", "maxmemory", "1" if limited else "0")

    def slow(self, meanwhile: Callable[[], Any], seconds: float) -> None:
        """Answers nothing for some time while something is asked of it."""
        with ThreadPoolExecutor(1) as thread:
            self.process.send_signal(signal.SIGSTOP)
            try:
                asked = thread.submit(meanwhile)
                Event().wait(seconds)
            finally:
                self.process.send_signal(signal.SIGCONT)
            asked.result(60)

    def close(self) -> None:
        self._connection.close()
        self.process.kill()
        self.process.wait()


class SmallDisk:
    """A file system of a few megabytes that only its own thread, and what that starts, can see."""

    def __init__(self, megabytes: int) -> None:
        # Not one of the test's own directories: paths of sockets below it must be short.
        self.place = Path(tempfile.mkdtemp(prefix="small", dir="/tmp"))
        self._megabytes = megabytes
        self._thread = ThreadPoolExecutor(1, initializer=self._mount)

    def _mount(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(_CLONE_NEWNS) == 0, os.strerror(ctypes.get_errno())
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        size = f"size={self._megabytes}m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(self.place)], check=True)

    def do(self, work: Callable[..., Any], *values: Any, **named: Any) -> Future[Any]:
        """Have something done where it is seen. The thread also is the parent of what is started there."""
        return self._thread.submit(work, *values, **named)

    def fill(self, leaving_megabytes: float) -> None:
        """Leave so much room."""

        def work() -> None:
            with (self.place / "filler").open("ab", buffering=0) as file:
                state = os.statvfs(self.place)
                size = state.f_bavail * state.f_frsize - int(leaving_megabytes * (1 << 20))
                if size > 0:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)

        self.do(work).result(60)

    def empty(self) -> None:
        """Room again."""
        self.do((self.place / "filler").unlink).result(60)

    def close(self) -> None:
        self._thread.shutdown()
        shutil.rmtree(self.place, ignore_errors=True)


class Flood:
    """A process of a node that records more than its disk has room for. ``see`` does something where its files are."""

    def __init__(self, see: Callable[..., Future[Any]], session: Path, node: str) -> None:
        self._see = see
        process = ids.worker_id(bytes.fromhex(node), os.urandom(4))
        self._ring = see(spine.Ring, session / "rings", process, ProcessKind.DRIVER, bytes.fromhex(node)).result(60)

    def write(self, segments: int) -> None:
        """As much as fits into so many files."""

        def work() -> None:
            for _ in range(segments * spine.SEGMENT_RECORDS):
                self._ring.user_mark(time.time_ns(), ids.NIL_TASK, 0, 0)

        self._see(work).result(120)

    def close(self) -> None:
        self._see(self._ring.close, time.time_ns()).result(60)


def nvml(directory: Path) -> str:
    """A library of two GPUs; what happens to them stands in its directory."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.fail("a stand-in for libnvidia-ml is compiled with cc: install gcc and libc6-dev")
    path = directory / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(NVML_SOURCE)], check=True)
    return str(path)


def node_process(session: str) -> psutil.Process:
    """The process of a node itself."""
    return psutil.Process(int(session_file.read(Path(session))["node_pid"]))
