"""From the raw GPU records that workers wrote to events: the collector's end of ``obsray/gpu``.

Each worker that owns a GPU has a *stream*: the chunks of its files, in order. A stream is known in the catalogue like
a ring, under an id of its own (``stream_id``), so that what is stored is committed together with how far its raw
chunks are taken, and a reader gets each record once.

A buffer is turned into events ``SETTLE_NS`` after it was given back, or as soon as its worker is gone: by then the
marks and calls that say whose work it holds are there too, whichever buffer or chunk they came in.
"""

from __future__ import annotations

import ctypes
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from obsray.gpu import chunks
from obsray.gpu.attribution import MARK, OPEN, Answer, Attributor
from obsray.gpu.chunks import Chunk
from obsray.gpu.layouts import DRIVER, RUNTIME, UnknownVersionError, layout
from obsray.gpu.parse import Records, parse
from obsray.gpu.words import Interface, Stage
from obsray.telemetry.columns import Array, Batch, Columns, Texts, concat
from obsray.telemetry.events import BY_NAME, CODES, ProcessKind
from obsray.telemetry.rings import RingDirectory, RingState

#: How long a buffer waits for what other chunks know about it.
SETTLE_NS = 500_000_000
#: Longest kernel name that is stored.
KERNEL_NAME_MAX = 1000
#: A stream's id is its worker's, with these bits turned round.
_STREAM_MARK = int.from_bytes(b"GPUSTREA", "little")
#: More GPUs than a process can see.
_GPUS_MAX = 256

#: Told of a worker's records that are lost.
Lost = Callable[[bytes, int, Stage], None]

log = logging.getLogger("obsray.collector")


def stream_id(worker: bytes) -> bytes:
    """The id under which a worker's GPU records are counted and stored; of a stream it gives the worker's."""
    return (int.from_bytes(worker, "little") ^ _STREAM_MARK).to_bytes(8, "little")


@dataclass
class Stream:
    """The raw records of one worker."""

    worker: bytes
    state: RingState
    attributor: Attributor = field(default_factory=Attributor)
    kernel_names: dict[int, int] = field(default_factory=dict)
    call_names: dict[tuple[int, int], int] = field(default_factory=dict)
    gpus: Array = field(default_factory=lambda: np.arange(_GPUS_MAX, dtype=np.uint8))
    #: Buffers that wait, with what was read in them.
    waiting: list[tuple[Chunk, Records]] = field(default_factory=list)
    calls_wanted: bool = False
    #: The file being read and where; the last chunk of each file.
    file: int = 0
    offset: int = 0
    last_chunks: dict[int, int] = field(default_factory=dict)
    #: The worker was gone before its files were read for the last time.
    complete: bool = False
    refused: bool = False


class GpuStreams:
    """All streams of a session. ``poll`` gives what is new as events."""

    def __init__(self, rings: RingDirectory, texts: Texts, lost: Lost | None = None) -> None:
        self.rings = rings
        self.texts = texts
        self.streams: dict[bytes, Stream] = {}
        self._lost = lost
        self._known: dict[bytes, RingState] = {}

    def resume(self, states: dict[str, RingState]) -> None:
        """Go on where an earlier collector committed: its chunks are read again for what they know, and not stored
        again."""
        for name, state in states.items():
            if state.kind == ProcessKind.GPU_STREAM:
                self._known[bytes.fromhex(name)] = RingState.from_json(name, state.to_json())

    def states(self) -> list[RingState]:
        return [stream.state for stream in self.streams.values()]

    def poll(self, settled: bool = False) -> tuple[Batch, int]:
        """What became ready, and how many records that is; with ``settled`` nothing is waited for any more."""
        now = time.time_ns() + (1 << 62 if settled else 0)
        parts: dict[str, list[Columns]] = {}
        count = 0
        for worker in self._workers():
            stream = self.streams.get(worker)
            if stream is None:
                identifier = stream_id(worker)
                state = self._known.get(identifier) or RingState(identifier, kind=int(ProcessKind.GPU_STREAM))
                stream = self.streams[worker] = Stream(worker, state)
            # Asked before reading: what a worker wrote before it died is then sure to be seen.
            gone = self._gone(worker)
            self._read(stream)
            stream.complete = gone
            for name, columns in self._ready(stream, now, gone):
                parts.setdefault(name, []).append(columns)
                count += len(columns)
        return {name: concat(columns) for name, columns in parts.items()}, count

    def delete_taken(self) -> None:
        """Delete files of which everything is stored. Call after a commit."""
        for worker, stream in self.streams.items():
            waits = stream.waiting[0][0].number if stream.waiting else None
            for path in chunks.files(self.rings.directory, worker):
                number = _number(path)
                last = stream.last_chunks.get(number, 0)
                if (number < stream.file or stream.complete) and (waits is None or waits > last):
                    path.unlink(missing_ok=True)

    def _workers(self) -> list[bytes]:
        found = {path.name.partition(".")[0] for path in self.rings.directory.glob(f"*.{chunks.SUFFIX}")}
        return [bytes.fromhex(name) for name in sorted(found) if len(name) == 16]

    def _gone(self, worker: bytes) -> bool:
        reader = self.rings.readers.get(worker)
        return reader is None or reader.state.closed or not self.rings.alive(worker)

    # --- reading ----------------------------------------------------------------------------------------------------

    def _read(self, stream: Stream) -> None:
        for path in chunks.files(self.rings.directory, stream.worker):
            number = _number(path)
            if number < stream.file:
                continue
            if number > stream.file:
                stream.file, stream.offset = number, 0
            try:
                found, stream.offset = chunks.read(path, stream.offset)
            except FileNotFoundError:
                continue
            for chunk in found:
                stream.last_chunks[number] = chunk.number
                self._take(stream, chunk)

    def _take(self, stream: Stream, chunk: Chunk) -> None:
        if chunk.kind == chunks.FACTS:
            facts = json.loads(bytes(chunk.payload))
            for place, gpu in enumerate(facts.get("devices", ())[:_GPUS_MAX]):
                stream.gpus[place] = min(int(gpu), _GPUS_MAX - 1)
            stream.calls_wanted = facts.get("level") == "full"
        elif chunk.kind == chunks.NAMES:
            self._take_names(stream, chunk)
        elif chunk.kind == chunks.MARKS:
            stream.attributor.add_marks(_marks(chunk.payload))
        elif chunk.kind == chunks.BUFFER:
            self._take_buffer(stream, chunk)
        if chunk.lost and chunk.number > stream.state.chunks:
            stream.state.dropped += chunk.lost
            stream.state.position += chunk.lost

    def _lose(self, stream: Stream, records: int, stage: Stage) -> None:
        """Records that arrived and are none: counted like those that the worker could not hand over."""
        stream.state.dropped += records
        stream.state.position += records
        if self._lost is not None:
            self._lost(stream.worker, records, stage)

    def _take_names(self, stream: Stream, chunk: Chunk) -> None:
        for space, key, text in chunks.names(chunk.payload):
            if space == chunks.KERNEL_NAMES:
                stream.kernel_names[key] = self.texts.code(demangled(text)[:KERNEL_NAME_MAX])
            else:
                stream.call_names[space, key] = self.texts.code(text)

    def _take_buffer(self, stream: Stream, chunk: Chunk) -> None:
        try:
            records = parse(chunk.payload, layout(chunk.version), chunk.since_ns, chunk.until_ns)
        except UnknownVersionError as error:
            if not stream.refused:
                stream.refused = True
                log.error("GPU records of worker %s are not read: %s", stream.worker.hex(), error)
            return
        if chunk.number > stream.state.chunks:
            if records.unread_bytes:
                log.error(
                    "%d bytes of GPU records of worker %s make no sense", records.unread_bytes, stream.worker.hex()
                )
                # How many records they were nobody can tell any more; that there were some is what is said.
                self._lose(stream, 1, Stage.READING)
            if records.incomplete:
                self._lose(stream, records.incomplete, Stage.CUPTI)
        stream.attributor.add_records(records)
        stream.waiting.append((chunk, records))

    # --- events -----------------------------------------------------------------------------------------------------

    def _ready(self, stream: Stream, now: int, gone: bool) -> list[tuple[str, Columns]]:
        found: list[tuple[str, Columns]] = []
        while stream.waiting and (gone or now - stream.waiting[0][0].until_ns > SETTLE_NS):
            chunk, records = stream.waiting.pop(0)
            if chunk.number <= stream.state.chunks:
                continue  # stored by an earlier collector
            found += self._events(stream, records)
            stream.state.chunks = chunk.number
            stream.state.last_at_ns = chunk.until_ns
        return found

    def _events(self, stream: Stream, records: Records) -> list[tuple[str, Columns]]:
        made = [
            ("gpu_kernel", self._kernels(stream, records.kernels)),
            ("gpu_copy", self._copies(stream, records.copies)),
            ("gpu_copy", self._copies(stream, records.peer_copies)),
            ("gpu_memset", self._memsets(stream, records.memsets)),
            ("gpu_wait", self._waits(stream, records.synchronizations)),
        ]
        if stream.calls_wanted:
            made.append(("gpu_call", self._calls(stream, records.driver_calls, DRIVER)))
            made.append(("gpu_call", self._calls(stream, records.runtime_calls, RUNTIME)))
        found = []
        for name, arrays in made:
            count = len(arrays["time_ns"]) if arrays else 0
            if not count:
                continue
            state = stream.state
            arrays["process"] = np.full(count, np.frombuffer(state.process, "V8")[0])
            arrays["sequence"] = np.arange(state.position + 1, state.position + count + 1, dtype=np.uint64)
            state.position += count
            state.records += count
            found.append((name, _columns(name, arrays)))
        return found

    def _work(self, stream: Stream, records: Array, seconds: str) -> tuple[dict[str, Array], Answer]:
        """The fields that all kinds of work have."""
        answer = stream.attributor.attribute(records)
        rows = stream.attributor.rows
        own = answer.mark >= 0
        marks = rows[np.maximum(answer.mark, 0)] if len(rows) else np.zeros(len(records), MARK)
        reader = self.rings.readers.get(stream.worker)
        names = np.zeros(len(records), np.int32)
        if reader is not None and own.any():
            numbers, back = np.unique(marks["name"], return_inverse=True)
            names = np.array([self.texts.code(reader.text(int(n))) for n in numbers], np.int32)[back]
        arrays = {
            "time_ns": records["start"],
            "worker": np.full(len(records), np.frombuffer(stream.worker, "V8")[0]),
            "task": np.where(own, marks["task"], np.zeros(1, "V16")),
            "attempt": np.where(own, marks["attempt"], 0),
            "attributed_by": answer.how,
            "function": np.where(own, names, 0),
            "correlation": records["correlation"],
            "ended_at": records["end"],
            seconds: (records["end"] - records["start"]) / 1e9,
        }
        if "stream" in (records.dtype.names or ()):
            arrays["stream"] = records["stream"]
        return arrays, answer

    def _kernels(self, stream: Stream, records: Array) -> dict[str, Array]:
        if not len(records):
            return {}
        arrays, answer = self._work(stream, records, "kernel_seconds")
        pointers, back = np.unique(records["name"], return_inverse=True)
        codes = [stream.kernel_names.get(p) or self.texts.code(f"kernel at {p:#x}") for p in pointers.tolist()]
        for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "registers", "graph"):
            arrays[name] = records[name]
        return {
            **arrays,
            "gpu": stream.gpus[np.minimum(records["device"], _GPUS_MAX - 1)],
            "kernel": np.array(codes, np.int32)[back],
            "launched_at": answer.launched_at,
            "shared_bytes": records["static_shared"] + records["dynamic_shared"],
        }

    def _copies(self, stream: Stream, records: Array) -> dict[str, Array]:
        if not len(records):
            return {}
        arrays, answer = self._work(stream, records, "copy_seconds")
        return {
            **arrays,
            "gpu": stream.gpus[np.minimum(records["device"], _GPUS_MAX - 1)],
            "direction": records["copy_kind"],
            "source": records["source"],
            "destination": records["destination"],
            "launched_at": answer.launched_at,
            "copy_bytes": records["bytes"],
            "graph": records["graph"],
        }

    def _memsets(self, stream: Stream, records: Array) -> dict[str, Array]:
        if not len(records):
            return {}
        arrays, answer = self._work(stream, records, "memset_seconds")
        return {
            **arrays,
            "gpu": stream.gpus[np.minimum(records["device"], _GPUS_MAX - 1)],
            "destination": np.minimum(records["destination"], 255),
            "launched_at": answer.launched_at,
            "memset_bytes": records["bytes"],
            "graph": records["graph"],
        }

    def _waits(self, stream: Stream, records: Array) -> dict[str, Array]:
        if not len(records):
            return {}
        arrays, _ = self._work(stream, records, "wait_seconds")
        return {**arrays, "waiting_for": np.minimum(records["what"], 255)}

    def _calls(self, stream: Stream, records: Array, kind: int) -> dict[str, Array]:
        if not len(records):
            return {}
        arrays, _ = self._work(stream, records, "call_seconds")
        space = chunks.DRIVER_CALLS if kind == DRIVER else chunks.RUNTIME_CALLS
        numbers, back = np.unique(records["cbid"], return_inverse=True)
        codes = [stream.call_names.get((space, n)) or self.texts.code(f"call {n}") for n in numbers.tolist()]
        interface = Interface.DRIVER if kind == DRIVER else Interface.RUNTIME
        return {
            **arrays,
            "interface": np.full(len(records), int(interface)),
            "call": np.array(codes, np.int32)[back],
            "thread": records["thread"],
            "result": records["result"],
        }


def _marks(payload: memoryview) -> Array:
    whole = len(payload) // chunks.MARK.size * chunks.MARK.size
    return np.array(
        [
            (number, started, ended or OPEN, thread, attempt, name, task)
            for number, started, ended, thread, attempt, _, name, _, task in chunks.MARK.iter_unpack(payload[:whole])
        ],
        MARK,
    )


def _columns(name: str, arrays: dict[str, Array]) -> Columns:
    """Columns of the types that the event's fields have."""
    event = BY_NAME[name]
    for each in event.fields:
        code = np.int32 if each.code == "str" else np.dtype(CODES[each.code][1])
        arrays[each.name] = np.ascontiguousarray(arrays[each.name].astype(code))
    arrays["time_ns"] = np.ascontiguousarray(arrays["time_ns"].astype(np.uint64))
    return Columns(event, arrays)


def _number(path: Path) -> int:
    return int(path.name.split(".")[1])


def demangled(name: str) -> str:
    """The name of a C++ function as it is written in a program, where the C++ library is there to say so."""
    if not name.startswith("_Z"):
        return name
    demangle, free = _demangler()
    if demangle is None:
        return name
    status = ctypes.c_int()
    found = demangle(name.encode(), None, None, ctypes.byref(status))
    if not found:
        return name
    text = ctypes.string_at(found).decode("utf-8", "replace")
    free(found)
    return text


def _demangler() -> tuple[Any, Any]:
    try:
        demangle = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    except (OSError, AttributeError):
        return None, None
    demangle.restype = ctypes.c_void_p
    demangle.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))
    free = ctypes.CDLL(None).free
    free.argtypes = (ctypes.c_void_p,)
    return demangle, free
