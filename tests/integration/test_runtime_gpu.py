"""Tasks that own a GPU, on a machine that has none: what is set, and what is said about it."""

from __future__ import annotations

import os

import obsray
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.util.placement_group import placement_group, remove_placement_group
from obsray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


@obsray.remote(num_gpus=1)
def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_where_gpus_cannot_be_watched_a_task_runs_and_the_reason_is_recorded():
    with obsray.init(num_cpus=1, num_gpus=1, include_dashboard=False) as context:
        directory = context["session_dir"]
        assert obsray.get(visible.remote()) == "0"
    store = Store.open(directory)
    (refused,) = store.rows("gpu_capture_refused")
    assert "libcupti" in refused["error"]
    (reserved,), (released,) = store.rows("gpu_reserved"), store.rows("gpu_released")
    assert (reserved["gpu"], reserved["share"]) == (0, 1.0)
    assert {key: released[key] for key in ("worker", "lease", "gpu")} == {
        key: reserved[key] for key in ("worker", "lease", "gpu")
    }
    views = Views(store)
    (row,) = views.gpus()
    assert row["reserved_seconds"] > 0 and "libcupti" in row["why"], "what nobody sees is not called idle"
    books = views.books()["gpus"]
    assert books["gpus"] == 1 and books["error_ratio"] < 0.01


@obsray.remote(num_gpus=0.25)
def shared() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_shares_and_bundles_of_gpus_are_told_with_who_has_them():
    settings = {"gpu_telemetry": "off"}
    with obsray.init(num_cpus=2, num_gpus=2, include_dashboard=False, _system_config=settings) as context:
        directory = context["session_dir"]
        group = placement_group([{"GPU": 1, "CPU": 1}])
        obsray.get(group.ready(), timeout=60)
        inside = visible.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group))
        assert obsray.get(inside.remote(), timeout=60) in ("0", "1")
        assert obsray.get(shared.remote(), timeout=60) in ("0", "1")
        remove_placement_group(group)
    rows = Store.open(directory).rows("gpu_reserved")
    by_bundle = [row for row in rows if not any(row["worker"])]
    assert [row["bundle"] for row in by_bundle] == [0] and any(by_bundle[0]["group"])
    in_bundle = [row for row in rows if any(row["worker"]) and any(row["group"])]
    assert in_bundle and in_bundle[0]["gpu"] == by_bundle[0]["gpu"], "the worker has the GPU of its bundle"
    assert {round(row["share"], 4) for row in rows if not any(row["group"])} == {0.25}
    released = Store.open(directory).rows("gpu_released")
    assert any(not any(row["worker"]) and row["bundle"] == 0 for row in released)


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
