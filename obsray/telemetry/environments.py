"""Table: environments of workers, from the first time somebody needed one."""

from __future__ import annotations

import re
from typing import Any

from obsray.telemetry.columns import Batch, Texts, in_order

Row = dict[str, Any]
#: How the name of a shape says which environment its workers are in.
_IN_SHAPE = re.compile(r"\benv:([0-9a-f]{16})$")
_EVENTS = ("environment_asked", "environment_ready", "environment_failed", "environment_removed")


class EnvironmentTable:
    """Every environment by its id (hex): what it is, whether it is there, how long it took."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.rows: dict[str, Row] = {}

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        for time_ns, event, record in in_order(batch, _EVENTS, self.texts):
            getattr(self, "_" + event)(self._row(record["environment"].hex()), time_ns, record)

    def _row(self, environment: str) -> Row:
        row = self.rows.get(environment)
        if row is None:
            row = self.rows[environment] = {
                "environment_id": environment, "description": "", "state": "CREATING", "job_id": None,
                "asked_at_ns": None, "ready_at_ns": None, "failed_at_ns": None, "removed_at_ns": None,
                "setup_seconds": None, "environment_bytes": None, "error": None,
            }  # fmt: skip
        return row

    def _environment_asked(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(
            description=record["description"], job_id=f"{record['job']:08x}", asked_at_ns=row["asked_at_ns"] or time_ns,
            state="CREATING",
        )  # fmt: skip

    def _environment_ready(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(
            state="READY", ready_at_ns=time_ns, setup_seconds=record["setup_seconds"],
            environment_bytes=record["environment_bytes"], error=None,
        )  # fmt: skip

    def _environment_failed(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(state="FAILED", failed_at_ns=time_ns, setup_seconds=record["setup_seconds"], error=record["error"])

    def _environment_removed(self, row: Row, time_ns: int, record: Row) -> None:
        row.update(state="REMOVED", removed_at_ns=time_ns)

    def of_shape(self, shape: str) -> Row | None:
        """The environment that workers of a shape are in; None for nothing special."""
        found = _IN_SHAPE.search(shape)
        if found is None:
            return None
        return dict(self.rows.get(found[1]) or {"environment_id": found[1], "state": "ASKED", "description": ""})
