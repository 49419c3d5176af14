"""Service level objectives: every threshold of them, the recorded ratios, and the alerts on how fast budgets burn.

``docs/slo.md`` is made from this. An alert fires when both a long and a short window burn faster than ``rate`` times
what would use up the budget exactly in ``PERIOD_DAYS``: the long window says that it matters, the short one that it
still goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from obsray.monitoring.rules import CRITICAL, WARNING, Alert, Record

PERIOD_DAYS = 30
#: Outcomes that are the runtime's fault: user code that raises, and what users cancel, cost no budget.
BAD_OUTCOMES = (
    "worker_died", "oom", "lost_argument", "actor_died", "system_error", "environment_failed", "actor_unavailable",
    "result_lost", "node_died",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Objective:
    """``target``: share of tasks that must be good. ``bad``, ``all``: rates over a window ``W`` of tasks."""

    name: str
    title: str
    target: float
    record: str
    bad: str
    all: str
    says: str

    @property
    def budget(self) -> float:
        return round(1 - self.target, 6)

    def ratio(self, window: str) -> str:
        """The name of the recorded ratio over a window."""
        return f"cluster:{self.record}:ratio_rate{window}"


#: Waiting for a worker longer than this is too long; a bound of the histogram's buckets.
QUEUE_SECONDS = 10
OBJECTIVES = (
    Objective(
        "TaskAvailability",
        "Tasks end without a fault of the runtime",
        0.999,
        "obsray_task_errors",
        f'sum by (cluster) (rate(obsray_task_outcomes_total{{outcome=~"{"|".join(BAD_OUTCOMES)}"}}[W]))',
        "sum by (cluster) (rate(obsray_task_outcomes_total[W]))",
        "of the tasks that end, as their owners see it, at most one in a thousand ends by a fault of the runtime",
    ),
    Objective(
        "TaskLatency",
        f"Tasks wait at most {QUEUE_SECONDS} s for a worker",
        0.99,
        "obsray_task_queue_slow",
        "(sum by (cluster) (rate(obsray_task_queue_seconds_count[W]))"
        f' - sum by (cluster) (rate(obsray_task_queue_seconds_bucket{{le="{QUEUE_SECONDS:.1f}"}}[W])))',
        "sum by (cluster) (rate(obsray_task_queue_seconds_count[W]))",
        f"of the tasks that begin, at most one in a hundred has waited longer than {QUEUE_SECONDS} s "
        f"since its arguments "
        "were there",
    ),
)


@dataclass(frozen=True, slots=True)
class Burn:
    """A pair of windows and how many times too fast the budget may burn in both."""

    rate: float
    long: str
    short: str


#: Severity -> (pairs of windows, for).
BURNS: dict[str, tuple[tuple[Burn, ...], str, str]] = {
    CRITICAL: ((Burn(14.4, "1h", "5m"), Burn(6, "6h", "30m")), "2m", "Fast"),
    WARNING: ((Burn(3, "1d", "2h"), Burn(1, "3d", "6h")), "15m", "Slow"),
}
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


def records() -> list[Record]:
    """The ratio of each objective over each window."""
    return [
        Record(each.ratio(window), f"{each.bad} / {each.all}".replace("[W]", f"[{window}]"))
        for each in OBJECTIVES
        for window in WINDOWS
    ]


def alerts() -> list[Alert]:
    """Two alerts for each objective."""
    return [_alert(each, severity) for each in OBJECTIVES for severity in BURNS]


def _alert(objective: Objective, severity: str) -> Alert:
    burns, wait, speed = BURNS[severity]
    parts = []
    for burn in burns:
        bound = f"{burn.rate:g} * {objective.budget:g}"
        parts.append(f"({objective.ratio(burn.long)} > {bound} and {objective.ratio(burn.short)} > {bound})")
    left = "hours" if severity == CRITICAL else "days"
    filters = "state=FAILED" if objective.name == "TaskAvailability" else "'queue_seconds > 10s'"
    return Alert(
        f"Obsray{objective.name}BudgetBurn{speed}",
        severity,
        "\nor\n".join(parts),
        f"{objective.title}: the error budget of {PERIOD_DAYS} days would be gone in {left}",
        f"The objective is that {objective.says}. Over a long and a short window the budget burns more than "
        f"{' or '.join(f'{burn.rate:g} times ({burn.long} and {burn.short})' for burn in burns)} too fast.",
        "Programs fail or wait through no fault of their own, and it is not a single event.",
        ("obsray status", f"obsray list tasks --filter {filters}", "obsray list functions"),
        "The first failed tasks say whose fault it was; their stories lead to the worker, node or object. If one node "
        "is behind all of them, drain it.",
        "obsray-slo",
        wait,
    )


def markdown() -> str:
    """``docs/slo.md``."""
    rows = "".join(
        f"| {each.title} | {each.target:.2%} | {each.budget:g} | `{each.ratio('5m')}`, ... | {each.says} |\n"
        for each in OBJECTIVES
    )
    burns = ""
    for severity, (pairs, wait, _) in BURNS.items():
        for burn in pairs:
            used = burn.rate * _hours(burn.long) / (PERIOD_DAYS * 24)
            burns += f"| {severity} | {burn.rate:g} | {burn.long} | {burn.short} | {wait} | {used:.0%} |\n"
    return f"""# Service level objectives

Generated from `obsray/monitoring/objectives.py`; do not edit. Change a threshold there, run `scripts/generate_docs.py`,
and rules, dashboards and this page follow.

The period is {PERIOD_DAYS} days.

| objective | target | budget | recorded as | in words |
|---|---|---|---|---|
{rows}
Outcomes that cost budget: {", ".join(f"`{outcome}`" for outcome in BAD_OUTCOMES)}. What user code raises and what
users cancel does not.

An alert fires when both windows burn the budget faster than so many times the rate that would use it up exactly in the
period:

| severity | times too fast | long window | short window | for | budget used in the long window |
|---|---|---|---|---|---|
{burns}
Alerts: {", ".join(f"[{alert.name}](runbooks/{alert.name}.md)" for alert in alerts())}.
"""


def _hours(window: str) -> float:
    return float(window[:-1]) * {"m": 1 / 60, "h": 1, "d": 24}[window[-1]]
