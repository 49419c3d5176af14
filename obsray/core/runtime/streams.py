"""The consumer's side of a streaming task: items in order, then the end or the error."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from obsray.core.protocol import messages as m
from obsray.core.runtime.ownership import NODE, Entry, Task
from obsray.core.runtime.references import ObjectRef, counted
from obsray.core.runtime.serialization import load_error, serialize
from obsray.core.runtime.session import Session
from obsray.core.runtime.waiting import Waiter
from obsray.core.transport.links import Link
from obsray.errors import RayTaskError

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T", covariant=True)


#: Index of the value that has all items of a task in it: behind every item.
_WHOLE = 0xFFFFFFFF


class DynamicObjectRefGenerator(Generic[T]):
    """The references of what a task with ``num_returns="dynamic"`` has yielded: the value of what its call returned.

    Iterating takes them out, so that each value is let go of as soon as nobody has its reference any more. Can be
    sent to other processes.
    """

    def __init__(self, references: Iterable[ObjectRef[T]]) -> None:
        self._references = deque(references)

    def __iter__(self) -> Iterator[ObjectRef[T]]:
        while self._references:
            yield self._references.popleft()

    def __len__(self) -> int:
        return len(self._references)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({len(self._references)} references)"


class Stream:
    """What has arrived of one streaming task. Guarded by the session's lock."""

    def __init__(self, session: Session, task: bytes) -> None:
        self.session = session
        self.task = task
        self.ready: deque[Entry] = deque()
        self.received = 0
        self.taken = 0
        self.ended = False
        self.error: bytes | None = None
        self.abandoned = False
        self.backpressure = -1
        self.waiter: Waiter | None = None
        self.watchers: list[Any] = []

    def last_word(self) -> int:
        """What the producer hears when nobody consumes this stream any more."""
        return m.ITEMS_UNWANTED if self.taken else m.ITEMS_UNREAD

    def is_ready(self) -> bool:
        """Whether taking the next item would not wait."""
        return bool(self.ready) or self.ended

    def add(self, index: int, value: m.Value, contained: tuple[bytes, ...], worker: bytes) -> bool:
        """An item of ``worker`` arrived. False for one that an earlier attempt sent already: it is ignored."""
        if index != self.received:
            return False
        self.received += 1
        entry = Entry(self.task + (index + 1).to_bytes(4, "big"), True)
        ownership = self.session.ownership
        ownership.entries[entry.id] = entry
        if type(value) is int:
            self.session.dispatcher.lineage.item_stored(self.task, entry, worker)
        if self.abandoned:
            ownership.fulfil(entry, value, False, contained)
            return True
        entry.local = 1
        ownership.fulfil(entry, value, False, contained)
        self.ready.append(entry)
        self._notify(entry)
        return True

    def end(self, error: bytes | None) -> None:
        """No more items; with ``error`` the last one the consumer gets raises it."""
        self.ended = True
        if error is not None and not self.abandoned:
            entry = Entry(self.task + (self.received + 1).to_bytes(4, "big"), True)
            entry.local = 1
            self.session.ownership.entries[entry.id] = entry
            self.session.ownership.fulfil(entry, error, True)
            self.ready.append(entry)
        self._notify(None)

    def _notify(self, entry: Any) -> None:
        if self.waiter is not None:
            self.waiter.missing = 0
            if self.waiter.event is not None:
                self.waiter.event.set()
        watchers, self.watchers = self.watchers, []
        for watcher in watchers:
            watcher.on_ready(entry)


class ObjectRefGenerator(Generic[T]):
    """An iterator over the references of a streaming task's items, in order.

    Not picklable; one consumer. ``completed()`` is a reference to the end of the task. Dropping the iterator
    ends the task.
    """

    def __init__(self, stream: Stream, task: Task) -> None:
        self._stream = stream
        self._task_id = task.id
        self._completed = counted(task.entries[0].id)

    def __iter__(self) -> ObjectRefGenerator[T]:
        return self

    def __next__(self) -> ObjectRef[T]:
        reference = self._take(block=True)
        if reference is None:
            raise StopIteration
        return reference

    def __aiter__(self) -> ObjectRefGenerator[T]:
        return self

    async def __anext__(self) -> ObjectRef[T]:
        stream = self._stream
        if not stream.ready and not stream.ended:
            import asyncio

            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            with stream.session.lock:
                if not stream.ready and not stream.ended:
                    stream.watchers.append(_LoopWatcher(loop, future))
                else:
                    future.set_result(None)
                stream.session.send_everything()
            await future
        reference = self._take(block=False)
        if reference is None:
            raise StopAsyncIteration
        return reference

    def _take(self, block: bool) -> ObjectRef[Any] | None:
        stream, session = self._stream, self._stream.session
        session.check_open()
        if block and not stream.ready and not stream.ended:
            waiter = Waiter(1)
            waiter.first = self._task_id + bytes(4)
            with session.lock:
                stream.waiter = waiter
                if stream.ready or stream.ended:
                    waiter.missing = 0
                session.send_everything()
            session.wait_until(waiter, None)
            stream.waiter = None
        with session.lock:
            if not stream.ready:
                return None
            entry = stream.ready.popleft()
            stream.taken += 1
            if stream.backpressure > 0 and not stream.ended:
                self._tell_taken(stream.taken)
                session.after()
        return counted(entry.id)

    def _tell_taken(self, count: int) -> None:
        session = self._stream.session
        task = session.ownership.tasks.get(self._task_id)
        if task is not None and task.dispatched_to is not None:
            session.ownership.outbox.append((task.dispatched_to.worker, m.encode(m.ItemsTaken(self._task_id, count))))

    def completed(self) -> ObjectRef[Any]:
        """A reference that is ready when the whole task has ended, and raises its error."""
        return self._completed

    def next_ready(self) -> bool:
        """Whether there is an item that ``next`` would return without waiting."""
        return bool(self._stream.ready)

    def is_finished(self) -> bool:
        """Whether every item has been taken."""
        return self._stream.ended and not self._stream.ready

    def task_id(self) -> Any:
        """The streaming task."""
        return self._completed.task_id()

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._task_id.hex()}, {self._stream.taken} of {self._stream.received} items taken)"

    def __reduce__(self) -> Any:
        raise TypeError("a stream has one consumer and cannot be sent to another process; pass its items instead")

    def __del__(self) -> None:
        stream = getattr(self, "_stream", None)
        if stream is None or stream.session.closed:
            return
        stream.session.abandoned_streams.append(stream)


class _LoopWatcher:
    def __init__(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
        self.loop, self.future = loop, future

    def on_ready(self, entry: Any) -> None:
        self.loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Streams:
    """All streams this process consumes."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.streams: dict[bytes, Stream] = {}
        session.streams = self
        session.inbox.handle(m.Item, self._on_item)

    def open(self, task: Task) -> Stream:
        """Begin to consume a task that is about to be submitted. Called with the session's lock held."""
        stream = self.streams[task.id] = Stream(self.session, task.id)
        self.session.ownership.wait_for(task.entries[0], _Ended(self, stream, task))
        return stream

    def gather(self, task: Task) -> Entry:
        """Begin to consume a task whose items are wanted all at once, as the value of an object: its entry."""
        stream = self.streams[task.id] = Stream(self.session, task.id)
        whole = Entry(task.id + _WHOLE.to_bytes(4, "big"), True)
        whole.local = 1
        self.session.ownership.entries[whole.id] = whole
        self.session.ownership.pending.add(whole.id)
        self.session.ownership.wait_for(task.entries[0], _Gathered(self, stream, task, whole))
        return whole

    def _on_item(self, link: Link, message: m.Message) -> None:
        _, task, index, value, contained = message
        stream, ownership, worker = self.streams.get(task), self.session.ownership, link.peer.worker
        if (
            stream is not None and stream.add(index, value, contained, worker)
        ) or self.session.dispatcher.lineage.item_again(task, index, value, contained, worker):
            ownership.arrive(contained, worker)
        else:
            ownership.refuse(contained, worker)
            identifier = task + (index + 1).to_bytes(4, "big")
            if type(value) is int and identifier not in ownership.entries:
                # What was taken and let go long ago lies in the store again.
                ownership.discard([identifier])
        if stream is not None and stream.abandoned:
            ownership.outbox.append((worker, m.encode(m.ItemsTaken(task, stream.last_word()))))
        elif stream is not None and stream.backpressure > 0 and index < stream.taken:
            # A later attempt makes again what was taken long ago; nobody will take it a second time.
            ownership.outbox.append((worker, m.encode(m.ItemsTaken(task, stream.taken))))

    def let_go_of_strays(self, stream: Stream) -> None:
        """Attempts that were lost may have stored items of which nobody ever heard, and that none stored again."""
        entries, task = self.session.ownership.entries, stream.task
        items = (task + index.to_bytes(4, "big") for index in range(1, stream.received + 2))
        kept = [identifier for identifier in items if identifier in entries]
        whole = task + _WHOLE.to_bytes(4, "big")
        self.session.ownership.outbox.append((NODE, m.encode(m.FreeItems(task, [*kept, whole]))))

    def abandon(self, stream: Stream) -> None:
        """The consumer is gone: what it did not take is freed and the task is told. Lock held."""
        stream.abandoned = True
        self.session.ownership.drop_local([entry.id for entry in stream.ready])
        stream.ready.clear()
        task = self.session.ownership.tasks.get(stream.task)
        if task is not None and task.state.name == "DISPATCHED" and task.dispatched_to is not None:
            message = m.encode(m.ItemsTaken(stream.task, stream.last_word()))
            self.session.ownership.outbox.append((task.dispatched_to.worker, message))


class _Ended:
    """Tells the stream when its task has ended."""

    def __init__(self, streams: Streams, stream: Stream, task: Task) -> None:
        self.streams, self.stream, self.call = streams, stream, task

    def on_ready(self, entry: Entry) -> None:
        if not self.stream.ended:
            self.stream.end(entry.value if entry.failed and type(entry.value) is bytes else None)
        self.streams.streams.pop(self.stream.task, None)
        if self.call.attempt or entry.failed:
            self.streams.let_go_of_strays(self.stream)


class _Gathered(_Ended):
    """Makes one value of all items when their task has ended."""

    def __init__(self, streams: Streams, stream: Stream, task: Task, whole: Entry) -> None:
        super().__init__(streams, stream, task)
        self.whole = whole

    def on_ready(self, entry: Entry) -> None:
        super().on_ready(entry)
        ownership, ready = self.streams.session.ownership, self.stream.ready
        # What user code raised is the last item, as in a stream; whatever else ended the task ended all of it.
        whole = entry.value if entry.failed and type(entry.value) is bytes else None
        error = load_error(whole) if whole is not None else None
        if whole is not None and (not isinstance(error, RayTaskError) or error.needed_by):
            ownership.drop_local([item.id for item in ready])
            ownership.fulfil(self.whole, whole, True)
        else:
            references: list[ObjectRef[Any]] = [counted(item.id) for item in ready]
            value = serialize(DynamicObjectRefGenerator(references))
            ownership.fulfil(self.whole, value.to_bytes(), False, tuple(value.references))
        ready.clear()
