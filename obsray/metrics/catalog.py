"""Every metric: name, type, unit, labels, help, and the events it is folded from.

The exporter serves exactly these; ``docs/metrics.md`` is generated from them; dashboards and alert rules may name
nothing else. Labels are bounded: ``fn`` has ``FUNCTIONS_MAX`` names, those that came first and those used most, and the
rest is ``other``; ids never are labels, they are in the exemplars of histograms.
"""

from __future__ import annotations

from dataclasses import dataclass

FUNCTIONS_MAX = 200
#: Of these, so many are kept for functions that come late and are used often: without them, a program that makes
#: functions in a loop would hide all that come after.
FUNCTIONS_KEPT = 40
#: As often as this.
USES_MIN = 1000
SHAPES_MAX = 200
#: Of everything else that is named: classes of actors, methods of the control store, resources, ...
NAMES_MAX = 100
#: Jobs with series of their own: the newest.
JOBS_MAX = 100
OTHER = "other"
#: Collective operations, by the names under which they are told.
OPERATIONS = ("allreduce", "reduce", "broadcast", "allgather", "reducescatter", "send", "recv", "barrier")

#: Upper bounds of histogram buckets in seconds.
BUCKETS: tuple[float, ...] = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 300.0, 600.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. ``name`` is without ``_total``, which counters get in the exposition."""

    name: str
    type: str
    unit: str
    labels: tuple[str, ...]
    help: str
    events: tuple[str, ...]
    #: Who serves it: the collector of every node (``node``), of the head alone (``head``), or the dashboard.
    served_by: str = "node"

    @property
    def exposed(self) -> str:
        """The name a query uses (of a histogram: the family's)."""
        return f"{self.name}_total" if self.type == "counter" else self.name


#: Which GPU: its number at its node, and its UUID, which series of dcgm-exporter have as well.
_DEVICE = ("node", "gpu", "uuid")

_METRICS: tuple[Metric, ...] = (
    # tasks
    Metric(
        "obsray_tasks_submitted",
        "counter",
        "",
        ("fn",),
        "Tasks accepted by their owner.",
        ("task_submitted", "tasks_submitted"),
    ),
    Metric(
        "obsray_tasks_finished",
        "counter",
        "",
        ("fn", "outcome"),
        "Tasks that are over, as their owner saw it.",
        ("task_finished", "tasks_finished"),
    ),
    Metric(
        "obsray_tasks_pending",
        "gauge",
        "",
        ("reason", "shape"),
        "Tasks that do not run yet: waiting for arguments, for a worker (with the scheduler's reason), or at a worker.",
        (
            "task_submitted",
            "tasks_submitted",
            "task_ready",
            "task_finished",
            "tasks_finished",
            "lease_requested",
            "lease_decided",
        ),
    ),
    Metric(
        "obsray_tasks_running", "gauge", "", (), "Tasks running now, read from the black boxes of the processes.", ()
    ),
    Metric(
        "obsray_task_duration_seconds", "histogram", "seconds", ("fn",), "Time inside the function.", ("task_ended",)
    ),
    Metric(
        "obsray_task_queue_seconds",
        "histogram",
        "seconds",
        ("fn",),
        "From submission (or the last argument, or the retry) to dispatch, of every task once; served by its owner's "
        "node, or by the head if it ran on another one.",
        ("task_submitted", "tasks_submitted", "task_ready", "task_retried", "task_ended"),
    ),
    Metric("obsray_task_fetch_seconds", "histogram", "seconds", ("fn",), "Fetching arguments.", ("task_ended",)),
    Metric(
        "obsray_task_deserialize_seconds",
        "histogram",
        "seconds",
        ("fn",),
        "Making Python objects of arguments.",
        ("task_ended",),
    ),
    Metric(
        "obsray_task_store_seconds", "histogram", "seconds", ("fn",), "Storing or sending results.", ("task_ended",)
    ),
    Metric("obsray_task_cpu_seconds", "counter", "seconds", ("fn",), "CPU time inside the function.", ("task_ended",)),
    Metric(
        "obsray_task_retries",
        "counter",
        "",
        ("fn", "cause"),
        "Attempts that failed and were followed by another.",
        ("task_retried",),
    ),
    # scheduler
    Metric(
        "obsray_scheduler_decisions",
        "counter",
        "",
        ("node", "outcome", "reason"),
        "Answers of the local scheduler to demands for workers.",
        ("lease_decided",),
    ),
    Metric("obsray_scheduler_queue_depth", "gauge", "", ("node",), "Demands that wait.", ("node_sample",)),
    Metric(
        "obsray_scheduler_loop_lag_seconds",
        "histogram",
        "seconds",
        ("node",),
        "How late the node's loop is.",
        ("node_sample",),
    ),
    # objects
    Metric(
        "obsray_object_store_capacity_bytes",
        "gauge",
        "bytes",
        ("node",),
        "Size of the object store.",
        ("store_sample",),
    ),
    Metric(
        "obsray_object_store_used_bytes",
        "gauge",
        "bytes",
        ("node",),
        "Bytes of objects in the store.",
        ("store_sample",),
    ),
    Metric(
        "obsray_object_store_pinned_bytes", "gauge", "bytes", ("node",), "Bytes mapped by readers.", ("store_sample",)
    ),
    Metric(
        "obsray_object_store_spilled_bytes",
        "gauge",
        "bytes",
        ("node",),
        "Bytes of spilled objects on disk.",
        ("store_sample",),
    ),
    Metric(
        "obsray_object_store_fallback_bytes",
        "gauge",
        "bytes",
        ("node",),
        "Bytes of objects in files, for which the store had no room.",
        ("store_sample",),
    ),
    Metric("obsray_objects", "gauge", "", ("node", "state"), "Objects by where they are.", ("store_sample",)),
    Metric(
        "obsray_object_created_bytes", "counter", "bytes", ("node",), "Room reserved for objects.", ("object_created",)
    ),
    Metric("obsray_object_freed_bytes", "counter", "bytes", ("node",), "Room of freed objects.", ("object_freed",)),
    Metric("obsray_object_spilled_bytes", "counter", "bytes", ("node",), "Moved to disk.", ("object_spilled",)),
    Metric("obsray_object_restored_bytes", "counter", "bytes", ("node",), "Read back from disk.", ("object_restored",)),
    Metric(
        "obsray_object_received_bytes",
        "counter",
        "bytes",
        ("node", "peer"),
        "Bytes of objects that came from other nodes.",
        ("transfer_done",),
    ),
    Metric(
        "obsray_object_sent_bytes",
        "counter",
        "bytes",
        ("node", "peer"),
        "Bytes of objects that went to other nodes.",
        ("transfer_served",),
    ),
    Metric(
        "obsray_object_transfer_seconds",
        "histogram",
        "seconds",
        ("node",),
        "Time on the wire of an object that came from another node.",
        ("transfer_done",),
    ),
    Metric(
        "obsray_object_transfers_failed",
        "counter",
        "",
        ("node",),
        "Objects of other nodes that did not come.",
        ("transfer_failed",),
    ),
    Metric(
        "obsray_clock_offset_seconds",
        "gauge",
        "seconds",
        ("node", "peer"),
        "How far the clock of another node is ahead of this one's, the head's.",
        ("clock_measured",),
    ),
    Metric(
        "obsray_clock_uncertainty_seconds",
        "gauge",
        "seconds",
        ("node", "peer"),
        "How wrong that may be.",
        ("clock_measured",),
    ),
    Metric("obsray_objects_lost", "counter", "", ("node",), "Objects that can no longer be read.", ("object_lost",)),
    # workers, actors, resources
    Metric(
        "obsray_workers",
        "gauge",
        "",
        ("node", "state"),
        "Worker processes by state.",
        ("node_sample", "worker_died", "task_blocked", "task_unblocked"),
    ),
    Metric("obsray_worker_deaths", "counter", "", ("node", "cause"), "Ends of processes by cause.", ("worker_died",)),
    Metric(
        "obsray_worker_start_seconds",
        "histogram",
        "seconds",
        ("node",),
        "From asking for a process to its hello.",
        ("worker_registered",),
    ),
    Metric(
        "obsray_actor_restarts",
        "counter",
        "",
        ("actor_class", "cause"),
        "Actors started again.",
        ("actor_restarting", "actor_created"),
        "head",
    ),
    Metric("obsray_actor_checkpoints", "counter", "", (), "States saved by actors.", ("actor_checkpoint_saved",)),
    Metric("obsray_actor_checkpoint_bytes", "counter", "bytes", (), "What they hold.", ("actor_checkpoint_saved",)),
    Metric(
        "obsray_actor_checkpoint_seconds",
        "counter",
        "seconds",
        (),
        "Time that actors spent saving.",
        ("actor_checkpoint_saved",),
    ),
    Metric("obsray_actor_calls_replayed", "counter", "", (), "Calls repeated by restored actors.", ("actor_restored",)),
    Metric(
        "obsray_placement_groups",
        "gauge",
        "",
        ("state",),
        "Placement groups by state; pending ones wait for room.",
        ("group_requested", "group_created", "group_rescheduling", "group_removed"),
    ),
    Metric(
        "obsray_placement_group_pending_seconds",
        "histogram",
        "seconds",
        (),
        "From asking for a placement group to its being there.",
        ("group_created",),
    ),
    Metric("obsray_resource_total", "gauge", "", ("node", "resource"), "How much there is.", ("resource_sample",)),
    Metric("obsray_resource_used", "gauge", "", ("node", "resource"), "How much is taken.", ("resource_sample",)),
    Metric(
        "obsray_process_resident_memory_bytes",
        "gauge",
        "bytes",
        ("node", "process"),
        "Resident memory, summed over processes of a kind.",
        ("process_sample",),
    ),
    Metric(
        "obsray_process_unique_memory_bytes",
        "gauge",
        "bytes",
        ("node", "process"),
        "Memory no other process shares, summed over processes of a kind.",
        ("process_sample",),
    ),
    Metric(
        "obsray_gcs_rpc_duration_seconds",
        "histogram",
        "seconds",
        ("method",),
        "Calls to the control store.",
        ("control_rpc",),
    ),
    Metric(
        "obsray_control_write_seconds",
        "histogram",
        "seconds",
        (),
        "How long the control store's storage took to keep changes that arrived together.",
        ("control_stored",),
    ),
    Metric(
        "obsray_faults_injected",
        "counter",
        "",
        ("method", "fault"),
        "Calls to the control store and messages that were hit on purpose (OBSRAY_CHAOS).",
        ("fault_injected", "delay_injected"),
    ),
    # collective operations
    Metric(
        "obsray_collective_seconds",
        "histogram",
        "seconds",
        ("operation",),
        "Collective operations as each member saw them, waiting for the others included.",
        ("collective_ended",),
    ),
    Metric(
        "obsray_collective_wait_seconds",
        "counter",
        "seconds",
        ("operation",),
        "The part of it that members waited for others to begin.",
        ("collective_ended",),
    ),
    Metric(
        "obsray_collective_sent_bytes",
        "counter",
        "bytes",
        ("operation",),
        "What members sent to one another.",
        ("collective_ended",),
    ),
    Metric(
        "obsray_collective_failures",
        "counter",
        "",
        ("operation",),
        "Collective operations that failed, counted by each member.",
        ("collective_failed",),
    ),
    # GPUs
    Metric(
        "obsray_gpu_kernel_seconds",
        "counter",
        "seconds",
        ("node", "gpu", "fn"),
        "Time in which kernels ran, by the function of their task; work of no known task is of fn none.",
        ("gpu_kernel",),
    ),
    Metric("obsray_gpu_kernels", "counter", "", ("node", "gpu", "fn"), "Kernels that ran.", ("gpu_kernel",)),
    Metric("obsray_gpu_copy_bytes", "counter", "bytes", ("node", "gpu", "direction"), "Memory copied.", ("gpu_copy",)),
    Metric(
        "obsray_gpu_work_seconds",
        "counter",
        "seconds",
        ("node", "gpu", "activity"),
        "What GPUs did: compute, communication (kernels of NCCL), copy, fill; work beside each other counts twice.",
        ("gpu_kernel", "gpu_copy", "gpu_memset"),
    ),
    Metric(
        "obsray_gpu_launch_delay_seconds",
        "counter",
        "seconds",
        ("node", "gpu", "fn"),
        "From launching a kernel to its start, summed up over the kernels whose launch is known.",
        ("gpu_kernel",),
    ),
    Metric(
        "obsray_gpu_launches",
        "counter",
        "",
        ("node", "gpu", "fn"),
        "Kernels whose launch is known.",
        ("gpu_kernel",),
    ),
    Metric(
        "obsray_gpu_wait_seconds",
        "counter",
        "seconds",
        ("node", "fn"),
        "Time in which hosts waited for their GPUs, by the function of the task.",
        ("gpu_wait",),
    ),
    Metric(
        "obsray_gpu_reserved",
        "gauge",
        "",
        ("node", "gpu"),
        "How much of each GPU is set aside for workers, or for bundles that no worker uses.",
        ("gpu_found", "gpu_reserved", "gpu_released"),
    ),
    Metric(
        "obsray_gpu_records_lost",
        "counter",
        "",
        ("node", "stage"),
        "Records of GPU work that were lost, by where.",
        ("gpu_records_lost",),
    ),
    Metric(
        "obsray_gpu_capture_seconds",
        "counter",
        "seconds",
        ("node",),
        "Time that workers spent handing over records of GPU work.",
        ("gpu_capture_sample",),
    ),
    Metric(
        "obsray_gpu_info",
        "gauge",
        "",
        (*_DEVICE, "model", "accelerator_type"),
        "GPUs of a node; the uuid is empty where only the number is known.",
        ("gpu_found",),
    ),
    Metric(
        "obsray_gpu_in_service",
        "gauge",
        "",
        _DEVICE,
        "1, or 0 for a GPU that gets no new work.",
        ("gpu_found", "gpu_health_changed"),
    ),
    Metric(
        "obsray_gpu_utilization_ratio",
        "gauge",
        "ratio",
        _DEVICE,
        "Share of the last moments in which any kernel ran, of whatever program.",
        ("gpu_sample",),
    ),
    Metric(
        "obsray_gpu_memory_bus_utilization_ratio",
        "gauge",
        "ratio",
        _DEVICE,
        "Share of the last moments in which the memory bus was busy; not how full the memory is.",
        ("gpu_sample",),
    ),
    Metric("obsray_gpu_power_watts", "gauge", "watts", _DEVICE, "Power drawn now.", ("gpu_sample",)),
    Metric("obsray_gpu_power_limit_watts", "gauge", "watts", _DEVICE, "Power that may be drawn.", ("gpu_sample",)),
    Metric("obsray_gpu_temperature_celsius", "gauge", "celsius", _DEVICE, "Temperature.", ("gpu_sample",)),
    Metric("obsray_gpu_clock_hertz", "gauge", "hertz", _DEVICE, "Clock of the multiprocessors.", ("gpu_sample",)),
    Metric(
        "obsray_gpu_memory_bytes",
        "gauge",
        "bytes",
        (*_DEVICE, "state"),
        "Memory: total, and used by whatever program.",
        ("gpu_found", "gpu_sample"),
    ),
    Metric(
        "obsray_gpu_held_memory_bytes",
        "gauge",
        "bytes",
        (*_DEVICE, "job_id"),
        "Memory that processes hold, by their job; those of no worker of this node are foreign.",
        ("gpu_process_sample", "gpu_sample"),
    ),
    Metric(
        "obsray_gpu_slowed",
        "gauge",
        "",
        (*_DEVICE, "cause"),
        "1 while clocks are lowered for this cause.",
        ("gpu_sample",),
    ),
    Metric(
        "obsray_gpu_energy_joules",
        "counter",
        "joules",
        _DEVICE,
        "Energy used since the driver was loaded.",
        ("gpu_sample",),
    ),
    # telemetry itself
    Metric("obsray_telemetry_events", "counter", "", ("node",), "Records collected.", ("collector_sample",)),
    Metric(
        "obsray_telemetry_bytes", "counter", "bytes", ("node",), "Bytes written to the store.", ("collector_sample",)
    ),
    Metric(
        "obsray_telemetry_events_dropped",
        "counter",
        "",
        ("node", "stage"),
        "Records lost: dropped by a writer that had no room (ring or disk full), or gaps left by a killed one.",
        ("events_dropped",),
    ),
    Metric(
        "obsray_telemetry_store_failures",
        "counter",
        "",
        ("node",),
        "Attempts of the collector to store records that failed; they are tried again.",
        ("telemetry_unstored",),
    ),
    Metric(
        "obsray_telemetry_ring_fill_ratio",
        "gauge",
        "ratio",
        ("node",),
        "Fill of the fullest ring.",
        ("collector_sample",),
    ),
    Metric(
        "obsray_telemetry_export_lag_seconds",
        "gauge",
        "seconds",
        ("node", "exporter"),
        "Age of the oldest record that is not stored; by how much pushed metrics are late.",
        (),
    ),
    Metric(
        "obsray_telemetry_cpu_seconds",
        "counter",
        "seconds",
        ("node", "stage"),
        "CPU time of the collector.",
        ("collector_sample",),
    ),
    Metric(
        "obsray_telemetry_pushes",
        "counter",
        "",
        ("node", "outcome"),
        "Requests with metrics that were pushed with OTLP, by what became of them.",
        (),
    ),
    Metric("obsray_build", "info", "", ("version", "node"), "Version of the runtime.", ()),
)

# What only counts events, sums a field or shows the newest sample: see ``tallies.py``; then what has a fold of its own.
# fmt: off
_MORE: tuple[Metric, ...] = (
    # tasks
    Metric("obsray_task_outcomes", "counter", "", ("outcome",),
        "Tasks that are over, of all functions together; every outcome has a series from the start.",
        ("task_finished", "tasks_finished")),
    Metric("obsray_tasks_unfinished", "gauge", "", ("fn",),
        "Tasks submitted and not over. Of a method: the calls that its actors have before them.",
        ("task_submitted", "tasks_submitted", "task_finished", "tasks_finished")),
    Metric("obsray_task_blocked_seconds", "counter", "seconds", ("fn",),
        "Time that tasks waited inside get, wait or put.", ("task_ended",)),
    # scheduler and workers
    Metric("obsray_scheduler_demands_infeasible", "gauge", "", ("node",),
        "Demands that no node can meet.", ("node_sample",)),
    Metric("obsray_scheduler_lease_wait_seconds", "histogram", "seconds", ("node",),
        "From a demand to its worker.", ("lease_decided",)),
    Metric("obsray_worker_seconds", "counter", "seconds", ("node", "activity"),
        "Time of worker processes by what they did: the sum over activities is processes times time.",
        ("worker_time_sample",)),
    Metric("obsray_environment_setup_seconds", "histogram", "seconds", ("node",),
        "Making an environment for workers.", ("environment_ready",)),
    Metric("obsray_environment_failures", "counter", "", ("node",),
        "Environments that could not be made.", ("environment_failed",)),
    Metric("obsray_logs_dropped_bytes", "counter", "bytes", ("node",),
        "Output of workers that did not reach its driver.", ("logs_dropped",)),
    Metric("obsray_output_dropped_bytes", "counter", "bytes", ("node",),
        "Output of workers that is not kept any more, because they printed more than is (worker_log_bytes_max).",
        ("output_dropped",)),
    Metric("obsray_job_output_dropped_bytes", "counter", "bytes", ("node",),
        "Output of submitted jobs' commands that is not kept any more, because they printed more than is"
        " (worker_log_bytes_max).", ("job_output_dropped",)),
    # objects
    Metric("obsray_object_store_largest_free_bytes", "gauge", "bytes", ("node",),
        "The largest object that fits without making room.", ("store_sample",)),
    Metric("obsray_object_allocations_waiting", "gauge", "", ("node",),
        "Processes that wait for room in the store.", ("store_sample",)),
    Metric("obsray_object_allocation_failures", "counter", "", ("node",),
        "Objects for which there was no room, on disk either.", ("object_allocation_failed",)),
    Metric("obsray_object_fallbacks", "counter", "", ("node",),
        "Objects that got a file on disk, because all in the store was in use or they are larger than it.",
        ("object_fallback",)),
    Metric("obsray_object_spill_seconds", "histogram", "seconds", ("node",),
        "Writing an object to disk.", ("object_spilled",)),
    Metric("obsray_object_restore_seconds", "histogram", "seconds", ("node",),
        "Reading an object back from disk.", ("object_restored",)),
    Metric("obsray_object_pulls_inflight", "gauge", "", ("node",),
        "Objects of other nodes whose bytes are on their way.",
        ("transfer_begun", "transfer_done", "transfer_failed")),
    Metric("obsray_object_transfer_retries", "counter", "", ("node",),
        "Transfers whose source failed in the middle.", ("transfer_retried",)),
    Metric("obsray_object_rebuilds", "counter", "", ("node",),
        "Lost values whose task runs again.", ("object_rebuilding",)),
    Metric("obsray_object_rebuild_failures", "counter", "", ("node",),
        "Lost values that cannot be made again.", ("object_rebuild_failed",)),
    # processes and hosts
    Metric("obsray_processes", "gauge", "", ("node", "process"),
        "Processes of the runtime by kind.", ("process_sample", "worker_died")),
    Metric("obsray_processes_halted", "gauge", "", ("node", "process"),
        "Processes of the node that stand still and are not dead: stopped (SIGSTOP), frozen, held by a debugger, or a "
        "zygote that does not answer.", ("process_halted", "process_resumed")),
    Metric("obsray_process_cpu_seconds", "counter", "seconds", ("node", "process"),
        "CPU time of the runtime's processes, dead ones included.", ("process_sample", "worker_died")),
    Metric("obsray_process_open_descriptors", "gauge", "", ("node", "process"),
        "Open files and sockets, summed over processes of a kind.", ("process_sample", "worker_died")),
    Metric("obsray_node_cpus", "gauge", "", ("node",), "CPUs of the machine.", ()),
    Metric("obsray_node_cpu_seconds", "counter", "seconds", ("node", "mode"),
        "CPU time of the machine by mode.", ()),
    Metric("obsray_node_load1", "gauge", "", ("node",), "Processes that run or want to, over a minute.", ()),
    Metric("obsray_node_memory_bytes", "gauge", "bytes", ("node", "state"),
        "Memory of the machine: total, available.", ()),
    Metric("obsray_node_disk_bytes", "gauge", "bytes", ("node", "state"),
        "The file system of the session directory: total, free.", ()),
    Metric("obsray_node_network_bytes", "counter", "bytes", ("node", "direction"),
        "Bytes of the machine's network interfaces, loopback left out.", ()),
    # GPUs
    Metric("obsray_gpu_capture_refusals", "counter", "", ("node",),
        "Workers with a GPU whose work cannot be captured.", ("gpu_capture_refused",)),
    Metric("obsray_gpu_capture_reductions", "counter", "", ("node",),
        "Times that less was captured because capturing cost too much.", ("gpu_capture_changed",)),
    Metric("obsray_gpu_watch_failures", "counter", "", ("node",),
        "Things about GPUs that cannot be learned, each once.", ("gpu_watch_failed",)),
    # the cluster, as the head knows it
    Metric("obsray_nodes", "gauge", "", ("state",), "Nodes by state.", ("node_changed",), "head"),
    Metric("obsray_node_changes", "counter", "", ("state",),
        "Times that a node came into a state.", ("node_changed",), "head"),
    Metric("obsray_node_drains", "counter", "", (), "Nodes asked to leave.", ("node_drains",), "head"),
    Metric("obsray_actors", "gauge", "", ("actor_class", "state"), "Actors by state.",
        ("actor_created", "actor_placed", "actor_alive", "actor_restarting", "actor_died"), "head"),
    Metric("obsray_actor_deaths", "counter", "", ("actor_class", "cause"), "Actors that are gone for good.",
        ("actor_died",), "head"),
    Metric("obsray_actor_start_seconds", "histogram", "seconds", (),
        "Constructors of actors.", ("actor_alive",), "head"),
    Metric("obsray_jobs_started", "counter", "", (), "Drivers that joined.", ("job_started",), "head"),
    Metric("obsray_jobs_ended", "counter", "", ("cause",), "Drivers that left.", ("job_ended",), "head"),
    Metric("obsray_job_attempts", "counter", "", ("job_id",), "Attempts of tasks that ended, by job.",
        ("task_ended", "task_submitted", "job_started"), "head"),
    Metric("obsray_job_task_seconds", "counter", "seconds", ("job_id",), "Time that workers spent on tasks, by job.",
        ("task_ended", "task_submitted", "job_started"), "head"),
    Metric("obsray_job_cpu_seconds", "counter", "seconds", ("job_id",), "CPU time of tasks, by job.",
        ("task_ended", "task_submitted", "job_started"), "head"),
    Metric("obsray_job_gpu_seconds", "counter", "seconds", ("job_id",), "Time that kernels of tasks ran, by job.",
        ("gpu_kernel", "task_submitted", "job_started"), "head"),
    Metric("obsray_control_epoch", "gauge", "", (),
        "How often the control store of this cluster has changed hands or started.",
        ("control_started", "control_took_over"), "head"),
    Metric("obsray_control_takeovers", "counter", "", (),
        "Times that the control store of this node, a standby, took over from one that was gone.",
        ("control_took_over",)),
    Metric("obsray_control_read_only", "gauge", "", (),
        "1 while the control store's storage has no room and it keeps no change.",
        ("control_read_only", "control_writable", "control_started", "control_took_over"), "head"),
    Metric("obsray_gcs_rpc_failures", "counter", "", ("method",),
        "Calls to the control store that it refused or could not answer.", ("control_rpc",), "head"),
    Metric("obsray_telemetry_incomplete_nodes", "counter", "", (),
        "Nodes that went before the head had all of their records.", ("node_records_ended",), "head"),
    # the autoscaler; there are no more node types than its settings have
    Metric("obsray_autoscaler_nodes", "gauge", "", ("node_type", "state"),
        "Nodes that the autoscaler asked for: starting, running, leaving.", ("node_type_sample",), "head"),
    Metric("obsray_autoscaler_nodes_limit", "gauge", "", ("node_type",),
        "Most nodes of a type.", ("node_type_sample",), "head"),
    Metric("obsray_autoscaler_demand", "gauge", "", ("verdict",),
        "Tasks, actors, groups and bundles that wait, by what the autoscaler makes of them.",
        ("demand_judged",), "head"),
    Metric("obsray_autoscaler_launches", "counter", "", ("cause",),
        "Nodes that were asked for, by what for.", ("instance_requested",), "head"),
    Metric("obsray_autoscaler_launch_failures", "counter", "", ("node_type",),
        "Nodes that were asked for and did not come.", ("instance_failed",), "head"),
    Metric("obsray_autoscaler_releases", "counter", "", ("node_type",),
        "Nodes that had nothing to do and left, or were drained.", ("instance_released",), "head"),
    Metric("obsray_autoscaler_start_seconds", "histogram", "seconds", (),
        "From asking for a node to its joining.", ("instance_joined",), "head"),
    Metric("obsray_autoscaler_decide_seconds", "gauge", "seconds", (),
        "How long the newest decision took.", ("node_type_sample",), "head"),
    # telemetry itself
    Metric("obsray_telemetry_rings", "gauge", "", ("node",), "Rings that are read.", ("collector_sample",)),
    Metric("obsray_metric_label_values", "gauge", "", ("node", "label"),
        "Values of a label that have series of their own; what comes beyond the limit is other.", ()),
    Metric("obsray_metric_label_values_limit", "gauge", "", ("node", "label"),
        "How many values of a label may have series of their own.", ()),
    # the dashboard
    Metric("obsray_gpu_time_ratio", "gauge", "ratio", ("node", "gpu", "activity"),
        "Share of the last minute that each GPU spent on each activity: work, idleness by cause, not reserved.",
        ("gpu_kernel", "gpu_copy", "gpu_memset", "gpu_wait", "gpu_reserved", "gpu_released", "task_ended"),
        "dashboard"),
    Metric("obsray_dashboard_requests", "counter", "", ("route", "status"),
        "Requests that the dashboard answered.", (), "dashboard"),
    Metric("obsray_dashboard_errors", "counter", "", (),
        "Requests that the dashboard failed to answer: status 500 and above.", (), "dashboard"),
    Metric("obsray_dashboard_request_seconds", "histogram", "seconds", ("route",),
        "From a request to its answer.", (), "dashboard"),
    Metric("obsray_dashboard_cpu_seconds", "counter", "seconds", (), "CPU time of the dashboard.", (), "dashboard"),
    Metric("obsray_dashboard_resident_memory_bytes", "gauge", "bytes", (),
        "Resident memory of the dashboard.", (), "dashboard"),
    Metric("obsray_hangs", "gauge", "", ("kind",),
        "Waits that can never end (cycle), and tasks that others wait for and that make no progress (stuck).",
        ("hang_found", "hang_over"), "head"),
)
# fmt: on

METRICS: dict[str, Metric] = {metric.name: metric for metric in (*_METRICS, *_MORE)}
