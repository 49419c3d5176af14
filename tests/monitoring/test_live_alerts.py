"""A cluster under injected faults and a real Prometheus: each alert fires, and is over when the fault is."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import obsray
from obsray.util.placement_group import placement_group, remove_placement_group
from tests.monitoring.live import process_of, wait_for

#: What stands still, or burns, as long as it is there.
STANDING = {
    "ObsrayWatchdog", "ObsrayTasksInfeasible", "ObsrayNoProgress", "ObsrayAllWorkersBlocked",
    "ObsrayPlacementGroupsPending", "ObsrayActorsPending", "ObsrayGpuXid", "ObsrayGpuRowRemapFailure", "ObsrayGpuHot",
    "ObsrayGpuThrottled", "ObsrayGpuReservedButIdle", "ObsrayGpuCaptureRefused", "ObsrayObjectStoreFull",
}  # fmt: skip
#: What happens again and again.
STORMS = {
    "ObsrayTaskFailureRatioHigh", "ObsrayTaskRetriesHigh", "ObsrayWorkerCrashLoop", "ObsrayActorRestartLoop",
    "ObsrayActorCallBacklog", "ObsrayTaskAvailabilityBudgetBurnFast", "ObsrayEnvironmentFailures",
}  # fmt: skip
SILENCE = {"ObsrayTargetDown", "ObsrayAbsent", "ObsrayHeadMetricsMissing"}
DEATH = {"ObsrayNodeDead", "ObsrayTelemetryIncomplete"}


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


@obsray.remote
class Holder:
    def ping(self):
        return 1

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def wait_for(self, path):
        while not Path(path).exists():
            time.sleep(0.05)


def wait_until_fired(live, names, meanwhile=lambda: None):
    left = set(names)

    def all_fired():
        left.difference_update([name for name in left if live.prometheus.fired(name)])
        return not left

    try:
        wait_for("alerts", all_fired, meanwhile)
    except AssertionError as error:
        raise AssertionError(f"{error}: {sorted(left)} did not fire") from None


def wait_until_over(live, names):
    left = set(names) - {"ObsrayWatchdog"}
    wait_for(f"the end of {sorted(left)}", lambda: not left & live.prometheus.firing())


@pytest.mark.timeout(900)
def test_alerts_fire_while_something_is_wrong_and_not_after(live, tmp_path):
    assert obsray.get(one.remote()) == 1
    wait_for("all targets", lambda: len(live.prometheus.ask('up{job="obsray"} == 1')) == 3)

    # Faults that stand.
    live.gpus.values = {
        "DCGM_FI_DEV_XID_ERRORS": 79, "DCGM_FI_DEV_ROW_REMAP_FAILURE": 1, "DCGM_FI_DEV_GPU_TEMP": 91,
    }  # fmt: skip
    owner = Holder.options(num_gpus=1, num_cpus=0).remote()
    assert obsray.get(owner.ping.remote()) == 1
    impossible = one.options(resources={"nowhere": 1}).remote()
    blocked = waits.remote([impossible])
    group = placement_group([{"CPU": 100}])
    pending = Holder.options(resources={"nowhere": 1}).remote()
    held = [obsray.get(obsray.put(np.zeros(9 << 20, np.uint8))) for _ in range(4)]
    over = threading.Event()
    full = threading.Thread(target=_put_again_and_again, args=(over,), daemon=True)
    full.start()

    def throttle():
        live.gpus.values["DCGM_FI_DEV_POWER_VIOLATION"] = live.gpus.values.get("DCGM_FI_DEV_POWER_VIOLATION", 0) + 1e6

    wait_until_fired(live, STANDING, throttle)
    summaries = [alert["annotations"]["summary"] for alert in live.prometheus.get("/api/v1/alerts")["alerts"]]
    assert summaries and not [text for text in summaries if "error expanding" in text or "<no value>" in text]
    live.gpus.values = {"DCGM_FI_DEV_POWER_VIOLATION": 0}
    over.set()
    del held
    obsray.cancel(impossible)
    obsray.wait([blocked], timeout=30)
    remove_placement_group(group)
    obsray.kill(pending)
    obsray.kill(owner)
    full.join(60)

    # Faults that happen again and again.
    restarting = Holder.options(max_restarts=-1).remote()
    crowded = Holder.remote()
    release = tmp_path / "release"
    crowded.wait_for.remote(str(release))
    backlog = [crowded.ping.remote() for _ in range(1100)]
    waves = 0

    def wave():
        nonlocal waves
        waves += 1
        calls = [fails.remote() for _ in range(25)] + [crashes.options(max_retries=0).remote() for _ in range(2)]
        calls += [
            crashes_until.options(max_retries=5).remote(str(tmp_path / f"{waves}-{number}"), 5) for number in range(3)
        ]
        calls.append(one.options(runtime_env={"worker_process_setup_hook": _broken}).remote())
        restarting.die.remote()
        obsray.wait(calls, num_returns=len(calls), timeout=30)

    wait_until_fired(live, STORMS, wave)
    release.write_text("")
    assert obsray.get(backlog) == [1] * 1100
    obsray.kill(restarting)

    # Nobody answers.
    wait_until_over(live, STANDING)
    here = process_of("obsray.telemetry.process", live.head.session_dir)
    there = process_of("obsray.telemetry.process", live.other.session_dir)
    dashboard = process_of("obsray.dashboard.process", live.head.session_dir)
    try:
        here.suspend()
        wait_until_fired(live, {"ObsrayTargetDown", "ObsrayHeadMetricsMissing"})
        there.suspend()
        dashboard.suspend()
        wait_until_fired(live, {"ObsrayAbsent"})
    finally:
        for process in (here, there, dashboard):
            process.resume()

    # A node is gone.
    wait_until_over(live, SILENCE)
    live.cluster.remove_node(live.other, allow_graceful=False)
    wait_until_fired(live, DEATH)
    wait_until_over(live, STANDING | STORMS | SILENCE | DEATH)


def _broken():
    raise RuntimeError("this environment cannot be made, on purpose")


def _put_again_and_again(over):
    """Waits for room in a store that has none."""
    while not over.is_set():
        try:
            obsray.put(np.zeros(20 << 20, np.uint8))
        except obsray.exceptions.RayError:
            continue
