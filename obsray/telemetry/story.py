"""The story of one thing: every record that mentions it, and what else explains it, as sentences in order of time.

Pure over a ``Views``: no clock, no files of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray import ids
from obsray.telemetry.columns import Array, Columns
from obsray.telemetry.events import BY_NAME, Outcome, Severity
from obsray.telemetry.explain import duration, size
from obsray.telemetry.sentences import sentence
from obsray.telemetry.table import same_id

if TYPE_CHECKING:
    from obsray.telemetry.clocks import Clocks
    from obsray.telemetry.views import Views

Row = dict[str, Any]
Where = Callable[[Columns], Array]

#: Most records of one kind in a story; a node or an actor may be mentioned by millions.
RECORDS_MAX = 500
#: Most records of one kind and stored batch that are looked at for what went wrong.
TROUBLES_MAX = 100_000
#: How many of its own last records the story of a process shows.
LAST_RECORDS = 20
#: Samples say how something fares, not what happened to it.
SAMPLES = frozenset(
    {
        "process_sample", "resource_sample", "store_sample", "node_sample", "collector_sample", "worker_time_sample",
        "gpu_capture_sample",
        "node_type_sample", "stack_sampled", "gpu_sample", "gpu_process_sample",
    }
)  # fmt: skip
#: Single kernels and calls are too many to be told; their sums are with the task.
_UNTOLD = SAMPLES | {"lease_candidate", "gpu_kernel", "gpu_copy", "gpu_memset", "gpu_wait", "gpu_call"}
#: Records about several tasks, of which they name the first.
_RUNS = frozenset({"tasks_submitted", "tasks_dispatched", "tasks_finished"})
#: What happens to an object in the store, except that it is read.
_OBJECT_LIFE = (
    "object_created", "object_sealed", "object_spilling", "object_spill_stopped", "object_spilled", "object_restoring",
    "object_restored", "object_lost", "object_freed", "object_fallback", "transfer_begun", "transfer_done",
    "transfer_failed", "transfer_retried", "object_copy_dropped", "object_copy_kept",
)  # fmt: skip
_ONE_OF_RUN = {"tasks_submitted": "task_submitted", "tasks_finished": "task_finished"}
#: Event -> what comes before it, told by another process, and the fields in which the two agree.
_CAUSES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "task_started": (("task_submitted", ("task",)),),
    "task_ended": (("task_submitted", ("task",)), ("task_started", ("task", "attempt"))),
    "task_finished": (("task_ended", ("task", "attempt")),),
    "task_retried": (("task_ended", ("task", "attempt")),),
    "actor_placed": (("actor_created", ("actor",)),),
    "actor_alive": (("actor_placed", ("actor", "incarnation")),),
    "transfer_begun": (("object_sealed", ("object",)),),
    "transfer_done": (("transfer_begun", ("object",)),),
    "object_freed": (("object_sealed", ("object",)),),
    "bundles_prepared": (("group_requested", ("group",)),),
    "group_created": (("bundles_prepared", ("group", "attempts")),),
}
_CODES = {8: "id8", 16: "id16", 20: "id20"}


def tell(view: Views, id_hex: str) -> list[Row]:
    """The story of what ``id_hex`` names: worker or node (8 bytes), task or actor (16), object (20), lease (a number
    of up to 8 hex digits). Empty if nothing mentions it."""
    text = id_hex.strip().lower().removeprefix("0x")
    try:
        identifier = bytes.fromhex(text)
    except ValueError:
        identifier = b""
    if len(identifier) not in _CODES:
        return _rendered(view, _lease(view, text))
    where, fields = _mentions(identifier)
    records = view.store.mentions(where, fields, RECORDS_MAX)
    if len(identifier) == ids.TASK_ID_BYTES:
        records += _around_task(view, identifier)
    elif len(identifier) == ids.WORKER_ID_BYTES:
        records += _own_records(view, identifier) + _halts_at(view, identifier)
    elif len(identifier) == ids.OBJECT_ID_BYTES:
        records += _producer(view, identifier)
    rendered = _rendered(view, records)
    work = _gpu_work(view, identifier) if len(identifier) == ids.TASK_ID_BYTES else None
    return sorted([*rendered, work], key=lambda row: int(row["time_ns"])) if work is not None else rendered


def _gpu_work(view: Views, task: bytes) -> Row | None:
    """What a task had GPUs do, in one line at the time of the first of it."""
    found = view.gpu_spans(np.frombuffer(task, "V16")).get(task)
    if found is None:
        return None
    said = [f"{found['kernels']} kernel{'s' * (found['kernels'] != 1)} in {duration(found['kernel_seconds'])}"]
    if found["copies"]:
        said.append(f"{found['copies']} copies of {size(found['copy_bytes'])}")
    if found["wait_seconds"]:
        said.append(f"{duration(found['wait_seconds'])} of waiting for it")
    gpus = ", ".join(map(str, found["gpus"]))
    lasted = duration((found["end_ns"] - found["start_ns"]) / 1e9)
    return {
        "time_ns": found["start_ns"], "event": "gpu_kernel", "process": found["worker"].hex(),
        "process_label": view.process_label(found["worker"]),
        "text": f"GPU {gpus} worked for it from here on for {lasted}: {', '.join(said)}",
        "severity": "info", "fields": {name: value for name, value in found.items() if name != "worker"},
    }  # fmt: skip


def troubles(view: Views, limit: int) -> list[Row]:
    """What went wrong anywhere: records that are warnings or errors, newest first, at most ``limit``."""
    kinds = {event.name for event in BY_NAME.values() if event.severity is not Severity.INFO} | {"worker_died"}
    records = view.store.mentions(dict.fromkeys(kinds, _all_of), {}, limit=TROUBLES_MAX)
    # Only of those that are shown the sentences are made.
    wrong = [record for record in records if _severity(record) != "info"]
    return _rendered(view, wrong[-limit:])[::-1]


def _all_of(columns: Columns) -> Array:
    return np.ones(len(columns), np.bool_)


def _rendered(view: Views, records: list[Row]) -> list[Row]:
    seen = set()
    found = []
    _after_their_causes(view, records)
    for record in sorted(records, key=lambda record: (record["time_ns"], record["process"], record["sequence"])):
        key = (record["process"], record["sequence"])
        if key in seen:
            continue
        seen.add(key)
        fields = {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in record.items()
            if name not in ("event", "time_ns", "process", "sequence")
        }
        found.append(
            {
                "time_ns": record["time_ns"],
                "event": record["event"],
                "process": record["process"].hex(),
                "process_label": view.process_label(record["process"]),
                "text": sentence(record, view),
                "severity": _severity(record),
                "fields": fields,
            }
        )
    return found


def _after_their_causes(view: Views, records: list[Row]) -> None:
    """Records of different nodes that are closer than their clocks are known: no effect before its cause."""
    clocks = view.store.clocks
    if not clocks:
        return
    found: dict[str, list[Row]] = {}
    for record in records:
        event: str = record["event"]
        found.setdefault(_ONE_OF_RUN.get(event, event), []).append(record)
    # Twice: what was moved may be a cause itself.
    for _ in range(2):
        for effect, pairs in _CAUSES.items():
            for record in found.get(effect, ()):
                for cause, fields in pairs:
                    _after(clocks, record, [row for row in found.get(cause, ()) if _agree(record, row, fields)])


def _agree(record: Row, cause: Row, fields: tuple[str, ...]) -> bool:
    """Whether two records are about the same. One about a run of tasks is about the one whose story this is."""
    return all(record[name] == cause[name] for name in fields if name in record and name in cause)


def _after(clocks: Clocks, record: Row, causes: list[Row]) -> None:
    for before in causes:
        late = before["time_ns"] - record["time_ns"]
        slack = clocks.uncertainty_ns(before["process"]) + clocks.uncertainty_ns(record["process"])
        if 0 < late <= slack:
            record["time_ns"] = before["time_ns"] + 1


def _severity(record: Row) -> str:
    outcome = record.get("outcome")
    if record["event"] == "worker_died" and record["cause"] not in ("intended", "idle", "placement_removed"):
        return "error"
    if record["event"] in ("task_finished", "task_ended") and outcome not in ("ok", "cancelled"):
        return "error"
    if record["event"] == "lease_decided" and outcome == "infeasible":
        return "error"
    if record["event"] == "demand_judged" and record["verdict"] in ("infeasible", "at_max"):
        return "warning"
    return Severity(BY_NAME[record["event"]].severity).name.lower()


def _mentions(identifier: bytes) -> tuple[dict[str, Where], dict[str, str]]:
    """Masks of all kinds that have a field for such an id; for a task also its place in runs of tasks."""
    code = _CODES[len(identifier)]
    where: dict[str, Where] = {}
    only: dict[str, str] = {}
    for event in BY_NAME.values():
        if event.name in _UNTOLD:
            continue
        names = [f.name for f in event.fields if f.code == code and f.name not in ("parent", "trace")]
        if event.name in _RUNS and code == "id16":
            where[event.name] = _in_run(identifier, [name for name in names if name != "first_task"])
        elif names:
            where[event.name] = _any_of(names, identifier)
            if len(names) == 1:
                only[event.name] = names[0]
    return where, only


def _any_of(names: list[str], identifier: bytes) -> Where:
    def mask(columns: Columns) -> Array:
        found = same_id(columns[names[0]], identifier)
        for name in names[1:]:
            found = found | same_id(columns[name], identifier)
        return found

    return mask


def _in_run(task: bytes, names: Sequence[str] = ()) -> Where:
    """Runs that begin at or before the task and reach it, or name it in one of the fields ``names``. A dispatched
    batch may skip tasks of other functions, so for those the length is only a lower bound."""
    owner = int.from_bytes(task[:8], "little")
    number = int.from_bytes(task[8:], "big")

    def mask(columns: Columns) -> Array:
        words = np.ascontiguousarray(columns["first_task"]).view("<u8").reshape(-1, 2)
        behind = np.uint64(number) - words[:, 1].byteswap()
        found: Array = (words[:, 0] == owner) & (behind < columns["tasks"])
        for name in names:
            found = found | same_id(columns[name], task)
        return found

    return mask


def _around_task(view: Views, task: bytes) -> list[Row]:
    """Its results in the store, the deaths of workers that ran it, the decisions made while it waited."""
    where: dict[str, Where] = {}
    for name in _OBJECT_LIFE:
        where[name] = _made_by(task)
    records = view.store.mentions(where, dict.fromkeys(where, "object"), RECORDS_MAX)
    row = view.task_table.index.row(task)
    if row < 0:
        return records
    table = view.task_table
    for attempt in view._attempts(row, task, view._task_row(row, view.now_ns())):
        if attempt["worker_id"] and attempt["outcome"] in ("worker_died", "oom", "node_died", "owner_died"):
            records += _ends_of(view, bytes.fromhex(attempt["worker_id"]))
    shape, owner = view.store.texts[int(table["shape"][row])], ids.owner_of(task)
    if table["owner_outcome"][row] == Outcome.OWNER_DIED:
        records += _ends_of(view, owner)
    start, end = int(table["submitted_at"][row]), int(table["dispatched_at"][row]) or view.now_ns()
    for decision in view.lease_table.decisions:
        if decision["shape"] == shape and decision["owner"] == owner and start <= decision["time_ns"] <= end:
            records.append({"event": "lease_decided", **decision})
            records += [{"event": "lease_candidate", **c} for c in view.lease_table.candidates_of(decision)]
    return records


def _ends_of(view: Views, process: bytes) -> list[Row]:
    where = {"worker_died": _any_of(["worker"], process), "job_ended": _any_of(["worker"], process)}
    return view.store.mentions(where, dict.fromkeys(where, "worker"), RECORDS_MAX)


def _made_by(task: bytes) -> Where:
    def mask(columns: Columns) -> Array:
        words = np.ascontiguousarray(columns["object"]).view("<u4").reshape(-1, 5)[:, :4]
        found: Array = (words == np.frombuffer(task, "<u4")).all(axis=1)
        return found

    return mask


def _own_records(view: Views, process: bytes) -> list[Row]:
    """The last records a process wrote itself, and what it was running when it was killed."""
    reader = view.store.ring(process)
    if reader is None:
        return []
    after = max(0, reader.state.position - LAST_RECORDS)

    def mask(columns: Columns) -> Array:
        return same_id(columns["process"], process) & (columns["sequence"] > after)

    return view.store.mentions({name: mask for name in BY_NAME if name not in SAMPLES}, {}, LAST_RECORDS)


def _halts_at(view: Views, node: bytes) -> list[Row]:
    """What stood still beside a node, as far as it noticed: that makes it slow."""
    if node not in view.cluster_table.nodes:
        return []

    def mask(columns: Columns) -> Array:
        return same_id(columns["process"], node)

    return view.store.mentions(dict.fromkeys(("process_halted", "process_resumed"), mask), {}, LAST_RECORDS)


def _producer(view: Views, identifier: bytes) -> list[Row]:
    """How the task that made an object went."""
    task = ids.task_of(identifier)
    if ids.kind_of(task) == ids.SEQUENCE_PUT:
        return []
    fields = {"task_submitted": "task", "task_ended": "task", "task_finished": "task"}
    where: dict[str, Where] = {name: _any_of(["task"], task) for name in fields}
    where["tasks_submitted"] = where["tasks_finished"] = _in_run(task)
    return view.store.mentions(where, fields, RECORDS_MAX)


def _lease(view: Views, text: str) -> list[Row]:
    try:
        lease = int(text, 16)
    except ValueError:
        return []
    if lease == 0:  # stands for "no lease"
        return []

    def mask(columns: Columns) -> Array:
        found: Array = columns["lease"] == lease
        return found

    names = [event.name for event in BY_NAME.values() if any(field.name == "lease" for field in event.fields)]
    return view.store.mentions(dict.fromkeys(names, mask), {}, RECORDS_MAX)
