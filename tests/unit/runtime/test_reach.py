"""Who cannot be reached: dead, out of reach for now, or of a node whose joining has not been told yet."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from obsray.core.protocol import messages as m
from obsray.core.runtime.inbox import NEWS_SECONDS, REACH_AGAIN_SECONDS, UNREACHED_SECONDS_MAX, Inbox
from obsray.ids import mark_of

ME, HERE, THERE = b"n001me__", b"n001othr", b"n002othr"
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


class Bench:
    """An inbox whose clock and timers are driven by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ended: list[str] = []
        self.told: list[Any] = []
        self.timers: list[tuple[float, Any]] = []
        self.ownership: Any = SimpleNamespace(
            outbox=[], ask_again=lambda worker: None, worker_died=lambda worker: None, entries={}, held_by={},
            owner_lost=lambda worker, error: self.ended.append("lost"),
            give_up_waiting=lambda worker, error: self.ended.append("timed out"),
        )  # fmt: skip
        session: Any = SimpleNamespace(
            worker=ME, node_addresses={}, node_ids={}, ownership=self.ownership, peers={},
            reactor=SimpleNamespace(call_at=lambda at, what: self.timers.append((at, what)), links={}),
            dispatcher=SimpleNamespace(by_worker={}, paths={}), calls=SimpleNamespace(clients={}),
            emitter=SimpleNamespace(intern=lambda text: 1, calls_not_sent=lambda *fields: self.told.append(fields)),
        )  # fmt: skip
        self.session = session
        self.inbox = Inbox(session, lambda: self.now, lambda: 7)

    def answer_fails(self, worker: bytes, error: OSError = REFUSED) -> None:
        """A value is sent, and no connection can be made."""
        self.inbox.not_reached(worker, error)
        self.inbox.undelivered(worker, m.encode(m.ObjectValue(b"o" * 20, b"\x80.", [])))

    def call_fails(self, worker: bytes) -> None:
        """A call is pushed to an actor, and no connection can be made."""
        self.inbox.not_reached(worker, REFUSED)
        wired = (b"t" * 16, 0, 1, b"", (), 1, None, None)
        self.inbox.undelivered(worker, m.encode(m.Push(0, 1, 0, None, [wired])))

    def fire(self) -> list[Any]:
        """The next timer; what is sent then."""
        self.now, what = self.timers.pop(0)
        what()
        sent, self.ownership.outbox = self.ownership.outbox, []
        return sent


def test_an_answer_for_a_process_of_a_node_that_joined_a_moment_ago_waits_for_the_news():
    bench = Bench()
    bench.answer_fails(THERE)
    assert not bench.ended and bench.timers[0][0] == bench.now + REACH_AGAIN_SECONDS
    (again,) = bench.fire()
    assert again[0] == THERE and again[1][0] == m.ObjectValue._field_defaults["tag"]


def test_of_a_node_that_nobody_tells_of_it_is_gone_in_the_end():
    bench = Bench()
    bench.answer_fails(THERE)
    while bench.timers:
        for worker, message in bench.fire():
            bench.inbox.not_reached(worker, REFUSED)
            bench.inbox.undelivered(worker, message)
    assert bench.ended == ["lost"] and NEWS_SECONDS <= bench.now - 100 <= NEWS_SECONDS + 2 * REACH_AGAIN_SECONDS


def test_of_a_node_that_is_there_it_is_tried_for_longer_and_then_timed_out():
    bench = Bench()
    bench.session.node_addresses[mark_of(THERE)] = "there:1"
    bench.answer_fails(THERE)
    while bench.timers:
        for worker, message in bench.fire():
            bench.inbox.not_reached(worker, REFUSED)
            bench.inbox.undelivered(worker, message)
    assert bench.ended == ["timed out"] and bench.now - 100 >= UNREACHED_SECONDS_MAX


@pytest.mark.parametrize("worker", [HERE, THERE])
def test_who_is_known_to_be_gone_is_so_at_once(worker):
    bench = Bench()
    bench.inbox.recovery.gone[mark_of(THERE)] = "node two is gone"
    bench.answer_fails(worker)
    assert bench.ended == ["lost"] and not bench.timers


def test_calls_to_an_actor_that_cannot_be_reached_are_told_once_and_tried_again_until_it_is_too_long():
    bench = Bench()
    bench.session.node_addresses[mark_of(THERE)] = "there:1"
    tries: list[float] = []

    def send_again(worker: bytes, given_up: float) -> bool:
        assert worker == THERE
        tries.append(given_up)
        bench.call_fails(worker)
        return True

    bench.session.calls = SimpleNamespace(clients={}, not_sent=lambda worker, calls: True, send_again=send_again)
    bench.call_fails(THERE)
    while not any(tries):
        bench.fire()
    assert bench.told == [(7, THERE, 1, 1)] and len(tries) >= UNREACHED_SECONDS_MAX / REACH_AGAIN_SECONDS
    assert tries[-1] >= UNREACHED_SECONDS_MAX and bench.now - 100 >= UNREACHED_SECONDS_MAX
