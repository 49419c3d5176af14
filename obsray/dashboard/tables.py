"""Which columns each noun has, in which order, under which title, and how a value is shown.

One description for the web tables, the JSON twins' column checks and ``obsray list``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """``kind`` says how a value is shown: text, id, job, state, seconds, size, count, share (of 1), clock, cause, idle,
    running, states."""

    key: str
    title: str
    kind: str = "text"
    #: For ids: what is behind them (task, actor, worker, object), so that they become links.
    noun: str = ""
    #: 1 is shown everywhere, 2 where there is room, 3 only in JSON and on detail pages.
    rank: int = 1

    @property
    def is_number(self) -> bool:
        return self.kind in ("seconds", "size", "count", "rate", "share")


@dataclass(frozen=True, slots=True)
class Table:
    """A noun: its columns and the order its rows come in if nobody asks for another."""

    noun: str
    title: str
    about: str
    columns: tuple[Column, ...]
    sort: str

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that can be filtered and sorted by."""
        return tuple(column.key for column in self.columns if column.kind != "states")

    def shown(self, rank: int = 2) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.rank <= rank)


def _id(key: str, title: str, noun: str, rank: int = 1) -> Column:
    return Column(key, title, "id", noun, rank)


def _seconds(key: str, title: str, rank: int = 1) -> Column:
    return Column(key, title, "seconds", "", rank)


def _count(key: str, title: str, rank: int = 1) -> Column:
    return Column(key, title, "count", "", rank)


def _size(key: str, title: str, rank: int = 1) -> Column:
    return Column(key, title, "size", "", rank)


TASK_STATES = (
    "PENDING_ARGS_AVAIL",
    "PENDING_NODE_ASSIGNMENT",
    "SUBMITTED_TO_WORKER",
    "RUNNING",
    "RUNNING_IN_RAY_GET",
    "FINISHED",
    "FAILED",
    "CANCELLED",
)

TASKS = Table(
    "tasks",
    "Tasks",
    "Every call of the session, from its submission to its end.",
    (
        _id("task_id", "Task", "task"),
        Column("name", "Name"),
        Column("state", "State", "state"),
        Column("type", "Type", rank=3),
        _id("worker_id", "Worker", "worker", 2),
        _count("attempt", "Attempt", 3),
        Column("submitted_at_ns", "Submitted", "clock"),
        _seconds("wait_arguments_seconds", "Arguments", 2),
        _seconds("queue_seconds", "Queue"),
        _seconds("dispatch_seconds", "Dispatch", 3),
        _seconds("fetch_seconds", "Fetch", 3),
        _seconds("deserialize_seconds", "Deserialise", 3),
        _seconds("run_seconds", "Run"),
        _seconds("cpu_seconds", "CPU", 2),
        _seconds("blocked_seconds", "Blocked", 3),
        _seconds("store_seconds", "Store", 3),
        _seconds("total_seconds", "Total"),
        _size("result_bytes", "Result", 2),
        Column("outcome", "Outcome", "cause", rank=3),
        Column("error", "Error", rank=3),
        Column("shape", "Shape", rank=3),
        _id("parent_task_id", "Parent", "task", 3),
        _id("actor_id", "Actor", "actor", 3),
        Column("job_id", "Job", rank=3),
        Column("worker_pid", "PID", rank=3),
        Column("started_at_ns", "Started", "clock", rank=3),
        Column("ended_at_ns", "Ended", "clock", rank=3),
        Column("trace_id", "Trace", rank=3),
        Column("labels", "Labels", rank=3),
    ),
    "-submitted_at_ns",
)

ACTORS = Table(
    "actors",
    "Actors",
    "Stateful workers: asked for, alive, restarting, dead.",
    (
        _id("actor_id", "Actor", "actor"),
        Column("class_name", "Class"),
        Column("name", "Name"),
        Column("state", "State", "state"),
        _id("worker_id", "Worker", "worker"),
        Column("pid", "PID"),
        _id("node_id", "Node", "node", 2),
        _count("calls", "Calls"),
        _count("restarts", "Restarts"),
        _seconds("start_seconds", "Start", 2),
        Column("created_at_ns", "Created", "clock"),
        Column("died_cause", "Cause of death", "cause", rank=2),
        Column("error", "Error", rank=2),
        _count("checkpoints", "Checkpoints", 3),
        _count("calls_replayed", "Replayed", 3),
        Column("job_id", "Job", rank=3),
        Column("repr_name", "Looks like", rank=3),
        Column("namespace", "Namespace", rank=3),
        Column("shape", "Shape", rank=3),
        _id("placement_group_id", "Placement group", "group", 3),
        Column("died_at_ns", "Died", "clock", rank=3),
        Column("labels", "Labels", rank=3),
    ),
    "-created_at_ns",
)

OBJECTS = Table(
    "objects",
    "Objects",
    "Values that were put or are in the store: who made them, how big they are, where they are.",
    (
        _id("object_id", "Object", "object"),
        Column("state", "State", "state"),
        _size("bytes", "Size"),
        Column("producer", "Made by"),
        _id("task_id", "Task", "task"),
        _count("reads", "Reads"),
        _count("pins", "Pinned", 2),
        Column("created_at_ns", "Created", "clock"),
        _seconds("age_seconds", "Age"),
        Column("node", "Node", "id", rank=2),
        _count("transfers", "Transfers", 3),
        Column("call_site", "Call site", rank=2),
        _id("owner", "Owner", "worker", 2),
        Column("sealed_at_ns", "Sealed", "clock", rank=3),
        Column("spilled_at_ns", "Spilled", "clock", rank=3),
        Column("restored_at_ns", "Restored", "clock", rank=3),
        Column("freed_at_ns", "Freed", "clock", rank=3),
        Column("lost_at_ns", "Lost", "clock", rank=3),
        Column("put_at_ns", "Put", "clock", rank=3),
    ),
    "-bytes",
)

WORKERS = Table(
    "workers",
    "Workers",
    "Every process of the session: drivers, workers and the runtime's own.",
    (
        _id("worker_id", "Process", "worker"),
        Column("kind", "Kind"),
        Column("state", "State", "state"),
        Column("pid", "PID"),
        Column("current_task", "Runs now", "running"),
        _count("tasks_done", "Tasks ended"),
        _size("rss_bytes", "Memory"),
        _seconds("cpu_seconds", "CPU"),
        _count("threads", "Threads", 2),
        Column("registered_at_ns", "Started", "clock"),
        Column("died_at_ns", "Died", "clock", rank=2),
        Column("died_cause", "Cause of death", "cause", rank=2),
        Column("error", "Error", rank=2),
        _id("current_task_id", "Task", "task", 3),
        _id("actor_id", "Actor", "actor", 3),
        _seconds("start_seconds", "Start", 3),
        _size("unique_bytes", "Unique memory", 3),
        Column("environment_id", "Environment", rank=3),
    ),
    "-tasks_done",
)

PLACEMENT_GROUPS = Table(
    "placement_groups",
    "Placement groups",
    "Bundles of resources reserved together: waiting, there, removed, and why they wait.",
    (
        _id("group_id", "Group", "group"),
        Column("name", "Name"),
        Column("state", "State", "state"),
        Column("strategy", "Strategy"),
        _count("bundles", "Bundles"),
        Column("nodes", "Nodes", rank=2),
        _count("workers", "Workers"),
        _seconds("pending_seconds", "Waited"),
        Column("why", "Why"),
        Column("requested_at_ns", "Asked for", "clock"),
        Column("resources", "Resources", rank=3),
        Column("created_at_ns", "There since", "clock", rank=2),
        Column("removed_at_ns", "Removed", "clock", rank=2),
        Column("detached", "Detached", rank=3),
        Column("namespace", "Namespace", rank=3),
        Column("job_id", "Job", rank=3),
        _id("owner", "Owner", "worker", 3),
        _count("attempts", "Attempts", 3),
        Column("reason", "Reason", "cause", rank=3),
        _count("workers_killed", "Killed with it", 3),
    ),
    "-requested_at_ns",
)

NODES = Table(
    "nodes",
    "Nodes",
    "Machines of the cluster.",
    (
        _id("node_id", "Node", "node"),
        Column("name", "Name"),
        Column("role", "Role"),
        Column("state", "State", "state"),
        Column("host", "Host", rank=2),
        Column("pid", "PID"),
        Column("used", "Used"),
        Column("labels", "Labels", rank=2),
        _size("store_bytes", "Object store"),
        Column("started_at_ns", "Started", "clock"),
        Column("stopped_at_ns", "Stopped", "clock"),
        _seconds("clock_offset_seconds", "Clock ahead of the head's by", 2),
        _seconds("clock_uncertainty_seconds", "Known to", 2),
        _count("records_lost", "Records lost", 2),
        _count("records_lost_estimated", "About so many more", 3),
        Column("error", "Error", rank=2),
    ),
    "-started_at_ns",
)

INSTANCES = Table(
    "instances",
    "Instances",
    "Nodes that the autoscaler asked for: for whom, whether they came, why they left.",
    (
        _id("node_id", "Node", "node"),
        Column("node_type", "Type"),
        Column("state", "State", "state"),
        Column("why", "Asked for"),
        _seconds("start_seconds", "Came after"),
        Column("requested_at_ns", "Asked for at", "clock"),
        Column("joined_at_ns", "Joined", "clock", rank=2),
        Column("ended_at_ns", "Ended", "clock"),
        Column("error", "Why it left or did not come"),
        Column("cause", "Cause", "cause", rank=3),
    ),
    "-requested_at_ns",
)

ENVIRONMENTS = Table(
    "environments",
    "Environments",
    "What workers were made to be before they ran tasks: variables, files, packages, hooks.",
    (
        Column("environment_id", "Environment"),
        Column("state", "State", "state"),
        Column("description", "What"),
        _seconds("setup_seconds", "Made in"),
        _size("environment_bytes", "Size"),
        _count("workers", "Workers"),
        Column("asked_at_ns", "Asked for", "clock"),
        Column("error", "Error"),
        Column("job_id", "Job", rank=2),
        Column("ready_at_ns", "Ready", "clock", rank=3),
        Column("failed_at_ns", "Failed", "clock", rank=3),
        Column("removed_at_ns", "Removed", "clock", rank=3),
    ),
    "-asked_at_ns",
)

JOBS = Table(
    "jobs",
    "Jobs",
    "Drivers: programs that joined the session.",
    (
        Column("job_id", "Job", "job"),
        Column("state", "State", "state"),
        Column("entrypoint", "Entry point"),
        Column("namespace", "Namespace", rank=2),
        Column("pid", "PID"),
        _id("driver_id", "Driver", "worker"),
        _count("tasks", "Tasks"),
        _seconds("gpu_seconds", "GPU in all", 2),
        Column("started_at_ns", "Started", "clock"),
        Column("ended_at_ns", "Ended", "clock"),
        Column("cause", "Cause", "cause", rank=2),
        Column("metadata", "Metadata", rank=3),
    ),
    "-started_at_ns",
)

FUNCTIONS = Table(
    "functions",
    "Functions",
    "Tasks folded by name: how many, how they fare, where their time goes.",
    (
        Column("name", "Function", "function"),
        _count("total", "Tasks"),
        Column("by_state", "States", "states"),
        _count("failed", "Failed", 3),
        _seconds("run_seconds_p50", "Run p50"),
        _seconds("run_seconds_p95", "p95"),
        _seconds("run_seconds_p99", "p99"),
        _seconds("queue_seconds_p50", "Queue p50"),
        _seconds("queue_seconds_p95", "p95", 2),
        _seconds("queue_seconds_p99", "p99", 2),
        _seconds("cpu_seconds", "CPU in all"),
        _seconds("gpu_seconds", "GPU in all", 2),
        _size("result_bytes", "Results", 2),
    ),
    "-total",
)

COLLECTIVES = Table(
    "collectives",
    "Collective groups",
    "Members that reduce and exchange arrays together: what they sent, and for whom they waited.",
    (
        _id("group_id", "Group", "collective"),
        Column("name", "Name"),
        Column("state", "State", "state"),
        _count("members", "Members"),
        _count("operations", "Operations"),
        _count("failed", "Failed"),
        _size("sent_bytes", "Sent"),
        _seconds("seconds", "Time"),
        _seconds("wait_seconds", "Waited"),
        Column("slowest_rank", "Waited for rank"),
        Column("broken", "Why broken"),
        Column("formed_at_ns", "Formed", "clock"),
        Column("wait_ratio", "Share of waiting", rank=3),
        Column("backend", "Backend", rank=3),
        Column("ended_at_ns", "Ended", "clock", rank=3),
    ),
    "-formed_at_ns",
)

KERNELS = Table(
    "kernels",
    "Kernels",
    "What GPUs ran, folded by function and kernel.",
    (
        Column("kernel", "Kernel"),
        Column("function", "Function", "function"),
        _count("launches", "Launches"),
        _seconds("kernel_seconds", "GPU time"),
        _seconds("mean_seconds", "Mean"),
        _seconds("max_seconds", "Longest", 2),
        _seconds("launch_delay_seconds", "Began after launch", 2),
        _seconds("launch_delay_max_seconds", "Began after launch, longest", 3),
        Column("share", "Share", "share", rank=2),
    ),
    "-kernel_seconds",
)

GPUS = Table(
    "gpus",
    "GPUs",
    "Every GPU: who has it, how much of that time it worked, and why it idled the rest.",
    (
        Column("gpu", "GPU"),
        _id("node_id", "Node", "node"),
        Column("state", "State", "state"),
        Column("holder", "Reserved by"),
        _seconds("reserved_seconds", "Reserved"),
        Column("busy_share", "Worked", "share"),
        Column("cause", "Idles mostly", "idle"),
        Column("cause_share", "Share", "share"),
        _seconds("compute_seconds", "Compute", 2),
        _seconds("communication_seconds", "Communication", 2),
        _seconds("copy_seconds", "Copy", 2),
        _seconds("idle_seconds", "Idle", 2),
        _seconds("unobserved_seconds", "Not observed", 3),
        Column("why", "Why", rank=3),
        Column("job_id", "Job", rank=3),
        _id("worker_id", "Worker", "worker", 3),
        _id("group_id", "Placement group", "group", 3),
        Column("reserved_share", "Share of it", "share", rank=3),
        Column("reserved_at_ns", "Reserved since", "clock", rank=3),
        _seconds("busy_seconds", "Worked for", 3),
        Column("last_work_at_ns", "Last work", "clock", rank=3),
        Column("model", "Model", rank=2),
        Column("utilization", "Any kernel ran", "share", rank=3),
        Column("used_bytes", "Memory in use", "size", rank=2),
        Column("memory_bytes", "Memory", "size", rank=3),
        Column("temperature_celsius", "°C", rank=3),
        Column("power_watts", "W", rank=3),
        Column("slowdown", "Slowed down by", rank=3),
        Column("trouble", "Out of service", rank=2),
        Column("uuid", "UUID", rank=3),
        Column("sampled_at_ns", "Sampled", "clock", rank=3),
        Column("hardware", "What its driver says", rank=3),
        Column("gpu_id", "Name", rank=3),
    ),
    "gpu_id",
)

TABLES: dict[str, Table] = {
    table.noun: table
    for table in (
        TASKS, ACTORS, PLACEMENT_GROUPS, OBJECTS, WORKERS, ENVIRONMENTS, NODES, INSTANCES, JOBS, FUNCTIONS,
        COLLECTIVES, KERNELS, GPUS,
    )
}  # fmt: skip
