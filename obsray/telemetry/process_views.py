"""Views of processes, actors, nodes and jobs."""

from __future__ import annotations

from collections import Counter

import numpy as np

from obsray.telemetry import explain
from obsray.telemetry.collectives import described
from obsray.telemetry.events import TaskType
from obsray.telemetry.groups import bundle_amounts, shown
from obsray.telemetry.halts import NAMES, fix_of
from obsray.telemetry.pids import halted
from obsray.telemetry.store import Running
from obsray.telemetry.tables import NS, WITH_ITS_SESSION, Row, public
from obsray.telemetry.task_views import TaskViews
from obsray.telemetry.tasks import BLOCKED


class ProcessViews(TaskViews):
    """What can be asked about processes and what lives in them."""

    def workers(self, refresh: bool = True) -> list[Row]:
        """Every process of the session with its state, what it runs, and how it ended."""
        if refresh:
            self.refresh()
        table = self.task_table
        done = np.bincount(
            table["worker"][(table["ended_attempt"] >= 0) & (table["worker"] >= 0)], minlength=table.workers.count
        )
        now: dict[bytes, Running] = {running.process: running for running in self.running}
        leased = {row["worker"] for row in self.lease_table.held.values()}
        found = []
        for process, row in self.process_table.rows.items():
            values = {name: value for name, value in row.items() if not name.startswith("_")}
            running = now.get(process)
            done_row = table.workers.row(process)
            values["label"] = self.process_label(process)
            values["current_task_id"] = running.task.hex() if running else None
            values["current_task"] = self._running_name(running) if running else None
            values["tasks_done"] = int(done[done_row]) if done_row >= 0 else 0
            values["state"] = self._worker_state(process, row, running, process in leased)
            if values["state"] == "DEAD" and self.over_at_ns:
                self._end_with_session(values, running)
            found.append(values)
        found.sort(key=lambda values: (values["kind"], values["registered_at_ns"] or 0, values["worker_id"]))
        return found

    def _end_with_session(self, values: Row, running: Running | None) -> None:
        """Of a process that nobody was left to tell of: when it ended, and what it ran then."""
        if not values["died_at_ns"] and not values["closed_at_ns"]:
            values.update(died_at_ns=self.over_at_ns, died_cause="unknown", error=WITH_ITS_SESSION)
        if running is not None:
            values["last_task"] = values["last_task"] or running.task.hex()
            values.update(current_task_id=None, current_task=None)

    def _worker_state(self, process: bytes, row: Row, running: Running | None, leased: bool) -> str:
        if row["died_at_ns"] or row["closed_at_ns"] or not self._alive(process):
            return "DEAD"
        if row["kind"] == "worker" and row["registered_at_ns"] is None:
            return "STARTING"
        if self.halt_table.of(process) is not None:
            return "HALTED"
        if running is not None:
            task = self.task_table.index.row(running.task)
            return "BLOCKED" if task >= 0 and self.task_table["state"][task] == BLOCKED else "BUSY"
        if row["actor_id"]:
            return "ACTOR"
        if row["kind"] != "worker":
            return "ALIVE"
        return "LEASED" if leased else "IDLE"

    def halts(self, refresh: bool = True) -> list[Row]:
        """What stands still now and is not dead, the longest first: who, since when, why, and what helps.

        Nodes, too: one that was stopped, or of which the control store hears nothing.
        """
        if refresh:
            self.refresh()
        if not self.store.is_live():
            return []
        living = {node.hex() for node in self.living_nodes()}
        rows = [row for row in self.halt_table.rows.values() if row["node_id"] in living]
        mine = self._own_halt()
        if mine is not None:
            rows = [row for row in rows if row["name"] != "node" or row["node_id"] != mine["node_id"]] + [mine]
        found = [{**row, "label": self._halt_label(row), "fix": fix_of(row)} for row in rows]
        return sorted(found, key=lambda row: row["halted_at_ns"])

    def _own_halt(self) -> Row | None:
        """Whether the node of this session itself stands still: it cannot say so, but it can be looked at."""
        facts = self.store.session()
        node, pid = bytes.fromhex(facts.get("node") or ""), int(facts.get("node_pid") or 0)
        why = halted(pid) if pid else ""
        if not why:
            return None
        last = self.samples.latest.get("node_sample", {}).get(node, {}).get("time_ns") or self.now_ns()
        return {
            "node_id": node.hex(), "pid": pid, "name": "node", "worker_id": None, "why": why, "halted_at_ns": int(last)
        }  # fmt: skip

    def _halt_label(self, row: Row) -> str:
        if row["worker_id"]:
            return self.process_label(bytes.fromhex(row["worker_id"]))
        if row["name"] == "node":
            known = self.cluster_table.nodes.get(bytes.fromhex(row["node_id"]), {})
            pid = row["pid"] or known.get("pid")
            return " ".join(
                ["node", row["node_id"][:8], known.get("name") or "", f"(pid {pid})" if pid else ""]
            ).replace("  ", " ").strip()  # fmt: skip
        return f"the {NAMES.get(row['name'], row['name'])} (pid {row['pid']})"

    def actors(self, refresh: bool = True) -> list[Row]:
        """Every actor, newest first, with how many calls it had."""
        if refresh:
            self.refresh()
        table = self.task_table
        calls = Counter(table["actor"][table["type"] == TaskType.ACTOR_CALL].tolist()) if self.actor_table.rows else {}
        found = []
        for actor, row in self.actor_table.rows.items():
            values = {name: value for name, value in row.items() if not name.startswith("_")}
            # Of a process at another node its home has heard before its own records are here.
            known = self.pid(bytes.fromhex(row["worker_id"])) if row["worker_id"] else None
            values["pid"] = known or row["_pid"]
            values["calls"] = calls.get(actor, 0)
            values["environment"] = self.environment_table.of_shape(row["shape"])
            found.append(values)
        found.sort(key=lambda values: -(values["created_at_ns"] or 0))
        return found

    def placement_groups(self, refresh: bool = True) -> list[Row]:
        """Every placement group, newest first, with the bundles as text, why it waits, and how many leases it holds."""
        if refresh:
            self.refresh()
        held = Counter(row["group"] for row in self.lease_table.held.values())
        now = self.now_ns()
        found = []
        for group, row in self.group_table.rows.items():
            values = dict(row)
            values["bundle_nodes"] = [row["bundle_nodes"].get(index) for index in range(row["bundles"])]
            values["bundle_amounts"] = bundle_amounts(row["resources"])
            values["resources"] = shown(values["bundle_amounts"])
            values["workers"] = held.get(group, 0)
            if row["pending_seconds"] is None and row["requested_at_ns"] is not None:
                until = row["removed_at_ns"] or now
                values["pending_seconds"] = max(0, until - row["requested_at_ns"]) / NS
            nodes = Counter(node[:8] for node in values["bundle_nodes"] if node)
            values["nodes"] = ", ".join(node if n == 1 else f"{node} ×{n}" for node, n in nodes.items())
            waits = row["state"] in ("PENDING", "RESCHEDULING") and row["reason"] is not None
            values["why"] = explain.decision_text({**row, "outcome": row["reason"]}) if waits else row["ended"] or ""
            found.append(values)
        found.sort(key=lambda values: -(values["requested_at_ns"] or 0))
        return found

    def placement_group(self, group: str, refresh: bool = True) -> Row | None:
        """One placement group by its id (hex), None if there is none."""
        found = [row for row in self.placement_groups(refresh) if row["group_id"] == group]
        return found[0] if found else None

    def collectives(self, refresh: bool = True) -> list[Row]:
        """Every group for collective operations, newest first, with what it did and whom it waited for."""
        if refresh:
            self.refresh()
        found = [described(row) for row in self.collective_table.rows.values()]
        found.sort(key=lambda values: -(values["formed_at_ns"] or 0))
        return found

    def nodes(self, refresh: bool = True) -> list[Row]:
        """Every node with its resources and its newest samples."""
        if refresh:
            self.refresh()
        latest = self.samples.latest
        live = self.store.is_live()
        found = []
        for row in self.cluster_table.nodes.values():
            node = bytes.fromhex(row["node_id"])
            store, sample = (latest.get(event, {}).get(node, {}) for event in ("store_sample", "node_sample"))
            resources = self.samples.resources_of.get(node, {})
            used = ", ".join(
                f"{name} {amounts['used']:g} of {amounts['total']:g}"
                for name, amounts in sorted(resources.items())
                if "memory" not in name
            )
            values = {
                **row, "resources": resources, "store": public(store), "sample": public(sample), "used": used,
            }  # fmt: skip
            if not live and values["state"] == "ALIVE":
                values["state"] = "DEAD"
                values["stopped_at_ns"] = values["stopped_at_ns"] or self.over_at_ns or None
            found.append(values)
        return found

    def living_nodes(self) -> set[bytes]:
        """Those whose samples count; in a session that is over, all that were there to its end."""
        nodes = self.cluster_table.nodes.values()
        found = {bytes.fromhex(row["node_id"]) for row in nodes if row["state"] != "DEAD"}
        return found or {bytes.fromhex(row["node_id"]) for row in nodes} or set(self.samples.resources_of)

    def environments(self, refresh: bool = True) -> list[Row]:
        """Every environment that somebody needed, newest first, with how many processes are in it now."""
        if refresh:
            self.refresh()
        live = Counter(
            row["environment_id"] for row in self.process_table.rows.values()
            if row["environment_id"] and not row["died_at_ns"]
        )  # fmt: skip
        found = [{**row, "workers": live.get(name, 0)} for name, row in self.environment_table.rows.items()]
        return sorted(found, key=lambda values: -(values["asked_at_ns"] or 0))

    def jobs(self, refresh: bool = True) -> list[Row]:
        """Every driver that joined, newest first."""
        if refresh:
            self.refresh()
        counts = np.bincount(self.task_table["job"], minlength=1) if len(self.task_table) else np.zeros(1)
        found, gpu = [], self.gpu_seconds_of_jobs()
        for job, row in self.cluster_table.jobs.items():
            values = {
                **row, "tasks": int(counts[job]) if job < len(counts) else 0, "gpu_seconds": gpu.get(job, 0.0)
            }  # fmt: skip
            driver = bytes.fromhex(row["driver_id"]) if row["driver_id"] else None
            if values["state"] == "RUNNING" and driver and not self._alive(driver):
                values["state"] = "STOPPED"
                values["ended_at_ns"] = self.over_at_ns or None
            found.append(values)
        return sorted(found, key=lambda values: -(values["started_at_ns"] or 0))
