"""Groups for collective operations by their id: who is in them, what they did, and for whom they waited."""

from __future__ import annotations

from typing import Any

import numpy as np

from obsray.telemetry.columns import Batch, Columns, Texts

Row = dict[str, Any]


class CollectiveTable:
    """Folds the events of groups. A row for each group, with sums for each rank."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.rows: dict[bytes, Row] = {}

    def _row(self, group: bytes) -> Row:
        row = self.rows.get(group)
        if row is None:
            row = self.rows[group] = {
                "group_id": group.hex(), "name": "", "backend": "", "members": 0, "joined": set(), "left": set(),
                "broken": None, "formed_at_ns": None, "ended_at_ns": None, "operations": 0, "failed": 0,
                "sent_bytes": 0, "seconds": 0.0, "waited": {},
            }  # fmt: skip
        return row

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        for event, fold in (
            ("collective_joined", self._joined), ("collective_ended", self._ended), ("collective_left", self._left),
            ("collective_broken", self._broken), ("collective_failed", self._failed),
        ):  # fmt: skip
            columns = batch.get(event)
            if columns is not None:
                fold(columns)

    def _joined(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            row = self._row(record["group"])
            row.update(name=record["group_name"], backend=record["backend"], members=record["members"])
            row["joined"].add(record["rank"])
            row["formed_at_ns"] = max(row["formed_at_ns"] or 0, record["time_ns"])

    def _left(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            row = self._row(record["group"])
            row["left"].add(record["rank"])
            row["ended_at_ns"] = max(row["ended_at_ns"] or 0, record["time_ns"])

    def _broken(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            # Members that never met have no id together.
            if not any(record["group"]):
                continue
            row = self._row(record["group"])
            if row["broken"] is None or record["time_ns"] < row["ended_at_ns"]:
                row.update(broken=record["error"], ended_at_ns=record["time_ns"])

    def _failed(self, columns: Columns) -> None:
        for record in columns.rows(self.texts):
            self._row(record["group"])["failed"] += 1

    def _ended(self, columns: Columns) -> None:
        """Operations may be many: they are added up by group and rank with array operations."""
        groups, of = np.unique(np.ascontiguousarray(columns["group"]).view("<u8").reshape(-1, 2), axis=0,
                               return_inverse=True)  # fmt: skip
        of = of.ravel()
        for number, words in enumerate(groups):
            row, mine = self._row(words.tobytes()), of == number
            row["name"] = row["name"] or self.texts[int(columns["group_name"][mine][0])]
            row["members"] = row["members"] or int(columns["members"][mine][0])
            row["operations"] = max(row["operations"], int(columns["round"][mine].max()))
            row["sent_bytes"] += int(columns["sent_bytes"][mine].sum())
            row["seconds"] += float(columns["seconds"][mine].sum(dtype=np.float64))
            ranks, waits = columns["rank"][mine].astype(np.int64), columns["wait_seconds"][mine]
            for rank, waited in enumerate(np.bincount(ranks, weights=waits).tolist()):
                row["waited"][rank] = row["waited"].get(rank, 0.0) + waited


def described(row: Row) -> Row:
    """A row as people see it: its state, and the rank that the others waited for most."""
    members, waited = row["members"], row["waited"]
    if row["broken"] is not None:
        state = "BROKEN"
    elif len(row["left"]) >= members > 0:
        state = "LEFT"
    else:
        state = "READY" if len(row["joined"]) >= members else "FORMING"
    found = {name: value for name, value in row.items() if name not in ("joined", "left", "waited")}
    total = sum(waited.values())
    return {
        **found,
        "state": state,
        "wait_seconds": total,
        "wait_ratio": total / row["seconds"] if row["seconds"] else None,
        "slowest_rank": min(waited, key=lambda rank: (waited[rank], rank)) if len(waited) > 1 else None,
    }
