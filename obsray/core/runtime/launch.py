"""Shell: a driver starts a runtime on this machine and joins it (``joining.py``: or joins one that runs).

However the driver ends, also by ``kill -9``, the node notices and takes everything down (``node_process.py``). If the
node is killed instead, its children die with it and the driver removes what is left on disk.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from html import escape
from types import TracebackType
from typing import Any

from obsray.config import Config
from obsray.core.protocol.addresses import LOCALHOST
from obsray.core.runtime.interrupts import restore_interrupts, take_interrupts
from obsray.core.runtime.log_follower import LogFollower
from obsray.core.runtime.logs import set_up_logging, tear_down_logging
from obsray.core.runtime.node_process import NodeProcess, abandon, driver_id, new_session_directory, start_node
from obsray.core.runtime.session import Session, set_current
from obsray.core.runtime.submission import Submission
from obsray.errors import RayError
from obsray.job_config import JobConfig
from obsray.telemetry.events import ProcessKind

#: The release of Ray whose API is offered (docs/api-compatibility.md).
RAY_VERSION = "2.60.0"
LAST_WORDS_SECONDS_MAX = 1.5
DASHBOARD_SECONDS_MAX = 15.0
log = logging.getLogger("obsray.session")


class _AddressInfo(dict[str, Any]):
    """A dictionary that waits for the dashboard when somebody asks for its address, and not before."""

    def __init__(self, found: dict[str, Any], dashboard: Callable[[], str]) -> None:
        super().__init__(found)
        self._dashboard = dashboard

    def __getitem__(self, name: str) -> Any:
        if name == "webui_url" and not super().__getitem__(name):
            self[name] = self._dashboard()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As of any dictionary."""
        return super().get(name, default) if name != "webui_url" else self[name]


class Context(Mapping[str, Any]):
    """What ``init`` returns: where the runtime is. Leaving it as a context manager is ``shutdown()``.

    A mapping of ``address_info``. The dashboard starts in the background: asking for ``dashboard_url`` waits for it.
    ``process`` is the node's, None in a program that joined a runtime of another.
    """

    def __init__(
        self,
        session: Session,
        node: NodeProcess | None,
        logs: LogFollower | None,
        on_disconnect: Callable[[], None],
        job: dict[str, Any] | None = None,
        version: str = "",
    ) -> None:
        self.session = session
        self._job = job or {}
        self._node = node
        self._logs = logs
        self._on_disconnect = on_disconnect
        self._announcing: threading.Thread | None = None
        self.python_version = ".".join(map(str, sys.version_info[:3]))
        #: The version of Ray whose API this is, and what answers to it.
        self.ray_version = RAY_VERSION
        self.ray_commit = f"obsray-{version}"

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The node's process, if this program started it."""
        return None if self._node is None else self._node.process

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
        """``address``, ``node_id``, ``session_dir``, ``object_store_memory`` and more.

        Asking for ``webui_url`` waits for the dashboard, if it is still starting.
        """
        session = self.session
        host = str(self._facts().get("node_address") or "").rpartition(":")[0] or LOCALHOST
        found = {
            **self._facts(),
            "node_ip_address": host,
            "raylet_ip_address": host,
            "raylet_socket_name": str(session.directory / "sockets" / "node.sock"),
            "webui_url": self._dashboard_now().removeprefix("http://"),
            "address": session.address,
            "gcs_address": session.address,
            "node_id": session.node_id.hex(),
            "session_dir": str(session.directory),
            "object_store_memory": session.arena.size,
        }
        return _AddressInfo(found, lambda: self.dashboard_url.removeprefix("http://"))

    def _facts(self) -> dict[str, Any]:
        try:
            facts: dict[str, Any] = json.loads((self.session.directory / "session.json").read_text())
            return facts
        except (OSError, ValueError):
            return {}

    def _dashboard_now(self) -> str:
        return str(self._facts().get("dashboard_url") or "")

    @property
    def dashboard_url(self) -> str:
        """Where the dashboard is, for programs that send the token themselves; waits for it if it is still starting.

        "" if there is none, or if it takes longer than ``DASHBOARD_SECONDS_MAX``.
        """
        return self.wait_for_dashboard() if self._facts().get("dashboard") else self._dashboard_now()

    @property
    def dashboard_link(self) -> str:
        """The link that opens the dashboard in a browser, as ``obsray dashboard`` prints it. It holds the token."""
        url = self.dashboard_url
        return f"{url}/auth?token={self.session.token.hex()}" if url else ""

    def wait_for_dashboard(self, timeout: float = DASHBOARD_SECONDS_MAX) -> str:
        """The dashboard's address as soon as it is up, "" if that takes longer than ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while not (url := self._dashboard_now()) and not self.session.closed and time.monotonic() < deadline:
            threading.Event().wait(0.05)
            if self.session.interrupt_pending:
                self.session.take_interrupt()
        return url

    def announce(self, log_level_is_default: bool) -> None:
        """Say where the dashboard is as soon as it is up: to the logger ``obsray``, or, if nobody has said what that
        shows, on stderr where a person reads it (a terminal, a prompt, a notebook)."""
        to_log = log.isEnabledFor(logging.INFO)
        to_person = log_level_is_default and self._logs is not None and (hasattr(sys, "ps1") or _is_terminal())
        if (to_log or to_person) and self._facts().get("dashboard"):
            self._announcing = threading.Thread(
                target=self._announce, args=(to_log,), name="obsray-announcement", daemon=True
            )
            self._announcing.start()

    def _announce(self, to_log: bool) -> None:
        url = self.wait_for_dashboard()
        if not url or self.session.closed:
            return
        # Without the token, as in the representations: what a program shows is saved and passed on.
        did = "Joined" if self._node is None else "Started"
        text = f"{did} a runtime on this machine. Dashboard: {url} (`obsray dashboard` prints the link that opens it)"
        if to_log:
            log.info(text)
            return
        try:
            print(text, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            # The program has closed its own output.
            return

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
        url = self._dashboard_now()
        where = f"dashboard={url!r}" if url else "dashboard starting, or switched off"
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
        elif self._dashboard_now():
            url = escape(self._dashboard_now())
            rows["dashboard"] = f'<a href="{url}" target="_blank">{url}</a> (<code>obsray dashboard</code> opens it)'
        else:
            rows["dashboard"] = "starting, or switched off"
        cells = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in rows.items())
        return f"<table>{cells}</table>"

    def _fetch_last_words(self) -> None:
        """What workers at other nodes have printed comes with a delay: have the rest of it sent now."""
        try:
            self.session.request("flush_logs", LAST_WORDS_SECONDS_MAX)
        except (RayError, RuntimeError, OSError, KeyboardInterrupt):
            # The runtime is gone, or the program is in a hurry; what is there is shown.
            return

    def stop(self) -> None:
        """Leave the runtime; whoever started it waits until its processes are gone."""
        # 1. Say goodbye, so that nothing of ours counts as a crash. 2. The node ends everything, or is killed if it
        # does not listen. 3. Show the workers' last words.
        restore_interrupts()
        tear_down_logging()
        if self._logs is not None and self._facts().get("control_address_tcp"):
            self._fetch_last_words()
        self.session.close()
        if self._announcing is not None:
            self._announcing.join(1.0)
        try:
            if self._node is not None:
                self._node.stop(self.session.config.shutdown_grace_seconds)
        finally:
            if self._logs is not None:
                self._logs.stop()


def _is_terminal() -> bool:
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


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
        "config": settings,
        "resources": {**{name: amount for name, amount in wanted.items() if amount is not None}, "custom": resources},
        "labels": labels,
        "include_dashboard": include_dashboard,
        "dashboard_port": dashboard_port,
        "node_name": node_name,
        "settings": {"version": version},
    }
    node = start_node(directory, options)
    try:
        session = Session(directory, driver_id(node.facts), ProcessKind.DRIVER, config)
    except BaseException:
        abandon(node)
        raise
    job = describe_program(namespace, job_config, logs)
    return begin(session, job, log_to_driver, on_disconnect, version, node)


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
    node: NodeProcess | None = None,
) -> Context:
    """A driver that has joined: its calls, its interrupts, the output of its workers. ``node``: it started it."""
    Submission(session)
    # From here on an interrupt finds it.
    set_current(session)
    take_interrupts()
    dedup_seconds = 0.0 if os.environ.get("RAY_DEDUP_LOGS") == "0" else session.config.log_dedup_seconds
    follower = None
    if log_to_driver:
        bare = bool(job.get("logging"))
        follower = LogFollower(
            session.directory, session.job, node is not None, dedup_seconds, bare, session.ended_workers
        )
        follower.start()
    return Context(session, node, follower, on_disconnect, job, version)
