"""From a raw buffer to columns.

The records of a buffer differ in length, so where one begins is known only from the one before: ``walk`` follows that
chain once and does nothing else. Everything after it works on all records of a kind together.

A buffer may be cut short (its writer was killed) or damaged. Reading stops at the first record that cannot be one: an
unknown kind, an end behind the buffer, times that run backwards or lie outside the time in which the buffer was
filled. What lies behind it is counted and not guessed at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from obsray.gpu.layouts import (
    DRIVER,
    EXTERNAL,
    GRAPH,
    KERNEL,
    MEMCPY,
    MEMSET,
    OVERHEAD,
    PEER_MEMCPY,
    RUNTIME,
    SYNCHRONIZATION,
    Layout,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: Clocks of GPU and host differ by some microseconds, and a record may be of work that began before its buffer.
SKEW_NS = 1_000_000_000
#: Kinds of external correlation that CUPTI knows.
_EXTERNAL_KINDS_MAX = 5


@dataclass(frozen=True, slots=True)
class Records:
    """What one buffer holds: an array of records per kind, each in the order of the buffer.

    ``incomplete`` counts records of work that had not ended when the buffer was given back: they have no times.
    ``unread_bytes`` is what lies behind the first record that cannot be one.
    """

    kernels: Array
    copies: Array
    peer_copies: Array
    memsets: Array
    synchronizations: Array
    externals: Array
    driver_calls: Array
    runtime_calls: Array
    graphs: Array
    overheads: Array
    incomplete: int
    unread_bytes: int

    @property
    def calls(self) -> Array:
        """Driver and runtime calls together."""
        return np.concatenate([self.driver_calls, self.runtime_calls])


def parse(data: bytes | memoryview, layout: Layout, since_ns: int = 0, until_ns: int = 0) -> Records:
    """Read one buffer. ``since_ns`` and ``until_ns`` (0: unknown) bound when its records can have been made."""
    starts, kinds = walk(data, layout)
    found: dict[int, Array] = {}
    wrong = len(data)
    for kind, dtype in layout.types.items():
        offsets = starts[kinds == kind]
        records = _gather(data, offsets, dtype)
        bad = np.flatnonzero(~_plausible(kind, records, since_ns, until_ns))
        if len(bad):
            wrong = min(wrong, int(offsets[bad[0]]))
        found[kind] = records
    end = int(starts[-1]) + layout.words[int(kinds[-1])] * 8 if len(starts) else 0
    if wrong < len(data):
        # What comes after a record that cannot be one is reached through it, so it counts for nothing either.
        for kind in found:
            found[kind] = found[kind][: int(np.searchsorted(starts[kinds == kind], wrong))]
        end = wrong
    incomplete = 0
    for kind in (KERNEL, MEMCPY, PEER_MEMCPY, MEMSET, GRAPH, SYNCHRONIZATION):
        done = (found[kind]["start"] > 0) & (found[kind]["end"] > 0)
        incomplete += int(len(done) - np.count_nonzero(done))
        found[kind] = found[kind][done]
    return Records(
        found[KERNEL], found[MEMCPY], found[PEER_MEMCPY], found[MEMSET], found[SYNCHRONIZATION], found[EXTERNAL],
        found[DRIVER], found[RUNTIME], found[GRAPH], found[OVERHEAD], incomplete, len(data) - end,
    )  # fmt: skip


def walk(data: bytes | memoryview, layout: Layout) -> tuple[Array, Array]:
    """Where each record begins (bytes) and its kind, up to the first that cannot be one."""
    words = np.frombuffer(data, "<u4", (len(data) & ~7) // 4)[::2]
    lengths = layout.words
    kinds = words.tolist()
    starts = []
    at, end, known = 0, len(kinds), len(lengths)
    while at < end:
        kind = kinds[at]
        length = lengths[kind] if kind < known else 0
        if not length or at + length > end:
            break
        starts.append(at)
        at += length
    places = np.array(starts, np.int64)
    return places * 8, words[places]


def _gather(data: bytes | memoryview, offsets: Array, dtype: np.dtype[Any]) -> Array:
    """The records at ``offsets`` as one array of the fields of ``dtype``, packed."""
    packed = np.dtype([(name, dtype[name]) for name in dtype.names or ()])
    if not len(offsets):
        return np.empty(0, packed)
    raw = np.frombuffer(data, np.uint8)
    size = dtype.itemsize
    rows = np.lib.stride_tricks.sliding_window_view(raw, size)[offsets]
    records = np.ascontiguousarray(rows).view(dtype).ravel()
    made = np.empty(len(records), packed)
    for name in packed.names or ():
        made[name] = records[name]
    return made


def _plausible(kind: int, records: Array, since_ns: int, until_ns: int) -> Array:
    """Which records can be what they say they are."""
    good = np.ones(len(records), np.bool_)
    if kind == EXTERNAL:
        return (records["external_kind"] > 0) & (records["external_kind"] <= _EXTERNAL_KINDS_MAX)
    start, end = records["start"], records["end"]
    good &= (start <= end) | (end == 0)
    timed = start > 0
    if since_ns:
        good &= ~timed | (start >= np.uint64(max(0, since_ns - SKEW_NS)))
    if until_ns:
        good &= end <= np.uint64(until_ns + SKEW_NS)
    if kind == KERNEL:
        good &= (records["grid_x"] > 0) & (records["block_x"] > 0) & (records["block_x"] <= 1024)
    return good
