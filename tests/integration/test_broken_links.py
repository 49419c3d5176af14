"""A connection between two machines may break although both processes live: nothing waits for what it carried."""

from __future__ import annotations

import socket

import pytest

import obsray
from obsray.cluster_utils import Cluster
from obsray.core.api import session

pytestmark = pytest.mark.timeout(60)


@obsray.remote(num_cpus=0, resources={"far": 1}, max_retries=1)
def once_slowly(marker: str) -> str:
    import os
    import time

    first = not os.path.exists(marker)
    open(marker, "a").close()
    while first:
        time.sleep(0.1)
    return "the second time"


def test_a_task_whose_connection_broke_runs_again(tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1, resources={"far": 1})
        obsray.init(address=cluster.address)
        marker = tmp_path / "marker"
        ref = once_slowly.remote(str(marker))
        while not marker.exists():
            obsray.wait([ref], timeout=0.05)
        (link,) = [link for link in session().peers.values() if link.peer.remote]
        link.socket.shutdown(socket.SHUT_RDWR)
        assert obsray.get(ref, timeout=30) == "the second time"
    finally:
        obsray.shutdown()
        cluster.shutdown()
