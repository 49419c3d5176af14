"""Made-up rows behind the surface of ``obsray.telemetry.views``: for pages whose content must be known exactly."""

from __future__ import annotations

import random
from typing import Any

from obsray.dashboard.conditions import matches, ordered

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


class FakeViews:
    """``tasks_total`` tasks in every state, with one hostile name (task 7) and one failed task (task 13)."""

    def __init__(self, tasks_total: int = 1000, seed: int = 7) -> None:
        self.refreshed = 0
        chance = random.Random(seed)
        self.rows = [self._row(number, chance) for number in range(tasks_total)]

    def refresh(self) -> None:
        self.refreshed += 1

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
            "type": "NORMAL_TASK",
            "state": state,
            "attempt": 0,
            "parent_task_id": task_id(0) if number else None,
            "actor_id": None,
            "job_id": 1,
            "worker_id": worker_id(number % 4 + 1) if ended or state.startswith("RUN") else None,
            "worker_pid": 4000 + number % 4,
            "shape": f"{NAMES[number % len(NAMES)]} CPU=1",
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
            "outcome": {"FINISHED": "OK", "FAILED": "APP_ERROR"}.get(state),
            "trace_id": "ab" * 16,
            "error": TRACEBACK if state == "FAILED" else None,
        }

    def tasks(
        self, filters: Any = (), sort: str = "-submitted_at_ns", limit: int = 50, offset: int = 0
    ) -> dict[str, Any]:
        found = ordered([row for row in self.rows if matches(row, filters)], sort)
        return {"rows": found[offset : offset + limit], "total": len(found)}

    def task(self, identifier: str) -> dict[str, Any] | None:
        found = [row for row in self.rows if row["task_id"].startswith(identifier)]
        if len(found) != 1 and (not found or found[0]["task_id"] != identifier):
            return None
        row, at = found[0], found[0]["submitted_at_ns"]
        split = []
        for what, seconds, why in (
            ("waiting for arguments", row["wait_arguments_seconds"], f"load_shard {task_id(1)} had not finished"),
            ("queued", row["queue_seconds"], "no free CPU: 4 of 4 held by train_step"),
            ("dispatch", row["dispatch_seconds"], ""),
            ("fetch", row["fetch_seconds"], "1 argument, 4.2 MiB out of the object store"),
            ("deserialise", row["deserialize_seconds"], ""),
            ("run", row["run_seconds"], ""),
            ("blocked", row["blocked_seconds"], ""),
            ("store result", row["store_seconds"], ""),
        ):
            span = round((seconds or 0) * 1e9)
            split.append({"what": what, "seconds": seconds or 0.0, "from_ns": at, "to_ns": at + span, "why": why})
            at += span
        waits = row["state"].startswith("PENDING")
        kin = {"task_id": task_id(1), "name": "load_shard", "state": "FINISHED"}
        return {
            **row,
            "time_split": split,
            "attempts": [row] if row["worker_id"] else [],
            "producers": [kin],
            "arguments": [kin],
            "pending_reason": "Waiting for a CPU for 2.1 s: 4 of 4 are held by train_step; 31 tasks of this shape are ahead."
            if waits
            else None,
            "children": [
                {"task_id": task_id(number), "name": "tokenize", "state": "RUNNING"} for number in range(20, 45)
            ],
        }

    def story(self, identifier: str) -> list[dict[str, Any]]:
        row = next((row for row in self.rows if row["task_id"] == identifier), None)
        if row is None and identifier not in {worker_id(number) for number in range(1, 5)}:
            return []
        told = (
            (
                "task_submitted",
                "driver",
                f"submitted {row['name'] if row else 'x'} with 2 arguments, 1 of them not ready",
                0,
            ),
            ("task_arguments_waiting", "driver", "waits for the result of load_shard", 0),
            ("lease_decided", "node", "queued: no free CPU (4 of 4 taken), 31 ahead of it", 1),
            ("task_started", "worker", "attempt 0 began to run", 0),
            ("task_ended", "worker", "ran 4.1 ms (3.6 ms on the CPU)", 0),
            (
                "task_finished",
                "driver",
                "failed: ValueError" if row and row["state"] == "FAILED" else "finished",
                2 if row and row["state"] == "FAILED" else 0,
            ),
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

    def workers(self) -> list[dict[str, Any]]:
        return [
            {
                "worker_id": worker_id(number),
                "kind": "WORKER",
                "state": "LEASED" if number < 4 else "IDLE",
                "pid": 4000 + number,
                "running": NAMES[number] if number < 4 else None,
                "running_task_id": task_id(number) if number < 4 else None,
                "tasks": 250,
                "rss_bytes": 91 << 20,
                "started_at_ns": NOW_NS,
                "cause": None,
                "error": None,
            }
            for number in range(1, 5)
        ]

    def actors(self) -> list[dict[str, Any]]:
        return [
            {
                "actor_id": f"{OWNER}02{1:014x}",
                "class_name": "Evaluator",
                "name": HOSTILE,
                "state": "ALIVE",
                "worker_id": worker_id(2),
                "pid": 4002,
                "restarts": 1,
                "job_id": 1,
                "created_at_ns": NOW_NS,
                "cause": None,
                "error": None,
            }
        ]

    def objects(
        self, filters: Any = (), sort: str = "-object_bytes", limit: int = 50, offset: int = 0
    ) -> dict[str, Any]:
        found = [
            {
                "object_id": task_id(number) + "00000000",
                "state": "SEALED" if number % 5 else "SPILLED",
                "object_bytes": 100_000 * number,
                "task_id": task_id(number),
                "created_at_ns": NOW_NS + number,
                "age_seconds": 1.5 * number,
                "call_site": None,
            }
            for number in range(300)
        ]
        found = ordered([row for row in found if matches(row, filters)], sort)
        return {"rows": found[offset : offset + limit], "total": len(found)}

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "node_id": "cd" * 8,
                "state": "ALIVE",
                "host": "host-1",
                "pid": 3999,
                "store_bytes": 2 << 30,
                "started_at_ns": NOW_NS,
            }
        ]

    def jobs(self) -> list[dict[str, Any]]:
        return [
            {
                "job_id": 1,
                "state": "RUNNING",
                "entrypoint": "train.py",
                "pid": 3990,
                "worker_id": OWNER,
                "started_at_ns": NOW_NS,
                "ended_at_ns": None,
                "cause": None,
            }
        ]

    def functions(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "tasks": 200,
                "finished": 190 - step,
                "failed": step,
                "pending": 10,
                "run_seconds_mean": 0.02,
                "run_seconds_p50": 0.018,
                "run_seconds_p95": 0.11,
                "run_seconds_max": 0.4,
                "run_seconds_total": 4.0 + step,
                "queue_seconds_mean": 0.05,
                "result_bytes_total": 1 << 30,
            }
            for step, name in enumerate(NAMES)
        ]

    def leases(self) -> list[dict[str, Any]]:
        return []

    def ledger(self) -> dict[str, Any]:
        by_state: dict[str, int] = {}
        for row in self.rows:
            by_state[row["state"]] = by_state.get(row["state"], 0) + 1
        ended = {key.lower(): by_state.get(key, 0) for key in ("FINISHED", "FAILED", "CANCELLED")}
        return {
            "events_stored": 4 * len(self.rows),
            "events_lost": 0,
            "balanced": True,
            "tasks": {"submitted": len(self.rows), **ended, "pending": len(self.rows) - sum(ended.values())},
            "rings": [
                {
                    "worker_id": OWNER,
                    "process": "DRIVER",
                    "pid": 3990,
                    "first_sequence": 1,
                    "last_sequence": 4000,
                    "stored": 4000,
                    "lost": 0,
                }
            ],
        }

    def overview(self) -> dict[str, Any]:
        by_state: dict[str, int] = {}
        for row in self.rows:
            by_state[row["state"]] = by_state.get(row["state"], 0) + 1
        chance = random.Random(3)
        submitted = [9000 + chance.randrange(3000) for _ in range(60)]
        return {
            "uptime_seconds": 754.2,
            "resources": {"CPU": {"total": 4.0, "used": 4.0}, "GPU": {"total": 1.0, "used": 0.0}},
            "tasks": by_state,
            "workers": {"LEASED": 3, "IDLE": 1},
            "rates": {
                "submitted_per_second": 10211.0,
                "finished_per_second": 9876.5,
                "series": {
                    "time_ns": [NOW_NS + second * 10**9 for second in range(60)],
                    "submitted": submitted,
                    "finished": [max(0, value - chance.randrange(1500)) for value in submitted],
                    "failed": [0] * 60,
                },
            },
            "store": {
                "capacity_bytes": 2 << 30,
                "used_bytes": 900 << 20,
                "pinned_bytes": 210 << 20,
                "spilled_bytes": 64 << 20,
                "objects": 300,
            },
            "events": {"total": 4 * len(self.rows), "per_second": 41_020.0},
            "ledger": self.ledger(),
            "recent_errors": [
                {
                    "time_ns": NOW_NS,
                    "task_id": row["task_id"],
                    "name": row["name"],
                    "error": row["error"].splitlines()[-1],
                }
                for row in self.rows
                if row["state"] == "FAILED"
            ],
        }
