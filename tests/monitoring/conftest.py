from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import obsray
from obsray.cluster_utils import Cluster, ClusterNode
from tests.monitoring.live import Gpus, Prometheus, Pushed, prometheus

STORE_BYTES = 48 << 20
#: One type of node comes and goes, the other cannot listen where it should, so it never comes.
AUTOSCALING = {
    "idle_timeout_s": 2.0,
    "available_node_types": {
        "extra": {"resources": {"extra": 1}, "max_workers": 1},
        "away": {"resources": {"launchpad": 1}, "max_workers": 1, "node_config": {"node_ip_address": "203.0.113.1"}},
    },
}


@dataclass
class Live:
    """A cluster of two nodes under a Prometheus."""

    cluster: Cluster
    other: ClusterNode
    prometheus: Prometheus
    gpus: Gpus
    pushed: Pushed

    @property
    def head(self) -> ClusterNode:
        assert self.cluster.head_node is not None
        return self.cluster.head_node


# Not for the whole session: the next module starts a runtime of its own.
@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    gpus, pushed = Gpus(), Pushed()
    patch = pytest.MonkeyPatch()
    patch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", pushed.endpoint)
    patch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "2000")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 3, "num_gpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": True,
            "dashboard_port": 0, "_system_config": {"chaos": "Heartbeat=delay:0.001:0.002"},
            "env_vars": {"CUDA_VISIBLE_DEVICES": "0"}, "autoscaling_config": AUTOSCALING,
        },
    )  # fmt: skip
    try:
        other = cluster.add_node(num_cpus=1, resources={"left": 1}, object_store_memory=STORE_BYTES)
        with prometheus(tmp_path_factory.mktemp("prometheus"), Path(cluster.head_node.session_dir), gpus) as server:
            cluster.connect()
            yield Live(cluster, other, server, gpus, pushed)
    finally:
        obsray.shutdown()
        cluster.shutdown()
        patch.undo()
        gpus.close()
        pushed.close()
