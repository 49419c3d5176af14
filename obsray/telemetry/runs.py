"""Runs: records that tell of many tasks of consecutive sequence at once, and what they stand for."""

from __future__ import annotations

import numpy as np

from obsray.telemetry.columns import Array, Batch, Columns, concat
from obsray.telemetry.events import BY_NAME

#: A run of tasks said to be longer than this is damaged.
RUN_TASKS_MAX = 1 << 22


def expand(first: Array, tasks: Array) -> tuple[Array, Array]:
    """The ids of runs of consecutive tasks: ``first`` (V16) and ``tasks`` of each run; also the run lengths."""
    lengths = np.minimum(tasks, RUN_TASKS_MAX).astype(np.int64)
    words = np.ascontiguousarray(first).view("<u8").reshape(-1, 2)
    ids = np.empty((int(lengths.sum()), 2), "<u8")
    ids[:, 0] = np.repeat(words[:, 0], lengths)
    ids[:, 1] = (np.repeat(words[:, 1].byteswap(), lengths) + within(lengths).astype(np.uint64)).byteswap()
    return ids.view("V16").ravel(), lengths


def within(lengths: Array) -> Array:
    """0, 1, 2, ... in each run."""
    starts = np.cumsum(lengths) - lengths
    found: Array = np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(starts, lengths)
    return found


def each(batch: Batch) -> Batch:
    """The same batch with a ``task_submitted`` for every task of a ``tasks_submitted``, as folds over tasks want it."""
    runs = batch.get("tasks_submitted")
    if runs is None or not len(runs):
        return batch
    single = submissions(runs)
    known = batch.get("task_submitted")
    return {**batch, "task_submitted": single if known is None else concat([known, single])}


def submissions(runs: Columns) -> Columns:
    """The calls of runs, one row each. Their times are spread evenly from ``first_at`` to the time of the record; a
    call without a trace of its run began its own."""
    event = BY_NAME["task_submitted"]
    ids, lengths = expand(runs["first_task"], runs["tasks"])
    steps = np.maximum(lengths - 1, 1)
    began = runs["first_at"].astype(np.int64)
    spread = (runs["time_ns"].astype(np.int64) - began) / steps
    times = np.repeat(began, lengths) + (within(lengths) * np.repeat(spread, lengths)).astype(np.int64)
    traces = np.repeat(runs["trace"], lengths)
    own = np.repeat(runs["trace"] == np.zeros(1, "V16"), lengths)
    traces[own] = ids[own]
    mean_bytes = runs["argument_bytes"] // np.maximum(runs["tasks"], 1)
    arrays: dict[str, Array] = {
        "time_ns": times.astype(np.uint64),
        "task": ids,
        "trace": traces,
        "arguments": np.zeros(len(ids), np.uint16),
        "unready_arguments": np.zeros(len(ids), np.uint16),
        "argument_bytes": np.repeat(np.minimum(mean_bytes, 0xFFFFFFFF).astype(np.uint32), lengths),
    }
    for name in ("process", "sequence", *(field.name for field in event.fields)):
        if name not in arrays:
            arrays[name] = np.repeat(runs[name], lengths)
    return Columns(event, arrays)
