"""How CUPTI's activity records lie in memory, by version of its interface.

A record is told by its first four bytes, its kind; how long it is depends on the version, and a buffer can only be
walked by knowing the length of every kind in it. So a version that is not in ``SIZES`` is refused: read with the
wrong lengths, a buffer would turn into records that never were.

Lengths and places were taken with ``sizeof`` and ``offsetof`` from the headers of each version (the last field this
project reads lies at the same place in all of them; newer versions append). Version 130001 was also checked against
buffers recorded on an H100.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from obsray.errors import RaySystemError

MEMCPY, MEMSET, DRIVER, RUNTIME, KERNEL, OVERHEAD, PEER_MEMCPY, SYNCHRONIZATION, EXTERNAL, GRAPH = (
    1, 2, 4, 5, 10, 17, 22, 38, 39, 51,
)  # fmt: skip

_API = {"cbid": ("<u4", 4), "start": ("<u8", 8), "end": ("<u8", 16), "process": ("<u4", 24), "thread": ("<u4", 28),
        "correlation": ("<u4", 32), "result": ("<u4", 36)}  # fmt: skip

#: Kind -> the fields this project reads: numpy type and place.
FIELDS: dict[int, dict[str, tuple[str, int]]] = {
    MEMCPY: {
        "copy_kind": ("u1", 4), "source": ("u1", 5), "destination": ("u1", 6), "bytes": ("<u8", 8),
        "start": ("<u8", 16), "end": ("<u8", 24), "device": ("<u4", 32), "context": ("<u4", 36), "stream": ("<u4", 40),
        "correlation": ("<u4", 44), "graph": ("<u4", 72),
    },
    MEMSET: {
        "value": ("<u4", 4), "bytes": ("<u8", 8), "start": ("<u8", 16), "end": ("<u8", 24), "device": ("<u4", 32),
        "context": ("<u4", 36), "stream": ("<u4", 40), "correlation": ("<u4", 44), "destination": ("<u2", 50),
        "graph": ("<u4", 72),
    },
    DRIVER: _API,
    RUNTIME: _API,
    KERNEL: {
        "registers": ("<u2", 6), "start": ("<u8", 16), "end": ("<u8", 24), "completed": ("<u8", 32),
        "device": ("<u4", 40), "context": ("<u4", 44), "stream": ("<u4", 48), "grid_x": ("<i4", 52),
        "grid_y": ("<i4", 56), "grid_z": ("<i4", 60), "block_x": ("<i4", 64), "block_y": ("<i4", 68),
        "block_z": ("<i4", 72), "static_shared": ("<i4", 76), "dynamic_shared": ("<i4", 80),
        "correlation": ("<u4", 92), "name": ("<u8", 104), "graph_node": ("<u8", 144), "graph": ("<u4", 156),
    },
    OVERHEAD: {"what": ("<u4", 4), "start": ("<u8", 24), "end": ("<u8", 32)},
    PEER_MEMCPY: {
        "copy_kind": ("u1", 4), "source": ("u1", 5), "destination": ("u1", 6), "bytes": ("<u8", 8),
        "start": ("<u8", 16), "end": ("<u8", 24), "device": ("<u4", 32), "context": ("<u4", 36), "stream": ("<u4", 40),
        "correlation": ("<u4", 60), "graph": ("<u4", 80),
    },
    SYNCHRONIZATION: {
        "what": ("<u4", 4), "start": ("<u8", 8), "end": ("<u8", 16), "correlation": ("<u4", 24),
        "context": ("<u4", 28), "stream": ("<u4", 32), "event": ("<u4", 36),
    },
    EXTERNAL: {"external_kind": ("<u4", 4), "external": ("<u8", 8), "correlation": ("<u4", 16)},
    GRAPH: {
        "correlation": ("<u4", 4), "start": ("<u8", 8), "end": ("<u8", 16), "device": ("<u4", 24),
        "graph": ("<u4", 28), "context": ("<u4", 32), "stream": ("<u4", 36),
    },
}  # fmt: skip


def _sizes(kernel: int, memcpy: int, synchronization: int, memset: int = 88) -> dict[int, int]:
    return {
        MEMCPY: memcpy, MEMSET: memset, DRIVER: 40, RUNTIME: 40, KERNEL: kernel, OVERHEAD: 56, PEER_MEMCPY: 96,
        SYNCHRONIZATION: synchronization, EXTERNAL: 24, GRAPH: 56,
    }  # fmt: skip


#: Version (``cuptiGetVersion``) -> kind -> bytes of a record.
SIZES: dict[int, dict[int, int]] = {
    22: _sizes(208, 88, 40),  # CUDA 12.4
    23: _sizes(208, 88, 40),  # 12.5
    24: _sizes(208, 88, 40),  # 12.6
    26: _sizes(208, 96, 56),  # 12.8
    27: _sizes(208, 96, 56),  # 12.9
    28: _sizes(208, 96, 56),  # 12.9 update 1
    130000: _sizes(216, 96, 56),
    130001: _sizes(216, 96, 56),
    130101: _sizes(224, 96, 56),
    130202: _sizes(224, 96, 56),
    130301: _sizes(232, 96, 56),
    130401: _sizes(248, 112, 56, 104),
}


class UnknownVersionError(RaySystemError):
    """The records of this CUPTI version have lengths nobody here knows, so they are not read."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One version: ``words[kind]`` is the length of a record in 8-byte words (0: unknown), ``types`` how to see it."""

    version: int
    words: tuple[int, ...]
    types: dict[int, np.dtype[Any]]


def layout(version: int) -> Layout:
    """The layout of a version. Raises UnknownVersionError for one that is not known."""
    sizes = SIZES.get(version)
    if sizes is None:
        raise UnknownVersionError(
            f"CUPTI reports interface version {version}; the lengths of its records are known here for "
            f"{', '.join(map(str, SIZES))} only, and reading them with others would invent kernels. "
            "Install a CUPTI of one of these (CUDA 12.4 to 13.4), or set gpu_telemetry=off."
        )
    words = [0] * 256
    types = {}
    for kind, size in sizes.items():
        words[kind] = size // 8
        fields = FIELDS[kind]
        types[kind] = np.dtype(
            {
                "names": list(fields),
                "formats": [code for code, _ in fields.values()],
                "offsets": [offset for _, offset in fields.values()],
                "itemsize": size,
            }
        )
    return Layout(version, tuple(words), types)
