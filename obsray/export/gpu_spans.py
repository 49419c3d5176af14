"""What tasks had GPUs do, as one span for each task, beneath its run.

Records of GPUs are on their way for about two seconds, so a task's span is made when it is over and nothing more of it
came for a while, by the clock of the records. Kernel by kernel the work is on the timeline (``telemetry/timeline.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from obsray.export.spans import Kind, Span, Spans
from obsray.telemetry import span_ids
from obsray.telemetry.columns import Batch, Columns
from obsray.telemetry.gpu_work import is_communication
from obsray.telemetry.span_ids import Part
from obsray.telemetry.store import joined
from obsray.telemetry.tasks import FINISHED
from obsray.telemetry.views import Views

#: So long after a task's last record of a GPU no more of them are expected.
SETTLED_NS = 5_000_000_000
_KERNELS_NAMED = 5
_SECONDS = {"gpu_kernel": "kernel_seconds", "gpu_copy": "copy_seconds", "gpu_memset": "memset_seconds"}
#: Events that are summed up.
GPU_EVENTS = (*_SECONDS, "gpu_wait")


@dataclass(slots=True)
class _Sum:
    """The GPU work of one task."""

    worker: bytes
    attempt: int
    first: int
    last: int
    gpus: set[int] = field(default_factory=set)
    counts: dict[str, float] = field(default_factory=dict)
    kernels: dict[int, float] = field(default_factory=dict)


class GpuSpans:
    """Sums records up until their task's span can be made; ``spans`` knows traces."""

    def __init__(self, views: Views, spans: Spans) -> None:
        self.views = views
        self._spans = spans
        self._sums: dict[bytes, _Sum] = {}
        self._sent_to = 0

    def note(self, batch: Batch) -> None:
        """Add records; those already exported too."""
        for event in GPU_EVENTS:
            if event in batch:
                columns = batch[event]
                self._add(event, columns.take(columns["attributed_by"] != 0))

    def forget(self, batch: Batch) -> None:
        """These records have been exported before, and so have the spans that were due by then."""
        newest = (int(columns["time_ns"].max()) for columns in batch.values() if len(columns))
        self._sent_to = max([self._sent_to, *newest])

    def due(self) -> Iterator[Span]:
        """Spans of tasks that are over, and of which nothing came for a while."""
        now = self.views.samples.last_at_ns
        table = self.views.task_table
        for task, found in list(self._sums.items()):
            row = table.index.row(task)
            if row < 0 or table["state"][row] < FINISHED:
                continue
            settled = max(found.last, int(table["ended_at"][row])) + SETTLED_NS
            if settled <= now:
                del self._sums[task]
                if settled > self._sent_to:
                    yield self._span(task, found)

    def rest(self) -> Iterator[Span]:
        """Spans of all that is left: the session is over, or is looked at as it is."""
        for task, found in self._sums.items():
            if found.last + SETTLED_NS > self._sent_to:
                yield self._span(task, found)
        self._sums.clear()

    def _add(self, event: str, columns: Columns) -> None:
        if not len(columns):
            return
        tasks, first, back = np.unique(
            np.ascontiguousarray(columns["task"]).view("S16"), return_index=True, return_inverse=True
        )
        back, count = back.ravel(), len(tasks)
        begin = np.full(count, np.iinfo(np.int64).max)
        end = np.zeros(count, np.int64)
        np.minimum.at(begin, back, columns["time_ns"].astype(np.int64))
        np.maximum.at(end, back, columns["ended_at"].astype(np.int64))
        numbers = self._numbers(event, columns)
        sums = {name: np.bincount(back, weights, count).tolist() for name, weights in numbers.items()}
        for at, row in enumerate(first.tolist()):
            task = columns["task"][row].tobytes()
            low, high = int(begin[at]), int(end[at])
            found = self._sums.get(task)
            if found is None:
                found = _Sum(columns["worker"][row].tobytes(), int(columns["attempt"][row]), low, high)
                self._sums[task] = found
            if event != "gpu_wait":  # a wait is the host's
                found.first, found.last = min(found.first, low), max(found.last, high)
            for name, values in sums.items():
                found.counts[name] = found.counts.get(name, 0.0) + values[at]
        self._pairs(event, columns, back, [columns["task"][row].tobytes() for row in first.tolist()])

    def _numbers(self, event: str, columns: Columns) -> dict[str, Any]:
        if event == "gpu_wait":
            return {"wait_seconds": columns["wait_seconds"]}
        seconds = columns[_SECONDS[event]].astype(np.float64)
        if event == "gpu_kernel":
            talks = is_communication(self.views.store.texts, columns["kernel"])
            ones = np.ones(len(columns))
            return {"kernels": ones, "kernel_seconds": seconds, "communication_seconds": seconds * talks}
        if event == "gpu_copy":
            return {"copies": np.ones(len(columns)), "copy_seconds": seconds, "copy_bytes": columns["copy_bytes"]}
        return {"fill_seconds": seconds}

    def _pairs(self, event: str, columns: Columns, back: Any, tasks: list[bytes]) -> None:
        """GPUs and names of kernels of each task."""
        if event == "gpu_wait":
            return
        for pair in np.unique(back << 16 | columns["gpu"].astype(np.int64)).tolist():
            self._sums[tasks[pair >> 16]].gpus.add(pair & 0xFFFF)
        if event == "gpu_kernel":
            keys, of = np.unique(back.astype(np.int64) << 32 | columns["kernel"].astype(np.int64), return_inverse=True)
            seconds = np.bincount(of.ravel(), columns["kernel_seconds"])
            for key, took in zip(keys.tolist(), seconds.tolist(), strict=True):
                kernels = self._sums[tasks[key >> 32]].kernels
                kernels[key & 0xFFFFFFFF] = kernels.get(key & 0xFFFFFFFF, 0.0) + took

    def _span(self, task: bytes, found: _Sum) -> Span:
        table, texts = self.views.task_table, self.views.store.texts
        row = table.index.row(task)
        name = texts[int(table["name"][row])] if row >= 0 else "task"
        trace, run = self._spans.trace_of(task), span_ids.of_task(task, found.attempt)
        longest = sorted(found.kernels.items(), key=lambda pair: -pair[1])[:_KERNELS_NAMED]
        attributes: list[tuple[str, Any]] = [
            ("obsray.task.id", task.hex()), ("obsray.gpu.devices", sorted(found.gpus)),
            *(
                (f"obsray.gpu.{key}", value if key.endswith("_seconds") else int(value))
                for key, value in found.counts.items()
            ),
            ("obsray.gpu.longest_kernels", [texts[code] for code, _ in longest]),
            ("obsray.gpu.longest_kernels.seconds", [seconds for _, seconds in longest]),
        ]  # fmt: skip
        return Span(
            found.worker, trace, span_ids.of_task(task, found.attempt, Part.GPU), run, f"{name} GPU", Kind.INTERNAL,
            found.first, found.last, attributes, links=[(trace, run, [("obsray.link", "launched by")])],
        )  # fmt: skip


def whole(views: Views) -> Iterator[Span]:
    """Every span of a session, oldest records first; views must be up to date."""
    spans = Spans(views)
    gpu = GpuSpans(views, spans)
    store = views.store
    for names in (
        ("task_arguments_waiting", "task_arguments_given", "task_called_in_span", "task_item_yielded", "user_mark"),
        ("task_blocked", "transfer_asked", "object_allocation_waiting"),
    ):
        for name in names:
            for part in store.select(name):
                spans.note({name: part})
    for name in ("task_item_yielded", "tasks_finished", "task_finished", *Spans.makers):
        for part in store.select(name):
            yield from spans.of({name: part})
    # Some are about several kinds of records, and are told in the order of time.
    several = {name: joined(store.select(name), name) for name in ("task_ended", "worker_died", *Spans.others)}
    if len(several["object_restored"]):
        several["object_pinned"] = joined(store.select("object_pinned"), "object_pinned")
    yield from spans.of({name: columns for name, columns in several.items() if len(columns)})
    for name in GPU_EVENTS:
        for part in store.select(name):
            gpu.note({name: part})
    yield from spans.open()
    yield from gpu.rest()
