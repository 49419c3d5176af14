"""Where work may run: in which bundle, on which node, under which labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from obsray.core.protocol import labels
from obsray.core.protocol.labels import Selector
from obsray.ids import NODE_ID_BYTES, TASK_ID_BYTES

ALTERNATIVES_MAX = 64


@dataclass(frozen=True, slots=True)
class Placement:
    """Equal placements may share a queue. ``bundle`` -1 is any of the group's; of ``selectors`` one must hold.

    ``near``: about ``near_bytes`` of its arguments lie on that node.
    """

    group: bytes = b""
    bundle: int = -1
    node: bytes = b""
    soft: bool = False
    selectors: tuple[Selector, ...] = ()
    preferred: Selector = ()
    spread: bool = False
    near: bytes = b""
    near_bytes: int = 0

    def unmet(self, node: bytes, has: Mapping[str, str]) -> str:
        """Which label keeps this off a node, in words; empty if none does."""
        if self.node and not self.soft and self.node != node:
            return f"it may run on node {self.node.hex()} only"
        lacks = []
        for selector in self.selectors:
            lack = labels.unmet(selector, has)
            if not lack:
                return ""
            lacks.append(lack)
        return "no node has " + "; nor ".join(lacks) if lacks else ""

    @property
    def choosy(self) -> bool:
        """Whether labels make some of the nodes where it may run better than others."""
        return bool(self.preferred) or len(self.selectors) > 1

    def distance(self, has: Mapping[str, str]) -> tuple[int, bool]:
        """How far from what is asked for a node with these labels is: of ``selectors`` the first is what is wanted,
        each of the others in place of those before it; among equals, those with ``preferred`` are better."""
        met = (number for number, selector in enumerate(self.selectors) if not labels.unmet(selector, has))
        first = next(met, len(self.selectors)) if self.selectors else 0
        return first, bool(labels.unmet(self.preferred, has))


ANYWHERE = Placement()


def placement_of(description: Any) -> Placement:
    """The placement that a shape or an actor asks for. Raises ValueError for what is none."""
    if not description:
        return ANYWHERE
    if not isinstance(description, dict):
        raise ValueError("a placement is a dict")
    group, node, bundle = description.get("group", b""), description.get("node", b""), description.get("bundle", -1)
    if not isinstance(group, bytes) or len(group) not in (0, TASK_ID_BYTES):
        raise ValueError("not the id of a group")
    if not isinstance(node, bytes) or len(node) not in (0, NODE_ID_BYTES):
        raise ValueError("not the id of a node")
    if not isinstance(bundle, int) or not -1 <= bundle < 1 << 31:
        raise ValueError("not the index of a bundle")
    selectors = description.get("selectors", ())
    if not isinstance(selectors, (list, tuple)) or len(selectors) > ALTERNATIVES_MAX:
        raise ValueError("not a list of selectors")
    near, near_bytes = description.get("near", b""), description.get("near_bytes", 0)
    if not isinstance(near, bytes) or len(near) not in (0, NODE_ID_BYTES):
        raise ValueError("not the id of a node")
    if not isinstance(near_bytes, int) or near_bytes < 0:
        raise ValueError("not a number of bytes")
    return Placement(
        group, bundle, node, bool(description.get("soft")), tuple(map(labels.received, selectors)),
        labels.received(description.get("preferred", ())), bool(description.get("spread")),
        near, near_bytes,
    )  # fmt: skip
