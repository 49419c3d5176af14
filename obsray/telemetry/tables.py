"""What all views share: the tables of one session, folded from its store, and how things are called."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from obsray import ids
from obsray.telemetry import explain
from obsray.telemetry.collectives import CollectiveTable
from obsray.telemetry.columns import Batch
from obsray.telemetry.concurrency import ConcurrencyTable
from obsray.telemetry.environments import EnvironmentTable
from obsray.telemetry.faults import FaultTable
from obsray.telemetry.gpu_work import GpuTable
from obsray.telemetry.gpus import GpusTable
from obsray.telemetry.groups import GroupTable
from obsray.telemetry.halts import HaltTable
from obsray.telemetry.leases import LeaseTable
from obsray.telemetry.log_files import LogTable
from obsray.telemetry.objects import ObjectTable
from obsray.telemetry.processes import ActorTable, ClusterTable, ProcessTable
from obsray.telemetry.samples import SampleTable
from obsray.telemetry.scaling import ScalingTable
from obsray.telemetry.store import Running, Store
from obsray.telemetry.table import DenseIndex, Grid
from obsray.telemetry.tasks import TaskTable

Row = dict[str, Any]
NS = 1_000_000_000
#: What was looked at stays in memory for so long.
RELEASE_SECONDS = 5.0
#: How a process ended that was gone with all others: the end of a sentence.
WITH_ITS_SESSION = "ended with its whole session: nobody was left to record how"


class Tables:
    """The tables of one session. ``refresh`` brings them up to date."""

    def __init__(self, store: Store) -> None:
        self.store = store
        texts = store.texts
        self.task_table = TaskTable(texts)
        self.object_table = ObjectTable()
        self.process_table = ProcessTable(texts)
        self.actor_table = ActorTable(texts)
        self.cluster_table = ClusterTable(texts)
        self.lease_table = LeaseTable(texts)
        self.group_table = GroupTable(texts)
        self.environment_table = EnvironmentTable(texts)
        self.collective_table = CollectiveTable(texts)
        self.concurrency_table = ConcurrencyTable(texts)
        self.gpu_table = GpuTable(texts)
        self.gpus_table = GpusTable(texts)
        self.fault_table = FaultTable(texts)
        self.scaling_table = ScalingTable(texts)
        self.halt_table = HaltTable(texts)
        self.log_table = LogTable(texts)
        self.samples = SampleTable(texts)
        self.version = 0
        self.running: list[Running] = []
        self._released_at = time.monotonic()
        #: When a session ended whose node is gone: with its last record. 0 of one that lives.
        self.over_at_ns = 0
        store.add_fold(self._fold)

    def _fold(self, batch: Batch) -> None:
        for table in (
            self.task_table, self.object_table, self.process_table, self.actor_table, self.cluster_table,
            self.lease_table, self.group_table, self.environment_table, self.collective_table,
            self.concurrency_table, self.gpu_table, self.gpus_table, self.fault_table, self.scaling_table,
            self.log_table, self.halt_table, self.samples,
        ):  # fmt: skip
            table.update(batch)

    def refresh(self) -> int:
        """Fold what is new; returns how many records that were."""
        if time.monotonic() - self._released_at >= RELEASE_SECONDS:
            self.release()
        if not len(self.task_table):
            self.store.catalog.refresh()
            self.task_table.expect(self.store.catalog.stored())
        count = self.store.refresh()
        self.running = self.store.running()
        self.over_at_ns = self._over()
        if self.over_at_ns:
            self.actor_table.conclude(self.over_at_ns)
        self.task_table.derive(self.running, self)
        self.object_table.derive(self)
        if count:
            self.version += 1
        return count

    def lie_in(self, directory: Path) -> None:
        """From some hundred thousand rows on, tables lie in files of this directory (which have no names), and are in
        memory while somebody looks at them; for readers that live long."""
        for each in self._long():
            each.lie_in(directory)

    def release(self) -> None:
        """What lies in files leaves memory until somebody looks at it again."""
        self._released_at = time.monotonic()
        for each in self._long():
            each.release()

    def _long(self) -> tuple[Grid | DenseIndex, ...]:
        """What grows with every task."""
        tasks, objects, gpu = self.task_table, self.object_table, self.gpu_table
        return tasks.grid, tasks.index, tasks.dispatches, objects.grid, objects.index.first, gpu.tasks, gpu.index

    def _over(self) -> int:
        known = self.store.session().get("node_pid") and not self.store.is_live()
        return self.samples.last_at_ns if known else 0

    def _alive(self, process: bytes) -> bool:
        reader = self.store.ring(process)
        if reader is None or not reader.state.pid:
            # It has recorded nothing (yet).
            return self.store.is_live()
        if reader.state.node in self.store.rings.nodes and not self.store.is_live():
            # It is on another node, of which nobody tells any more.
            return False
        return self.store.rings.alive(process)

    def process_end(self, process: bytes) -> tuple[int, str] | None:
        """When the owner of a thing ended, and what to say of that; None if it lives."""
        end = self.process_table.end_of(process)
        if end is None and self.over_at_ns and not self._alive(process):
            end = self.over_at_ns, WITH_ITS_SESSION
        return (end[0], f"its owner, {self.process_label(process)}, {end[1]}") if end is not None else None

    def actor_end(self, actor: bytes) -> tuple[int, str] | None:
        """When an actor ended, and what to say of that; None if it lives, or will: its node looks after that."""
        row = self.actor_table.rows.get(actor)
        if row is None:
            return self.process_end(ids.owner_of(actor))
        return (row["died_at_ns"], row["error"] or "its actor is dead") if row["state"] == "DEAD" else None

    def now_ns(self) -> int:
        """The time that open durations run to: now, or the last event of a session that is over."""
        return time.time_ns() if self.store.is_live() else self.samples.last_at_ns

    def process_label(self, process: bytes) -> str:
        """How a process is called: ``worker 3fa2c1d0 (pid 123)``."""
        row = self.process_table.rows.get(process)
        if row is None:
            for node, facts in self.cluster_table.nodes.items():
                if node == process:
                    return f"node {process.hex()[:8]} (pid {facts['pid']})"
        return explain.label(row, process)

    def task_label(self, task: bytes) -> str:
        """How a task is called: ``word_count (3fa2c1d0:42)``."""
        row = self.task_table.index.row(task)
        return explain.task_label(self.store.texts[int(self.task_table["name"][row])] if row >= 0 else "", task)

    def pid(self, worker: bytes) -> int | None:
        row = self.process_table.rows.get(worker)
        return row["pid"] if row and row["pid"] else None


def parse_id(text: str, size: int) -> bytes | None:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        return None
    return value if len(value) == size else None


def hex_or_none(value: Any) -> str | None:
    data = value.tobytes()
    return data.hex() if any(data) else None


def time_or_none(value: Any) -> int | None:
    return int(value) or None


def public(record: Row) -> Row:
    """A record with its ids as hex."""
    return {name: value.hex() if isinstance(value, bytes) else value for name, value in record.items()}
