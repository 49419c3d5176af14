"""The dashboard's process: ``python -m obsray.dashboard.process --session-dir DIR``.

It reads the session's recorded telemetry, so it may start late, die or run again long after the session ended; while
the session runs it also accepts jobs, which then need it no more (``jobs.py``). It ends when the session's node ends;
over a recorded session it runs until it is told to stop.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from obsray.metrics import push
from obsray.telemetry import session_file

from .app import create_app
from .auth import read_token
from .scraping import Measured
from .source import Source

PORT_DEFAULT = 8265
PORTS_TRIED_MAX = 64
CONNECTIONS_MAX = 128
ADDRESS = "127.0.0.1"

log = logging.getLogger("obsray.dashboard")


def bind(port: int) -> socket.socket:
    """A listening socket on the loopback address at ``port`` or the next free one. 0 takes any free one.

    Raises OSError if none of ``PORTS_TRIED_MAX`` ports is free.
    """
    last = port + PORTS_TRIED_MAX if port else 1
    for candidate in range(port, min(last, 65536)):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # Not SO_REUSEPORT: two dashboards must never share a port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((ADDRESS, candidate))
            listener.listen(CONNECTIONS_MAX)
            return listener
        except OSError as error:
            listener.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise OSError(errno.EADDRINUSE, f"no free port between {port} and {last - 1}")


class _Server(uvicorn.Server):
    """A server that says when it answers, and leaves signals to us: the original raises them again at the end, past
    all that is to be tidied."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(directory: Path, listener: socket.socket, node_pid: int | None, ready: Callable[[], None]) -> None:
    """Answer requests on ``listener`` until a signal comes or the process ``node_pid`` ends."""
    port = listener.getsockname()[1]
    measured = Measured()
    # Of a session that is over there is nothing new to say.
    pusher = push.start(push.Source(directory, "dashboard", measured.collect)) if node_pid else None
    config = uvicorn.Config(
        create_app(Source(directory), read_token(directory), port, measured),
        http="h11",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=32 << 10,
    )
    server = _Server(config, ready)

    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    watch = _watch(node_pid, stop) if node_pid else None
    try:
        await server.serve(sockets=[listener])
    finally:
        if pusher is not None:
            await loop.run_in_executor(None, pusher.close)
        if watch is not None:
            loop.remove_reader(watch)
            os.close(watch)


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 told to stop or the session ended, 1 cannot serve, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m obsray.dashboard.process", description="Serve one session's dashboard on the loopback address."
    )
    parser.add_argument("--session-dir", required=True, type=Path)
    parser.add_argument("--port", type=int, default=PORT_DEFAULT, help=f"first port to try (default {PORT_DEFAULT})")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        run(options.session_dir, options.port)
    except (OSError, ValueError) as error:
        log.error("cannot serve %s: %s", options.session_dir, error)
        return 1
    return 0


def run(directory: Path, port_wanted: int, ready: Callable[[str], None] | None = None) -> None:
    """Serve the session in ``directory`` until it ends or a signal comes; ``ready`` is told the address once it
    answers.

    Raises OSError or ValueError if there is no token, no free port or no such directory.
    """
    read_token(directory)
    listener = bind(port_wanted)
    port = listener.getsockname()[1]
    url = f"http://{ADDRESS}:{port}"
    if port_wanted and port != port_wanted:
        log.warning("port %d is taken: this session's dashboard is at %s", port_wanted, url)
    facts = session_file.read(directory)
    node_pid = facts["node_pid"] if session_file.node_lives(facts) else None

    def serving() -> None:
        session_file.update(directory, dashboard_url=url, dashboard_pid=os.getpid())
        log.info("serving %s at %s", directory, url)
        if ready is not None:
            ready(url)

    try:
        asyncio.run(serve(directory, listener, node_pid, serving))
    finally:
        if directory.exists():
            session_file.update(directory, dashboard_url=None, dashboard_pid=None)


def _watch(pid: int, gone: Callable[[], None]) -> int | None:
    """Call ``gone`` when process ``pid`` ends; the descriptor that watches, or None if it is already gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        gone()
        return None
    asyncio.get_running_loop().add_reader(descriptor, gone)
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
