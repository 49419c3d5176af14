"""What obsray promises, as rules on the medians of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: (target, benchmark) -> median, None where there is none.
Medians = Callable[[str, str], "float | None"]


@dataclass(frozen=True, slots=True)
class Budget:
    """obsray's median, divided by that of ``against`` if given, must be at least or at most ``bound``.

    ``against`` "limit" is what the machine itself allows, measured in the same process.
    """

    benchmark: str
    relation: str
    bound: float
    unit: str = ""
    against: str = ""

    @property
    def promise(self) -> str:
        """The rule in words."""
        sign = "≥" if self.relation == "at least" else "≤"
        if not self.against:
            return f"{sign} {self.bound:g} {self.unit}".rstrip()
        names = {"ray": "Ray", "pool": "Pool", "limit": "memcpy", "obsray-quiet": "telemetry off"}
        return f"{sign} {self.bound:g} × {names[self.against]}"

    def measured(self, median: Medians, limit: float | None) -> float | None:
        """The number the rule is about; None if a part of it was not measured."""
        own = median("obsray", self.benchmark)
        if not self.against:
            return own
        other = limit if self.against == "limit" else median(self.against, self.benchmark)
        return own / other if own is not None and other else None

    def holds(self, measured: float) -> bool:
        return measured >= self.bound if self.relation == "at least" else measured <= self.bound


BUDGETS = (
    Budget("tasks_sync", "at least", 20, against="ray"),
    Budget("tasks_async", "at least", 25, against="ray"),
    Budget("tasks_async", "at least", 1, against="pool"),
    Budget("actor_sync", "at least", 10, against="ray"),
    Budget("actor_async", "at least", 10, against="ray"),
    Budget("async_actor", "at least", 10, against="ray"),
    Budget("stream_items", "at least", 10, against="ray"),
    Budget("put_small", "at least", 20, against="ray"),
    Budget("get_small", "at least", 10, against="ray"),
    Budget("put_64mb", "at least", 0.7, against="limit"),
    Budget("put_800mb", "at least", 0.7, against="limit"),
    Budget("wait_1k", "at least", 15, against="ray"),
    Budget("actor_creation", "at least", 20, against="ray"),
    Budget("import_seconds", "at most", 0.15, unit="s"),
    Budget("init_seconds", "at most", 1, unit="s"),
    Budget("idle_megabytes", "at most", 250, unit="MB"),
    Budget("telemetry_async", "at least", 0.95, unit="x"),
    Budget("telemetry_1ms", "at least", 0.99, unit="x"),
    Budget("drain_100k", "at least", 0.7, unit="x"),
    Budget("get_10k", "at most", 15, unit="x"),
    Budget("wait_10k", "at most", 15, unit="x"),
)
