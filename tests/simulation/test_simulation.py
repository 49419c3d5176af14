"""Workloads against faults, decided by seeds: the machines of drivers, workers and the node keep their promises.

``SIMULATION_SEEDS=200 pytest tests/simulation`` runs more seeds of each scenario, ``SIMULATION_SMALL=100`` more of each
small one (1,000 in all, within a minute on one core). A failure names the command that replays it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from obsray.core.node import delegation, shortlist
from obsray.testing.bodies import BODIES
from obsray.testing.faults import FAULTS
from obsray.testing.scenarios import Scenario, ScenarioError, make_scenario, read_scenario
from obsray.testing.simulator import SimulationFailed, Simulator, simulate
from obsray.testing.workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
SCENARIOS = {path.stem: read_scenario(path) for path in sorted(HERE.glob("scenarios/*.toml"))}
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2"))
SMALL = [name for name in SCENARIOS if name.startswith("small_")]
SMALL_SEEDS = int(os.environ.get("SIMULATION_SMALL", "6"))


def remembered() -> list[tuple[str, int]]:
    """Scenario and seed of each line of ``seeds.txt``."""
    lines = [line.split(maxsplit=2) for line in (HERE / "seeds.txt").read_text().splitlines()]
    return [(words[0], int(words[1])) for words in lines if words and words[0] != "#"]


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in SMALL])
def test_every_seed_keeps_the_promises_and_runs_twice_the_same(name):
    scenario, missing = SCENARIOS[name], set(SCENARIOS[name].expect_events)
    # Each scenario has seeds of its own, so that together they see more.
    first = 1000 * (1 + list(SCENARIOS).index(name))
    # Those of clusters have many small ones beside them.
    seeds = -(-SEEDS // 2) if name.startswith("cluster_") else SEEDS
    for seed in range(first, first + seeds):
        result = simulate(scenario, seed)
        assert Simulator(scenario, seed).run().digest == result.digest, f"{name} {seed} is not repeatable"
        missing &= set(result.missing_events)
    assert not missing, f"{name} is there for {missing}, but no seed led to it"


@pytest.mark.parametrize("name", SMALL)
def test_many_small_clusters_keep_the_promises_and_run_twice_the_same(name):
    for seed in range(1, SMALL_SEEDS + 1):
        result = simulate(SCENARIOS[name], seed)
        assert Simulator(SCENARIOS[name], seed).run().digest == result.digest, f"{name} {seed} is not repeatable"


@pytest.mark.parametrize("name", ["cluster_actors", "cluster_everything", "small_mixed"])
def test_whoever_looks_only_at_a_few_of_many_nodes_is_helped_all_the_same(name, monkeypatch):
    for module in (shortlist, delegation):
        monkeypatch.setattr(module, "LOOKED_AT_MAX", 2)
    monkeypatch.setattr(shortlist, "ROOMY_MAX", 1)
    for seed in range(1, 4):
        simulate(SCENARIOS[name], seed)


@pytest.mark.parametrize(("name", "seed"), remembered())
def test_a_seed_that_once_failed_does_not_fail_again(name, seed):
    simulate(SCENARIOS[name], seed)


def test_a_run_is_the_same_in_another_process_with_another_hash_seed():
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "obsray.cli", "sim", "--seed", "5", "--scenario", name, "--json"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed}, stdout=subprocess.PIPE, text=True,
        )
        for name in ("everything", "cluster_everything")
        for hash_seed in ("1", "2")
    ]  # fmt: skip
    digests = []
    for command in commands:
        answer, _ = command.communicate(timeout=60)
        assert command.returncode == 0
        digests.append(next(line for line in answer.splitlines() if '"digest"' in line))
    assert digests[0] == digests[1] != digests[2] == digests[3]


def test_other_seeds_are_other_runs():
    scenario = SCENARIOS["slow_starts"]
    assert len({Simulator(scenario, seed).run().digest for seed in range(3)}) == 3


def test_every_workload_fault_and_body_is_used_by_some_scenario():
    used = {part.name for scenario in SCENARIOS.values() for part in scenario.workloads}
    assert used == set(WORKLOADS)
    assert {part.name for scenario in SCENARIOS.values() for part in scenario.faults} == set(FAULTS)
    text = (HERE.parents[1] / "obsray" / "testing" / "workloads.py").read_text()
    text += (HERE.parents[1] / "obsray" / "testing" / "bodies.py").read_text().replace("@function(", "")
    for name in BODIES:
        called = name.partition(".")[2] or name
        assert called == "__init__" or f'"{called}"' in text, f"nobody calls {name}"


def test_every_remembered_seed_has_its_reason():
    for line in (HERE / "seeds.txt").read_text().splitlines():
        if not line.startswith("#"):
            assert len(line.split(maxsplit=2)[2]) > 20, line


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ({}, "no [[workload]]"),
        ({"workload": [{"name": "no_op"}]}, "unknown workload 'no_op'"),
        ({"workload": [{"name": "no_ops"}]}, "needs 'tasks'"),
        ({"workload": [{"name": "no_ops", "tasks": 1, "taks": 2}]}, "no parameter 'taks'"),
        ({"workload": [{"name": "no_ops", "tasks": 1, "driver": 1}]}, "no driver 1"),
        ({"workload": [{"name": "no_ops", "tasks": 1}], "fault": [{"name": "x"}]}, "unknown fault 'x'"),
        ({"workload": [{"name": "no_ops", "tasks": 1}], "cpu": 2}, "unknown key 'cpu'"),
        ({"workload": [{"name": "no_ops", "tasks": 1}], "config": {"linger": 2}}, "no setting 'linger'"),
    ],
)
def test_a_scenario_with_a_mistake_is_refused_with_a_sentence(text, complaint):
    with pytest.raises(ScenarioError, match=complaint.replace("[", r"\[")):
        make_scenario("mistaken", text)


def small(**values: object) -> Scenario:
    return make_scenario("small", {"workload": [{"name": "no_ops", "tasks": 40}], **values})


def test_a_failure_names_the_step_and_the_command_that_replays_it(monkeypatch):
    monkeypatch.setattr("obsray.testing.simulator.STEPS_MAX", 10)
    with pytest.raises(SimulationFailed, match=r"after step 11: .*\n.*obsray sim --seed 3 --scenario small"):
        simulate(small(), 3)


def test_what_takes_longer_than_the_scenario_allows_is_told_with_what_it_waits_for():
    with pytest.raises(SimulationFailed, match=r"waits do not end[^$]*no_ops\[0\]"):
        simulate(small(cpus=0, finish_within_ms=500), 1)
