"""A cluster under injected faults and a real Prometheus: each alert fires, and is over when the fault is.

Alerts that cannot be made to fire here are in a table of docs/monitoring.md, with the reason.
"""

from __future__ import annotations

import re
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import obsray
from obsray import exceptions
from obsray.experimental import internal_kv
from obsray.monitoring import prometheus_files
from obsray.telemetry import session_file
from obsray.util.placement_group import placement_group, remove_placement_group
from tests.monitoring import live as live_
from tests.monitoring.faults import Flood, node_process
from tests.monitoring.live import process_of, wait_for
from tests.monitoring.shaken import (
    SPILL_BYTES,
    STORE_BYTES,
    Caller,
    Holder,
    Member,
    Shaken,
    Store,
    array,
    crashes,
    crashes_until,
    fails,
    hoards,
    measures,
    naps,
    one,
    prints,
    shaken_cluster,
    wait_until_fired,
    wait_until_over,
    waits,
)  # fmt: skip

#: What stands still, or burns, as long as it is there.
STANDING = {
    "ObsrayWatchdog", "ObsrayTasksInfeasible", "ObsrayNoProgress", "ObsrayAllWorkersBlocked", "ObsrayHang",
    "ObsrayPlacementGroupsPending", "ObsrayActorsPending", "ObsrayGpuXid", "ObsrayGpuRowRemapFailure", "ObsrayGpuHot",
    "ObsrayGpuThrottled", "ObsrayGpuReservedButIdle", "ObsrayGpuCaptureRefused", "ObsrayObjectStoreFull",
    "ObsrayGpuOutOfService", "ObsrayGpuMemoryForeign", "ObsrayObjectAllocationFailed", "ObsrayQueueGrowing",
    "ObsrayAutoscalerLaunchesFail", "ObsrayGcsSlow", "ObsrayControlStorageSlow", "ObsrayGcsFailures",
    "ObsrayControlReadOnly", "ObsrayProcessHalted", "ObsrayObjectsInFiles",
}  # fmt: skip
#: What happens again and again.
STORMS = {
    "ObsrayTaskFailureRatioHigh", "ObsrayTaskRetriesHigh", "ObsrayWorkerCrashLoop", "ObsrayActorRestartLoop",
    "ObsrayActorCallBacklog", "ObsrayTaskAvailabilityBudgetBurnFast", "ObsrayEnvironmentFailures",
    "ObsrayTaskAvailabilityBudgetBurnSlow", "ObsrayTaskLatencyBudgetBurnFast", "ObsrayTaskLatencyBudgetBurnSlow",
    "ObsrayQueueLatencyHigh", "ObsrayStragglerNode", "ObsraySpillbackStorm", "ObsrayWorkerOomKills",
    "ObsrayWorkersDoNotStart", "ObsrayCollectiveFailures", "ObsrayLogsDropped", "ObsrayObjectStoreFillingUp",
    "ObsraySpillThrash", "ObsrayObjectsLost", "ObsrayObjectRebuildFailed", "ObsrayCardinalityHigh",
    "ObsrayScrapeLarge", "ObsrayDashboardErrors",
}  # fmt: skip
#: Of these, what tasks die for that are not tried again.
CRASHES = {
    "ObsrayWorkerCrashLoop", "ObsrayTaskAvailabilityBudgetBurnFast", "ObsrayTaskAvailabilityBudgetBurnSlow",
}  # fmt: skip
#: A node that is silent, a disk that is full, a receiver that is away.
STANDSTILL = {
    "ObsrayNodeSuspected", "ObsrayObjectTransferStalled", "ObsrayNodeDiskFull", "ObsrayTelemetryLag",
    "ObsrayTelemetryRingFilling",
}  # fmt: skip
#: What shows when they are back.
AFTERWARDS = {"ObsraySchedulerLoopLag", "ObsrayTelemetryDropping"}
SILENCE = {"ObsrayTargetDown", "ObsrayAbsent", "ObsrayHeadMetricsMissing"}
DEATH = {"ObsrayNodeDead", "ObsrayTelemetryIncomplete", "ObsrayNodesFlapping", "ObsrayObjectTransfersFailing"}
SUCCESSION = {"ObsrayControlTookOver"}
QUEUED_PER_SECOND = 150
#: Where nothing is killed for memory.
HERE: dict[str, Any] = {"resources": {"gate": 0.01}}
FIRED = STANDING | STORMS | STANDSTILL | AFTERWARDS | SILENCE | DEATH | SUCCESSION


def test_every_alert_is_fired_here_or_the_documentation_says_why_not():
    text = (Path(__file__).resolve().parents[2] / "docs" / "monitoring.md").read_text()
    told = dict(re.findall(r"^\| `(Obsray\w+)` \| (.+) \|$", text, re.MULTILINE))
    assert FIRED | told.keys() == {alert.name for alert in prometheus_files.alerts()}
    assert not FIRED & told.keys(), "what is fired needs no excuse"
    assert all(len(reason) > 20 for reason in told.values())
    lowered = set(re.findall(r"^\| `(Obsray\w+)`, ", text, re.MULTILINE))
    assert lowered == live_.LOWERED.keys(), "whose bounds are lowered for this is told"


@pytest.fixture
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shaken]:
    with shaken_cluster(tmp_path_factory.mktemp) as made:
        yield made


@pytest.mark.timeout(900)
def test_alerts_fire_while_something_is_wrong_and_not_after(shaken, tmp_path):
    assert obsray.get(one.remote()) == 1
    wait_for("all targets", lambda: len(shaken.prometheus.ask('up{job="obsray"} == 1')) == 4)
    for phase in (standing, storms, standstill, silence, death, succession):
        began = time.monotonic()
        phase(shaken, tmp_path)
        print(f"{time.monotonic() - began:5.1f} s for {phase.__name__}")


def standing(shaken, _):
    """Faults that stand. No task may end meanwhile: that nothing moves is one of them."""
    shaken.gpus.values = {
        "DCGM_FI_DEV_XID_ERRORS": 79, "DCGM_FI_DEV_ROW_REMAP_FAILURE": 1, "DCGM_FI_DEV_GPU_TEMP": 91,
    }  # fmt: skip
    (shaken.gpus_of_head / "xid").write_text("79")
    (shaken.gpus_of_head / "processes").write_text(f"1 {2 << 30}\n")
    owner = Holder.options(num_gpus=1, num_cpus=0).remote()
    gate = Holder.options(num_cpus=0, resources={"gate": 1}).remote()
    assert obsray.get([owner.ping.remote(), gate.ping.remote()]) == [1, 1]
    still = Holder.options(num_cpus=0, resources={"left": 0.1}).remote()
    stopped = psutil.Process(obsray.get(still.pid.remote()))
    stopped.suspend()
    pair = [Caller.options(resources={"left": 0.1}).remote() for _ in range(2)]
    obsray.get([caller.meet.remote(partner) for caller, partner in zip(pair, reversed(pair), strict=True)])
    pair[0].call.remote()
    impossible = one.options(resources={"nowhere": 1}).remote()
    launching = one.options(num_cpus=0, resources={"launchpad": 1}).remote()
    blocked = waits.remote([impossible])
    group = placement_group([{"CPU": 100}])
    pending = Holder.options(resources={"nowhere": 1}).remote()
    # The store is full of what is in use, and its disk may hold little more.
    sizes = [9 << 20] * 4 + [SPILL_BYTES - (10 << 20)]
    held = [obsray.get(obsray.put(np.zeros(size, np.uint8))) for size in sizes]
    over = threading.Event()
    full = threading.Thread(target=_put_again_and_again, args=(over,), daemon=True)
    full.start()
    queued, began = [], time.monotonic()
    refused = threading.Thread(target=_change_again_and_again, args=(over,), daemon=True)

    def meanwhile(left):
        violations = shaken.gpus.values.get("DCGM_FI_DEV_POWER_VIOLATION", 0) + 1e6
        shaken.gpus.values["DCGM_FI_DEV_POWER_VIOLATION"] = violations
        if "ObsrayQueueGrowing" in left:
            # As many a second, however slow this machine is: whoever looks at tasks looks at all of them.
            more = int(QUEUED_PER_SECOND * (time.monotonic() - began)) - len(queued)
            queued.extend(one.options(resources={"gate": 0.001}).remote() for _ in range(more))
        if left & {"ObsrayGcsSlow", "ObsrayControlStorageSlow"}:
            shaken.redis.slow(lambda: internal_kv.put("key", "value"), 0.75)
        elif not refused.is_alive():
            shaken.redis.room(limited=True)
            refused.start()

    try:
        wait_until_fired(shaken, STANDING, meanwhile)
        summaries = [alert["annotations"]["summary"] for alert in shaken.prometheus.get("/api/v1/alerts")["alerts"]]
        assert summaries and not [text for text in summaries if "error expanding" in text or "<no value>" in text]
    finally:
        # Whatever happened: they would go on in a session of their own once this one has ended.
        shaken.redis.room(limited=False)
        over.set()
        for thread in (full, refused):
            if thread.ident:
                thread.join(live_.PATIENCE_SECONDS)
    shaken.gpus.values = {"DCGM_FI_DEV_POWER_VIOLATION": 0}
    (shaken.gpus_of_head / "processes").unlink()
    stopped.resume()
    del held
    obsray.cancel(impossible)
    obsray.cancel(launching)
    obsray.wait([blocked], timeout=30)
    remove_placement_group(group)
    for actor in (pending, owner, gate, still, *pair):
        obsray.kill(actor)
    # These have waited for longer than they should.
    assert sum(obsray.get(queued, timeout=live_.PATIENCE_SECONDS)) == len(queued)


def _change_again_and_again(over):
    """Asks the control store for what it cannot keep, until it can and shall not any more."""
    while True:
        try:
            internal_kv.put("key", "another")
        except exceptions.RpcError:
            continue
        if over.is_set():
            return
        over.wait(0.5)


def _put_again_and_again(over):
    """Asks for room that neither the store nor its disk has."""
    while not over.is_set():
        try:
            obsray.put(np.zeros(20 << 20, np.uint8))
        except exceptions.RayError:
            continue


@dataclass
class Storm:
    """What happens again and again, wave after wave, as long as alerts are missing."""

    shaken: Shaken
    directory: Path
    waves: int = 0
    kept: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restarting = [Holder.options(max_restarts=-1, num_cpus=0, **HERE).remote() for _ in range(3)]
        left = {"resources": {"left": 0.01}}
        self.store = Store.options(**left).remote()
        self.filling = self.store.put.remote(13, 3 << 20)
        measures.options(**left).remote()
        self.kept = [obsray.put(np.zeros(9 << 20, np.uint8)) for _ in range(6)]

    def lost(self) -> None:
        """Values whose files are damaged."""
        doomed = [obsray.put(np.zeros(9 << 20, np.uint8)) for _ in range(8)]
        place, names = Path(self.shaken.head.session_dir, "spill"), {reference.hex() for reference in doomed}

        def spilled():
            return [path for path in place.iterdir() if path.suffix != ".new" and path.name[:40] in names]

        for path in wait_for("spilled objects", spilled):
            path.write_bytes(b"damaged")
        failures = 0
        for reference in doomed:
            try:
                obsray.get(reference, timeout=60)
            except exceptions.ObjectLostError:
                failures += 1
        assert failures

    def broken_group(self) -> None:
        """An operation that waits for one who is gone."""
        members = [Member.options(**HERE).remote() for _ in range(2)]
        obsray.get([member.join.remote(rank, f"g{self.waves}") for rank, member in enumerate(members)])
        members[1].die.remote()
        with pytest.raises(exceptions.RayError):
            obsray.get(members[0].add.remote(f"g{self.waves}"), timeout=60)
        obsray.kill(members[0])

    def wave(self, left: set[str]) -> None:
        self.waves += 1
        # Again and again: what happens once is not seen if nobody can scrape just then.
        if self.waves % 4 == 1 and left & {"ObsrayObjectsLost", "ObsrayObjectRebuildFailed"}:
            self.lost()
        if self.waves % 4 == 2 and "ObsrayCollectiveFailures" in left:
            self.broken_group()
        calls = self._elsewhere(left)
        if "ObsrayTaskFailureRatioHigh" in left:
            calls += [fails.remote() for _ in range(25)]
        if left & CRASHES:
            calls += [crashes.options(max_retries=0).remote() for _ in range(2)]
        if "ObsrayTaskRetriesHigh" in left:
            paths = [str(self.directory / f"{self.waves}-{number}") for number in range(2)]
            calls += [crashes_until.options(max_retries=5).remote(path, 5) for path in paths]
        if "ObsrayActorRestartLoop" in left:
            for actor in self.restarting:
                actor.die.remote()
        if "ObsrayEnvironmentFailures" in left:
            calls.append(one.options(runtime_env={"worker_process_setup_hook": _broken}).remote())
        if "ObsrayWorkersDoNotStart" in left:
            calls.append(one.options(runtime_env={"py_executable": str(self._no_python())}).remote())
        if "ObsrayDashboardErrors" in left:
            for _ in range(6):
                _ask_in_vain(self.shaken)
        if "ObsraySpillThrash" in left:
            at = 2 * self.waves
            assert [int(obsray.get(self.kept[n % len(self.kept)])[0]) for n in (at, at + 1)] == [0, 0]
        obsray.wait(calls, num_returns=len(calls), timeout=30)

    def _elsewhere(self, left: set[str]) -> list[Any]:
        """What concerns other nodes."""
        calls = []
        if "ObsrayObjectStoreFillingUp" in left:
            calls.append(self.store.put.remote(1, 256 << 10))
        if "ObsraySpillbackStorm" in left:
            calls.append(self.store.ask.remote(4))
        if "ObsrayStragglerNode" in left:
            calls += [naps.options(**HERE).remote(0.01) for _ in range(6)]
            calls.append(naps.options(resources={"left": 0.1}).remote(0.4))
        if "ObsrayLogsDropped" in left and self.waves % 4 == 1:
            calls.append(prints.options(resources={"left": 0.1}).remote())
        if "ObsrayWorkerOomKills" in left and self.waves % 4 == 1:
            calls.append(hoards.options(resources={"full": 1}).remote())
        return calls

    def _no_python(self) -> Path:
        """It runs what it is tried with, and no worker."""
        path = self.directory / f"python-{self.waves}"
        path.write_text(f'#!/bin/sh\ncase "$*" in *obsray-python*) exec {sys.executable} "$@";; esac\nexit 1\n')
        path.chmod(0o700)
        return path

    def end(self) -> None:
        self.kept.clear()
        for actor in (*self.restarting, self.store):
            obsray.kill(actor)


def _broken():
    raise RuntimeError("this environment cannot be made, on purpose")


def _ask_in_vain(shaken):
    """What the dashboard cannot answer as soon as it is wanted."""
    session = Path(shaken.head.session_dir)
    wanted = urllib.request.Request(
        session_file.read(session)["dashboard_url"] + "/api/v0/tasks?timeout=0.000001",
        headers={"Authorization": f"Bearer {(session / 'token').read_bytes().hex()}"},
    )
    with pytest.raises(urllib.error.HTTPError, match="504"):
        urllib.request.urlopen(wanted, timeout=live_.PATIENCE_SECONDS)


def storms(shaken, tmp_path):
    """Faults that happen again and again."""
    crowded = Holder.remote()
    release = tmp_path / "release"
    crowded.wait_for.remote(str(release))
    backlog = [crowded.ping.remote() for _ in range(1100)]
    storm = Storm(shaken, tmp_path)
    wait_until_fired(shaken, STORMS, storm.wave)
    release.write_text("")
    assert obsray.get(backlog) == [1] * 1100
    storm.end()


def fetching() -> threading.Thread:
    """What fetches objects of another node, once it is started."""
    wanted = [array.options(resources={"left": 0.1}).remote(1 << 20) for _ in range(8)]
    made, _ = obsray.wait(wanted, num_returns=8, timeout=live_.PATIENCE_SECONDS, fetch_local=False)
    assert len(made) == 8

    def fetch() -> None:
        try:
            obsray.get(wanted, timeout=live_.PATIENCE_SECONDS)
        except exceptions.RayError:
            return

    return threading.Thread(target=fetch, daemon=True)


def standstill(shaken, _):
    """A node that is silent while its objects are fetched, a disk that is full, a receiver that is away."""
    fetch = fetching()
    flood = Flood(shaken.disk.do, Path(shaken.full.session_dir), shaken.full.node_id)
    collector = process_of("obsray.telemetry.process", shaken.full.session_dir)
    node = node_process(shaken.other.session_dir)
    shaken.pushed.away = True
    node.suspend()
    try:
        fetch.start()
        # What is written while nobody stores it cannot be stored afterwards.
        collector.suspend()
        shaken.disk.fill(leaving_megabytes=18)
        flood.write(12)
        shaken.disk.fill(leaving_megabytes=0)
        collector.resume()
        wait_until_fired(shaken, STANDSTILL)
    finally:
        for process in (collector, node):
            process.resume()
        shaken.disk.empty()
        shaken.pushed.away = False
    flood.write(2)
    wait_until_fired(shaken, AFTERWARDS)
    flood.close()
    fetch.join(live_.PATIENCE_SECONDS)
    assert not fetch.is_alive()


def silence(shaken, _):
    """Nobody answers."""
    wait_until_over(shaken, STANDSTILL | {"ObsrayTasksInfeasible"})
    here = process_of("obsray.telemetry.process", shaken.head.session_dir)
    others = [
        process_of("obsray.telemetry.process", node.session_dir) for node in (shaken.other, shaken.full)
    ]  # fmt: skip
    dashboard = process_of("obsray.dashboard.process", shaken.head.session_dir)
    try:
        here.suspend()
        wait_until_fired(shaken, {"ObsrayTargetDown", "ObsrayHeadMetricsMissing"})
        for process in (*others, dashboard):
            process.suspend()
        wait_until_fired(shaken, {"ObsrayAbsent"})
    finally:
        for process in (here, *others, dashboard):
            process.resume()


def death(shaken, _):
    """Nodes are gone, and one of them while its objects were fetched."""
    wait_until_over(shaken, SILENCE)
    fetch = fetching()
    extra = [shaken.cluster.add_node(num_cpus=0, object_store_memory=STORE_BYTES) for _ in range(3)]
    node_process(shaken.other.session_dir).suspend()
    fetch.start()
    wait_for("transfers", lambda: shaken.prometheus.ask("obsray_object_pulls_inflight >= 6"))
    for node in (shaken.other, *extra):
        shaken.cluster.remove_node(node, allow_graceful=False)
    wait_until_fired(shaken, DEATH)
    wait_until_over(shaken, FIRED - SUCCESSION)


def succession(shaken, _):
    """The head is gone, and there is one who waits for that."""
    shaken.cluster.add_node(num_cpus=0, standby=True, object_store_memory=STORE_BYTES)
    served = "obsray_control_takeovers_total"
    wait_for("the standby's metrics", lambda: len(shaken.prometheus.ask(served)) == 3)
    obsray.shutdown()
    shaken.cluster.remove_node(shaken.head, allow_graceful=False)
    wait_until_fired(shaken, SUCCESSION)
    wait_until_over(shaken, SUCCESSION)
