"""A connection between two machines may break although both processes live: nothing waits for what it carried."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import obsray
from obsray.cluster_utils import Cluster
from obsray.core.api import session
from tests.integration.programs import eventually
from tests.reliability.oracle import Oracle

pytestmark = pytest.mark.timeout(60)


@obsray.remote(num_cpus=0, resources={"far": 1}, max_retries=1)
def once_slowly(marker: str) -> str:
    import os
    import time

    first = not os.path.exists(marker)
    open(marker, "a").close()
    while first:
        time.sleep(0.1)
    return "the second time"


@obsray.remote(num_cpus=0, resources={"far": 1})
class Slow:
    def __init__(self) -> None:
        self.calls = 0

    def wait(self) -> int:
        self.calls += 1
        threading.Event().wait(0.1 if self.calls > 1 else 3)
        return self.calls

    def count(self) -> int:
        return self.calls


def held_by_others() -> int:
    """Objects of this process that others are counted for."""
    here = session()
    with here.lock:
        return sum(bool(counts) for counts in here.ownership.holders.values())


@obsray.remote(num_cpus=0, resources={"far": 1})
class Keeper:
    def keep(self, values: list[obsray.ObjectRef]) -> int:
        self.kept = values
        return len(values)

    def drop(self) -> None:
        self.kept = []

    def give(self) -> list[obsray.ObjectRef]:
        return [obsray.put(number) for number in range(10)]

    def held_by_others(self) -> int:
        return held_by_others()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # Both sides of a broken connection compare what they hold, as they do twice a minute else.
    settings = {"holds_check_seconds": 0.5}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": settings})
    try:
        made.add_node(num_cpus=1, resources={"far": 2})
        obsray.init(address=made.address)
        oracle = Oracle(Path(made.head_node.session_dir))
        yield made
        oracle.check()
    finally:
        obsray.shutdown()
        made.shutdown()


def break_links() -> None:
    links = eventually(lambda: [link for link in session().peers.values() if link.peer.remote])
    for link in links:
        link.socket.shutdown(socket.SHUT_RDWR)


def test_a_task_whose_connection_broke_runs_again(cluster, tmp_path):
    marker = tmp_path / "marker"
    ref = once_slowly.remote(str(marker))
    while not marker.exists():
        obsray.wait([ref], timeout=0.05)
    break_links()
    assert obsray.get(ref, timeout=30) == "the second time"


def test_a_call_whose_connection_broke_is_not_waited_for_and_the_actor_lives(cluster):
    actor = Slow.remote()
    assert obsray.get(actor.count.remote(), timeout=20) == 0
    ref = actor.wait.remote()
    assert obsray.wait([ref], timeout=0.5) == ([], [ref])
    break_links()
    with pytest.raises(obsray.exceptions.ActorUnavailableError, match=r"the connection to worker .* broke"):
        obsray.get(ref, timeout=20)
    assert obsray.get(actor.count.remote(), timeout=20) == 1


def test_a_call_that_may_be_repeated_is_made_again(cluster):
    actor = Slow.options(max_task_retries=1).remote()
    ref = actor.wait.remote()
    assert obsray.wait([ref], timeout=1.5) == ([], [ref])
    break_links()
    assert obsray.get(ref, timeout=20) == 2


def test_what_is_let_go_while_connections_break_is_let_go_on_both_sides_in_the_end(cluster):
    keeper = Keeper.options(max_task_retries=-1).remote()
    for _ in range(4):
        mine = [obsray.put(number) for number in range(10)]
        assert obsray.get(keeper.keep.remote(mine), timeout=30) == 10
        theirs = obsray.get(keeper.give.remote(), timeout=30)
        assert obsray.get(theirs, timeout=30) == list(range(10))
        del mine, theirs
        dropped = keeper.drop.remote()
        break_links()
        obsray.get(dropped, timeout=30)
    eventually(lambda: held_by_others() == 0)
    eventually(lambda: obsray.get(keeper.held_by_others.remote(), timeout=30) == 0)
