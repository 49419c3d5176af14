"""Records of another node are taken over once, whole, however often they are given."""

from __future__ import annotations

import json
import os
import random
import time

import pytest

from obsray.core.transport.connection import TOKEN_BYTES
from obsray.federation.gathering import _Pulse
from obsray.federation.serving import Serving
from obsray.telemetry.collector import FLUSH_SECONDS, SHARED_FLUSH_SECONDS, Collector, own_ring
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.rings import RingState
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

HEAD, OTHER = b"HEAD....", b"OTHER..."


@pytest.fixture
def serving(tmp_path, monkeypatch):
    # No head comes for the rest.
    monkeypatch.setattr("obsray.federation.serving.LINGER_SECONDS_MAX", 0.0)
    session = tmp_path / "other"
    (session / "sockets").mkdir(parents=True)
    made = Serving(session, OTHER.hex(), bytes(TOKEN_BYTES))
    yield made
    made.close()


def collector_at(session, node):
    (session / "rings").mkdir(parents=True, exist_ok=True)
    return Collector(session, 1 << 30, own_ring(session, node))


def put_many(ring: Ring, first: int, count: int) -> None:
    for number in range(first, first + count):
        ring.object_put(number, number.to_bytes(20, "big"), bytes(16), number, True, 0)


def store_all(collector: Collector) -> None:
    while collector.poll():
        pass
    collector.flush()


def hand_over(serving: Serving, taken: dict[str, int], head: Collector) -> tuple[dict[str, int], int]:
    answer = serving._answer(taken)
    assert answer.whole
    rings = {bytes.fromhex(ring): RingState.from_json(ring, json.loads(text)) for ring, text in answer.rings.items()}
    return answer.rows, head.gather(OTHER, answer.parts, rings)


def numbers(session) -> list[int]:
    return sorted(Store.open(session).events("object_put")["object_bytes"].to_pylist())


def test_records_of_another_node_come_once_however_often_they_are_given(tmp_path, serving):
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    other, head = collector_at(tmp_path / "other", OTHER), collector_at(tmp_path / "head", HEAD)
    ring = Ring(tmp_path / "other" / "rings", os.urandom(8), ProcessKind.WORKER)
    taken: dict[str, int] = {}
    written = 0
    for _ in range(8):
        count = chance.randrange(1, 3000)
        put_many(ring, written, count)
        written += count
        store_all(other)
        after, new = hand_over(serving, taken, head)
        assert new >= count
        if chance.random() < 0.5:
            # Its answer was lost, or the head's collector was started anew: the same again, from somewhere before.
            _, again = hand_over(serving, {} if chance.random() < 0.5 else taken, head)
            assert again == 0
        taken = after
        if chance.random() < 0.5:
            head.flush()
        if chance.random() < 0.3:
            head.flush()
            head = collector_at(tmp_path / "head", HEAD)
    store_all(head)
    assert numbers(tmp_path / "head") == list(range(written)) == numbers(tmp_path / "other")
    ring.close(0)


def test_rings_taken_over_belong_to_their_node_and_their_processes_are_not_looked_for_here(tmp_path, serving):
    other, head = collector_at(tmp_path / "other", OTHER), collector_at(tmp_path / "head", HEAD)
    ring = Ring(tmp_path / "other" / "rings", os.urandom(8), ProcessKind.WORKER)
    put_many(ring, 0, 10)
    store_all(other)
    hand_over(serving, {}, head)
    store_all(head)
    opened = Store.open(tmp_path / "head")
    opened.refresh()
    assert {state.node for state, _ in opened.ring_states() if state.process == ring.process} == {OTHER}
    opened.rings.nodes = {OTHER: False}
    assert not opened.rings.alive(ring.process)
    opened.rings.nodes = {OTHER: True}
    assert opened.rings.alive(ring.process)
    head.node_over(OTHER, complete=False)
    store_all(head)
    (ended,) = Store.open(tmp_path / "head").rows("node_records_ended")
    assert ended["node"] == OTHER and ended["events"] >= 10 and not ended["complete"]
    ring.close(0)


def test_of_a_node_that_dies_it_is_said_how_many_records_are_lost_and_about_how_many_more(tmp_path, serving):
    other, head = collector_at(tmp_path / "other", OTHER), collector_at(tmp_path / "head", HEAD)
    ring = Ring(tmp_path / "other" / "rings", os.urandom(8), ProcessKind.WORKER)
    put_many(ring, 0, 100)
    store_all(other)
    hand_over(serving, {}, head)
    before = other.recorded()
    # It has read these and dies before they are on its disk.
    put_many(ring, 100, 40)
    while other.poll():
        pass
    known = other.recorded()
    assert known == before + 40
    head.flush()
    head = collector_at(tmp_path / "head", HEAD)
    head.node_over(OTHER, complete=False, recorded=known, unheard=(0.5, 80.0))
    store_all(head)
    views = Views(Store.open(tmp_path / "head"))
    views.refresh()
    (gone,) = views.ledger()["nodes"]
    assert (gone["taken"], gone["lost"], gone["lost_estimated"]) == (before, 40, 40) and not gone["complete"]
    totals = views.ledger()["totals"]
    assert (totals["events_lost"], totals["events_lost_with_nodes"], totals["events_lost_estimated"]) == (0, 40, 40)
    (row,) = [row for row in views.nodes() if row["node_id"] == OTHER.hex()]
    assert row["records_lost"] == 40
    told = [record["text"] for record in views.story(OTHER.hex())]
    assert any("and 40 records that it was known to have; about 40 more in its last 500 ms" in text for text in told)
    ring.close(0)


def test_how_long_a_node_may_have_lived_on_is_from_its_last_answer_to_the_first_that_did_not_come():
    pulse = _Pulse(10.0)
    assert pulse.unheard() == (0.0, 0.0)
    pulse.heard(100, 11.0)
    pulse.heard(150, 11.5)
    pulse.missed(12.0)
    pulse.missed(14.0)
    assert pulse.recorded == 150 and pulse.unheard() == (0.5, 100.0)
    pulse.heard(150, 15.0)
    assert pulse.unheard() == (0.0, 0.0)


def test_what_other_nodes_wait_for_is_stored_sooner(tmp_path, serving):
    """A node gives what is stored, and the head counts what is stored of others; for itself nobody waits for that."""
    alone, other, head = (collector_at(tmp_path / name, OTHER) for name in ("alone", "other", "head"))
    other.shared = True
    put_many(Ring(tmp_path / "other" / "rings", os.urandom(8), ProcessKind.WORKER), 0, 10)
    other.poll()
    assert not other.due(), "just now"
    other.flush()
    hand_over(serving, {}, head)
    for collector in (alone, other, head):
        collector._flushed_at = time.monotonic() - (SHARED_FLUSH_SECONDS + FLUSH_SECONDS) / 2
    assert [collector.due() for collector in (alone, other, head)] == [False, True, True]
    head.flush()
    head._flushed_at = alone._flushed_at
    assert not head.due(), "what there was of the other is stored"
    alone._flushed_at -= FLUSH_SECONDS
    assert alone.due()
