"""ObjectRef: what a call returns and what users pass around."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from obsray.core.runtime.serialization import collector
from obsray.ids import JobID, TaskID, short, task_of

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

T = TypeVar("T")

#: Ids of references that died, appended to by the garbage collector from any thread, counted by the session.
dropped: deque[bytes] = deque()


class ObjectRef(bytes, Generic[T]):
    """A reference to a value that exists now or will.

    Equal and hashable by id; picklable inside values and arguments, where it keeps the value alive; awaitable.

    It *is* its id (20 bytes), so that sets and dictionaries of many references work at the speed of bytes. Whoever
    makes one has counted it in the object's entry already; each instance counts as one reference.
    """

    __slots__ = ()

    def __del__(self, append: Any = dropped.append) -> None:
        append(bytes(self))

    def hex(self, *_: Any) -> str:
        """40 hex digits: owner, task and index."""
        return bytes.hex(self)

    def binary(self) -> bytes:
        return bytes(self)

    def task_id(self) -> TaskID:
        """The task that makes the value."""
        return TaskID(task_of(bytes(self)))

    def job_id(self) -> JobID:
        from obsray.core.runtime.session import current

        return JobID(current().job.to_bytes(4, "big"))

    def is_nil(self) -> bool:
        return False

    def future(self) -> concurrent.futures.Future[T]:
        """A concurrent future of the value."""
        from obsray.core.runtime.session import current

        return current().values.future_of(self)

    def as_future(self) -> asyncio.Future[T]:
        """An asyncio future of the value, for the running loop."""
        import asyncio

        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, T]:
        return self.as_future().__await__()

    def _not_the_value(self, *_: Any) -> Any:
        raise TypeError("an ObjectRef is not its value: obsray.get(reference) waits for it and returns it")

    # That it is bytes inside must not make sense of a forgotten ``get``.
    __iter__ = __len__ = __getitem__ = __contains__ = _not_the_value
    __add__ = __radd__ = __mul__ = __rmul__ = _not_the_value

    def __repr__(self) -> str:
        return f"ObjectRef({short(bytes(self))} {bytes.hex(self)})"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return True

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: Any) -> ObjectRef[T]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        identifier = bytes(self)
        if collector.references is not None:
            collector.references.append(identifier)
        else:
            from obsray.core.runtime.session import current

            # Pickled by the user's own hand: nobody can know when that copy ends, so the value is kept.
            current().keep_forever(identifier)
        return _rebuild, (identifier,)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()


def _rebuild(identifier: bytes) -> ObjectRef[Any]:
    from obsray.core.runtime.session import current

    return current().reference(identifier)
