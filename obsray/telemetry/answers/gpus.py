"""Every GPU: who has it, how busy it is, and why it idles; the closed books of all GPUs.

Computed from the pieces of ``gpu_time.py``. Shares are of the time in which a GPU was reserved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry.answers.answer import Answer, Code
from obsray.telemetry.answers.gpu_time import (
    ACTIVITIES,
    BUSY,
    FREE,
    NAMES,
    UNOBSERVED,
    GpuTime,
    settled_ns,
)
from obsray.telemetry.explain import duration
from obsray.telemetry.gpu_work import Reservation
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

Row = dict[str, Any]

#: What the driver says of a GPU, by the names of ``Views.gpu_devices``.
DEVICE_FACTS = (
    "uuid", "model", "memory_bytes", "used_bytes", "utilization", "power_watts", "temperature_celsius", "slowdown",
    "sampled_at_ns",
)  # fmt: skip
#: Of a session that goes on, so much of its past says why a GPU idles now.
RECENT_NS = 60 * NS
#: A GPU that worked so short a time ago is busy; records are on their way for about two seconds.
LATELY_NS = 5 * NS
#: A GPU that works and idles for no more than this is called busy.
MATTERS_SHARE = 0.2
#: Seconds of GPUs that other jobs than the one asked about had.
OTHER_JOBS = "other jobs"
#: Cause of idleness -> its code, and what to do about it.
_CAUSES: dict[str, tuple[Code, str]] = {
    "idle: launch-bound": (
        Code.LAUNCH_BOUND, "Give each launch more to do: larger batches, fused kernels (torch.compile), CUDA graphs."
    ),
    "idle: synchronising": (
        Code.SYNCHRONISING,
        "Let the host run ahead: no .item(), .cpu() or synchronize() in the loop, copies with non_blocking=True.",
    ),
    "idle: waiting for input": (
        Code.WAIT_INPUT, "Have the next input made while this one is computed, by tasks that ask for no GPU."
    ),
    "idle: storing results": (Code.STORING, "Return less, or have another task write it."),
    "idle: nothing submitted": (
        Code.NOTHING_SUBMITTED,
        "Move what needs no GPU (reading, preparing, evaluating) to tasks without num_gpus, or run several tasks on "
        "one GPU (num_gpus below 1).",
    ),
    "idle: between kernels": (
        Code.BETWEEN_KERNELS, "See the timeline, one lane for each stream: what does the next kernel wait for?"
    ),
    "idle: no task": (
        Code.IDLE, "Submit tasks before the last ones end; lease_linger_seconds says how long one waits."
    ),
    "idle: actor without calls": (
        Code.IDLE, "Keep more calls in flight, let actors share a GPU (num_gpus below 1), or end the actor."
    ),
    "idle: bundle without work": (Code.IDLE, "Run something in the group's bundle, or remove the group."),
    "not observed": (Code.NOT_OBSERVED, "'obsray status' says why GPU work is not captured; see docs/gpu.md."),
}  # fmt: skip


# --- the books ---------------------------------------------------------------------------------------------


def gpu_books(view: Views, begin: int, end: int, job: int | None) -> Row | None:
    """What the seconds of all GPUs between two instants were spent on; None if there is no GPU.

    ``activities``: seconds and share of each of ``ACTIVITIES`` (of a job's books also ``other jobs``); ``functions``
    and ``jobs``: of what ran or idled in their tasks; ``slot_seconds``, ``booked_seconds``, ``error_ratio``.
    """
    time = GpuTime(view, begin, max(begin, min(end, settled_ns(view))))
    if not time.devices:
        return None
    pieces, jobs = time.pieces, time.jobs()
    mine = np.ones(len(pieces.start), np.bool_) if job is None else (jobs == job) | (pieces.activity == FREE)
    seconds = pieces.seconds
    totals = dict(zip(NAMES, np.bincount(pieces.activity[mine], seconds[mine], len(NAMES)).tolist(), strict=True))
    if job is not None:
        totals[OTHER_JOBS] = float(seconds[~mine].sum())
    slots = time.slot_seconds()
    booked = sum(totals.values())
    meanings = {**ACTIVITIES, OTHER_JOBS: "other jobs had it"}
    attempts = time.attempts
    own = mine & (pieces.attempt >= 0)
    names = attempts.name[pieces.attempt[own]] if own.any() else np.empty(0, np.int64)
    texts = view.store.texts
    with_job = mine & (jobs >= 0)
    return {
        "gpus": len(time.devices),
        "slot_seconds": slots,
        "booked_seconds": booked,
        "error_ratio": abs(booked - slots) / slots if slots else 0.0,
        "activities": [
            {
                "activity": name, "seconds": totals[name], "share": totals[name] / slots if slots else 0.0,
                "what": meanings[name],
            }
            for name in meanings if totals.get(name)
        ],
        "functions": [
            {"name": texts[code], **row}
            for code, row in _by(names, pieces.activity[own], seconds[own])
        ],
        "jobs": [
            {"job_id": f"{number:08x}", **row}
            for number, row in _by(jobs[with_job], pieces.activity[with_job], seconds[with_job])
        ],
    }  # fmt: skip


def _by(codes: Array, activity: Array, seconds: Array) -> list[tuple[int, Row]]:
    """Seconds by activity for each code, those with most busy seconds first."""
    found, back = np.unique(codes, return_inverse=True)
    if not len(found):
        return []
    sums = np.bincount(back.ravel() * len(NAMES) + activity, seconds, len(found) * len(NAMES)).reshape(-1, len(NAMES))
    busy = sums[:, list(BUSY)].sum(axis=1)
    return [
        (
            int(found[at]),
            {
                "seconds": float(sums[at].sum()), "busy_seconds": float(busy[at]),
                "activities": {NAMES[one]: float(value) for one, value in enumerate(sums[at].tolist()) if value},
            },
        )
        for at in np.argsort(-busy, kind="stable").tolist()
    ]  # fmt: skip


# --- the list ----------------------------------------------------------------------------------------------


def gpus(view: Views) -> list[Row]:
    """Every GPU with its holder, its seconds by activity while it was reserved, and ``why`` as a sentence.

    ``state``: BUSY (it worked within the last seconds), IDLE (it is reserved and does not), UNOBSERVED (it is reserved,
    and the work of whoever has it is neither captured nor told of by the driver), FREE, OUT_OF_SERVICE
    (nobody has it and nobody gets it; ``trouble`` says why, also of one that somebody still has). ``hardware`` is what
    its driver says of it.
    """
    begin, end = _window(view)
    whole = GpuTime(view, begin, end)
    is_live = view.store.is_live()
    recent = GpuTime(view, max(begin, end - RECENT_NS), end) if is_live and end - begin > RECENT_NS else whole
    devices = {(row["node_id"], row["gpu"]): row for row in view.gpu_devices(refresh=False)}
    found = [_gpu(view, whole, recent, number, end, is_live) for number in range(len(whole.devices))]
    return [_with_device(row, devices.get((row["node_id"], row["gpu"]))) for row in found]


def _with_device(row: Row, device: Row | None) -> Row:
    """A row with what the driver says of that GPU (``Views.gpu_devices``); None of it where nothing is known."""
    facts = {name: None if device is None else device[name] for name in DEVICE_FACTS}
    why = (device or {}).get("reason")
    told = {"hardware": (device or {}).get("text") or None, "trouble": why}
    if row["state"] == "UNOBSERVED" and facts.get("utilization"):
        row["state"] = "BUSY"
    if why:
        row["state"] = row["state"] if row["holder"] else "OUT_OF_SERVICE"
        row["why"] += f"; it gets no new work: {why}"
    return {**row, **facts, **told}


def _window(view: Views) -> tuple[int, int]:
    started = [row["started_at_ns"] for row in view.cluster_table.nodes.values() if row.get("started_at_ns")]
    begin = min(started, default=view.samples.first_at_ns)
    return begin, max(begin, settled_ns(view))


def _gpu(view: Views, whole: GpuTime, recent: GpuTime, number: int, end: int, is_live: bool) -> Row:
    node, gpu = whole.devices[number]
    pieces = whole.pieces.take(whole.pieces.device == number)
    sums = dict(zip(NAMES, np.bincount(pieces.activity, pieces.seconds, len(NAMES)).tolist(), strict=True))
    worked = pieces.end[np.isin(pieces.activity, BUSY)]
    holders = [
        each for each in view.gpu_table.reservations
        if each.gpu == gpu and whole.node(each.node) == node and not each.to_ns and is_live
    ]  # fmt: skip
    workers = [each for each in holders if any(each.worker)]
    state = "FREE" if not holders else "BUSY" if len(worked) and end - worked.max() < LATELY_NS else "IDLE"
    reserved = sum(sums.values()) - sums[NAMES[FREE]]
    busy = sum(sums[NAMES[one]] for one in BUSY)
    row: Row = {
        "gpu_id": f"{node.hex()}/{gpu}",
        "node_id": node.hex(),
        "gpu": gpu,
        "state": state,
        "holder": ", ".join(_holder(view, each) for each in workers or holders) or None,
        "worker_id": workers[0].worker.hex() if len(workers) == 1 else None,
        "group_id": next((each.group.hex() for each in holders if any(each.group)), None),
        "job_id": f"{holders[0].job:08x}" if holders else None,
        "reserved_share": min(1.0, sum(each.share for each in (workers or holders))),
        "reserved_at_ns": min((each.from_ns for each in workers or holders), default=None),
        "reserved_seconds": reserved,
        "busy_seconds": busy,
        "idle_seconds": reserved - busy - sums[NAMES[UNOBSERVED]],
        "busy_share": busy / reserved if reserved else None,
        **{f"{NAMES[one]}_seconds": sums[NAMES[one]] for one in BUSY},
        "unobserved_seconds": sums[NAMES[UNOBSERVED]],
        "activities": shares_of(sums),
        "last_work_at_ns": int(worked.max()) if len(worked) else None,
    }
    if state == "IDLE" and len(pieces.end) and pieces.activity[np.argmax(pieces.end)] == UNOBSERVED:
        row["state"] = "UNOBSERVED"
    lately = recent.pieces.take(recent.pieces.device == number)
    told = dict(zip(NAMES, np.bincount(lately.activity, lately.seconds, len(NAMES)).tolist(), strict=True))
    row["cause"] = main_cause(told)
    row["cause_share"] = told.get(row["cause"] or "", 0.0) / max(sum(told.values()) - told[NAMES[FREE]], 1e-12)
    row["fix"] = fix_for(row["cause"]) if holders or (reserved and not is_live) else ""
    row["why"] = _sentence(view, row, told, workers or holders, is_live, recent is not whole)
    return row


def shares_of(sums: dict[str, float]) -> list[Row]:
    """Activities of reserved time with their seconds, their share of it and what they mean."""
    reserved = sum(sums.values()) - sums.get(NAMES[FREE], 0.0)
    return [
        {
            "activity": name, "seconds": sums[name], "share": sums[name] / reserved if reserved else 0.0,
            "what": ACTIVITIES[name],
        }
        for name in NAMES if sums.get(name) and name != NAMES[FREE]
    ]  # fmt: skip


def main_cause(sums: dict[str, float]) -> str | None:
    """What takes most of the time in which a GPU was reserved and did not work; None if there is no such time."""
    idle = {name: seconds for name, seconds in sums.items() if name in _CAUSES and seconds > 0}
    return max(idle, key=idle.__getitem__) if idle else None


def _holder(view: Views, each: Reservation) -> str:
    if not any(each.worker):
        row = view.group_table.rows.get(each.group) or {}
        return f"placement group {row.get('name') or ids.short(each.group)}"
    share = f" ({each.share:.2g} of it)" if each.share < 1 else ""
    row = view.process_table.rows.get(each.worker) or {}
    each_actor = bytes.fromhex(row.get("actor_id") or "")
    actor = view.actor_table.rows.get(each_actor)
    if actor is not None:
        return f"actor {actor['class_name'] or actor['name']} {ids.short(each_actor)}{share}"
    running = next((one for one in view.running if one.process == each.worker), None)
    if running is not None:
        return f"{view.task_label(running.task)}{share}"
    return f"worker {each.worker.hex()[:8]}{share}"


def _subject(row: Row) -> str:
    return f"GPU {row['gpu']} of node {row['node_id'][:8]}"


def _sentence(
    view: Views, row: Row, told: dict[str, float], holders: list[Reservation], is_live: bool, is_recent: bool
) -> str:
    reserved = sum(told.values()) - told[NAMES[FREE]]
    if not reserved:
        return f"{_subject(row)} was never reserved{_waiting(view, is_live)}"
    if is_live and not holders:
        said = f"{_subject(row)} is free{_waiting(view, is_live)}; before, it was reserved for {duration(reserved)} and"
    elif is_live:
        since = duration(max(0, view.now_ns() - (row["reserved_at_ns"] or 0)) / NS)
        said = f"{_subject(row)} is reserved by {row['holder']} since {since} and"
        said += " in the last minute" if is_recent else ""
    else:
        said = f"{_subject(row)} was reserved for {duration(reserved)} and"
    return f"{said} {causes_told(told)}{_notice(view, told)}"


def causes_told(told: dict[str, float]) -> str:
    """How much of the reserved time it worked, and what most of the rest went into, as part of a sentence."""
    reserved = max(sum(told.values()) - told.get(NAMES[FREE], 0.0), 1e-12)
    busy = sum(told.get(NAMES[one], 0.0) for one in BUSY)
    idle = sorted(((told.get(name, 0.0) / reserved, name) for name in _CAUSES), reverse=True)
    parts = [f"{share:.0%} {name.removeprefix('idle: ')}" for share, name in idle[:3] if share >= 0.01]
    said = f"{'was seen to work' if told.get(NAMES[UNOBSERVED]) else 'worked'} {busy / reserved:.0%} of that time"
    if not parts:
        return said
    parts[0] += f" ({ACTIVITIES[idle[0][1]]})"
    return f"{said}; the rest: {', '.join(parts)}"


def _notice(view: Views, told: dict[str, float]) -> str:
    """Why nothing is captured, where nothing is."""
    if not told.get(NAMES[UNOBSERVED]):
        return ""
    texts = dict.fromkeys(view.gpu_table.notices.values())
    return f"; not captured because: {next(iter(texts))}" if texts else "; its capture is off (gpu_telemetry)"


def _waiting(view: Views, is_live: bool) -> str:
    """Who would like a GPU and has none."""
    if not is_live:
        return ""
    wanted = [
        (row["wanted"], shape) for (_, shape), row in view.lease_table.demand.items()
        if "GPU:" in shape and row["wanted"]
    ]  # fmt: skip
    if not wanted:
        return "; nobody asks for one"
    count, shape = max(wanted)
    return f"; {count} worker{'s' * (count != 1)} of shape {shape} are asked for"


def recent_shares(view: Views) -> list[tuple[str, int, str, float]]:
    """Node, GPU, activity, and which share of the last minute that was: of a session that goes on and has GPUs."""
    if not view.store.is_live() or not (view.gpu_table.offered or view.gpu_table.reservations):
        return []
    begin, end = _window(view)
    time = GpuTime(view, max(begin, end - RECENT_NS), end)
    sums = np.bincount(time.pieces.device * len(NAMES) + time.pieces.activity, time.pieces.seconds)
    sums = np.pad(sums, (0, len(time.devices) * len(NAMES) - len(sums))).reshape(-1, len(NAMES))
    return [
        (node.hex()[:8], gpu, name, share)
        for (node, gpu), of in zip(time.devices, sums, strict=True) if of.sum()
        for name, share in zip(NAMES, (of / of.sum()).tolist(), strict=True)
    ]  # fmt: skip


# --- why -------------------------------------------------------------------------------------------------------


def why_gpu(view: Views, text: str) -> Answer:
    """Why a GPU is as it is. ``text``: ``gpu:0``, or ``gpu:NODE/0`` with the beginning of the node's id.

    Raises LookupError if there is no such GPU, or several, and ValueError for what names none.
    """
    place, _, number = text.removeprefix("gpu:").rpartition("/")
    if not text.startswith("gpu:") or not number.isdigit():
        raise ValueError(f"a GPU is gpu:NUMBER or gpu:NODE/NUMBER, as 'obsray list gpus' shows it, not {text!r}")
    rows = gpus(view)
    found = [row for row in rows if row["gpu"] == int(number) and row["node_id"].startswith(place)]
    if len(found) != 1:
        known = ", ".join(f"gpu:{row['node_id'][:8]}/{row['gpu']}" for row in rows) or "none"
        raise LookupError(f"{'several nodes have a' if found else 'there is no'} GPU {text!r}; there are: {known}")
    (row,) = found
    code = _CAUSES[row["cause"]][0] if row["cause"] else Code.IDLE
    if row["state"] == "FREE" and not row["fix"]:
        code = Code.IDLE
    elif row["state"] == "BUSY" and row["cause_share"] < MATTERS_SHARE:
        code = Code.RUNNING
    subject = _subject(row)
    return Answer(
        "gpu", row["gpu_id"], f"GPU {row['gpu']}", subject, row["state"], code, row["why"].removeprefix(f"{subject} "),
        row["fix"] if code is not Code.RUNNING else "",
        [
            f"{one['activity']}: {duration(one['seconds'])} ({one['share']:.1%}), {one['what']}"
            for one in row["activities"]
        ],
    )  # fmt: skip


# --- one task -----------------------------------------------------------------------------------------------


def task_gpu_time(view: Views, row: int, begin: int, end: int) -> list[Row]:
    """What the GPUs of a task (its row in the task table) did while it ran: activities with seconds and shares."""
    time = GpuTime(view, begin, max(begin, min(end, settled_ns(view))))
    pieces = time.pieces
    own = np.flatnonzero(pieces.attempt >= 0)
    own = own[time.attempts.row[pieces.attempt[own]] == row] if len(own) else own
    sums = np.bincount(pieces.activity[own], pieces.seconds[own], len(NAMES)).tolist()
    return shares_of(dict(zip(NAMES, sums, strict=True)))


def fix_for(cause: str | None) -> str:
    """What helps against a cause of idleness."""
    return _CAUSES[cause][1] if cause in _CAUSES else ""
