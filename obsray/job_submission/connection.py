"""Where jobs are submitted to, and how a request gets there."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from obsray.core.runtime import joining
from obsray.telemetry import session_file

URL_DEFAULT = "http://127.0.0.1:8265"
#: The first that is set is the address of a client that was given none.
VARIABLES = ("OBSRAY_API_SERVER_ADDRESS", "RAY_API_SERVER_ADDRESS", *joining.VARIABLES)
TOKEN_VARIABLE = "OBSRAY_TOKEN"
SECONDS_MAX = 120.0
STARTING_SECONDS_MAX = 15.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PIECE_BYTES = 64 << 10


class Server:
    """The dashboard of a runtime: its URL, and what every request carries."""

    def __init__(self, address: str | None, headers: Mapping[str, str] | None, verify: bool | str | None) -> None:
        self.url, directory = _find(address)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"address={address!r}: must be http://host:port, host:port of a cluster, or 'auto'")
        self._host, self._is_tls, self._path = parts.netloc, parts.scheme == "https", parts.path.rstrip("/")
        self._verify = verify
        self._headers = dict(headers or {})
        if "authorization" not in {name.lower() for name in self._headers}:
            token = _token(directory or _session_at(parts.hostname, parts.port))
            if token:
                self._headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request; the answer out of its JSON. Raises RuntimeError for a refusal, ConnectionError if nobody is
        there."""
        with _closing(self._send(method, path, body)) as answer:
            try:
                return json.loads(answer.read())
            except ValueError:
                raise RuntimeError(f"{self.url} did not answer in JSON: is it the dashboard of obsray?") from None

    def text(self, path: str) -> Iterator[str]:
        """The text of a long answer, piece by piece, until it ends."""
        import codecs

        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with _closing(self._send("GET", path, None, seconds_max=None)) as answer:
            while data := answer.read1(_PIECE_BYTES):
                yield decoder.decode(data)
        rest = decoder.decode(b"", final=True)
        if rest:
            yield rest

    def _send(
        self, method: str, path: str, body: Any, seconds_max: float | None = SECONDS_MAX
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connection(seconds_max)
        headers = dict(self._headers)
        data: Any = None
        if isinstance(body, Path):
            data = open(body, "rb")
            headers["Content-Length"] = str(body.stat().st_size)
        elif body is not None:
            data = json.dumps(body)
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, self._path + quote(path), data, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ConnectionError(
                f"no dashboard answers at {self.url} ({error}). Start a runtime with 'obsray start --head' or "
                "obsray.init(); 'obsray dashboard' says where its dashboard is"
            ) from error
        finally:
            if isinstance(body, Path):
                data.close()
        if answer.status >= 400:
            text = answer.read().decode(errors="replace")
            connection.close()
            raise RuntimeError(_refusal(answer.status, text))
        return connection, answer

    def _connection(self, seconds_max: float | None) -> http.client.HTTPConnection:
        if not self._is_tls:
            return http.client.HTTPConnection(self._host, timeout=seconds_max)
        context = ssl.create_default_context(cafile=self._verify if isinstance(self._verify, str) else None)
        if self._verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(self._host, timeout=seconds_max, context=context)


class _closing:
    def __init__(self, pair: tuple[http.client.HTTPConnection, http.client.HTTPResponse]) -> None:
        self._connection, self._answer = pair

    def __enter__(self) -> http.client.HTTPResponse:
        return self._answer

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()


def _refusal(status: int, text: str) -> str:
    try:
        values = json.loads(text)
        text = str(values.get("detail") or values.get("error") or text)
    except (ValueError, AttributeError):
        pass
    if status == 401:
        text += f" The key of a session of this user on this machine is found by itself; otherwise set {TOKEN_VARIABLE}"
    return f"Request failed with status code {status}: {text}"


def _find(address: str | None) -> tuple[str, Path | None]:
    """The URL for an address, and the session's directory if it was found through it."""
    if address is not None and not isinstance(address, str):
        raise TypeError(f"address={address!r}: must be text or None")
    given = address or next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None)
    if given is None:
        running = joining.running_sessions()
        url = _dashboard_of(running[0]) if running else ""
        return (url, running[0]) if url else (URL_DEFAULT, None)
    if given.startswith(("http://", "https://")):
        return given, None
    if given.startswith("ray://"):
        raise ValueError(f"address={given!r}: there is no client server; give http://host:port of the dashboard")
    directory = joining.find(joining.Address(given, f"address={given!r}"))
    if url := _dashboard_of(directory):
        return url, directory
    # A node that joined: its head may be on this machine, too.
    theirs = session_file.read(directory).get("control_address_tcp")
    for head in joining.running_sessions():
        if theirs and session_file.read(head).get("control_address_tcp") == theirs and (url := _dashboard_of(head)):
            return url, head
    raise ConnectionError(
        f"address={given!r}: the runtime there has no dashboard (yet), and jobs are submitted to it; start it with "
        "include_dashboard=True, or give the http:// address of its head's"
    )


def _dashboard_of(directory: Path) -> str:
    """Where a session's dashboard is, "" if it has none. One that is starting is waited for."""
    deadline = time.monotonic() + STARTING_SECONDS_MAX
    while True:
        facts = session_file.read(directory)
        if facts.get("dashboard_url") or not facts.get("dashboard") or time.monotonic() > deadline:
            return str(facts.get("dashboard_url") or "")
        time.sleep(0.05)


def _session_at(host: str | None, port: int | None) -> Path | None:
    """The session on this machine whose dashboard is there. Waits for those that are starting, if no other is."""
    if host not in _LOOPBACK:
        return None
    running = joining.running_sessions()
    for directory in running:
        if urlsplit(str(session_file.read(directory).get("dashboard_url") or "")).port == port:
            return directory
    for directory in running:
        if urlsplit(_dashboard_of(directory)).port == port:
            return directory
    return None


def _token(directory: Path | None) -> str:
    if os.environ.get(TOKEN_VARIABLE):
        return os.environ[TOKEN_VARIABLE].strip()
    try:
        return (directory / "token").read_bytes().hex() if directory else ""
    except OSError:
        return ""
