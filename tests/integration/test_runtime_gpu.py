"""Tasks that own a GPU, on a machine that has none: what is set, and what is said about it."""

from __future__ import annotations

import os

import obsray
from obsray.telemetry.store import Store


@obsray.remote(num_gpus=1)
def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_where_gpus_cannot_be_watched_a_task_runs_and_the_reason_is_recorded():
    with obsray.init(num_cpus=1, num_gpus=1, include_dashboard=False) as context:
        directory = context["session_dir"]
        assert obsray.get(visible.remote()) == "0"
    (refused,) = Store.open(directory).rows("gpu_capture_refused")
    assert "libcupti" in refused["error"]


def test_switched_off_nothing_is_tried():
    settings = {"gpu_telemetry": "off"}
    with obsray.init(num_cpus=1, num_gpus=1, include_dashboard=False, _system_config=settings) as context:
        directory = context["session_dir"]
        assert obsray.get(visible.remote()) == "0"
    assert not Store.open(directory).rows("gpu_capture_refused")
