"""Machine: when a GPU goes out of service and when it comes back.

Out: at once, for an error of the hardware (Xid), when the driver says that the GPU is lost or needs a reset, or when
broken memory cannot be replaced any more. Back: when nothing of that was seen for ``recovery_seconds``, and no memory
waits for a reset to be replaced. A GPU that goes out again within a day waits twice as long each time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: How often the wait is doubled at most.
DOUBLINGS_MAX = 4
DAY_SECONDS = 86_400.0
#: What Xid numbers mean, for people.
XIDS = {
    13: "a program's fault in the graphics engine", 31: "a program's memory fault", 43: "a program was stopped",
    45: "work was cleaned up", 46: "it stopped processing", 48: "an uncorrectable memory error",
    62: "its micro-controller halted", 63: "broken memory was replaced", 64: "broken memory could not be replaced",
    74: "an NVLink error", 79: "it has fallen off the bus", 94: "a contained memory error",
    95: "an uncontained memory error", 119: "its system processor does not answer", 120: "its system processor failed",
    140: "an unrecovered memory error",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """A GPU goes out of service (``healthy`` False, with the reason), or comes back."""

    gpu: int
    healthy: bool
    reason: str = ""
    xid: int = 0


@dataclass(slots=True)
class _Watched:
    out: bool = False
    #: When something was wrong for the last time; when it went out, within a day.
    wrong_at: float = 0.0
    outs: list[float] = field(default_factory=list)


class HealthRules:
    """``fatal``: Xid numbers of hardware. Time is an argument, in seconds of any clock that does not jump."""

    def __init__(self, fatal: frozenset[int], recovery_seconds: float) -> None:
        self.fatal = fatal
        self.recovery_seconds = recovery_seconds
        self._gpus: dict[int, _Watched] = {}

    def known_out(self, now: float, gpu: int) -> None:
        """The node has it out of service already; whoever watched before is gone, so its wait begins anew."""
        self._gpus[gpu] = _Watched(True, now, [now])

    def is_out(self, gpu: int) -> bool:
        return gpu in self._gpus and self._gpus[gpu].out

    def xid(self, now: float, gpu: int, number: int) -> Change | None:
        """The driver reported an error of this GPU."""
        if number not in self.fatal:
            return None
        return self._wrong(now, gpu, f"Xid {number}: {XIDS.get(number, 'an error of the hardware')}", number)

    def looked(self, now: float, gpu: int, trouble: str) -> Change | None:
        """It was looked at; ``trouble`` says what is wrong, empty for nothing."""
        if trouble:
            return self._wrong(now, gpu, trouble, 0)
        watched = self._gpus.get(gpu)
        if watched is None or not watched.out or now - watched.wrong_at < self.wait_seconds(gpu):
            return None
        watched.out = False
        return Change(gpu, True)

    def wait_seconds(self, gpu: int) -> float:
        """For how long nothing may be wrong with a GPU that is out until it comes back."""
        again = max(0, len(self._gpus[gpu].outs) - 1)
        return float(self.recovery_seconds * 2 ** min(again, DOUBLINGS_MAX))

    def _wrong(self, now: float, gpu: int, reason: str, xid: int) -> Change | None:
        watched = self._gpus.setdefault(gpu, _Watched())
        watched.wrong_at = now
        if watched.out:
            return None
        watched.out = True
        watched.outs = [*(at for at in watched.outs if now - at < DAY_SECONDS), now]
        wait = self.wait_seconds(gpu)
        return Change(gpu, False, f"{reason}; back after {wait:g} s without trouble", xid)


def numbers_of(text: str) -> frozenset[int]:
    """Xid numbers out of ``gpu_xids_fatal``. Raises ValueError for what is no number."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not all(map(str.isdigit, words)):
        raise ValueError(f"gpu_xids_fatal={text!r}: Xid numbers with commas between them, such as '48,79'")
    return frozenset(map(int, words))
