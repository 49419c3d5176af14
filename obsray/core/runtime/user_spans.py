"""OpenTelemetry's API inside a runtime: spans of user code are records like all others, under the span of their task.

Imported only where user code imports OpenTelemetry. A provider that the program sets itself is left alone: then its
spans are its own, but their parent is still the task's span, and calls made inside them belong to their trace.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.util.types import Attributes, AttributeValue

from obsray.core.runtime.running import Running
from obsray.telemetry import span_ids
from obsray.telemetry.spine import STRING_BYTES_MAX

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_EVENTS_MAX = 128
_NOBODY = bytes(16)


#: The session of this process, if it has one.
_session: Callable[[], Any] = lambda: None  # noqa: E731


def install(session_of: Callable[[], Any]) -> bool:
    """Make the API know the tasks of the session that ``session_of`` gives. False if this version of the API is built
    otherwise; then nothing is changed."""
    global _session
    _session = session_of
    known = hasattr(context, "_RUNTIME_CONTEXT") and hasattr(trace, "_PROXY_TRACER_PROVIDER")
    if known:
        context._RUNTIME_CONTEXT = _TaskContext(context._RUNTIME_CONTEXT)
        # What the API gives out while nobody has set a provider.
        trace._PROXY_TRACER_PROVIDER = Provider()  # type: ignore[assignment]
    return known


def current() -> tuple[bytes, int, dict[str, str]] | None:
    """Trace, span and baggage around a call; None if there is only the span of the task."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return None
    carried = {key: str(value) for key, value in baggage.get_all().items()}
    running = _running()
    if running is not None and not carried and found.span_id == span_ids.of_task(running.task, running.attempt):
        return None
    return found.trace_id.to_bytes(16, "big"), found.span_id, carried


def _running() -> Running | None:
    session = _session()
    running: Running | None = None if session is None else session.local.running
    return running


class _TaskContext(ContextVarsRuntimeContext):
    """The context of the code that asks; inside a task, where the code itself has made no span current, the task's."""

    def __init__(self, before: Any) -> None:
        super().__init__()
        self._before = before

    def get_current(self) -> Context:
        found = super().get_current()
        running = _running()
        if running is None or trace.get_current_span(found).get_span_context().is_valid:
            return found
        told = SpanContext(
            int.from_bytes(running.trace, "big"), span_ids.of_task(running.task, running.attempt), True, _SAMPLED
        )
        found = trace.set_span_in_context(NonRecordingSpan(told), found)
        for key, value in ((running.options or {}).get("baggage") or {}).items():
            if baggage.get_baggage(key, found) is None:
                found = baggage.set_baggage(key, value, found)
        return found


class Provider(trace.TracerProvider):
    """Gives out tracers that record into the session."""

    def get_tracer(
        self, instrumenting_module_name: str, instrumenting_library_version: str | None = None,
        schema_url: str | None = None, attributes: Attributes | None = None,
    ) -> trace.Tracer:  # fmt: skip
        return Tracer((instrumenting_module_name, instrumenting_library_version, schema_url, attributes))


class Tracer(trace.Tracer):
    """Makes spans of the session; of a provider, once the program has set one."""

    def __init__(self, scope: tuple[Any, ...]) -> None:
        self._scope = scope
        self._theirs: trace.Tracer | None = None

    def start_span(
        self, name: str, context: Context | None = None, kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None, links: Sequence[trace.Link] | None = None, start_time: int | None = None,
        record_exception: bool = True, set_status_on_exception: bool = True,
    ) -> trace.Span:  # fmt: skip
        if trace._TRACER_PROVIDER is not None:
            if self._theirs is None:
                self._theirs = trace._TRACER_PROVIDER.get_tracer(*self._scope)
            return self._theirs.start_span(
                name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
            )
        parent = trace.get_current_span(context).get_span_context()
        session = _session()
        if session is None or session.closed:
            return NonRecordingSpan(parent)
        return Span(session, name, parent, kind, attributes, links, start_time)

    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Any:
        end_on_exit = kwargs.pop("end_on_exit", True)
        span = self.start_span(name, *args, **kwargs)
        return trace.use_span(
            span, end_on_exit, kwargs.get("record_exception", True), kwargs.get("set_status_on_exception", True)
        )


class Span(trace.Span):
    """One span of user code. It is recorded when it ends."""

    def __init__(
        self, session: Any, name: str, parent: SpanContext, kind: SpanKind, attributes: Attributes,
        links: Sequence[trace.Link] | None, start_time: int | None,
    ) -> None:  # fmt: skip
        running = session.local.running
        self._emitter = session.emitter
        self._task = running.task if running is not None else _NOBODY
        self._parent = parent.span_id if parent.is_valid else 0
        traced = parent.trace_id if parent.is_valid else random.getrandbits(128) or 1
        self._context = SpanContext(traced, random.getrandbits(64) or 1, False, _SAMPLED)
        self._name = str(name)
        self._attributes: dict[str, Any] = dict(attributes or {})
        self._events: list[Any] = []
        self._links = [link for link in links or () if link.context.is_valid]
        self._kind = kind
        self._error: str | None = None
        self._start = start_time or time.time_ns()
        self._ended = False

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return not self._ended

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        if not self._ended:
            self._attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        if not self._ended:
            self._attributes.update(attributes)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        if not self._ended and len(self._events) < _EVENTS_MAX:
            self._events.append((timestamp or time.time_ns(), name, dict(attributes or {})))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        if not self._ended and context.is_valid:
            self._links.append(trace.Link(context, attributes))

    def update_name(self, name: str) -> None:
        if not self._ended:
            self._name = str(name)

    def set_status(self, status: Any, description: str | None = None) -> None:
        code = getattr(status, "status_code", status)
        if code is StatusCode.ERROR:
            self._error = description or getattr(status, "description", None) or ""
        elif code is StatusCode.OK:
            self._error = None

    def record_exception(
        self, exception: BaseException, attributes: Attributes = None, timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:  # fmt: skip
        facts = {
            "exception.type": type(exception).__qualname__,
            "exception.message": str(exception),
            **(attributes or {}),
        }
        self.add_event("exception", facts, timestamp)

    def end(self, end_time: int | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        at, emitter = end_time or time.time_ns(), self._emitter
        emitter.user_span(
            at, self._task, self._context.span_id, self._parent, emitter.intern(self._name),
            max(0, at - self._start) / 1e9, emitter.intern(self._told()), self._context.trace_id.to_bytes(16, "big"),
        )  # fmt: skip

    def _told(self) -> str:
        """Everything else as JSON; if that is too long for a record, first events and links go, then attributes."""
        told: dict[str, Any] = dict(self._attributes)
        if self._kind is not SpanKind.INTERNAL:
            told["otel.kind"] = self._kind.name
        if self._error is not None:
            told["otel.error"] = self._error
        more = {}
        if self._events:
            more["otel.events"] = self._events
        if self._links:
            more["otel.links"] = [
                (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}", dict(link.attributes or {}))
                for link in self._links
            ]
        for kept in ({**told, **more}, told, {"obsray.dropped_attributes": len(told)}):
            text = json.dumps(kept, default=str) if kept else ""
            if len(text.encode()) <= STRING_BYTES_MAX:
                return text
        return ""
