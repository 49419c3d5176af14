"""A session that lives has been read already: its dashboard keeps all tables and adds what is new. Who asks it need not
read hours of records again.

``dashboard_of(directory)`` is the dashboard that is worth asking, if there is one. What it does not answer raises
``Unasked``, and whoever asked reads the records itself.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from obsray.telemetry import session_file
from obsray.telemetry.pids import halted, process_alive
from obsray.telemetry.segments import Catalog
from obsray.telemetry.store import is_live

#: From so many stored records on; fewer are read in a part of a second.
ROWS_MIN = 300_000
#: How long a dashboard may take: it may have to read much itself, which takes no longer there than here.
CONNECT_SECONDS, ANSWER_SECONDS = 2.0, 120.0
#: Longest question that goes into an address.
CHARACTERS_MAX = 6000


class Unasked(Exception):
    """The dashboard did not answer."""


class Dashboard:
    """A connection to the dashboard of a session, made with the first question."""

    def __init__(self, directory: Path, url: str) -> None:
        self._directory = directory
        self._url = urlsplit(url)
        self._connection: http.client.HTTPConnection | None = None
        #: How long an answer may take, in seconds.
        self.patience = ANSWER_SECONDS

    def get(self, path: str, parameters: Iterable[tuple[str, str]]) -> tuple[int, Any]:
        """Status and what the answer says, as JSON. Raises Unasked."""
        address = f"{path}?{urlencode(list(parameters))}"
        if len(address) > CHARACTERS_MAX:
            raise Unasked("the question is too long")
        try:
            token = (self._directory / "token").read_bytes().hex()
            if self._connection is None:
                host, port = self._url.hostname or "", self._url.port
                connection = http.client.HTTPConnection(host, port, timeout=min(CONNECT_SECONDS, self.patience))
                connection.connect()
                connection.sock.settimeout(self.patience)
                self._connection = connection
            self._connection.request("GET", address, headers={"authorization": f"Bearer {token}"})
            response = self._connection.getresponse()
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unasked(str(error)) from None

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()


def dashboard_of(directory: Path) -> Dashboard | None:
    """The dashboard of a session that lives and has so much recorded that asking pays."""
    facts = session_file.read(directory)
    url, pid = facts.get("dashboard_url"), facts.get("dashboard_pid")
    if not (isinstance(url, str) and url.startswith("http://") and is_live(directory)):
        return None
    if not process_alive(int(pid or 0)) or halted(int(pid or 0)):
        # One that stands still would be waited for in vain.
        return None
    catalog = Catalog(directory / "telemetry")
    try:
        catalog.refresh()
    except (OSError, ValueError):
        return None
    return Dashboard(directory, url) if catalog.rows >= ROWS_MIN else None
