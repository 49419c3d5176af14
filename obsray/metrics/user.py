"""Metrics of user code out of their ``user_metric`` events: bounded, whatever tags users think of.

A family is named by its first record; later records of that name with another type, other tags or other boundaries, and
families of which a series would be called like one of another family (a gauge ``x_total`` beside a counter ``x``), are
kept in the store but not served. At most ``FAMILIES_MAX`` families, ``SERIES_MAX`` combinations of tag values each;
what comes later is counted under ``other``. A gauge shows the newest value, whichever process set it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from obsray.metrics.catalog import OTHER
from obsray.telemetry.columns import Array, Columns, Texts

PREFIX = "obsray_user_"
FAMILIES_MAX = 200
SERIES_MAX = 200
BOUNDARIES_MAX = 200
_COUNTER, _GAUGE, _HISTOGRAM = range(3)
#: What stands behind the name of a family in those of its series.
_ENDS = {_COUNTER: ("_total", "_created"), _GAUGE: (), _HISTOGRAM: ("_bucket", "_count", "_sum", "_created")}
_TYPES = {_COUNTER: CounterMetricFamily, _GAUGE: GaugeMetricFamily, _HISTOGRAM: HistogramMetricFamily}


class _Series:
    """One combination of tag values."""

    def __init__(self, buckets: int) -> None:
        self.value = 0.0
        self.time_ns = 0
        self.counts = np.zeros(buckets, np.int64)


class _Family:
    def __init__(self, name: str, instrument: int, definition: dict[str, Any]) -> None:
        self.name = PREFIX + name
        self.instrument = instrument
        self.definition = definition
        self.tag_keys = [str(key) for key in definition["tag_keys"]]
        self.edges = np.array(definition.get("boundaries", ()), np.float64)
        self.series: dict[tuple[str, ...], _Series] = {}

    def of(self, tags: dict[str, str]) -> _Series:
        values = tuple(str(tags.get(key, "")) for key in self.tag_keys)
        if values not in self.series and len(self.series) >= SERIES_MAX:
            values = (OTHER,) * len(self.tag_keys)
        return self.series.setdefault(values, _Series(len(self.edges) + 1))

    def add(self, series: _Series, values: Array, times: Array) -> None:
        if self.instrument == _GAUGE:
            newest = int(np.argmax(times))
            if int(times[newest]) >= series.time_ns:
                series.value, series.time_ns = float(values[newest]), int(times[newest])
            return
        series.value += float(values.sum())
        if self.instrument == _HISTOGRAM:
            buckets = np.searchsorted(self.edges, values, side="left")
            series.counts += np.bincount(buckets, minlength=len(series.counts))

    def names(self) -> set[str]:
        """What it and its series are called. Raises ValueError for a name that cannot be exposed."""
        name = self.exposed().name
        return {name, *(name + end for end in _ENDS[self.instrument])}

    def exposed(self) -> Metric:
        family: Any = _TYPES[self.instrument](
            self.name, str(self.definition.get("description") or self.name), labels=self.tag_keys
        )
        bounds = [*(f"{edge:g}" if edge != int(edge) else f"{edge:.1f}" for edge in self.edges), "+Inf"]
        for labels, series in self.series.items():
            if self.instrument == _HISTOGRAM:
                buckets = list(zip(bounds, np.cumsum(series.counts).tolist(), strict=True))
                family.add_metric(labels, buckets=buckets, sum_value=series.value)
            else:
                family.add_metric(labels, series.value)
        found: Metric = family
        return found


class UserSeries:
    """All metrics of user code. ``update`` folds the ``user_metric`` records of a batch."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self._families: dict[int, _Family] = {}
        #: What families and their series are called.
        self._taken: set[str] = set()
        #: (name, tags, instrument, definition) -> where its values go; None if they are not served.
        self._places: dict[tuple[int, ...], tuple[_Family, _Series] | None] = {}

    def __len__(self) -> int:
        return len(self._families)

    def update(self, columns: Columns) -> None:
        """Fold the new records, group by group of equal texts."""
        keys = np.stack(
            [columns[name].astype(np.int64) for name in ("name", "tags", "instrument", "definition")], axis=1
        )
        groups, first, members = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(members, kind="stable")
        ends = np.searchsorted(members[order], np.arange(len(groups) + 1))
        # Who was first names a family.
        for number in np.argsort(first).tolist():
            place = self._place(tuple(groups[number].tolist()))
            if place is not None:
                rows = order[ends[number] : ends[number + 1]]
                place[0].add(place[1], columns["value"][rows], columns["time_ns"][rows])

    def _place(self, key: tuple[int, ...]) -> tuple[_Family, _Series] | None:
        if key in self._places:
            return self._places[key]
        name, tags, instrument, definition = key
        place = None
        try:
            family = self._family(name, instrument, json.loads(self.texts[definition]))
            if family is not None:
                place = family, family.of(json.loads(self.texts[tags]))
        except (ValueError, TypeError, KeyError, AttributeError):
            # A text cut short by a kill, or a record that something else wrote.
            place = None
        self._places[key] = place
        return place

    def _family(self, name: int, instrument: int, definition: dict[str, Any]) -> _Family | None:
        family = self._families.get(name)
        if family is None:
            if len(self._families) >= FAMILIES_MAX or instrument not in _TYPES:
                return None
            if len(definition.get("boundaries", ())) > BOUNDARIES_MAX:
                return None
            family = _Family(self.texts[name], instrument, definition)
            names = family.names()
            if names & self._taken:
                return None
            self._taken |= names
            self._families[name] = family
        shape = (family.instrument, family.definition["tag_keys"], family.definition.get("boundaries"))
        return family if shape == (instrument, definition["tag_keys"], definition.get("boundaries")) else None

    def families(self) -> Iterator[Metric]:
        """What is served, in the order in which it first appeared."""
        for family in self._families.values():
            yield family.exposed()
