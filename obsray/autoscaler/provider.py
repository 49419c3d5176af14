"""What an autoscaler needs of whoever starts machines: a provider.

A provider is asked for nodes and tells what became of them. All calls return at once: the loop that makes them decides
for the whole cluster and must not wait for a machine. What takes long happens in threads of the provider, or elsewhere,
and shows in ``nodes`` afterwards. Calls may be repeated (the autoscaler may have been started again meanwhile): asking
twice for the same node is asking once.

How others would do it (docs/autoscaling.md has more of it):

* Kubernetes: ``launch`` creates a Pod named by the node's id, with the type's ``node_config`` as its template, which
  runs ``obsray start --address=... --node-id=<node> --node-group=<type> --block``; ``nodes`` lists the Pods with the
  cluster's label out of a watch; ``terminate`` deletes the Pod.
* Virtual machines: ``launch`` puts the request into a queue that a thread sends off, with the node's id as the client
  token; ``nodes`` answers from what that thread saw last.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from obsray.autoscaler.demand import Provided
from obsray.autoscaler.settings import EXTERNAL, NodeType, Settings
from obsray.telemetry import session_file


class Provider(Protocol):
    """Starts and ends machines. Made with (settings of the provider, ``ClusterFacts``)."""

    def launch(self, node: bytes, kind: NodeType) -> None:
        """Have a node of this type join the cluster under the id ``node``. From now on ``nodes`` has it."""

    def terminate(self, node: bytes) -> None:
        """End its machine, whatever it does, and forget it once it is gone. Nothing happens if there is none."""

    def nodes(self) -> Sequence[Provided]:
        """All that were asked for and not forgotten, also by autoscalers before. What is not here any more is gone."""

    def close(self) -> None:
        """The autoscaler ends. Its nodes stay; they end with the cluster."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a provider may want to know of the cluster. ``session``: the session directory of the head."""

    session: Path

    def read(self) -> Mapping[str, Any]:
        """The facts of the head's ``session.json`` as they are now."""
        return session_file.read(self.session)

    @property
    def address(self) -> str:
        """``host:port`` where nodes join now; another control store may have taken over meanwhile."""
        return str(self.read()["control_address_tcp"])

    @property
    def token(self) -> bytes:
        """What nodes of the cluster know. Keep it secret."""
        return (self.session / "token").read_bytes()


def provider_class(settings: Settings) -> Callable[[Mapping[str, Any], ClusterFacts], Provider] | None:
    """What makes the provider that the settings name, None for nodes of the head's machine.

    Raises ValueError, with the place, if there is no such class.
    """
    wanted = settings.provider
    if wanted["type"] != EXTERNAL:
        return None
    module, _, name = str(wanted["module"]).replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"provider.module: {wanted['module']!r} cannot be imported: {error}") from error
    missing = [each for each in ("launch", "terminate", "nodes", "close") if not callable(getattr(found, each, None))]
    if missing:
        raise ValueError(f"provider.module: {wanted['module']!r} is no provider: it has no {', '.join(missing)}")
    return found  # type: ignore[no-any-return]


__all__ = ["ClusterFacts", "Provided", "Provider", "provider_class"]
