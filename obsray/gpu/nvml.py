"""libnvidia-ml through ctypes: which GPUs a machine has, and how they fare.

It comes with the driver, so nothing is installed for it, and it needs no CUDA in this process. ``devices`` of a machine
without it, or without GPUs, costs a failed ``dlopen``. Calls release the interpreter's lock. What a GPU or a driver
does not offer is an ``NvmlError`` with ``unsupported``; a GPU that does not answer any more is one with ``lost``.

Traps: ``utilization`` is the share of time in which *some* kernel ran, and its second number is how busy the memory
*bus* was, not how full the memory is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, INSUFFICIENT_SIZE = 3, 4, 6, 7
TIMEOUT, FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED = 10, 13, 15, 16
_LOST = frozenset({GPU_IS_LOST, RESET_REQUIRED})
_UNSUPPORTED = frozenset({NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND})
_TEXT_BYTES = 96
#: Most processes of one GPU that are asked for.
_PROCESSES_MAX = 1024
#: Memory that the driver does not tell per process.
_NOT_AVAILABLE = (1 << 64) - 1
_EVENT_XID = 0x8
_GRAPHICS_CLOCK_SM = 1

#: Why clocks are lower than they could be; the bits of NVML. Idleness and settings of people are no trouble.
SLOWDOWNS = {
    0x4: "power cap", 0x8: "hardware slowdown", 0x10: "sync boost", 0x20: "heat", 0x40: "heat (hardware)",
    0x80: "power brake",
}  # fmt: skip


class NvmlError(Exception):
    """Something NVML did not do; the text says what and why."""

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call}: {text}")
        self.call, self.code = call, code

    @property
    def unsupported(self) -> bool:
        """This GPU, driver or user never gets an answer to this."""
        return self.code in _UNSUPPORTED

    @property
    def lost(self) -> bool:
        """The GPU cannot be used as it is."""
        return self.code in _LOST


class _Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class _MemoryV2(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint),
        *((name, ctypes.c_ulonglong) for name in ("total", "reserved", "free", "used")),
    ]


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint), ("memory", ctypes.c_ulonglong), ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]  # fmt: skip


class _Event(ctypes.Structure):
    _fields_ = [
        ("device", ctypes.c_void_p), ("kind", ctypes.c_ulonglong), ("data", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint), ("compute_instance", ctypes.c_uint),
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """One GPU. ``index`` is NVML's, in the order of the bus; -1 for a part of one (MIG)."""

    index: int
    uuid: str
    model: str
    memory_bytes: int
    #: Whether it is divided by MIG, or is such a part.
    mig: bool


class Rows(NamedTuple):
    """Memory that was replaced: ``pending`` needs a reset of the GPU, ``failed`` cannot be replaced any more."""

    pending: bool
    failed: bool


class Nvml:
    """A loaded library. ``open`` begins, ``close`` ends its use. Raises NvmlError."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def open(self) -> None:
        self._call("nvmlInit_v2")

    def close(self) -> None:
        self._call("nvmlShutdown")

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise NvmlError(name, FUNCTION_NOT_FOUND, "this driver does not have it") from None
        code = int(function(*arguments))
        if code:
            raise NvmlError(name, code, self._text(code))

    def _text(self, code: int) -> str:
        try:
            function = self._library.nvmlErrorString
            function.restype = ctypes.c_char_p
            text = function(ctypes.c_int(code))
        except (AttributeError, ctypes.ArgumentError):
            text = None
        return f"{text.decode('utf-8', 'replace')} ({code})" if isinstance(text, bytes) else f"error {code}"

    def _number(self, name: str, *arguments: Any, kind: Any = ctypes.c_uint) -> int:
        found = kind()
        self._call(name, *arguments, ctypes.byref(found))
        return int(found.value)

    def _string(self, name: str, handle: Any) -> str:
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        self._call(name, handle, buffer, ctypes.c_uint(_TEXT_BYTES))
        return buffer.value.decode("utf-8", "replace")

    # --- which there are --------------------------------------------------------------------------------------------

    def count(self) -> int:
        return self._number("nvmlDeviceGetCount_v2")

    def handle(self, index: int) -> Any:
        """The device of this number; it stays valid until ``close``."""
        found = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(found))
        return found

    def handle_of(self, uuid: str) -> Any:
        """The device, or the part of one, of this UUID."""
        found = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(uuid.encode()), ctypes.byref(found))
        return found

    def whole(self, handle: Any) -> Any:
        """The GPU that a part (MIG) is of; a GPU itself."""
        found = ctypes.c_void_p()
        try:
            self._call("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle, ctypes.byref(found))
        except NvmlError as error:
            if error.lost:
                raise
            return handle
        return found if found.value else handle

    def found(self, index: int, handle: Any) -> Found:
        """What is known about a device. What it does not tell is empty; only one that is lost raises NvmlError."""
        model = self._or(lambda: self._string("nvmlDeviceGetName", handle), "")
        uuid = self._or(lambda: self._string("nvmlDeviceGetUUID", handle), "")
        memory = self._or(lambda: self.memory(handle)[1], 0)
        return Found(index, uuid, model, memory, index < 0 or self._or(lambda: self.mig(handle), False))

    def _or(self, ask: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return ask()
        except NvmlError as error:
            if error.lost:
                raise
            return otherwise

    def mig(self, handle: Any) -> bool:
        """Whether the GPU is divided into parts (MIG)."""
        now, pending = ctypes.c_uint(), ctypes.c_uint()
        self._call("nvmlDeviceGetMigMode", handle, ctypes.byref(now), ctypes.byref(pending))
        return bool(now.value)

    # --- how they fare ----------------------------------------------------------------------------------------------

    def memory(self, handle: Any) -> tuple[int, int]:
        """Bytes in use, and bytes in all. What the driver keeps for itself is not in use, where the driver says it."""
        second = _MemoryV2(version=ctypes.sizeof(_MemoryV2) | 2 << 24)
        try:
            self._call("nvmlDeviceGetMemoryInfo_v2", handle, ctypes.byref(second))
            return int(second.used), int(second.total)
        except NvmlError as error:
            if error.lost:
                raise
        first = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(first))
        return int(first.used), int(first.total)

    def utilization(self, handle: Any) -> tuple[float, float]:
        """The share of the last moments in which a kernel ran, and in which the memory bus was busy: 0 to 1."""
        found = _Utilization()
        self._call("nvmlDeviceGetUtilizationRates", handle, ctypes.byref(found))
        return found.gpu / 100, found.memory / 100

    def power(self, handle: Any) -> float:
        """Watts now."""
        return self._number("nvmlDeviceGetPowerUsage", handle) / 1000

    def power_limit(self, handle: Any) -> float:
        """Watts at most."""
        return self._number("nvmlDeviceGetEnforcedPowerLimit", handle) / 1000

    def energy(self, handle: Any) -> float:
        """Joules since the driver was loaded."""
        return self._number("nvmlDeviceGetTotalEnergyConsumption", handle, kind=ctypes.c_ulonglong) / 1000

    def temperature(self, handle: Any) -> float:
        """Degrees Celsius."""
        return float(self._number("nvmlDeviceGetTemperature", handle, ctypes.c_uint(0)))

    def clock(self, handle: Any) -> int:
        """MHz of the processors now."""
        return self._number("nvmlDeviceGetClockInfo", handle, ctypes.c_uint(_GRAPHICS_CLOCK_SM))

    def slowdowns(self, handle: Any) -> str:
        """Why clocks are lowered, in words; empty if they are not."""
        try:
            bits = self._number("nvmlDeviceGetCurrentClocksEventReasons", handle, kind=ctypes.c_ulonglong)
        except NvmlError as error:
            if error.code != FUNCTION_NOT_FOUND:
                raise
            bits = self._number("nvmlDeviceGetCurrentClocksThrottleReasons", handle, kind=ctypes.c_ulonglong)
        return ", ".join(text for bit, text in SLOWDOWNS.items() if bits & bit)

    def rows(self, handle: Any) -> Rows:
        """Whether broken memory waits for a reset, or cannot be replaced."""
        found = [ctypes.c_uint() for _ in range(4)]
        self._call("nvmlDeviceGetRemappedRows", handle, *map(ctypes.byref, found))
        return Rows(bool(found[2].value), bool(found[3].value))

    def processes(self, handle: Any) -> list[tuple[int, int | None]]:
        """Processes that compute there: pid as the host has it, and bytes of GPU memory (None: not told)."""
        count = ctypes.c_uint(_PROCESSES_MAX)
        found = (_Process * _PROCESSES_MAX)()
        # The newest form only: in the older ones an element has another size.
        self._call("nvmlDeviceGetComputeRunningProcesses_v3", handle, ctypes.byref(count), found)
        rows = found[: min(count.value, _PROCESSES_MAX)]
        return [(row.pid, None if row.memory == _NOT_AVAILABLE else int(row.memory)) for row in rows]

    # --- errors of the hardware -------------------------------------------------------------------------------------

    def watch(self, handles: list[Any]) -> Any:
        """A set of events that errors (Xid) of these devices come to; those that cannot be watched are left out.

        Raises NvmlError if none can.
        """
        events = ctypes.c_void_p()
        self._call("nvmlEventSetCreate", ctypes.byref(events))
        refused: NvmlError | None = None
        watched = 0
        for handle in handles:
            try:
                self._call("nvmlDeviceRegisterEvents", handle, ctypes.c_ulonglong(_EVENT_XID), events)
                watched += 1
            except NvmlError as error:
                refused = error
        if refused is not None and not watched:
            self._call("nvmlEventSetFree", events)
            raise refused
        return events

    def wait(self, events: Any, milliseconds: int) -> tuple[int, int] | None:
        """The next error: the address of its device, and its number (Xid). None if none came in this time."""
        found = _Event()
        try:
            self._call("nvmlEventSetWait_v2", events, ctypes.byref(found), ctypes.c_uint(milliseconds))
        except NvmlError as error:
            if error.code == TIMEOUT:
                return None
            raise
        return found.device or 0, int(found.data)


def load(path: str) -> Nvml | None:
    """The library, begun; None if it is not there or finds no driver."""
    if not path:
        return None
    try:
        nvml = Nvml(ctypes.CDLL(path))
        nvml.open()
    except (OSError, NvmlError):
        return None
    return nvml


def devices(path: str) -> list[Found]:
    """The GPUs of this machine, in NVML's order; empty if nothing can be learned.

    Those that are lost keep their place, with nothing known about them.
    """
    nvml = load(path)
    if nvml is None:
        return []
    try:
        found = []
        for index in range(nvml.count()):
            try:
                found.append(nvml.found(index, nvml.handle(index)))
            except NvmlError:
                found.append(Found(index, "", "", 0, False))
        return found
    except NvmlError:
        return []
    finally:
        _close(nvml)


def parts(path: str, uuids: list[str]) -> dict[str, Found]:
    """Parts of GPUs (MIG) by their UUID, those that there are."""
    nvml = load(path)
    if nvml is None:
        return {}
    found = {}
    try:
        for uuid in uuids:
            try:
                found[uuid] = nvml.found(-1, nvml.handle_of(uuid))
            except NvmlError:
                continue
    finally:
        _close(nvml)
    return found


def _close(nvml: Nvml) -> None:
    try:
        nvml.close()
    except NvmlError:
        pass  # nothing more is asked of it
