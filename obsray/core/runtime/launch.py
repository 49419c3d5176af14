"""Shell: a driver starts a runtime on this machine and joins it (``joining.py``: or joins one that runs).

The driver holds the write end of a *lifeline* pipe and the node reads the other end: however the driver ends, also by
``kill -9``, the node sees end of file and takes everything down. If the node is killed instead, its children die with
it and the driver removes what is left on disk.
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
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any

from obsray.config import Config
from obsray.core.runtime.log_follower import LogFollower
from obsray.core.runtime.logs import set_up_logging, tear_down_logging
from obsray.core.runtime.session import Session
from obsray.core.runtime.submission import Submission
from obsray.core.transport.connection import TOKEN_BYTES
from obsray.ids import WORKER_ID_BYTES
from obsray.job_config import JobConfig
from obsray.telemetry.events import ProcessKind

START_SECONDS_MAX = 30.0
#: A node whose driver gave up while it started has this long to end by itself.
ABANDON_SECONDS_MAX = 3.0
#: The release of Ray whose API is offered (docs/api-compatibility.md).
RAY_VERSION = "2.60.0"
#: A unix socket's path has at most 107 bytes; what is needed below the session directory.
_SOCKET_PATH_MAX = 107 - len("/sockets/0123456789abcdef.sock")


class Context(Mapping[str, Any]):
    """What ``init`` returns: where the runtime is. Leaving it as a context manager is ``shutdown()``.

    A mapping of ``address_info``. ``dashboard_url`` is known once the dashboard is up (it starts in the
    background) and is "" before. ``process`` is the node's, None in a program that joined a runtime of another.
    """

    def __init__(
        self,
        session: Session,
        process: subprocess.Popen[bytes] | None,
        lifeline: int | None,
        logs: LogFollower | None,
        on_disconnect: Callable[[], None],
        job: dict[str, Any] | None = None,
        version: str = "",
    ) -> None:
        self.session = session
        self._job = job or {}
        self.process = process
        self._lifeline = lifeline
        self._logs = logs
        self._on_disconnect = on_disconnect
        self.python_version = ".".join(map(str, sys.version_info[:3]))
        #: The version of Ray whose API this is, and what answers to it.
        self.ray_version = RAY_VERSION
        self.ray_commit = f"obsray-{version}"

    def begin_job(self, env: dict[str, Any]) -> None:
        """Tell the node what this program is and what its tasks run in. Raises ValueError if that cannot be packed."""
        session = self.session
        description = dict(self._job)
        if env:
            session.environments.inherited = session.environments.describe(env) or {}
            working_dir = env.get("working_dir")
            if working_dir:
                # Workers have a copy; what is not in it is not theirs.
                original = os.path.realpath(os.path.expanduser(os.fspath(working_dir)))
                description["sys_path"] = [p for p in description["sys_path"] if os.path.realpath(p) != original]
        description["runtime"] = session.environments.inherited or None
        description["eager"] = (env.get("config") or {}).get("eager_install", True)
        session.describe_job(description)
        set_up_logging(session)

    @property
    def address_info(self) -> dict[str, Any]:
        """``address``, ``node_id``, ``session_dir``, ``object_store_memory`` and more."""
        session = self.session
        return {
            **self._facts(),
            "node_ip_address": "127.0.0.1",
            "raylet_ip_address": "127.0.0.1",
            "raylet_socket_name": str(session.directory / "sockets" / "node.sock"),
            "webui_url": self.dashboard_url.removeprefix("http://"),
            "address": str(session.directory),
            "gcs_address": str(session.directory),
            "node_id": session.node_id.hex(),
            "session_dir": str(session.directory),
            "object_store_memory": session.arena.size,
        }

    def _facts(self) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads((self.session.directory / "session.json").read_text())
            return facts
        except (OSError, ValueError):
            return {}

    @property
    def dashboard_url(self) -> str:
        """Where the dashboard is, for programs that send the token themselves."""
        return str(self._facts().get("dashboard_url") or "")

    @property
    def dashboard_link(self) -> str:
        """The link that opens the dashboard in a browser, as ``obsray dashboard`` prints it. It holds the token."""
        return f"{self.dashboard_url}/auth?token={self.session.token.hex()}" if self.dashboard_url else ""

    def wait_for_dashboard(self, timeout: float = 15.0) -> str:
        """The dashboard's address as soon as it is up, "" if that takes longer than ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not self.dashboard_url and time.monotonic() < deadline:
            threading.Event().wait(0.05)
            if self.session.interrupt_pending:
                self.session.take_interrupt()
        return self.dashboard_url

    def disconnect(self) -> None:
        """The same as ``obsray.shutdown()``."""
        self._on_disconnect()

    def __enter__(self) -> Context:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_disconnect()

    def __getitem__(self, name: str) -> Any:
        return self.address_info[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __repr__(self) -> str:
        where = f"dashboard={self.dashboard_url!r}" if self.dashboard_url else "dashboard starting, or switched off"
        state = "ended" if self.session.closed else where
        return (
            f"Context({state}, session={str(self.session.directory)!r}, python_version={self.python_version!r}, "
            f"ray_version={self.ray_version!r}; obsray status, obsray dashboard)"
        )

    def _repr_html_(self) -> str:
        # For notebooks. Without the token: what a notebook shows is saved and passed on.
        rows = {"session": escape(str(self.session.directory)), "Python": escape(self.python_version)}
        if self.session.closed:
            rows["state"] = "ended"
        elif self.dashboard_url:
            url = escape(self.dashboard_url)
            rows["dashboard"] = f'<a href="{url}" target="_blank">{url}</a> (<code>obsray dashboard</code> opens it)'
        else:
            rows["dashboard"] = "starting, or switched off"
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"<table>{cells}</table>"

    def stop(self) -> None:
        """Leave the runtime; whoever started it waits until its processes are gone."""
        # 1. Say goodbye, so that nothing of ours counts as a crash. 2. Close the lifeline: the node ends everything.
        # 3. Wait for it, bounded; kill it if it does not listen. 4. Show the workers' last words. 5. Remove what a
        # killed node left on disk.
        restore_interrupts(self.session)
        tear_down_logging()
        self.session.close()
        if self.process is None or self._lifeline is None:
            if self._logs is not None:
                self._logs.stop()
            return
        os.close(self._lifeline)
        grace = self.session.config.shutdown_grace_seconds
        interrupted = False
        try:
            self.process.wait(grace + 5.0)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            # A second Ctrl-C: now.
            interrupted = isinstance(error, KeyboardInterrupt)
            self.process.kill()
            self.process.wait()
        if self._logs is not None:
            self._logs.stop()
        if self.process.returncode != 0:
            from obsray.core.system.processes import clean_session

            clean_session(self.session.directory)
        if interrupted:
            raise KeyboardInterrupt

    def left_behind(self) -> None:
        """In a forked child: the node must notice the end of the parent although this process lives on."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


def new_session_directory(temp_dir: str | None) -> Path:
    """A private directory for one session, with its token. Raises OSError if none can be made."""
    base = Path(temp_dir or tempfile.gettempdir()) / f"obsray-{os.getuid()}"
    if len(os.fsencode(base)) + 40 > _SOCKET_PATH_MAX:
        base = Path("/tmp") / f"obsray-{os.getuid()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = base.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
        # Somebody else made it, or a link in its place, to see what is put there.
        raise PermissionError(f"{base} is not a directory of this user's own; set _temp_dir to one that is")
    base.chmod(0o700)
    stamp = time.strftime("%m%d_%H%M%S")
    directory = base / f"s_{stamp}_{os.getpid()}_{secrets.token_hex(2)}"
    directory.mkdir(mode=0o700)
    for name in ("sockets", "rings", "telemetry", "logs", "spill"):
        (directory / name).mkdir(mode=0o700)
    fd = os.open(directory / "token", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(fd, secrets.token_bytes(TOKEN_BYTES))
    os.close(fd)
    latest = base / f".latest_{os.getpid()}"
    latest.unlink(missing_ok=True)
    latest.symlink_to(directory.name)
    latest.rename(base / "latest")
    return directory


def launch(
    *,
    num_cpus: float | None,
    num_gpus: float | None,
    resources: dict[str, float],
    labels: dict[str, str],
    object_store_memory: int | None,
    memory: int | None,
    namespace: str | None,
    job_config: JobConfig,
    logs: dict[str, Any],
    node_name: str | None,
    include_dashboard: bool,
    dashboard_port: int | None,
    log_to_driver: bool,
    temp_dir: str | None,
    settings: dict[str, Any],
    version: str,
    on_disconnect: Callable[[], None],
) -> Context:
    """Start a node and join it. Raises RuntimeError with the node's own words if it cannot start."""
    config = Config.from_environment(**settings)
    directory = new_session_directory(temp_dir)
    wanted = {"CPU": num_cpus, "GPU": num_gpus, "memory": memory, "object_store_memory": object_store_memory}
    options = {
        "session_directory": str(directory),
        "config": settings,
        "resources": {**{name: amount for name, amount in wanted.items() if amount is not None}, "custom": resources},
        "labels": labels,
        "include_dashboard": include_dashboard,
        "dashboard_port": dashboard_port,
        "node_name": node_name,
        "settings": {"version": version},
    }
    process, lifeline = _start_node(directory, options)
    try:
        session = Session(directory, secrets.token_bytes(WORKER_ID_BYTES), ProcessKind.DRIVER, config)
    except BaseException:
        _abandon(process, lifeline, directory)
        raise
    job = describe_program(namespace, job_config, logs)
    return begin(session, job, log_to_driver, on_disconnect, version, process, lifeline)


def describe_program(namespace: str | None, job_config: JobConfig, logs: dict[str, Any]) -> dict[str, Any]:
    """What the workers of this program get to know about it (``DescribeJob``)."""
    return {
        "namespace": secrets.token_hex(8) if namespace is None else namespace,
        "entrypoint": " ".join(sys.argv)[:500],
        "sys_path": [*(path or os.getcwd() for path in sys.path), *map(os.path.abspath, job_config.code_search_path)],
        "metadata": job_config.metadata,
        "actor_lifetime": job_config.default_actor_lifetime,
        **logs,
    }


def begin(
    session: Session,
    job: dict[str, Any],
    log_to_driver: bool,
    on_disconnect: Callable[[], None],
    version: str,
    process: subprocess.Popen[bytes] | None = None,
    lifeline: int | None = None,
) -> Context:
    """A driver that has joined: its calls, its interrupts, the output of its workers. ``process``: it started it."""
    Submission(session)
    take_interrupts(session)
    follower = LogFollower(session.directory, session.job, process is not None) if log_to_driver else None
    if follower is not None:
        follower.start()
    return Context(session, process, lifeline, follower, on_disconnect, job, version)


def _start_node(directory: Path, options: dict[str, Any]) -> tuple[subprocess.Popen[bytes], int]:
    lifeline_read, lifeline_write = os.pipe()
    ready_read, ready_write = os.pipe()
    options |= {"lifeline_fd": lifeline_read, "ready_fd": ready_write}
    log = open(directory / "logs" / "node.log", "ab", opener=lambda path, flags: os.open(path, flags, 0o600))
    try:
        process = subprocess.Popen(
            # -P: a file called json.py where the program is started must not replace the standard library's.
            [sys.executable, "-P", "-m", "obsray.core.node.process"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(lifeline_read, ready_write),
            start_new_session=True,
        )
    finally:
        log.close()
        os.close(lifeline_read)
        os.close(ready_write)
    try:
        _tell_options(process, options)
        answer = _read_line(ready_read, START_SECONDS_MAX)
    except BaseException:
        # Ctrl-C, most likely.
        _abandon(process, lifeline_write, directory)
        raise
    finally:
        os.close(ready_read)
    try:
        facts = json.loads(answer)
    except ValueError:
        facts = {"ok": False, "error": f"it ended without a word; its log is {directory}/logs/node.log"}
    if not facts.get("ok"):
        os.close(lifeline_write)
        process.kill()
        process.wait()
        tail = (directory / "logs" / "node.log").read_text(errors="replace")[-2000:]
        shutil.rmtree(directory, ignore_errors=True)
        raise RuntimeError(f"the node process could not start: {facts.get('error')}\n{tail}".rstrip())
    return process, lifeline_write


def _tell_options(process: subprocess.Popen[bytes], options: dict[str, Any]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(options).encode())
        process.stdin.close()
    except BrokenPipeError:
        pass


def _abandon(process: subprocess.Popen[bytes], lifeline: int, directory: Path) -> None:
    """End a node that nobody will join, and what it has started."""
    os.close(lifeline)
    try:
        process.wait(ABANDON_SECONDS_MAX)
    except BaseException:
        process.kill()
        process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _read_line(fd: int, timeout_seconds: float) -> bytes:
    data = b""
    deadline = time.monotonic() + timeout_seconds
    while b"\n" not in data:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            break
        chunk = os.read(fd, 4096)
        if not chunk:
            break
        data += chunk
    return data


def take_interrupts(session: Session) -> None:
    """Have Ctrl-C end a blocked call soon without tearing the machines open, if Python's own handler is in place."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, session.on_interrupt)


def restore_interrupts(session: Session) -> None:
    """Undo ``take_interrupts``."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) == session.on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
