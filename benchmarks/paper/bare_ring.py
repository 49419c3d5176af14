"""A ring allreduce of plain processes over TCP, with nothing between them: what the machine itself allows.

It stands where the paper has OpenMPI, which is not installed here.
"""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from multiprocessing.connection import Connection

import numpy as np


def times(members: int, size: int, repetitions: int) -> list[float]:
    """Seconds of each allreduce of an array of ``size`` bytes, from the first member's start to the last one's end."""
    # Forked: must be called before this process has threads.
    context = multiprocessing.get_context("fork")
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(members)]
    ports = [listener.getsockname()[1] for listener in listeners]
    gate = context.Barrier(members)
    pipes, started = [], []
    for rank in range(members):
        ours, theirs = context.Pipe()
        arguments = (rank, listeners[rank], ports[(rank + 1) % members], members, size, repetitions, gate, theirs)
        process = context.Process(target=_member, args=arguments, daemon=True)
        process.start()
        pipes.append(ours)
        started.append(process)
    spans = [pipe.recv() for pipe in pipes]
    for process in started:
        process.join()
    for listener in listeners:
        listener.close()
    return [max(end for _, end in round_) - min(begin for begin, _ in round_) for round_ in zip(*spans, strict=True)]


def _member(
    rank: int,
    listener: socket.socket,
    port: int,
    members: int,
    size: int,
    repetitions: int,
    gate: threading.Barrier,
    pipe: Connection,
) -> None:
    right = socket.create_connection(("127.0.0.1", port))
    left, _ = listener.accept()
    for each in (left, right):
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    spans = []
    for _ in range(repetitions):
        parts = np.array_split(np.full(size // 8, float(rank)), members)
        gate.wait()
        began = time.monotonic()
        for number in range(2 * (members - 1)):
            sender = threading.Thread(target=right.sendall, args=[parts[(rank - number) % members].data])
            sender.start()
            target = parts[(rank - number - 1) % members]
            incoming = _received(left, target.nbytes)
            sender.join()
            if number < members - 1:
                target += incoming
            else:
                target[:] = incoming
        spans.append((began, time.monotonic()))
        total = members * (members - 1) / 2
        assert all(part[0] == total and part[-1] == total for part in parts), "the ring gave another sum"
    pipe.send(spans)


def _received(left: socket.socket, size: int) -> np.ndarray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        view = view[left.recv_into(view) :]
    return np.frombuffer(buffer)
