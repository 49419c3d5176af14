"""Table: how many calls actors run at a time, and the calls that were refused because too many wait."""

from __future__ import annotations

from typing import Any

from obsray.telemetry.columns import Batch, Texts

Row = dict[str, Any]


class ConcurrencyTable:
    """Folds ``actor_concurrency`` and ``call_refused``."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self._groups: dict[bytes, dict[str, Row]] = {}
        #: Actor -> how many calls were refused, and the limit that was reached.
        self.refused: dict[bytes, Row] = {}

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        if "actor_concurrency" in batch:
            for record in batch["actor_concurrency"].rows(self.texts):
                groups = self._groups.setdefault(record["actor"], {})
                groups[record["group_name"]] = {
                    "calls": record["calls"], "methods": tuple(filter(None, record["methods"].split(",")))
                }  # fmt: skip
        if "call_refused" in batch:
            for record in batch["call_refused"].rows(self.texts):
                row = self.refused.setdefault(record["actor"], {"refused": 0, "pending_max": 0, "at_ns": 0})
                row["refused"] += 1
                row["pending_max"] = record["pending_max"]
                row["at_ns"] = max(row["at_ns"], record["time_ns"])

    def of(self, actor: bytes) -> dict[str, Row]:
        """The concurrency groups of an actor by name ('' is the default); empty if it runs one call at a time."""
        return self._groups.get(actor, {})
