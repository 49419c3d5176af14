"""The collector as a process of its own: it ends with its node and leaves everything behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import psutil
import pytest

from obsray.telemetry import process, session_file
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from tests.integration.programs import eventually


@pytest.fixture
def session(tmp_path):
    made = record_session(tmp_path)
    (tmp_path / "token").write_bytes(os.urandom(32))
    return made


@pytest.fixture
def start():
    """Starts collectors; what the test leaves of them is killed."""
    started = []

    def start(directory):
        command = [sys.executable, "-m", "obsray.telemetry.process", "--session-dir", str(directory)]
        started.append(subprocess.Popen(command, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def wait_for_metrics(directory, collector) -> str:
    """Poll the file the collector writes its address to: that is how anybody learns of it."""

    def said():
        if collector.poll() is not None:
            raise AssertionError(collector.stderr.read().decode())
        return session_file.read(directory).get("metrics_url")

    return str(eventually(said))


def scrape(url, token) -> str:
    request = urllib.request.Request(
        url, headers={"Authorization": f"Bearer {token if isinstance(token, str) else token.hex()}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(answer.read().decode())


def test_it_stores_serves_and_ends_on_sigterm_with_a_last_drain(session, start):
    directory = session.directory
    collector = start(directory)
    try:
        url = wait_for_metrics(directory, collector)
        text = scrape(url, (directory / "token").read_bytes())
        assert "obsray_build_info" in text
    finally:
        collector.send_signal(signal.SIGTERM)
        assert collector.wait(30) == 0, collector.stderr.read().decode()
    book = Views(Store.open(directory)).ledger()
    assert book["totals"]["events_stored"] == book["totals"]["events_recorded"] > session.events
    assert book["totals"]["events_lost"] == 0


def test_it_ends_when_it_is_told_to_and_not_when_it_would_look_next(session, start, monkeypatch):
    monkeypatch.setenv("OBSRAY_COLLECT_INTERVAL_SECONDS", "3600")
    collector = start(session.directory)
    # It has read what there is, or will next, and then waits for an hour.
    eventually(lambda: Views(Store.open(session.directory)).ledger()["totals"]["events_read"] >= session.events)
    eventually(lambda: session_file.read(session.directory).get("metrics_url"))
    eventually(lambda: psutil.Process(collector.pid).status() == psutil.STATUS_SLEEPING)
    collector.send_signal(signal.SIGTERM)
    assert collector.wait(30) == 0, collector.stderr.read().decode()
    assert Views(Store.open(session.directory)).ledger()["totals"]["events_lost"] == 0


def test_the_file_for_scrapers_opens_the_metrics_and_says_where_they_are(session, start):
    directory = session.directory
    collector = start(directory)
    url = wait_for_metrics(directory, collector)
    assert "obsray_build_info" in scrape(url, (directory / "metrics_token").read_text())
    assert (directory / "metrics_token").stat().st_mode & 0o077 == 0
    targets = eventually(
        lambda: (
            (directory / "prometheus_targets.json").exists()
            and json.loads((directory / "prometheus_targets.json").read_text())
        )
    )
    assert [entry["targets"] for entry in targets] == [[url.split("/")[2]]]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        scrape(url, "0" * 64)


def test_a_node_that_says_who_it_is_later_than_its_collector_starts_is_a_target_all_the_same(session, start):
    directory = session.directory
    node = session_file.read(directory)["node"]
    session_file.update(directory, node=None)
    collector = start(directory)
    url = wait_for_metrics(directory, collector)
    session_file.update(directory, node=node)
    mine = (directory / "metrics_token").read_text()
    eventually(lambda: url.split("/")[2] in (directory / "prometheus_targets.json").read_text())
    eventually(lambda: f'node="{node[:8]}"' in scrape(url, mine))


@pytest.mark.parametrize(
    ("address", "why"),
    [("0.0.0.0:0", "unsafe_network=1"), ("nonsense", "host:port"), ("192.0.2.1:1", "unsafe_network=1")],
)
def test_metrics_are_not_served_where_others_could_ask_unasked(session, start, monkeypatch, address, why):
    monkeypatch.setenv("OBSRAY_METRICS_ADDRESS", address)
    collector = start(session.directory)
    session_file.update(session.directory, stopped_at_ns=1)
    assert collector.wait(30) == 0
    assert why in collector.stderr.read().decode()
    assert session_file.read(session.directory)["metrics_url"] is None


def test_on_a_network_that_is_trusted_metrics_are_served_at_every_address(session, start, monkeypatch):
    monkeypatch.setenv("OBSRAY_METRICS_ADDRESS", "0.0.0.0:0")
    monkeypatch.setenv("OBSRAY_UNSAFE_NETWORK", "1")
    collector = start(session.directory)
    url = wait_for_metrics(session.directory, collector)
    port = url.split("/")[2].rpartition(":")[2]
    mine = (session.directory / "metrics_token").read_text()
    assert "obsray_build_info" in scrape(f"http://127.0.0.1:{port}/metrics", mine)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Cookie": f"obsray_token={mine}"})
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=30)


def test_it_ends_when_the_session_is_said_to_be_over(session, start):
    collector = start(session.directory)
    wait_for_metrics(session.directory, collector)
    session_file.update(session.directory, stopped_at_ns=1)
    assert collector.wait(30) == 0
    store = Store.open(session.directory)
    store.refresh()
    assert store.catalog.finished


def ended(process: int, seconds: float) -> bool:
    """Whether the process of this descriptor ends in time. Not select(): the number of the descriptor may be large."""
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def test_it_ends_when_its_parent_dies(session):
    """Between it and us stands a parent that is killed once the collector works."""
    command = [sys.executable, "-m", "obsray.telemetry.process", "--session-dir", str(session.directory)]
    script = f"import subprocess, time; print(subprocess.Popen({command!r}).pid, flush=True); input()"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    descriptor = os.pidfd_open(pid)
    try:
        wait_for_metrics(session.directory, parent)
        parent.kill()
        parent.communicate()
        assert ended(descriptor, 30), "the collector is still there"
    finally:
        parent.kill()
        if not ended(descriptor, 0):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)
    store = Store.open(session.directory)
    store.refresh()
    assert store.catalog.finished


def test_a_directory_that_is_no_session_is_refused(tmp_path, capsys):
    assert process.main(["--session-dir", str(tmp_path)]) == 2
    assert "not a session" in capsys.readouterr().err


def test_without_a_token_telemetry_is_stored_and_nothing_is_served(tmp_path, start):
    record_session(tmp_path)
    collector = start(tmp_path)
    session_file.update(tmp_path, stopped_at_ns=1)
    assert collector.wait(30) == 0
    assert session_file.read(tmp_path)["metrics_url"] is None
    assert Views(Store.open(tmp_path)).ledger()["totals"]["events_lost"] == 0


def test_wrong_tokens_hosts_and_paths_are_turned_away(session, start):
    directory = session.directory
    collector = start(directory)
    try:
        url = wait_for_metrics(directory, collector)
        token = (directory / "token").read_bytes().hex()
        bad = [
            (url, {}, 401),
            (url, {"Authorization": "Bearer " + "0" * 64}, 401),
            (url, {"Authorization": "Bearer"}, 401),
            (url + "?token=" + token, {}, 401),
            (url, {"Authorization": f"Bearer {token}", "Host": "evil.example"}, 421),
            (url.replace("/metrics", "/"), {"Authorization": f"Bearer {token}"}, 404),
        ]
        for address, headers, status in bad:
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30)
            assert caught.value.code == status
        cookie = urllib.request.Request(url, headers={"Cookie": f"a=b; obsray_token={token}"})
        with urllib.request.urlopen(cookie, timeout=30) as answer:
            assert answer.status == 200
            assert "openmetrics" in answer.headers["Content-Type"]
    finally:
        collector.terminate()
        collector.wait(30)
