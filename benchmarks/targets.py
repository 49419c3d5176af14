"""What the benchmarks run on."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A library and how to start it. ``rival``: it is installed in the environment of the libraries compared with."""

    name: str
    title: str
    module: str
    distribution: str = ""
    rival: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    #: It gets fewer operations in each sample, and not the benchmarks named in ``spared``, which take it minutes.
    slow: bool = False
    spared: frozenset[str] = frozenset()
    #: What it has besides tasks.
    offers: frozenset[str] = frozenset({"wait", "put", "actors", "async", "streams"})


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("obsray", "obsray", "obsray", environment={"OBSRAY_TELEMETRY": "on"}),
        Target("obsray-quiet", "obsray, telemetry off", "obsray", environment={"OBSRAY_TELEMETRY": "off"}),
        Target(
            "ray",
            "Ray",
            "ray",
            distribution="ray",
            rival=True,
            # "local": never join a cluster that happens to run here.
            options={"address": "local"},
            environment={"RAY_USAGE_STATS_ENABLED": "0"},
        ),
        Target("pool", "multiprocessing.Pool", "benchmarks.baselines.pool", offers=frozenset()),
        Target("executor", "ProcessPoolExecutor", "benchmarks.baselines.executor", offers=frozenset({"wait"})),
        Target(
            "dask",
            "Dask distributed",
            "benchmarks.baselines.dask_distributed",
            distribution="distributed",
            rival=True,
            slow=True,
            spared=frozenset({"wait_1k", "drain_10k", "get_10k", "wait_10k"}),
            offers=frozenset({"wait", "put", "actors"}),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Library:
    """A target's module, imported, and the module whose import is measured."""

    api: Any
    imports: str
    target: Target

    def start(self, cpus: int) -> Any:
        return self.api.init(num_cpus=cpus, **self.target.options)


def load(target: Target) -> Library:
    """Import the target's module. Raises ImportError if it is not installed here."""
    api = importlib.import_module(target.module)
    return Library(api, getattr(api, "IMPORTS", target.module), target)
