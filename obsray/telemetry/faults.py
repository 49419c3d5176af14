"""Table: faults that were injected on purpose (``OBSRAY_CHAOS``): who does so, and how often what was hit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from obsray.chaos import Fault
from obsray.telemetry.columns import Batch, Texts


class FaultTable:
    """Counts, by the name of the call or message and by what was done to it."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.counts: Counter[tuple[str, Fault]] = Counter()
        #: Specification -> how many processes were told so.
        self.specifications: Counter[str] = Counter()

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        if "chaos_started" in batch:
            for record in batch["chaos_started"].rows(self.texts):
                self.specifications[record["specification"]] += 1
        for event in ("fault_injected", "delay_injected"):
            columns = batch.get(event)
            if columns is not None:
                pairs, counts = np.unique(
                    np.stack([columns["method"].astype(np.int64), columns["fault"].astype(np.int64)]),
                    axis=1, return_counts=True,
                )  # fmt: skip
                for (method, fault), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
                    self.counts[self.texts[method], Fault(fault)] += count

    def summary(self) -> dict[str, Any] | None:
        """What is injected and what that has done so far, most frequent first; None where nothing is."""
        if not self.specifications:
            return None
        return {
            "specifications": list(self.specifications),
            "processes": sum(self.specifications.values()),
            "faults": [
                {"method": method, "fault": fault.name.lower(), "count": count}
                for (method, fault), count in self.counts.most_common()
            ],
        }
