"""As much of Redis' protocol (RESP 2) as the control store needs: commands out, replies in, several at a time."""

from __future__ import annotations

import socket
import threading
from typing import Any

RECEIVE_BYTES = 1 << 16


class RedisError(OSError):
    """An answer that begins with ``-``: the server understood and refused."""


class Connection:
    """One connection to one server, opened when it is first used and again after it broke. Any thread may use it."""

    def __init__(self, host: str, port: int, password: str, timeout_seconds: float) -> None:
        self.address = f"{host}:{port}"
        self._host, self._port, self._password = host, port, password
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._buffer = bytearray()

    def ask(self, *words: bytes | str | int) -> Any:
        """One command. Raises RedisError, or OSError if there is no answer in time."""
        (reply,) = self.ask_all([words])
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def ask_all(self, commands: list[tuple[bytes | str | int, ...]]) -> list[Any]:
        """Several commands in one go; refusals are among the replies. Raises OSError."""
        with self._lock:
            try:
                if self._socket is None:
                    self._open()
                assert self._socket is not None
                self._socket.sendall(b"".join(map(_packed, commands)))
                return [self._reply() for _ in commands]
            except OSError as error:
                self._close()
                raise OSError(f"redis at {self.address}: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._close()

    def _open(self) -> None:
        self._socket = socket.create_connection((self._host, self._port), self._timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer.clear()
        if self._password:
            self._socket.sendall(_packed(("AUTH", self._password)))
            reply = self._reply()
            if isinstance(reply, RedisError):
                raise OSError(str(reply))

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _reply(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            return RedisError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._exactly(int(rest))
        if kind == b"*":
            return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]
        raise OSError("what answers there is no redis server")

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._receive()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size + 2:
            self._receive()
        data = bytes(self._buffer[:size])
        del self._buffer[: size + 2]
        return data

    def _receive(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(RECEIVE_BYTES)
        if not data:
            raise OSError("the connection was closed")
        self._buffer += data


def _packed(words: tuple[bytes | str | int, ...]) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts += [b"$%d\r\n" % len(data), data, b"\r\n"]
    return b"".join(parts)
