"""Values that the store had no room for lie in files: two nodes that fetch them from each other."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import obsray
from obsray.cluster_utils import Cluster, ClusterNode
from obsray.core.api import session
from obsray.experimental.locations import get_object_locations
from obsray.util.state import ask
from tests.integration.programs import eventually
from tests.reliability.oracle import Oracle

pytestmark = pytest.mark.timeout(120)
MB = 1_000_000
HEAD_STORE, FAR_STORE = 200 * MB, 64 * MB


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a node whose store is much smaller."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": HEAD_STORE})
    found.add_node(num_cpus=1, resources={"far": 1}, object_store_memory=FAR_STORE)
    try:
        obsray.init(address=found.address)
        oracle = Oracle(Path(found.head_node.session_dir))
        yield found
        oracle.check()
    finally:
        obsray.shutdown()
        found.shutdown()


@pytest.fixture
def far(cluster) -> Iterator[ClusterNode]:
    """The other node. Afterwards nothing of any value is in either store, in a file, or mapped by a node."""
    (node,) = (each for each in cluster.list_all_nodes() if each is not cluster.head_node)
    yield node
    nothing = {"used_bytes": 0, "spilled_bytes": 0, "fallback_bytes": 0, "pinned_bytes": 0}
    eventually(lambda: {name: session().request("store")[name] for name in nothing} == nothing)
    eventually(lambda: obsray.get(store_there.remote(tuple(nothing))) == nothing)
    for each in (cluster.head_node, node):
        assert eventually(lambda each=each: not files(each)), files(each)
        assert eventually(lambda each=each: not mapped_files(each)), mapped_files(each)


def files(node: ClusterNode) -> list[Path]:
    return sorted((Path(node.session_dir) / "spill").iterdir())


def mapped_files(node: ClusterNode) -> list[str]:
    """What the node's process still maps or has open of files of values."""
    spill = f"{node.session_dir}/spill/"
    found = [line for line in Path(f"/proc/{node.pid}/maps").read_text().splitlines() if spill in line]
    for entry in Path(f"/proc/{node.pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.startswith(spill):
            found.append(target)
    return found


def content(size: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def digest(array: Any) -> str:
    return hashlib.blake2b(memoryview(array)).hexdigest()


@obsray.remote(num_cpus=0, resources={"far": 0.01})
def store_there(names: tuple[str, ...]) -> dict[str, int]:
    store = session().request("store")
    return {name: store[name] for name in names}


@obsray.remote(num_cpus=0, resources={"far": 0.01})
def make(size: int, seed: int) -> np.ndarray:
    return content(size, seed)


@obsray.remote(num_cpus=0, resources={"far": 0.01})
def read(array: np.ndarray) -> str:
    return digest(array)


@obsray.remote(num_cpus=0, resources={"far": 0.01})
class Keeper:
    """Keeps views of what it was given, so that the node's store is full of what is in use."""

    def __init__(self) -> None:
        self.kept: list[np.ndarray] = []

    def keep(self, *arrays: np.ndarray) -> list[str]:
        self.kept += arrays
        return [digest(array) for array in arrays]

    def let_go(self) -> None:
        self.kept.clear()


def copies(reference: Any) -> int:
    return len(get_object_locations([reference])[reference]["node_ids"])


def test_a_value_in_a_file_is_fetched_by_a_node_whose_store_has_room_for_it(cluster, far):
    reference = make.remote(70 * MB, 1)
    assert digest(obsray.get(reference)) == digest(content(70 * MB, 1))
    (file,) = files(far)
    assert file.name.startswith(reference.hex()) and file.stat().st_size >= 70 * MB
    assert files(cluster.head_node) == []
    assert copies(reference) == 2
    (served,) = eventually(
        lambda: [
            row for row in ask(None, lambda views: views.story(reference.hex())) if row["event"] == "transfer_served"
        ]
    )
    assert served["fields"]["sent_bytes"] >= 70 * MB
    # It can be read there as well, where it lies.
    assert obsray.get(read.remote(reference)) == digest(content(70 * MB, 1))


def test_a_value_that_the_other_store_has_no_room_for_comes_into_a_file_there(cluster, far):
    array = content(70 * MB, 2)
    reference = obsray.put(array)
    assert obsray.get(read.remote(reference)) == digest(array)
    (file,) = files(far)
    assert file.name.startswith(reference.hex())
    assert files(cluster.head_node) == []


def test_from_file_to_file(cluster, far):
    array = content(210 * MB, 3)
    reference = obsray.put(array)
    assert obsray.get(read.remote(reference)) == digest(array)
    assert [[file.name[: len(reference.hex())] for file in files(node)] for node in (cluster.head_node, far)] == [
        [reference.hex()]
    ] * 2


def test_while_a_store_is_full_of_what_is_in_use_its_values_go_both_ways_through_files(cluster, far):
    keeper = Keeper.remote()
    held = [obsray.put(content(15 * MB, seed)) for seed in range(4)]
    assert obsray.get(keeper.keep.remote(*held)) == [digest(content(15 * MB, seed)) for seed in range(4)]
    # What is made there lies in a file, and so does what comes from here.
    made, given = make.remote(20 * MB, 10), obsray.put(content(20 * MB, 11))
    assert digest(obsray.get(made)) == digest(content(20 * MB, 10))
    assert obsray.get(read.remote(given)) == digest(content(20 * MB, 11))
    assert sorted(file.name[: len(made.hex())] for file in files(far)) == sorted([made.hex(), given.hex()])
    assert files(cluster.head_node) == []
    # Room there again: what lies in files is read as before, by both.
    obsray.get(keeper.let_go.remote())
    del held
    assert obsray.get(read.remote(made)) == digest(content(20 * MB, 10))
    assert digest(obsray.get(given)) == digest(content(20 * MB, 11))
    obsray.kill(keeper)


def test_a_file_that_somebody_removed_is_a_lost_value_for_other_nodes_and_made_again_if_it_may_be(cluster, far):
    alone, again, local = (
        make.options(max_retries=0).remote(70 * MB, 4),
        make.remote(70 * MB, 5),
        make.remote(70 * MB, 6),
    )
    references = [alone, again, local]
    obsray.wait(references, num_returns=3, fetch_local=False, timeout=60)
    for file in eventually(lambda: len(found := files(far)) == 3 and found):
        file.unlink()
    with pytest.raises(obsray.exceptions.ObjectLostError, match=r"cannot be .*No such file"):
        obsray.get(alone, timeout=60)
    assert digest(obsray.get(again, timeout=60)) == digest(content(70 * MB, 5))
    # By a process of the node where it lay, too.
    assert obsray.get(read.remote(local), timeout=60) == digest(content(70 * MB, 6))
    del alone, again, local, references


def test_what_lies_only_in_a_file_of_a_node_that_leaves_is_moved(cluster, far):
    leaving = cluster.add_node(num_cpus=1, resources={"leaving": 1}, object_store_memory=FAR_STORE)
    reference = make.options(resources={"leaving": 0.1}, max_retries=0).remote(70 * MB, 6)
    obsray.wait([reference], fetch_local=False, timeout=60)
    assert [file.name[: len(reference.hex())] for file in files(leaving)] == [reference.hex()]
    # Others may run sessions here, too.
    which = ["--session", cluster.head_node.session_dir]
    drained = subprocess.run(
        [sys.executable, "-m", "obsray", "drain", *which, leaving.node_id, "--wait"], capture_output=True, text=True
    )
    assert drained.returncode == 0, drained.stderr
    assert digest(obsray.get(reference, timeout=60)) == digest(content(70 * MB, 6))
