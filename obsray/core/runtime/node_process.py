"""Shell: a node as a process that this one starts: its session directory, its options, its first and its last word.

Whoever starts a node may hold the write end of a *lifeline* pipe whose other end the node reads: however the starter
ends, also by ``kill -9``, the node sees end of file and takes everything down. Without one a node lives until it is
stopped.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from obsray.core.system.processes import clean_session
from obsray.core.transport.connection import TOKEN_BYTES
from obsray.core.transport.socket_paths import make_socket_directory
from obsray.ids import MARK_BYTES, WORKER_ID_BYTES, worker_id
from obsray.telemetry import credential

START_SECONDS_MAX = 60.0
#: A node whose starter gave up while it started has this long to end by itself.
ABANDON_SECONDS_MAX = 3.0
#: What an orderly end may take beyond ``shutdown_grace_seconds`` before the node is killed.
STOP_SECONDS_MAX = 5.0
LOG_TAIL_BYTES = 2000

#: Nodes whose lifeline this process holds.
_held: weakref.WeakSet[NodeProcess] = weakref.WeakSet()


class NodeProcess:
    """A node that this process has started. ``facts`` is what it said when it was ready."""

    def __init__(
        self, process: subprocess.Popen[bytes], lifeline: int | None, directory: Path, facts: dict[str, Any]
    ) -> None:
        self.process = process
        self.directory = directory
        self.facts = facts
        self._lifeline = lifeline
        _held.add(self)

    @property
    def pid(self) -> int:
        """The node's process."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.process.poll() is None

    def release(self) -> None:
        """Close this process' end of the lifeline: the node ends, unless another process holds one as well."""
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            os.close(lifeline)

    def stop(self, grace_seconds: float) -> None:
        """End the node in order; kill it if it takes longer. Raises KeyboardInterrupt once it is gone, for a Ctrl-C."""
        if self._lifeline is None and self.running:
            self.process.send_signal(signal.SIGTERM)
        self.release()
        if self.running:
            # Also one that somebody has stopped ends in order.
            self.process.send_signal(signal.SIGCONT)
        interrupted = False
        try:
            self.process.wait(grace_seconds + STOP_SECONDS_MAX)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            # A second Ctrl-C: now.
            interrupted = isinstance(error, KeyboardInterrupt)
            self.process.kill()
            self.process.wait()
        if self.process.returncode != 0:
            clean_session(self.directory)
        if interrupted:
            raise KeyboardInterrupt

    def kill(self) -> None:
        """End the node without giving it time for anything (its processes end with it), and clean up after it."""
        self.process.kill()
        self.process.wait()
        self.release()
        clean_session(self.directory)


def driver_id(facts: Mapping[str, Any]) -> bytes:
    """An id for a driver of the node with these facts."""
    return worker_id(bytes.fromhex(facts["node"]), secrets.token_bytes(WORKER_ID_BYTES - MARK_BYTES))


def new_session_directory(temp_dir: str | None, token: bytes | None = None) -> Path:
    """A private directory for one session, with its token: ``token`` in a node that joins a cluster, else a new one.

    Raises OSError if none can be made.
    """
    base = Path(temp_dir or tempfile.gettempdir()) / f"obsray-{os.getuid()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        # Somebody else made it, or a link in its place, to see what is put there.
        raise PermissionError(f"{base} is not a directory of this user's own; set _temp_dir to one that is")
    base.chmod(0o700)
    stamp = time.strftime("%m%d_%H%M%S")
    directory = base / f"s_{stamp}_{os.getpid()}_{secrets.token_hex(3)}"
    directory.mkdir(mode=0o700)
    make_socket_directory(directory)
    for name in ("rings", "telemetry", "logs", "spill"):
        (directory / name).mkdir(mode=0o700)
    fd = os.open(directory / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    own = secrets.token_bytes(TOKEN_BYTES) if token is None else token
    os.write(fd, own)
    os.close(fd)
    # Now, so that whoever scrapes finds it from the first moment on.
    credential.write(directory, own)
    if token is None:
        latest = base / f".latest_{os.getpid()}"
        latest.unlink(missing_ok=True)
        latest.symlink_to(directory.name)
        latest.rename(base / "latest")
    return directory


def start_node(
    directory: Path,
    options: dict[str, Any],
    lifeline: bool = True,
    environment: Mapping[str, str] | None = None,
    shared_lifeline: int | None = None,
) -> NodeProcess:
    """Start a node and wait until it is ready. ``environment``: more variables for its processes.

    ``shared_lifeline``: the read end of a lifeline that somebody else holds, in place of one of this process.

    Raises RuntimeError with its own words if it cannot start.
    """
    lifeline_read, lifeline_write = os.pipe()
    if shared_lifeline is not None:
        os.dup2(shared_lifeline, lifeline_read, inheritable=False)
    ready_read, ready_write = os.pipe()
    options = {**options, "session_directory": str(directory), "ready_fd": ready_write}
    passed = [ready_write]
    if lifeline:
        options["lifeline_fd"] = lifeline_read
        passed.append(lifeline_read)
    log = open(directory / "logs" / "node.log", "ab", opener=lambda path, flags: os.open(path, flags, 0o600))
    try:
        process = subprocess.Popen(
            # -P: a file called json.py where the program is started must not replace the standard library's.
            [sys.executable, "-P", "-m", "obsray.core.node.process"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=passed,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    finally:
        log.close()
        os.close(lifeline_read)
        os.close(ready_write)
    node = NodeProcess(process, lifeline_write, directory, {})
    if not lifeline or shared_lifeline is not None:
        node.release()
    began = time.monotonic()
    try:
        _tell_options(process, options)
        answer = _read_line(ready_read, START_SECONDS_MAX)
    except BaseException:
        # Ctrl-C, most likely.
        abandon(node)
        raise
    finally:
        os.close(ready_read)
    node.facts = _facts_of(answer, time.monotonic() - began >= START_SECONDS_MAX)
    if not node.facts.get("ok"):
        process.kill()
        process.wait()
        node.release()
        tail = (directory / "logs" / "node.log").read_text(errors="replace")[-LOG_TAIL_BYTES:]
        shutil.rmtree(directory, ignore_errors=True)
        said = str(node.facts.get("error"))
        if node.facts.get("expected"):
            raise CannotStart(said)
        raise CannotStart(f"the node process could not start: {said}\n{tail}".rstrip())
    return node


class CannotStart(RuntimeError):
    """A node did not start; the message is for whoever wanted it."""


def clean_up_after(directory: Path) -> None:
    """Remove what a node that was killed left in its session directory; logs and telemetry stay."""
    clean_session(directory)


def abandon(node: NodeProcess) -> None:
    """End a node that nobody will join, and remove what it has written."""
    if node._lifeline is None and node.running:
        node.process.send_signal(signal.SIGTERM)
    node.release()
    try:
        node.process.wait(ABANDON_SECONDS_MAX)
    except BaseException:
        node.process.kill()
        node.process.wait()
    finally:
        shutil.rmtree(node.directory, ignore_errors=True)


def _facts_of(answer: bytes, late: bool) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(answer)
    except ValueError:
        why = f"it was not ready within {START_SECONDS_MAX:g} s" if late else "it ended without a word"
        return {"ok": False, "error": f"{why}. The end of its log:"}
    return facts


def _tell_options(process: subprocess.Popen[bytes], options: dict[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(options).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass


def _read_line(fd: int, timeout_seconds: float) -> bytes:
    data = b""
    deadline = time.monotonic() + timeout_seconds
    # Not select(): a program may have more than a thousand files open.
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while b"\n" not in data:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            break
        chunk = os.read(fd, 4096)
        if not chunk:
            break
        data += chunk
    return data


def _after_fork() -> None:
    # A forked child must not keep the nodes of its parent alive.
    for node in list(_held):
        node.release()


os.register_at_fork(after_in_child=_after_fork)
