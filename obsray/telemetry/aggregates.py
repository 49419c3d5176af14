"""What outlives details: sums and quantiles by function of attempts whose records retention has deleted.

``telemetry/aggregates.json`` is written before the files go, and names them, so that a collector that dies in between
counts none twice and none not at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from obsray.telemetry.columns import Columns, Texts
from obsray.telemetry.events import Outcome
from obsray.telemetry.small_files import write_whole

FILE = "aggregates.json"
#: Buckets of run times: powers of 2 ** (1 / STEPS) above a nanosecond, so that a quantile is off by 9 % at most.
STEPS = 4
_NANOSECOND = 1e-9


class Aggregates:
    """The sums of one session, as they stand in its directory."""

    def __init__(self, directory: Path) -> None:
        self._path = Path(directory) / FILE
        self.files: set[str] = set()
        self.events: dict[str, int] = {}
        self.functions: dict[str, dict[str, Any]] = {}
        try:
            known = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return
        self.files, self.events, self.functions = set(known["files"]), known["events"], known["functions"]

    def add(self, file: str, event: str, batches: Iterable[Columns], texts: Texts) -> None:
        """Count the records of a file that is about to go. Counted once, however often it is said."""
        if file in self.files:
            return
        self.files.add(file)
        for columns in batches:
            self.events[event] = self.events.get(event, 0) + len(columns)
            if event == "task_ended":
                self._attempts(columns, texts)

    def write(self) -> None:
        """Put them where readers look. Raises OSError."""
        values = {"files": sorted(self.files), "events": self.events, "functions": self.functions}
        write_whole(self._path, json.dumps(values))

    def _attempts(self, columns: Columns, texts: Texts) -> None:
        names, back = np.unique(columns["name"], return_inverse=True)
        back = back.ravel()
        seconds = columns["run_seconds"].astype(np.float64)
        buckets = np.floor(np.log2(np.maximum(seconds, _NANOSECOND) / _NANOSECOND) * STEPS).astype(np.int64)
        for at, code in enumerate(names.tolist()):
            mine = back == at
            row = self.functions.setdefault(
                texts[code],
                {
                    "attempts": 0, "run_seconds": 0.0, "run_seconds_max": 0.0, "cpu_seconds": 0.0, "result_bytes": 0,
                    "first_ns": 0, "last_ns": 0, "outcomes": {}, "histogram": {},
                },
            )  # fmt: skip
            row["attempts"] += int(mine.sum())
            row["run_seconds"] += float(seconds[mine].sum())
            row["run_seconds_max"] = max(row["run_seconds_max"], float(seconds[mine].max()))
            row["cpu_seconds"] += float(columns["cpu_seconds"][mine].sum(dtype=np.float64))
            row["result_bytes"] += int(columns["result_bytes"][mine].sum())
            low, high = int(columns["time_ns"][mine].min()), int(columns["time_ns"][mine].max())
            row["first_ns"], row["last_ns"] = min(row["first_ns"] or low, low), max(row["last_ns"], high)
            _count(row["outcomes"], columns["outcome"][mine], lambda value: _outcome(int(value)))
            _count(row["histogram"], buckets[mine], str)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each function, most attempts first."""
        found = []
        for name, row in sorted(self.functions.items(), key=lambda item: -item[1]["attempts"]):
            found.append({
                "name": name, "attempts": row["attempts"], "failed": row["attempts"] - row["outcomes"].get("ok", 0),
                "run_seconds": row["run_seconds"], "run_seconds_p50": quantile(row["histogram"], 0.5),
                "run_seconds_p99": quantile(row["histogram"], 0.99), "run_seconds_max": row["run_seconds_max"],
                "cpu_seconds": row["cpu_seconds"], "result_bytes": row["result_bytes"],
                "first_at_ns": row["first_ns"], "last_at_ns": row["last_ns"],
            })  # fmt: skip
        return found


def quantile(histogram: dict[str, int], share: float) -> float | None:
    """The value below which ``share`` of the counted ones lie, to within the width of a bucket."""
    wanted = share * sum(histogram.values())
    seen = 0
    for bucket in sorted(map(int, histogram)):
        seen += histogram[str(bucket)]
        if seen >= wanted:
            return _NANOSECOND * math.pow(2, (bucket + 0.5) / STEPS)
    return None


def _outcome(value: int) -> str:
    return Outcome(value).name.lower() if value < len(Outcome) else str(value)


def _count(counts: dict[str, int], values: Any, name: Any) -> None:
    different, how_many = np.unique(values, return_counts=True)
    for value, count in zip(different.tolist(), how_many.tolist(), strict=True):
        counts[name(value)] = counts.get(name(value), 0) + count
