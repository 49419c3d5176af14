"""The zygote: a template process that has imported what every worker needs and forks when the node asks.

It has one thread and keeps no state of its users. The node talks to it over descriptor ``SOCKET_FD``, a
``SOCK_SEQPACKET`` pair, one msgpack tuple a packet::

    node -> zygote   ("start", session directory)                              first, once
                     ("fork", worker 8 bytes, {env variable: value}, place)
                     ("signal", worker, number)
                     ("ping",)                                                 answered once all before is done
    zygote -> node   ("ready", pid)
                     ("forked", worker, pid)
                     ("failed", worker, why)
                     ("ended", worker, pid, wait status, peak resident bytes)
                     ("pong",)

``place`` is {} or what the node has prepared for a worker (``node/environment_maker.py``): "cwd", "sys_path",
"command", "hook", "description", and the "job_path" its driver imports from.

Signals to workers go through here because only the parent knows which pids are still theirs. Descendants that a
dead worker leaves behind are adopted and killed. End of file means that the node is gone: everything ends. The zygote
is the only process of a node that is not killed with it, because it alone can find what user code has started; if
driver and node were killed, it also removes what they left on disk.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import msgpack

from obsray.core.protocol.environment_key import FOLLOWS_CPUS, THREADS_OF_A_TASK
from obsray.core.system.fate import die_with_parent
from obsray.core.system.processes import adopt_orphans, children, clean_session, parent_from_environment

SOCKET_FD = 3
PACKET_BYTES_MAX = 1 << 20
#: Large imports wait until nobody has asked for a process this long, so that they delay no start.
PRELOAD_IDLE_SECONDS = 0.3
#: The second is what tasks need that make tasks.
PRELOAD = ("obsray.core.runtime.actor", "obsray.core.api", "cloudpickle")
#: Starts threads if it is told to, which a fork would lose, and keep their locks.
PRELOAD_NUMERIC = ("numpy",)
#: Numeric libraries start one thread per core and process by default; a node full of workers would drown in them.
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: Read when the interpreter or a library is loaded: too late after a fork, so such workers get a new interpreter.
_EARLY_PREFIXES = ("PYTHON", "LD_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "MALLOC_", "GLIBC_")

#: Workers are what the kernel shall kill first when memory runs out, not the node or the driver.
WORKER_OOM_SCORE = "1000"

#: SIGPIPE stays ignored, as in every Python program: writing to who is gone is an error, and not the end.
_RESET_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
_EXECUTE = "from obsray.core.runtime.zygote import run_worker_from_arguments; run_worker_from_arguments()"


class Zygote:
    """Serves fork requests until the node closes the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._workers: dict[int, bytes] = {}
        self._pids: dict[bytes, int] = {}
        self._session = ""
        #: What is still to be imported; None before it is time to.
        self._preload: list[str] | None = None
        self._asked = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def serve(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._socket.fileno(), select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        self._say("ready", os.getpid())
        try:
            self._serve_until_gone(poll)
        finally:
            # Also if this fails: workers die with it by themselves, what they have started does not.
            self._end_all()
        if self._session:
            clean_session(self._session)

    def _serve_until_gone(self, poll: select.poll) -> None:
        while True:
            ready = poll.poll(self._idle_ms())
            if not ready:
                self._preload_next()
            for fd, _ in ready:
                if fd == self._wake_read:
                    self._drain_wake()
                elif not self._receive():
                    return
            self._reap()

    # --- the node's requests -----------------------------------------------------------------------------

    def _receive(self) -> bool:
        try:
            packet = self._socket.recv(PACKET_BYTES_MAX)
        except ConnectionResetError:
            # What a node has not read when it is killed makes this of its end of file.
            return False
        if not packet:
            return False
        message: tuple[Any, ...] = msgpack.unpackb(packet, use_list=False)
        match message:
            case ("start", str(session)):
                self._session = session
            case ("fork", bytes(worker), dict(environment), dict(place)):
                self._asked = True
                self._fork(worker, environment, place)
            case ("signal", bytes(worker), int(number)):
                if worker in self._pids:
                    os.kill(self._pids[worker], number)
            case ("ping",):
                self._say("pong")
            case _:
                # Whoever asked would wait for ever; the node notices this end and says so.
                raise ValueError(f"the node asked for something that is unknown here: {message!r}")
        return True

    def _fork(self, worker: bytes, environment: dict[str, str], place: dict[str, Any]) -> None:
        me = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._say("failed", worker, f"fork: {error.strerror}")
            return
        if pid == 0:
            self._become_worker(me, worker, environment, place)
        self._workers[pid] = worker
        self._pids[worker] = pid
        self._say("forked", worker, pid)

    def _say(self, *message: Any) -> None:
        try:
            self._socket.send(msgpack.packb(message))
        except OSError:
            # The node is gone; the next read says so.
            pass

    # --- the end of workers ------------------------------------------------------------------------------

    def _drain_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        ended = False
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            # Of an orphan, too: what it had started has just become one.
            ended = True
            worker = self._workers.pop(pid, None)
            if worker is not None:
                del self._pids[worker]
                self._say("ended", worker, pid, status, usage.ru_maxrss * 1024)
        if ended:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        for pid in children():
            if pid not in self._workers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def _end_all(self) -> None:
        """The node is gone: leave no process behind, however deep."""
        while remaining := children():
            for pid in remaining:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            try:
                os.wait()
            except ChildProcessError:
                break

    # --- becoming a worker -------------------------------------------------------------------------------

    def _become_worker(
        self, parent: int, worker: bytes, environment: dict[str, str], place: dict[str, Any]
    ) -> NoReturn:
        code = 1
        try:
            die_with_parent(parent)
            signal.set_wakeup_fd(-1)
            for number in _RESET_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._socket.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            _redirect(Path(self._session) / "logs", worker)
            _volunteer_for_memory_kills()
            os.environ.update(environment)
            if THREADS_OF_A_TASK in environment:
                os.environ.pop(FOLLOWS_CPUS, None)
            if place.get("command") or any(name.startswith(_EARLY_PREFIXES) for name in environment):
                _execute(self._session, worker, place)
            _reseed()
            gc.enable()
            code = _run_worker(self._session, worker, place)
        except BaseException:
            traceback.print_exc()
        finally:
            _flush()
            os._exit(code)

    def _idle_ms(self) -> int | None:
        """After how long without a request the next import is due; None: after no time."""
        if self._preload is None:
            return int(PRELOAD_IDLE_SECONDS * 1000) if self._asked else None
        return 0 if self._preload else None

    def _preload_next(self) -> None:
        """Import what most user code needs, while nobody waits. Workers forked later share the pages.

        One module at a time: requests, and the ends of workers, do not wait for all of them.
        """
        if self._preload is None:
            threads = any(os.environ.get(name, "1") != "1" for name in THREAD_VARIABLES)
            self._preload = list(PRELOAD if threads else PRELOAD + PRELOAD_NUMERIC)
        with contextlib.suppress(ImportError):
            __import__(self._preload.pop(0))
        if self._preload:
            return
        if len(os.listdir("/proc/self/task")) > 1:
            print(
                "zygote: an import started a thread; workers forked from now on may hang", file=sys.stderr, flush=True
            )
        gc.freeze()


def _redirect(logs: Path, worker: bytes) -> None:
    for fd, kind in ((1, "out"), (2, "err")):
        log = os.open(logs / f"worker-{worker.hex()}.{kind}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, fd)
        os.close(log)
    for stream in (sys.stdout, sys.stderr):
        # Lines are what people read in a log, and a killed process flushes nothing.
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _volunteer_for_memory_kills() -> None:
    try:
        Path("/proc/self/oom_score_adj").write_text(WORKER_OOM_SCORE)
    except OSError:
        # A container may forbid it; then the kernel chooses by size alone.
        pass


def _reseed() -> None:
    """Give this process its own chance: numpy's global generator is copied by a fork (``random`` cares for itself)."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


def _run_worker(session: str, worker: bytes, place: dict[str, Any]) -> int:
    from obsray.core.runtime.process import main

    try:
        main(session, worker, place)
    except SystemExit as end:
        if end.code is None:
            return 0
        return end.code if isinstance(end.code, int) else 1
    return 0


def _execute(session: str, worker: bytes, place: dict[str, Any]) -> NoReturn:
    """Go on in a new interpreter: same pid, same logs, same tie to the parent (it survives exec)."""
    packed = msgpack.packb((session, worker, place)).hex()
    command = list(place.get("command") or [sys.executable])
    os.execvp(command[0], [*command, "-P", "-c", _EXECUTE, packed])


def run_worker_from_arguments() -> NoReturn:
    """The entry of a worker that needed a new interpreter."""
    session, worker, place = msgpack.unpackb(bytes.fromhex(sys.argv[1]), use_list=False)
    sys.argv = [""]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    code = 1
    try:
        code = _run_worker(session, worker, place)
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass


def main() -> None:
    """Entry: descriptor 3 leads to the node."""
    # Not tied to the node by a signal: the end of file on the socket says the same and leaves time to clean up.
    parent_from_environment()
    adopt_orphans()
    sys.argv = [""]
    os.environ.pop(FOLLOWS_CPUS, None)
    if THREADS_OF_A_TASK not in os.environ:
        os.environ[FOLLOWS_CPUS] = "1"
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    # Objects made from here on live as long as the process: collecting would only unshare pages.
    gc.disable()
    sock = socket.socket(fileno=SOCKET_FD)
    sock.set_inheritable(False)
    import obsray.core.runtime.process  # noqa: F401

    gc.freeze()
    Zygote(sock).serve()
