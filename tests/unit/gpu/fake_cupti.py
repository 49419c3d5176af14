"""What stands in for libcupti where there is no GPU: it gives buffers back when it is told to."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from obsray.gpu import layouts
from obsray.gpu.cupti import DRIVER_DOMAIN, CuptiError
from obsray.gpu.parse import walk

REQUESTED = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
COMPLETED = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)


class FakeCupti:
    """Behaves like ``Cupti``; ``fill`` plays a recorded buffer."""

    path = "/fake/libcupti.so"

    def __init__(self, version: int = 130001, taken: bool = False) -> None:
        self._version = version
        self._taken = taken
        self.enabled: set[int] = set()
        self.chosen: set[tuple[int, int]] = set()
        self.pushed: list[int] = []
        self.flushed: list[bool] = []
        self.lost = 0
        self.subscribed = False
        self._requested: Any = None
        self._completed: Any = None
        self._context: int | None = None
        self._texts: dict[int, Any] = {}

    def version(self) -> int:
        return self._version

    def subscribe(self) -> None:
        if self._taken:
            raise CuptiError("another profiler has subscribed in this process first")
        self.subscribed = True

    def unsubscribe(self) -> None:
        self.subscribed = False

    def register(self, requested: int, completed: int) -> None:
        self._requested, self._completed = REQUESTED(requested), COMPLETED(completed)

    def enable(self, kind: int) -> None:
        self.enabled.add(kind)

    def disable(self, kind: int) -> None:
        self.enabled.discard(kind)

    def can_choose_calls(self) -> bool:
        return True

    def choose_call(self, domain: int, number: int, wanted: bool) -> None:
        self.chosen.add((domain, number))

    def calls(self, domain: int) -> dict[int, str]:
        if domain == DRIVER_DOMAIN:
            return {307: "cuLaunchKernel", 4: "cuDeviceGetCount"}
        return {211: "cudaLaunchKernel_v7000", 41: "cudaMemcpyAsync_v3020", 131: "cudaStreamSynchronize_v3020", 17: "x"}

    def flush(self, forced: bool = False) -> None:
        self.flushed.append(forced)

    def push(self, number: int) -> bool:
        self.pushed.append(number)
        return True

    def pop(self) -> None:
        self.pushed.pop()

    def dropped(self, context: int | None, stream: int) -> int:
        lost, self.lost = self.lost, 0
        return lost

    def request(self) -> tuple[int, int]:
        """Ask for a buffer as CUPTI would: address and size."""
        address, size, most = ctypes.c_void_p(77), ctypes.c_size_t(77), ctypes.c_size_t(77)
        self._requested(ctypes.byref(address), ctypes.byref(size), ctypes.byref(most))
        assert most.value == 0
        return address.value or 0, size.value

    def fill(self, data: bytes, names: dict[int, str]) -> None:
        """Have a recorded buffer come back, with the names of its kernels at addresses of this process."""
        address, size = self.request()
        assert size >= len(data)
        ctypes.memmove(address, self._relocated(data, names), len(data))
        self.complete(address, len(data))

    def complete(self, address: int, valid: int) -> None:
        """Give a buffer back."""
        self._completed(self._context, 7, address, 1 << 20, valid)

    def _relocated(self, data: bytes, names: dict[int, str]) -> bytes:
        made = bytearray(data)
        starts, kinds = walk(data, layouts.layout(self._version if self._version in layouts.SIZES else 130001))
        place = layouts.FIELDS[layouts.KERNEL]["name"][1]
        for start in starts[kinds == layouts.KERNEL].tolist():
            pointer = int.from_bytes(data[start + place : start + place + 8], "little")
            text = self._texts.setdefault(pointer, ctypes.create_string_buffer(names[pointer].encode()))
            made[start + place : start + place + 8] = np.uint64(ctypes.addressof(text)).tobytes()
        return bytes(made)


class Told:
    """An emitter that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[Any, ...]]] = []
        self.texts: list[str] = [""]

    def intern(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) - 1

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [values for event, values in self.events if event == name]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("gpu_"):
            raise AttributeError(name)
        return lambda *values: self.events.append((name, values))
