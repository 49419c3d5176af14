"""Lists of GPUs and of what they ran, which only obsray has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from obsray.telemetry.views import Views
from obsray.util.state import listing
from obsray.util.state.listing import LIMIT_DEFAULT, Filter, Rows
from obsray.util.state.rows import StateRow
from obsray.util.state.sessions import ask


@dataclass(frozen=True, eq=False, kw_only=True)
class GpuState(StateRow):
    """One GPU: who has it, and what it did while it was reserved. ``state`` is BUSY, IDLE (reserved and without work)
    or FREE; ``cause`` what most of its idleness goes into, ``why`` all of it in a sentence, ``fix`` what would help."""

    began: ClassVar[str] = ""

    gpu_id: str
    node_id: str
    gpu: int
    state: str
    holder: str | None
    reserved_seconds: float
    busy_seconds: float
    idle_seconds: float
    busy_share: float | None
    cause: str | None
    why: str
    # detail
    fix: str | None = None
    job_id: str | None = None
    worker_id: str | None = None
    placement_group_id: str | None = None
    compute_seconds: float | None = None
    communication_seconds: float | None = None
    copy_seconds: float | None = None
    unobserved_seconds: float | None = None
    activities: list[dict[str, Any]] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class KernelState(StateRow):
    """What one function had one kernel do: launches, seconds in all, mean and longest, and how long after their
    launches they began (None where that is not known)."""

    began: ClassVar[str] = ""

    kernel: str
    function: str
    launches: int
    kernel_seconds: float
    mean_seconds: float
    max_seconds: float
    share: float
    launch_delay_seconds: float | None
    launch_delay_max_seconds: float | None


def list_gpus(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[GpuState]:
    """GPUs, by node and number. They have no time of their own: ``since`` and ``until`` raise ValueError."""
    asked = listing.check(GpuState, filters, limit, detail, sort, since, until, cursor)

    def answer(views: Views) -> Rows[GpuState]:
        rows = ({**row, "placement_group_id": row["group_id"]} for row in views.gpus(refresh=False))
        return listing.page(GpuState, (GpuState(**_only(GpuState, row)) for row in rows), asked, views.now_ns())

    return ask(address, answer, timeout=timeout)


def list_kernels(
    address: str | None = None,
    filters: Sequence[Filter] | None = None,
    limit: int = LIMIT_DEFAULT,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
    *,
    sort: str | None = None,
    since: Any = None,
    until: Any = None,
    cursor: str | None = None,
) -> Rows[KernelState]:
    """Kernels by function, those first that took most time of GPUs. ``since`` and ``until`` raise ValueError."""
    asked = listing.check(KernelState, filters, limit, detail, sort, since, until, cursor, "-kernel_seconds")

    def answer(views: Views) -> Rows[KernelState]:
        rows = (KernelState(**_only(KernelState, row)) for row in views.kernels(refresh=False))
        return listing.page(KernelState, rows, asked, views.now_ns())

    return ask(address, answer, timeout=timeout)


def _only(kind: type[StateRow], row: dict[str, Any]) -> dict[str, Any]:
    return {each.name: row[each.name] for each in fields(kind)}
