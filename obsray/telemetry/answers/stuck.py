"""What has stopped making progress, as far as its history or its samples tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from obsray.telemetry.explain import duration
from obsray.telemetry.store import joined
from obsray.telemetry.table import same_id
from obsray.telemetry.tables import NS

if TYPE_CHECKING:
    from obsray.telemetry.views import Views

#: Longer than ever by this factor, and by this much, is stuck.
SLOW_FACTOR = 10.0
SLOW_SECONDS = 30.0
HISTORY_MIN = 5
#: Seen in one place only, off the CPU, for this long.
STILL_SECONDS = 120.0
STILL_CPU_RATIO = 0.01
STILL_SAMPLES_MIN = 20


def stuck(view: Views, row: int, ran: float, now: int) -> str:
    """Why a task that has run for ``ran`` seconds seems to be stuck, as the end of a sentence; "" if it does not."""
    return _slow(view, row, ran) or _still(view, row, ran, now)


def _slow(view: Views, row: int, ran: float) -> str:
    if ran < SLOW_SECONDS:
        return ""
    table = view.task_table
    ended = (table["name"] == table["name"][row]) & (table["ended_attempt"] >= 0)
    seconds = table["run_seconds"][ended]
    if len(seconds) < HISTORY_MIN or ran < SLOW_FACTOR * float(seconds.max()):
        return ""
    return f"has been running for {duration(ran)}, {len(seconds)} others took at most {duration(float(seconds.max()))}"


def _still(view: Views, row: int, ran: float, now: int) -> str:
    if ran < STILL_SECONDS:
        return ""
    task, since = view.task_table["id"][row].tobytes(), now - int(STILL_SECONDS * NS)
    found = joined(
        view.store.select(
            "stack_sampled", lambda c: same_id(c["task"], task) & (c["time_ns"].astype(np.int64) >= since)
        ),
        "stack_sampled",
    )  # fmt: skip
    samples, seconds = int(found["samples"].sum()), float(found["seconds"].sum())
    if samples < STILL_SAMPLES_MIN or len(np.unique(found["stack"])) != 1:
        return ""
    if float(found["cpu_seconds"].sum()) > STILL_CPU_RATIO * seconds:
        return ""
    place = view.store.texts[int(found["stack"][0])].rpartition("\n")[2]
    return (
        f"has been running for {duration(ran)} and was seen {samples} times in the last "
        f"{duration(STILL_SECONDS)}, always waiting in {place}"
    )
