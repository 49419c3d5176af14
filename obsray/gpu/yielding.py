"""Giving way to torch.profiler: CUPTI has one subscriber in a process, and whoever starts a profiler wants to see
something in it.

Without this, torch's profiler would find the place taken, say so in a line on stderr, and show no kernels. So the call
with which it begins (``torch.autograd.profiler.profile._prepare_trace``, behind ``torch.profiler.profile`` as well) has
the capture end first, and an event says so. torch keeps the place until the process ends.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

_MODULE = "torch.autograd.profiler"
_BEGINS = "_prepare_trace"
#: What stands in the event, and in ``obsray status``.
WHY = (
    "torch.profiler starts in this process, and only one profiler at a time can be there: it sees the kernels, and "
    "nothing is captured here until the process ends"
)


def watch_for_torch(give_way: Callable[[str], None]) -> bool:
    """Have ``give_way`` called before torch's profiler begins to look at a GPU; False as long as torch is not loaded.

    Call again until it is True. Nothing is imported.
    """
    profile = getattr(sys.modules.get(_MODULE), "profile", None)
    begins = getattr(profile, _BEGINS, None)
    if begins is None:
        return False

    @functools.wraps(begins)
    def begin(self: Any, *arguments: Any, **named: Any) -> Any:
        if _looks_at_gpus(self):
            give_way(WHY)
        return begins(self, *arguments, **named)

    setattr(profile, _BEGINS, begin)
    return True


def _looks_at_gpus(profile: Any) -> bool:
    """Whether this profiler asks for the activities of GPUs. If that cannot be told, it does."""
    activities = getattr(profile, "kineto_activities", None)
    if activities is None:
        return True
    return any("CUDA" in str(activity).upper() for activity in activities)
