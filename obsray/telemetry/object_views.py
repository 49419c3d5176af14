"""Views of objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from obsray import ids
from obsray.telemetry.columns import Array
from obsray.telemetry.objects import STATES
from obsray.telemetry.table import Column, Filter, query
from obsray.telemetry.tables import NS, Row, Tables, time_or_none


class ObjectViews(Tables):
    """What can be asked about objects."""

    def objects(
        self,
        filters: Sequence[Filter] = (),
        sort: str = "-bytes",
        limit: int = 50,
        offset: int = 0,
        refresh: bool = True,
    ) -> dict[str, Any]:
        """A page of objects that were put or are in the store: ``{"rows": [...], "total": n}``."""
        if refresh:
            self.refresh()
        now = self.now_ns()
        columns = self.object_columns(now)
        rows, total = query(columns, len(self.object_table), self.store.texts, filters, sort, limit, offset)
        return {"rows": self.object_rows(rows, now), "total": total}

    def object_columns(self, now: int) -> dict[str, Callable[[], Column]]:
        """What objects can be filtered and sorted by."""
        table = self.object_table
        columns: dict[str, Callable[[], Column]] = {
            "object_id": lambda: Column("id", table["id"]),
            "task_id": lambda: Column("id", table["put_by"]),
            "owner": lambda: Column("id", _words(table["id"])[:, :2].copy().view("V8").ravel()),
            "producer": lambda: Column("text", self.producers(np.arange(len(table)))),
            "call_site": lambda: Column("text", table["call_site"]),
            "state": lambda: Column("enum", table.states(), STATES),
            "bytes": lambda: Column("number", table["bytes"]),
            "pins": lambda: Column("number", table["pins"]),
            "reads": lambda: Column("number", table["reads"]),
            "node": lambda: Column("id", table["node"]),
            "transfers": lambda: Column("number", table["transfers"]),
            "age_seconds": lambda: Column("number", self._ages(np.arange(len(table)), now)),
        }  # fmt: skip
        for name in ("created", "sealed", "spilled", "freed", "put", "lost", "restored"):
            columns[f"{name}_at_ns"] = lambda name=name: Column(  # type: ignore[misc]
                "number", table[f"{name}_at"], None, table[f"{name}_at"] == 0
            )
        return columns

    def object_rows(self, rows: Array, now: int) -> list[Row]:
        """The rows of a listing, in the order of ``rows`` (numbers of the object table)."""
        states = self.object_table.states()
        return [self._object_row(row, states, now) for row in rows.tolist()]

    def producers(self, rows: Array) -> Array:
        """The name (code) of the task that produced each object; 0 for put objects."""
        raw = _words(self.object_table["id"][rows])
        tasks = self.task_table.index.rows(raw[:, :4].copy().view("V16").ravel(), create=False)
        if not len(self.task_table):
            return np.zeros(len(rows), np.int32)
        return np.where(tasks >= 0, self.task_table["name"][np.maximum(tasks, 0)], 0)

    def _ages(self, rows: Array, now: int) -> Array:
        table = self.object_table
        born = np.where(table["created_at"][rows] > 0, table["created_at"][rows], table["put_at"][rows])
        end = np.where(table["freed_at"][rows] > 0, table["freed_at"][rows], now)
        found: Array = np.maximum(end - born, 0) / NS
        return found

    def _object_row(self, row: int, states: Array, now: int) -> Row:
        table, texts = self.object_table, self.store.texts
        identifier = table["id"][row].tobytes()
        creator = table["creator"][row].tobytes()
        at = np.array([row])
        nodes = [node.hex() for node in table.nodes_of(row, int(states[row]))]
        values: Row = {
            "node": nodes[0] if nodes else None,
            "nodes": " ".join(nodes) or None,
            "object_id": identifier.hex(),
            "owner": ids.owner_of(identifier).hex(),
            "owner_label": self.process_label(ids.owner_of(identifier)),
            "task_id": ids.task_of(identifier).hex(),
            "kind": "put" if ids.kind_of(identifier) == ids.SEQUENCE_PUT else "result",
            "producer": texts[int(self.producers(at)[0])] or ("put" if table["put_at"][row] else None),
            "creator": creator.hex() if any(creator) else None,
            "call_site": texts[int(table["call_site"][row])] or None,
            "bytes": int(table["bytes"][row]),
            "state": STATES[int(states[row])],
            "pins": int(table["pins"][row]),
            "reads": int(table["reads"][row]),
            "transfers": int(table["transfers"][row]),
            "age_seconds": float(self._ages(at, now)[0]),
            "error": texts[int(table["error"][row])] or None,
        }
        for name in ("put", "created", "sealed", "spilled", "restored", "freed", "lost", "pinned"):
            values[f"{name}_at_ns"] = time_or_none(table[f"{name}_at"][row])
        return values


def _words(ids_: Array) -> Array:
    """Object ids as five words each: two of the owner, two of the sequence, one of the index."""
    return np.ascontiguousarray(ids_).view("V4").reshape(-1, 5)
