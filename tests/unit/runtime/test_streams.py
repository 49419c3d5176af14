"""The consumer's side of streaming tasks: what becomes of items that come a second time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from owner_bench import NODE_, WORKER, Bench

from obsray.core.protocol import messages as m
from obsray.core.runtime.ownership import Task
from obsray.core.runtime.streams import Stream, Streams

MIB = 1 << 20


class Consumer(Bench):
    """A process that consumes one streaming task."""

    def __init__(self) -> None:
        super().__init__()
        session = SimpleNamespace(
            ownership=self.ownership, dispatcher=self.dispatcher,
            inbox=SimpleNamespace(handle=lambda kind, handler: setattr(self, "handler", handler)),
        )  # fmt: skip
        self.handler: Any
        self.streams = Streams(cast(Any, session))
        self.task: Task = self.make(retries=3)
        self.stream: Stream = self.streams.open(self.task)

    def item(self, index: int, value: bytes | int) -> None:
        link = SimpleNamespace(peer=SimpleNamespace(worker=WORKER))
        self.handler(link, m.encode(m.Item(self.task.id, index, value, ())))
        self.ownership.settle()

    def freed(self) -> list[bytes]:
        """What the node was told to let go."""
        found = []
        for destination, message in self.ownership.outbox:
            if destination == NODE_ and type(m.decode(message)) is m.FreeObjects:
                found += m.decode(message).objects
        self.ownership.outbox.clear()
        return found


def strays(consumer: Consumer) -> list[m.FreeItems]:
    return consumer.take(m.FreeItems)


def test_what_a_lost_attempt_has_stored_and_nobody_heard_of_goes_when_the_stream_has_ended():
    consumer = Consumer()
    consumer.item(0, MIB)
    consumer.item(1, MIB)
    taken = consumer.stream.ready.popleft()
    consumer.ownership.drop_local([taken.id])
    kept = consumer.stream.ready[0].id
    # A third item was stored when the connection broke; the next attempt ends before it.
    consumer.task.attempt = 1
    consumer.take()
    consumer.ownership.fulfil(consumer.task.entries[0], b"\x80.")
    (freed,) = strays(consumer)
    assert freed.task == consumer.task.id and kept in freed.kept and taken.id not in freed.kept


def test_a_stream_of_one_attempt_leaves_nothing_behind_and_says_nothing():
    consumer = Consumer()
    consumer.item(0, MIB)
    consumer.ownership.fulfil(consumer.task.entries[0], b"\x80.")
    assert strays(consumer) == []


def test_an_item_that_was_taken_and_let_go_is_freed_when_a_later_attempt_stores_it_again():
    consumer = Consumer()
    consumer.item(0, MIB)
    entry = consumer.stream.ready.popleft()
    consumer.ownership.drop_local([entry.id])
    consumer.ownership.settle()
    assert consumer.freed() == [entry.id]
    consumer.item(0, MIB)
    assert consumer.freed() == [entry.id] and not consumer.stream.ready


def test_an_item_that_is_still_held_stays_when_a_later_attempt_stores_it_again():
    consumer = Consumer()
    consumer.item(0, MIB)
    consumer.item(0, MIB)
    assert consumer.freed() == [] and len(consumer.stream.ready) == 1


def test_a_small_item_that_comes_again_is_nothing_to_free():
    consumer = Consumer()
    consumer.item(0, b"\x80.")
    consumer.ownership.drop_local([consumer.stream.ready.popleft().id])
    consumer.item(0, b"\x80.")
    assert consumer.freed() == []
