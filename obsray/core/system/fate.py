"""Sharing a parent's fate: a service process must not outlive the node that started it, however that ended."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when ``parent`` ends; ends it now if that has happened already.

    The signal is SIGKILL because nothing must be able to stand in its way; an orderly end is asked for by the parent
    itself, with SIGTERM, before it goes. The kernel watches the *thread* that started this process: the parent has
    to start it from a thread that lives as long as it does. Linux only; elsewhere ``parent_is_gone`` has to do.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    except (AttributeError, OSError):
        pass
    if parent_is_gone(parent):
        os._exit(0)


def parent_is_gone(parent: int) -> bool:
    """Whether somebody else has become the parent of this process."""
    return os.getppid() != parent
