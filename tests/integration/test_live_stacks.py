"""Samples and live stacks of real processes: what runs is seen, also by whoever cannot be asked."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from obsray.federation import stacks
from obsray.telemetry.answers.stacks import merged
from tests.integration.programs import eventually, views

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(300)
#: Many processes start here, on machines that may do other things meanwhile.
PATIENCE_SECONDS = 120.0

BUSY = """
import asyncio, re
start(num_cpus=4)

@obsray.remote(max_retries=0)
def nap_well():
    time.sleep(600)
@obsray.remote
def burn():
    while True:
        sum(range(1000))
@obsray.remote
def holds_the_interpreter():
    re.match("(a+)+$", "a" * 60 + "b")
@obsray.remote(num_cpus=0)
class Async:
    async def wait_long(self):
        await asyncio.sleep(600)
@obsray.remote(num_cpus=0, max_concurrency=2)
class Threaded:
    def wait_long(self):
        time.sleep(600)

a, t = Async.remote(), Threaded.remote()
tasks = [burn.remote(), holds_the_interpreter.remote(), *(nap_well.remote() for _ in range(2)), a.wait_long.remote(),
    a.wait_long.remote(), t.wait_long.remote(), t.wait_long.remote()]
say(tasks=[reference.hex()[:32] for reference in tasks], actor=t._actor_id.hex())
listen()
"""


UNSAMPLED = """
start(_system_config={"profile_hz": 0})
@obsray.remote
def take_a_while():
    time.sleep(1)
obsray.get(take_a_while.remote())
say()
listen()
"""


def _leaf(stack: dict[str, Any]) -> str:
    return str(stack["frames"][0]).partition(" ")[0]


def test_what_runs_is_sampled_and_can_be_asked_for_whatever_it_does(program):
    driver = program(BUSY)
    directory = driver.hear()["directory"]
    said = driver.hear()
    view = views(directory)
    wanted = {"nap_well", "burn", "Async.wait_long", "Threaded.wait_long"}

    def sampled() -> bool:
        view.refresh()
        try:
            found = {row["function"]: row["cpu_seconds"] for row in view.profile(refresh=False)["functions"]}
        except LookupError:
            return False
        return wanted <= found.keys() and found["burn"] > found["nap_well"]

    eventually(sampled, PATIENCE_SECONDS)
    assert view.profile("burn", refresh=False)["stacks"][0]["frames"][0].startswith("burn (")

    found: dict[str, Any] = {}

    def all_seen() -> bool:
        nonlocal found
        view.refresh()
        found = merged(view, *stacks.everywhere(view.store.session_dir))
        by_leaf = {_leaf(stack): stack["count"] for stack in found["stacks"]}
        expected = {"nap_well": 2, "Async.wait_long": 2, "Threaded.wait_long": 2, "burn": 1, "holds_the_interpreter": 1}
        return expected.items() <= by_leaf.items()

    eventually(all_seen, PATIENCE_SECONDS)
    by_leaf = {_leaf(stack): stack for stack in found["stacks"]}
    (held,) = by_leaf["holds_the_interpreter"]["who"]
    assert held["how"] == "signal" and held["task"] == said["tasks"][1] and held["function"] == "holds_the_interpreter"
    assert {who["task"] for who in by_leaf["nap_well"]["who"]} == set(said["tasks"][2:4])
    assert all(who["seconds"] > 0 for who in by_leaf["nap_well"]["who"])
    everything: Any = ()

    def all_kinds() -> bool:
        nonlocal everything
        everything = stacks.everywhere(view.store.session_dir)
        kinds = {row["kind"] for row in everything[0] if row["threads"]}
        return {"driver", "worker", "node", "control", "collector"} <= kinds

    eventually(all_kinds, PATIENCE_SECONDS)
    one = merged(view, *everything, said["tasks"][1])
    assert _leaf(one["stacks"][0]) == "holds_the_interpreter"
    assert {_leaf(stack) for stack in merged(view, *everything, said["actor"])["stacks"]} >= {"Threaded.wait_long"}
    with pytest.raises(LookupError, match="does not run now"):
        merged(view, *everything, "ab" * 16)

    # A kill in the middle leaves behind what was running.
    victim = by_leaf["nap_well"]["who"][0]
    os.kill(victim["pid"], signal.SIGSTOP)
    silent = merged(view, *stacks.everywhere(view.store.session_dir), victim["task"])
    assert "stopped" in silent["unheard"][0]["why"] and silent["stacks"][0]["who"][0]["how"] == "sample"
    os.kill(victim["pid"], signal.SIGKILL)
    eventually(lambda: view.task(victim["task"])["state"] == "FAILED", PATIENCE_SECONDS)
    assert _leaf(view.profile(thing=victim["task"])["stacks"][0]) == "nap_well"


def test_nothing_is_sampled_where_nobody_wants_it(program):
    driver = program(UNSAMPLED)
    view = views(driver.hear()["directory"])
    driver.hear()
    view.refresh()
    with pytest.raises(LookupError, match="nothing was sampled"):
        view.profile(refresh=False)
    rows, _ = stacks.everywhere(view.store.session_dir)
    assert any(row["kind"] == "driver" and row["how"] == "itself" for row in rows)
