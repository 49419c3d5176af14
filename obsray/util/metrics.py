"""Metrics of user code: ``Counter``, ``Gauge`` and ``Histogram``, usable in drivers, tasks and actors.

Each recorded value is one ``user_metric`` event in the ring of its process, which outlives the process: a kill loses
nothing that was recorded. ``/metrics`` serves them as ``obsray_user_<name>``; the raw values stay in the store.
"""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

from obsray.core.runtime.session import current_or_none
from obsray.telemetry.spine import Emitter

#: Combinations of tag values of one metric that one process tells apart; the rest is recorded as ``other``.
TAG_SETS_MAX = 1_000
OTHER = "other"

_METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_TAG_KEY = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_NO_TASK = bytes(16)


class Instrument(IntEnum):
    """What kind of metric a recorded value belongs to; the event's ``instrument``."""

    COUNTER = 0
    GAUGE = 1
    HISTOGRAM = 2


class _Recorder:
    """The numbers that stand for a metric's texts in the records of one process."""

    def __init__(self, emitter: Emitter, metric: Metric) -> None:
        self.emitter = emitter
        self.name = emitter.intern(metric._name)
        self.definition = emitter.intern(metric._definition())
        self.tags: dict[tuple[str, ...], int] = {}

    def tag_set(self, keys: tuple[str, ...], values: tuple[str, ...]) -> int:
        if len(self.tags) >= TAG_SETS_MAX:
            values = (OTHER,) * len(keys)
        text = json.dumps(dict(zip(keys, values, strict=True)), separators=(",", ":"), ensure_ascii=False)
        number = self.tags[values] = self.emitter.intern(text)
        return number


class Metric:
    """What counters, gauges and histograms have in common. May be pickled and sent to tasks."""

    _instrument: Instrument

    def __init__(self, name: str, description: str = "", tag_keys: Sequence[str] | None = None) -> None:
        if type(self) is Metric:
            raise TypeError("use Counter, Gauge or Histogram")
        if not isinstance(name, str):
            raise TypeError(f"name={name!r}: must be a string")
        if not name:
            raise ValueError("a metric needs a name")
        #: A name that cannot be exposed ends no program: it is said, and nothing is recorded.
        self._discarded = not _METRIC_NAME.fullmatch(name)
        if self._discarded:
            warnings.warn(
                f"metric {name!r} is not recorded: its name must be letters, digits, '_' and ':', and not begin with "
                "a digit",
                RuntimeWarning,
                stacklevel=3 if self._instrument is Instrument.HISTOGRAM else 2,
            )
        if not isinstance(tag_keys, (tuple, list, type(None))) or not all(
            isinstance(key, str) for key in tag_keys or ()
        ):
            raise TypeError(f"tag_keys={tag_keys!r}: must be a tuple of strings")
        self._name = name
        self._description = str(description)
        self._tag_keys = tuple(tag_keys or ())
        self._default_tags: dict[str, str] = {}
        self._recorder: _Recorder | None = None
        for key in self._tag_keys:
            if not _TAG_KEY.fullmatch(key) or key == "le":
                raise ValueError(f"tag_keys: {key!r} must be letters, digits and '_', not begin with '__', not be 'le'")
        if len(set(self._tag_keys)) != len(self._tag_keys):
            raise ValueError(f"tag_keys={self._tag_keys!r}: each only once")

    @property
    def info(self) -> dict[str, Any]:
        """``name``, ``description``, ``tag_keys`` and ``default_tags``."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": dict(self._default_tags),
        }

    def set_default_tags(self, default_tags: Mapping[str, str]) -> Metric:
        """Tags for values recorded without them. Raises ValueError for unknown keys, TypeError for other values."""
        self._check_tags(default_tags)
        self._default_tags = dict(default_tags)
        return self

    def _check_tags(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"{self._name} has no tag {key!r}; its tag_keys are {self._tag_keys!r}")
            if not isinstance(value, str):
                raise TypeError(f"tag {key!r} of {self._name} must be a string, got {type(value).__name__}")

    def _record(self, value: float, tags: Mapping[str, str] | None) -> None:
        if tags:
            self._check_tags(tags)
            tags = {**self._default_tags, **tags}
        else:
            tags = self._default_tags
        if len(tags) != len(self._tag_keys):
            missing = [key for key in self._tag_keys if key not in tags]
            raise ValueError(f"{self._name}: no value for the tags {missing}; give them here or as default tags")
        session = current_or_none()
        if session is None or session.closed or self._discarded:
            return
        recorder = self._recorder
        if recorder is None or recorder.emitter is not session.emitter:
            recorder = self._recorder = _Recorder(session.emitter, self)
        values = tuple(tags[key] for key in self._tag_keys)
        number = recorder.tags.get(values)
        if number is None:
            number = recorder.tag_set(self._tag_keys, values)
        running = getattr(session.local, "running", None)
        task = _NO_TASK if running is None else running.task
        session.emitter.user_metric(
            time.time_ns(), task, recorder.name, number, value, int(self._instrument), recorder.definition
        )

    def _definition(self) -> str:
        found: dict[str, Any] = {"description": self._description, "tag_keys": self._tag_keys}
        return json.dumps(found | self._shape(), separators=(",", ":"), ensure_ascii=False)

    def _shape(self) -> dict[str, Any]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recorder": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r}, tag_keys={self._tag_keys!r})"


class Counter(Metric):
    """A sum that only grows. Exposed as ``obsray_user_<name>_total``."""

    _instrument = Instrument.COUNTER

    def inc(self, value: float = 1.0, tags: Mapping[str, str] | None = None) -> None:
        """Add ``value``. Raises ValueError unless it is > 0, and for tags that are missing or unknown."""
        if not _number(value) > 0:
            raise ValueError(f"value={value}: a counter grows by more than 0")
        self._record(float(value), tags)


class Gauge(Metric):
    """A value that goes up and down. Of several processes that set it, the newest value counts."""

    _instrument = Instrument.GAUGE

    def set(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Set the value. Raises ValueError for tags that are missing or unknown."""
        self._record(float(_number(value)), tags)


class Histogram(Metric):
    """How often values fell between ``boundaries``: the upper bounds of its buckets, > 0 and ascending."""

    _instrument = Instrument.HISTOGRAM

    def __init__(
        self,
        name: str,
        description: str = "",
        boundaries: Sequence[float] = (),
        tag_keys: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, description, tag_keys)
        bounds = [float(_number(bound)) for bound in boundaries]
        if not bounds or bounds[0] <= 0 or bounds != sorted(set(bounds)):
            raise ValueError(f"boundaries={list(boundaries)!r}: must be at least one number, all > 0 and ascending")
        self._boundaries = bounds

    @property
    def info(self) -> dict[str, Any]:
        """As of every metric, and ``boundaries``."""
        return {**super().info, "boundaries": list(self._boundaries)}

    def observe(self, value: float, tags: Mapping[str, str] | None = None) -> None:
        """Count one value. Raises ValueError for tags that are missing or unknown."""
        self._record(float(_number(value)), tags)

    def _shape(self) -> dict[str, Any]:
        return {"boundaries": self._boundaries}


def _number(value: float) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{value!r} is not a number") from None
    if not math.isfinite(found):
        raise ValueError(f"{value!r} is not a finite number")
    return found


__all__ = ["Counter", "Gauge", "Histogram", "Instrument", "Metric"]
