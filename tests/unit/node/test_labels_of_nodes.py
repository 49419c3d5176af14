"""Which labels a node may be given, and what its environment says of its machine."""

from __future__ import annotations

import pytest

from obsray.core.protocol.labels import ACCELERATOR, DESCRIBING, said


def test_what_a_node_cannot_know_of_its_machine_may_be_said():
    labels = {"ray.io/market-type": "spot", "ray.io/availability-zone": "b", ACCELERATOR: "A100", "side": "left"}
    assert said(labels, {}) == labels


def test_the_environment_says_it_where_the_labels_do_not():
    environment = {name: f"by-{name}" for name in DESCRIBING.values()}
    assert said({}, environment) == {key: f"by-{name}" for key, name in DESCRIBING.items()}
    assert said({"ray.io/market-type": "spot"}, environment)["ray.io/market-type"] == "spot"
    assert said({"side": "left"}, {"RAY_NODE_ZONE": ""}) == {"side": "left"}


@pytest.mark.parametrize("key", ["ray.io/node-id", "ray.io/anything"])
def test_other_labels_of_the_runtime_are_refused_with_those_that_are_not(key):
    with pytest.raises(ValueError, match=r"is for labels of the runtime's own; .* ray\.io/market-type"):
        said({key: "x"}, {})


def test_an_environment_that_says_no_label_is_refused_by_its_name():
    with pytest.raises(ValueError, match="RAY_NODE_REGION"):
        said({}, {"RAY_NODE_REGION": "north pole"})
