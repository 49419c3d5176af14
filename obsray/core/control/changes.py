"""The recent changes of all tables, numbered 1, 2, 3, ..., for those who follow them."""

from __future__ import annotations

from obsray.core.control.step import Instant, Refusal, Refused, Row
from obsray.core.protocol import control_pb2 as pb

CHANGES_MAX = 10_000


class History:
    """At least the last ``changes_max`` changes. A reader that fell further behind is told so, never given a gap."""

    def __init__(self, epoch: int, changes_max: int = CHANGES_MAX) -> None:
        self.epoch = epoch
        self.last = 0
        self._changes_max = changes_max
        self._first = 1
        self._changes: list[pb.Change] = []

    def resume(self, sequence: int) -> None:
        """Go on after ``sequence``, which was the last change of an earlier life."""
        self.last, self._first, self._changes = sequence, sequence + 1, []

    def record(self, now: Instant, row: Row) -> pb.Change:
        """Number a change and keep it."""
        self.last += 1
        change = pb.Change(sequence=self.last, changed_at_ns=now.wall_ns)
        if isinstance(row, pb.Node):
            change.node.CopyFrom(row)
        elif isinstance(row, pb.Job):
            change.job.CopyFrom(row)
        elif isinstance(row, pb.Actor):
            change.actor.CopyFrom(row)
        elif isinstance(row, pb.KeyChange):
            change.key.CopyFrom(row)
        elif isinstance(row, pb.Group):
            change.group.CopyFrom(row)
        else:
            change.function.CopyFrom(row)
        self._changes.append(change)
        # Cut in large pieces, so that keeping the bound costs nothing per change.
        if len(self._changes) >= 2 * self._changes_max:
            surplus = len(self._changes) - self._changes_max
            del self._changes[:surplus]
            self._first += surplus
        return change

    def after(self, epoch: int, sequence: int) -> list[pb.Change]:
        """All changes later than ``sequence``. Raises Refused(TOO_OLD) if they are not all here."""
        if epoch != self.epoch:
            raise Refused(
                Refusal.TOO_OLD, f"epoch {epoch} is over, this is epoch {self.epoch}: begin with GetState again"
            )
        if not self._first - 1 <= sequence <= self.last:
            raise Refused(
                Refusal.TOO_OLD,
                f"changes after {sequence} are not kept (from {self._first} to {self.last}): begin with GetState again",
            )
        return self._changes[sequence - self._first + 1 :]
