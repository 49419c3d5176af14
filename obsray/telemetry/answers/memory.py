"""What fills the object store: live bytes by call site, function, job, owner and age.

A group is a leak suspect if more and more of it is alive, little of it was ever freed, and most of it is old.
Of a session that is over the last moment before its drivers left is looked at: then everything is freed.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from obsray.telemetry.explain import duration, size
from obsray.telemetry.object_views import _words
from obsray.telemetry.objects import SPILLED
from obsray.telemetry.tables import NS
from obsray.telemetry.task_memory import function_memory

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

Row = dict[str, Any]

GROUPS_MAX = 50
TASK_ROWS_MAX = 50
#: At how many moments of its session the growth of a group is looked at.
MOMENTS = 5
#: A suspect has at least so many objects, and freed less than this share of all it ever made.
OBJECTS_MIN = 5
FREED_MAX = 0.5
#: Frees so near to each other are one going.
_BURST_NS = NS // 100
_AGES = ((1.0, "under 1 s"), (10.0, "1 s to 10 s"), (60.0, "10 s to 1 min"), (600.0, "1 min to 10 min"))


def memory(view: Views, refresh: bool = True) -> Row:
    """Live bytes now (of a session that is over: before its drivers left).

    ``by_call_site``, ``by_function``, ``by_job``, ``by_owner``, ``by_age``: objects, bytes, oldest; ``by_holder``: the
    same by who keeps them alive; ``suspects``: groups that look leaked, with why; ``tasks``: per function, how much
    memory of its own the process of one task had at most, and by how much that grew (``growth_bytes`` of the worst,
    which is ``task``); ``peak``: the most bytes there were, and when; ``store``: the newest sample; ``fallback_bytes``:
    what lies in files because its store had no room and nothing that could make some.
    """
    if refresh:
        view.refresh()
    table = view.object_table
    at = _moment(view)
    # What is not bound to be counted twice: values in messages lie with their owner, in no store.
    born = np.where(table["created_at"] > 0, table["created_at"], table["put_at"])
    gone = np.where(table["freed_at"] > 0, table["freed_at"], np.iinfo(np.int64).max)
    lost = (table["lost_at"] > 0) & (table["lost_at"] > table["sealed_at"])
    gone = np.where(lost, np.minimum(gone, table["lost_at"]), gone)
    rows = np.flatnonzero((born > 0) & (born <= at))
    live = rows[gone[rows] > at]
    sizes, ages = table["bytes"].astype(np.float64), (at - born) / NS
    made = _Made(view)
    groups = {
        "by_call_site": made.call_sites(), "by_function": made.functions(), "by_job": made.jobs(),
        "by_owner": made.owners(),
    }  # fmt: skip
    spilled = table.states() == SPILLED
    found: Row = {
        "at_ns": at, "live": view.store.is_live(), "objects": len(live), "bytes": int(sizes[live].sum()),
        "pinned_bytes": int(sizes[live][table["pins"][live] > 0].sum()),
        "spilled_bytes": int(sizes[live][spilled[live]].sum()),
        "fallback_bytes": int(sizes[live][_in_files(view)[live]].sum()),
        "store": {
            name: value for name, value in view.samples.newest("store_sample").items() if isinstance(value, int | float)
        },
        "peak": _peak(born[rows], np.minimum(gone[rows], at), sizes[rows]),
        "by_age": _by_age(ages[live], sizes[live]),
    }  # fmt: skip
    for key, (codes, names) in groups.items():
        found[key] = _grouped(codes, names, live, sizes, ages, table["pins"])
    found["by_holder"] = _by_holder(view, live, at, sizes, ages, table["pins"])
    codes, names = made.sources()
    found["suspects"] = _suspects(codes, names, rows, born, gone, sizes, at)
    found["tasks"] = function_memory(view)[:TASK_ROWS_MAX]
    found["sentence"] = _sentence(found)
    return found


def _moment(view: Views) -> int:
    """Now, or shortly before the drivers of a session that is over left."""
    if view.store.is_live():
        return view.now_ns()
    ends = [row["ended_at_ns"] for row in view.cluster_table.jobs.values() if row["ended_at_ns"]]
    if not ends:
        return view.now_ns()
    last = int(max(ends))
    # A driver that leaves frees what it has in one go, about when its node hears that it is gone.
    freed = np.sort(view.object_table["freed_at"])
    freed = freed[(freed > last - NS) & (freed <= last + 2 * NS)]
    if not len(freed) or freed[-1] < last - NS // 2:
        return last
    apart = np.flatnonzero(np.diff(freed) > _BURST_NS)
    return int(freed[apart[-1] + 1 if len(apart) else 0]) - 1


def _in_files(view: Views) -> Array:
    """Which objects got a file instead of room, where their original is."""
    table = view.object_table
    found = np.zeros(len(table), np.bool_)
    for columns in view.store.select("object_fallback"):
        rows = table.index.rows(columns["object"], create=False)
        known = rows >= 0
        rows = rows[known]
        found[rows[columns["process"][known] == table["node"][rows]]] = True
    return found


class _Made:
    """Where objects come from: for each object a number, and what the numbers stand for."""

    def __init__(self, view: Views) -> None:
        self.view = view
        table = view.object_table
        self.texts = view.store.texts.texts
        self.producer = view.producers(np.arange(len(table))).astype(np.int64)
        self.site = table["call_site"].astype(np.int64)

    def call_sites(self) -> tuple[Array, list[str]]:
        """The line that put it; nothing for results of tasks."""
        return np.where(self.site > 0, self.site, 0), ["result of a task, or not known", *self.texts[1:]]

    def functions(self) -> tuple[Array, list[str]]:
        """The function whose result it is, or that put it."""
        table = self.view.object_table
        tasks = self.view.task_table.index.rows(table["put_by"], create=False)
        names = self.view.task_table["name"]
        putting = np.where(tasks >= 0, names[np.maximum(tasks, 0)], 0) if len(names) else np.zeros(len(table), np.int64)
        return np.where(self.producer > 0, self.producer, putting), ["put by a driver", *self.texts[1:]]

    def sources(self) -> tuple[Array, list[str]]:
        """The line that put it, else the function whose result it is."""
        names = ["not known", *self.texts[1:]]
        return np.where(self.site > 0, self.site, self.producer), names

    def jobs(self) -> tuple[Array, list[str]]:
        """The job of its task, or of the driver that owns it."""
        view = self.view
        words = _words(view.object_table["id"])
        tasks = view.task_table.index.rows(words[:, :4].copy().view("V16").ravel(), create=False)
        tasks = np.where(tasks >= 0, tasks, view.task_table.index.rows(view.object_table["put_by"], create=False))
        jobs = view.task_table["job"]
        found = np.where(tasks >= 0, jobs[np.maximum(tasks, 0)], 0) if len(jobs) else np.zeros(len(words), np.int64)
        owners = words[:, :2].copy().view("<u8").ravel()
        for job, row in view.cluster_table.jobs.items():
            if row["driver_id"]:
                mine = owners == int.from_bytes(bytes.fromhex(row["driver_id"]), "little")
                found = np.where((found == 0) & mine, job, found)
        different, back = np.unique(found, return_inverse=True)
        return back.ravel(), [f"{job:08x}" if job else "unknown" for job in different.tolist()]

    def owners(self) -> tuple[Array, list[str]]:
        """The process that holds it: an object lives as long as somebody refers to it there."""
        owners = _words(self.view.object_table["id"])[:, :2].copy().view("<u8").ravel()
        different, back = np.unique(owners, return_inverse=True)
        return back.ravel(), [self.view.process_label(int(one).to_bytes(8, "little")) for one in different]


def _grouped(codes: Array, names: list[str], live: Array, sizes: Array, ages: Array, pins: Array) -> list[Row]:
    if not len(live):
        return []
    mine = codes[live]
    count = int(mine.max()) + 1
    objects, total = np.bincount(mine, minlength=count), np.bincount(mine, sizes[live], count)
    pinned = np.bincount(mine, sizes[live] * (pins[live] > 0), count)
    oldest = np.zeros(count)
    np.maximum.at(oldest, mine, ages[live])
    order = [code for code in np.argsort(total)[::-1].tolist() if objects[code]]
    return [
        {
            "what": names[code], "objects": int(objects[code]), "bytes": int(total[code]),
            "pinned_bytes": int(pinned[code]), "oldest_seconds": float(oldest[code]),
        }
        for code in order[:GROUPS_MAX]
    ]  # fmt: skip


def _by_holder(view: Views, live: Array, at: int, sizes: Array, ages: Array, pins: Array) -> list[Row]:
    """By the processes that were given references and keep them; what nobody was given is its owner's alone.

    An object that several processes keep counts for each of them.
    """
    table = view.object_table
    alive = np.zeros(len(table), np.bool_)
    alive[live] = True
    balance: dict[tuple[int, bytes], int] = {}
    for event, change in (("object_held", 1), ("object_let_go", -1)):
        for columns in view.store.select(event, lambda columns: columns["time_ns"].astype(np.int64) <= at):
            rows = table.index.rows(columns["object"], create=False)
            for number in np.flatnonzero((rows >= 0) & alive[np.maximum(rows, 0)]).tolist():
                key = int(rows[number]), columns["worker"][number].tobytes()
                balance[key] = balance.get(key, 0) + change
    gone = {
        process for process, row in view.process_table.rows.items()
        if 0 < (row["died_at_ns"] or row["closed_at_ns"] or 0) <= at
    }  # fmt: skip
    kept = [key for key, count in balance.items() if count > 0 and key[1] not in gone]
    words = _words(table["id"])[:, :2].copy().view("<u8").ravel()
    given = {row for row, _ in kept}
    alone = np.array([row for row in live.tolist() if row not in given], np.int64)
    who = [*words[alone].tolist(), *(int.from_bytes(worker, "little") for _, worker in kept)]
    rows = np.concatenate([alone, np.array([row for row, _ in kept], np.int64)])
    different, back = np.unique(np.array(who, np.uint64), return_inverse=True)
    codes = back.ravel().astype(np.int64)
    names = [view.process_label(int(one).to_bytes(8, "little")) for one in different]
    of_rows = np.arange(len(rows))
    return _grouped(codes, names, of_rows, sizes[rows], ages[rows], pins[rows])


def _by_age(ages: Array, sizes: Array) -> list[Row]:
    bounds = np.array([bound for bound, _ in _AGES])
    names = [name for _, name in _AGES] + ["over 10 min"]
    where = np.searchsorted(bounds, ages, side="right")
    objects, total = np.bincount(where, minlength=len(names)), np.bincount(where, sizes, len(names))
    return [
        {"what": name, "objects": int(objects[at]), "bytes": int(total[at])}
        for at, name in enumerate(names) if objects[at]
    ]  # fmt: skip


def _peak(born: Array, gone: Array, sizes: Array) -> Row:
    """The most bytes that were alive at a time, and when that began."""
    if not len(born):
        return {"bytes": 0, "at_ns": None}
    times = np.concatenate([born, gone])
    order = np.lexsort((np.concatenate([np.ones(len(born)), np.zeros(len(gone))]), times))
    alive = np.cumsum(np.concatenate([sizes, -sizes])[order])
    top = int(alive.argmax())
    return {"bytes": int(alive[top]), "at_ns": int(times[order][top])}


def _suspects(
    codes: Array, names: list[str], rows: Array, born: Array, gone: Array, sizes: Array, at: int
) -> list[Row]:
    if not len(rows):
        return []
    begin = int(born[rows].min())
    moments = np.linspace(begin, at, MOMENTS + 1)[1:].astype(np.int64)
    found = []
    for code in np.unique(codes[rows]).tolist():
        mine = rows[codes[rows] == code]
        living = mine[gone[mine] > at]
        if len(living) < OBJECTS_MIN or len(living) < (1 - FREED_MAX) * len(mine):
            continue
        growth = [float(sizes[mine][(born[mine] <= one) & (gone[mine] > one)].sum()) for one in moments.tolist()]
        steps = [later - earlier for earlier, later in pairwise(growth)]
        # A program may pause; what was made once, at its beginning, does not grow.
        if min(steps) < 0 or sum(step > 0 for step in steps) < len(steps) / 2:
            continue
        age = float(np.median(at - born[living]) / NS)
        total, rate = growth[-1], growth[-1] / max((at - begin) / NS, 1e-9)
        found.append(
            {
                "what": names[code], "objects": len(living), "bytes": int(total),
                "freed_share": 1 - len(living) / len(mine), "bytes_per_second": rate, "median_age_seconds": age,
                "text": f"{names[code]}: {len(living)} of {len(mine)} objects were never freed, {size(total)}, half of "
                f"them older than {duration(age)}; they grow by {size(rate)}/s",
            }
        )  # fmt: skip
    found.sort(key=lambda row: -row["bytes"])
    return found


def _sentence(found: Row) -> str:
    if not found["objects"]:
        return "no object is alive" if found["live"] else "no object was alive at the end"
    one = found["objects"] == 1
    text = f"{found['objects']} object{'' if one else 's'} of {size(found['bytes'])} {'is' if one else 'are'} alive"
    if not found["live"]:
        text = text.replace("are alive", "were alive at the end").replace("is alive", "was alive at the end")
    sites = [row for row in found["by_call_site"] if not row["what"].startswith("result of")]
    functions = found["by_function"]
    most = max([*sites[:1], *functions[:1]], key=lambda row: row["bytes"], default=None)
    if most is not None:
        text += f", {size(most['bytes'])} of them from {most['what']}"
    if found["fallback_bytes"]:
        text += (
            f"; {size(found['fallback_bytes'])} of them {'lie' if found['live'] else 'lay'} on disk, because the store "
            "had no room and all in it was in use (let go of arrays that came from get, or give it more "
            "object_store_memory)"
        )
    if found["suspects"]:
        text += f"; suspected leak: {found['suspects'][0]['text']}"
    return text
