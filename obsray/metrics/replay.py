"""What an earlier collector of a session has stored, once more through the folds: a collector that was killed and
started again counts on from where the first one was, instead of from zero.

Records come as they came then: all kinds together, a slice of time after the other, so that folds see a task's
submission before its end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from obsray.telemetry.collector import Collector
from obsray.telemetry.columns import Array, Batch, Columns, concat, from_arrow
from obsray.telemetry.events import BY_NAME
from obsray.telemetry.segments import Catalog, FileEntry, read_batches

#: More than this is not read again (some seconds): counting starts anew, and whoever asks is told so.
ROWS_MAX = 10_000_000
#: About so many rows are in memory at once.
SLICE_ROWS = 100_000
_SLICES_MAX = 5_000

log = logging.getLogger("obsray.collector")


def replay(collector: Collector) -> bool:
    """Give ``collector``'s folds everything that is stored and what stands in rings. False if that is not all that
    there ever was, or too much; then the folds were given nothing."""
    catalog = collector.writer.catalog
    if catalog.folded_rows or catalog.rows > ROWS_MAX:
        if catalog.rows:
            log.warning("counters start again from 0: of %d stored records not all can be read again", catalog.rows)
        return False
    own, foreign = list(collector.folds), list(collector.gathered_folds)
    there = np.array([state.process for state in collector.gathered.values()], "V8")
    for batch in slices(catalog, collector):
        for folds, part in ((own, _of(batch, there, False)), (foreign, _of(batch, there, True))):
            if part:
                for fold in folds:
                    fold(part)
    # What stands in rings was counted by the earlier collector as well; nobody is to see less than then.
    while collector.poll():
        pass
    return True


def _of(batch: Batch, foreign: Array, wanted: bool) -> Batch:
    """The records of a batch that are of other nodes, or those that are not."""
    if not len(foreign):
        return {} if wanted else batch
    found = {}
    for event, columns in batch.items():
        mask = np.isin(columns["process"].view("<u8"), foreign.view("<u8")) == wanted
        if mask.any():
            found[event] = columns.take(mask)
    return found


def slices(catalog: Catalog, collector: Collector) -> Iterator[Batch]:
    """All stored records in slices of time, each with all kinds."""
    entries = [entry for found in catalog.files.values() for entry in found if entry.rows]
    if not entries:
        return
    first, last = min(entry.min_ns for entry in entries), max(entry.max_ns for entry in entries)
    count = min(_SLICES_MAX, 1 + catalog.rows // SLICE_ROWS)
    streams = {
        event: _Stream(_columns(collector, event, found)) for event, found in catalog.files.items() if event in BY_NAME
    }
    for number in range(1, count + 1):
        until = last if number == count else first + (last - first) * number // count
        batch = {event: parts for event, stream in streams.items() if (parts := stream.take(until))}
        if batch:
            yield {event: concat(parts) for event, parts in batch.items()}


def _columns(collector: Collector, event: str, entries: list[FileEntry]) -> Iterator[Columns]:
    for entry in entries:
        for batch in read_batches(collector.writer.directory, entry):
            if batch.num_rows:
                yield from_arrow(batch, BY_NAME[event], collector.texts)


class _Stream:
    """The records of one kind, about in order of time."""

    def __init__(self, source: Iterator[Columns]) -> None:
        self._source = source
        self._held: Columns | None = next(source, None)

    def take(self, until_ns: int) -> list[Columns]:
        """What is next and not later than ``until_ns``. What is out of order comes with what stands before it."""
        found: list[Columns] = []
        while self._held is not None:
            times = self._held["time_ns"]
            if int(times.max()) <= until_ns:
                found.append(self._held)
                self._held = next(self._source, None)
                continue
            early = times <= until_ns
            if early.any():
                found.append(self._held.take(early))
                self._held = self._held.take(~early)
            break
        return found
