"""What GPU work and its capture are called. No imports: everybody may know these."""

from __future__ import annotations

from enum import IntEnum


class Level(IntEnum):
    """How much is captured."""

    OFF = 0
    #: Kernels, copies, memsets, waits, and the calls that launch them.
    KERNELS = 1
    #: Also every call of the driver and runtime interfaces.
    FULL = 2


class Attribution(IntEnum):
    """How a piece of GPU work was given to its task; see ``attribution.py``."""

    NONE = 0
    EXTERNAL_ID = 1
    LAUNCHING_THREAD = 2
    LAUNCH_TIME = 3
    RUN_TIME = 4


class Direction(IntEnum):
    """From where to where a copy went (H: host, D: device, A: array, P: peer), by CUPTI's numbers."""

    UNKNOWN = 0
    HTOD = 1
    DTOH = 2
    HTOA = 3
    ATOH = 4
    ATOA = 5
    ATOD = 6
    DTOA = 7
    DTOD = 8
    HTOH = 9
    PTOP = 10


class Memory(IntEnum):
    """What kind of memory, by CUPTI's numbers."""

    UNKNOWN = 0
    PAGEABLE = 1
    PINNED = 2
    DEVICE = 3
    ARRAY = 4
    MANAGED = 5
    DEVICE_STATIC = 6
    MANAGED_STATIC = 7


class WaitingFor(IntEnum):
    """What a call waited for, by CUPTI's numbers."""

    UNKNOWN = 0
    EVENT = 1
    #: A stream waits for an event; the host goes on.
    STREAM_WAIT_EVENT = 2
    STREAM = 3
    CONTEXT = 4


class Interface(IntEnum):
    """Whose call it was."""

    DRIVER = 0
    RUNTIME = 1


class Stage(IntEnum):
    """Where records were lost."""

    #: CUPTI had no buffer for them.
    CUPTI = 0
    #: The worker could not write them: the collector was too far behind or the disk full.
    WORKER = 1
    #: They could not be read.
    READING = 2


class Health(IntEnum):
    """Whether a GPU gets new work."""

    IN_SERVICE = 0
    OUT_OF_SERVICE = 1
