"""Where the metrics of all nodes of a cluster are: a file as Prometheus' file service discovery reads it.

Nodes say it in their records (``metrics_served``), so the head's collector learns it with everything else. A node that
is dead is no target any more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from obsray.telemetry.columns import Batch, Texts
from obsray.telemetry.small_files import write_whole

#: In the head's session directory.
FILE = "prometheus_targets.json"
#: Label of a target -> what it is.
ROLES = ("node", "head", "dashboard")


class Targets:
    """Node (hex) -> the address of its metrics. ``update`` folds a batch of any node."""

    def __init__(self, session: Path, texts: Texts) -> None:
        self.path = session / FILE
        self.addresses: dict[str, str] = {}
        self._texts = texts
        self._written = ""
        self._resume()

    def _resume(self) -> None:
        """What an earlier collector of this session knew: other nodes do not say it again."""
        try:
            known = json.loads(self.path.read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return
        for entry in known:
            if entry["labels"]["role"] != "dashboard":
                self.addresses[entry["labels"]["__meta_obsray_node_id"]] = entry["targets"][0]

    def add(self, node: str, url: str) -> None:
        """The metrics of a node (hex) are at ``url``."""
        self.addresses[node] = urlsplit(url).netloc

    def update(self, batch: Batch) -> None:
        """Fold the new records."""
        if "metrics_served" in batch:
            columns = batch["metrics_served"]
            for node, address in zip(columns["node"], columns["address"].tolist(), strict=True):
                self.add(node.tobytes().hex(), self._texts[address])

    def entries(self, facts: dict[str, Any]) -> list[dict[str, Any]]:
        """What Prometheus is told, given what ``session.json`` of the head says."""
        nodes = facts.get("nodes") or {}
        own = str(facts.get("node") or "")
        cluster = cluster_of(facts)
        found = []
        for node, address in sorted(self.addresses.items()):
            if node == own or nodes.get(node, {}).get("alive", False):
                role = "head" if node == own else "node"
                found.append(_entry(address, role, cluster, node))
        dashboard = facts.get("dashboard_url")
        if isinstance(dashboard, str) and dashboard:
            found.append(_entry(urlsplit(dashboard).netloc, "dashboard", cluster, own))
        return found

    def write(self, facts: dict[str, Any]) -> None:
        """Write the file if it would say something else than before."""
        text = json.dumps(self.entries(facts), indent=1) + "\n"
        if text == self._written:
            return
        write_whole(self.path, text)
        self._written = text


def cluster_of(facts: dict[str, Any]) -> str:
    """What a cluster is called in labels, given what ``session.json`` of one of its nodes says."""
    cluster = str(facts.get("control_address_tcp") or facts.get("session") or "")
    if cluster.startswith(("0.0.0.0:", "[::]:")):
        # Listening everywhere is no name; the node's own address is.
        host = str(facts.get("node_address") or "").rpartition(":")[0]
        cluster = f"{host}:{cluster.rpartition(':')[2]}"
    return cluster


def _entry(address: str, role: str, cluster: str, node: str) -> dict[str, Any]:
    return {
        "targets": [address],
        "labels": {"role": role, "cluster": cluster, "__meta_obsray_node_id": node},
    }
