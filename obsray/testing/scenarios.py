"""A scenario: workloads × faults, as data. Read from TOML; what is misspelt is refused with a sentence."""

from __future__ import annotations

import inspect
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from obsray.config import Config
from obsray.testing import cluster_faults
from obsray.testing.faults import FAULTS
from obsray.testing.workloads import WORKLOADS

#: Faults that need other nodes.
CLUSTER_FAULTS = frozenset(name for name, code in FAULTS.items() if code.__module__ == cluster_faults.__name__)

NODES_MAX = 12_000
AUTOSCALER_KEYS = frozenset({"nodes_max", "cpus", "idle_ms", "start_ms_max", "fails_ratio"})


class ScenarioError(ValueError):
    """The scenario is not one; the text says where."""


@dataclass(frozen=True)
class Part:
    """One workload or fault: its name, how often it runs side by side, and its parameters."""

    name: str
    parameters: dict[str, Any]
    copies: int = 1
    driver: int = 0


@dataclass(frozen=True)
class Scenario:
    """What a simulated run consists of. Times are virtual."""

    name: str
    workloads: tuple[Part, ...]
    faults: tuple[Part, ...] = ()
    #: With more than one they are a cluster; the first is its head.
    nodes: int = 1
    #: They are all there and linked when the run begins (``founding.py``): for clusters of hundreds and thousands.
    founded: bool = False
    #: Of each node.
    cpus: float = 4
    #: Other resources by name, in whole units.
    custom: dict[str, float] = field(default_factory=dict)
    store_bytes: int = 64 << 20
    #: What the autoscaler goes by (``virtual_autoscaler.py``); none without.
    autoscaler: dict[str, Any] = field(default_factory=dict)
    #: The first is at the head, the others at the nodes after it.
    drivers: int = 1
    #: Faults happen until then, or until the programs have ended.
    faults_ms: float = 1000
    #: After the faults have stopped all waits must end within this time.
    finish_within_ms: float = 60_000
    #: Whether a program may see ObjectStoreFullError.
    store_may_be_full: bool = False
    #: Names of events that this scenario is there for: among several seeds some must lead to them.
    expect_events: tuple[str, ...] = ()
    #: Settings of the runtime by name.
    config: dict[str, Any] = field(default_factory=dict)


def read_scenario(path: Path) -> Scenario:
    """The scenario in a TOML file. Raises ScenarioError for what it cannot mean, OSError if it cannot be read."""
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: {error}") from None
    try:
        return make_scenario(path.stem, values)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None


def make_scenario(name: str, values: dict[str, Any]) -> Scenario:
    """The scenario of a parsed file. Raises ScenarioError."""
    values = dict(values)
    workloads = tuple(_part("workload", WORKLOADS, part) for part in values.pop("workload", []))
    faults = tuple(_part("fault", FAULTS, part) for part in values.pop("fault", []))
    if not workloads:
        raise ScenarioError("there is no [[workload]]")
    known = {each.name for each in fields(Scenario)} - {"name", "workloads", "faults"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ScenarioError(f"unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    wrong = sorted(set(values.get("config", {})) - {each.name for each in fields(Config)})
    if wrong:
        raise ScenarioError(f"config has no setting {wrong[0]!r}")
    if "expect_events" in values:
        values["expect_events"] = tuple(values["expect_events"])
    scenario = Scenario(name, workloads, faults, **values)
    if (scenario.founded or scenario.autoscaler) and scenario.nodes < 2:
        raise ScenarioError("what is founded, or has an autoscaler, has more than one node")
    unknown = sorted(set(scenario.autoscaler) - AUTOSCALER_KEYS)
    if unknown:
        raise ScenarioError(f"autoscaler has no {unknown[0]!r}; known: {', '.join(sorted(AUTOSCALER_KEYS))}")
    if scenario.nodes > NODES_MAX:
        raise ScenarioError(f"a cluster has {NODES_MAX:,} nodes at most")
    for part in faults:
        if part.name in CLUSTER_FAULTS and scenario.nodes < 2:
            raise ScenarioError(f"fault {part.name!r} needs more than one node")
    for part in workloads:
        if not 0 <= part.driver < scenario.drivers:
            raise ScenarioError(f"{part.name}: there is no driver {part.driver}")
    return scenario


def _part(kind: str, known: dict[str, Any], values: dict[str, Any]) -> Part:
    parameters = dict(values)
    name = parameters.pop("name", None)
    if name not in known:
        raise ScenarioError(f"unknown {kind} {name!r}; known: {', '.join(sorted(known))}")
    copies, driver = parameters.pop("copies", 1), parameters.pop("driver", 0)
    accepted = list(inspect.signature(known[name]).parameters.values())[1:]
    unknown = sorted(set(parameters) - {each.name for each in accepted})
    if unknown:
        raise ScenarioError(f"{kind} {name!r} has no parameter {unknown[0]!r}")
    missing = [each.name for each in accepted if each.default is each.empty and each.name not in parameters]
    if missing:
        raise ScenarioError(f"{kind} {name!r} needs {missing[0]!r}")
    return Part(name, parameters, copies, driver)
