"""Would more workers help? Read off closed books."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

#: Tasks waited while all CPUs were in use for this share of the time: more CPUs would take much of it away.
BOUND_SHARE = 0.5
#: Below this share there is nearly nothing to gain.
BOUND_SHARE_LITTLE = 0.15
#: From this share of slot time on a cause is worth a word.
WORTH_SAYING = 0.05
_ADVICE = {
    "idle: nothing submitted": "nothing was submitted meanwhile: the driver is what takes the time; submit more at "
    "once, or do less between calls",
    "idle: waiting for arguments": "tasks waited for results of others: shorten the longest chain "
    "(obsray critical-path)",
    "idle: last tasks run": "the last tasks ran alone: make them smaller, or begin the longest first "
    "(obsray stragglers)",
    "idle: being scheduled": "scheduling and starting of processes took the time: make tasks longer",
    "idle: owner has not sent tasks": "sending tasks and answers took the time: make tasks longer",
    "idle: sent elsewhere": "tasks waited behind long ones on other workers: make tasks more even",
}
_OTHER = ("placement", "labels", "affinity", "infeasible", "environment", "worker_starting", "draining")


def verdict(found: Row) -> Row:
    """``helps`` ("yes", "a little" or "no") and ``reason``, a sentence."""
    waiting = found["waiting"]
    bound, busy = waiting["bound_share"], waiting["busy_share"]
    shares = {row["activity"]: row["share"] for row in found["activities"]}
    if not found["functions"]:
        return {"helps": "no", "reason": "no task has run"}
    said = (
        f"for {bound:.0%} of the time tasks waited ({waiting['tasks_mean']:.1f} of them on average) although all CPUs "
        "were taken"
    )
    if bound >= BOUND_SHARE:
        blocked = shares.get("blocked in get", 0.0)
        more = f"; tasks were blocked in get for {blocked:.0%} of slot time" if blocked >= WORTH_SAYING else ""
        return {"helps": "yes", "reason": said + more}
    reason = f"CPUs were in use for {busy:.0%} of the time" if busy else "CPUs were hardly in use"
    if waiting["share"] - bound > BOUND_SHARE and waiting["reason"] in _OTHER:
        reason += f", and tasks waited for something else: {waiting['reason_text']}"
    else:
        known = {name: shares.get(name, 0.0) for name in _ADVICE}
        most = max(known, key=lambda name: known[name])
        if known[most] >= WORTH_SAYING:
            reason += f"; mostly {_ADVICE[most]} ({known[most]:.0%} of slot time)"
    if bound >= BOUND_SHARE_LITTLE:
        return {"helps": "a little", "reason": f"{said}; {reason}"}
    return {"helps": "no", "reason": reason}
