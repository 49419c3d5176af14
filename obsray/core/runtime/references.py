"""ObjectRef: what a call returns and what users pass around."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from obsray.core.runtime.serialization import collector
from obsray.ids import JobID, TaskID, short, task_of

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

    from obsray.core.runtime.session import Session

T = TypeVar("T")


class ObjectRef(Generic[T]):
    """A reference to a value that exists now or will.

    Equal and hashable by id; picklable inside values and arguments, where it keeps the value alive; awaitable.
    """

    __slots__ = ("__weakref__", "_id", "_session")

    def __init__(self, identifier: bytes, session: Session) -> None:
        # The caller has counted this reference in the entry already.
        self._id = identifier
        self._session = session

    def __del__(self) -> None:
        try:
            self._session.dropped.append(self._id)
        except AttributeError:
            pass

    def hex(self) -> str:
        """40 hex digits: owner, task and index."""
        return self._id.hex()

    def binary(self) -> bytes:
        return self._id

    def task_id(self) -> TaskID:
        """The task that makes the value."""
        return TaskID(task_of(self._id))

    def job_id(self) -> JobID:
        return JobID(self._session.job.to_bytes(4, "big"))

    def is_nil(self) -> bool:
        return False

    def future(self) -> concurrent.futures.Future[T]:
        """A concurrent future of the value."""
        return self._session.values.future_of(self)

    def as_future(self) -> asyncio.Future[T]:
        """An asyncio future of the value, for the running loop."""
        import asyncio

        return asyncio.wrap_future(self.future())

    def __await__(self) -> Generator[Any, None, T]:
        return self.as_future().__await__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        return f"ObjectRef({short(self._id)} {self._id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        if collector.references is not None:
            collector.references.append(self._id)
        else:
            # Pickled by the user's own hand: nobody can know when that copy ends, so the value is kept.
            self._session.keep_forever(self._id)
        return _rebuild, (self._id,)


def _rebuild(identifier: bytes) -> ObjectRef[Any]:
    from obsray.core.runtime.session import current

    return current().reference(identifier)
