"""Made-up rows behind the surface of ``obsray.telemetry.views``: for pages whose content must be known exactly."""

from __future__ import annotations

import random
from typing import Any

from obsray.dashboard.conditions import matches, ordered
from obsray.dashboard.tables import TASK_STATES

#: Of the dashboard that shows them.
TOKEN = "5a" * 32
PORT = 8265
OWNER = "3fa2c1d0aa00bb11"
NOW_NS = 1_790_000_000_000_000_000
NAMES = ("load_shard", "tokenize", "train_step", "Evaluator.score", "merge")
HOSTILE = "<script>alert('x')</script>\x1b[31mred\x07\u202e"
TRACEBACK = (
    'Traceback (most recent call last):\n  File "train.py", line 41, in train_step\n'
    f'    raise ValueError("shard 13 is empty")\nValueError: shard 13 is empty {HOSTILE}'
)


def task_id(number: int) -> str:
    return f"{OWNER}{number:016x}"


def worker_id(number: int) -> str:
    return f"{number:02x}" * 8


ATTEMPT = (
    "attempt", "worker_id", "worker_pid", "started_at_ns", "ended_at_ns", "run_seconds", "outcome", "error",
)  # fmt: skip
WORKER = (
    "worker_id", "pid", "kind", "starting_at_ns", "registered_at_ns", "start_seconds", "died_at_ns", "died_cause",
    "exit_code", "signal", "error", "last_task", "rss_bytes", "unique_bytes", "cpu_seconds", "threads", "descriptors",
    "sampled_at_ns", "actor_id", "closed_at_ns", "label", "current_task_id", "current_task", "tasks_done", "state",
    "environment_id",
)  # fmt: skip
ACTOR = (
    "actor_id", "class_name", "name", "namespace", "state", "worker_id", "node_id", "job_id", "task_id", "shape",
    "restarts", "restarts_max", "detached", "created_at_ns", "placed_at_ns", "alive_at_ns", "died_at_ns",
    "start_seconds", "died_cause", "error", "pid", "calls", "placement_group_id", "checkpoints", "checkpoint_bytes",
    "checkpointed_at_ns", "calls_replayed", "repr_name", "environment", "labels",
)  # fmt: skip
GROUP = (
    "group_id", "name", "namespace", "state", "strategy", "bundles", "resources", "bundle_nodes", "nodes", "job_id",
    "owner", "detached", "requested_at_ns", "created_at_ns", "removed_at_ns", "pending_seconds", "attempts", "reason",
    "deficit", "workers_killed", "ended", "workers", "why", "bundle_amounts",
)  # fmt: skip
COLLECTIVE = (
    "group_id", "name", "backend", "members", "broken", "formed_at_ns", "ended_at_ns", "operations", "failed",
    "sent_bytes", "seconds", "state", "wait_seconds", "wait_ratio", "slowest_rank",
)  # fmt: skip
INSTANCE = (
    "node_id", "node_type", "state", "cause", "requested_at_ns", "joined_at_ns", "ended_at_ns", "start_seconds", "why",
    "error",
)  # fmt: skip
OBJECT = (
    "object_id", "owner", "owner_label", "task_id", "kind", "producer", "creator", "call_site", "bytes", "state",
    "pins", "age_seconds", "error", "put_at_ns", "created_at_ns", "sealed_at_ns", "spilled_at_ns", "restored_at_ns",
    "freed_at_ns", "lost_at_ns", "pinned_at_ns", "reads",
)  # fmt: skip
ENVIRONMENT = (
    "environment_id", "description", "state", "job_id", "asked_at_ns", "ready_at_ns", "failed_at_ns", "removed_at_ns",
    "setup_seconds", "environment_bytes", "error", "workers",
)  # fmt: skip
NODE = (
    "node_id", "name", "role", "labels", "pid", "host", "state", "store_bytes", "started_at_ns", "stopped_at_ns",
    "error", "resources", "store", "used", "sample", "clock_offset_seconds", "clock_uncertainty_seconds",
    "records_lost", "records_lost_estimated",
)  # fmt: skip
JOB = (
    "job_id", "driver_id", "pid", "entrypoint", "namespace", "state", "cause", "started_at_ns", "ended_at_ns", "tasks",
    "metadata",
)  # fmt: skip


#: What the driver tells of a GPU.
GPU_DEVICE = (
    "node_id", "gpu", "bus_index", "uuid", "model", "accelerator_type", "memory_bytes", "mig", "note", "state",
    "reason", "xid", "health_changed_at_ns", "sampled_at_ns", "utilization", "bus_utilization", "used_bytes",
    "power_watts", "power_limit_watts", "temperature_celsius", "clock_mhz", "energy_joules", "slowdown", "processes",
    "foreign_processes", "foreign_bytes", "node_name", "node_state",
)  # fmt: skip


def gpu_activities(reserved: float) -> list[dict[str, Any]]:
    shares = {"compute": 0.2, "copy": 0.05, "idle: launch-bound": 0.5, "idle: no task": 0.25} if reserved else {}
    return [
        {"activity": name, "seconds": share * reserved, "share": share, "what": "it was so"}
        for name, share in shares.items()
    ]


class FakeViews:
    """``tasks_total`` tasks in every state, with one hostile name (task 7) and one failed task (task 13)."""

    def __init__(self, tasks_total: int = 1000, seed: int = 7) -> None:
        self.refreshed = 0
        self.events_lost = 0
        chance = random.Random(seed)
        self.rows = [self._row(number, chance) for number in range(tasks_total)]

    def refresh(self) -> int:
        self.refreshed += 1
        return 0

    def release(self) -> None:
        """There is nothing to let go of."""

    def _row(self, number: int, chance: random.Random) -> dict[str, Any]:
        state = chance.choices(
            (
                "FINISHED",
                "RUNNING",
                "PENDING_NODE_ASSIGNMENT",
                "PENDING_ARGS_AVAIL",
                "SUBMITTED_TO_WORKER",
                "FAILED",
                "CANCELLED",
                "RUNNING_IN_RAY_GET",
            ),
            (900, 8, 30, 12, 20, 5, 3, 2),
        )[0]
        if number == 13:
            state = "FAILED"
        run = chance.lognormvariate(-4, 1.2) if state in ("FINISHED", "FAILED") else None
        queue = chance.expovariate(20)
        submitted = NOW_NS + number * 1_000_000
        ended = state in ("FINISHED", "FAILED")
        return {
            "task_id": task_id(number),
            "name": HOSTILE if number == 7 else NAMES[number % len(NAMES)],
            "labels": HOSTILE if number == 7 else None,
            "type": "NORMAL_TASK",
            "state": state,
            "attempt": 0,
            "parent_task_id": task_id(0) if number else None,
            "actor_id": None,
            "job_id": "00000001",
            "worker_id": worker_id(number % 4 + 1) if ended or state.startswith("RUN") else None,
            "worker_pid": 4000 + number % 4,
            "shape": f"{NAMES[number % len(NAMES)]} CPU=1",
            "placement_group_id": None,
            "submitted_at_ns": submitted,
            "started_at_ns": submitted + 5_000_000 if ended else None,
            "ended_at_ns": submitted + 9_000_000 if ended else None,
            "wait_arguments_seconds": 0.004,
            "queue_seconds": queue,
            "dispatch_seconds": 0.0001,
            "fetch_seconds": 0.0021,
            "deserialize_seconds": 0.0004,
            "run_seconds": run,
            "cpu_seconds": run and run * 0.8,
            "blocked_seconds": 0.0,
            "store_seconds": 0.0003,
            "total_seconds": run and run + queue + 0.007,
            "result_bytes": chance.randrange(1 << 22),
            "outcome": {"FINISHED": "ok", "FAILED": "app_error"}.get(state),
            "trace_id": "ab" * 16,
            "error": TRACEBACK if state == "FAILED" else None,
            "gpu_seconds": None,
            "gpu_kernels": None,
        }

    def tasks(
        self, filters: Any = (), sort: str = "-submitted_at_ns", limit: int = 50, offset: int = 0, refresh: bool = True
    ) -> dict[str, Any]:
        filters = [
            (column, operator, f"{value:08x}" if column == "job_id" else value) for column, operator, value in filters
        ]
        found = ordered([row for row in self.rows if matches(row, filters)], sort)
        return {"rows": found[offset : offset + limit], "total": len(found)}

    def task(self, identifier: str, refresh: bool = True) -> dict[str, Any] | None:
        row = next((row for row in self.rows if row["task_id"] == identifier), None)
        if row is None:
            return None
        at, split = row["submitted_at_ns"], []
        for what, seconds, why in (
            ("waiting for arguments", row["wait_arguments_seconds"], "1 argument did not exist yet"),
            ("queued", row["queue_seconds"], "no free CPU: 4 of 4 held by train_step"),
            ("dispatch", row["dispatch_seconds"], "on its way to worker 02020202 (pid 4002)"),
            ("fetch arguments", row["fetch_seconds"], "1 argument, 4.2 MiB out of the object store"),
            ("deserialise", row["deserialize_seconds"], ""),
            ("run", row["run_seconds"], ""),
            ("blocked in get", row["blocked_seconds"], ""),
            ("store result", row["store_seconds"], ""),
        ):
            end = at + round((seconds or 0) * 1e9)
            split.append({"what": what, "seconds": seconds or 0.0, "from_ns": at, "to_ns": end, "why": why})
            at = end
        reason = "Waiting for a CPU for 2.1 s: 4 of 4 are held by train_step; 31 tasks of this shape are ahead."
        attempt = {name: row[name] for name in ATTEMPT}
        return {
            **row,
            "time_split": split,
            "attempts": [attempt] if row["worker_id"] else [],
            "pending_reason": reason if row["state"].startswith("PENDING") else None,
            "arguments": [
                {
                    "object_id": task_id(1) + "00000000",
                    "producer_task_id": task_id(1),
                    "producer_name": HOSTILE,
                    "producer_state": "FINISHED",
                    "waited_from_ns": NOW_NS,
                }
            ],
            "results": [],
            "memory": None,
            "gpu": None,
            "environment": None,
            "children": {
                "total": 25,
                "by_state": {"FINISHED": 20, "RUNNING": 5},
                "by_name": {"tokenize": 24, HOSTILE: 1},
                "task_ids": [task_id(number) for number in range(20, 40)],
            },
        }

    def critical_path(self, job: int | None = None, refresh: bool = True) -> dict[str, Any]:
        piece = {"kind": "run", "from_ns": NOW_NS, "to_ns": NOW_NS + 10**9, "seconds": 1.0, "task_id": task_id(7)}
        return {
            "job_id": "00000001", "from_ns": NOW_NS, "to_ns": NOW_NS + 10**9, "seconds": 1.0, "tasks": 1,
            "tasks_on_path": 1, "pieces": 1, "path": [{**piece, "name": HOSTILE}], "sentence": HOSTILE,
            "kinds": [{"kind": "run", "seconds": 1.0, "share": 1.0, "what": "user code ran"}],
            "functions": [{"name": HOSTILE, "seconds": 1.0, "share": 1.0}],
            "nearly": [
                {"task_id": task_id(7), "name": HOSTILE, "seconds": 0.1, "slack_seconds": 0.2, "from_ns": NOW_NS}
            ],
        }  # fmt: skip

    def what_if(
        self, job: int | None = None, changes: Any = None, refresh: bool = True, rough: bool = False
    ) -> dict[str, Any]:
        scenario = {
            "change": f"{HOSTILE} 2 x faster",
            "seconds": 0.5,
            "speedup": 2.0,
            "saved_seconds": 0.5,
            "bound": HOSTILE,
        }
        return {
            "job_id": "00000001", "tasks": 1, "actual_seconds": 1.0, "replayed_seconds": 1.0, "error_ratio": 0.0,
            "trusted": True, "scenarios": [scenario], "sentence": HOSTILE, "limits": [HOSTILE],
            "refused": [] if rough else [{"change": "2 x workers", "why": HOSTILE, "rough": True}],
        }  # fmt: skip

    def stragglers(self, job: int | None = None, refresh: bool = True) -> dict[str, Any]:
        row = {
            "task_id": task_id(7), "name": HOSTILE, "seconds": 2.0, "usual_seconds": 1.0, "factor": 2.0,
            "cause": "more work", "text": HOSTILE,
        }  # fmt: skip
        return {
            "tasks": 1, "total": 1, "stragglers": [row], "functions": [], "causes": {"more work": 1},
            "excess_seconds": 1.0,
        }  # fmt: skip

    def different(self, chosen: Any, among: Any = (), refresh: bool = True) -> dict[str, Any]:
        return {"selected": 1, "others": 1, "differences": [{"effect": 0.5, "text": HOSTILE}], "sentence": HOSTILE}

    def memory(self, refresh: bool = True) -> dict[str, Any]:
        return {
            "objects": 1, "bytes": 10, "pinned_bytes": 0, "spilled_bytes": 0, "fallback_bytes": 20 << 20, "live": True,
            "sentence": HOSTILE,
            "peak": {"bytes": 10, "at_ns": NOW_NS}, "suspects": [],
            "by_call_site": [{"what": HOSTILE, "objects": 1, "bytes": 10, "oldest_seconds": 1.0}],
        }  # fmt: skip

    def books(self, job: int | None = None, refresh: bool = True) -> dict[str, Any]:
        function = {"name": HOSTILE, "seconds": 1.0, "attempts": 1, "failed_seconds": 0.0, "activities": {}}
        return {
            "job_id": None, "activities": [{"activity": "run on CPU", "seconds": 1.0, "share": 1.0, "what": "it ran"}],
            "functions": [function], "more_workers": {"helps": "no", "reason": HOSTILE}, "wall_seconds": 1.0,
            "slots": 1.0, "cpus": 1.0, "slot_seconds": 1.0, "booked_seconds": 1.0, "error_ratio": 0.0,
        }  # fmt: skip

    def slots_over_time(self, job: int | None = None, refresh: bool = True) -> dict[str, Any]:
        row = {
            "label": HOSTILE, "worker_id": worker_id(1), "activities": {"run on CPU": [0.5, 0.5]},
            "sums": {"run on CPU": 1.0},
        }  # fmt: skip
        return {
            "from_ns": NOW_NS, "to_ns": NOW_NS + 10**9, "pieces": 2, "piece_seconds": 0.5, "workers": [row],
            "together": row, "left_out": 0,
        }  # fmt: skip

    def now_ns(self) -> int:
        return NOW_NS

    def profile(
        self, function: str = "", thing: str = "", slow_vs_fast: bool = False, refresh: bool = True
    ) -> dict[str, Any]:
        stack = {"frames": [HOSTILE, "load (w.py:1)"], "samples": 3, "seconds": 1.0, "cpu_seconds": 0.5}
        line = {"line": HOSTILE, "seconds": 1.0, "cpu_seconds": 0.5}
        name = {"function": HOSTILE, "samples": 3, "seconds": 1.0, "cpu_seconds": 0.5}
        return {
            "what": HOSTILE, "function": function or None, "id": None, "samples": 3, "seconds": 1.0,
            "cpu_seconds": 0.5, "tasks": 1, "functions": [name], "slow_vs_fast": None, "notes": [HOSTILE],
            "lines": [line], "left_out": 0, "stacks": [stack],
        }  # fmt: skip

    def hangs(self, refresh: bool = True) -> dict[str, Any]:
        members = [
            {
                "id": task_id(number), "label": HOSTILE, "name": HOSTILE, "state": "RUNNING_IN_RAY_GET",
                "where": HOSTILE, "seconds": 9.0, "how": HOSTILE,
            }
            for number in range(3)
        ]  # fmt: skip
        hang = {"kind": "cycle", "sentence": HOSTILE, "fix": HOSTILE, "members": members, "behind": 1}
        return {"hangs": [hang], "live": True, "blocked": 3, "looked_at": 3, "complete": True}

    def post_mortem(self, identifier: str, refresh: bool = True) -> dict[str, Any]:
        return {"process": identifier, "sentence": HOSTILE}

    def why(self, identifier: str, refresh: bool = True) -> dict[str, Any]:
        row = next((row for row in self.rows if row["task_id"] == identifier), None)
        name = row["name"] if row else HOSTILE
        task = self.task(identifier)
        reason = (task or {}).get("pending_reason") or "has been running for 3 s"
        return {
            "id": identifier, "noun": "task", "name": name, "state": "RUNNING", "code": "RUNNING",
            "root_code": "RUNNING", "sentence": f"{name} {reason}", "fix": "", "facts": [HOSTILE],
            "time": [], "eta_seconds": None, "chain": [],
        }  # fmt: skip

    def process_label(self, process: bytes) -> str:
        return f"worker {process.hex()[:8]} (pid 4242)"

    def task_label(self, task: bytes) -> str:
        return next((row["name"] for row in self.rows if row["task_id"] == task.hex()), "task")

    def name_of(self, identifier: str, refresh: bool = True) -> str:
        return self.task_label(bytes.fromhex(identifier)) if len(identifier) == 32 else identifier[:16]

    def story(self, identifier: str, refresh: bool = True) -> list[dict[str, Any]]:
        row = next((row for row in self.rows if row["task_id"] == identifier), None)
        if row is None and identifier not in {worker_id(number) for number in range(1, 5)}:
            return []
        failed = row is not None and row["state"] == "FAILED"
        told = (
            ("task_submitted", "driver", f"submitted {row['name'] if row else 'x'} with 2 arguments", "info"),
            ("task_arguments_waiting", "driver", "waits for the result of load_shard", "info"),
            ("lease_decided", "node", "queued: no free CPU (4 of 4 taken), 31 ahead of it", "warning"),
            ("task_started", "worker", "attempt 0 began to run", "info"),
            ("task_ended", "worker", "ran 4.1 ms (3.6 ms on the CPU)", "info"),
            ("task_finished", "driver", "failed: ValueError" if failed else "finished", "error" if failed else "info"),
        )
        return [
            {
                "time_ns": NOW_NS + step * 3_100_000,
                "event": event,
                "process": worker_id(1),
                "process_label": f"{label} 4001",
                "text": text,
                "severity": severity,
                "fields": {},
            }
            for step, (event, label, text, severity) in enumerate(told)
        ]

    def workers(self, refresh: bool = True) -> list[dict[str, Any]]:
        driver = dict.fromkeys(WORKER) | {
            "worker_id": OWNER,
            "kind": "driver",
            "state": "ALIVE",
            "pid": 3990,
            "tasks_done": 0,
        }
        return [driver] + [
            dict.fromkeys(WORKER)
            | {
                "worker_id": worker_id(number),
                "kind": "worker",
                "state": "BUSY" if number < 4 else "IDLE",
                "pid": 4000 + number,
                "label": f"worker {number}",
                "current_task": HOSTILE if number == 1 else NAMES[2] if number < 4 else None,
                "current_task_id": task_id(number) if number < 4 else None,
                "tasks_done": 250,
                "rss_bytes": 91 << 20,
                "registered_at_ns": NOW_NS,
            }
            for number in range(1, 5)
        ]

    def actors(self, refresh: bool = True) -> list[dict[str, Any]]:
        return [
            dict.fromkeys(ACTOR)
            | {
                "actor_id": f"{OWNER}02{1:014x}",
                "class_name": "Evaluator",
                "name": HOSTILE,
                "labels": HOSTILE,
                "state": "ALIVE",
                "worker_id": worker_id(2),
                "pid": 4002,
                "restarts": 1,
                "job_id": "00000001",
                "calls": 12,
                "created_at_ns": NOW_NS,
            }
        ]

    def placement_groups(self, refresh: bool = True) -> list[dict[str, Any]]:
        facts = {
            "group_id": f"{OWNER}03{1:014x}",
            "name": HOSTILE,
            "state": "PENDING",
            "strategy": "PACK",
            "bundles": 2,
            "workers": 0,
            "why": HOSTILE,
            "bundle_nodes": [None, None],
            "nodes": "",
            "bundle_amounts": [{"CPU": None}],
        }
        return [dict.fromkeys(GROUP) | facts | {"requested_at_ns": NOW_NS}]

    def instances(self, refresh: bool = True) -> list[dict[str, Any]]:
        facts = {"node_id": "cd" * 8, "node_type": HOSTILE, "state": "FAILED", "why": HOSTILE, "error": HOSTILE}
        return [dict.fromkeys(INSTANCE) | facts | {"requested_at_ns": NOW_NS}]

    def scaling(self, limit: int = 20, refresh: bool = True) -> dict[str, Any]:
        counts = {"running": 1, "starting": 2, "leaving": 0, "min_workers": 0, "max_workers": 5}
        return {
            "types": [{"node_type": HOSTILE, "resources": HOSTILE, "error": HOSTILE, **counts}],
            "instances": self.instances(),
            "demands": [{"demand": HOSTILE, "units": 3, "verdict": "infeasible", "node_type": None, "why": HOSTILE}],
            "wish": {"bundles": 2, "resources": HOSTILE, "requested_at_ns": NOW_NS, "by": OWNER},
            "decisions": [{"time_ns": NOW_NS, "text": HOSTILE}][:limit],
        }

    def collectives(self, refresh: bool = True) -> list[dict[str, Any]]:
        facts = {"group_id": f"{OWNER}{9:016x}", "name": HOSTILE, "state": "BROKEN", "broken": HOSTILE, "members": 3}
        return [dict.fromkeys(COLLECTIVE) | facts | {"formed_at_ns": NOW_NS}]

    def environments(self, refresh: bool = True) -> list[dict[str, Any]]:
        facts = {"environment_id": "ab" * 8, "state": "FAILED", "description": HOSTILE, "error": HOSTILE, "workers": 0}
        return [dict.fromkeys(ENVIRONMENT) | facts | {"asked_at_ns": NOW_NS}]

    def objects(
        self, filters: Any = (), sort: str = "-bytes", limit: int = 50, offset: int = 0, refresh: bool = True
    ) -> dict[str, Any]:
        found = [
            dict.fromkeys(OBJECT)
            | {
                "object_id": task_id(number) + "00000000",
                "state": "SEALED" if number % 5 else "SPILLED",
                "bytes": 100_000 * number,
                "task_id": task_id(number),
                "producer": HOSTILE if number == 7 else "merge",
                "created_at_ns": NOW_NS + number,
                "age_seconds": 1.5 * number,
                "owner": OWNER,
                "pins": number % 3,
                "transfers": number % 2,
                "node": "ab" * 8,
                "nodes": "ab" * 8,
            }
            for number in range(300)
        ]
        found = ordered([row for row in found if matches(row, filters)], sort)
        return {"rows": found[offset : offset + limit], "total": len(found)}

    def nodes(self, refresh: bool = True) -> list[dict[str, Any]]:
        facts = {
            "node_id": "cd" * 8,
            "name": HOSTILE,
            "labels": HOSTILE,
            "state": "ALIVE",
            "host": HOSTILE,
            "pid": 3999,
            "store_bytes": 2 << 30,
            "used": "CPU 2 of 4",
            "started_at_ns": NOW_NS,
        }
        return [dict.fromkeys(NODE) | facts]

    def jobs(self, refresh: bool = True) -> list[dict[str, Any]]:
        facts = {
            "job_id": "00000001",
            "state": "RUNNING",
            "entrypoint": HOSTILE,
            "pid": 3990,
            "driver_id": OWNER,
            "tasks": 1000,
            "gpu_seconds": 1.5,
        }
        return [dict.fromkeys(JOB) | facts | {"started_at_ns": NOW_NS}]

    def functions(self, refresh: bool = True) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "total": 200 - step,
                "failed": step,
                "by_state": {"FINISHED": 190, "FAILED": 1 + step, "RUNNING": 3},
                "run_seconds_p50": 0.018,
                "run_seconds_p95": 0.11,
                "run_seconds_p99": 0.4,
                "queue_seconds_p50": 0.05,
                "queue_seconds_p95": None,
                "queue_seconds_p99": 0.07,
                "cpu_seconds": 4.0 + step,
                "gpu_seconds": 0.5 * step,
                "result_bytes": 1 << 30,
            }
            for step, name in enumerate((*NAMES, HOSTILE))
        ]

    def kernels(self, refresh: bool = True) -> list[dict[str, Any]]:
        return [
            {
                "kernel": f"void {name}<float>(int)",
                "function": name,
                "launches": 100,
                "kernel_seconds": 0.5 / (1 + step),
                "mean_seconds": 0.005,
                "max_seconds": 0.009,
                "launch_delay_seconds": 0.00001 if step else None,
                "launch_delay_max_seconds": 0.0002 if step else None,
                "share": 0.2,
            }
            for step, name in enumerate((*NAMES, HOSTILE))
        ]

    def gpu_devices(self, refresh: bool = True) -> list[dict[str, Any]]:
        facts = {"node_id": "ab" * 8, "gpu": 0, "state": "IN_SERVICE", "holders": [], "notices": [], "text": ""}
        return [dict.fromkeys(GPU_DEVICE) | facts]

    def gpu_shares(self, refresh: bool = True) -> list[tuple[str, int, str, float]]:
        return [("abababab", 0, "not reserved", 1.0), ("abababab", 1, "compute", 0.25)]

    def gpus(self, refresh: bool = True) -> list[dict[str, Any]]:
        return [
            {
                "gpu_id": f"{'ab' * 8}/{number}",
                "node_id": "ab" * 8,
                "gpu": number,
                "state": state,
                "holder": f"actor {HOSTILE} (3fa2c1d0)" if number else None,
                "worker_id": None,
                "group_id": None,
                "job_id": "00000001" if number else None,
                "reserved_share": 1.0 if number else 0.0,
                "reserved_at_ns": 1_700_000_000_000_000_000 if number else None,
                "reserved_seconds": 12.0 * number,
                "busy_seconds": 3.0 * number,
                "idle_seconds": 9.0 * number,
                "busy_share": 0.25 if number else None,
                "compute_seconds": 2.0 * number,
                "communication_seconds": 0.5 * number,
                "copy_seconds": 0.5 * number,
                "unobserved_seconds": 0.0,
                "activities": gpu_activities(12.0 * number),
                "last_work_at_ns": None,
                "cause": "idle: launch-bound" if number else None,
                "cause_share": 0.5 * number,
                "fix": "Use larger batches.",
                "uuid": None,
                "model": None,
                "memory_bytes": None,
                "used_bytes": None,
                "utilization": None,
                "power_watts": None,
                "temperature_celsius": None,
                "slowdown": None,
                "sampled_at_ns": None,
                "hardware": f"NVIDIA H100 {HOSTILE}" if number else None,
                "trouble": f"Xid 79 {HOSTILE}" if number else None,
                "why": f"GPU {number} of node abababab worked 25% of that time {HOSTILE}",
            }
            for number, state in ((0, "FREE"), (1, "IDLE"))
        ]

    def _by_state(self) -> dict[str, int]:
        found = dict.fromkeys(TASK_STATES, 0)
        for row in self.rows:
            found[row["state"]] += 1
        return found

    def ledger(self, refresh: bool = True) -> dict[str, Any]:
        by_state, events = self._by_state(), 4 * len(self.rows)
        ended = {key.lower(): by_state[key] for key in ("FINISHED", "FAILED", "CANCELLED")}
        pending = len(self.rows) - sum(ended.values())
        totals = dict.fromkeys(("events_recorded", "events_read", "events_stored"), events)
        ring = {"process": OWNER, "kind": "driver", "pid": 3990, "alive": True, "closed": False, "first_sequence": 1}
        numbers = {
            "last_sequence": events,
            "read": events,
            "stored": events,
            "gaps": 0,
            "dropped": 0,
            "last_at_ns": NOW_NS,
        }
        gone = {"events_lost_with_nodes": 0, "events_lost_estimated": 0}
        return {
            "rings": [ring | numbers],
            "nodes": [],
            "totals": totals | gone | {"events_lost": self.events_lost, "events_folded": 0, "bytes_stored": 1 << 20},
            "tasks": {
                "submitted": len(self.rows), **ended, "pending": pending, "unaccounted": 0, "balance_ok": True,
            },
            "collectors": [{
                "process": OWNER, "node_id": "cd" * 8, "pid": 3991, "alive": True, "cpu_seconds": 1.5,
                "cpu_share": 0.02, "events": events, "bytes": 1 << 20, "unstored_since_ns": None, "unstored_why": None,
            }],
        }  # fmt: skip

    def gpu_summary(self) -> dict[str, Any]:
        return {
            "kernels": 5,
            "unattributed_kernels": 1,
            "unattributed_seconds": 0.1,
            "unattributed_share": 0.2,
            "records_lost": 0,
            "notices": [],
        }

    def overview(self, refresh: bool = True) -> dict[str, Any]:
        chance, book = random.Random(3), self.ledger()
        submitted = [9000 + chance.randrange(3000) for _ in range(60)]
        finished = [value - chance.randrange(1500) for value in submitted]
        failed = [row for row in self.rows if row["state"] == "FAILED"][:5]
        return {
            "session": {"live": True},
            "now_ns": NOW_NS,
            "uptime_seconds": 754.2,
            "nodes": self.nodes(),
            "resources": {"CPU": {"total": 4.0, "used": 4.0}, "GPU": {"total": 1.0, "used": 0.0}},
            "tasks": self._by_state(),
            "tasks_total": len(self.rows),
            "workers": {"BUSY": 3, "IDLE": 1},
            "actors": {"ALIVE": 1},
            "rates": {
                "submitted_per_second": 10211.0,
                "finished_per_second": 9876.5,
                "series": {"from_ns": NOW_NS, "submitted": submitted, "finished": finished, "events": submitted},
            },
            "store": {
                "capacity_bytes": 2 << 30,
                "used_bytes": 900 << 20,
                "pinned_bytes": 210 << 20,
                "spilled_bytes": 64 << 20,
                "fallback_bytes": 20 << 20,
                "objects": 300,
                "objects_spilled": 60,
            },
            "events_total": 4 * len(self.rows),
            "events_per_second": 41_020.0,
            "bytes_stored": 1 << 20,
            "telemetry_lag_seconds": 0.1,
            "collectors": book["collectors"],
            "chaos": None,
            "halts": [],
            "ledger": {**book["totals"], **book["tasks"]},
            "gpu": self.gpu_summary(),
            "gpu_devices": self.gpu_devices(),
            "recent_errors": [
                {
                    "task_id": row["task_id"],
                    "name": row["name"],
                    "ended_at_ns": row["ended_at_ns"],
                    "outcome": row["outcome"],
                    "error": HOSTILE,
                }
                for row in failed
            ],
        }
