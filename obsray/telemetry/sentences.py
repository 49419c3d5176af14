"""Every event as a sentence a person understands. Pure: a record and a way to name things in, text out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol

from obsray import ids
from obsray.causes import gist
from obsray.telemetry.events import signal_text
from obsray.telemetry.explain import decision_text, duration, reason_text, size
from obsray.telemetry.halts import NAMES

Row = dict[str, Any]


class Names(Protocol):
    """How things are called in sentences."""

    def process_label(self, process: bytes) -> str: ...
    def task_label(self, task: bytes) -> str: ...


Sentence = Callable[[Row, Names], str]


def sentence(record: Row, names: Names) -> str:
    """What one record says. Unknown events give their name, never an error."""
    make = SENTENCES.get(record["event"])
    text = make(record, names) if make is not None else record["event"].replace("_", " ")
    error = record.get("error")
    if error and record["event"] not in _SAYS_ERROR:
        text += f": {gist(error)}"
    return text


_SAYS_ERROR = frozenset({"worker_died", "group_removed", "group_attempt_failed", "bundles_prepared"})


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _waiting(count: int, noun: str) -> str:
    return f"{_many(count, noun)} wait{'s' * (count == 1)}"


def _output(r: Row, n: Names) -> str:
    if not any(r["task"]):
        return f"output of no task, from byte {r['from_byte']} of std{r['stream']} on"
    what = f"logged ({r['level'].lower()}, {r['logger']})" if r["level"] else "wrote"
    return f"{_task(r, n)} {what} to std{r['stream']}, from byte {r['from_byte']} on"


def _run(r: Row, n: Names) -> str:
    first = n.task_label(r["first_task"])
    return f"{first} was" if r["tasks"] == 1 else f"{r['tasks']} tasks from {first} on were"


def _calls(r: Row, n: Names) -> str:
    first = n.task_label(r["first_task"])
    milliseconds = (r["time_ns"] - r["first_at"]) / 1e6
    return f"{r['tasks']} tasks from {first} on within {milliseconds:.1f} ms"


def _task(r: Row, n: Names) -> str:
    return n.task_label(r["task"])


def _worker(r: Row, n: Names) -> str:
    return n.process_label(r["worker"])


def _halted(r: Row, n: Names) -> str:
    name = r["process_name"]
    return _worker(r, n) if any(r["worker"]) else f"the {NAMES.get(name, name)} (pid {r['pid']})"


def _sampled(r: Row, n: Names) -> str:
    return n.task_label(r["task"]) if any(r["task"]) else n.process_label(r["process"])


#: What is over when nothing is judged so any more.
_OVER = {
    "node_comes": "waits for no node any more", "room": "waits for no room any more",
    "infeasible": "is not infeasible any more", "at_max": "is not kept waiting by a maximum any more",
    "backing_off": "is not kept waiting by failed starts any more",
    "speed": "is not kept waiting by upscaling_speed any more",
}  # fmt: skip


def _node(r: Row) -> str:
    return f"node {r['node'].hex()[:8]}"


def _object(r: Row) -> str:
    return f"object {ids.short(r['object'])}"


def _actor(r: Row) -> str:
    return f"actor {ids.short(r['actor'])}"


def _task_submitted(r: Row, n: Names) -> str:
    waits = f", {r['unready_arguments']} of its arguments not there yet" if r["unready_arguments"] else ""
    return f"{n.process_label(r['process'])} submitted {_task(r, n)}{waits}"


def _task_finished(r: Row, n: Names) -> str:
    outcome = {
        "ok": f"finished, {size(r['result_bytes'])} of result", "app_error": "failed: the function raised",
        "cancelled": "was cancelled", "worker_died": "failed: its worker died", "oom": "failed: out of memory",
        "node_died": "failed: its worker was lost with its node",
        "unschedulable": "failed: it can never run",
        "placement_removed": "failed: its placement group was removed",
        "lost_argument": "failed: an argument was lost", "actor_died": "failed: its actor died",
        "actor_unavailable": "failed: its actor was not there",
        "system_error": "failed by an error of the runtime",
        "environment_failed": "failed because its environment cannot be made", "result_lost": "finished and was lost",
        "nested_too_deep": "failed because every process there may be waited for others",
    }.get(r["outcome"], r["outcome"])  # fmt: skip
    return f"{_task(r, n)} {outcome}"


def _object_missing(r: Row, n: Names) -> str:
    return f"{n.process_label(r['process'])} learned that no copy of its {_object(r)} is left"


def _object_rebuilding(r: Row, n: Names) -> str:
    left = "" if r["retries_left"] < 0 else f" (retries left before that: {r['retries_left']})"
    return f"{_object(r)} is needed and lost: {_task(r, n)} runs again to make it{left}"


def _object_rebuild_failed(r: Row, n: Names) -> str:
    return f"{_object(r)} is needed and cannot be made again"


def _argument_lost(r: Row, n: Names) -> str:
    return f"{_worker(r, n)} gave {_task(r, n)} back: its argument {_object(r)} cannot be read"


def _task_retried(r: Row, n: Names) -> str:
    if r["outcome"] == "result_lost":
        return f"{_task(r, n)} had finished with attempt {r['attempt']} and runs again"
    ends = {"worker_died": "died", "oom": "was killed for its memory", "node_died": "was lost with its node"}
    why = ends.get(r["outcome"], f"ended with {r['outcome']}")
    delay = f" after {duration(r['delay_seconds'])}" if r["delay_seconds"] > 0 else ""
    if r["outcome"] in ends:
        return f"attempt {r['attempt']} of {_task(r, n)} failed: {_worker(r, n)} {why}; it is tried again{delay}"
    return f"attempt {r['attempt']} of {_task(r, n)} {why} on {_worker(r, n)}; it is tried again{delay}"


def _task_ended(r: Row, n: Names) -> str:
    ran = duration(r["run_seconds"])
    how = "ended" if r["outcome"] == "ok" else f"ended with {r['outcome']}"
    return f"attempt {r['attempt']} of {_task(r, n)} {how} on {n.process_label(r['process'])} after running {ran}"


def _worker_died(r: Row, n: Names) -> str:
    how = {
        "intended": "ended as asked", "idle": "ended because it was idle",
        "exit_code": f"exited with code {r['exit_code']}",
        "signal": f"was killed by {signal_text(r['signal'])}",
        "oom": f"was killed for its memory ({size(r['rss_bytes'])})",
        "killed_by_request": "was killed on request", "parent_died": "was killed",
        "owner_died": "was killed",
        "start_failed": "failed to start", "placement_removed": "was killed with its placement group",
    }.get(r["cause"], r["cause"])  # fmt: skip
    running = f" while running {n.task_label(r['last_task'])}" if any(r["last_task"]) else ""
    why = f": {r['error']}" if r["cause"] in ("parent_died", "owner_died") and r["error"] else ""
    return f"{_worker(r, n)} {how}{running}{why}"


def _hurt(r: Row) -> str:
    return {
        "request_lost": "lost on the way", "reply_lost": "its answer was lost", "in_flight": "cut off under way",
    }.get(r["fault"], "")  # fmt: skip


def _fault_injected(r: Row, n: Names) -> str:
    repeated = f", and repeated after {duration(r['delay_seconds'])}" if r["delay_seconds"] > 0 else ""
    again = repeated if r["fault"] != "in_flight" else ""
    return f"{r['method']} of {n.process_label(r['process'])} was hit on purpose: {_hurt(r)}{again}"


def _group(r: Row) -> str:
    return f"placement group {ids.short(r['group'])}"


def _group_requested(r: Row, n: Names) -> str:
    called = f" called {r['group_name']}" if r["group_name"] else ""
    bundles = _many(r["bundles"], "bundle")
    return f"{n.process_label(r['owner'])} asked for {_group(r)}{called}: {bundles}, {r['strategy']}"


def _group_waiting(r: Row, n: Names) -> str:
    return f"{_group(r)} waits: {reason_text(r['reason'])} ({r['deficit']})"


def _group_created(r: Row, n: Names) -> str:
    return f"{_group(r)} is there after waiting {duration(r['pending_seconds'])}"


def _group_removed(r: Row, n: Names) -> str:
    killed = f", {_many(r['workers'], 'worker')} in it killed" if r["workers"] else ""
    return f"{_group(r)} was removed after {duration(r['age_seconds'])}{killed}: {r['error']}"


def _bundle_placed(r: Row, n: Names) -> str:
    return f"bundle {r['bundle']} of {_group(r)} has its share of node {r['node'].hex()[:8]}"


def _group_decided(r: Row, n: Names) -> str:
    who = f"{n.process_label(r['owner'])}'s {_group(r)}"
    if r["outcome"] in ("granted", "withdrawn"):
        return f"{who} " + ("can be placed" if r["outcome"] == "granted" else "is not wanted any more")
    return f"{who} waits: {decision_text(r)}"


def _lease_decided(r: Row, n: Names) -> str:
    if r["shape"].startswith("placement group "):
        return _group_decided(r, n)
    asked = f"{n.process_label(r['owner'])} asked for {_many(r['wanted'], 'worker')} for {r['shape']}"
    granted = f" {n.process_label(r['worker'])}" if any(r["worker"]) else ""
    queue = f"; {_waiting(r['queue_depth'], 'demand')}" if r["queue_depth"] else ""
    if r["outcome"] == "granted":
        return f"{asked}: granted{granted}, {reason_text(r['reason'])}{queue}"
    said = decision_text(r)
    return f"{asked}: {said if said.startswith(r['outcome']) else r['outcome'] + ', ' + said}{queue}"


def _lease_candidate(r: Row, n: Names) -> str:
    node = f"node {r['node'].hex()[:8]}"
    if r["feasible"]:
        return f"{node} was considered: expected wait {duration(r['wait_seconds'])}"
    missing = f", missing {r['missing']}" if r["missing"] else ""
    return f"{node} was not chosen: {reason_text(r['reject'])}{missing}"


def _actor_restarting(r: Row, n: Names) -> str:
    return f"{_actor(r)} lost {_worker(r, n)} ({r['cause']}) and is started again (restart {r['restarts']})"


def _object_lost(r: Row, n: Names) -> str:
    return f"{_object(r)} ({size(r['object_bytes'])}) is lost: {reason_text(r['reason'])}"


def _waits_for_room(r: Row, n: Names) -> str:
    return (
        f"{_worker(r, n)} waits for {size(r['object_bytes'])} in the store: {size(r['free_bytes'])} free, "
        f"{size(r['pinned_bytes'])} pinned, {size(r['spillable_bytes'])} can be spilled"
    )


def _allocation_failed(r: Row, n: Names) -> str:
    return (
        f"no room for {size(r['object_bytes'])} wanted by {_worker(r, n)}: {size(r['free_bytes'])} of "
        f"{size(r['capacity_bytes'])} free, {size(r['pinned_bytes'])} pinned"
    )


def _fallback(r: Row, n: Names) -> str:
    larger = r["object_bytes"] > r["capacity_bytes"]
    why = (
        f"it is larger than the store ({size(r['capacity_bytes'])})"
        if larger
        else f"the store is in use ({size(r['pinned_bytes'])} pinned, {size(r['free_bytes'])} of "
        f"{size(r['capacity_bytes'])} free)"
    )
    return f"{_object(r)} ({size(r['object_bytes'])}) lies on disk, in {r['path']}, and is mapped from there: {why}"


def _tasks_dispatched(r: Row, n: Names) -> str:
    return f"{_run(r, n)} sent to {_worker(r, n)}"


def _task_arguments_waiting(r: Row, n: Names) -> str:
    return f"{_task(r, n)} waits for {_object(r)}, made by {n.task_label(ids.task_of(r['object']))}"


def _task_arguments_given(r: Row, n: Names) -> str:
    more = f" and {r['objects'] - 1} more" if r["objects"] > 1 else ""
    return f"{_task(r, n)} was given {_object(r)}, made by {n.task_label(ids.task_of(r['object']))}{more}"


def _task_started(r: Row, n: Names) -> str:
    return f"attempt {r['attempt']} of {_task(r, n)} is running on {n.process_label(r['process'])}"


def _task_blocked(r: Row, n: Names) -> str:
    return f"{_task(r, n)} waits in {r['waiting_in']} for {_many(r['objects'], 'object')}, first {_object(r)}"


def _task_unblocked(r: Row, n: Names) -> str:
    return f"{_task(r, n)} goes on after {duration(r['blocked_seconds'])} in {r['waiting_in']}"


def _wait_noticed(r: Row, n: Names) -> str:
    who = _task(r, n) if any(r["task"]) else n.process_label(r["process"])
    first = f", first {_object(r)}" if any(r["object"]) else ""
    lasted = duration(max(0, r["time_ns"] - r["began_at"]) / 1e9)
    return f"{who} has waited {lasted} in {r['waiting_in']} for {_many(r['objects'], 'object')}{first}"


def _wait_objects(r: Row, n: Names) -> str:
    who = _task(r, n) if any(r["task"]) else n.process_label(r["process"])
    told = [r[name] for name in ("object", "object_2", "object_3", "object_4") if any(r[name])]
    among = " and ".join(f"object {ids.short(one)}" for one in told)
    return f"{who} goes on with {r['needed']} of {_many(r['objects'], 'object')} that are missing, among them {among}"


def _hang_found(r: Row, n: Names) -> str:
    what = "waits that can never end" if r["hang"] == "cycle" else "no progress"
    return f"{what}: {r['text']}"


def _at(r: Row, field: str, n: Names) -> str:
    return f"node {r[field].hex()[:8]}"


def _transfer_begun(r: Row, n: Names) -> str:
    where = f"{_at(r, 'source', n)}" + (f" and {r['sources'] - 1} more" if r["sources"] > 1 else "")
    return f"{_object(r)} ({size(r['object_bytes'])}) is being fetched from {where} to {_at(r, 'destination', n)}"


def _transfer_done(r: Row, n: Names) -> str:
    again = f", at the {r['attempts']}. attempt" if r["attempts"] > 1 else ""
    return (
        f"{_object(r)} ({size(r['object_bytes'])}) came from {_at(r, 'source', n)} to {_at(r, 'destination', n)} in "
        f"{duration(r['wire_seconds'])}, after waiting {duration(r['queue_seconds'])}{again}"
    )


def _transfer_retried(r: Row, n: Names) -> str:
    return f"{_at(r, 'source', n)} failed after {size(r['received_bytes'])} of {_object(r)}"


def _transfer_served(r: Row, n: Names) -> str:
    return (
        f"{_at(r, 'source', n)} sent {size(r['sent_bytes'])} of {_object(r)} to {_at(r, 'destination', n)} in "
        f"{duration(r['wire_seconds'])}"
    )


def _object_created(r: Row, n: Names) -> str:
    return f"room of {size(r['object_bytes'])} was reserved for {_object(r)} by {_worker(r, n)}"


def _actor_created(r: Row, n: Names) -> str:
    # Told twice: by who wants it, and by the node when it has a place in the node's table.
    who = n.process_label(r["process"])
    told = "is known to" if who.startswith("node ") else "was asked for by"
    return f"{_actor(r)} of class {r['class_name']} {told} {who}"


def _actor_placed(r: Row, n: Names) -> str:
    # At its home nobody asks for the node.
    elsewhere = ids.mark_of(r["actor"]) != ids.mark_of_node(r["node"])
    where = f" on {_at(r, 'node', n)}" if elsewhere else ""
    return f"{_worker(r, n)}{where} was chosen for {_actor(r)} after {duration(r['pending_seconds'])}"


def _actor_alive(r: Row, n: Names) -> str:
    return f"{_actor(r)} is alive on {_worker(r, n)}; its constructor took {duration(r['start_seconds'])}"


def _checkpoint_saved(r: Row, n: Names) -> str:
    return (
        f"{_actor(r)} saved its state after {_many(r['calls'], 'call')}: checkpoint {r['checkpoint']}, "
        f"{size(r['state_bytes'])} in {duration(r['save_seconds'])}"
    )


def _restored(r: Row, n: Names) -> str:
    state = f"checkpoint {r['checkpoint']} ({size(r['state_bytes'])})" if r["checkpoint"] else "no checkpoint"
    took = duration(r["restore_seconds"])
    return f"{_actor(r)} went on from {state} and repeated {_many(r['calls'], 'call')} on {_worker(r, n)} in {took}"


def _call_replayed(r: Row, n: Names) -> str:
    how = "" if r["outcome"] == "ok" else f" ({r['outcome']})"
    return f"{_actor(r)} repeated {_task(r, n)} for its effect, in {duration(r['run_seconds'])}{how}"


def _lease_requested(r: Row, n: Names) -> str:
    waiting = _waiting(r["backlog_tasks"], "task")
    return f"{_worker(r, n)} wants {_many(r['wanted'], 'more worker')} for {r['shape']}; {waiting}"


def _lease_returned(r: Row, n: Names) -> str:
    return (
        f"{_worker(r, n)} is free again after {duration(r['held_seconds'])} "
        f"and {_many(r['tasks'], 'task')} of {r['shape']}: {reason_text(r['reason'])}"
    )


def _lease_reclaim_requested(r: Row, n: Names) -> str:
    return f"{n.process_label(r['owner'])} was asked to give {_worker(r, n)} back: {reason_text(r['reason'])}"


def _process_sample(r: Row, n: Names) -> str:
    return f"{_worker(r, n)} uses {size(r['rss_bytes'])} of memory, {duration(r['cpu_seconds_total'])} of CPU so far"


def _node_sample(r: Row, n: Names) -> str:
    return f"the node's loop was {duration(r['loop_lag_seconds'])} late; {_waiting(r['demands_queued'], 'demand')}"


def _events_dropped(r: Row, n: Names) -> str:
    return f"{_worker(r, n)} dropped {_many(r['events'], 'record')}: there was no room for them"


def _telemetry_unstored(r: Row, n: Names) -> str:
    why = os.strerror(r["errno"]) if r["errno"] else "the disk takes nothing"
    return f"the collector cannot store records ({why}); {_waiting(r['waiting'], 'record')} in memory, more in rings"


def _telemetry_stored_again(r: Row, n: Names) -> str:
    lost = f"{_many(r['lost'], 'record')} lost so far" if r["lost"] else "none was lost"
    return f"the collector stores records again after {duration(r['seconds'])}; {lost}"


def _collector_sample(r: Row, n: Names) -> str:
    return f"the collector stored {r['events']} records, {duration(r['lag_seconds'])} behind"


def _worker_time_sample(r: Row, n: Names) -> str:
    names = ("busy", "blocked_in_get", "leased", "idle", "starting")
    spent = (f"{duration(r[f'{name}_seconds'])} {name.replace('_', ' ')}" for name in names)
    return f"workers spent {', '.join(spent)}"


def _member(r: Row, n: Names) -> str:
    return f"rank {r['rank']} of {r['members']} of {r['group_name']!r} ({n.process_label(r['process'])})"


def _collective_joined(r: Row, n: Names) -> str:
    return f"{_member(r, n)} joined: the group was complete after {duration(r['forming_seconds'])}"


def _collective_ended(r: Row, n: Names) -> str:
    took = f"{duration(r['seconds'])}, {duration(r['wait_seconds'])} of it waiting for the others"
    sent = f"{size(r['data_bytes'])}, {size(r['sent_bytes'])} sent"
    return f"{r['operation']} number {r['round']} of {_member(r, n)} took {took}: {sent}"


def _gpu_whose(r: Row, n: Names) -> str:
    if not any(r["task"]):
        return "of no known task"
    return f"of {_task(r, n)} ({r['attributed_by'].replace('_', ' ')})"


def _gpu_kernel(r: Row, n: Names) -> str:
    return f"GPU {r['gpu']} ran {gist(r['kernel'])} for {duration(r['kernel_seconds'])} {_gpu_whose(r, n)}"


def _gpu_copy(r: Row, n: Names) -> str:
    took = f"{size(r['copy_bytes'])} {r['direction']} in {duration(r['copy_seconds'])}"
    return f"GPU {r['gpu']} copied {took} {_gpu_whose(r, n)}"


def _gpu_memset(r: Row, n: Names) -> str:
    took = f"{size(r['memset_bytes'])} in {duration(r['memset_seconds'])}"
    return f"GPU {r['gpu']} filled {took} {_gpu_whose(r, n)}"


def _gpu_wait(r: Row, n: Names) -> str:
    what = r["waiting_for"].replace("_", " ")
    return f"{_worker(r, n)} waited {duration(r['wait_seconds'])} for its GPU ({what}) {_gpu_whose(r, n)}"


def _gpu_found(r: Row, n: Names) -> str:
    what = f"{r['model']}, {size(r['memory_bytes'])} ({r['uuid']})" if r["uuid"] else "nothing known about it but that"
    return f"{_node(r)} has GPU {r['gpu']}: {what}"


def _gpu_sample(r: Row, n: Names) -> str:
    held = f"{size(r['used_bytes'])} of {size(r['memory_bytes'])} in use"
    slow = f", slowed down by {r['slowdown']}" if r["slowdown"] else ""
    return f"GPU {r['gpu']} of {_node(r)}: kernels ran {r['utilization']:.0%} of the time, {held}{slow}"


def _gpu_health_changed(r: Row, n: Names) -> str:
    if r["health"] == "in_service":
        return f"GPU {r['gpu']} of {_node(r)} is in service again"
    return f"GPU {r['gpu']} of {_node(r)} is out of service"


def _gpu_watch_failed(r: Row, n: Names) -> str:
    which = "the GPUs" if r["gpu"] == 255 else f"GPU {r['gpu']}"
    return f"{r['call']} cannot be learned of {which} of {_node(r)}"


def _gpu_share(r: Row) -> str:
    return f"GPU {r['gpu']}" if r["share"] >= 1 else f"{r['share']:g} of GPU {r['gpu']}"


def _gpu_holder(r: Row, n: Names) -> str:
    if any(r["worker"]):
        return _worker(r, n)
    return f"bundle {r['bundle']} of placement group {ids.short(r['group'])}"


def _gpu_reserved(r: Row, n: Names) -> str:
    return f"{_gpu_share(r)} is set aside for {_gpu_holder(r, n)}"


def _gpu_released(r: Row, n: Names) -> str:
    return f"{_gpu_share(r)} is free again after {duration(r['held_seconds'])} with {_gpu_holder(r, n)}"


def _gpu_capture_started(r: Row, n: Names) -> str:
    return f"{_worker(r, n)} captures GPU work ({r['level']}) with CUPTI {r['cupti_version']}, {r['library']}"


def _gpu_records_lost(r: Row, n: Names) -> str:
    return f"{_many(r['records'], 'record')} of GPU work of {_worker(r, n)} got lost ({r['stage']})"


def _gpu_capture_sample(r: Row, n: Names) -> str:
    cost = f"{duration(r['capture_seconds'])} of {duration(r['busy_seconds'])} in which tasks ran"
    return f"{_worker(r, n)} handed over {size(r['raw_bytes'])} of GPU records, which took {cost}"


SENTENCES: dict[str, Sentence] = {
    "task_submitted": _task_submitted,
    "task_ready": lambda r, n: f"the last missing argument of {_task(r, n)} is there",
    "tasks_dispatched": _tasks_dispatched,
    "task_finished": _task_finished,
    "task_retried": _task_retried,
    "object_missing": _object_missing,
    "object_rebuilding": _object_rebuilding,
    "object_rebuild_failed": _object_rebuild_failed,
    "argument_lost": _argument_lost,
    "task_recalled": lambda r, n: f"{_task(r, n)} was taken back from {_worker(r, n)} before it started",
    "task_cancel_requested": lambda r, n: f"somebody asked to cancel {_task(r, n)}{' by force' * r['force']}",
    "task_arguments_waiting": _task_arguments_waiting,
    "task_arguments_given": _task_arguments_given,
    "task_labelled": lambda r, n: f"{_task(r, n)} has the labels {r['labels']}",
    "actor_labelled": lambda r, n: f"{_actor(r)} has the labels {r['labels']}",
    "task_called_in_span": lambda r, n: f"{_task(r, n)} was called inside span {r['span']:016x}",
    "tasks_submitted": lambda r, n: f"{n.process_label(r['process'])} submitted {_calls(r, n)}",
    "tasks_finished": lambda r, n: f"{_run(r, n).rpartition(' ')[0]} finished",
    "task_started": _task_started,
    "task_ended": _task_ended,
    "task_blocked": _task_blocked,
    "task_unblocked": _task_unblocked,
    "task_item_yielded": lambda r, n: f"{_task(r, n)} yielded item {r['item']} ({size(r['item_bytes'])})",
    "object_put": lambda r, n: f"{n.process_label(r['process'])} put {_object(r)} ({size(r['object_bytes'])})",
    "object_created": _object_created,
    "object_sealed": lambda r, n: f"{_object(r)} ({size(r['object_bytes'])}) is complete",
    "object_held": lambda r, n: f"{_worker(r, n)} was given a reference to {_object(r)} and keeps it alive",
    "object_let_go": lambda r, n: f"{_worker(r, n)} dropped its last reference to {_object(r)}",
    "object_freed": lambda r, n: f"{_object(r)} was freed after {duration(r['age_seconds'])}",
    "object_spilling": lambda r, n: f"{_object(r)} ({size(r['object_bytes'])}) is being written to disk to make room",
    "object_spill_stopped": lambda r, n: f"{_object(r)} stays in memory"
    + ("" if r["error"] else ": it was wanted again"),
    "object_restoring": lambda r, n: f"{_object(r)} is being read back",
    "object_spilled": lambda r, n: f"{_object(r)} ({size(r['object_bytes'])}) was spilled to {r['path']}",
    "object_restored": lambda r, n: f"{_object(r)} was read back from {r['path']}",
    "object_lost": _object_lost,
    "object_allocation_waiting": _waits_for_room,
    "object_allocation_failed": _allocation_failed,
    "object_fallback": _fallback,
    "object_pinned": lambda r, n: f"{_worker(r, n)} maps {_object(r)} for reading",
    "object_unpinned": lambda r, n: f"{_worker(r, n)} has let go of its views of {_object(r)}",
    "transfer_asked": lambda r, n: f"{_worker(r, n)} wants {_object(r)}; {_at(r, 'home', n)} is asked where it is",
    "transfer_begun": _transfer_begun,
    "transfer_done": _transfer_done,
    "transfer_failed": lambda r, n: f"{_object(r)} does not come to {_at(r, 'destination', n)}",
    "transfer_retried": _transfer_retried,
    "transfer_served": _transfer_served,
    "object_copy_dropped": lambda r, n: f"the copy of {_object(r)} on {_at(r, 'node', n)} is gone"
    f" ({size(r['object_bytes'])} free)",
    "object_copy_kept": lambda r, n: f"the copy of {_object(r)} on {_at(r, 'node', n)} is now the original",
    "actor_created": _actor_created,
    "actor_placed": _actor_placed,
    "actor_alive": _actor_alive,
    "actor_restarting": _actor_restarting,
    "actor_died": lambda r, n: f"{_actor(r)} of class {r['class_name']} is gone ({r['cause']})",
    "actor_checkpoint_saved": _checkpoint_saved,
    "actor_restored": _restored,
    "actor_call_replayed": _call_replayed,
    "group_requested": _group_requested,
    "group_waiting": _group_waiting,
    "group_prepared": lambda r, n: f"every bundle of {_group(r)} has its share (attempt {r['attempts']})",
    "bundle_placed": _bundle_placed,
    "group_created": _group_created,
    "group_removed": _group_removed,
    "memory_pressure": lambda r, n: (
        f"memory was about to run out ({size(r['used_bytes'])} of {size(r['limit_bytes'])})"
        + (f": {_worker(r, n)}, which held {size(r['held_bytes'])}, was killed" if any(r["worker"]) else "")
    ),
    "chaos_started": lambda r, n: f"{_worker(r, n)} injects faults on purpose: OBSRAY_CHAOS={r['specification']}",
    "fault_injected": _fault_injected,
    "fault_hit": lambda r, n: f"{_task(r, n)} was in a {r['method']} that was hit on purpose: {_hurt(r)}",
    "delay_injected": lambda r, n: f"{r['method']} was {duration(r['delay_seconds'])} late on purpose",
    "group_rescheduling": lambda r, n: f"{_group(r)} lost {_many(r['bundles'], 'bundle')} with a node",
    "group_attempt_failed": lambda r, n: (
        f"try {r['attempts']} to place {_group(r)} failed, what was held for it is free again: {r['error']}"
    ),
    "bundles_prepared": lambda r, n: (
        f"node {r['node'].hex()[:8]} "
        + (
            f"refuses {_many(r['bundles'], 'bundle')} of {_group(r)}: {r['error']}"
            if r["error"]
            else f"holds {_many(r['bundles'], 'bundle')} for {_group(r)} until all nodes do"
        )
    ),
    "bundle_released": lambda r, n: f"bundle {r['bundle']} of {_group(r)} is empty and its share free",
    "lease_requested": _lease_requested,
    "lease_decided": _lease_decided,
    "lease_candidate": _lease_candidate,
    "lease_returned": _lease_returned,
    "lease_reclaim_requested": _lease_reclaim_requested,
    "worker_starting": lambda r, n: f"the node asked for a new process, {_worker(r, n)}",
    "worker_registered": lambda r, n: f"{_worker(r, n)} is ready after {duration(r['start_seconds'])}",
    "worker_died": _worker_died,
    "worker_lingers": lambda r, n: f"{_worker(r, n)} gets no more work and stays for the "
    f"{_many(r['objects'], 'object')} and {_many(r['tasks'], 'task')} that it owns",
    "process_sample": _process_sample,
    "environment_asked": lambda r, n: f"environment {r['environment'].hex()} was asked for: {r['description']}",
    "environment_ready": lambda r, n: (
        f"environment {r['environment'].hex()} ({size(r['environment_bytes'])}) is ready after "
        f"{duration(r['setup_seconds'])}"
    ),
    "nesting_refused": lambda r, n: (
        f"what {n.process_label(r['owner'])} waits for ({r['tasks']} tasks of {r['shape']}, {r['depth']} deep) "
        f"is refused: {r['deficit']}"
    ),
    "environment_failed": lambda r, n: f"environment {r['environment'].hex()} cannot be made: {gist(r['error'])}",
    "environment_removed": lambda r, n: (
        f"environment {r['environment'].hex()} was unused and is gone ({size(r['environment_bytes'])} free)"
    ),
    "node_started": lambda r, n: (
        f"{'the head' if r['head'] else 'node'} {r['node'].hex()[:8]} ({r['name'] or 'without a name'}) on {r['host']} "
        "is ready"
    ),
    "node_records_ended": lambda r, n: (
        f"all {r['events']:,} records of node {r['node'].hex()[:8]} were taken over"
        if r["complete"]
        else f"node {r['node'].hex()[:8]} is gone, and {r['missing']:,} records that it was known to have; about "
        f"{r['missing_estimated']:,} more in its last {duration(r['silent_seconds'])}; the {r['events']:,} before are "
        "here"
    ),
    "node_drains": lambda r, n: f"node {r['node'].hex()[:8]} takes no more work: {r['error'] or 'it drains'}",
    "metrics_served": lambda r, n: f"metrics of node {r['node'].hex()[:8]} are at {r['address']}",
    "object_moved": lambda r, n: (
        f"node {r['destination'].hex()[:8]} keeps it from now on ({size(r['object_bytes'])}): "
        f"node {r['source'].hex()[:8]} drains"
    ),
    "object_not_moved": lambda r, n: (
        f"it ({size(r['object_bytes'])}) goes with node {r['source'].hex()[:8]}, which drains: {gist(r['error'])}"
    ),
    "drain_progress": lambda r, n: (
        f"{r['moved']:,} objects ({size(r['moved_bytes'])}) were moved to other nodes, {r['left']:,} "
        f"({size(r['left_bytes'])}) are left"
        + (f", {r['failed']:,} ({size(r['failed_bytes'])}) cannot be moved" if r["failed"] else "")
    ),
    "node_joined": lambda r, n: f"node {r['node'].hex()[:8]} joined the cluster at {r['address']}",
    "clock_measured": lambda r, n: (
        f"the clock of node {r['node'].hex()[:8]} is {duration(abs(r['offset_seconds']))} "
        f"{'ahead of' if r['offset_seconds'] >= 0 else 'behind'} the head's, to within "
        f"{duration(r['uncertainty_seconds'])}; times here are the head's"
    ),
    "process_halted": lambda r, n: f"{_halted(r, n)} stands still",
    "process_resumed": lambda r, n: (
        f"{_halted(r, n)} had stood still for {duration(r['halted_seconds'])}: {r['why']}"
    ),
    "control_lost": lambda r, n: f"node {r['node'].hex()[:8]} has no control store any more and ends",
    "instance_requested": lambda r, n: f"a node of type {r['node_type']} ({_node(r)}) is started: {r['why']}",
    "instance_joined": lambda r, n: (
        f"{_node(r)}, of type {r['node_type']}, came {duration(r['start_seconds'])} after it was asked for"
    ),
    "instance_failed": lambda r, n: (
        f"{_node(r)}, of type {r['node_type']}, did not start (failure {r['failures']}; such a node is tried again in "
        f"{duration(r['retry_seconds'])})"
    ),
    "instance_released": lambda r, n: f"{_node(r)}, of type {r['node_type']}, is to leave: {r['why']}",
    "instance_ended": lambda r, n: (
        f"{_node(r)}, of type {r['node_type']}, is gone after {duration(r['lifetime_seconds'])}"
    ),
    "node_type_sample": lambda r, n: (
        f"node type {r['node_type']}: {r['running']} running, {r['starting']} starting, {r['leaving']} leaving "
        f"(min {r['min_workers']}, max {r['max_workers']})"
    ),
    "demand_judged": lambda r, n: (
        f"{r['units']} × {r['demand']}: {r['why']}" if r["units"] else f"{r['demand']}: {_OVER[r['verdict']]}"
    ),
    "resources_requested": lambda r, n: (
        f"{_worker(r, n)} asked for a cluster with room for {_many(r['bundles'], 'bundle')}"
        + (f": {r['resources']}" if r["resources"] else "")
    ),
    "output_began": _output,
    "output_dropped": lambda r, n: f"{size(r['bytes'])} of what {n.process_label(r['worker'])} printed to "
    f"std{r['stream']} are not kept any more",
    "job_output_dropped": lambda r, n: f"{size(r['bytes'])} of what the command of job {r['submission_id']} printed "
    "are not kept any more",
    "logs_dropped": lambda r, n: f"{r['bytes']} bytes of its output did not reach its driver",
    "node_stopped": lambda r, n: f"node {r['node'].hex()[:8]} ended in order",
    "node_changed": lambda r, n: f"node {r['node'].hex()[:8]} is now {r['state']}",
    "resource_sample": lambda r, n: f"{r['resource']}: {r['used']:g} of {r['total']:g} used",
    "store_sample": lambda r, n: f"store: {size(r['used_bytes'])} of {size(r['capacity_bytes'])} used",
    "job_started": lambda r, n: f"job {r['job']:08x} began: {r['entrypoint']}",
    "job_ended": lambda r, n: f"job {r['job']:08x} ended ({r['cause']})",
    "job_submitted": lambda r, n: f"job {r['submission']} was submitted: {r['entrypoint']}",
    "submitted_job_started": lambda r, n: (
        f"the command of job {r['submission']} runs as process {r['pid']} at node {r['node'].hex()[:8]}, after "
        f"{duration(r['queue_seconds'])}"
    ),
    "submitted_job_ended": lambda r, n: (
        f"job {r['submission']} is over after {duration(r['run_seconds'])}: {r['state']}"
        + (f", {r['error'].splitlines()[0]}" if r["error"] else "")
    ),
    "control_rpc": lambda r, n: f"control store: {r['method']} took {duration(r['rpc_seconds'])}",
    "control_started": lambda r, n: (
        f"the control store answers (epoch {r['epoch']}), {r['entries']} entries of {r['storage']} read in "
        f"{duration(r['recovery_seconds'])}"
    ),
    "control_took_over": lambda r, n: (
        f"a control store took over (epoch {r['epoch']}, {r['entries']} entries read in "
        f"{duration(r['recovery_seconds'])}): {r['error']}"
    ),
    "control_stored": lambda r, n: (
        f"control store: {r['entries']} entries ({size(r['entry_bytes'])}) written in {duration(r['write_seconds'])}"
    ),
    "control_fenced": lambda r, n: f"a control store ended, its epoch {r['epoch']} is over: {r['error']}",
    "control_read_only": lambda r, n: f"the control store answers questions and keeps no change: {r['error']}",
    "control_writable": lambda r, n: (
        f"the control store keeps changes again, after {duration(r['read_only_seconds'])}"
    ),
    "holds_corrected": lambda r, n: (
        f"{r['objects']} objects were counted as held by "
        + (f"{_worker(r, n)}, which does not hold them" if any(r["worker"]) else "values that never came")
    ),
    "calls_not_sent": lambda r, n: (
        f"{_worker(r, n)} cannot be reached: {_waiting(r['calls'], 'call')} in line, and it is tried again"
    ),
    "node_sample": _node_sample,
    "ring_opened": lambda r, n: f"{_worker(r, n)} began to record",
    "events_dropped": _events_dropped,
    "telemetry_unstored": _telemetry_unstored,
    "telemetry_stored_again": _telemetry_stored_again,
    "collector_sample": _collector_sample,
    "worker_time_sample": _worker_time_sample,
    "ring_closed": lambda r, n: f"{_worker(r, n)} stopped recording in order after {r['events']} records",
    "user_span": lambda r, n: f"{r['name']} took {duration(r['span_seconds'])} in {_task(r, n)}",
    "user_mark": lambda r, n: f"{_task(r, n)} marked {r['name']}",
    "process_waited": lambda r, n: f"{n.process_label(r['process'])} waited {duration(r['wait_seconds'])} in "
    f"{r['waiting_in']} for {_many(r['objects'], 'object')}",
    "actor_described": lambda r, n: f"{_actor(r)} calls itself {r['text']}",
    "wait_noticed": _wait_noticed,
    "wait_objects": _wait_objects,
    "await_ended": lambda r, n: f"{_task(r, n)} goes on after {duration(r['wait_seconds'])} in await for {_object(r)}",
    "hang_found": _hang_found,
    "hang_over": lambda r, n: f"{_task(r, n)} does not hang any more; it did for {duration(r['hung_seconds'])}",
    "actor_concurrency": lambda r, n: f"{_actor(r)} runs {_many(r['calls'], 'call')} at a time"
    + (f" of its concurrency group {r['group_name']!r}" if r["group_name"] else ""),
    "call_refused": lambda r, n: f"a call of {r['name']} to {_actor(r)} was refused: {r['pending']} of its caller "
    f"wait, {r['pending_max']} may",
    "gpu_kernel": _gpu_kernel,
    "gpu_copy": _gpu_copy,
    "gpu_memset": _gpu_memset,
    "gpu_wait": _gpu_wait,
    "gpu_call": lambda r, n: f"{_worker(r, n)} called {r['call']} for {duration(r['call_seconds'])} {_gpu_whose(r, n)}",
    "gpu_found": _gpu_found,
    "gpu_sample": _gpu_sample,
    "gpu_process_sample": lambda r, n: f"{_worker(r, n)} held {size(r['used_bytes'])} of GPU {r['gpu']}",
    "gpu_health_changed": _gpu_health_changed,
    "gpu_watch_failed": _gpu_watch_failed,
    "gpu_reserved": _gpu_reserved,
    "gpu_released": _gpu_released,
    "gpu_capture_started": _gpu_capture_started,
    "gpu_capture_refused": lambda r, n: f"{_worker(r, n)} cannot capture GPU work",
    "gpu_capture_changed": lambda r, n: f"{_worker(r, n)} captures GPU work at level {r['level']} from here on",
    "gpu_records_lost": _gpu_records_lost,
    "gpu_capture_sample": _gpu_capture_sample,
    "stack_sampled": lambda r, n: f"{_sampled(r, n)} was seen {_many(r['samples'], 'time')} in "
        f"{r['stack'].rpartition(chr(10))[2] or 'an unknown place'}"
        + (f", on thread {r['thread']}" if r["thread"] else ""),
    "stacks_overflowed": lambda r, n: f"{_worker(r, n)} was seen in more than {r['stacks_max']} different stacks; of "
        f"{r['beyond']} samples only the innermost function is known",
    "user_metric": lambda r, n: f"{_task(r, n)} recorded {r['name']} = {r['value']:g}",
    "collective_joined": _collective_joined,
    "collective_ended": _collective_ended,
    "collective_failed": lambda r, n: f"{r['operation']} number {r['round']} failed for {_member(r, n)}",
    "collective_broken": lambda r, n: f"the group of {_member(r, n)} is broken",
    "collective_left": lambda r, n: f"{_member(r, n)} left",
}  # fmt: skip
