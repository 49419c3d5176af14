"""What stands in for libnvidia-ml: functions of the C interface that write through the pointers they are given."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import Any

from obsray.gpu import nvml

U32, U64 = ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_ulonglong)


@dataclass
class Card:
    """One GPU; ``refuses``: function -> error code."""

    model: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-00000000-0000-0000-0000-000000000000"
    total: int = 80 << 30
    used: int = 3 << 30
    busy: int = 40
    bus: int = 7
    milliwatts: int = 250_000
    celsius: int = 61
    slow: int = 0
    mig: bool = False
    #: The address of the GPU that it is a part of.
    part_of: int = 0
    processes: list[tuple[int, int]] = field(default_factory=list)
    pending: bool = False
    failed: bool = False
    refuses: dict[str, int] = field(default_factory=dict)


class FakeLibrary:
    """Looks like ``ctypes.CDLL``: what it does not have is an AttributeError."""

    def __init__(self, cards: list[Card], absent: tuple[str, ...] = ()) -> None:
        self.cards = cards
        self.absent = absent
        self.opened = 0
        self.xids: list[tuple[int, int]] = []
        self.watched: list[int] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml") or name in self.absent:
            raise AttributeError(name)
        function = type(self)._FUNCTIONS.get(name)
        if function is None:
            raise AttributeError(name)

        class Call:
            restype: Any = None

            def __call__(call, *arguments: Any) -> Any:
                card = self._card(arguments[0]) if name.startswith("nvmlDeviceGet") and arguments else None
                if card is not None and name in card.refuses:
                    return card.refuses[name]
                return function(self, *arguments)

        return Call()

    def _card(self, handle: Any) -> Card | None:
        place = handle.value if isinstance(handle, ctypes.c_void_p) else None
        return self.cards[place - 1] if place and place <= len(self.cards) else None

    def _init(self) -> int:
        self.opened += 1
        return 0

    def _shutdown(self) -> int:
        self.opened -= 1
        return 0

    def _count(self, found: Any) -> int:
        found._obj.value = len(self.cards)
        return 0

    def _by_index(self, index: Any, found: Any) -> int:
        if index.value >= len(self.cards):
            return nvml.NOT_FOUND
        if "handle" in self.cards[index.value].refuses:
            return self.cards[index.value].refuses["handle"]
        found._obj.value = index.value + 1
        return 0

    def _by_uuid(self, uuid: Any, found: Any) -> int:
        for place, card in enumerate(self.cards):
            if card.uuid.encode() == uuid.value:
                found._obj.value = place + 1
                return 0
        return nvml.NOT_FOUND

    def _whole(self, handle: Any, found: Any) -> int:
        part_of = self._card(handle).part_of
        if not part_of:
            return nvml.NOT_SUPPORTED
        found._obj.value = part_of
        return 0

    def _name(self, handle: Any, buffer: Any, size: Any) -> int:
        buffer.value = self._card(handle).model.encode()
        return 0

    def _uuid(self, handle: Any, buffer: Any, size: Any) -> int:
        buffer.value = self._card(handle).uuid.encode()
        return 0

    def _memory_v2(self, handle: Any, found: Any) -> int:
        assert found._obj.version == 0x2000028
        card, memory = self._card(handle), found._obj
        memory.total, memory.used, memory.free = card.total, card.used, card.total - card.used
        return 0

    def _memory(self, handle: Any, found: Any) -> int:
        card = self._card(handle)
        found._obj.total, found._obj.used = card.total, card.used
        return 0

    def _utilization(self, handle: Any, found: Any) -> int:
        found._obj.gpu, found._obj.memory = self._card(handle).busy, self._card(handle).bus
        return 0

    def _one(of: str) -> Any:  # makes a function that gives one number of a card
        def give(self: FakeLibrary, handle: Any, *rest: Any) -> int:
            rest[-1]._obj.value = getattr(self._card(handle), of)
            return 0

        return give

    def _mig(self, handle: Any, now: Any, pending: Any) -> int:
        now._obj.value = self._card(handle).mig
        return 0

    def _rows(self, handle: Any, *found: Any) -> int:
        found[2]._obj.value, found[3]._obj.value = self._card(handle).pending, self._card(handle).failed
        return 0

    def _processes(self, handle: Any, count: Any, found: Any) -> int:
        for place, (pid, memory) in enumerate(self._card(handle).processes):
            found[place].pid, found[place].memory = pid, memory
        count._obj.value = len(self._card(handle).processes)
        return 0

    def _event_set(self, found: Any) -> int:
        found._obj.value = 77
        return 0

    def _register(self, handle: Any, kind: Any, events: Any) -> int:
        assert kind.value == 8 and events.value == 77
        refused = self._card(handle).refuses.get("nvmlDeviceRegisterEvents", 0)
        if not refused:
            self.watched.append(handle.value)
        return refused

    def _wait(self, events: Any, found: Any, milliseconds: Any) -> int:
        if not self.xids:
            return nvml.TIMEOUT
        found._obj.device, found._obj.data = self.xids.pop(0)
        found._obj.kind = 8
        return 0

    def _text(self, code: Any) -> bytes:
        return {3: b"Not Supported", 15: b"GPU is lost"}.get(code.value, b"Unknown Error")

    _FUNCTIONS: Any = {
        "nvmlInit_v2": _init, "nvmlShutdown": _shutdown, "nvmlErrorString": _text,
        "nvmlDeviceGetCount_v2": _count, "nvmlDeviceGetHandleByIndex_v2": _by_index,
        "nvmlDeviceGetHandleByUUID": _by_uuid, "nvmlDeviceGetName": _name, "nvmlDeviceGetUUID": _uuid,
        "nvmlDeviceGetMemoryInfo_v2": _memory_v2, "nvmlDeviceGetMemoryInfo": _memory,
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": _whole,
        "nvmlDeviceGetUtilizationRates": _utilization, "nvmlDeviceGetPowerUsage": _one("milliwatts"),
        "nvmlDeviceGetTemperature": _one("celsius"), "nvmlDeviceGetCurrentClocksEventReasons": _one("slow"),
        "nvmlDeviceGetCurrentClocksThrottleReasons": _one("slow"), "nvmlDeviceGetMigMode": _mig,
        "nvmlDeviceGetRemappedRows": _rows, "nvmlDeviceGetComputeRunningProcesses_v3": _processes,
        "nvmlEventSetCreate": _event_set, "nvmlDeviceRegisterEvents": _register, "nvmlEventSetWait_v2": _wait,
        "nvmlEventSetFree": lambda self, events: 0,
    }  # fmt: skip
