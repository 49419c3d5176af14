"""Events as columns: what records become once more than a handful of them is looked at.

A ``Columns`` holds the records of one kind, one numpy array per field: ids as raw bytes (``V8``, ``V16``, ``V20``),
numbers as they lie in the record, text as ``int32`` codes of a ``Texts`` shared by everything one reader holds.
``time_ns``, ``process`` (``V8``) and ``sequence`` (``u8``, absolute) come first in every kind.

Arrow is the stored form: ids are ``fixed_size_binary``, text is dictionary-encoded with only the entries a batch
uses, enumerations stay small integers. Both directions copy whole buffers; nothing here looks at single rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from obsray.telemetry.events import BY_NAME, CODES, EVENTS, RECORD_BYTES, Event, Field

Array = np.ndarray[Any, np.dtype[Any]]

#: Columns that every kind has before its own fields, with their numpy types.
COMMON: dict[str, str] = {"time_ns": "<u8", "process": "V8", "sequence": "<u8"}

_BLOCK_RECORDS = 1024
_ID_BYTES = {"id8": 8, "id16": 16, "id20": 20}
_ARROW: dict[str, Any] = {
    "u8": pa.uint8(),
    "u16": pa.uint16(),
    "u32": pa.uint32(),
    "u64": pa.uint64(),
    "i32": pa.int32(),
    "f32": pa.float32(),
    "f64": pa.float64(),
    "str": pa.dictionary(pa.int32(), pa.string()),
}


class Texts:
    """Text <-> code, for everything one reader holds. Code 0 is the empty string."""

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        self._codes: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, code: int) -> str:
        return self.texts[code]

    def code(self, text: str) -> int:
        """The code of ``text``, given now if it is new."""
        code = self._codes.get(text)
        if code is None:
            code = self._codes[text] = len(self.texts)
            self.texts.append(text)
        return code

    def find(self, text: str) -> int | None:
        """The code of ``text`` or None if nothing holds it."""
        return self._codes.get(text)

    def codes(self, texts: Iterable[str | None]) -> Array:
        return np.fromiter((self.code(text or "") for text in texts), np.int32)


class Columns:
    """Records of one kind: ``columns["field"]`` is an array of ``len(columns)`` values."""

    __slots__ = ("arrays", "event", "length")

    def __init__(self, event: Event, arrays: dict[str, Array]) -> None:
        self.event = event
        self.arrays = arrays
        self.length = len(arrays["time_ns"])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def take(self, where: Array) -> Columns:
        """The rows a boolean mask or an index array selects."""
        return Columns(self.event, {name: values[where] for name, values in self.arrays.items()})

    def rows(self, texts: Texts) -> list[dict[str, Any]]:
        """Plain dictionaries, for a handful of records: ids as bytes, text resolved, enumerations by name."""
        found = []
        for index in range(self.length):
            row: dict[str, Any] = {
                "time_ns": int(self.arrays["time_ns"][index]),
                "process": self.arrays["process"][index].tobytes(),
                "sequence": int(self.arrays["sequence"][index]),
            }
            for field in self.event.fields:
                row[field.name] = plain(field, self.arrays[field.name][index], texts)
            found.append(row)
        return found


#: What folds are given: the new records of each kind, by event name.
Batch = dict[str, Columns]


def in_order(batch: Batch, events: Sequence[str], texts: Texts) -> list[tuple[int, str, dict[str, Any]]]:
    """The records of rare kinds as (time_ns, event, row), oldest first; of one instant in the order of ``events``."""
    records = [
        (record["time_ns"], order, record)
        for order, event in enumerate(events)
        if event in batch
        for record in batch[event].rows(texts)
    ]
    return [(time_ns, events[order], record) for time_ns, order, record in sorted(records, key=lambda r: r[:2])]


def plain(field: Field, value: Any, texts: Texts) -> Any:
    """One value of a field as a Python value."""
    if field.code in _ID_BYTES:
        return value.tobytes()
    if field.code == "str":
        return texts[int(value)]
    if field.labels is not None:
        try:
            return field.labels(int(value)).name.lower()
        except ValueError:
            return str(int(value))
    return value.item()


def concat(parts: Sequence[Columns]) -> Columns:
    """Several pieces of one kind as one."""
    if len(parts) == 1:
        return parts[0]
    names = parts[0].arrays
    return Columns(parts[0].event, {name: np.concatenate([part.arrays[name] for part in parts]) for name in names})


def empty(event: Event) -> Columns:
    arrays = {name: np.empty(0, code) for name, code in COMMON.items()}
    for field in event.fields:
        arrays[field.name] = np.empty(0, np.int32 if field.code == "str" else CODES[field.code][1])
    return Columns(event, arrays)


# --- records ---------------------------------------------------------------------------------------------


def record_dtype(event: Event) -> np.dtype[Any]:
    """How one record of this kind lies in memory, as a numpy type of ``RECORD_BYTES``."""
    names, formats, offsets = ["time_ns"], ["<u8"], [0]
    for field in event.fields:
        names.append(field.name)
        formats.append(CODES[field.code][1])
        offsets.append(event.offsets[field.name])
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": RECORD_BYTES})


_DTYPES = {kind: record_dtype(event) for kind, event in EVENTS.items()}


def decode(
    records: Array, process: Array, sequence: Array, text_codes: Array, text_base: Array, text_count: Array
) -> tuple[Batch, int]:
    """Split raw records (``n x RECORD_BYTES`` bytes) by kind into columns.

    ``process`` (V8) and ``sequence`` say for each record where it comes from. ``text_codes`` maps the numbers of all
    rings, one ring after the other, to codes; ``text_base`` says for each record where its ring begins there,
    ``text_count`` how many its ring has: what is beyond could not be written, and is no text.
    Returns the batch and how many records were of a kind this version does not know.
    """
    batch: Batch = {}
    kinds = np.ascontiguousarray(records[:, 8:10]).view("<u2").ravel()
    counts = np.bincount(kinds, minlength=1)
    unknown = 0
    for kind in np.flatnonzero(counts):
        event = EVENTS.get(int(kind))
        if event is None:
            unknown += int(counts[kind])
            continue
        rows = np.flatnonzero(kinds == kind)
        found = _columns(records, rows, _DTYPES[event.kind])
        arrays = {"time_ns": found["time_ns"], "process": process[rows], "sequence": sequence[rows]}
        base = count = None
        for field in event.fields:
            values = found[field.name]
            if field.code == "str":
                if base is None or count is None:
                    base, count = text_base[rows], text_count[rows]
                values = text_codes.take(base + np.where(values < count, values, 0), mode="clip")
            arrays[field.name] = values
        batch[event.name] = Columns(event, arrays)
    return batch, unknown


def _columns(records: Array, rows: Array, layout: np.dtype[Any]) -> dict[str, Array]:
    """The fields of some of the records. A few at a time: they stay in the cache while field after field is taken."""
    names = layout.names or ()
    if len(rows) <= _BLOCK_RECORDS:
        block = records[rows].view(layout).ravel()
        return {name: block[name].copy() for name in names}
    found = {name: np.empty(len(rows), layout[name]) for name in names}
    for first in range(0, len(rows), _BLOCK_RECORDS):
        block = records[rows[first : first + _BLOCK_RECORDS]].view(layout).ravel()
        for name in names:
            found[name][first : first + _BLOCK_RECORDS] = block[name]
    return found


# --- arrow -----------------------------------------------------------------------------------------------


def schema(event: Event) -> pa.Schema:
    """The stored form of one kind; enumerations carry their names in the field's metadata."""
    fields = [
        pa.field("time_ns", pa.uint64(), nullable=False),
        pa.field("process", pa.binary(8), nullable=False),
        pa.field("sequence", pa.uint64(), nullable=False),
    ]
    for field in event.fields:
        size = _ID_BYTES.get(field.code)
        kind = pa.binary(size) if size else _ARROW[field.code]
        metadata = {"role": field.role.value}
        if field.labels is not None:
            metadata["labels"] = ",".join(label.name.lower() for label in field.labels)
        fields.append(pa.field(field.name, kind, nullable=False, metadata=metadata))
    return pa.schema(fields, metadata={"kind": str(event.kind), "event": event.name})


SCHEMAS: dict[str, pa.Schema] = {name: schema(event) for name, event in BY_NAME.items()}


def to_arrow(columns: Columns, texts: Texts) -> pa.RecordBatch:
    """Columns as one Arrow batch that needs nothing else to be understood."""
    event, arrays = columns.event, columns.arrays
    made = [
        pa.array(arrays["time_ns"]),
        _fixed(arrays["process"], 8),
        pa.array(arrays["sequence"]),
    ]
    for field in event.fields:
        values = arrays[field.name]
        if field.code in _ID_BYTES:
            made.append(_fixed(values, _ID_BYTES[field.code]))
        elif field.code == "str":
            made.append(_dictionary(values, texts))
        else:
            made.append(pa.array(values))
    return pa.RecordBatch.from_arrays(made, schema=SCHEMAS[event.name])


def from_arrow(batch: pa.RecordBatch | pa.Table, event: Event, texts: Texts) -> Columns:
    """The inverse of ``to_arrow`` for a batch or table of one kind; text is translated to the codes of ``texts``."""
    arrays: dict[str, Array] = {}
    size = batch.num_rows
    for name, code in COMMON.items():
        column = _combined(batch.column(name))
        arrays[name] = _raw(column, 8) if code == "V8" else column.to_numpy(zero_copy_only=False)
    names = set(batch.schema.names)
    for field in event.fields:
        if field.name not in names:  # written before this field was appended to the event
            arrays[field.name] = np.zeros(size, np.int32 if field.code == "str" else CODES[field.code][1])
            continue
        column = _combined(batch.column(field.name))
        if field.code in _ID_BYTES:
            arrays[field.name] = _raw(column, _ID_BYTES[field.code])
        elif field.code == "str":
            if not pa.types.is_dictionary(column.type):
                column = column.dictionary_encode()
            translate = texts.codes(column.dictionary.to_pylist())
            indices = column.indices.to_numpy(zero_copy_only=False)
            arrays[field.name] = translate[indices] if len(translate) else np.zeros(size, np.int32)
        else:
            arrays[field.name] = column.to_numpy(zero_copy_only=False)
    return Columns(event, arrays)


def _combined(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks == 1:
            return column.chunk(0)
        if pa.types.is_dictionary(column.type):
            column = column.unify_dictionaries()
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column


def _fixed(values: Array, size: int) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(size), len(values), [None, pa.py_buffer(np.ascontiguousarray(values).view(np.uint8))]
    )


def fixed_values(column: pa.Array) -> Array:
    """A column of ids as raw bytes, without copying."""
    return _raw(column, column.type.byte_width)


def _raw(column: pa.Array, size: int) -> Array:
    data = column.buffers()[1]
    if data is None:
        return np.empty(0, f"V{size}")
    return np.frombuffer(data, f"V{size}", count=len(column), offset=column.offset * size)


def _dictionary(codes: Array, texts: Texts) -> pa.Array:
    used = np.zeros(len(texts), np.bool_)
    used[codes] = True
    entries = np.flatnonzero(used)
    position = np.empty(len(texts), np.int32)
    position[entries] = np.arange(len(entries), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(position[codes]), pa.array([texts[code] for code in entries.tolist()], pa.string())
    )


def beyond(columns: Columns, positions: dict[bytes, int]) -> Array:
    """Which rows come after the position of their ring."""
    process = columns["process"].view("<u8")
    changes = np.flatnonzero(process[1:] != process[:-1]) + 1
    starts = np.concatenate([[0], changes]) if len(process) else changes
    limits = np.array([positions.get(columns["process"][start].tobytes(), 0) for start in starts], np.uint64)
    lengths = np.diff(np.append(starts, len(process)))
    return columns["sequence"] > np.repeat(limits, lengths)


def after(columns: Columns, positions: dict[bytes, int]) -> Columns:
    """The rows that come after the position of their ring."""
    new = beyond(columns, positions)
    return columns if new.all() else columns.take(new)
