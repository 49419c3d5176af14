"""The server of /metrics among clients that mean no good."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from obsray.core.runtime.node_process import new_session_directory
from obsray.metrics import server
from obsray.telemetry import credential
from tests.integration.programs import eventually

TOKEN = bytes(range(32))


@pytest.fixture
def served(monkeypatch):
    # Clients that say nothing stay as long as the test wants.
    monkeypatch.setattr(server._Handler, "timeout", 300)
    registry = CollectorRegistry()
    Gauge("level", "A level.", registry=registry).set(3)
    running = server.start_server("127.0.0.1:0", registry, TOKEN)
    yield running
    running.close()


def scrape(url, token, **headers):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}", **headers})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def turned_away(address):
    """Whether a client is closed at once, or else waits for what it would ask."""
    with socket.create_connection(address, 60) as late:
        late.settimeout(1)
        try:
            return late.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True


def test_token_and_credential_open_it_and_nothing_else_does(served):
    for token in (TOKEN.hex(), credential.of(TOKEN)):
        assert "level 3.0" in scrape(served.url, token)
    for token in ("", "0" * 64, TOKEN.hex()[:-1], TOKEN.hex().upper(), "é"):
        with pytest.raises((urllib.error.HTTPError, UnicodeEncodeError), match=r"401|ascii|latin"):
            scrape(served.url, token)
    with pytest.raises(urllib.error.HTTPError, match="421"):
        scrape(served.url, TOKEN.hex(), Host="evil.test")


def test_a_crowd_that_says_nothing_is_bounded_and_scrapes_go_on_after_it(served):
    host, port = served.url.split("/")[2].split(":")
    address = host, int(port)
    crowd = [socket.create_connection(address, 60) for _ in range(server.CLIENTS_MAX)]
    try:
        # They are taken one after the other, until the next one finds all places taken.
        eventually(lambda: turned_away(address))
    finally:
        for one in crowd:
            one.close()

    def answers():
        try:
            return "level 3.0" in scrape(served.url, credential.of(TOKEN))
        except OSError:
            return False

    eventually(answers)


def test_the_credential_lies_there_as_soon_as_the_session_does(tmp_path):
    directory = new_session_directory(str(tmp_path))
    written = directory / credential.FILE
    assert written.read_text() == credential.of((directory / "token").read_bytes())
    assert written.stat().st_mode & 0o777 == 0o600
