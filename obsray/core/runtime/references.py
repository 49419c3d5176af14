"""ObjectRef: what a call returns and what users pass around."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from obsray.core.runtime.serialization import collector
from obsray.errors import OufOfBandObjectRefSerializationException, TaskCancelledError, UnknownReferenceError
from obsray.ids import OBJECT_ID_BYTES, owner_of, short, task_of
from obsray.typed_ids import JobID, TaskID

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

#: A reference to an int is a reference to an object, too.
T = TypeVar("T", covariant=True)

#: What event loops are to call when a value is there, with the futures that tell.
_callbacks: dict[tuple[bytes, Callable[[Any], Any]], list[Any]] = {}

#: Ray's name of the variable that says whether references may be pickled by hand.
_BY_HAND = "RAY_allow_out_of_band_object_ref_serialization"

#: Ids of references that died, appended to by the garbage collector from any thread, counted by the session.
dropped: deque[bytes] = deque()


class ObjectRef(Generic[T]):
    """A reference to a value that exists now or will.

    Equal and hashable by id; picklable inside values and arguments, where it keeps the value alive; awaitable.

    Each instance counts as one reference: the runtime makes them with ``counted``, where the object's entry has been
    told. Nothing about it is like bytes, a number or a sequence, as which libraries would treat it as a value.
    """

    __slots__ = ("__weakref__", "_id")

    _id: bytes

    def __new__(cls, binary: bytes) -> ObjectRef[T]:
        """Another reference to what ``binary()`` of one of this process said. Raises TypeError or ValueError."""
        from obsray.core.runtime.session import current_or_none

        if not isinstance(binary, (bytes, bytearray)):
            raise TypeError(f"an ObjectRef is made of {OBJECT_ID_BYTES} bytes, got {type(binary).__name__}")
        identifier = bytes(binary)
        if len(identifier) != OBJECT_ID_BYTES:
            raise ValueError(f"an ObjectRef is made of {OBJECT_ID_BYTES} bytes, got {len(identifier)}")
        session = current_or_none()
        if session is not None:
            session.count_again(identifier)
        return counted(identifier)

    @classmethod
    def from_hex(cls, text: str) -> ObjectRef[Any]:
        """As from its bytes, from what ``hex()`` said."""
        return cls(bytes.fromhex(text))

    @classmethod
    def from_binary(cls, binary: bytes) -> ObjectRef[Any]:
        """As from its bytes."""
        return cls(binary)

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """The reference to nothing."""
        return cls(bytes(OBJECT_ID_BYTES))

    @classmethod
    def from_random(cls) -> ObjectRef[Any]:
        """A reference to nothing, different each time."""
        return cls(os.urandom(OBJECT_ID_BYTES))

    @staticmethod
    def size() -> int:
        """How many bytes an id has."""
        return OBJECT_ID_BYTES

    def __del__(self, append: Any = dropped.append) -> None:
        append(self._id)

    def __bytes__(self) -> bytes:
        return self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return type(other) is ObjectRef and other._id == self._id

    def hex(self, *_: Any) -> str:
        """40 hex digits: owner, task and index."""
        return self._id.hex()

    def binary(self) -> bytes:
        return self._id

    def task_id(self) -> TaskID:
        """The task that makes the value."""
        return TaskID(task_of(self._id))

    def job_id(self) -> JobID:
        """The job of this process."""
        from obsray.core.runtime.session import current

        return JobID(current().job.to_bytes(4, "big"))

    def is_nil(self) -> bool:
        return not any(self.binary())

    def future(self) -> concurrent.futures.Future[T]:
        """A concurrent future of the value."""
        from obsray.core.runtime.session import current

        return current().values.future_of(self)

    def as_future(self) -> asyncio.Future[T]:
        """An asyncio future of the value, for the running loop."""
        import asyncio

        return asyncio.wrap_future(self.future())

    def _on_completed(self, callback: Callable[[Any], Any]) -> None:
        """Have ``callback`` called once, on some thread of the runtime, with the value or the exception."""
        self.future().add_done_callback(lambda future: callback(future.exception() or future.result()))

    def owner_address(self) -> bytes:
        """The process that owns the value: its id (8 bytes, ``obsray get worker <hex>``)."""
        return owner_of(self._id)

    def call_site(self) -> str:
        """Always "": where a value was made is in the events of its task (``obsray story <hex>``)."""
        return ""

    def tensor_transport(self) -> str | None:
        """None: every value travels inside messages or through the object store."""
        return None

    # What ``asyncio.wait`` asks of futures, so that it takes references as they are.

    def done(self) -> bool:
        """Whether the value, or its failure, is known to this process already."""
        from obsray.core.runtime.session import current

        (entry,) = current().values.entries_of([self])
        return entry.is_ready()

    def cancelled(self) -> bool:
        """Whether the task was cancelled; False while that is not known."""
        return self.done() and isinstance(self.exception(), TaskCancelledError)

    def exception(self) -> BaseException | None:
        """The failure, None if there is none. Raises asyncio.InvalidStateError while that is not known."""
        import asyncio

        if not self.done():
            raise asyncio.InvalidStateError("the value is not there yet")
        return self.future().exception()

    def add_done_callback(self, callback: Callable[[ObjectRef[T]], Any], *, context: Any = None) -> None:
        """Have the running event loop call ``callback`` with this reference once the value is there."""
        future = self.as_future()
        _callbacks.setdefault((self._id, callback), []).append(future)
        future.add_done_callback(lambda future: self._called_back(callback, future), context=context)

    def _called_back(self, callback: Callable[[ObjectRef[T]], Any], future: asyncio.Future[T]) -> None:
        if not future.cancelled():
            future.exception()  # asked for, so that asyncio does not complain that nobody did
        if self.remove_done_callback(callback):
            callback(self)

    def remove_done_callback(self, callback: Callable[[ObjectRef[T]], Any]) -> int:
        """Take a callback back. Returns how many there were."""
        return len(_callbacks.pop((self._id, callback), ()))

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio

        from obsray.core.runtime.session import current

        return asyncio.wrap_future(current().values.future_of(self, awaited=True)).__await__()

    def _not_the_value(self, *_: Any) -> Any:
        raise TypeError("an ObjectRef is not its value: obsray.get(reference) waits for it and returns it")

    # What a forgotten ``get`` leads to: a loop over it, too. It has no ``__len__`` and no ``__iter__``, so that nobody
    # takes it for a sequence.
    __getitem__ = _not_the_value
    __add__ = __radd__ = __mul__ = __rmul__ = _not_the_value

    def __str__(self) -> str:
        return f"ObjectRef({short(self._id)} {self._id.hex()})"

    def __repr__(self) -> str:
        # What this process knows anyway: it must neither wait nor take a lock.
        from obsray.core.runtime.session import current_or_none

        session = current_or_none()
        state = "" if session is None else f", {session.ownership.described(self._id)}"
        return f"{str(self)[:-1]}{state})"

    def __bool__(self) -> bool:
        return True

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: Any) -> ObjectRef[T]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        identifier = self._id
        if collector.references is not None:
            collector.references.append(identifier)
        else:
            from obsray.core.runtime.session import current

            # Pickled by the user's own hand: nobody can know when that copy ends, so the value is kept.
            allowed = os.environ.get(_BY_HAND, "1")
            if allowed != "1" and allowed.lower() != "true":
                raise OufOfBandObjectRefSerializationException(
                    f"{self!r} is pickled by hand, and {_BY_HAND}={allowed} does not allow that: nobody could know "
                    "when that copy ends, and the value would be kept as long as this process. Pass the reference as "
                    f"an argument or inside one, or return it; {_BY_HAND}=1 allows it"
                )
            current().keep_forever(identifier)
        return _rebuild, (identifier,)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


#: The older name of the same.
ObjectID = ObjectRef


def unknown(identifier: bytes) -> UnknownReferenceError:
    """What is raised for a reference of which this process does not know."""
    identifier = bytes(identifier)
    if not any(identifier):
        return UnknownReferenceError("the nil reference refers to nothing")
    return UnknownReferenceError(
        f"ObjectRef({short(identifier)} {identifier.hex()}) belongs to a runtime that was shut down, and its value is "
        "gone with it, or was made here of bytes or at random: a value is found only by a reference that came inside "
        "an argument, a result or a pickle"
    )


def counted(identifier: bytes) -> ObjectRef[Any]:
    """A reference that its object's entry counts already."""
    reference: ObjectRef[Any] = object.__new__(ObjectRef)
    reference._id = identifier
    return reference


def _rebuild(identifier: bytes) -> ObjectRef[Any]:
    from obsray.core.runtime.session import current

    return current().reference(identifier)
