"""For every alert: series under which it fires, and series under which it must not.

``python -m tests.monitoring.rule_cases`` writes ``prometheus/obsray.test.yml``, which ``promtool test rules`` runs.
A sample is taken every minute; ``0+2x60`` is 0, 2, 4, ... 120.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from obsray.monitoring import yaml_text
from obsray.monitoring.prometheus_files import alerts

FILE = Path(__file__).resolve().parents[2] / "prometheus" / "obsray.test.yml"
FLAT = "x60"


@dataclass(frozen=True)
class Case:
    """At minute ``at`` alert ``name`` fires with ``labels`` given ``fires``, and does not given ``quiet``."""

    name: str
    fires: dict[str, str]
    quiet: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)
    at: int = 30


def counted(name: str, before: int, after: int, minute: int = 25) -> dict[str, str]:
    """A counter that goes from one value to another at a minute."""
    return {name: f"{before}x{minute - 1} {after}x60"}


N = {"node": "a"}


def rising(metric: str, label: str = "") -> tuple[dict[str, str], dict[str, str]]:
    """A counter of node a that rose a moment ago, and one that rose long before."""
    name = f'{metric}{{node="a"{label}}}'
    return counted(name, 0, 3), {name: f"0x1 3{FLAT}"}


CASES: tuple[Case, ...] = (
    # nodes
    Case("ObsrayWatchdog", {"up": "1x60"}, {}),
    Case(
        "ObsrayTargetDown",
        {'up{job="obsray",instance="n1"}': "1x10 0x60"},
        {'up{job="obsray",instance="n1"}': f"1{FLAT}"},
        {"job": "obsray", "instance": "n1"},
    ),
    Case(
        "ObsrayAbsent", {'up{job="obsray",instance="n1"}': f"0{FLAT}"}, {'up{job="obsray",instance="n1"}': f"1{FLAT}"}
    ),
    Case(
        "ObsrayHeadMetricsMissing",
        {'up{job="obsray",instance="n1"}': f"1{FLAT}"},
        {'up{job="obsray",instance="n1"}': f"1{FLAT}", 'obsray_nodes{state="alive"}': f"1{FLAT}"},
    ),
    Case(
        "ObsrayNodeDead",
        counted('obsray_node_changes_total{state="dead"}', 0, 1),
        counted('obsray_node_changes_total{state="alive"}', 0, 1),
        {"state": "dead"},
    ),
    Case(
        "ObsrayNodesFlapping",
        {'obsray_node_changes_total{state="dead"}': "0+0.2x60"},
        counted('obsray_node_changes_total{state="dead"}', 0, 1),
        {"state": "dead"},
    ),
    Case(
        "ObsrayNodeSuspected",
        {'obsray_nodes{state="suspected"}': f"1{FLAT}"},
        {'obsray_nodes{state="suspected"}': "0x29 1x2"},
    ),
    Case(
        "ObsrayProcessHalted",
        {'obsray_processes_halted{node="a",process="worker"}': f"1{FLAT}"},
        {'obsray_processes_halted{node="a",process="worker"}': "0x29 1x1 0x60"},
        {"node": "a", "process": "worker"},
    ),
    Case(
        "ObsrayNodeMemoryLow",
        {
            'obsray_node_memory_bytes{node="a",state="total"}': f"100{FLAT}",
            'obsray_node_memory_bytes{node="a",state="available"}': f"4{FLAT}",
        },
        {
            'obsray_node_memory_bytes{node="a",state="total"}': f"100{FLAT}",
            'obsray_node_memory_bytes{node="a",state="available"}': f"6{FLAT}",
        },
        N,
    ),
    Case(
        "ObsrayNodeDiskFull",
        {
            'obsray_node_disk_bytes{node="a",state="total"}': f"100{FLAT}",
            'obsray_node_disk_bytes{node="a",state="free"}': f"4{FLAT}",
        },
        {
            'obsray_node_disk_bytes{node="a",state="total"}': f"100{FLAT}",
            'obsray_node_disk_bytes{node="a",state="free"}': f"6{FLAT}",
        },
        N,
    ),
    Case(
        "ObsrayNodeOverloaded",
        {'obsray_node_load1{node="a"}': f"9{FLAT}", 'obsray_node_cpus{node="a"}': f"2{FLAT}"},
        {'obsray_node_load1{node="a"}': f"7{FLAT}", 'obsray_node_cpus{node="a"}': f"2{FLAT}"},
        N,
    ),
    Case(
        "ObsrayGcsSlow",
        {
            'obsray_gcs_rpc_duration_seconds_bucket{method="Put",le="0.5"}': f"0{FLAT}",
            'obsray_gcs_rpc_duration_seconds_bucket{method="Put",le="+Inf"}': "0+9x60",
            'obsray_gcs_rpc_duration_seconds_bucket{method="Put",le="1.0"}': "0+9x60",
        },
        {
            'obsray_gcs_rpc_duration_seconds_bucket{method="Put",le="0.5"}': "0+9x60",
            'obsray_gcs_rpc_duration_seconds_bucket{method="Put",le="+Inf"}': "0+9x60",
        },
        {"method": "Put"},
    ),
    Case(
        "ObsrayGcsFailures",
        {
            'obsray_gcs_rpc_failures_total{method="Put"}': "0+1x60",
            'obsray_gcs_rpc_duration_seconds_count{method="Put"}': "0+10x60",
        },
        {
            'obsray_gcs_rpc_failures_total{method="Put"}': "0+1x60",
            'obsray_gcs_rpc_duration_seconds_count{method="Put"}': "0+30x60",
        },
    ),
    Case(
        "ObsrayControlStorageSlow",
        {
            'obsray_control_write_seconds_bucket{le="0.25"}': f"0{FLAT}",
            'obsray_control_write_seconds_bucket{le="0.5"}': "0+9x60",
            'obsray_control_write_seconds_bucket{le="+Inf"}': "0+9x60",
        },
        {
            'obsray_control_write_seconds_bucket{le="0.25"}': "0+9x60",
            'obsray_control_write_seconds_bucket{le="+Inf"}': "0+9x60",
        },
    ),
    Case(
        "ObsrayControlReadOnly",
        {"obsray_control_read_only": f"1{FLAT}"},
        {"obsray_control_read_only": f"0{FLAT}"},
    ),
    Case(
        "ObsrayControlTookOver",
        counted("obsray_control_takeovers_total", 0, 1),
        {"obsray_control_takeovers_total": f"1{FLAT}"},
    ),
    Case(
        "ObsrayAutoscalerLaunchesFail",
        counted('obsray_autoscaler_launch_failures_total{node_type="big"}', 0, 2),
        {'obsray_autoscaler_launch_failures_total{node_type="big"}': f"2{FLAT}"},
        {"node_type": "big"},
    ),
    Case(
        "ObsrayGpuReservedButIdle",
        {
            'obsray_resource_used{node="a",resource="GPU"}': f"2{FLAT}",
            'obsray_gpu_kernel_seconds_total{node="a",gpu="0",fn="f"}': "0+1x60",
        },
        {
            'obsray_resource_used{node="a",resource="GPU"}': f"2{FLAT}",
            'obsray_gpu_kernel_seconds_total{node="a",gpu="0",fn="f"}': "0+30x60",
        },
        N,
        at=45,
    ),
    Case(
        "ObsrayGpuOutOfService",
        {'obsray_gpu_in_service{node="a",gpu="1",uuid="GPU-b"}': f"0{FLAT}"},
        {'obsray_gpu_in_service{node="a",gpu="1",uuid="GPU-b"}': f"1{FLAT}"},
        {"node": "a", "gpu": "1", "uuid": "GPU-b"},
    ),
    Case(
        "ObsrayGpuMemoryForeign",
        {'obsray_gpu_held_memory_bytes{node="a",gpu="1",uuid="GPU-b",job_id="foreign"}': f"5000000000{FLAT}"},
        {
            'obsray_gpu_held_memory_bytes{node="a",gpu="1",uuid="GPU-b",job_id="foreign"}': f"5000000{FLAT}",
            'obsray_gpu_held_memory_bytes{node="a",gpu="1",uuid="GPU-b",job_id="00000001"}': f"5000000000{FLAT}",
        },
        {"node": "a", "gpu": "1", "uuid": "GPU-b", "job_id": "foreign"},
    ),
    Case(
        "ObsrayGpuXid",
        {'DCGM_FI_DEV_XID_ERRORS{gpu="0",Hostname="h"}': f"79{FLAT}"},
        {'DCGM_FI_DEV_XID_ERRORS{gpu="0",Hostname="h"}': f"0{FLAT}"},
        {"gpu": "0", "Hostname": "h"},
    ),
    Case(
        "ObsrayGpuRowRemapFailure",
        {'DCGM_FI_DEV_ROW_REMAP_FAILURE{gpu="0"}': f"1{FLAT}"},
        {'DCGM_FI_DEV_ROW_REMAP_FAILURE{gpu="0"}': f"0{FLAT}"},
        {"gpu": "0"},
    ),
    Case(
        "ObsrayGpuHot",
        {'DCGM_FI_DEV_GPU_TEMP{gpu="0"}': f"90{FLAT}"},
        {'DCGM_FI_DEV_GPU_TEMP{gpu="0"}': f"80{FLAT}"},
        {"gpu": "0"},
    ),
    Case(
        "ObsrayGpuThrottled",
        {'DCGM_FI_DEV_POWER_VIOLATION{gpu="0"}': "0+7x60"},
        {'DCGM_FI_DEV_POWER_VIOLATION{gpu="0"}': f"7{FLAT}"},
        {"gpu": "0"},
    ),
    Case("ObsrayGpuCaptureRefused", *rising("obsray_gpu_capture_refusals_total"), N),
    # work
    Case(
        "ObsrayTaskFailureRatioHigh",
        {
            'obsray_tasks_finished_total{fn="f",outcome="ok"}': "0+6x60",
            'obsray_tasks_finished_total{fn="f",outcome="app_error"}': "0+4x60",
        },
        {
            'obsray_tasks_finished_total{fn="f",outcome="ok"}': "0+6x60",
            'obsray_tasks_finished_total{fn="f",outcome="app_error"}': "0+1x60",
            'obsray_tasks_finished_total{fn="g",outcome="app_error"}': "0+1x60",
            'obsray_tasks_finished_total{fn="h",outcome="ok"}': "0+6x60",
            'obsray_tasks_finished_total{fn="h",outcome="cancelled"}': "0+9x60",
        },
        {"fn": "f"},
    ),
    Case(
        "ObsrayTaskRetriesHigh",
        {
            'obsray_task_retries_total{fn="f",cause="worker_died"}': "0+3x60",
            'obsray_tasks_finished_total{fn="f",outcome="ok"}': "0+4x60",
        },
        {
            'obsray_task_retries_total{fn="f",cause="worker_died"}': "0+1x60",
            'obsray_tasks_finished_total{fn="f",outcome="ok"}': "0+4x60",
        },
        {"fn": "f"},
    ),
    Case(
        "ObsrayTasksInfeasible",
        {'obsray_tasks_pending{reason="infeasible",shape="GPU:8"}': f"3{FLAT}"},
        {'obsray_tasks_pending{reason="no_capacity",shape="GPU:8"}': f"3{FLAT}"},
        {"shape": "GPU:8"},
    ),
    Case(
        "ObsrayNoProgress",
        {
            'obsray_tasks_pending{reason="infeasible",shape="f"}': f"3{FLAT}",
            'obsray_tasks_finished_total{fn="f",outcome="ok"}': f"10{FLAT}",
            'obsray_workers{state="busy"}': f"0{FLAT}",
        },
        {
            'obsray_tasks_pending{reason="infeasible",shape="f"}': f"3{FLAT}",
            'obsray_tasks_finished_total{fn="f",outcome="ok"}': f"10{FLAT}",
            'obsray_workers{state="busy"}': f"1{FLAT}",
        },
    ),
    Case(
        "ObsrayHang",
        {'obsray_hangs{kind="cycle"}': f"1{FLAT}"},
        {'obsray_hangs{kind="cycle"}': f"0{FLAT}", 'obsray_hangs{kind="stuck"}': f"0{FLAT}"},
        {"kind": "cycle"},
    ),
    Case(
        "ObsrayAllWorkersBlocked",
        {
            'obsray_workers{state="blocked_in_get"}': f"8{FLAT}",
            'obsray_workers{state="busy"}': f"0{FLAT}",
            'obsray_tasks_pending{reason="no_capacity"}': f"8{FLAT}",
        },
        {
            'obsray_workers{state="blocked_in_get"}': f"8{FLAT}",
            'obsray_workers{state="busy"}': f"2{FLAT}",
            'obsray_tasks_pending{reason="no_capacity"}': f"8{FLAT}",
        },
    ),
    Case("ObsrayQueueGrowing", {"obsray_tasks_pending": "1000+100x60"}, {"obsray_tasks_pending": f"5000{FLAT}"}, at=45),
    Case(
        "ObsrayQueueLatencyHigh",
        {
            'obsray_task_queue_seconds_bucket{fn="f",le="5.0"}': f"0{FLAT}",
            'obsray_task_queue_seconds_bucket{fn="f",le="10.0"}': "0+9x60",
            'obsray_task_queue_seconds_bucket{fn="f",le="+Inf"}': "0+9x60",
        },
        {
            'obsray_task_queue_seconds_bucket{fn="f",le="5.0"}': "0+9x60",
            'obsray_task_queue_seconds_bucket{fn="f",le="+Inf"}': "0+9x60",
        },
    ),
    Case(
        "ObsrayStragglerNode",
        {
            'obsray_task_duration_seconds_sum{instance="a",fn="g"}': "0+60x60",
            'obsray_task_duration_seconds_count{instance="a",fn="g"}': "0+60x60",
            'obsray_task_duration_seconds_sum{instance="b",fn="g"}': "0+180x60",
            'obsray_task_duration_seconds_count{instance="b",fn="g"}': "0+30x60",
        },
        {
            'obsray_task_duration_seconds_sum{instance="a",fn="g"}': "0+60x60",
            'obsray_task_duration_seconds_count{instance="a",fn="g"}': "0+60x60",
            'obsray_task_duration_seconds_sum{instance="b",fn="g"}': "0+45x60",
            'obsray_task_duration_seconds_count{instance="b",fn="g"}': "0+30x60",
        },
        {"instance": "b", "fn": "g"},
    ),
    Case(
        "ObsraySchedulerLoopLag",
        {
            'obsray_scheduler_loop_lag_seconds_bucket{node="a",le="0.1"}': f"0{FLAT}",
            'obsray_scheduler_loop_lag_seconds_bucket{node="a",le="0.25"}': "0+9x60",
            'obsray_scheduler_loop_lag_seconds_bucket{node="a",le="+Inf"}': "0+9x60",
        },
        {
            'obsray_scheduler_loop_lag_seconds_bucket{node="a",le="0.1"}': "0+9x60",
            'obsray_scheduler_loop_lag_seconds_bucket{node="a",le="+Inf"}': "0+9x60",
        },
        N,
    ),
    Case(
        "ObsraySpillbackStorm",
        {
            'obsray_scheduler_decisions_total{node="a",outcome="spillback"}': "0+4000x60",
            'obsray_scheduler_decisions_total{node="a",outcome="local"}': "0+1000x60",
            # Those that are passed on have waited before.
            'obsray_scheduler_decisions_total{node="a",outcome="queue"}': "0+4000x60",
        },
        {
            'obsray_scheduler_decisions_total{node="a",outcome="spillback"}': "0+400x60",
            'obsray_scheduler_decisions_total{node="a",outcome="local"}': "0+100x60",
        },
        N,
    ),
    Case("ObsrayEnvironmentFailures", *rising("obsray_environment_failures_total"), N),
    Case(
        "ObsrayPlacementGroupsPending",
        {'obsray_placement_groups{state="pending"}': f"1{FLAT}"},
        {
            'obsray_placement_groups{state="created"}': f"1{FLAT}",
            'obsray_placement_groups{state="pending"}': f"0{FLAT}",
        },
    ),
    Case("ObsrayWorkerOomKills", *rising("obsray_worker_deaths_total", ',cause="oom"'), {**N, "cause": "oom"}, at=50),
    Case(
        "ObsrayWorkerCrashLoop",
        counted('obsray_worker_deaths_total{node="a",cause="signal"}', 0, 8),
        counted('obsray_worker_deaths_total{node="a",cause="idle"}', 0, 8),
        N,
    ),
    Case(
        "ObsrayWorkersDoNotStart",
        counted('obsray_worker_deaths_total{node="a",cause="start_failed"}', 0, 4),
        counted('obsray_worker_deaths_total{node="a",cause="start_failed"}', 0, 1),
        {**N, "cause": "start_failed"},
    ),
    Case(
        "ObsrayActorRestartLoop",
        counted('obsray_actor_restarts_total{actor_class="C",cause="signal"}', 1, 6),
        counted('obsray_actor_restarts_total{actor_class="C",cause="signal"}', 1, 3),
        {"actor_class": "C"},
    ),
    Case(
        "ObsrayActorsPending",
        {'obsray_actors{actor_class="C",state="pending"}': f"1{FLAT}"},
        {'obsray_actors{actor_class="C",state="alive"}': f"1{FLAT}"},
        {"actor_class": "C"},
    ),
    Case(
        "ObsrayActorCallBacklog",
        {'obsray_tasks_unfinished{fn="C.work"}': f"1001{FLAT}"},
        {'obsray_tasks_unfinished{fn="C.work"}': f"1000{FLAT}", 'obsray_tasks_unfinished{fn="work"}': f"5000{FLAT}"},
        {"fn": "C.work"},
    ),
    Case(
        "ObsrayCollectiveFailures",
        counted('obsray_collective_failures_total{operation="allreduce"}', 0, 2),
        {'obsray_collective_failures_total{operation="allreduce"}': f"2{FLAT}"},
        {"operation": "allreduce"},
    ),
    Case(
        "ObsrayLogsDropped",
        {'obsray_logs_dropped_bytes_total{node="a"}': "0+9x60"},
        {'obsray_logs_dropped_bytes_total{node="a"}': f"9{FLAT}"},
        N,
    ),
    # objects
    Case(
        "ObsrayObjectStoreFillingUp",
        {
            'obsray_object_store_used_bytes{node="a"}': "500+15x60",
            'obsray_object_store_capacity_bytes{node="a"}': f"1000{FLAT}",
        },
        {
            'obsray_object_store_used_bytes{node="a"}': f"900{FLAT}",
            'obsray_object_store_capacity_bytes{node="a"}': f"1000{FLAT}",
        },
        N,
    ),
    Case(
        "ObsrayObjectStoreFull",
        {'obsray_object_allocations_waiting{node="a"}': f"1{FLAT}"},
        {'obsray_object_allocations_waiting{node="a"}': "0x28 1x2"},
        N,
    ),
    Case(
        "ObsrayObjectsInFiles",
        {'obsray_object_store_fallback_bytes{node="a"}': f"1{FLAT}"},
        {'obsray_object_store_fallback_bytes{node="a"}': "0x28 1x4 0x20"},
        N,
    ),
    Case("ObsrayObjectAllocationFailed", *rising("obsray_object_allocation_failures_total"), N),
    Case(
        "ObsraySpillThrash",
        {
            'obsray_object_spilled_bytes_total{node="a"}': "0+6e9x60",
            'obsray_object_restored_bytes_total{node="a"}': "0+6e9x60",
        },
        {
            'obsray_object_spilled_bytes_total{node="a"}': "0+6e9x60",
            'obsray_object_restored_bytes_total{node="a"}': f"0{FLAT}",
        },
        N,
    ),
    Case("ObsrayObjectsLost", *rising("obsray_objects_lost_total"), N),
    Case("ObsrayObjectRebuildFailed", *rising("obsray_object_rebuild_failures_total"), N),
    Case(
        "ObsrayObjectTransferStalled",
        {
            'obsray_object_pulls_inflight{node="a"}': f"2{FLAT}",
            'obsray_object_received_bytes_total{node="a",peer="b"}': f"9{FLAT}",
        },
        {
            'obsray_object_pulls_inflight{node="a"}': f"2{FLAT}",
            'obsray_object_received_bytes_total{node="a",peer="b"}': "0+9x60",
        },
        N,
    ),
    Case(
        "ObsrayObjectTransfersFailing",
        counted('obsray_object_transfers_failed_total{node="a"}', 0, 9),
        counted('obsray_object_transfers_failed_total{node="a"}', 0, 2),
        N,
    ),
    # telemetry
    Case(
        "ObsrayTelemetryDropping",
        *rising("obsray_telemetry_events_dropped_total", ',stage="ring"'),
        {**N, "stage": "ring"},
    ),
    Case(
        "ObsrayTelemetryLag",
        {'obsray_telemetry_export_lag_seconds{node="a",exporter="store"}': f"31{FLAT}"},
        {'obsray_telemetry_export_lag_seconds{node="a",exporter="store"}': f"29{FLAT}"},
        {**N, "exporter": "store"},
    ),
    Case(
        "ObsrayTelemetryRingFilling",
        {'obsray_telemetry_ring_fill_ratio{node="a"}': f"0.9{FLAT}"},
        {'obsray_telemetry_ring_fill_ratio{node="a"}': f"0.7{FLAT}"},
        N,
    ),
    Case(
        "ObsrayTelemetryIncomplete",
        counted("obsray_telemetry_incomplete_nodes_total", 0, 1),
        {"obsray_telemetry_incomplete_nodes_total": f"1{FLAT}"},
    ),
    Case(
        "ObsrayTelemetryOverheadHigh",
        {
            'obsray_telemetry_cpu_seconds_total{stage="collector"}': "0+15x60",
            'obsray_process_cpu_seconds_total{process="worker"}': "0+60x60",
        },
        {
            'obsray_telemetry_cpu_seconds_total{stage="collector"}': "0+5x60",
            'obsray_process_cpu_seconds_total{process="worker"}': "0+20x60",
        },
    ),
    Case(
        "ObsrayCardinalityHigh",
        {
            'obsray_metric_label_values{node="a",label="fn"}': f"190{FLAT}",
            'obsray_metric_label_values_limit{node="a",label="fn"}': f"200{FLAT}",
        },
        {
            'obsray_metric_label_values{node="a",label="fn"}': f"100{FLAT}",
            'obsray_metric_label_values_limit{node="a",label="fn"}': f"200{FLAT}",
        },
        {"label": "fn"},
    ),
    Case(
        "ObsrayScrapeLarge",
        {'scrape_samples_post_metric_relabeling{job="obsray",instance="a"}': f"30000{FLAT}"},
        {
            'scrape_samples_post_metric_relabeling{job="obsray",instance="a"}': f"3000{FLAT}",
            'scrape_samples_post_metric_relabeling{job="other",instance="a"}': f"30000{FLAT}",
        },
        {"job": "obsray", "instance": "a"},
    ),
    Case(
        "ObsrayDashboardErrors",
        counted("obsray_dashboard_errors_total", 0, 9),
        counted("obsray_dashboard_errors_total", 0, 4),
    ),
    # objectives
    Case(
        "ObsrayTaskAvailabilityBudgetBurnFast",
        {'obsray_task_outcomes_total{outcome="ok"}': "0+96x80", 'obsray_task_outcomes_total{outcome="oom"}': "0+4x80"},
        {
            'obsray_task_outcomes_total{outcome="ok"}': "0+96x80",
            'obsray_task_outcomes_total{outcome="app_error"}': "0+40x80",
        },
        at=70,
    ),
    Case(
        "ObsrayTaskAvailabilityBudgetBurnSlow",
        {
            "cluster:obsray_task_errors:ratio_rate3d": f"0.002{FLAT}",
            "cluster:obsray_task_errors:ratio_rate6h": f"0.002{FLAT}",
        },
        {
            "cluster:obsray_task_errors:ratio_rate3d": f"0.002{FLAT}",
            "cluster:obsray_task_errors:ratio_rate6h": f"0{FLAT}",
        },
    ),
    Case(
        "ObsrayTaskLatencyBudgetBurnFast",
        {
            'obsray_task_queue_seconds_count{fn="f"}': "0+100x80",
            'obsray_task_queue_seconds_bucket{fn="f",le="10.0"}': "0+80x80",
        },
        {
            'obsray_task_queue_seconds_count{fn="f"}': "0+100x80",
            'obsray_task_queue_seconds_bucket{fn="f",le="10.0"}': "0+99x80",
        },
        at=70,
    ),
    Case(
        "ObsrayTaskLatencyBudgetBurnSlow",
        {
            "cluster:obsray_task_queue_slow:ratio_rate1d": f"0.04{FLAT}",
            "cluster:obsray_task_queue_slow:ratio_rate2h": f"0.04{FLAT}",
        },
        {
            "cluster:obsray_task_queue_slow:ratio_rate1d": f"0{FLAT}",
            "cluster:obsray_task_queue_slow:ratio_rate2h": f"0.04{FLAT}",
        },
    ),
)


def _metrics(series: dict[str, str]) -> set[str]:
    names = {re.sub("_(bucket|sum|count)$", "", name.partition("{")[0]) for name in series}
    # What is given as recorded must not be recorded besides.
    if any(":" in name for name in names):
        names |= {"obsray_task_outcomes_total", "obsray_task_queue_seconds"}
    return names


def _packed(cases: list[tuple[Case, dict[str, str]]]) -> list[list[tuple[Case, dict[str, str]]]]:
    """Cases whose metrics have nothing in common share a group: every group evaluates every rule."""
    groups: list[tuple[set[str], list[tuple[Case, dict[str, str]]]]] = []
    for case, series in cases:
        names = _metrics(series)
        for taken, group in groups:
            if not taken & names:
                taken |= names
                group.append((case, series))
                break
        else:
            groups.append((names, [(case, series)]))
    return [group for _, group in groups]


def _group(title: str, cases: list[tuple[Case, dict[str, str]]], severity: dict[str, str]) -> dict[str, Any]:
    expectations = []
    for case, _ in cases:
        labels = {"alertname": case.name, "alertstate": "firing", "severity": severity[case.name], **case.labels}
        shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
        expectations.append(
            {
                "expr": f'ALERTS{{alertname="{case.name}",alertstate="firing"}}',
                "eval_time": f"{case.at}m",
                "exp_samples": [{"labels": f"ALERTS{{{shown}}}", "value": 1}] if title == "fires" else [],
            }
        )
    return {
        "name": title,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for _, series in cases for name, values in series.items()],
        "promql_expr_test": expectations,
    }


def text() -> str:
    """``prometheus/obsray.test.yml``."""
    severity = {alert.name: alert.severity for alert in alerts()}
    tests = [_group("fires", group, severity) for group in _packed([(case, case.fires) for case in CASES])]
    quiet = [(case, case.quiet) for case in CASES if case.quiet]
    tests += [_group("does not fire", group, severity) for group in _packed(quiet)]
    made = {"rule_files": ["obsray.rules.yml"], "evaluation_interval": "1m", "tests": tests}
    comment = "Made by python -m tests.monitoring.rule_cases; do not edit. Run: promtool test rules obsray.test.yml"
    return yaml_text.dump(made, comment)


if __name__ == "__main__":
    FILE.write_text(text())
