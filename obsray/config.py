"""Every setting: name, unit, default, why. Values come from ``init`` arguments or ``OBSRAY_<NAME>`` variables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from obsray import chaos

#: Settings that take one of a few words.
CHOICES = {
    "gpu_telemetry": ("off", "kernels", "full"),
    "progress": ("0", "1", "always"),
    "unsafe_network": ("0", "1"),
    "interrupt_cancels": ("0", "1"),
}
#: More would cost more than profiles may.
PROFILE_HZ_MAX = 100.0
#: With less the newest file of each kind of event would not fit.
TELEMETRY_BYTES_MIN = 1 << 20
# By what nodes share out workers, and replays of what they did.
#: A queue serves one that nobody waits for in a process at least this often.
PLAIN_EVERY_SECONDS = 0.5
#: With more demands than room each keeps a worker at least this long before it is asked for it.
SLICE_SECONDS = 0.2
#: Tasks that waited and go on share CPUs with those that were given theirs for so long: then leases go back.
CROWDED_SECONDS = 0.3
#: Of those who wait so many are looked at in one round that asks for leases back.
RECLAIMING_PER_LOOK_MAX = 64


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one runtime. Frozen: made once by the process that starts the node and passed on."""

    #: Record events. "off" exists to measure what recording costs.
    telemetry: str = "on"
    #: Values up to this size travel inside messages and live in their owner; larger ones in the object store.
    inline_bytes_max: int = 100 * 1024
    #: An idle lease is kept this long, so that a loop of single calls does not ask the scheduler each time.
    lease_linger_seconds: float = 0.05
    #: How long a task may wait behind others pushed to its worker; more starves others, less leaves the worker waiting.
    pipeline_seconds: float = 0.002
    #: Most tasks in flight to one worker, however short they are.
    pipeline_tasks_max: int = 512
    #: Tasks pushed behind one that runs longer than this are taken back and given to other workers.
    recall_seconds: float = 0.01
    #: How often an owner looks whether processes at other nodes hold what they are counted for: a connection that broke
    #: may have lost what was said of it. What two looks in a row contradict is corrected.
    holds_check_seconds: float = 30.0
    #: Processes kept ready. 0 means one per CPU.
    workers_prestart: int = 0
    #: Most worker processes on a node; demand beyond waits and says so.
    workers_max: int = 256
    #: With as many processes as may be, all of them waiting: after so long what they ask for is refused. If all are
    #: sure to wait for tasks that have no process, it is refused after two seconds.
    nesting_wait_seconds_max: float = 60.0
    #: An idle process beyond the prestarted number ends after this time.
    worker_idle_seconds: float = 30.0
    #: A process that has not said hello after this time counts as failed to start.
    worker_start_seconds_max: float = 60.0
    #: The process that forks workers is replaced, and its workers with it, if it owes an answer for so long. One that
    #: somebody has stopped (SIGSTOP) is woken as soon as it is needed.
    zygote_silent_seconds_max: float = 60.0
    #: A process beside the node (control store, collector, dashboard, autoscaler, what watches GPUs) that somebody has
    #: stopped (SIGSTOP) is woken after so long. 0 leaves it stopped. One that is held by a debugger or frozen is never
    #: touched.
    service_halted_seconds_max: float = 10.0
    #: Share of memory (or of the cgroup's limit) for objects if ``object_store_memory`` is not given.
    store_memory_ratio: float = 0.3
    #: Most bytes for objects if ``object_store_memory`` is not given.
    store_bytes_max: int = 200 << 30
    #: Most bytes of objects on disk, spilled or there for want of room. 0 means until the disk is full.
    spill_bytes_max: int = 0
    #: When more than this share of memory (of the machine, or of the cgroup's limit) is in use, the node kills a
    #: worker: first the newest task that may run again.
    memory_usage_ratio_max: float = 0.95
    #: How often that is looked at. 0 leaves it to the kernel.
    memory_check_seconds: float = 0.25
    #: How often a task that may run again does so after a kill for memory; these do not use up its retries.
    oom_retries_max: int = 15
    #: A request for room fails after this time without progress.
    store_wait_seconds_max: float = 30.0
    #: A request for room gets a file on disk instead once nothing can be spilled and nothing has become free for this
    #: time: what fills the store is in use. More than ``store_wait_seconds_max`` never gives one, but to what is larger
    #: than the whole store.
    store_fallback_wait_seconds: float = 1.0
    #: Tasks whose results lie in the store are remembered, so that what is lost can be computed again. Most bytes of
    #: their arguments in one process; beyond, the oldest are forgotten.
    lineage_bytes_max: int = 256 << 20
    #: Most bytes of a working_dir or of one of py_modules, packed; larger ones are refused.
    environment_package_bytes_max: int = 512 << 20
    #: Most bytes of environments kept on a node although no process uses them.
    environment_bytes_max: int = 10 << 30
    #: How often the collector stores what processes recorded.
    collect_interval_seconds: float = 1.0
    #: How often a second the threads that run tasks are looked at, for profiles (0: never; at most 100).
    profile_hz: float = 20.0
    #: How often nodes, stores and processes are sampled.
    sample_interval_seconds: float = 1.0
    #: Telemetry kept per session before the oldest segments are folded away, with what readers keep of it (`folded`).
    telemetry_bytes_max: int = 2 << 30
    #: A line that several workers print, also with other numbers in it, is shown once on the driver's terminal, and
    #: counted after this time. 0 (or RAY_DEDUP_LOGS=0) shows every line.
    log_dedup_seconds: float = 5.0
    #: Where no dashboard runs: something must have waited so long without a break before a process is started that
    #: looks for hangs, until nothing waits any more.
    hang_seconds: float = 20.0
    #: What is kept of each worker's stdout and of its stderr, and of what the command of each submitted job prints: the
    #: newest so many bytes, in whole lines. 0 keeps all.
    worker_log_bytes_max: int = 512 << 20
    #: Copies of other nodes' log files that the head of a cluster keeps, in all; what comes after is at its node only.
    logs_bytes_max: int = 1 << 30
    #: Directories of ended sessions that a new one leaves where it starts, the newest; older ones are removed. 0 keeps
    #: none but the new one's own.
    sessions_max: int = 50
    #: Where ``/metrics`` of every node listens, as host:port; port 0 takes any that is free. Other interfaces than
    #: loopback need ``unsafe_network``.
    metrics_address: str = "127.0.0.1:0"
    #: Where files for dcgm-exporter are written that say which job's kernels ran on each GPU; "" writes none.
    gpu_jobs_directory: str = ""
    #: The library through which GPUs are found and watched; "" does without: they are counted by their device files.
    nvml_library: str = "libnvidia-ml.so.1"
    #: Errors of a GPU (Xid numbers) after which it gets no new work: those of hardware, not of programs.
    gpu_xids_fatal: str = "46,48,62,64,74,79,95,119,120,140"
    #: A GPU that was taken out of service comes back when nothing has been wrong with it for this long; each time it
    #: goes out again within a day takes twice as long, up to 16 times.
    gpu_recovery_seconds: float = 300.0
    #: What workers that own a GPU capture of its work: "off", "kernels" (kernels, copies, waits), or "full" (also every
    #: call of CUDA's interfaces).
    gpu_telemetry: str = "kernels"
    #: Capturing steps down a level, and says so, if it takes more of the time in which tasks run than this.
    gpu_cost_ratio_max: float = 0.1
    #: How often records of finished GPU work leave a worker; a kill loses at most this much.
    gpu_flush_seconds: float = 0.25
    #: Most bytes of raw GPU records of one worker that the collector has not read yet; beyond, they are dropped.
    gpu_raw_bytes_max: int = 256 << 20
    #: Show how far ``get`` and ``wait`` have come: "1" on a terminal, "always" also elsewhere; ``progress=True`` asks
    #: for one call.
    progress: str = "0"
    #: Whether Ctrl-C in a driver cancels the tasks that its ``get`` was waiting for.
    interrupt_cancels: str = "1"
    #: How often a node tells the control store that it lives.
    node_heartbeat_seconds: float = 0.5
    #: A node that was silent for this long is suspected: no new work is placed there until it is heard again.
    node_suspect_seconds: float = 3.0
    #: A node that was silent for this long is dead for good. Longer than an interruption of the network that may cost
    #: nothing. A process that is gone is noticed much sooner, because its port refuses connections.
    node_dead_seconds: float = 10.0
    #: A connection between nodes on which an object is expected and nothing comes for so long (seconds, 1 at least) is
    #: given up: another source or another connection sends the rest.
    transfer_stall_seconds: float = 15.0
    #: A node that has heard of no control store for this long ends in order: its cluster is gone.
    control_gone_seconds_max: float = 60.0
    #: How long a submitted job may wait for the resources and the environment of its command before it has failed.
    job_start_seconds_max: float = 900.0
    #: How long the command of a submitted job that is stopped may take after SIGTERM until it is killed.
    job_stop_seconds: float = 3.0
    #: How often an autoscaler looks at what waits in its cluster.
    autoscaler_interval_seconds: float = 1.0
    #: "1" lets a cluster listen on addresses others than loopback, without encryption: who can read the network can
    #: take part in the cluster.
    unsafe_network: str = "0"
    #: Faults to inject on purpose into calls to the control store and messages between processes ("" is none):
    #: ``NAME=REQUEST:REPLY:INFLIGHT[:MAX]``, ``NAME=delay:MIN:MAX``, ``seed=N``; see reliability.md.
    chaos: str = ""
    #: How long an orderly shutdown may take before processes are killed.
    shutdown_grace_seconds: float = 2.0

    @classmethod
    def from_environment(cls, **overrides: object) -> Config:
        """Defaults, then ``OBSRAY_*`` variables, then ``overrides``.

        Raises ValueError for a value of the wrong type and for a setting that does not exist.
        """
        kinds = {field.name: type(field.default) for field in fields(cls)}
        unknown = sorted(overrides.keys() - kinds.keys())
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not a setting; the settings are: {', '.join(kinds)}")
        values: dict[str, Any] = {}
        for name, kind in kinds.items():
            text = os.environ.get(variable(name))
            if text is not None:
                values[name] = _converted(variable(name), text, kind)
            if name in overrides:
                values[name] = _converted(name, overrides[name], kind)
        for name, allowed in CHOICES.items():
            if name in values and values[name] not in allowed:
                raise ValueError(f"{name}={values[name]!r} is not one of {', '.join(allowed)}")
        for name, value in values.items():
            if isinstance(value, int | float) and value < 0:
                raise ValueError(f"{name}={value:g} is below 0")
        if values.get("telemetry_bytes_max", TELEMETRY_BYTES_MIN) < TELEMETRY_BYTES_MIN:
            raise ValueError(
                f"telemetry_bytes_max={values['telemetry_bytes_max']} is less than any session needs; give "
                f"{TELEMETRY_BYTES_MIN} (1 MiB) or more"
            )
        if not 0 <= values.get("profile_hz", 0.0) <= PROFILE_HZ_MAX:
            raise ValueError(f"profile_hz={values['profile_hz']:g} is not between 0 (off) and {PROFILE_HZ_MAX:g}")
        if not values.get("hang_seconds", 1.0) > 0:
            raise ValueError(f"hang_seconds={values['hang_seconds']:g} is not above 0")
        if values.get("chaos"):
            chaos.parse(values["chaos"], "chaos" if "chaos" in overrides else variable("chaos"))
        return cls(**values)


#: Settings of Ray's that have one here, and what to multiply them by.
_SAME = {
    "max_direct_call_object_size": ("inline_bytes_max", 1),
    "worker_register_timeout_seconds": ("worker_start_seconds_max", 1),
    "idle_worker_killing_time_threshold_ms": ("worker_idle_seconds", 0.001),
    "memory_usage_threshold": ("memory_usage_ratio_max", 1),
    "memory_monitor_refresh_ms": ("memory_check_seconds", 0.001),
    "max_lineage_bytes": ("lineage_bytes_max", 1),
    "task_oom_retries": ("oom_retries_max", 1),
}
#: Settings of Ray's that have none, and what there is instead.
_INSTEAD = {
    **dict.fromkeys(
        ("health_check_initial_delay_ms", "health_check_period_ms", "health_check_timeout_ms",
         "health_check_failure_threshold", "num_heartbeats_timeout", "raylet_heartbeat_period_milliseconds"),
        "node_heartbeat_seconds, node_suspect_seconds and node_dead_seconds say when a node is dead",
    ),
    **dict.fromkeys(
        ("object_spilling_config", "automatic_object_spilling_enabled", "min_spilling_size", "max_io_workers",
         "object_store_full_delay_ms", "object_spilling_threshold", "local_fs_capacity_threshold",
         "local_fs_monitor_interval_ms"),
        "the store spills by itself, into the session directory; spill_bytes_max bounds it",
    ),
    **dict.fromkeys(("testing_rpc_failure", "testing_asio_delay_us"), "chaos injects faults"),
    **dict.fromkeys(
        ("record_ref_creation_sites", "enable_timeline", "event_stats", "task_events_report_interval_ms",
         "task_events_max_num_task_in_gcs", "metrics_report_interval_ms", "event_stats_print_interval_ms",
         "debug_dump_period_milliseconds", "gcs_mark_task_failed_on_job_done_delay_ms",
         "gcs_mark_task_failed_on_worker_dead_delay_ms"),
        "everything is recorded, always",
    ),
    **dict.fromkeys(
        ("object_manager_default_chunk_size", "object_timeout_milliseconds", "gcs_rpc_server_reconnect_timeout_s",
         "gcs_server_request_timeout_seconds", "worker_lease_timeout_milliseconds", "scheduler_spread_threshold",
         "task_retry_delay_ms", "lineage_pinning_enabled", "kill_idle_workers_interval_ms", "num_workers_soft_limit",
         "prestart_worker_first_driver", "enable_worker_prestart", "support_fork", "enable_autoscaler_v2",
         "raylet_death_check_interval_milliseconds", "gcs_failover_worker_reconnect_timeout",
         "timeout_ms_task_wait_for_death_info", "scheduler_top_k_absolute", "scheduler_top_k_fraction",
         "locality_aware_leasing_enabled", "gcs_actor_scheduling_enabled", "max_task_args_memory_fraction",
         "max_pending_lease_requests_per_scheduling_category", "task_rpc_inlined_bytes_limit", "worker_cap_enabled",
         "object_manager_pull_timeout_ms", "object_manager_push_timeout_ms", "fetch_warn_timeout_milliseconds",
         "fetch_fail_timeout_milliseconds", "subscriber_timeout_ms", "core_worker_internal_heartbeat_ms",
         "gcs_resource_report_poll_period_ms", "local_gc_interval_s", "local_gc_min_interval_s",
         "global_gc_min_interval_s"),
        "docs/configuration.md has the settings there are",
    ),
}  # fmt: skip


def translated(settings: Mapping[str, object]) -> dict[str, object]:
    """Settings with those that are known under another name in Ray by ours.

    What has no meaning here is left out with a RuntimeWarning; what is no setting anywhere stays, to be refused.
    """
    found: dict[str, object] = {}
    for name, value in settings.items():
        if name in _SAME and isinstance(value, (int, float)):
            ours, factor = _SAME[name]
            found[ours] = value * factor
        elif name in _INSTEAD:
            warnings.warn(f"_system_config: {name!r} of Ray has no effect: {_INSTEAD[name]}", RuntimeWarning, 3)
        else:
            found[name] = value
    return found


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"OBSRAY_{name.upper()}"


def _converted(name: str, value: object, kind: Any) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} is not {kind.__name__}") from None
