"""Buffers between CUPTI and this process, without the interpreter.

CUPTI asks for buffers while it holds locks of its own, on threads that launch work. A callback in Python would wait for
the interpreter's lock there; and a thread that holds that lock and calls CUDA waits for CUPTI's. Seen on an H100: such
a program stood still. So the two callbacks are a few instructions that touch nothing but ``STATE``: two rings that
this process fills and empties in its own time.

``requested`` takes the next buffer out of the ring of empty ones, or gives none and counts that: CUPTI then drops
records and counts them. ``completed`` notes what came back. Neither waits, allocates or calls anything.

x86-64 only; elsewhere nothing is captured, and an event says so.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from typing import NamedTuple

import numpy as np

#: Buffers there are. A power of two; the instructions below know it, and the places of the fields of ``_State``.
BUFFERS = 32
_STATE_PLACE = bytes.fromhex("8877665544332211")

#: void requested(uint8_t **buffer: rdi, size_t *size: rsi, size_t *records_max: rdx)
_REQUESTED = bytes.fromhex(
    "f30f1efa"  # endbr64
    "49bb"
    + _STATE_PLACE.hex()  # movabs r11, STATE
    + "48c70200000000"  # mov qword [rdx], 0
    "498b4308"  # again: mov rax, [r11+8]            head
    "493b4310"  # cmp rax, [r11+16]                  tail
    "7420"  # je none
    "89c1"  # mov ecx, eax
    "83e11f"  # and ecx, 31
    "498b4ccb28"  # mov rcx, [r11+rcx*8+40]           empty[head % 32]
    "4c8d4001"  # lea r8, [rax+1]
    "f04d0fb14308"  # lock cmpxchg [r11+8], r8
    "75e0"  # jne again
    "48890f"  # mov [rdi], rcx
    "498b03"  # mov rax, [r11]                        size
    "488906"  # mov [rsi], rax
    "c3"  # ret
    "f049ff4318"  # none: lock inc qword [r11+24]     refused
    "48c70700000000"  # mov qword [rdi], 0
    "48c70600000000"  # mov qword [rsi], 0
    "c3"  # ret
)
#: void completed(void *context: rdi, uint32_t stream: esi, uint8_t *buffer: rdx, size_t size: rcx, size_t valid: r8)
_COMPLETED = bytes.fromhex(
    "f30f1efa"  # endbr64
    "49bb"
    + _STATE_PLACE.hex()  # movabs r11, STATE
    + "b801000000"  # mov eax, 1
    "f0490fc14320"  # lock xadd [r11+32], rax          finished
    "89c1"  # mov ecx, eax
    "83e11f"  # and ecx, 31
    "6bc928"  # imul ecx, ecx, 40
    "4d8d940b28010000"  # lea r10, [r11+rcx+296]      done[finished % 32]
    "49893a"  # mov [r10], rdi                         context
    "49895208"  # mov [r10+8], rdx                     buffer
    "4d894210"  # mov [r10+16], r8                     valid
    "89f6"  # mov esi, esi
    "49897218"  # mov [r10+24], rsi                    stream
    "48ffc0"  # inc rax
    "49894220"  # mov [r10+32], rax                    number: written last
    "c3"  # ret
)


class _Done(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("context", "buffer", "valid", "stream", "number")]


class _State(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_uint64) for name in ("size", "head", "tail", "refused", "finished")),
        ("empty", ctypes.c_uint64 * BUFFERS),
        ("done", _Done * BUFFERS),
    ]


class Finished(NamedTuple):
    """A buffer that came back: ``address``, how many bytes of it are ``valid``, and whose it was."""

    address: int
    valid: int
    context: int | None
    stream: int


class NotHereError(Exception):
    """Buffers cannot be exchanged on this machine; the text says why."""


class Exchange:
    """The two rings and the instructions that CUPTI calls. One thread at a time may ``take`` and ``give``."""

    def __init__(self, buffer_bytes: int) -> None:
        machine = platform.machine()
        if machine != "x86_64":
            raise NotHereError(f"buffers of GPU records are exchanged on x86_64 only, not on {machine}")
        self.buffer_bytes = buffer_bytes
        self._state = _State(size=buffer_bytes)
        self._taken = 0
        code = _REQUESTED.ljust(128, b"\xcc") + _COMPLETED
        self._code = _executable(code.replace(_STATE_PLACE, ctypes.addressof(self._state).to_bytes(8, "little")))
        base = int(np.frombuffer(self._code, np.uint8).ctypes.data)
        #: Where the two functions begin.
        self.requested, self.completed = base, base + 128
        self._memory = mmap.mmap(-1, BUFFERS * buffer_bytes)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for number in range(BUFFERS):
            self.give(start + number * buffer_bytes)

    def take(self) -> Finished | None:
        """The next buffer that came back; it is this process' until it is given again."""
        done = self._state.done[self._taken % BUFFERS]
        if done.number != self._taken + 1:
            return None
        self._taken += 1
        return Finished(done.buffer, done.valid, done.context or None, done.stream)

    def give(self, address: int) -> None:
        """An empty buffer for CUPTI."""
        state = self._state
        state.empty[state.tail % BUFFERS] = address
        state.tail += 1

    @property
    def refused(self) -> int:
        """How often there was no empty buffer."""
        return int(self._state.refused)


def _executable(code: bytes) -> mmap.mmap:
    """The instructions in memory that can be run and not be written."""
    try:
        fd = os.memfd_create("obsray-gpu", os.MFD_CLOEXEC)
        try:
            os.write(fd, code)
            return mmap.mmap(fd, len(code), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
        finally:
            os.close(fd)
    except OSError as error:
        raise NotHereError(f"this system does not allow a process to run code of its own: {error}") from None
