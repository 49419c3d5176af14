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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from obsray.autoscaler.demand import Provided
from obsray.autoscaler.settings import NodeType
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


__all__ = ["ClusterFacts", "Provided", "Provider"]
