"""What the soak calls well and what it does not."""

from __future__ import annotations

import io
import urllib.request
from collections import Counter
from types import SimpleNamespace

import pytest

from benchmarks.soak import __main__ as soak
from benchmarks.soak.faults import Faults
from benchmarks.soak.watch import Sample, Watch
from obsray.dashboard.plain_json import dumps
from obsray.telemetry import session_file
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

MB = 1_000_000


def watched(
    rate=lambda at: 100.0, rss=lambda at: 100 * MB, files=lambda at: 40, store=0, others=lambda at: 0.0, **book
) -> Watch:
    """A watch that has looked a hundred times, once a second."""
    watch = Watch.__new__(Watch)
    watch.samples, done = [], 0.0
    for at in range(1, 101):
        done += rate(at)
        watch.samples.append(Sample(at, int(done), {"program": rss(at)}, {"program": files(at)}, 0, store, others(at)))
    watch.books = [{"events_lost": 0, "balance_ok": True, **book}]
    return watch


def wrong(watch: Watch) -> list[str]:
    return [finding.what.split(",")[0] for finding in watch.findings() if not finding.well]


def test_what_is_flat_is_well():
    watch = watched(rate=lambda at: 100 + at % 7, rss=lambda at: 100 * MB + at % 5 * MB)
    assert wrong(watch) == []
    assert [round(rate) for rate in watch.rates()] == [103] * 5


@pytest.mark.parametrize(
    ("facts", "what"),
    [
        ({"rate": lambda at: 100 - at / 4}, "throughput of the last fifth"),
        ({"rss": lambda at: 100 * MB + at * MB}, "memory of the program"),
        ({"files": lambda at: 40 + at}, "open files of the program"),
        ({"store": 50 * MB}, "objects left in the store"),
        ({"events_lost": 1}, "events lost"),
        ({"balance_ok": False}, "submitted = finished + failed + cancelled + pending"),
    ],
)
def test_what_grows_slows_down_or_is_lost_is_found(facts, what):
    assert wrong(watched(**facts)) == [what]


def test_what_others_take_of_the_processors_is_not_held_against_it():
    slower = {"rate": lambda at: 100.0 if at <= 80 else 50.0}
    assert wrong(watched(**slower)) == ["throughput of the last fifth"]
    assert wrong(watched(**slower, others=lambda at: 0.0 if at <= 80 else 0.5)) == []


def test_the_books_are_those_that_the_dashboard_tells(monkeypatch, tmp_path):
    """The answer to /api/v1/ledger, as a session has it."""
    (tmp_path / "rings").mkdir()
    ledger = Views(Store.open(tmp_path)).ledger()
    session_file.update(tmp_path, dashboard_url="http://127.0.0.1:1")
    (tmp_path / "token").write_bytes(bytes(32))
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, timeout: io.BytesIO(dumps(ledger).encode()))
    watch = watched()
    watch.cluster = SimpleNamespace(head_node=SimpleNamespace(session_dir=str(tmp_path)))
    book = watch.read_books()
    assert book["events_lost"] == 0 and book["balance_ok"] is True and book["pending"] == 0
    assert wrong(watch) == []


def test_books_that_could_not_be_read_prove_nothing():
    watch = watched()
    watch.books = []
    assert set(wrong(watch)) == {"events lost", "submitted = finished + failed + cancelled + pending"}


def test_the_seed_chooses_who_is_killed_and_a_fault_that_fails_is_told():
    faults = Faults(SimpleNamespace(head_node=None, worker_nodes=[]), 7, 0.01)
    assert faults.count == Counter() and faults.chance.random() == Faults(None, 7, 1.0).chance.random()
    assert faults._control() == "no control store to kill"


def test_a_run_needs_time(capsys):
    with pytest.raises(SystemExit):
        soak.main(["--minutes", "0"])
    assert "--minutes must be more than 0" in capsys.readouterr().err
