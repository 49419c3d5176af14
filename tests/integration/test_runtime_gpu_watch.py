"""Real processes with a libnvidia-ml that is made here: GPUs are found, watched, taken out of service and put back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import obsray
from obsray.telemetry.store import Store
from tests.integration.programs import eventually
from tests.integration.programs import views as views_of

SOURCE = Path(__file__).with_name("fake_nvml.c")


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.fail("a stand-in for libnvidia-ml is compiled with cc: install gcc and libc6-dev")
    path = tmp_path / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(path), str(SOURCE)], check=True)
    monkeypatch.setenv("FAKE_NVML", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return str(path)


@obsray.remote(num_gpus=1, accelerator_type="H100")
class Owner:
    def facts(self) -> tuple[int, list[Any], str]:
        return os.getpid(), obsray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]


@obsray.remote(num_gpus=1)
def devices() -> list[Any]:
    return obsray.get_gpu_ids()


def test_gpus_are_found_and_watched_and_one_with_an_error_gets_no_work_until_it_is_well(library, tmp_path):
    settings = {"nvml_library": library, "gpu_recovery_seconds": 2.0, "sample_interval_seconds": 0.2}
    with obsray.init(num_cpus=2, include_dashboard=False, _system_config=settings) as context:
        total = obsray.cluster_resources()
        assert (total["GPU"], total["accelerator_type:H100"]) == (2, 1)
        owner = Owner.remote()
        pid, numbers, visible = obsray.get(owner.facts.remote())
        assert (numbers, visible) == ([0], "0")
        (tmp_path / "processes").write_text(f"{pid} 1234567\n")
        views = views_of(context["session_dir"])

        def held() -> Any:
            first = views.gpu_devices()[0]
            return first["holders"] and first

        first = eventually(held, 60)
        assert (first["uuid"], first["model"], first["temperature_celsius"]) == (
            "GPU-fake0", "NVIDIA H100 80GB HBM3", 61.0,
        )  # fmt: skip
        assert (first["utilization"], first["bus_utilization"], first["slowdown"]) == pytest.approx((0.4, 0.07, "heat"))
        (holder,) = first["holders"]
        assert (holder["pid"], holder["used_bytes"]) == (pid, 1234567)
        assert holder["actor_id"] == owner._actor_id.hex()
        assert any("Not Supported" in notice for notice in first["notices"]) and first["power_watts"] is None

        (tmp_path / "xid").write_text("79")
        eventually(lambda: obsray.cluster_resources()["GPU"] == 1, 60)
        assert obsray.available_resources().get("GPU", 0) == 0
        waiting = devices.remote()
        out = eventually(lambda: (row := views.gpu_devices()[1])["state"] == "OUT_OF_SERVICE" and row, 60)
        assert out["xid"] == 79 and "fallen off the bus" in out["reason"]
        assert obsray.get(waiting, timeout=60) == [1], "it is well again"
        eventually(lambda: obsray.cluster_resources()["GPU"] == 2, 60)
        directory = context["session_dir"]
    changes = Store.open(directory).rows("gpu_health_changed")
    assert [change["health"] for change in changes] == ["out_of_service", "in_service"]
    decided = [row["deficit"] for row in Store.open(directory).rows("lease_decided")]
    assert any("GPU 1 is out of service: Xid 79" in deficit for deficit in decided)


def test_what_waits_for_a_gpu_that_is_out_of_service_can_be_asked_why(library, tmp_path):
    settings = {"nvml_library": library, "gpu_recovery_seconds": 3600.0, "sample_interval_seconds": 0.2}
    with obsray.init(num_cpus=2, include_dashboard=False, _system_config=settings) as context:
        (tmp_path / "xid").write_text("48")
        eventually(lambda: obsray.cluster_resources()["GPU"] == 1, 60)
        waiting = devices.options(num_gpus=2).remote()
        shown = views_of(context["session_dir"])

        def reason() -> str:
            return str(shown.why(waiting.task_id().hex()))

        eventually(lambda: "GPU 1 is out of service: Xid 48" in reason(), 60)
        row = eventually(lambda: (rows := shown.gpus()) and rows[-1]["trouble"] and rows[-1], 60)
        assert (row["gpu"], row["state"], row["model"]) == (1, "OUT_OF_SERVICE", "NVIDIA H100 80GB HBM3")
        assert "it gets no new work: Xid 48" in row["why"]
        assert "61 °C" in shown.gpus()[0]["hardware"] and shown.gpus()[0]["state"] == "FREE"
        said = subprocess.run(
            [sys.executable, "-m", "obsray.cli", "status", "--session", str(context["session_dir"])],
            capture_output=True, text=True, check=True, timeout=120,
        ).stdout  # fmt: skip
        assert "NVIDIA H100 80GB HBM3" in said and "out of service: Xid 48" in said


def test_gpus_are_chosen_by_uuid_and_tasks_see_them_by_it(library, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-fake1")
    settings = {"nvml_library": library}
    with obsray.init(num_cpus=1, include_dashboard=False, _system_config=settings) as context:
        assert obsray.cluster_resources()["GPU"] == 1
        assert obsray.get(devices.remote()) == ["GPU-fake1"]
        directory = context["session_dir"]
    (found,) = Store.open(directory).rows("gpu_found")
    assert (found["gpu"], found["bus_index"], found["uuid"]) == (0, 1, "GPU-fake1")
