"""Metrics as the bytes of OTLP (``ExportMetricsServiceRequest``): the families that ``/metrics`` serves, cumulative.

Names are those of the exposition without ``_total``, units those of UCUM: a receiver that makes Prometheus' names of
them arrives at the names that are scraped, so the same rules and dashboards hold.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import Exemplar, Metric
from prometheus_client.samples import Sample

from obsray.export.otlp import SCHEMA_URL, attribute, piece
from obsray.version import VERSION

#: Requests are cut after about so many bytes: receivers over gRPC take 4 MiB.
REQUEST_BYTES = 1 << 20
_UNITS = {"seconds": "s", "bytes": "By", "celsius": "Cel", "watts": "W", "joules": "J", "hertz": "Hz"}
_CUMULATIVE = b"\x10\x02"
_MONOTONIC = b"\x18\x01"
_FIXED64 = struct.Struct("<Q").pack
_DOUBLE = struct.Struct("<d").pack
_SIGNED64 = struct.Struct("<q").pack
_SCOPE = piece(1, piece(1, b"obsray") + piece(2, VERSION.encode()))

#: The name of a family -> since when it counts, in nanoseconds.
Started = Callable[[str], int]


def requests(
    families: Iterable[Metric], resource: bytes, common: dict[str, str], started: Started, now_ns: int,
    exemplars: bool = True,
) -> Iterator[tuple[bytes, int]]:  # fmt: skip
    """Requests with all ``families`` as they are at ``now_ns``, and how many points each has.

    ``common``: attributes of every point. What is said twice of a point is said by the family.
    """
    parts: list[bytes] = []
    size = count = 0
    for family in families:
        # What is an info for Prometheus is a gauge of 1 here, under the name that is scraped.
        name = f"{family.name}_info" if family.type == "info" else family.name
        head = piece(1, name.encode()) + piece(2, family.documentation.encode())
        head += piece(3, _unit(family).encode()) if _unit(family) else b""
        for points in _cut(_points(family, common, started(family.name), now_ns, exemplars)):
            metric = piece(2, head + _data(family.type, points))
            parts.append(metric)
            size, count = size + len(metric), count + len(points)
            if size >= REQUEST_BYTES:
                yield _request(resource, parts), count
                parts, size, count = [], 0, 0
    if parts:
        yield _request(resource, parts), count


def _request(resource: bytes, metrics: list[bytes]) -> bytes:
    scope = piece(2, _SCOPE + b"".join(metrics))
    return piece(1, piece(1, resource) + scope + piece(3, SCHEMA_URL.encode()))


def _unit(family: Metric) -> str:
    last = family.name.rpartition("_")[2]
    return "1" if last == "ratio" and family.type == "gauge" else _UNITS.get(last, "")


def _cut(points: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Points of one family in pieces that a request holds."""
    found: list[bytes] = []
    size = 0
    for point in points:
        found.append(point)
        size += len(point)
        if size >= REQUEST_BYTES:
            yield found
            found, size = [], 0
    if found:
        yield found


def _data(kind: str, points: list[bytes]) -> bytes:
    body = b"".join(piece(1, point) for point in points)
    if kind == "counter":
        return piece(7, body + _CUMULATIVE + _MONOTONIC)
    if kind == "histogram":
        return piece(9, body + _CUMULATIVE)
    return piece(5, body)


def _points(family: Metric, common: dict[str, str], started_ns: int, now_ns: int, exemplars: bool) -> Iterator[bytes]:
    if family.type == "histogram":
        for labels, samples in _histograms(family.samples):
            yield _histogram_point({**common, **labels}, samples, started_ns, now_ns, exemplars)
        return
    began = b"\x11" + _FIXED64(started_ns) if family.type == "counter" else b""
    for sample in family.samples:
        value = sample.value
        # A number that is whole stays exact.
        number = b"\x31" + _SIGNED64(value) if isinstance(value, int) else b"\x21" + _DOUBLE(value)
        yield _attributes(7, {**common, **sample.labels}) + began + b"\x19" + _FIXED64(now_ns) + number


def _attributes(field: int, labels: dict[str, str]) -> bytes:
    return b"".join(piece(field, attribute(key, value)) for key, value in labels.items())


def _histograms(samples: list[Sample]) -> Iterator[tuple[dict[str, str], list[Sample]]]:
    """The samples of each histogram of a family, which stand one behind the other."""

    def key(sample: Sample) -> list[tuple[str, str]]:
        return [item for item in sample.labels.items() if item[0] != "le"]

    for labels, found in itertools.groupby(samples, key):
        yield dict(labels), list(found)


def _histogram_point(
    labels: dict[str, str], samples: list[Sample], started_ns: int, now_ns: int, exemplars: bool
) -> bytes:
    buckets = [sample for sample in samples if sample.name.endswith("_bucket")]
    total = [b"\x29" + _DOUBLE(sample.value) for sample in samples if sample.name.endswith("_sum")]
    below = [int(bucket.value) for bucket in buckets]
    counts = [upper - lower for upper, lower in zip(below, [0, *below], strict=False)]
    bounds = [float(bucket.labels["le"]) for bucket in buckets[:-1]]
    parts = [
        _attributes(9, labels), b"\x11", _FIXED64(started_ns), b"\x19", _FIXED64(now_ns), b"\x21", _FIXED64(below[-1]),
        *total, piece(6, b"".join(map(_FIXED64, counts))),
        piece(7, b"".join(map(_DOUBLE, bounds))),
    ]  # fmt: skip
    if exemplars:
        parts += [piece(8, _exemplar(bucket.exemplar)) for bucket in buckets if bucket.exemplar is not None]
    return b"".join(parts)


def _exemplar(exemplar: Exemplar) -> bytes:
    labels = dict(exemplar.labels)
    trace, span = labels.pop("trace_id", ""), labels.pop("span_id", "")
    at = exemplar.timestamp
    return b"".join(
        (
            _attributes(7, labels), b"" if at is None else b"\x11" + _FIXED64(int(float(at) * 1e9)),
            b"\x19" + _DOUBLE(exemplar.value),
            piece(4, bytes.fromhex(span)) if span else b"", piece(5, bytes.fromhex(trace)) if trace else b"",
        )
    )  # fmt: skip
