"""GPU work in a task's trace: one span for each task, whenever its records come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from obsray.export import gpu_spans, otlp
from obsray.export.gpu_spans import GpuSpans
from obsray.export.spans import Spans
from obsray.telemetry import span_ids
from obsray.telemetry.span_ids import Part
from obsray.telemetry.store import joined
from tests.unit.gpu.captures import STEPS, task
from tests.unit.gpu.constructed import Constructed, at
from tests.unit.gpu.test_gpu_streams import session
from tests.unit.gpu.test_gpu_views import views

__all__ = ["session", "views"]  # fixtures


def test_a_task_has_one_span_of_gpu_work_beneath_its_run_and_linked_to_it(tmp_path: Path) -> None:
    trace = pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2")
    made = Constructed(tmp_path)
    made.reserve(0, 1000)
    one = made.task(0, 900)
    made.kernel(5, 10, 60, one)
    made.kernel(50, 100, 140, one, name="ncclDevKernel_AllReduce")
    made.copy(200, 210, 300, one)
    made.wait(290, 310, one)
    made.kernel(None, 400, 500)  # of no task: in no trace
    made.ends(1000)
    view = made.views()
    data = trace.TracesData.FromString(otlp.request(gpu_spans.whole(view), otlp.resources(view)))
    spans = {span.name: span for each in data.resource_spans for scope in each.scope_spans for span in scope.spans}
    gpu, run = spans["train GPU"], spans["train"]
    assert gpu.trace_id == run.trace_id and gpu.parent_span_id == run.span_id
    assert [(link.trace_id, link.span_id) for link in gpu.links] == [(run.trace_id, run.span_id)]
    assert (gpu.start_time_unix_nano, gpu.end_time_unix_nano) == (at(10), at(300))
    facts = {fact.key: fact.value for fact in gpu.attributes}
    assert facts["obsray.gpu.kernels"].int_value == 2 and facts["obsray.gpu.copies"].int_value == 1
    assert facts["obsray.gpu.kernel_seconds"].double_value == pytest.approx(90e-6)
    assert facts["obsray.gpu.communication_seconds"].double_value == pytest.approx(40e-6)
    assert facts["obsray.gpu.wait_seconds"].double_value == pytest.approx(20e-6)
    assert facts["obsray.gpu.longest_kernels"].array_value.values[0].string_value == "gemm"


def test_records_that_come_after_the_tasks_end_are_in_its_span(tmp_path: Path) -> None:
    made = Constructed(tmp_path)
    one = made.task(0, 1000)
    made.kernel(5, 10, 60, one)
    view = made.views()
    spans = GpuSpans(view, Spans(view))
    kernels = joined(view.store.select("gpu_kernel"), "gpu_kernel")
    spans.note({"gpu_kernel": kernels})
    assert not list(spans.due()), "more may come"
    made.kernel(500, 600, 700, one)
    view.refresh()
    spans.note({"gpu_kernel": joined(view.store.select("gpu_kernel"), "gpu_kernel").take(np.array([False, True]))})
    made.node.resource_sample(at(9_000_000), made.node.intern("GPU"), 1.0, 0.0)
    view.refresh()
    (found,) = spans.due()
    assert dict(found.attributes)["obsray.gpu.kernels"] == 2 and found.end == at(700)
    assert found.span == span_ids.of_task(one, 0, Part.GPU)
    assert not list(spans.due()) and not list(spans.rest())


def test_a_sender_that_takes_over_sends_only_what_was_not_due_before(tmp_path: Path) -> None:
    made = Constructed(tmp_path)
    for begin in (0, 8_000_000):
        made.kernel(begin + 5, begin + 10, begin + 60, made.task(begin, begin + 1000))
    made.ends(20_000_000)
    view = made.views()
    spans = GpuSpans(view, Spans(view))
    kernels = joined(view.store.select("gpu_kernel"), "gpu_kernel")
    spans.note({"gpu_kernel": kernels})
    spans.forget({"gpu_kernel": kernels})
    (found,) = [*spans.due(), *spans.rest()]
    assert found.start == at(8_000_010)


def test_the_recorded_run_has_a_span_for_each_of_its_steps(views) -> None:  # type: ignore[no-untyped-def]
    spans = [span for span in gpu_spans.whole(views) if span.name.endswith("GPU")]
    assert [dict(span.attributes)["obsray.gpu.kernels"] for span in spans] == [132] * STEPS
    assert {span.trace for span in spans} == {task(number) for number in range(STEPS)}
