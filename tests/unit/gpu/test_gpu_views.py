"""GPU work where people look for it: with its task, its function, its kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from obsray.cli.status import _gpu_text
from obsray.cli.things import _gpu_lines
from obsray.metrics.exporter import Families
from obsray.telemetry.collector import Collector
from obsray.telemetry.gpu_work import busy_seconds
from obsray.telemetry.store import Store, joined
from obsray.telemetry.views import Views
from tests.unit.gpu.captures import STEPS, run, task
from tests.unit.gpu.test_gpu_streams import collected, played, session

__all__ = ["session"]  # a fixture


@pytest.fixture
def views(session: Path) -> Views:
    played(session)
    collected(session).close()
    made = Views(Store.open(session))
    made.refresh()
    return made


def test_kernels_are_summed_by_function_and_name(views: Views) -> None:
    rows = views.kernels()
    assert sum(row["launches"] for row in rows) == STEPS * 132
    assert rows == sorted(rows, key=lambda row: -row["kernel_seconds"])
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    kernels = joined(views.store.select("gpu_kernel"), "gpu_kernel")
    assert sum(row["kernel_seconds"] for row in rows) == pytest.approx(float(kernels["kernel_seconds"].sum()))
    assert {row["function"] for row in rows} == {"train"}
    assert views.gpu_seconds() == {"train": pytest.approx(sum(row["kernel_seconds"] for row in rows))}


def test_a_task_knows_its_kernels_its_busy_time_and_its_idle_time(views: Views) -> None:
    one = run("step")["tasks"][2]
    gpu = views.task_gpu(task(2), one["start_ns"], one["end_ns"])
    assert gpu is not None
    assert gpu["kernels"] == 132 and gpu["copies"] == 9 and gpu["gpus"] == [3]
    assert sum(row["launches"] for row in gpu["by_kernel"]) == 132
    span = (one["end_ns"] - one["start_ns"]) / 1e9
    assert 0 < gpu["busy_seconds"] <= gpu["kernel_seconds"] + gpu["copy_seconds"] + 1e-6
    assert gpu["busy_seconds"] + gpu["idle_seconds"] == pytest.approx(span)
    assert views.task_gpu(bytes(16), 0, 1) is None
    lines = "\n".join(_gpu_lines(gpu, False))
    assert "on GPU 3: 132 kernels" in lines and "9 copies" in lines and "more; --json" in lines


def test_what_has_no_task_is_counted_with_its_share(views: Views) -> None:
    assert views.gpu_summary() == {
        "kernels": STEPS * 132, "unattributed_kernels": 0, "unattributed_seconds": 0.0, "unattributed_share": 0.0,
        "records_lost": 0, "notices": [],
    }  # fmt: skip


def test_status_says_what_has_no_task_and_why_nothing_is_captured() -> None:
    notices = [{"worker_id": "a", "text": "no libcupti was found"}, {"worker_id": "b", "text": "no libcupti was found"}]
    gpu = {
        "kernels": 1000,
        "unattributed_kernels": 5,
        "unattributed_share": 0.005,
        "records_lost": 7,
        "notices": notices,
    }
    text = _gpu_text(gpu)
    assert "0.5% of no known task" in text and "7 records lost" in text
    assert text.count("no libcupti was found") == 1


def test_overlapping_work_counts_once_as_busy() -> None:
    starts, ends = np.array([0, 5, 30, 31], np.uint64), np.array([10, 12, 40, 35], np.uint64)
    assert busy_seconds(starts, ends) == pytest.approx(22e-9)
    assert busy_seconds(starts[:0], ends[:0]) == 0.0


def test_metrics_tell_seconds_by_function_and_bytes_by_direction(session: Path) -> None:
    played(session)
    collector = Collector(session, 1 << 30)
    families = Families(collector, "n1")
    collector.folds.append(families.update)
    while collector.poll():
        pass
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.collect()
        if family.name.startswith("obsray_gpu")
        for sample in family.samples
    }
    where = (("fn", "train"), ("gpu", "3"), ("node", "n1"))
    assert samples["obsray_gpu_kernels_total", *where] == STEPS * 132
    assert samples["obsray_gpu_kernel_seconds_total", *where] > 0
    assert any(key[0] == "obsray_gpu_copy_bytes_total" for key in samples)
    collector.close()
