"""Dashboards about what it runs on: cluster, nodes, objects, GPUs, control store, telemetry, objectives."""

from __future__ import annotations

from obsray.monitoring.dashboards.work import quantiles
from obsray.monitoring.grafana import Dashboard, Panel
from obsray.monitoring.objectives import OBJECTIVES, PERIOD_DAYS

CLUSTER = Dashboard(
    "obsray-cluster",
    "Cluster overview",
    "Is it well? Nodes, work, resources, store, loss and what fires, on one page.",
    (
        (
            "Now",
            (
                Panel("Nodes", "Nodes that are alive.", "short", (('sum(obsray_nodes{$C, state="alive"})', "alive"),),
                      "nodes", "stat", 4, 4),
                Panel("Running", "Tasks that run now.", "short", (("sum(obsray_tasks_running{$C})", "running"),),
                      "tasks", "stat", 4, 4),
                Panel("Pending", "Tasks that do not run yet.", "short", (("sum(obsray_tasks_pending{$C}) or vector(0)", "pending"),),
                      "tasks", "stat", 4, 4),
                Panel("Actors", "Actors that are not dead.", "short", (("sum(obsray_actors{$C}) or vector(0)", "actors"),),
                      "actors", "stat", 4, 4),
                Panel("Records lost", "Since the collectors started. The promise is none.", "short",
                      (("sum(obsray_telemetry_events_dropped_total{$C})", "lost"),), "ledger", "stat", 4, 4, good="low"),
                Panel("Alerts", "Alerts of obsray that fire.", "short",
                      (('count(ALERTS{alertstate="firing", alertname=~"Obsray.*", severity!="none"}) or vector(0)', "firing"),),
                      "ledger", "stat", 4, 4, good="low"),
            ),
        ),
        (
            "Work",
            (
                Panel("Tasks a second", "Submitted and over.", "ops",
                      (("sum(rate(obsray_tasks_submitted_total{$C}[$R]))", "submitted"),
                       ("sum by (outcome) (rate(obsray_task_outcomes_total{$C}[$R])) > 0", "{{outcome}}")), "tasks:submitted_at_ns"),
                Panel("What waits, and why", "Pending tasks by reason.", "short",
                      (("sum by (reason) (obsray_tasks_pending{$C})", "{{reason}}"),), "tasks", stack=True),
                Panel("Workers", "By what they do.", "short",
                      (("sum by (state) (obsray_workers{$C})", "{{state}}"),), "workers", stack=True),
            ),
        ),
        (
            "Resources",
            (
                Panel("Resources used", "Share of what all nodes have.", "percentunit",
                      (("sum by (resource) (obsray_resource_used{$C}) / sum by (resource) (obsray_resource_total{$C})", "{{resource}}"),),
                      "nodes", "bargauge"),
                Panel("Object store", "Share of each node's store.", "percentunit",
                      (("obsray_object_store_used_bytes{$C} / obsray_object_store_capacity_bytes{$C}", "{{node}}"),), "objects"),
                Panel("Memory of obsray", "Memory that no other process shares, by kind of process.", "bytes",
                      (("sum by (process) (obsray_process_unique_memory_bytes{$C})", "{{process}}"),), "workers", stack=True),
            ),
        ),
        (
            "Changes",
            (
                Panel("Nodes by state", "As the control store sees them.", "short",
                      (("sum by (state) (obsray_nodes{$C})", "{{state}}"),), "nodes", stack=True),
                Panel("Nodes that changed", "Times that a node came into a state, and nodes asked to leave.", "short",
                      (("sum by (state) (increase(obsray_node_changes_total{$C}[$R]))", "{{state}}"),
                       ("sum(increase(obsray_node_drains_total{$C}[$R]))", "drained")), "nodes"),
                Panel("Who answers", "1: the node's metrics can be read.", "short",
                      (('up{job="obsray", $C}', "{{role}} {{node_id}}"),), "nodes", "state-timeline", good="high"),
                Panel("Faults injected on purpose", "By chaos settings: method and fault.", "ops",
                      (("sum by (method, fault) (rate(obsray_faults_injected_total{$C}[$R]))", "{{fault}} {{method}}"),), "nodes"),
                Panel("Versions", "What runs where.", "short",
                      (("count by (version, node) (obsray_build_info{$C})", "nodes"),), "nodes", "table"),
            ),
        ),
    ),
)  # fmt: skip

AUTOSCALER = Dashboard(
    "obsray-autoscaler",
    "Autoscaler",
    "Nodes that come for what waits and leave when they have nothing to do. Empty where no autoscaler runs.",
    (
        (
            "Nodes",
            (
                Panel("Nodes it asked for", "By type and state; and how many there may be.", "short",
                      (("sum by (node_type, state) (obsray_autoscaler_nodes{$C})", "{{node_type}} {{state}}"),
                       ("sum by (node_type) (obsray_autoscaler_nodes_limit{$C})", "{{node_type}} at most")), "nodes"),
                Panel("What waits", "By what the autoscaler makes of it.", "short",
                      (("sum by (verdict) (obsray_autoscaler_demand{$C})", "{{verdict}}"),), "tasks", stack=True),
                Panel("Asked for and released", "Nodes, in the interval.", "short",
                      (("sum by (cause) (increase(obsray_autoscaler_launches_total{$C}[$R]))", "asked for: {{cause}}"),
                       ("sum by (node_type) (increase(obsray_autoscaler_releases_total{$C}[$R]))", "{{node_type}} released"),
                       ("sum by (node_type) (increase(obsray_autoscaler_launch_failures_total{$C}[$R]))", "{{node_type}} did not come")),
                      "nodes"),
                Panel("From asking to joining", "How long nodes take to come.", "s",
                      (("histogram_quantile(0.5, sum by (le) (rate(obsray_autoscaler_start_seconds_bucket{$C}[$R])))", "p50"),
                       ("histogram_quantile(0.99, sum by (le) (rate(obsray_autoscaler_start_seconds_bucket{$C}[$R])))", "p99")), "nodes"),
                Panel("Deciding", "How long the newest decision took.", "s",
                      (("max by (cluster) (obsray_autoscaler_decide_seconds{$C})", "{{cluster}}"),), "nodes"),
            ),
        ),
    ),
)  # fmt: skip

NODES = Dashboard(
    "obsray-nodes",
    "Nodes",
    "Use, saturation and errors of every machine: CPU, memory, disk, network, logical resources, processes.",
    (
        (
            "CPU",
            (
                Panel("CPU use", "Share of the machine's CPU time that is not idle.", "percentunit",
                      (('1 - sum by (node) (rate(obsray_node_cpu_seconds_total{$N, mode=~"idle|iowait"}[$R]))'
                        " / sum by (node) (rate(obsray_node_cpu_seconds_total{$N}[$R]))", "{{node}}"),), "nodes"),
                Panel("CPU saturation", "Load for each CPU: above 1 some wait.", "short",
                      (("obsray_node_load1{$N} / obsray_node_cpus{$N}", "{{node}}"),), "nodes"),
                Panel("CPU by kind of process", "CPUs that the processes of obsray use.", "short",
                      (("sum by (process) (rate(obsray_process_cpu_seconds_total{$N}[$R]))", "{{process}}"),), "workers", stack=True),
            ),
        ),
        (
            "Memory",
            (
                Panel("Memory use", "Share of the machine's memory that is not available.", "percentunit",
                      (('1 - obsray_node_memory_bytes{$N, state="available"} / ignoring (state) obsray_node_memory_bytes{$N, state="total"}',
                        "{{node}}"),), "nodes"),
                Panel("Memory by kind of process", "Resident, shared parts counted several times.", "bytes",
                      (("sum by (process) (obsray_process_resident_memory_bytes{$N})", "{{process}}"),), "workers", stack=True),
                Panel("Kills for memory", "Workers killed by the kernel.", "short",
                      (('sum by (node) (increase(obsray_worker_deaths_total{$N, cause="oom"}[$R]))', "{{node}}"),), "workers:died_at_ns"),
            ),
        ),
        (
            "Disk and network",
            (
                Panel("Disk use", "Of the file system of the session directory.", "percentunit",
                      (('1 - obsray_node_disk_bytes{$N, state="free"} / ignoring (state) obsray_node_disk_bytes{$N, state="total"}',
                        "{{node}}"),), "nodes"),
                Panel("Network", "All interfaces but loopback.", "Bps",
                      (("sum by (node, direction) (rate(obsray_node_network_bytes_total{$N}[$R]))", "{{node}} {{direction}}"),), "nodes"),
                Panel("Open files", "Files and sockets of the processes of obsray.", "short",
                      (("sum by (node, process) (obsray_process_open_descriptors{$N})", "{{node}} {{process}}"),), "workers"),
            ),
        ),
        (
            "Logical resources and processes",
            (
                Panel("Resources by node", "Share of what the node has.", "percentunit",
                      (("obsray_resource_used{$N} / obsray_resource_total{$N} >= 0", "{{node}} {{resource}}"),), "nodes"),
                Panel("What nodes have", "In all.", "short",
                      (("sum by (node, resource) (obsray_resource_total{$N})", "amount"),), "nodes", "table"),
                Panel("Processes", "Of obsray, by kind.", "short",
                      (("sum by (node, process) (obsray_processes{$N})", "{{node}} {{process}}"),), "workers", stack=True),
                Panel("Processes that stand still", "Stopped, or held by a debugger, and not dead. `obsray status` says which, and what helps.",
                      "short", (("sum by (node, process) (obsray_processes_halted{$N})", "{{node}} {{process}}"),), "workers"),
            ),
        ),
    ),
    ("node",),
)  # fmt: skip

OBJECTS = Dashboard(
    "obsray-objects",
    "Object store and transfers",
    "Room, disk, bytes between nodes, and what was lost.",
    (
        (
            "Room",
            (
                Panel("Store", "Used, pinned by readers, and how much there is.", "bytes",
                      (("sum by (node) (obsray_object_store_used_bytes{$N})", "{{node}} used"),
                       ("sum by (node) (obsray_object_store_pinned_bytes{$N})", "{{node}} pinned"),
                       ("sum by (node) (obsray_object_store_capacity_bytes{$N})", "{{node}} capacity")), "objects"),
                Panel("Objects", "In memory and on disk.", "short",
                      (("sum by (node, state) (obsray_objects{$N})", "{{node}} {{state}}"),), "objects"),
                Panel("Largest hole", "The largest object that fits at once: much free and a small hole is fragmentation.", "bytes",
                      (("obsray_object_store_largest_free_bytes{$N}", "{{node}}"),), "objects"),
                Panel("Created and freed", "Bytes a second.", "Bps",
                      (("sum(rate(obsray_object_created_bytes_total{$N}[$R]))", "created"),
                       ("sum(rate(obsray_object_freed_bytes_total{$N}[$R]))", "freed")), "objects:created_at_ns"),
                Panel("Waiting for room", "Processes that wait, and objects for which there was none: they got a file, or failed.", "short",
                      (("sum by (node) (obsray_object_allocations_waiting{$N})", "{{node}} wait"),
                       ("sum by (node) (increase(obsray_object_fallbacks_total{$N}[$R]))", "{{node}} got a file"),
                       ("sum by (node) (increase(obsray_object_allocation_failures_total{$N}[$R]))", "{{node}} failed")), "objects"),
            ),
        ),
        (
            "Disk",
            (
                Panel("On disk", "Bytes of spilled objects, and of those that are used there because the store has no room.", "bytes",
                      (("sum by (node) (obsray_object_store_spilled_bytes{$N})", "{{node}} spilled"),
                       ("sum by (node) (obsray_object_store_fallback_bytes{$N})", "{{node}} used there")), "objects"),
                Panel("Spilled and restored", "Both at once for long is thrashing.", "Bps",
                      (("sum by (node) (rate(obsray_object_spilled_bytes_total{$N}[$R]))", "{{node}} to disk"),
                       ("sum by (node) (rate(obsray_object_restored_bytes_total{$N}[$R]))", "{{node}} from disk")), "objects:spilled_at_ns"),
                Panel("Time for it", "Writing and reading one object, the 99th percentile.", "s",
                      (("histogram_quantile(0.99, sum by (node, le) (rate(obsray_object_spill_seconds_bucket{$N}[$R])))", "{{node}} write"),
                       ("histogram_quantile(0.99, sum by (node, le) (rate(obsray_object_restore_seconds_bucket{$N}[$R])))", "{{node}} read")),
                      "objects"),
            ),
        ),
        (
            "Between nodes",
            (
                Panel("Received", "By node and source.", "Bps",
                      (("sum by (node, peer) (rate(obsray_object_received_bytes_total{$N}[$R]))", "{{peer}} → {{node}}"),), "objects"),
                Panel("Sent", "By node and destination.", "Bps",
                      (("sum by (node, peer) (rate(obsray_object_sent_bytes_total{$N}[$R]))", "{{node}} → {{peer}}"),), "objects"),
                Panel("Time on the wire", "Of one object.", "s", quantiles("obsray_object_transfer_seconds", "node", "$N"), "objects"),
                Panel("On their way", "Objects whose bytes are being fetched.", "short",
                      (("sum by (node) (obsray_object_pulls_inflight{$N})", "{{node}}"),), "objects"),
                Panel("Transfers that fail", "Given up, and taken up from another source.", "short",
                      (("sum by (node) (increase(obsray_object_transfers_failed_total{$N}[$R]))", "{{node}} failed"),
                       ("sum by (node) (increase(obsray_object_transfer_retries_total{$N}[$R]))", "{{node}} other source")), "objects"),
            ),
        ),
        (
            "Loss",
            (
                Panel("Lost", "Objects that can no longer be read.", "short",
                      (("sum by (node) (increase(obsray_objects_lost_total{$N}[$R]))", "{{node}}"),), "objects:lost_at_ns"),
                Panel("Made again", "Lost values whose task runs again, and those that cannot be made again.", "short",
                      (("sum(increase(obsray_object_rebuilds_total{$N}[$R]))", "made again"),
                       ("sum(increase(obsray_object_rebuild_failures_total{$N}[$R]))", "cannot be")), "objects"),
            ),
        ),
    ),
    ("node",),
)  # fmt: skip

GPU = Dashboard(
    "obsray-gpu",
    "GPU",
    "GPUs as their driver and DCGM see them, and what ran on them: kernels by the function whose task launched them.",
    (
        (
            "Use by function",
            (
                Panel("Kernel time by function", "Seconds a second in which kernels ran.", "s",
                      (("sum by (node, gpu, fn) (rate(obsray_gpu_kernel_seconds_total{$N}[$R]))", "{{fn}} on {{node}}/{{gpu}}"),), "kernels",
                      stack=True),
                Panel("Kernels a second", "By function.", "ops",
                      (("sum by (fn) (rate(obsray_gpu_kernels_total{$N}[$R]))", "{{fn}}"),), "kernels"),
                Panel("Copies", "By direction.", "Bps",
                      (("sum by (direction) (rate(obsray_gpu_copy_bytes_total{$N}[$R]))", "{{direction}}"),), "kernels"),
                Panel("Reserved against used", "GPUs that tasks and actors own, and GPUs on which kernels run.", "short",
                      (('sum by (node) (obsray_resource_used{$N, resource="GPU"})', "{{node}} owned"),
                       ("sum by (node) (rate(obsray_gpu_kernel_seconds_total{$N}[$R]))", "{{node}} busy")), "gpus"),
                Panel("Where GPU time goes", "Share of the last minute: work, idleness by cause, not reserved.", "percentunit",
                      (("avg by (activity) (obsray_gpu_time_ratio)", "{{activity}}"),), "gpus", stack=True),
                Panel("Reserved", "How much of each GPU is set aside.", "percentunit",
                      (("obsray_gpu_reserved{$N}", "{{node}}/{{gpu}}"),), "gpus"),
                Panel("Work by kind", "Seconds a second of kernels, communication (NCCL), copies and fills.", "s",
                      (("sum by (activity) (rate(obsray_gpu_work_seconds_total{$N}[$R]))", "{{activity}}"),), "kernels",
                      stack=True),
                Panel("From launch to start", "How long kernels were queued on average; under a few µs the host is behind.", "s",
                      (("sum by (fn) (rate(obsray_gpu_launch_delay_seconds_total{$N}[$R]))\n"
                        "/ sum by (fn) (rate(obsray_gpu_launches_total{$N}[$R]))", "{{fn}}"),), "kernels"),
                Panel("Hosts waiting for GPUs", "Seconds a second, by function.", "s",
                      (("sum by (fn) (rate(obsray_gpu_wait_seconds_total{$N}[$R]))", "{{fn}}"),), "kernels"),
                Panel("Records of GPU work", "Lost records, refusals, and times that less was captured.", "short",
                      (("sum by (stage) (increase(obsray_gpu_records_lost_total{$N}[$R]))", "lost: {{stage}}"),
                       ("sum(increase(obsray_gpu_capture_refusals_total{$N}[$R]))", "refused"),
                       ("sum(increase(obsray_gpu_capture_reductions_total{$N}[$R]))", "reduced")), "ledger"),
                Panel("Cost of capturing", "Seconds a second that workers hand over records.", "s",
                      (("sum by (node) (rate(obsray_gpu_capture_seconds_total{$N}[$R]))", "{{node}}"),), "ledger"),
            ),
        ),
        (
            "GPUs, as their driver tells",
            (
                Panel("Any kernel ran", "Share of time, whatever program it was of.", "percentunit",
                      (("obsray_gpu_utilization_ratio{$N}", "{{node}}/{{gpu}}"),), "gpus"),
                Panel("Memory in use", "And all there is.", "bytes",
                      (('obsray_gpu_memory_bytes{$N, state="used"}', "{{node}}/{{gpu}} used"),
                       ('obsray_gpu_memory_bytes{$N, state="total"}', "{{node}}/{{gpu}} of")), "gpus"),
                Panel("Memory by job", "What processes hold; those of no worker are foreign.", "bytes",
                      (("sum by (node, gpu, job_id) (obsray_gpu_held_memory_bytes{$N})", "{{job_id}} on {{node}}/{{gpu}}"),), "jobs",
                      stack=True),
                Panel("Memory bus", "Share of time in which it was busy; not how full the memory is.", "percentunit",
                      (("obsray_gpu_memory_bus_utilization_ratio{$N}", "{{node}}/{{gpu}}"),), "gpus"),
                Panel("Power drawn", "And allowed.", "watt",
                      (("obsray_gpu_power_watts{$N}", "{{node}}/{{gpu}}"), ("obsray_gpu_power_limit_watts{$N}", "{{node}}/{{gpu}} limit"),
                       ("rate(obsray_gpu_energy_joules_total{$N}[$R])", "{{node}}/{{gpu}} mean")), "gpus"),
                Panel("Temperature and clock", "Clocks go down where it is too hot.", "short",
                      (("obsray_gpu_temperature_celsius{$N}", "{{node}}/{{gpu}} °C"), ("obsray_gpu_clock_hertz{$N} / 1e6", "{{node}}/{{gpu}} MHz")), "gpus"),
                Panel("Slowed down", "Why clocks are lowered.", "short",
                      (("sum by (node, gpu, cause) (obsray_gpu_slowed{$N}) > 0", "{{cause}} on {{node}}/{{gpu}}"),), "gpus"),
                Panel("Out of service", "GPUs that get no new work, and what cannot be learned of GPUs.", "short",
                      (("1 - obsray_gpu_in_service{$N}", "{{node}}/{{gpu}} out of service"),
                       ("sum by (node) (increase(obsray_gpu_watch_failures_total{$N}[$R]))", "not learned on {{node}}")), "gpus"),
                Panel("Kernel time against engine time", "Seconds of kernels of obsray, and DCGM's engine activity, joined by UUID.", "percentunit",
                      (("sum by (node, gpu, uuid) (rate(obsray_gpu_kernel_seconds_total{$N}[$R]) * on (node, gpu) group_left (uuid) obsray_gpu_info{$N})",
                        "{{node}}/{{gpu}} kernels"),
                       ('obsray_gpu_info{$N, uuid!=""} * on (uuid) group_left (hpc_job) label_join(DCGM_FI_PROF_GR_ENGINE_ACTIVE, "uuid", "", "UUID")',
                        "{{node}}/{{gpu}} engine, job {{hpc_job}}")), "gpus"),
            ),
        ),
        (
            "DCGM: use",
            (
                Panel("Engine active", "Share of time in which anything ran.", "percentunit",
                      (("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "{{Hostname}}/{{gpu}} job {{hpc_job}}"),), "gpus"),
                Panel("Multiprocessors", "Share of cycles with a warp, and of warps that fit.", "percentunit",
                      (("DCGM_FI_PROF_SM_ACTIVE", "{{Hostname}}/{{gpu}} active"), ("DCGM_FI_PROF_SM_OCCUPANCY", "{{Hostname}}/{{gpu}} occupancy")),
                      "gpus"),
                Panel("Tensor cores and memory", "Share of cycles in which they were active.", "percentunit",
                      (("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "{{Hostname}}/{{gpu}} tensor"), ("DCGM_FI_PROF_DRAM_ACTIVE", "{{Hostname}}/{{gpu}} memory")),
                      "gpus"),
                Panel("Memory", "Used and free.", "mbytes",
                      (("DCGM_FI_DEV_FB_USED", "{{Hostname}}/{{gpu}} used"), ("DCGM_FI_DEV_FB_FREE", "{{Hostname}}/{{gpu}} free")), "gpus", stack=True),
                Panel("PCIe", "To and from the host.", "Bps",
                      (("DCGM_FI_PROF_PCIE_TX_BYTES", "{{Hostname}}/{{gpu}} sent"), ("DCGM_FI_PROF_PCIE_RX_BYTES", "{{Hostname}}/{{gpu}} received")),
                      "gpus"),
                Panel("By job", "Mean of engine activity of the GPUs of each job.", "percentunit",
                      (("avg by (hpc_job) (DCGM_FI_PROF_GR_ENGINE_ACTIVE)", "job {{hpc_job}}"),), "jobs"),
            ),
        ),
        (
            "DCGM: health",
            (
                Panel("Temperature", "Above 85 °C clocks go down.", "celsius", (("DCGM_FI_DEV_GPU_TEMP", "{{Hostname}}/{{gpu}}"),), "gpus"),
                Panel("Power", "Now.", "watt", (("DCGM_FI_DEV_POWER_USAGE", "{{Hostname}}/{{gpu}}"),), "gpus"),
                Panel("Clocks", "Of multiprocessors and memory.", "rotmhz",
                      (("DCGM_FI_DEV_SM_CLOCK", "{{Hostname}}/{{gpu}} SM"), ("DCGM_FI_DEV_MEM_CLOCK", "{{Hostname}}/{{gpu}} memory")), "gpus"),
                Panel("Last XID", "The last error that the driver reported; 0 is none.", "short",
                      (("DCGM_FI_DEV_XID_ERRORS", "{{Hostname}}/{{gpu}}"),), "gpus", "stat", good="low"),
                Panel("Broken memory", "Rows that could not be replaced.", "short",
                      (("DCGM_FI_DEV_ROW_REMAP_FAILURE", "{{Hostname}}/{{gpu}}"),), "gpus", "stat", good="low"),
                Panel("Throttled", "Share of time held back by power and heat (DCGM counts nanoseconds; old versions said microseconds).", "percentunit",
                      (("rate(DCGM_FI_DEV_POWER_VIOLATION[$R]) / 1e9", "{{Hostname}}/{{gpu}} power"),
                       ("rate(DCGM_FI_DEV_THERMAL_VIOLATION[$R]) / 1e9", "{{Hostname}}/{{gpu}} heat")), "gpus"),
            ),
        ),
    ),
    ("node",),
)  # fmt: skip

CONTROL = Dashboard(
    "obsray-control",
    "Control store",
    "Calls to it, its storage, who decides, and what it says of nodes.",
    (
        (
            "Calls",
            (
                Panel("Calls a second", "By method.", "ops",
                      (("sum by (method) (rate(obsray_gcs_rpc_duration_seconds_count{$C}[$R]))", "{{method}}"),), "nodes", stack=True),
                Panel("Time of a call", "Median and 99th percentile.", "s", quantiles("obsray_gcs_rpc_duration_seconds", "method", "$C"), "nodes"),
                Panel("Calls that fail", "By method.", "ops",
                      (("sum by (method) (rate(obsray_gcs_rpc_failures_total{$C}[$R]))", "{{method}}"),), "nodes"),
            ),
        ),
        (
            "Storage and succession",
            (
                Panel("Keeping changes", "How long its storage took.", "s",
                      (("histogram_quantile(0.5, sum by (le) (rate(obsray_control_write_seconds_bucket{$C}[$R])))", "p50"),
                       ("histogram_quantile(0.99, sum by (le) (rate(obsray_control_write_seconds_bucket{$C}[$R])))", "p99")), "nodes"),
                Panel("Epoch", "Rises with every start and every takeover.", "short",
                      (("max by (cluster) (obsray_control_epoch{$C})", "{{cluster}}"),), "nodes"),
                Panel("Takeovers", "Standbys that took over.", "short",
                      (("sum(obsray_control_takeovers_total{$C})", "takeovers"),), "nodes", "stat"),
                Panel("Nodes", "As it sees them.", "short", (("sum by (state) (obsray_nodes{$C})", "{{state}}"),), "nodes", stack=True),
            ),
        ),
    ),
)  # fmt: skip

TELEMETRY = Dashboard(
    "obsray-telemetry",
    "Telemetry about itself",
    "What recording costs, how late it is, what was lost, how near labels are to their bounds, the dashboard.",
    (
        (
            "Loss",
            (
                Panel("Lost", "Records dropped by writers, gaps left by killed ones, and how often the disk took nothing. The promise is none.", "short",
                      (("sum by (node, stage) (obsray_telemetry_events_dropped_total{$N})", "{{node}} {{stage}}"),
                       ("sum by (node) (obsray_telemetry_store_failures_total{$N})", "{{node}} failures to store")), "ledger", "stat", good="low"),
                Panel("Nodes that went early", "Before the head had all of their records.", "short",
                      (("sum(obsray_telemetry_incomplete_nodes_total{$C})", "nodes"),), "ledger", "stat", good="low"),
                Panel("Fullest ring", "Of what a process may write ahead of the collector.", "percentunit",
                      (("max by (node) (obsray_telemetry_ring_fill_ratio{$N})", "{{node}}"),), "ledger"),
            ),
        ),
        (
            "Cost",
            (
                Panel("Records", "A second.", "ops", (("sum by (node) (rate(obsray_telemetry_events_total{$N}[$R]))", "{{node}}"),), "ledger"),
                Panel("Stored", "Bytes a second.", "Bps", (("sum by (node) (rate(obsray_telemetry_bytes_total{$N}[$R]))", "{{node}}"),), "ledger"),
                Panel("CPU of the collectors", "CPUs.", "short",
                      (("sum by (node, stage) (rate(obsray_telemetry_cpu_seconds_total{$N}[$R]))", "{{node}} {{stage}}"),), "ledger"),
                Panel("Share of all CPU time", "Collectors against all processes of obsray.", "percentunit",
                      (("sum(rate(obsray_telemetry_cpu_seconds_total{$N}[$R])) / sum(rate(obsray_process_cpu_seconds_total{$N}[$R]))", "share"),),
                      "ledger"),
                Panel("Lateness", "Age of the oldest record that is not stored; by how much pushed metrics are late.", "s",
                      (("max by (node, exporter) (obsray_telemetry_export_lag_seconds{$N})", "{{node}} {{exporter}}"),), "ledger"),
                Panel("Pushed metrics", "Requests a minute to an OTLP receiver, by what became of them; 0 if nobody asked for that.", "short",
                      (("sum by (node, outcome) (60 * rate(obsray_telemetry_pushes_total{$N}[$R]))", "{{node}} {{outcome}}"),), "ledger"),
                Panel("Rings", "Processes whose records are read.", "short", (("sum by (node) (obsray_telemetry_rings{$N})", "{{node}}"),), "ledger"),
            ),
        ),
        (
            "Bounds",
            (
                Panel("Labels against their bounds", "At 1 what is new is called other.", "percentunit",
                      (("max by (label) (obsray_metric_label_values{$N} / obsray_metric_label_values_limit{$N})", "{{label}}"),), "ledger", "bargauge"),
                Panel("Samples of a scrape", "How many numbers each target serves.", "short",
                      (('scrape_samples_scraped{job="obsray"}', "{{instance}}"),), "ledger"),
                Panel("Clocks of nodes", "How far they are from the head's, and how well that is known.", "s",
                      (("max by (peer) (obsray_clock_offset_seconds{$C})", "{{peer}} offset"),
                       ("max by (peer) (obsray_clock_uncertainty_seconds{$C})", "{{peer}} known within")), "nodes"),
                Panel("Time of a scrape", "How long Prometheus waits.", "s", (('scrape_duration_seconds{job="obsray"}', "{{instance}}"),), "ledger"),
            ),
        ),
        (
            "Dashboard",
            (
                Panel("Requests", "By what answered and how.", "ops",
                      (("sum by (route, status) (rate(obsray_dashboard_requests_total{$C}[$R]))", "{{route}} {{status}}"),
                       ("sum(rate(obsray_dashboard_errors_total{$C}[$R]))", "errors")), "ledger"),
                Panel("Time of a request", "By what answered.", "s", quantiles("obsray_dashboard_request_seconds", "route", "$C"), "ledger"),
                Panel("Memory and CPU", "Of the dashboard.", "bytes",
                      (("sum(obsray_dashboard_resident_memory_bytes{$C})", "resident memory"),
                       ("sum(rate(obsray_dashboard_cpu_seconds_total{$C}[$R]))", "CPUs")), "ledger"),
            ),
        ),
    ),
    ("node",),
)  # fmt: skip


def _objective_panels() -> tuple[tuple[str, tuple[Panel, ...]], ...]:
    rows = []
    for each in OBJECTIVES:
        left = f"1 - avg_over_time({each.ratio('1h')}{{$C}}[$__range]) / {each.budget:g}"
        windows = tuple(
            (f"{each.ratio(window)}{{$C}} / {each.budget:g}", window) for window in ("5m", "1h", "6h", "3d")
        )
        panels = (
            Panel("Budget left", f"Of the time that is shown; choose {PERIOD_DAYS} days for the period.", "percentunit",
                  ((left, "{{cluster}}"),), "tasks", "gauge", 6),
            Panel("Good", f"Share of tasks, over an hour; the target is {each.target:.2%}.", "percentunit",
                  ((f"1 - {each.ratio('1h')}{{$C}}", "{{cluster}}"),), "tasks", "stat", 6),
            Panel("How fast the budget burns", "1 uses it up exactly in the period; alerts begin at 14.4, 6, 3 and 1.", "short",
                  windows, "tasks:submitted_at_ns", width=12),
        )  # fmt: skip
        rows.append((each.title, panels))
    return tuple(rows)


SLO = Dashboard(
    "obsray-slo",
    "Objectives and error budgets",
    "Service level objectives: how much of each error budget is left, and how fast it burns.",
    _objective_panels(),
)
