"""Every task of a session as columns that fit into a page: numbers in as few bytes as they need, compressed.

A million tasks are about 25 bytes each before compression. Names, workers and errors stand once in a list.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

from obsray.telemetry.columns import Array
from obsray.telemetry.tasks import FAILED, FINISHED, STATES
from obsray.telemetry.views import Views

#: More tasks than this are not put into a page whole; of the others those that failed or ran longest are.
TASKS_MAX = 3_000_000


def chosen(views: Views, tasks_max: int) -> Array:
    """Which tasks are in the page (numbers of the task table): all, or those most worth looking at."""
    table = views.task_table
    if len(table) <= tasks_max:
        return np.arange(len(table))
    weight = table["run_seconds"].astype(np.float64)
    weight[(table["state"] == FAILED) | (table["state"] < FINISHED)] = np.inf
    found: Array = np.sort(np.argpartition(-weight, tasks_max)[:tasks_max])
    return found


def tasks(views: Views, rows: Array) -> dict[str, Any]:
    """``{"rows": n, "lists": {...}, "columns": {name: [type, data]}}``; data is zlib in base64, little endian."""
    table, texts, now = views.task_table, views.store.texts, views.now_ns()
    start = int(views.store.session().get("started_at_ns") or views.samples.first_at_ns)
    words = np.ascontiguousarray(table["id"][rows]).view("<u8").reshape(-1, 2)
    owners, owner = _listed(words[:, 0])
    times = views.task_times(rows, now)
    parent = views.task_table.index.rows(table["parent"][rows], create=False)
    place = np.full(len(table) + 1, -1, np.int32)
    place[rows] = np.arange(len(rows), dtype=np.int32)
    names, name = _listed(table["name"][rows])
    errors, error = _listed(table["error"][rows])
    workers, worker = _listed(table["worker"][rows])
    columns: dict[str, Array] = {
        "name": _small(name), "state": table["state"][rows].astype(np.uint8), "worker": _small(worker),
        "owner": _small(owner), "error": _small(error), "attempt": table.attempt(rows).astype(np.uint8),
        # The first byte of the sequence says what was numbered, the last four are enough to count.
        "kind": (words[:, 1] & np.uint64(0xFF)).astype(np.uint8),
        "sequence": (words[:, 1].byteswap() & np.uint64(0xFFFFFFFF)).astype(np.uint32),
        "parent": place[parent],
        "submitted": _since(table["submitted_at"][rows], start),
        "started": _since(table["started_at"][rows], start),
        "ended": _since(times["ended_at"], start),
        "queue": times["queue_seconds"].astype(np.float32),
        "waited": times["wait_arguments_seconds"].astype(np.float32),
        "result": np.minimum(table["result_bytes"][rows], 0xFFFFFFFF).astype(np.uint32),
    }  # fmt: skip
    for key in ("fetch", "deserialize", "run", "store", "cpu", "blocked"):
        columns[key] = table[f"{key}_seconds"][rows]
    return {
        "rows": len(rows),
        "start_ns": start,
        "lists": {
            "name": [texts[code] for code in names],
            "state": list(STATES),
            "error": [texts[code] for code in errors],
            "worker": [views.process_label(table.workers.ids[code]) if code >= 0 else "" for code in workers],
            "owner": [int(code).to_bytes(8, "little").hex() for code in owners],
        },
        "columns": {name: _packed(values) for name, values in columns.items()},
    }


def _listed(values: Array) -> tuple[list[Any], Array]:
    different, back = np.unique(values, return_inverse=True)
    return different.tolist(), back.ravel()


def _small(codes: Array) -> Array:
    top = int(codes.max(initial=0))
    return codes.astype(np.uint8 if top < 1 << 8 else np.uint16 if top < 1 << 16 else np.uint32)


def _since(times: Array, start: int) -> Array:
    """Microseconds since the start as 64 bit floats; NaN where there is no time. Differences compress better: each is
    told as what it is beyond the one before."""
    known = times > 0
    values = np.where(known, (times.astype(np.int64) - start) // 1000, -1)
    return np.diff(values, prepend=np.int64(0)).astype(np.float64)


_TYPES = {"<u1": "Uint8", "<u2": "Uint16", "<u4": "Uint32", "<i4": "Int32", "<f4": "Float32", "<f8": "Float64",
          "|u1": "Uint8"}  # fmt: skip


def _packed(values: Array) -> list[str]:
    data = np.ascontiguousarray(values)
    # The bytes of one place of all numbers one behind the other: equal ones compress to nothing.
    planes = data.view(np.uint8).reshape(len(data), data.dtype.itemsize).T if len(data) else data.view(np.uint8)
    packed = zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)
    return [_TYPES[data.dtype.str], base64.b64encode(packed).decode()]
