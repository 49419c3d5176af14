"""Entry of the node's process: ``python -m obsray.core.node.process``, options on standard input (``options.py``).

The order is for speed: the zygote is started before this process imports the rest of itself, so both get ready at
the same time; the heavy processes (control store, collector, dashboard) come only after the first worker.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from obsray.config import variable

DIRECTORIES = ("sockets", "rings", "telemetry", "logs", "spill", "environments", "jobs")


def main() -> int:
    """Exit codes: 0 ended in order, 1 could not start or failed."""
    text = sys.stdin.read()
    ready_fd: int | None = None
    try:
        values: dict[str, Any] = json.loads(text)
        ready_fd = values.get("ready_fd")
        for fd in (ready_fd, values.get("lifeline_fd")):
            if fd is not None:
                # A child that inherited the lifeline would keep the node alive after its driver.
                os.set_inheritable(fd, False)
        session = Path(values["session_directory"])
        # Workers and services read the settings from their environment, which they inherit from here.
        os.environ.update({variable(name): str(value) for name, value in (values.get("config") or {}).items()})
        forks = _prepare(session)
        node = _start(text, forks)
    except Exception as error:
        traceback.print_exc()
        # Wrong options and clusters that do not take it in are told in one sentence, all else with its kind and the
        # log.
        expected = isinstance(error, ValueError) or type(error).__name__ == "CannotJoin"
        said = str(error) if expected else f"{type(error).__name__}: {error}"
        _say(ready_fd, {"ok": False, "error": said, "expected": expected})
        return 1
    if node.joining.address:
        # Whoever waited may look at once for what is announced.
        node.announce()
    facts = {
        "ok": True,
        "node": node.node.hex(),
        "pid": os.getpid(),
        "session_directory": str(session),
        "node_address": node.address,
        "control_address_tcp": node.joining.address,
        "head": node.options.head,
    }
    _say(ready_fd, facts)
    if not node.joining.address:
        node.announce()
    try:
        node.run()
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _prepare(session: Path) -> Any:
    """Directories, logs, own process group, and the zygote: all that can be done before the large imports."""
    from obsray.core.node.forks import Forks

    os.umask(0o077)
    for name in DIRECTORIES:
        (session / name).mkdir(exist_ok=True)
    null = os.open("/dev/null", os.O_RDONLY)
    log = os.open(session / "logs" / "node.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(null)
    os.close(log)
    try:
        # Signals of the driver's terminal are for the driver.
        os.setsid()
    except PermissionError:
        pass
    forks = Forks(session)
    forks.start()
    return forks


def _start(text: str, forks: Any) -> Any:
    from obsray.core.node.joining import check_reachable
    from obsray.core.node.options import of_this_node, offered, read_options
    from obsray.core.node.shell import Node
    from obsray.ids import NODE_ID_BYTES

    options = read_options(text)
    if options.control is not None:
        check_reachable(options.control)
    identifier = bytes.fromhex(options.node_id) if options.node_id else os.urandom(NODE_ID_BYTES)
    machine = offered(options.resources, options.config)
    machine.total.update(of_this_node(options))
    node = Node(options, machine, forks, identifier)
    node.start()
    if options.clustered:
        node.join_cluster()
    return node


def _say(fd: int | None, facts: dict[str, Any]) -> None:
    if fd is None:
        return
    try:
        os.write(fd, json.dumps(facts).encode() + b"\n")
        os.close(fd)
    except OSError:
        # Whoever waited is gone; its lifeline says the same.
        pass


if __name__ == "__main__":
    ended = main()
    if ended:
        sys.exit(ended)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # The program waits: what the interpreter would tidy up now, the kernel does in a fraction of the time.
    os._exit(0)
