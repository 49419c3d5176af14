"""What is known about processes, actors, jobs and nodes: few things that change seldom, so plain dictionaries."""

from __future__ import annotations

from typing import Any

import numpy as np

from obsray import ids
from obsray.telemetry.columns import Array, Batch, Columns, Texts, in_order
from obsray.telemetry.events import ProcessKind

Row = dict[str, Any]


class ProcessTable:
    """Every process by its id: who it is, how it fares, how it ended."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.rows: dict[bytes, Row] = {}
        #: Actor of each process that has one; other nodes' processes are named here before they are known.
        self._actors: dict[bytes, str] = {}
        #: Mark of each node that is gone -> when, and its id: its processes went with it, and cannot say so.
        self._nodes_gone: dict[bytes, tuple[int, str]] = {}

    def _row(self, process: bytes) -> Row:
        row = self.rows.get(process)
        if row is None:
            row = self.rows[process] = {
                "worker_id": process.hex(), "pid": 0, "kind": "worker", "starting_at_ns": None,
                "registered_at_ns": None, "start_seconds": None, "died_at_ns": None, "died_cause": None,
                "exit_code": None, "signal": None, "error": None, "last_task": None, "rss_bytes": None,
                "unique_bytes": None, "cpu_seconds": None, "threads": None, "descriptors": None,
                "sampled_at_ns": None, "actor_id": self._actors.get(process), "closed_at_ns": None,
                "environment_id": None,
            }  # fmt: skip
        return row

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        for event, fold in (
            ("ring_opened", self._opened), ("worker_starting", self._starting), ("worker_registered", self._registered),
            ("worker_died", self._died), ("process_sample", self._sampled), ("ring_closed", self._closed),
            ("actor_placed", self._placed), ("job_ended", self._job_ended), ("node_changed", self._node_changed),
            ("node_stopped", self._node_gone),
        ):  # fmt: skip
            columns = batch.get(event)
            if columns is not None:
                fold(columns)

    def end_of(self, process: bytes) -> tuple[int, str] | None:
        """When a process ended by what is recorded, and how, as the end of a sentence; None if it lives."""
        row = self.rows.get(process)
        if row is not None and (row["died_at_ns"] or row["closed_at_ns"]):
            at = min(time for time in (row["died_at_ns"], row["closed_at_ns"]) if time)
            if row["died_cause"] in (None, "intended", "idle"):
                return at, "ended before the task did"
            how = "was killed or crashed" if row["kind"] == "driver" else "died"
            return at, f"{how}: {row['error'] or row['died_cause']}"
        gone = self._nodes_gone.get(ids.mark_of(process))
        return (gone[0], f"was lost with node {gone[1][:8]}") if gone is not None else None

    def _node_changed(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            if record["state"].upper() == "DEAD":
                self._nodes_gone.setdefault(ids.mark_of_node(record["node"]), (record["time_ns"], record["node"].hex()))
            elif record["state"].upper() == "ALIVE":
                self._nodes_gone.pop(ids.mark_of_node(record["node"]), None)

    def _node_gone(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            self._nodes_gone.setdefault(ids.mark_of_node(record["node"]), (record["time_ns"], record["node"].hex()))

    def _opened(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            row = self._row(record["worker"])
            row["pid"] = row["pid"] or record["pid"]
            row["kind"] = record["process_kind"]
            if record["process_kind"] != "worker":
                # A worker counts as there when the node says so; the others are there when they begin to record.
                row["registered_at_ns"] = row["registered_at_ns"] or record["time_ns"]

    def _starting(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            row = self._row(record["worker"])
            row["starting_at_ns"] = record["time_ns"]
            row["environment_id"] = record["environment"].hex() if any(record["environment"]) else None

    def _registered(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            self._row(record["worker"]).update(
                pid=record["pid"], kind=record["process_kind"], registered_at_ns=record["time_ns"],
                start_seconds=record["start_seconds"],
            )  # fmt: skip

    def _died(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            row = self._row(record["worker"])
            row.update(
                died_at_ns=record["time_ns"], died_cause=record["cause"], exit_code=record["exit_code"],
                signal=record["signal"], error=record["error"],
                last_task=record["last_task"].hex() if any(record["last_task"]) else None,
            )  # fmt: skip
            row["pid"] = row["pid"] or record["pid"]
            row["rss_bytes"] = row["rss_bytes"] or record["rss_bytes"] or None

    def _closed(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            self._row(record["worker"])["closed_at_ns"] = record["time_ns"]

    def _job_ended(self, columns: Columns) -> None:
        """What a node says of a driver, which is no worker of it: whether it left in order."""
        for record in columns.rows(self.texts):
            row = self._row(record["worker"])
            row["kind"] = "driver"
            if record["cause"] == "intended":
                row["closed_at_ns"] = row["closed_at_ns"] or record["time_ns"]
            else:
                row.update(died_at_ns=record["time_ns"], died_cause=record["cause"], error="its connection broke")

    def _placed(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            actor = self._actors[record["worker"]] = record["actor"].hex()
            if record["worker"] in self.rows:
                self.rows[record["worker"]]["actor_id"] = actor

    def _sampled(self, columns: Columns) -> None:
        for index in last_of_each(columns["worker"]):
            row = self._row(columns["worker"][index].tobytes())
            row.update(
                pid=int(columns["pid"][index]), rss_bytes=int(columns["rss_bytes"][index]),
                unique_bytes=int(columns["unique_bytes"][index]),
                cpu_seconds=float(columns["cpu_seconds_total"][index]),
                threads=int(columns["threads"][index]), descriptors=int(columns["descriptors"][index]),
                sampled_at_ns=int(columns["time_ns"][index]),
            )  # fmt: skip
            row["kind"] = ProcessKind(int(columns["process_kind"][index])).name.lower()


class Unplaced:
    """Actors that only their creator knows so far: if it ends, nobody else tells what became of them."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, set[bytes]] = {}
        #: Processes that have ended, and when.
        self._gone: dict[bytes, int] = {}

    def created(self, actor: bytes) -> int | None:
        """An actor that lives no longer than its creator was asked for. Returns when its creator ended, if it has."""
        creator = actor[: ids.WORKER_ID_BYTES]
        ended = self._gone.get(creator)
        if ended is None:
            self._waiting.setdefault(creator, set()).add(actor)
        return ended

    def taken(self, actor: bytes) -> None:
        """Somebody else tells what becomes of it."""
        of = self._waiting.get(actor[: ids.WORKER_ID_BYTES])
        if of is not None:
            of.discard(actor)

    def ended(self, batch: Batch) -> list[tuple[bytes, int]]:
        """The actors that are over because their creator is, and since when."""
        found = []
        for event in ("worker_died", "ring_closed", "job_ended"):
            if event in batch:
                for process, time_ns in zip(batch[event]["worker"], batch[event]["time_ns"].tolist(), strict=True):
                    creator = process.tobytes()
                    self._gone.setdefault(creator, time_ns)
                    found += [(actor, time_ns) for actor in sorted(self._waiting.pop(creator, ()))]
        return found


class ActorTable:
    """Every actor by its id, with what happened to it."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.rows: dict[bytes, Row] = {}
        self._unplaced = Unplaced()

    def _row(self, actor: bytes) -> Row:
        row = self.rows.get(actor)
        if row is None:
            row = self.rows[actor] = {
                "actor_id": actor.hex(), "class_name": "", "name": "", "namespace": "", "state": "PENDING_CREATION",
                "worker_id": None, "node_id": None, "job_id": None, "task_id": None, "shape": "", "restarts": 0,
                "restarts_max": 0, "detached": False, "created_at_ns": None, "placed_at_ns": None,
                "alive_at_ns": None, "died_at_ns": None, "start_seconds": None, "died_cause": None, "error": None,
                "checkpoints": 0, "checkpoint_bytes": None, "checkpointed_at_ns": None, "calls_replayed": 0,
                "placement_group_id": None, "repr_name": "", "labels": None, "_at": 0, "_pid": None,
            }  # fmt: skip
        return row

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        events = (
            "actor_created", "actor_placed", "actor_restored", "actor_alive", "actor_checkpoint_saved",
            "actor_restarting", "actor_died", "actor_described", "actor_labelled",
        )  # fmt: skip
        for time_ns, event, record in in_order(batch, events, self.texts):
            getattr(self, "_" + event)(self._row(record["actor"]), time_ns, record)
            if event in ("actor_placed", "actor_died"):
                self._unplaced.taken(record["actor"])
        for actor, time_ns in self._unplaced.ended(batch):
            self._never_placed(self.rows[actor], time_ns)

    def conclude(self, over_at_ns: int) -> None:
        """Nobody is left to tell of actors that lived when the session ended: they ended with it."""
        for row in self.rows.values():
            if row["state"] != "DEAD":
                row.update(
                    state="DEAD", died_at_ns=over_at_ns, died_cause="unknown", error="it ended with its whole session"
                )  # fmt: skip

    def _never_placed(self, row: Row, time_ns: int) -> None:
        if row["placed_at_ns"] is None and row["state"] == "PENDING_CREATION":
            row.update(died_at_ns=time_ns, died_cause="owner_died", error="its creator ended before it was placed")
            self._state(row, max(time_ns, row["created_at_ns"]), "DEAD")

    def _actor_created(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(
            class_name=record["class_name"], name=record["actor_name"], namespace=record["namespace"],
            job_id=f"{record['job']:08x}", task_id=record["task"].hex(), shape=record["shape"],
            restarts_max=record["restarts_max"], detached=bool(record["detached"]), created_at_ns=time_ns,
            placement_group_id=record["group"].hex() if any(record["group"]) else None,
        )  # fmt: skip
        if not record["detached"] and row["state"] == "PENDING_CREATION":
            ended = self._unplaced.created(record["actor"])
            if ended is not None:
                self._never_placed(row, ended)

    def _state(self, row: Row, time_ns: int, state: str) -> None:
        if time_ns >= row["_at"]:
            row["_at"], row["state"] = time_ns, state

    def _actor_placed(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(worker_id=record["worker"].hex(), node_id=record["node"].hex(), placed_at_ns=time_ns, _pid=None)
        self._state(row, time_ns, "PENDING_CREATION")

    def _actor_alive(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(worker_id=record["worker"].hex(), alive_at_ns=time_ns, start_seconds=record["start_seconds"])
        row["_pid"] = record["pid"] or None
        self._state(row, time_ns, "ALIVE")

    def _actor_restarting(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(restarts=record["restarts"], error=record["error"])
        self._state(row, time_ns, "RESTARTING")

    def _actor_checkpoint_saved(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(checkpoints=record["checkpoint"], checkpoint_bytes=record["state_bytes"], checkpointed_at_ns=time_ns)

    def _actor_described(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(repr_name=record["text"])

    def _actor_restored(self, row: Row, time_ns: int, record: Row) -> None:
        row["calls_replayed"] += record["calls"]

    def _actor_labelled(self, row: Row, time_ns: int, record: Row) -> None:
        row["labels"] = record["labels"]

    def _actor_died(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(
            died_at_ns=time_ns, died_cause=record["cause"], error=record["error"], restarts=record["restarts"],
            class_name=row["class_name"] or record["class_name"],
        )  # fmt: skip
        self._state(row, time_ns, "DEAD")


class ClusterTable:
    """Nodes and jobs."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.nodes: dict[bytes, Row] = {}
        self.jobs: dict[int, Row] = {}
        #: Nodes that are gone: how much of what they recorded is here.
        self.records_ended: dict[bytes, Row] = {}

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        for event, fold in (
            ("node_started", self._node_started), ("node_stopped", self._node_stopped), ("node_changed", self._changed),
            ("job_started", self._job_started), ("job_ended", self._job_ended), ("clock_measured", self._clock),
            ("node_records_ended", self._records_ended),
        ):  # fmt: skip
            if event in batch:
                for record in batch[event].rows(self.texts):
                    fold(record)

    def _node(self, node: bytes) -> Row:
        return self.nodes.setdefault(
            node,
            {
                "node_id": node.hex(), "name": "", "role": "", "labels": "", "pid": None, "host": "",
                "state": "ALIVE", "store_bytes": None,
                "started_at_ns": None, "stopped_at_ns": None, "error": None, "clock_offset_seconds": None,
                "clock_uncertainty_seconds": None, "records_lost": None, "records_lost_estimated": None,
            },
        )  # fmt: skip

    def _records_ended(self, record: Row) -> None:
        self._node(record["node"]).update(
            records_lost=record["missing"], records_lost_estimated=record["missing_estimated"]
        )
        self.records_ended[record["node"]] = {
            "node_id": record["node"].hex(), "complete": bool(record["complete"]), "taken": record["events"],
            "lost": record["missing"], "lost_estimated": record["missing_estimated"],
            "unheard_seconds": record["silent_seconds"], "at_ns": record["time_ns"],
        }  # fmt: skip

    def _clock(self, record: Row) -> None:
        self._node(record["node"]).update(
            clock_offset_seconds=record["offset_seconds"], clock_uncertainty_seconds=record["uncertainty_seconds"]
        )

    def _node_started(self, record: Row) -> None:
        self._node(record["node"]).update(
            name=record["name"], role="head" if record["head"] else "", labels=record["labels"], pid=record["pid"],
            host=record["host"], store_bytes=record["store_bytes"], started_at_ns=record["time_ns"],
        )  # fmt: skip

    def _node_stopped(self, record: Row) -> None:
        self._node(record["node"]).update(state="DEAD", stopped_at_ns=record["time_ns"], error=record["error"] or None)

    def _changed(self, record: Row) -> None:
        state = record["state"].upper()
        self._node(record["node"]).update(state=state, error=(record["error"] or None) if state != "ALIVE" else None)

    def _job(self, job: int) -> Row:
        return self.jobs.setdefault(
            job,
            {
                "job_id": f"{job:08x}", "driver_id": None, "pid": None, "entrypoint": "", "namespace": "",
                "metadata": "", "state": "RUNNING", "cause": None, "started_at_ns": None, "ended_at_ns": None,
            },
        )  # fmt: skip

    def _job_started(self, record: Row) -> None:
        self._job(record["job"]).update(
            driver_id=record["worker"].hex(), pid=record["pid"], entrypoint=record["entrypoint"],
            namespace=record["namespace"], metadata=record["metadata"], started_at_ns=record["time_ns"],
        )  # fmt: skip

    def _job_ended(self, record: Row) -> None:
        state = "SUCCEEDED" if record["cause"] == "intended" else "FAILED"
        self._job(record["job"]).update(state=state, cause=record["cause"], ended_at_ns=record["time_ns"])


def last_of_each(ids: Array) -> list[int]:
    """The index of the last occurrence of each id (V8)."""
    words = np.ascontiguousarray(ids).view("<u8")
    _, index = np.unique(words[::-1], return_index=True)
    found: list[int] = (len(words) - 1 - index).tolist()
    return found
