"""The table of objects: one row per object that was put, created in the store, or handed on."""

from __future__ import annotations

from typing import Any

import numpy as np

from obsray.telemetry.columns import Array, Batch, Columns
from obsray.telemetry.table import DenseIndex, Grid, HashIndex
from obsray.telemetry.tasks import Ends

STATES = ("CREATED", "SEALED", "SPILLED", "FREED", "LOST", "IN_OWNER")
CREATED, SEALED, SPILLED, FREED, LOST, IN_OWNER = range(len(STATES))

SPEC: dict[str, tuple[str, Any]] = {
    "id": ("V20", 0),
    "put_by": ("V16", 0),
    "creator": ("V8", 0),
    "call_site": ("<i4", 0),
    "error": ("<i4", 0),
    "bytes": ("<u8", 0),
    "inline": ("u1", 0),
    "put_at": ("<i8", 0),
    "created_at": ("<i8", 0),
    "sealed_at": ("<i8", 0),
    "spilled_at": ("<i8", 0),
    "restored_at": ("<i8", 0),
    "freed_at": ("<i8", 0),
    "lost_at": ("<i8", 0),
    #: How many views there are now, and how many there have been.
    "pins": ("<i4", 0),
    "reads": ("<u4", 0),
    "pinned_at": ("<i8", 0),
    "node": ("V8", 0),
    "transfers": ("<u4", 0),
}


class ObjectIndex:
    """Object ids (20 bytes) -> rows. The first result of a task, nearly all of them, needs no hashing."""

    def __init__(self) -> None:
        self.count = 0
        self.first = DenseIndex()
        self._first_rows = np.empty(0, np.int64)
        self._others = HashIndex()
        self._other_rows: list[int] = []

    def rows(self, ids: Array, create: bool = True) -> Array:
        if not len(ids):
            return np.empty(0, np.int64)
        words = np.ascontiguousarray(ids).view("<u4").reshape(-1, 5)
        first = words[:, 4] == 0
        found = np.full(len(ids), -1, np.int64)
        if first.any():
            tasks = np.ascontiguousarray(words[first][:, :4]).view("V16").ravel()
            dense = self.first.rows(tasks, create)
            self._extend()
            known = dense >= 0
            part = np.full(len(dense), -1, np.int64)
            part[known] = self._first_rows[dense[known]]
            found[first] = part
        if not first.all():
            hashed = self._others.rows(ids[~first], create)
            while len(self._other_rows) < self._others.count:
                self._other_rows.append(self.count)
                self.count += 1
            table = np.array(self._other_rows, np.int64)
            known = hashed >= 0
            part = np.full(len(hashed), -1, np.int64)
            part[known] = table[hashed[known]]
            found[~first] = part
        return found

    def row(self, identifier: bytes) -> int:
        return int(self.rows(np.frombuffer(identifier, "V20"), create=False)[0])

    def _extend(self) -> None:
        new = self.first.count - len(self._first_rows)
        if new > 0:
            self._first_rows = np.concatenate([self._first_rows, np.arange(self.count, self.count + new)])
            self.count += new


class ObjectTable:
    """All objects of a session; ``update`` folds new records."""

    def __init__(self) -> None:
        self.index = ObjectIndex()
        self.grid = Grid(SPEC)
        #: Processes that own objects, as numbers, when those ended that have, and up to which row that is said.
        self._owners: set[int] = set()
        self._gone: dict[int, int] = {}
        self._settled = 0
        #: Row -> nodes that have a copy besides the original.
        self.copies: dict[int, set[bytes]] = {}
        self._times = {
            "object_created": "created_at",
            "object_sealed": "sealed_at",
            "object_spilled": "spilled_at",
            "object_restored": "restored_at",
            "object_freed": "freed_at",
            "object_lost": "lost_at",
        }

    def __len__(self) -> int:
        return self.grid.count

    def __getitem__(self, name: str) -> Array:
        return self.grid[name]

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        put = batch.get("object_put")
        if put is not None:
            rows, put = self._rows(put)
            self.grid["put_at"][rows] = put["time_ns"]
            self.grid["put_by"][rows] = put["task"]
            self.grid["creator"][rows] = put["process"]
            self.grid["inline"][rows] = put["inline"]
            self.grid["call_site"][rows] = put["call_site"]
            self.grid["bytes"][rows] = put["object_bytes"]
        for event, name in self._times.items():
            columns = batch.get(event)
            if columns is None:
                continue
            rows, columns = self._rows(columns)
            np.maximum.at(self.grid[name], rows, columns["time_ns"].astype(np.int64))
            np.maximum.at(self.grid["bytes"], rows, columns["object_bytes"])
            if event == "object_created":
                self.grid["creator"][rows] = columns["worker"]
                self.grid["node"][rows] = columns["process"]
            elif event == "object_lost":
                self.grid["error"][rows] = columns["error"]
        pinned = batch.get("object_pinned")
        if pinned is not None:
            rows, pinned = self._rows(pinned)
            np.add.at(self.grid["pins"], rows, 1)
            np.add.at(self.grid["reads"], rows, 1)
            np.maximum.at(self.grid["pinned_at"], rows, pinned["time_ns"].astype(np.int64))
        unpinned = batch.get("object_unpinned")
        if unpinned is not None:
            rows, unpinned = self._rows(unpinned)
            np.subtract.at(self.grid["pins"], rows, unpinned["pins"].astype(np.int32))
        self._fold_copies(batch)

    def _fold_copies(self, batch: Batch) -> None:
        """Where copies are: what came and what went, in order of time."""
        changes: list[tuple[int, int, str, bytes]] = []
        for event, field in (
            ("transfer_done", "destination"), ("object_copy_dropped", "node"), ("object_copy_kept", "node")
        ):  # fmt: skip
            columns = batch.get(event)
            if columns is None:
                continue
            rows, columns = self._rows(columns)
            if event == "transfer_done":
                np.add.at(self.grid["transfers"], rows, 1)
                np.maximum.at(self.grid["bytes"], rows, columns["object_bytes"])
            times, nodes = columns["time_ns"].tolist(), columns[field]
            changes += [
                (at, row, event, node.tobytes()) for at, row, node in zip(times, rows.tolist(), nodes, strict=True)
            ]
        for _, row, event, node in sorted(changes):
            copies = self.copies.setdefault(row, set())
            if event == "transfer_done":
                copies.add(node)
                continue
            copies.discard(node)
            if event == "object_copy_kept":
                self.grid["node"][row] = np.frombuffer(node, "V8")[0]

    def nodes_of(self, row: int, state: int) -> list[bytes]:
        """The nodes in whose store an object lies, that of the original first."""
        if state in (FREED, LOST):
            return []
        original = self.grid["node"][row].tobytes()
        here = [original] if any(original) and state in (CREATED, SEALED, SPILLED) else []
        return here + sorted(self.copies.get(row, set()) - set(here))

    def _rows(self, columns: Columns) -> tuple[Array, Columns]:
        ids = columns["object"]
        rows = self.index.rows(ids)
        good = rows >= 0
        before = self.grid.count
        self.grid.grow(self.index.count)
        new = good & (rows >= before)
        self.grid["id"][rows[new]] = ids[new]
        return (rows, columns) if good.all() else (rows[good], columns.take(good))

    def derive(self, ends: Ends) -> None:
        """Values that were in their owner go with it, and nobody lives to say so. What is in a store its node frees."""
        grid = self.grid
        self._owners.update(np.unique(_owners(grid["id"][self._settled :])).tolist())
        fresh = {}
        for owner in self._owners - self._gone.keys():
            end = ends.process_end(owner.to_bytes(8, "little"))
            if end is not None:
                fresh[owner] = end[0]
        self._gone |= fresh
        for first, gone in ((0, fresh), (self._settled, self._gone)):
            if not gone or first == grid.count:
                continue
            of = _owners(grid["id"][first:])
            ended = np.array(sorted(gone), "<u8")
            at = np.minimum(np.searchsorted(ended, of), len(ended) - 1)
            stored = (grid["created_at"][first:] > 0) | (grid["sealed_at"][first:] > 0)
            rows = np.flatnonzero((ended[at] == of) & ~stored & (grid["freed_at"][first:] == 0))
            times = np.array([gone[owner] for owner in ended.tolist()], np.int64)
            grid["freed_at"][first + rows] = times[at[rows]]
        self._settled = grid.count

    def states(self) -> Array:
        """The state of every object, as a number of ``STATES``."""
        grid = self.grid
        state = np.where(grid["sealed_at"] > 0, SEALED, CREATED).astype(np.uint8)
        state[(grid["created_at"] == 0) & (grid["sealed_at"] == 0)] = IN_OWNER
        state[(grid["spilled_at"] > 0) & (grid["spilled_at"] > grid["restored_at"])] = SPILLED
        # A lost object that was made again is there again.
        state[(grid["lost_at"] > 0) & (grid["lost_at"] > grid["sealed_at"])] = LOST
        state[(grid["freed_at"] > 0) & (grid["freed_at"] >= grid["created_at"])] = FREED
        return state


def _owners(identifiers: Array) -> Array:
    """The processes that own objects, as numbers."""
    words = np.ascontiguousarray(identifiers).view("<u4").reshape(-1, 5)
    found: Array = np.ascontiguousarray(words[:, :2]).view("<u8").ravel()
    return found
