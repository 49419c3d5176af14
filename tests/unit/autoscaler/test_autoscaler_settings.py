"""Node types as data: what is understood, and what is refused with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from obsray.autoscaler.demand import Provided
from obsray.autoscaler.files import load
from obsray.autoscaler.process import provider_of
from obsray.autoscaler.provider import ClusterFacts
from obsray.autoscaler.settings import NODE_GROUP, parse
from obsray.cluster_utils import AutoscalingCluster
from obsray.core.node.resources import UNIT

SMALL = {"resources": {"CPU": 4}, "max_workers": 2}


def with_type(**changes: Any) -> dict[str, Any]:
    return {"available_node_types": {"small": {**SMALL, **changes}}}


def test_a_file_of_ray_that_speaks_of_scaling_is_understood():
    settings = parse(
        {
            "cluster_name": "x", "max_workers": 5, "upscaling_speed": 2, "idle_timeout_minutes": 3,
            "provider": {"type": "local"}, "head_node_type": "head",
            "available_node_types": {
                "head": {"resources": {"CPU": 1}},
                "gpu": {
                    "resources": {"CPU": 8, "GPU": 2, "memory": 1 << 30, "object_store_memory": 1 << 28, "disk": 0.5},
                    "labels": {"zone": "a"}, "min_workers": 1, "idle_timeout_s": 7, "priority": 3,
                    "node_config": {"env_vars": {"A": "b"}},
                },
            },
        }, "nodes.json",
    )  # fmt: skip
    assert list(settings.types) == ["gpu"] and settings.max_workers == 5 and settings.upscaling_speed == 2
    gpu = settings.types["gpu"]
    assert gpu.resources == {"CPU": 8 * UNIT, "GPU": 2 * UNIT, "memory": 1 << 30, "disk": UNIT // 2}
    assert (gpu.store_bytes, gpu.min_workers, gpu.max_workers, gpu.idle_seconds) == (1 << 28, 1, 5, 7)
    assert gpu.all_labels == {NODE_GROUP: "gpu", "zone": "a"}
    assert parse(with_type(), "x").types["small"].idle_seconds == 300
    assert parse({**with_type(), "idle_timeout_minutes": 0.1}, "x").types["small"].idle_seconds == 6


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "the whole must be an object"),
        ({}, "available_node_types: is missing"),
        ({"available_node_types": {}}, "available_node_types: there is no type"),
        ({"available_node_types": {"a": 4}}, "available_node_types.a: must be an object, got 4"),
        ({"available_node_types": {"a b": SMALL}}, "available_node_types.a b: "),
        (with_type(resources=None), "available_node_types.small.resources: is missing"),
        (with_type(resources={"CPU": "4"}), "available_node_types.small.resources.CPU: must be a number >= 0, got '4'"),
        (with_type(resources={"CPU": -1}), "resources.CPU: must be a number >= 0, got -1"),
        (with_type(resources={"CPU": float("nan")}), "resources.CPU: must be a number >= 0, got nan"),
        (with_type(resources={"GPU": 0.5}), "resources.GPU: a machine has a whole number of GPUs"),
        (with_type(max_workers=None), "available_node_types.small.max_workers: say how many"),
        (with_type(max_workers=1.5), "small.max_workers: must be a whole number from 0 to 10000, got 1.5"),
        (with_type(max_workers=True), "small.max_workers: must be a whole number"),
        (with_type(min_workers=3), "small.min_workers: is 3, more than max_workers, which is 2"),
        (with_type(labels={"ray.io/x": "y"}), "small.labels.ray.io/x: labels: 'ray.io/x': the prefix"),
        (with_type(labels={"ray.io/node-group": "y"}), "small.labels.ray.io/node-group: is the name of the type"),
        (with_type(labels={"zone": 4}), "small.labels.zone: "),
        (with_type(max_worker=2), "small.max_worker: there is no such key; there are resources, labels,"),
        (with_type(node_config={"image": "x"}), "small.node_config.image: there is no such key"),
        (with_type(node_config={"env_vars": {"A": 1}}), "small.node_config.env_vars.A: must be text, got 1"),
        ({**with_type(min_workers=2), "max_workers": 1}, "max_workers: is 1, but the min_workers of all types are 2"),
        ({**with_type(), "upscaling_speed": "fast"}, "upscaling_speed: must be a number >= 0, got 'fast'"),
        ({**with_type(), "idle_timeout_s": 1, "idle_timeout_minutes": 1}, "idle_timeout_s: is said twice"),
        ({**with_type(), "head_node_type": "none"}, "head_node_type: 'none' is none of available_node_types"),
        ({**with_type(), "setup_commands": ["ls"]}, "setup_commands: prepare the machines' image"),
        ({**with_type(), "provider": {"type": "aws"}}, "provider.type: 'aws' is none of 'local'"),
        ({**with_type(), "provider": {}}, "provider.type: must be text, got None"),
        ({**with_type(), "provider": {"type": "external"}}, "provider.module: must be text"),
        ({**with_type(), "min_workers": 1}, "min_workers: is said for each type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(values: Any, said: str):
    with pytest.raises(ValueError, match=f"^nodes.json: .*{re.escape(said)}"):
        parse(values, "nodes.json")


def test_files_are_read_as_what_they_are_called(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps(with_type()))
    (tmp_path / "a.toml").write_text("[available_node_types.small]\nmax_workers = 2\nresources = {CPU = 4}\n")
    assert load(tmp_path / "a.json") == load(tmp_path / "a.toml") == with_type()
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("[]")
    for name, said in (("b.json", "it cannot be read"), ("c.json", "must be an object"), ("none.json", "No such file")):
        with pytest.raises(ValueError, match=f"{name}: .*{said}"):
            load(tmp_path / name)


def test_yaml_is_read_where_pyyaml_is_there_and_said_to_be_missing_where_not(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.yaml"
    path.write_text("available_node_types: {small: {max_workers: 2, resources: {CPU: 4}}}\n")
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(ValueError, match="YAML is read only where PyYAML is installed"):
        load(path)
    monkeypatch.undo()
    pytest.importorskip("yaml")
    assert load(path) == with_type()


class Machines:
    """A provider of somebody else."""

    def __init__(self, settings: Any, cluster: ClusterFacts) -> None:
        self.settings, self.cluster = settings, cluster

    def launch(self, node: bytes, kind: Any) -> None:
        raise RuntimeError("no quota")

    def terminate(self, node: bytes) -> None: ...

    def nodes(self) -> list[Provided]:
        return []

    def close(self) -> None: ...


def test_a_provider_of_ones_own_is_made_by_its_name_and_a_wrong_name_is_said(tmp_path: Path):
    wanted = {"type": "external", "module": f"{__name__}:Machines", "region": "here"}
    settings = parse({**with_type(node_config={"image": "any"}), "provider": wanted}, "x")
    made = provider_of(settings, ClusterFacts(tmp_path))
    assert isinstance(made, Machines) and made.settings["region"] == "here"
    said = {"no.such.module.Class": "cannot be imported", f"{__name__}.Nothing": "cannot be imported",
            "pathlib.Path": "is no provider: it has no launch, terminate, nodes, close"}  # fmt: skip
    for module, why in said.items():
        wrong = parse({**with_type(), "provider": {"type": "external", "module": module}}, "x")
        with pytest.raises(ValueError, match=rf"provider\.module: '{module}' {why}"):
            provider_of(wrong, ClusterFacts(tmp_path))


def test_an_autoscaling_cluster_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match=r"AutoscalingCluster: available_node_types\.a\.resources: is missing"):
        AutoscalingCluster(head_resources={"CPU": 1}, worker_node_types={"a": {"max_workers": 1}})
    with pytest.raises(TypeError, match="head_resources must be a dict"):
        AutoscalingCluster(head_resources=4, worker_node_types={"a": SMALL})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_cpus"):
        AutoscalingCluster(head_resources={"CPU": -1}, worker_node_types={"a": SMALL})
    with pytest.raises(ValueError, match="there is no such key"):
        AutoscalingCluster(head_resources={"CPU": 1}, worker_node_types={"a": SMALL}, colour="blue")
    cluster = AutoscalingCluster(head_resources={"CPU": 1}, worker_node_types={"a": SMALL}, autoscaler_v2=True)
    with pytest.raises(RuntimeError, match="does not run"):
        _ = cluster.address
    cluster.shutdown()
