"""The server of ``/metrics``: OpenMetrics, for those who hold the token or what is made of it for reading metrics."""

from __future__ import annotations

import contextlib
import hmac
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics import exposition as openmetrics

from obsray.core.protocol.addresses import is_loopback, join, parse
from obsray.core.transport.dial import reachable
from obsray.telemetry import credential

#: A client that does not read or send for this long is dropped.
_CLIENT_SECONDS = 10
#: Clients at once; others are turned away.
CLIENTS_MAX = 64


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_SECONDS
    server: _HttpServer

    def do_GET(self) -> None:
        if not self._host_is_ours():
            return self._say(421, "this server answers to its loopback address only\n")
        if self.path.partition("?")[0] != "/metrics":
            return self._say(404, "there is only /metrics\n")
        if not self._authorized():
            return self._say(401, "send 'Authorization: Bearer <token>': metrics_token of the session directory\n")
        body: bytes = openmetrics.generate_latest(self.server.registry)  # type: ignore[no-untyped-call]
        self.send_response(200)
        self.send_header("Content-Type", openmetrics.CONTENT_TYPE_LATEST)
        self._send(body)

    def _host_is_ours(self) -> bool:
        # A page in a browser that calls its own server 127.0.0.1 sends its own name. Elsewhere than on the loopback
        # interface names are many, and nothing is let in that a browser sends by itself.
        if not self.server.local:
            return True
        port = self.server.server_address[1]
        return self.headers.get("Host", "") in {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}

    def _authorized(self) -> bool:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not given and self.server.local:
            for part in self.headers.get("Cookie", "").split(";"):
                name, _, value = part.strip().partition("=")
                if name == "obsray_token":
                    given = value
        found = [hmac.compare_digest(given.encode("utf-8", "replace"), known) for known in self.server.tokens]
        return any(found)

    def _say(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self._send(text.encode())

    def _send(self, body: bytes) -> None:
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Scrapes are not worth a line."""

    def version_string(self) -> str:
        return "obsray"


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = CLIENTS_MAX
    registry: CollectorRegistry
    tokens: tuple[bytes, ...]
    local: bool

    def __init__(self, address: tuple[str, int]) -> None:
        self._free = threading.BoundedSemaphore(CLIENTS_MAX)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


class _HttpServer6(_HttpServer):
    address_family = socket.AF_INET6


class Server:
    """The running server; ``url`` is where others reach it."""

    def __init__(self, http: _HttpServer, url: str) -> None:
        self.url = url
        self._http = http
        # It waits for clients, without looking now and then whether it shall end.
        threading.Thread(target=http.serve_forever, args=(None,), name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        # This wakes its thread.
        with contextlib.suppress(OSError):
            self._http.socket.shutdown(socket.SHUT_RDWR)
        self._http.shutdown()
        self._http.server_close()


def start_server(address: str, registry: CollectorRegistry, token: bytes) -> Server:
    """Serve ``registry`` at ``address``. Raises OSError with a sentence if it cannot listen there."""
    host, port = parse(address, "metrics_address")
    kind = _HttpServer6 if ":" in host else _HttpServer
    try:
        http = kind((host, port))
    except OSError as error:
        raise OSError(error.errno, f"metrics cannot be served at {address}: {error.strerror}") from error
    http.registry = registry
    http.tokens = (token.hex().encode(), credential.of(token).encode())
    http.local = is_loopback(host)
    return Server(http, f"http://{reachable(join(host, http.server_address[1]))}/metrics")
