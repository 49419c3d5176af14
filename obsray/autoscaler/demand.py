"""What an autoscaler decides from: nodes, what waits, what programs wish for. Values, and how they are read.

Amounts are fixed point, as everywhere between nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from obsray.core.node.resources import Amounts, default_need, show
from obsray.core.protocol import labels
from obsray.core.protocol.labels import Selector


@dataclass(frozen=True, slots=True)
class Seen:
    """A node of the cluster. ``busy`` says why it must not be taken away, empty if it need not stay.

    ``leases``: how many it has granted so far, so that work between two looks is noticed.
    """

    node: bytes
    total: Amounts
    free: Amounts
    labels: Mapping[str, str]
    name: str = ""
    head: bool = False
    draining: bool = False
    busy: str = ""
    leases: int = 0

    @property
    def called(self) -> str:
        return f"node {self.name or self.node.hex()[:8]}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """``units`` tasks or actors that need the same. One of ``selectors`` must hold; ``node``: there or nowhere."""

    need: Amounts
    units: int
    selectors: tuple[Selector, ...] = ()
    node: bytes = b""
    name: str = ""
    actor: bool = False

    @property
    def text(self) -> str:
        wanted = f" on a node with {' or '.join(map(labels.describe, self.selectors))}" if self.selectors else ""
        return f"{self.name or ('an actor' if self.actor else 'a task')} ({shown(self.need)}{wanted})"


@dataclass(frozen=True, slots=True)
class WaitingGroup:
    """A placement group: its bundles without a place, and how many of the others each node has."""

    group: bytes
    strategy: str
    bundles: tuple[tuple[Amounts, Selector], ...]
    name: str = ""
    taken: Mapping[bytes, int] = field(default_factory=dict)

    @property
    def text(self) -> str:
        kinds: dict[str, int] = {}
        for amounts, selector in self.bundles:
            text = shown(amounts) + (f" on a node with {labels.describe(selector)}" if selector else "")
            kinds[text] = kinds.get(text, 0) + 1
        bundles = ", ".join(text if count == 1 else f"{count} × {text}" for text, count in sorted(kinds.items()))
        return f"placement group {self.name or self.group.hex()[:8]} ({self.strategy}: {bundles})"


@dataclass(frozen=True, slots=True)
class Provided:
    """A node as its provider knows it. ``failed``: it will never join, and why."""

    node: bytes
    type: str
    failed: str = ""


@dataclass(frozen=True, slots=True)
class View:
    """All that is known of the cluster at one instant. ``wished``: bundles that must fit at once when nothing runs."""

    nodes: Sequence[Seen]
    demands: Sequence[Waiting] = ()
    groups: Sequence[WaitingGroup] = ()
    wished: Sequence[tuple[Amounts, Selector]] = ()


def shown(amounts: Amounts) -> str:
    """``CPU:1 GPU:0.5``, for people."""
    return " ".join(f"{name}:{show(name, amount)}" for name, amount in sorted(amounts.items())) or "no resources"


def read_view(answer: Mapping[str, Any]) -> View:
    """What the head's node answers to "demand". Equal needs of several nodes become one."""
    nodes = []
    units: dict[Any, int] = {}
    found: dict[Any, Waiting] = {}
    groups = {}
    for row in answer["nodes"]:
        total, free, has = (dict(row[name]) for name in ("total", "free", "labels"))
        told = (row[name] for name in ("name", "head", "draining", "busy", "leases"))
        nodes.append(Seen(row["node"], total, free, has, *told))
        for each in row["demands"]:
            selectors = tuple(map(labels.received, each["selectors"]))
            need = default_need(dict(each["need"]))
            key = (tuple(sorted(need.items())), selectors, each["node"], each["name"], each["actor"])
            units[key] = units.get(key, 0) + each["units"]
            found[key] = Waiting(need, 0, selectors, each["node"], each["name"], each["actor"])
        for each in row["groups"]:
            bundles = tuple((dict(amounts), labels.received(selector)) for amounts, selector in each["bundles"])
            taken = dict(each["taken"])
            groups[each["group"]] = WaitingGroup(each["group"], each["strategy"], bundles, each["name"], taken)
    demands = [
        Waiting(each.need, units[key], each.selectors, each.node, each.name, each.actor) for key, each in found.items()
    ]
    wished = [(dict(amounts), labels.received(selector)) for amounts, selector in answer["wished"]]
    return View(nodes, demands, list(groups.values()), wished)


__all__ = ["Provided", "Seen", "View", "Waiting", "WaitingGroup", "read_view", "shown"]
