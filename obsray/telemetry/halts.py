"""Table: processes that stand still and are not dead. Imports nothing heavy: nodes use it, too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obsray.telemetry.columns import Batch, Texts

Row = dict[str, Any]
STOPPED = "it was stopped (SIGSTOP)"
HELD = "a debugger holds it"
FROZEN = "its control group is frozen, as that of a paused container is"
#: In the session directory: the processes beside its node that stand still, as a list of [name, pid]. For programs,
#: which need not read records to say so.
FILE = "halts.json"
_SILENT = re.compile(r"no heartbeat for ([\d.]+) s")
#: How services are called in sentences, where that is not their name.
NAMES = {"control": "control store", "gpu-watch": "process that watches the GPUs"}
#: What it means that one of these stands still.
MEANS = {
    "control": "Names, keys, joining and the news of deaths wait; tasks, actors and objects go on.",
    "collector": "What happens is still recorded; it is stored, and /metrics answers, when it goes on.",
    "dashboard": "Its pages do not answer; nothing else is concerned.",
    "autoscaler": "No node is started or given back.",
    "gpu-watch": "Trouble of GPUs is not noticed.",
}
#: What to do about a process of this name; about all others ``FIX``.
FIXES = {
    "worker": "`kill -CONT {pid}` on its machine has it go on; after `kill -KILL {pid}` what it ran is done again if "
    "it may be (max_retries, max_restarts).",
    "driver": "`kill -CONT {pid}` on its machine has it go on; `kill -KILL {pid}` ends it, and what it made with it.",
    "zygote": "The node wakes it as soon as it needs a process, and if it does not answer within "
    "zygote_silent_seconds_max, replaces it and the workers that it has forked.",
}
FIX = "Its node wakes it after service_halted_seconds_max (10 s; 0: never), `kill -CONT {pid}` on its machine now."
HELD_FIX = "It goes on when the debugger lets go of it. `kill -KILL {pid}` on its machine ends it{then}."
FROZEN_FIX = (
    "It goes on when its container does (`docker unpause`; by hand 0 in `cgroup.freeze`, or THAWED in `freezer.state`, "
    "of the group that `cat /proc/{pid}/cgroup` names on its machine)."
)
_THEN = {
    "worker": ", and what it ran is done again if it may be (max_retries, max_restarts)",
    "driver": ", and what it made with it",
    "node": ", and its workers with it",
    "zygote": " and its workers; its node starts another one",
}
NODE_FIX = "`kill -CONT {pid}` on its machine has it go on; one that its cluster has not heard for long counts as dead."
SILENT_FIX = "It comes back as soon as it is heard again; else it counts as dead soon, and what it did is done again."


def fix_of(row: Row) -> str:
    """What helps where a process stands still."""
    name, pid = row["name"], row["pid"]
    if row["why"] == HELD:
        fix = HELD_FIX.format(pid=pid, then=_THEN.get(name, "; its node starts another one"))
    elif row["why"] == FROZEN:
        fix = FROZEN_FIX
    elif name == "node":
        fix = NODE_FIX if pid else SILENT_FIX
    else:
        fix = FIXES.get(name, FIX)
    return " ".join((MEANS.get(name, ""), fix.format(pid=pid))).strip()


class HaltTable:
    """Those that stand still now, by node and pid."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.rows: dict[str, Row] = {}

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        found = [
            (record["time_ns"], event, record)
            for event in ("process_halted", "process_resumed", "node_changed")
            if event in batch
            for record in batch[event].rows(self.texts)
        ]
        for time_ns, event, record in sorted(found, key=lambda each: each[0]):
            if event == "node_changed":
                self._node_changed(time_ns, record)
                continue
            key = f"{record['process'].hex()}:{record['pid']}"
            if event == "process_resumed":
                self.rows.pop(key, None)
                continue
            self.rows[key] = {
                "node_id": record["process"].hex(), "pid": record["pid"], "name": record["process_name"],
                "worker_id": record["worker"].hex() if any(record["worker"]) else None, "why": record["error"],
                "halted_at_ns": time_ns,
            }  # fmt: skip

    def _node_changed(self, time_ns: int, record: Row) -> None:
        """The control store does not hear a node, or hears it again, or has given it up."""
        node = record["node"].hex()
        if record["state"].upper() != "SUSPECTED":
            self.rows.pop(node, None)
            return
        silent = _SILENT.search(record["error"])
        silent_ns = int(float(silent[1]) * 1e9) if silent else 0
        self.rows[node] = {
            "node_id": node, "pid": 0, "name": "node", "worker_id": None,
            "why": "the control store has heard no heartbeat of it since", "halted_at_ns": time_ns - silent_ns,
        }  # fmt: skip

    def of(self, worker: bytes) -> Row | None:
        """Since when and why this process stands still; None if it does not."""
        name = worker.hex()
        return next((row for row in self.rows.values() if row["worker_id"] == name), None)
