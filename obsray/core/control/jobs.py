"""Which drivers work with the cluster: one job each, numbered.

A node numbers its drivers' jobs itself, in a range of its own (``SPAN`` numbers from its incarnation times ``SPAN``;
the first head's from 0), so that no driver waits for the control store.

Invariants: a driver has at most one job; a number names one job for ever; an ended job never runs again.
"""

from __future__ import annotations

from dataclasses import dataclass

from obsray.core.control.step import (
    NAME_BYTES_MAX,
    TEXT_BYTES_MAX,
    Instant,
    Outcome,
    Refusal,
    Refused,
    check_node,
    check_text,
    check_worker,
)
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol.lifecycle import JobState, advance

JOBS_ENDED_MAX = 10_000
#: How many jobs the drivers of one node can have in its life.
SPAN = 1 << 16


@dataclass(slots=True)
class JobEntry:
    state: JobState
    row: pb.Job

    def published(self) -> pb.Job:
        """The row as readers get it."""
        row = pb.Job()
        row.CopyFrom(self.row)
        row.state = pb.JobState.ValueType(int(self.state))
        return row


class Jobs:
    """The table of jobs."""

    def __init__(self) -> None:
        self.entries: dict[int, JobEntry] = {}
        self._of_driver: dict[bytes, int] = {}
        self._ended: list[int] = []
        #: The highest number given out in each range.
        self._highest: dict[int, int] = {}

    def start(self, now: Instant, request: pb.StartJobRequest) -> Outcome:
        """Number a driver's job. Raises Refused if the number it brings names another driver's."""
        check_worker("driver", request.driver)
        check_node(request.node)
        check_text("entrypoint", request.entrypoint, TEXT_BYTES_MAX)
        check_text("namespace", request.namespace, NAME_BYTES_MAX)
        known = self._of_driver.get(request.driver)
        if known is not None:
            if request.job not in (0, known):
                raise Refused(Refusal.EXISTS, f"driver {request.driver.hex()} has job {known}, not {request.job}")
            return Outcome(pb.StartJobReply(job=known), [])
        job = request.job or self.highest(0) + 1
        # Forgotten jobs keep their numbers: only what was never given out is free.
        if job <= self.highest(job // SPAN):
            raise Refused(Refusal.EXISTS, f"job {job} is another driver's")
        self._highest[job // SPAN] = job
        row = pb.Job(
            job=job,
            driver=request.driver,
            driver_pid=request.driver_pid,
            entrypoint=request.entrypoint,
            namespace=request.namespace,
            node=request.node,
            started_at_ns=now.wall_ns,
        )
        entry = self.entries[job] = JobEntry(JobState.RUNNING, row)
        self._of_driver[request.driver] = job
        return Outcome(pb.StartJobReply(job=job), [entry.published()])

    def highest(self, span: int) -> int:
        """The highest number of range ``span`` that was ever given out."""
        return self._highest.get(span, span * SPAN)

    def end(self, now: Instant, request: pb.EndJobRequest) -> Outcome:
        """A driver left. Raises Refused for a job nobody started."""
        entry = self.entries.get(request.job)
        if entry is None:
            raise Refused(Refusal.NOT_FOUND, f"there is no job {request.job}")
        if entry.state is JobState.ENDED:
            return Outcome(pb.EndJobReply(), [])
        return Outcome(pb.EndJobReply(), [self._end(now, entry, request.cause)])

    def node_died(self, now: Instant, node: bytes, cause: int) -> list[pb.Job]:
        """The drivers of a dead node went with it."""
        lost = [entry for entry in self.entries.values() if entry.row.node == node and entry.state is JobState.RUNNING]
        return [self._end(now, entry, cause) for entry in lost]

    def _end(self, now: Instant, entry: JobEntry, cause: int) -> pb.Job:
        advance(entry, JobState.ENDED)
        entry.row.ended_at_ns = now.wall_ns
        entry.row.cause = cause
        self._ended.append(entry.row.job)
        if len(self._ended) > JOBS_ENDED_MAX:
            forgotten = self.entries.pop(self._ended.pop(0))
            del self._of_driver[forgotten.row.driver]
        return entry.published()

    def save(self, snapshot: pb.Snapshot) -> None:
        """Write all of it down."""
        snapshot.jobs.extend(entry.published() for entry in self.entries.values())
        snapshot.jobs_ended.extend(self._ended)
        snapshot.spans.extend(pb.Snapshot.Span(span=span, highest=job) for span, job in self._highest.items())

    def restore(self, snapshot: pb.Snapshot) -> None:
        """Be what was saved."""
        self.entries = {row.job: JobEntry(JobState(row.state), row) for row in snapshot.jobs}
        self._of_driver = {row.driver: row.job for row in snapshot.jobs}
        self._ended = list(snapshot.jobs_ended)
        self._highest = {each.span: each.highest for each in snapshot.spans}

    def check_invariants(self) -> None:
        """Raise AssertionError if the table contradicts itself."""
        assert {entry.row.driver: job for job, entry in self.entries.items()} == self._of_driver
        assert all(0 < job <= self.highest(job // SPAN) for job in self.entries)
        ended = {job for job, entry in self.entries.items() if entry.state is JobState.ENDED}
        assert ended == set(self._ended)
