"""A session as Parquet files that need nothing of obsray: one for each table and each kind of event."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from obsray.telemetry.columns import SCHEMAS, fixed_values
from obsray.telemetry.database.relations import BY_NAME
from obsray.telemetry.database.rows import tables
from obsray.telemetry.events import BY_NAME as EVENTS
from obsray.telemetry.views import Views

_UTC = pa.timestamp("ns", "UTC")


def write(views: Views, directory: Path) -> dict[str, int]:
    """Files under ``directory`` (made if it is missing), ``<table>.parquet`` and ``events/<kind>.parquet``; returns
    rows by file. Raises OSError, FileExistsError if there are files already."""
    import pyarrow.parquet as pq

    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty")
    (directory / "events").mkdir(parents=True)
    written = {}
    for name, make in tables(views).items():
        kinds = {column.name: column.kind for column in BY_NAME[name].columns}
        table = _readable(make(), {column for column, kind in kinds.items() if kind == "time"})
        pq.write_table(table, directory / f"{name}.parquet", compression="zstd")
        written[f"{name}.parquet"] = table.num_rows
    found: dict[str, list[pa.RecordBatch]] = {}
    for name, batch in views.store.records(EVENTS):
        found.setdefault(name, []).append(batch)
    for name, batches in found.items():
        table = _readable(pa.Table.from_batches(batches, SCHEMAS[name]), {"time_ns"})
        for field in EVENTS[name].fields:
            if field.labels is not None:
                words = {label.value: label.name.lower() for label in field.labels}
                at = table.schema.get_field_index(field.name)
                values = [words.get(value, str(value)) for value in range(256)]
                codes = table.column(at).cast(pa.int32()).combine_chunks()
                table = table.set_column(
                    at, field.name, pa.DictionaryArray.from_arrays(codes, pa.array(values, pa.string()))
                )
        path = f"events/{name}.parquet"
        pq.write_table(table, directory / path, compression="zstd")
        written[path] = table.num_rows
    return written


def _readable(table: pa.Table, times: set[str]) -> pa.Table:
    """Ids as hex and times as timestamps."""
    for at, column in enumerate(table.schema):
        if pa.types.is_fixed_size_binary(column.type):
            table = table.set_column(at, column.name, _hex(table.column(at)))
        elif column.name in times:
            numbers = pc.fill_null(table.column(at).cast(pa.int64()), 0).combine_chunks()
            values = numbers.to_numpy(zero_copy_only=False)
            table = table.set_column(at, column.name, pa.array(values, mask=values == 0).cast(_UTC))
    return table


def _hex(column: pa.ChunkedArray) -> pa.Array:
    """Ids as hex text, null where there is none."""
    data = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    values = fixed_values(data)
    size = data.type.byte_width
    text = np.frombuffer(np.ascontiguousarray(values).tobytes().hex().encode(), f"S{2 * size}")
    nothing = text == b"00" * size if size else np.zeros(len(text), np.bool_)
    return pa.array(text.astype(f"U{2 * size}"), pa.string(), mask=nothing)
