"""All work of GPUs as slices on lanes, one lane for each stream of a process: what timelines are drawn of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from obsray.gpu.words import Attribution, Direction
from obsray.telemetry.answers.attempts import node_of
from obsray.telemetry.store import joined

if TYPE_CHECKING:
    from obsray.telemetry.columns import Array
    from obsray.telemetry.views import Views

_HOW = np.array([how.name.lower() for how in Attribution])
_DIRECTIONS = [direction.name.lower() for direction in Direction]


@dataclass(frozen=True, slots=True)
class GpuWork:
    """Work by time: ``device`` and ``lane`` are indices into ``devices`` (id, name) and ``lanes`` (its device, name);
    ``name`` one into ``names``. Times are nanoseconds; ``launched`` is 0 where it is not known."""

    device: Array
    lane: Array
    start: Array
    end: Array
    launched: Array
    task: Array
    attempt: Array
    how: Array
    name: Array
    devices: list[tuple[bytes, str]]
    lanes: list[tuple[int, str]]
    names: list[str]

    def __len__(self) -> int:
        return len(self.start)


def gpu_work(view: Views) -> GpuWork:
    """All kernels, copies and fills of a session."""
    parts: dict[str, list[Array]] = {}
    names: dict[str, int] = {}
    for event in ("gpu_kernel", "gpu_copy", "gpu_memset"):
        columns = joined(view.store.select(event), event)
        found = {name: columns[name] for name in ("task", "attempt", "worker")}
        found |= {
            "start": columns["time_ns"].astype(np.int64), "end": columns["ended_at"].astype(np.int64),
            "launched": columns["launched_at"].astype(np.int64), "gpu": columns["gpu"].astype(np.int64),
            "stream": columns["stream"].astype(np.int64),
            "how": np.minimum(columns["attributed_by"], len(_HOW) - 1).astype(np.int64),
        }  # fmt: skip
        coded = {"gpu_kernel": "kernel", "gpu_copy": "direction", "gpu_memset": "destination"}[event]
        different, back = np.unique(columns[coded], return_inverse=True)
        texts = [_name(view, event, code) for code in different.tolist()]
        numbers = np.array([names.setdefault(text, len(names)) for text in texts], np.int64)
        found["name"] = numbers[back.ravel()] if len(numbers) else np.empty(0, np.int64)
        for name, values in found.items():
            parts.setdefault(name, []).append(values)
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    order = np.argsort(whole["start"], kind="stable")
    whole = {name: values[order] for name, values in whole.items()}
    words, worker = np.unique(np.ascontiguousarray(whole["worker"]).view("<u8"), return_inverse=True)
    workers = [int(word).to_bytes(8, "little") for word in words.tolist()]
    devices, device = _devices(view, workers, worker.ravel(), whole["gpu"])
    keys = device << 48 | worker.ravel() << 32 | whole["stream"]
    different, lane = np.unique(keys, return_inverse=True)
    several = np.bincount(np.unique(keys >> 32) >> 16, minlength=len(devices)) if len(keys) else keys
    lanes = []
    for key in different.tolist():
        of, who = key >> 48, workers[key >> 32 & 0xFFFF].hex()[:8]
        lanes.append((of, f"stream {key & 0xFFFFFFFF}" + (f" of worker {who}" if several[of] > 1 else "")))
    return GpuWork(
        device, lane.ravel(), whole["start"], np.maximum(whole["end"], whole["start"]), whole["launched"],
        whole["task"], whole["attempt"], whole["how"], whole["name"], devices, lanes, list(names),
    )  # fmt: skip


def how_texts(how: Array) -> Array:
    """How the task of each piece of work is known, in words."""
    found: Array = _HOW[how]
    return found


def _name(view: Views, event: str, code: int) -> str:
    if event == "gpu_kernel":
        return view.store.texts[code]
    if event == "gpu_copy":
        return f"copy {_DIRECTIONS[code] if code < len(_DIRECTIONS) else 'unknown'}"
    return "fill"


def _devices(view: Views, workers: list[bytes], worker: Array, gpu: Array) -> tuple[list[tuple[bytes, str]], Array]:
    """GPUs, each with an id like those of processes."""
    nodes = {each.worker: each.node for each in view.gpu_table.reservations}
    of = [nodes.get(each) or node_of(view, each) for each in workers]
    known = sorted(set(of))
    numbers = np.array([known.index(node) for node in of] or [0], np.int64)
    keys = numbers[worker] << 16 | gpu if len(gpu) else gpu
    different, device = np.unique(keys, return_inverse=True)
    found = []
    for key in different.tolist():
        node, number = known[key >> 16], key & 0xFFFF
        identifier = b"GPU" + number.to_bytes(2, "big") + (node or bytes(8))[:3]
        found.append((identifier, f"GPU {number} of node {node.hex()[:8]}" if any(node) else f"GPU {number}"))
    return found, device.ravel()
