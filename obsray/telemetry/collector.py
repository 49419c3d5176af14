"""The collector: takes what is new out of all rings of a session, stores it, and deletes what is stored.

``Collector`` is driven from outside (``process.py``, tests): ``poll`` reads and hands batches to the folds, ``flush``
makes them durable and lets ring files go, ``sample`` records how the session's processes and the collector fare.
Nothing is deleted before the commit that stores it; a collector killed at any moment is replaced by another one that
goes on from the last commit.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from obsray import ids
from obsray.gpu.words import Stage
from obsray.telemetry import last_words, usage
from obsray.telemetry.columns import Batch, Texts, after, from_arrow
from obsray.telemetry.events import BY_NAME, ProcessKind
from obsray.telemetry.gpu_streams import GpuStreams
from obsray.telemetry.rings import RingDirectory, RingReader, RingState
from obsray.telemetry.segments import SegmentWriter
from obsray.telemetry.spine import SEGMENTS_MAX, Ring, read_now

#: Rows are stored when there are this many, or after ``FLUSH_SECONDS``, whichever comes first. Readers do not depend
#: on it: they read the rings too. Other nodes are given, and the head counts of theirs, only what is stored: where
#: somebody waits for that, it is stored after ``SHARED_FLUSH_SECONDS``. Storing costs per kind, not per record.
FLUSH_ROWS = 65_536
FLUSH_SECONDS = 5.0
SHARED_FLUSH_SECONDS = 2.0
#: While storing fails it is tried again after this time, then after twice that, up to so long.
AGAIN_SECONDS, AGAIN_SECONDS_MAX = 0.5, 5.0
#: Most rows held in memory while the disk does not take them.
PENDING_ROWS_MAX = 1_000_000
#: Files of a dead process stay this long after its last record was stored: its node reads its last events from them.
DEAD_LINGER_SECONDS = 5.0
#: Unique memory is expensive to ask for; each process is asked this often.
UNIQUE_SECONDS = 10.0

Fold = Callable[[Batch], None]

log = logging.getLogger("obsray.collector")


class Collector:
    """Drains the rings of one session directory into its ``telemetry`` directory."""

    def __init__(self, session_dir: Path, bytes_max: int, ring: Ring | None = None) -> None:
        self.session_dir = Path(session_dir)
        self.texts = Texts()
        self.rings = RingDirectory(self.session_dir / "rings", self.texts)
        self.gpu = GpuStreams(self.rings, self.texts, self._gpu_lost)
        self.writer = SegmentWriter(self.session_dir / "telemetry", self.texts, bytes_max)
        self.folds: list[Fold] = []
        #: Folds of what is taken over from other nodes. They are given what is stored: what a collector that is killed
        #: had not stored comes again from its node, later, and a counter would go back until then.
        self.gathered_folds: list[Fold] = []
        self._gathered_new: list[Batch] = []
        self.events_total = 0
        self.bytes_total = 0
        self.ring = ring
        #: Whether another node is given what is stored here.
        self.shared = False
        self._flushed_at = time.monotonic()
        #: Since when storing fails (0: it does not), and when and after what pause it is tried again.
        self.failing_since = 0.0
        self._again_at = 0.0
        self._pause = AGAIN_SECONDS
        self.store_errors = 0
        self._oldest_pending_ns = 0
        self._dead_since: dict[bytes, float] = {}
        self._gone: set[bytes] = set()
        self._unique: dict[int, tuple[float, int]] = {}
        self._sampled = (0, 0, 0.0)
        #: The ledgers of rings of other nodes, whose records were taken over.
        self.gathered: dict[bytes, RingState] = {}
        #: Node -> how many of its records were taken over, also those whose ledger has not come yet.
        self._taken: dict[bytes, int] = {}
        self._resume()
        self._recorded_before = sum(reader.state.records for reader in self.rings.readers.values())

    def _resume(self) -> None:
        """Go on where an earlier collector of this session committed."""
        self.gpu.resume(self.writer.catalog.rings)
        own = self.ring.node if self.ring is not None else b""
        for name, state in self.writer.catalog.rings.items():
            if own and any(state.node) and state.node != own:
                self.gathered[bytes.fromhex(name)] = RingState.from_json(name, state.to_json())
            elif state.kind != ProcessKind.GPU_STREAM:
                reader = self.rings.reader(bytes.fromhex(name))
                reader.state = RingState.from_json(name, state.to_json())

    # --- draining -----------------------------------------------------------------------------------------

    def poll(self) -> int:
        """Read what is new and hand it to the folds; returns how many records. Call again at once if it is many."""
        if self.writer.rows_pending > PENDING_ROWS_MAX:
            return 0  # storing fails; the rings hold what comes, and say so when they are full
        self.rings.scan()
        for process in self.rings.newly_dead():
            last_words.add(self.rings.directory, process)
        batch, count = self.rings.read()
        for reader in self.rings.missing:
            reader.skip_missing()
        work, found = self.gpu.poll()
        batch.update(work)
        count += found
        if count:
            self.events_total += count
            oldest = min(int(columns["time_ns"].min()) for columns in batch.values()) if batch else 0
            self._oldest_pending_ns = min(self._oldest_pending_ns or oldest, oldest)
            self.writer.append(batch)
            _hand(self.folds, batch)
        return count

    def _drain(self) -> None:
        """Read until there is nothing new. Raises OSError if there is no room for it."""
        while self.poll() or self.writer.rows_pending > PENDING_ROWS_MAX:
            if self.due() or self.writer.rows_pending > PENDING_ROWS_MAX:
                self.flush()

    def due(self) -> bool:
        """Is it time to ``flush``?"""
        now = time.monotonic()
        if now < self._again_at:
            return False
        seconds = SHARED_FLUSH_SECONDS if self.shared or self._gathered_new else FLUSH_SECONDS
        return self.writer.rows_pending >= FLUSH_ROWS or now - self._flushed_at > seconds

    def flush(self) -> None:
        """Store and commit what was read, then delete ring files that hold nothing else. Raises OSError when the
        disk is full; the records then stay in the rings and in memory, and it is ``due`` again after a pause."""
        try:
            self.bytes_total += self.writer.flush(self._states())
        except OSError as error:
            self._failed(error)
            raise
        self._flushed_at = time.monotonic()
        self._oldest_pending_ns = 0
        self._hand_gathered()
        if self.failing_since:
            self._stored_again()
        self._delete_stored()
        self.gpu.delete_taken()
        try:
            self.writer.compact()
        except OSError as error:
            # Everything is stored; it only takes more room than it might.
            self._again_at = time.monotonic() + AGAIN_SECONDS_MAX
            log.error("cannot compact telemetry, trying again: %s", error)

    def _hand_gathered(self) -> None:
        for batch in self._gathered_new:
            _hand(self.gathered_folds, batch)
        self._gathered_new.clear()

    def _failed(self, error: OSError) -> None:
        now = time.monotonic()
        self.store_errors += 1
        self._pause = min(2 * self._pause, AGAIN_SECONDS_MAX) if self.failing_since else AGAIN_SECONDS
        self._again_at = now + self._pause
        if self.failing_since:
            return
        self.failing_since = now
        log.error("cannot store telemetry, trying again until it goes: %s", error)
        if self.ring is not None:
            self.ring.telemetry_unstored(time.time_ns(), min(error.errno or 0, 65_535), self.writer.rows_pending)

    def _stored_again(self) -> None:
        seconds, self.failing_since, self._again_at = time.monotonic() - self.failing_since, 0.0, 0.0
        lost = self.dropped()
        log.warning("telemetry is stored again after %.1f s; %d records were lost so far", seconds, lost)
        if self.ring is not None:
            self.ring.telemetry_stored_again(time.time_ns(), seconds, lost)

    def dropped(self) -> int:
        """How many records of processes of this node are lost so far, because they had no room for them."""
        return sum(
            reader.state.dropped + (0 if reader.state.closed or process in self._gone else reader.dropping())
            for process, reader in list(self.rings.readers.items())
        )

    def _states(self) -> list[RingState]:
        return [
            *(reader.state for reader in self.rings.readers.values()), *self.gpu.states(), *self.gathered.values()
        ]  # fmt: skip

    def gather(self, node: bytes, parts: list[tuple[str, bytes]], rings: dict[bytes, RingState]) -> int:
        """Take over records of another node: ``parts`` are Arrow streams by kind, ``rings`` how far they go.

        Returns how many were new. They are stored like own ones; ``folds`` are not given them, since their node's are,
        ``gathered_folds`` are, once they are stored.
        """
        positions = {process: state.position for process, state in self.gathered.items()}
        if node not in self._taken:
            # Those that an earlier collector of this session has taken.
            self._taken[node] = sum(state.records for state in self.gathered.values() if state.node == node)
        count = 0
        for name, data in parts:
            event = BY_NAME.get(name)
            if event is None or not data:
                continue
            for batch in pa.ipc.open_stream(data):
                columns = from_arrow(batch, event, self.texts)
                new = after(columns, positions) if positions else columns
                if len(new):
                    count += len(new)
                    self.writer.append({name: new})
                    self._gathered_new.append({name: new})
        for process, state in rings.items():
            known = self.gathered.get(process)
            if process not in self.rings.readers and (known is None or known.position <= state.position):
                self.gathered[process] = state
        self._taken[node] += count
        return count

    def _gpu_lost(self, worker: bytes, records: int, stage: Stage) -> None:
        if self.ring is not None:
            self.ring.gpu_records_lost(time.time_ns(), worker, records, int(stage))

    def recorded(self) -> int:
        """How many records there have been in this session so far, stored or not. For any thread."""
        return self._recorded_before + self.events_total

    def node_over(self, node: bytes, complete: bool, recorded: int = 0, unheard: tuple[float, float] = (0, 0)) -> None:
        """Nothing more comes from another node. ``complete``: its collector has given all it had.

        ``recorded``: how many records it was last known to have; ``unheard``: how long it then lived on at most, in
        seconds, and how many records a second it made. So it is known how many are missing, and about how many more.
        """
        rings = [state for state in self.gathered.values() if state.node == node]
        taken = max(sum(state.records for state in rings), self._taken.pop(node, 0))
        if self.ring is not None:
            seconds, rate = unheard
            self.ring.node_records_ended(
                time.time_ns(), node, complete, len(rings), taken, 0.0 if complete else seconds,
                0 if complete else max(0, recorded - taken), 0 if complete else round(seconds * rate),
            )  # fmt: skip

    def lag_seconds(self) -> float:
        """How old the oldest record is that is read and not stored."""
        return max(0, time.time_ns() - self._oldest_pending_ns) / 1e9 if self._oldest_pending_ns else 0.0

    def _delete_stored(self) -> None:
        now = time.monotonic()
        for process, reader in self.rings.readers.items():
            if process in self._gone or not reader.state.pid:
                continue
            stored = reader.state.position
            for path in reader.done_segments(stored, keep_last=True):
                path.unlink(missing_ok=True)
            if self.rings.alive(process):
                continue
            since = self._dead_since.setdefault(process, now)
            if now - since > DEAD_LINGER_SECONDS:
                self._remove(process, reader)

    def _remove(self, process: bytes, reader: RingReader) -> None:
        """A dead process whose records are all stored: its files go, except the black box of one that was killed
        while it ran something."""
        for path in reader.files():
            path.unlink(missing_ok=True)
        for what in ("strings", "stacks", "fault"):
            (self.rings.directory / f"{process.hex()}.{what}").unlink(missing_ok=True)
        if not read_now(self.rings.directory, process):
            (self.rings.directory / f"{process.hex()}.now").unlink(missing_ok=True)
        self._gone.add(process)

    def quiet(self) -> bool:
        """Has every process of the session ended or closed its ring?"""
        own = self.ring.process if self.ring is not None else b""
        return all(
            process == own or reader.state.closed or not self.rings.alive(process, 0.0)
            for process, reader in self.rings.readers.items()
            if reader.state.pid
        )

    def close(self) -> None:
        """The last drain: everything that is in the rings is stored, the manifest is written, the rings are gone."""
        try:
            self._drain()
            if self.ring is not None:
                self.sample_self()
                self.ring.close(time.time_ns())
                self._drain()
            work, found = self.gpu.poll(settled=True)
            if found:
                self.events_total += found
                self.writer.append(work)
                _hand(self.folds, work)
            self.writer.close(self._states())
            self._hand_gathered()
        except OSError as error:
            # What is not stored stays in the rings, where readers find it.
            log.error("the last records could not be stored, they stay in %s: %s", self.rings.directory, error)
            return
        self.gpu.delete_taken()
        for process, reader in self.rings.readers.items():
            if reader.state.closed or not self.rings.alive(process):
                self._remove(process, reader)

    # --- samples ------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Record what every process of the session uses, and what the collector did since the last time."""
        if self.ring is None:
            return
        for process, reader in list(self.rings.readers.items()):
            state = reader.state
            if state.pid and process not in self._gone and self.rings.alive(process):
                self._sample_process(state)
        self.sample_self()

    def sample_self(self) -> None:
        """Record what the collector did since the last time."""
        if self.ring is None:
            return
        events, written, cpu = self._sampled
        used = time.process_time()
        chains = self.rings._chains.values()
        fill = max((len(chain) for chain in chains), default=0) / SEGMENTS_MAX
        self.ring.collector_sample(
            time.time_ns(), self.events_total - events, self.bytes_total - written, used - cpu, self.lag_seconds(),
            len(chains), fill,
        )  # fmt: skip
        self._sampled = (self.events_total, self.bytes_total, used)

    def _sample_process(self, state: RingState) -> None:
        pid = state.pid
        try:
            used = usage.of(pid)
            unique = self._unique_bytes(pid)
        except OSError:
            self._unique.pop(pid, None)
            return
        assert self.ring is not None
        self.ring.process_sample(
            time.time_ns(), state.process, pid, state.kind, used.rss_bytes, unique, used.cpu_seconds,
            min(used.threads, 65_535), min(used.descriptors, 65_535),
        )  # fmt: skip

    def _unique_bytes(self, pid: int) -> int:
        now = time.monotonic()
        known = self._unique.get(pid)
        if known is None or now - known[0] > UNIQUE_SECONDS:
            known = self._unique[pid] = (now, usage.unique_bytes(pid))
        return known[1]


def _hand(folds: list[Fold], batch: Batch) -> None:
    for fold in list(folds):
        try:
            fold(batch)
        except Exception:
            # Storing comes first: a fold that fails is left out from now on, and says so.
            log.exception("%r failed and is given no more records", fold)
            folds.remove(fold)


def own_ring(session_dir: Path, node: bytes) -> Ring:
    """The collector's ring, for what it records about itself and others."""
    own = ids.worker_id(node, os.urandom(ids.WORKER_ID_BYTES - ids.MARK_BYTES))
    return Ring(Path(session_dir) / "rings", own, ProcessKind.COLLECTOR, node)
