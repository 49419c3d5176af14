"""A cluster to which faults are done, under a real Prometheus, and what its programs run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import obsray
from obsray.cluster_utils import Cluster, ClusterNode
from obsray.util import collective, metrics
from tests.monitoring.faults import Redis, SmallDisk, nvml
from tests.monitoring.live import Gpus, Prometheus, Pushed, prometheus, wait_for

STORE_BYTES, SPILL_BYTES = 48 << 20, 160 << 20


@dataclass
class Shaken:
    """A cluster, what it stands on, and who watches it. ``full`` is a node on a small disk whose workers are killed for
    memory: nothing may run there that shall live, so it has no CPU, and what needs none says what else it needs."""

    cluster: Cluster
    other: ClusterNode
    full: ClusterNode
    disk: SmallDisk
    redis: Redis
    gpus_of_head: Path
    prometheus: Prometheus
    gpus: Gpus
    pushed: Pushed

    @property
    def head(self) -> ClusterNode:
        assert self.cluster.head_node is not None
        return self.cluster.head_node


#: Nodes of this type cannot listen where they should, so none of them comes.
AUTOSCALING = {
    "available_node_types": {
        "away": {"resources": {"launchpad": 1}, "max_workers": 1, "node_config": {"node_ip_address": "203.0.113.1"}}
    }
}


@contextmanager
def shaken_cluster(place: Callable[[str], Path]) -> Iterator[Shaken]:
    """A running one; ``place`` makes directories."""
    gpus, pushed, redis = Gpus(), Pushed(), Redis(place("redis"))
    disk, devices = SmallDisk(96), place("nvml")
    patch = pytest.MonkeyPatch()
    patch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", pushed.endpoint)
    patch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "2000")
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    settings: dict[str, float] = {
        "node_dead_seconds": 180.0,
        "store_wait_seconds_max": 5.0,
        "gpu_recovery_seconds": 10.0,
    }
    # Values that the store has no room for go into files, up to here.
    settings["spill_bytes_max"] = SPILL_BYTES
    # What is stopped here stays so until a test has seen what follows.
    settings["service_halted_seconds_max"] = 0.0
    cluster = Cluster()
    try:
        head = cluster.add_node(
            num_cpus=3, num_gpus=2, object_store_memory=STORE_BYTES, include_dashboard=True, dashboard_port=0,
            storage=redis.address, autoscaling_config=AUTOSCALING, resources={"gate": 1}, _system_config=settings,
            env_vars={"OBSRAY_NVML_LIBRARY": nvml(devices), "FAKE_NVML": str(devices)},
        )  # fmt: skip
        full = disk.do(
            cluster.add_node, num_cpus=0, resources={"full": 1}, object_store_memory=STORE_BYTES, temp_dir=disk.place,
            env_vars={"OBSRAY_MEMORY_USAGE_RATIO_MAX": "0.0001"},
        )  # fmt: skip
        other = cluster.add_node(num_cpus=1, resources={"left": 4}, object_store_memory=STORE_BYTES)
        with prometheus(place("prometheus"), Path(head.session_dir), gpus) as server:
            obsray.init(address=cluster.address, log_to_driver=False)
            yield Shaken(cluster, other, full.result(120), disk, redis, devices, server, gpus, pushed)
    finally:
        obsray.shutdown()
        cluster.shutdown()
        patch.undo()
        for each in (disk, redis, gpus, pushed):
            each.close()


@obsray.remote
def one():
    return 1


@obsray.remote
def fails():
    raise ValueError("on purpose")


@obsray.remote
def crashes():
    os.kill(os.getpid(), signal.SIGKILL)


@obsray.remote
def crashes_until(path, times):
    """Dies that often, then not."""
    with open(path, "a") as file:
        file.write("x")
    if Path(path).stat().st_size < times:
        os.kill(os.getpid(), signal.SIGKILL)


@obsray.remote
def waits(references):
    return obsray.get(references[0])


@obsray.remote(num_cpus=0, max_retries=0)
def hoards():
    held = bytearray(128 << 20)
    threading.Event().wait(60)
    return len(held)


@obsray.remote(num_cpus=0, max_retries=0)
def array(size):
    return np.zeros(size, np.uint8)


@obsray.remote(num_cpus=0)
def naps(seconds):
    threading.Event().wait(seconds)


@obsray.remote(num_cpus=0)
def prints():
    os.write(1, b"x" * 1000 + b"\n" + bytes(1) * 999 + b"\n" + b"lines that nobody reads\n" * 600_000)


@obsray.remote(num_cpus=0)
def measures():
    """Very many series."""
    for number in range(170):
        metrics.Counter(f"count_{number}").inc()
    for number in range(2):
        histogram = metrics.Histogram(f"spread_{number}", boundaries=list(range(1, 9)), tag_keys=("of",))
        for tag in range(200):
            histogram.observe(1, {"of": str(tag)})


@obsray.remote
class Holder:
    def ping(self):
        return 1

    def pid(self):
        return os.getpid()

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def wait_for(self, path):
        while not Path(path).exists():
            threading.Event().wait(0.05)


@obsray.remote(num_cpus=0)
class Store:
    """Keeps objects of its own; also asks for what its node has not."""

    def __init__(self):
        self.kept = []

    def put(self, count, size):
        made = [obsray.put(np.zeros(size, np.uint8)) for _ in range(count)]
        self.kept += made
        return made

    def ask(self, count):
        return sum(
            obsray.get([one.options(num_cpus=0, resources={"gate": 0.1 + 0.001 * n}).remote() for n in range(count)])
        )


@obsray.remote(num_cpus=0)
class Caller:
    """Calls its partner, and waits for it."""

    def meet(self, partner):
        self.partner = partner

    def call(self):
        return obsray.get(self.partner.call.remote())


@obsray.remote(num_cpus=0)
class Member:
    def join(self, rank, group):
        collective.init_collective_group(2, rank, backend="obsray", group_name=group)

    def add(self, group):
        collective.allreduce(np.ones(4), group)

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)


def wait_until_fired(shaken, names, meanwhile=lambda left: None):
    """``meanwhile`` is told what has not fired yet."""
    left, began = set(names), time.monotonic()

    def all_fired():
        now = left & shaken.prometheus.fired()
        left.difference_update(now)
        if now:
            print(f"{time.monotonic() - began:5.1f} s: {', '.join(sorted(now))}")
        return not left

    try:
        wait_for("alerts", all_fired, lambda: meanwhile(left))
    except AssertionError as error:
        raise AssertionError(f"{error}: {sorted(left)} did not fire; {shaken.prometheus.troubles()}") from None


def wait_until_over(shaken, names):
    left, began = set(names) - {"ObsrayWatchdog"}, time.monotonic()

    def over():
        return not left & shaken.prometheus.firing()

    try:
        wait_for("the end of alerts", over)
    except AssertionError as error:
        raise AssertionError(f"{error}: {sorted(left & shaken.prometheus.firing())} fire still") from None
    print(f"{time.monotonic() - began:5.1f} s until all are over")
