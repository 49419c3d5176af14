"""Views of GPU work: one task's kernels and copies, and the kernels that took longest."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from obsray.gpu.words import Attribution
from obsray.telemetry.columns import Array, Columns
from obsray.telemetry.gpu_work import KERNEL_SUMS, SPEC, busy_seconds, launch_delays
from obsray.telemetry.gpus import SAMPLED, sampled, told
from obsray.telemetry.object_views import ObjectViews
from obsray.telemetry.store import joined
from obsray.telemetry.table import same_id
from obsray.telemetry.tables import NS, Row

_BY = [how.name.lower() for how in Attribution]
#: Work whose task nobody knows is listed under this.
NO_TASK = "(no known task)"


class GpuViews(ObjectViews):
    """What can be asked about GPU work."""

    def kernels(self, refresh: bool = True) -> list[Row]:
        """Per function and kernel: launches, seconds in all, mean and longest, and how long after their launches they
        began (None where that is not known); those that took most first."""
        if refresh:
            self.refresh()
        texts = self.store.texts
        sums = {key: dict(zip(KERNEL_SUMS, each.tolist(), strict=True)) for key, each in self.gpu_table.kernels.items()}
        total = sum(entry["seconds"] for entry in sums.values()) or 1.0
        found: list[Row] = [
            {
                "kernel": texts[kernel],
                "function": texts[function] or NO_TASK,
                "launches": int(entry["launches"]),
                "kernel_seconds": entry["seconds"],
                "mean_seconds": entry["seconds"] / entry["launches"],
                "max_seconds": entry["max_seconds"],
                "launch_delay_seconds": entry["delay_seconds"] / entry["timed"] if entry["timed"] else None,
                "launch_delay_max_seconds": entry["max_delay_seconds"] if entry["timed"] else None,
                "share": entry["seconds"] / total,
            }
            for (function, kernel), entry in sums.items()
        ]
        found.sort(key=lambda row: -row["kernel_seconds"])
        return found

    def gpu_devices(self, refresh: bool = True) -> list[Row]:
        """One row for each GPU of each node, as it is now or was at the end.

        What it is: ``uuid``, ``model``, ``memory_bytes``, None where only its number is known; ``state`` with
        ``reason`` and ``xid``. How it fared at ``sampled_at_ns``, None where nothing samples it: shares of time in
        which kernels ran (``utilization``) and the memory *bus* was busy (``bus_utilization``), ``used_bytes`` of
        memory, power, heat, ``slowdown``. ``holders``: processes of obsray that hold its memory, with what they ran;
        ``foreign_processes`` are others. ``notices``: what cannot be learned, and why. ``text`` is all of it in
        a sentence, empty if only the number is known.
        """
        if refresh:
            self.refresh()
        table, nodes, found = self.gpus_table, self.cluster_table.nodes, []
        for key, row in sorted(table.rows.items()):
            node = nodes.get(key[0])
            holders = [self._gpu_holder(each) for each in table.holding(key, row["sampled_at_ns"])]
            notices = table.notices(key)
            found.append({
                **row,
                "node_name": node["name"] if node else None,
                "node_state": node["state"] if node else None,
                "holders": holders,
                "notices": notices,
                "text": told(row, holders, notices),
            })  # fmt: skip
        return found

    def _gpu_holder(self, holder: Row) -> Row:
        process = self.process_table.rows.get(bytes.fromhex(holder["worker_id"]))
        actor = process["actor_id"] if process else None
        row = self.task_table.index.row(bytes.fromhex(holder["task_id"])) if holder["task_id"] else -1
        name = self.store.texts[int(self.task_table["name"][row])] if row >= 0 else None
        return {**holder, "actor_id": actor, "function": name}

    def gpu_history(self, node_hex: str, gpu: int, since_ns: int = 0, until_ns: int = 1 << 63) -> list[Row]:
        """The samples of one GPU in this time, oldest first: ``at_ns`` and what ``gpu_devices`` has of them."""
        node = bytes.fromhex(node_hex)
        columns = joined(
            self.store.select(
                "gpu_sample",
                lambda columns: same_id(columns["node"], node) & (columns["gpu"] == gpu)
                & (columns["time_ns"] >= since_ns) & (columns["time_ns"] <= until_ns),
            ),
            "gpu_sample",
        )  # fmt: skip
        rows = sorted(columns.rows(self.store.texts), key=lambda row: row["time_ns"])
        return [{"at_ns": row["time_ns"], **{name: sampled(row[name]) for name in SAMPLED}} for row in rows]

    def gpu_seconds(self) -> dict[str, float]:
        """Seconds that kernels ran, by function."""
        found: dict[str, float] = {}
        for (function, _), entry in self.gpu_table.kernels.items():
            name = self.store.texts[function]
            if name:
                found[name] = found.get(name, 0.0) + float(entry[KERNEL_SUMS.index("seconds")])
        return found

    def gpu_seconds_of_jobs(self) -> dict[int, float]:
        """Seconds that kernels ran, by job."""
        table = self.gpu_table
        if not table.index.count:
            return {}
        rows = table.index.rows(self.task_table["id"], create=False)
        good = rows >= 0
        jobs, back = np.unique(self.task_table["job"][good], return_inverse=True)
        sums = np.bincount(back.ravel(), table.tasks["kernel_seconds"][rows[good]], len(jobs))
        return dict(zip(jobs.tolist(), sums.tolist(), strict=True))

    def task_gpu(self, task: bytes, started_ns: int, ended_ns: int) -> dict[str, Any] | None:
        """One task's GPU work; None if it had none. ``idle_seconds`` is the time of the task, from ``started_ns`` to
        ``ended_ns``, in which none of its kernels and copies ran; ``activities`` what its GPUs did meanwhile and, where
        that was nothing, why; ``launch_delay``: how long after their launches its kernels began."""
        from obsray.telemetry.answers import gpus

        sums = self.gpu_table.of(task)
        if sums is None:
            return None
        activities = gpus.task_gpu_time(cast("Any", self), self.task_table.index.row(task), started_ns, ended_ns)
        seconds = {row["activity"]: row["seconds"] for row in activities}
        cause = gpus.main_cause(seconds)
        kernels, copies = self._of_task("gpu_kernel", task), self._of_task("gpu_copy", task)
        starts = np.concatenate([kernels["time_ns"], copies["time_ns"]])
        ends = np.concatenate([kernels["ended_at"], copies["ended_at"]])
        busy = busy_seconds(starts, ends)
        span = max(0, ended_ns - started_ns) / NS
        how = np.bincount(np.minimum(kernels["attributed_by"], len(_BY) - 1), minlength=len(_BY))
        return {
            **sums,
            "busy_seconds": busy,
            "busy_share": min(1.0, busy / span) if span else None,
            "idle_seconds": max(0.0, span - busy) if span else None,
            "gpus": sorted(set(kernels["gpu"].tolist()) | set(copies["gpu"].tolist())),
            "attributed_by": {name: int(count) for name, count in zip(_BY, how, strict=True) if count},
            "by_kernel": self._by_kernel(kernels),
            "activities": activities,
            "cause": cause,
            "why": gpus.causes_told(seconds) if activities else None,
            "fix": gpus.fix_for(cause),
            "launch_delay": _delays(kernels),
        }

    def _of_task(self, event: str, task: bytes) -> Columns:
        return joined(self.store.select(event, lambda columns: same_id(columns["task"], task)), event)

    def _by_kernel(self, kernels: Columns) -> list[Row]:
        codes, back = np.unique(kernels["kernel"], return_inverse=True)
        if not len(codes):
            return []
        counts, seconds = np.bincount(back), np.bincount(back, weights=kernels["kernel_seconds"])
        return [
            {
                "kernel": self.store.texts[int(codes[at])],
                "launches": int(counts[at]),
                "kernel_seconds": float(seconds[at]),
                "mean_seconds": float(seconds[at] / counts[at]),
            }
            for at in np.argsort(-seconds, kind="stable").tolist()
        ]

    def gpu_spans(self, tasks: Array) -> dict[bytes, Row]:
        """Of these tasks the GPU work in one span each: from its first to its last record, with sums. Column by column,
        and only of tasks that have some."""
        rows = self.gpu_table.index.rows(tasks, create=False)
        wanted, place = np.unique(rows[rows >= 0], return_index=True)
        identifiers = tasks[rows >= 0][place]
        if not len(wanted):
            return {}
        first = np.full(len(wanted), np.iinfo(np.int64).max)
        last = np.zeros(len(wanted), np.int64)
        gpus: list[set[int]] = [set() for _ in wanted]
        workers = [b""] * len(wanted)
        for event in ("gpu_kernel", "gpu_copy", "gpu_memset"):
            for columns in self.store.select(event, lambda one: one["attributed_by"] != 0):
                of = self.gpu_table.index.rows(columns["task"], create=False)
                at = np.minimum(np.searchsorted(wanted, of), len(wanted) - 1)
                good = (of >= 0) & (wanted[at] == of)
                at = at[good]
                np.minimum.at(first, at, columns["time_ns"][good].astype(np.int64))
                np.maximum.at(last, at, columns["ended_at"][good].astype(np.int64))
                few, row = np.unique(at, return_index=True)
                for number, worker in zip(few.tolist(), columns["worker"][good][row], strict=True):
                    workers[number] = worker.tobytes()
                for pair in np.unique(at << 16 | columns["gpu"][good].astype(np.int64)).tolist():
                    gpus[pair >> 16].add(pair & 0xFFFF)
        return {
            identifiers[at].tobytes(): {
                "start_ns": int(first[at]), "end_ns": int(last[at]), "gpus": sorted(gpus[at]),
                "worker": workers[at],
                **{name: self.gpu_table.tasks[name][row].item() for name in SPEC},
            }
            for at, row in enumerate(wanted.tolist()) if last[at]
        }  # fmt: skip

    def gpu_summary(self) -> dict[str, Any]:
        """What is captured in all, how much of it has no task, and what is missing."""
        table = self.gpu_table
        return {
            "kernels": table.kernels_total,
            "unattributed_kernels": table.unattributed["kernels"],
            "unattributed_seconds": table.unattributed["kernel_seconds"],
            "unattributed_share": table.unattributed["kernels"] / table.kernels_total if table.kernels_total else 0.0,
            "records_lost": table.lost,
            "notices": [{"worker_id": worker.hex(), "text": text} for worker, text in table.notices.items()],
        }


def _delays(kernels: Columns) -> dict[str, float] | None:
    """How long after their launches kernels began; None where no launch is known."""
    delays, timed = launch_delays(kernels)
    if not timed.any():
        return None
    middle, high = np.percentile(delays[timed], (50, 95)).tolist()
    return {
        "kernels": int(timed.sum()), "mean_seconds": float(delays[timed].mean()), "p50_seconds": middle,
        "p95_seconds": high, "max_seconds": float(delays[timed].max()),
    }  # fmt: skip
