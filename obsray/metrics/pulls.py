"""Objects of other nodes that are on their way to this one."""

from __future__ import annotations

from obsray.telemetry.columns import Batch

#: Beyond so many at once the number stays where it is.
PULLS_MAX = 1_000_000


class Pulls:
    """Which transfers have begun and not ended. ``update`` folds a batch."""

    def __init__(self) -> None:
        self.begun: dict[bytes, int] = {}

    def update(self, batch: Batch) -> None:
        """Fold the new records: what ended before it began, by time, began again."""
        ended: dict[bytes, int] = {}
        for event in ("transfer_done", "transfer_failed"):
            if event in batch:
                columns = batch[event]
                for identifier, time_ns in zip(columns["object"], columns["time_ns"].tolist(), strict=True):
                    key = identifier.tobytes()
                    ended[key] = max(time_ns, ended.get(key, 0))
        if "transfer_begun" in batch:
            columns = batch["transfer_begun"]
            for identifier, time_ns in zip(columns["object"], columns["time_ns"].tolist(), strict=True):
                if len(self.begun) < PULLS_MAX:
                    self.begun[identifier.tobytes()] = time_ns
        for key, time_ns in ended.items():
            if self.begun.get(key, time_ns + 1) <= time_ns:
                del self.begun[key]
