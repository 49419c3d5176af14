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


@obsray.remote
def visible_without() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@obsray.remote(num_gpus=1)
class Owner:
    def visible(self) -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_who_asked_for_no_gpu_sees_none_and_an_actor_with_one_ends_in_order_with_its_driver(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with obsray.init(num_cpus=2, num_gpus=1, include_dashboard=False) as context:
        directory = context["session_dir"]
        owner = Owner.remote()
        assert obsray.get(owner.visible.remote()) == "0"
        assert obsray.get(visible_without.remote()) == ""
        own = {"env_vars": {"CUDA_VISIBLE_DEVICES": "7"}}
        assert obsray.get(visible_without.options(runtime_env=own).remote()) == "7"
        (placed,) = Store.open(directory).rows("actor_placed")
    died = [row for row in Store.open(directory).rows("worker_died") if row["worker"] == placed["worker"]]
    assert [(row["exit_code"], row["signal"]) for row in died] == [(0, 0)], "it could hand over what it had recorded"


def test_programs_may_keep_the_variable_to_themselves(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with obsray.init(num_cpus=1, include_dashboard=False):
        assert obsray.get(visible_without.remote()) == "3"
