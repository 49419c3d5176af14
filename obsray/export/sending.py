"""Spans to a receiver, each once it is complete. What is to be sent is in the segment files, so nothing is queued here:
while the receiver is away nothing is read on, and how far it has come stands on disk.

The position is one number for each ring: all spans of records up to there have been taken. A process that dies between
sending and writing the position sends a few spans again, under the same ids.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from obsray.export import otlp
from obsray.export.gpu_spans import GpuSpans
from obsray.export.receivers import Receiver, Refused, Unavailable, rejected
from obsray.export.spans import Span, Spans
from obsray.telemetry.columns import Batch, beyond
from obsray.telemetry.small_files import write_whole
from obsray.telemetry.views import Views

#: Waits between tries, growing from the first to the last.
RETRY_SECONDS = (0.5, 30.0)
FILE = "otlp.json"

log = logging.getLogger("obsray.export")


class GivenUp(Exception):
    """The receiver was away until there was no time left."""


class Sender:
    """Sends the spans of one session on from where an earlier one was."""

    def __init__(
        self, views: Views, receiver: Receiver, ratio: float = 1.0, batch_spans: int = 512, resume: bool = True
    ) -> None:
        self.views = views
        self.receiver = receiver
        self.sent = self.refused = 0
        self.error = ""
        self.stop = threading.Event()
        self._ratio = int(ratio * (1 << 64))
        self._batch_spans = batch_spans
        self._path = views.store.session_dir / "telemetry" / FILE
        self._spans = Spans(views)
        self._gpu_spans = GpuSpans(views, self._spans)
        self._resource = otlp.resources(views)
        self._positions: dict[bytes, int] = self._read() if resume else {}
        #: Read one step ago; under way; under way and not taken yet.
        self._fresh: list[Batch] = []
        self._making: Iterator[tuple[bytes, int]] | None = None
        self._undelivered: tuple[bytes, int] | None = None
        self._read_to: dict[bytes, int] = {}
        self._made_to: dict[bytes, int] = {}
        views.store.add_fold(self._take)

    def _take(self, batch: Batch) -> None:
        self._spans.note(batch)
        self._gpu_spans.note(batch)
        self._fresh.append(batch)

    def step(self, deadline: float | None = None) -> int:
        """Send what was read one step ago, and read what is new; returns how many records that were.

        A task's worker and its owner tell of its end in two rings; one step later both have been read. Raises GivenUp
        if the receiver is away until ``deadline`` (``time.monotonic``) or ``stop`` is set; the next step goes on there.
        """
        self._drain(deadline)
        held, read_to = self._fresh, self._read_to
        self._fresh = []
        found = self.views.refresh()
        self._read_to = {process: reader.state.position for process, reader in self.views.store.rings.readers.items()}
        if held:
            self._begin(self._made(held), read_to)
            self._drain(deadline)
        return found

    def finish(self, deadline: float | None = None) -> None:
        """Everything to the end, also what never finished. Raises GivenUp."""
        while self.step(deadline) or self._fresh:
            pass
        self._begin(itertools.chain(self._spans.open(), self._gpu_spans.rest()), {})
        self._drain(deadline)
        self._write(complete=True)

    def _begin(self, spans: Iterable[Span], read_to: dict[bytes, int]) -> None:
        self._making, self._made_to = self._requests(spans), read_to

    def _drain(self, deadline: float | None) -> None:
        while self._making is not None:
            if self._undelivered is None:
                self._undelivered = next(self._making, None)
            if self._undelivered is None:
                self._making = None
                self._positions.update(self._made_to)
                self._write()
                return
            self._deliver(*self._undelivered, deadline)
            self._undelivered = None

    def _made(self, held: list[Batch]) -> Iterator[Span]:
        for batch in held:
            new: Batch = {}
            for event, columns in batch.items():
                later = beyond(columns, self._positions)
                if later.all():
                    new[event] = columns
                    continue
                new[event] = columns.take(later)
                self._spans.forget({event: columns.take(~later)})
                self._gpu_spans.forget({event: columns.take(~later)})
            yield from self._spans.of({event: columns for event, columns in new.items() if len(columns)})
        yield from self._gpu_spans.due()

    def _requests(self, spans: Iterable[Span]) -> Iterator[tuple[bytes, int]]:
        sampled = (span for span in spans if int.from_bytes(span.trace[8:], "big") < self._ratio)
        while some := list(itertools.islice(sampled, self._batch_spans)):
            yield otlp.request(some, self._resource), len(some)

    def _deliver(self, data: bytes, count: int, deadline: float | None) -> None:
        wait = RETRY_SECONDS[0]
        while True:
            try:
                lost, told = rejected(self.receiver.send(data))
                self.sent += count - lost
                self.refused += lost
                if lost or told:
                    self.error = f"{self.receiver.name} did not keep {lost} of {count} spans: {told}"
                    log.error("%s", self.error)
                elif self.error:
                    log.info("spans are taken again by %s", self.receiver.name)
                    self.error = ""
                return
            except Refused as error:
                self.refused += count
                self.error = str(error)
                log.error("%d spans were refused: %s", count, error)
                return
            except Unavailable as error:
                if self.error != str(error):
                    self.error = str(error)
                    log.warning("spans wait in the segment files: %s", error)
                    self._write()
            left = RETRY_SECONDS[1] if deadline is None else deadline - time.monotonic()
            if left <= 0 or self.stop.wait(min(wait, left)):
                raise GivenUp(self.error)
            wait = min(wait * 2, RETRY_SECONDS[1])

    def _read(self) -> dict[bytes, int]:
        try:
            values = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        self.sent, self.refused = int(values.get("sent", 0)), int(values.get("refused", 0))
        return {bytes.fromhex(process): int(position) for process, position in values.get("positions", {}).items()}

    def _write(self, complete: bool = False) -> None:
        values = {
            "receiver": self.receiver.name, "sent": self.sent, "refused": self.refused, "error": self.error,
            "complete": complete, "at_ns": time.time_ns(),
            "positions": {process.hex(): position for process, position in self._positions.items()},
        }  # fmt: skip
        write_whole(self._path, json.dumps(values))


def state_of(session_dir: Path) -> dict[str, object]:
    """How far the spans of a session were sent; empty if none ever were."""
    try:
        found: dict[str, object] = json.loads((session_dir / "telemetry" / FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return found
