"""Shell: one question to a node from a process that is none of its drivers: tools, and whoever starts nodes.

A connection for each question, closed with the answer; nothing of the asker stays at the node.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from obsray.core.protocol import messages as m
from obsray.core.transport.connection import Connection, Hello
from obsray.core.transport.links import connect
from obsray.errors import RaySystemError
from obsray.ids import MARK_BYTES, NODE_ID_BYTES, WORKER_ID_BYTES, worker_id
from obsray.telemetry import session_file
from obsray.telemetry.events import ProcessKind

QUESTION = 1
RECEIVE_BYTES = 1 << 16


def ask(directory: Path, method: str, timeout_seconds: float = 5.0, **arguments: Any) -> Any:
    """What the node of a session answers to ``Request(method, arguments)``.

    Raises OSError if it cannot be reached, TimeoutError if it does not answer in time, RaySystemError with its words if
    it refuses.
    """
    deadline = time.monotonic() + timeout_seconds
    node = bytes.fromhex(str(session_file.read(directory).get("node") or "")) or bytes(NODE_ID_BYTES)
    me = Hello(worker_id(node, os.urandom(WORKER_ID_BYTES - MARK_BYTES)), int(ProcessKind.TOOL), os.getpid())
    connection = Connection()
    with connect(directory / "sockets" / "node.sock", (directory / "token").read_bytes(), me, timeout_seconds) as sock:
        sock.sendall(connection.pack([m.encode(m.Request(QUESTION, method, arguments))]))
        while True:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            # The first message brings the arena's descriptor, which is not for tools.
            data, descriptors, _, _ = socket.recv_fds(sock, RECEIVE_BYTES, 1)
            for descriptor in descriptors:
                os.close(descriptor)
            if not data:
                raise ConnectionError(f"the node of {directory} closed the connection")
            for message in connection.receive(data):
                if message[0] != m.Reply._field_defaults["tag"]:
                    continue
                reply: m.Reply = m.decode(message)
                if reply.error:
                    raise RaySystemError(reply.error)
                return reply.value
