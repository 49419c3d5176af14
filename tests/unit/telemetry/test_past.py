"""A session as it was: the same folds over the records up to an instant."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from obsray.cli import command
from obsray.telemetry.collector import Collector
from obsray.telemetry.past import PastViews, difference, views_at
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from tests.unit.telemetry.recording import open_ring


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_session(tmp_path_factory.mktemp("session"), tasks=200, live=False)


@pytest.fixture(scope="module")
def whole(recorded):
    views = Views(Store.open(recorded.directory))
    views.refresh()
    return views


def at(recorded, moment):
    views = PastViews(recorded.directory, moment)
    views.refresh()
    return views


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8, 1.0])
def test_states_at_an_instant_follow_from_the_times_of_every_task(recorded, whole, share):
    moment = recorded.started_at_ns + int((recorded.ended_at_ns - recorded.started_at_ns) * share)
    past, table = at(recorded, moment), whole.task_table
    submitted = (table["submitted_at"] > 0) & (table["submitted_at"] <= moment)
    assert len(past.task_table) == np.count_nonzero(
        submitted | ((table["started_at"] > 0) & (table["started_at"] <= moment))
    )
    states = past.overview(refresh=False)["tasks"]
    once = table["retried_attempt"] < 0
    over = once & (table["ended_at"] > 0) & (table["ended_at"] <= moment)
    assert states["FINISHED"] + states["FAILED"] + states["CANCELLED"] >= np.count_nonzero(over)
    runs = once & (table["started_at"] > 0) & (table["started_at"] <= moment) & (table["ended_at"] > moment)
    assert states["RUNNING"] + states["RUNNING_IN_RAY_GET"] >= np.count_nonzero(runs)
    assert past.now_ns() == moment


def test_at_the_end_it_is_what_it_is(recorded, whole):
    past = at(recorded, whole.now_ns() + 1)
    assert {row["name"]: row["total"] for row in past.functions(refresh=False)} == {
        row["name"]: row["total"] for row in whole.functions(refresh=False)
    }
    assert {row["actor_id"]: row["state"] for row in past.actors(refresh=False)} == {
        row["actor_id"]: row["state"] for row in whole.actors(refresh=False)
    }


def test_before_it_died_a_worker_lived(recorded, whole):
    died = next(row["died_at_ns"] for row in whole.workers(refresh=False) if row["died_at_ns"])
    worker = recorded.killed_worker.hex()
    states = [
        next(row["state"] for row in at(recorded, moment).workers(refresh=False) if row["worker_id"] == worker)
        for moment in (died - 1, died)
    ]
    assert states[0] != "DEAD" and states[1] == "DEAD"


def test_the_difference_says_what_came_and_went(recorded, whole):
    died = next(row["died_at_ns"] for row in whole.workers(refresh=False) if row["died_at_ns"])
    found = difference(at(recorded, died - 1), at(recorded, whole.now_ns()))
    gone = [row for row in found["workers"] if row["id"] == recorded.killed_worker.hex()]
    assert gone and gone[0]["after"] == "DEAD" and gone[0]["before"] != "DEAD"
    assert found["tasks"]["FINISHED"]["after"] >= found["tasks"]["FINISHED"]["before"]


def test_the_commands_take_moments_as_people_write_them(recorded, capsys):
    session = ["--session", str(recorded.directory)]
    assert command.main(["status", "--at", "+3s", *session]) == 0
    assert capsys.readouterr().out.startswith("as of ")
    early = command.main(["status", "--at", "+3s", "--json", *session])
    tasks = json.loads(capsys.readouterr().out)["tasks_total"]
    assert early == 0 and tasks < recorded.submitted
    assert command.main(["diff", "+3s", "now", *session]) == 0
    assert "FINISHED" in capsys.readouterr().out
    found = command.main(["diff", "+3s", "now", "--json", *session])
    assert found == 0 and json.loads(capsys.readouterr().out)["functions"]
    for wrong in ("someday", "1971-01-01T00:00:00"):
        assert command.main(["status", "--at", wrong, *session]) == 1
        assert "Traceback" not in capsys.readouterr().err


def test_what_lies_before_or_after_the_session_is_refused(recorded):
    with pytest.raises(ValueError, match="before the session began"):
        views_at(recorded.directory, 1)
    with pytest.raises(ValueError, match="later than all that is recorded"):
        views_at(recorded.directory, recorded.ended_at_ns + 3600 * 10**9)


@pytest.mark.parametrize("stored", [False, True])
def test_a_session_that_was_killed_begins_and_ends_with_its_records(tmp_path, stored):
    recorded = record_session(tmp_path / "s", tasks=50, live=False)
    known, last = views_at(recorded.directory, "now"), recorded.ended_at_ns + 7_000_000
    if stored:  # all but the last record, which is in a ring alone
        collector = Collector(recorded.directory, 1 << 30)
        collector.poll()
        collector.flush()
    late = open_ring(recorded.directory, random.Random(5))
    late.task_labelled(last, late.process + bytes(8), late.intern("a"))
    facts = recorded.directory / "session.json"
    values = json.loads(facts.read_text())
    facts.write_text(json.dumps({**values, "started_at_ns": None, "stopped_at_ns": None}))
    found = views_at(recorded.directory, "now")
    assert found.now_ns() >= last
    assert [row for row in found.functions(refresh=False) if row["name"]] == known.functions(refresh=False)
    with pytest.raises(ValueError, match="before the session began"):
        views_at(recorded.directory, 1)


def test_to_read_the_past_records_are_read_once(recorded, monkeypatch):
    read, refresh = [], Store.refresh
    monkeypatch.setattr(Store, "refresh", lambda store: (read.append(store), refresh(store))[1])
    views_at(recorded.directory, "+3s")
    assert len(read) == 1
