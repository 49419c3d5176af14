"""Workloads against faults, decided by seeds: the machines of drivers, workers and nodes keep their promises.

Each run is more than a thousand seeds, each twice with equal logs, spread over the processors there are.
``SIMULATION_SEEDS=200 pytest tests/simulation`` runs more seeds of each scenario, ``SIMULATION_SMALL=1000`` more of
each small one; ``obsray sim --scenario 'cluster_*' --runs 1000 --twice`` does the same by command. A failure names the
command that replays it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest

from obsray.core.node import delegation, shortlist
from obsray.testing.agenda import EventLog
from obsray.testing.bodies import BODIES
from obsray.testing.campaign import Outcome, campaign
from obsray.testing.faults import FAULTS
from obsray.testing.founding import Founding
from obsray.testing.scenarios import Scenario, ScenarioError, make_scenario, read_scenario
from obsray.testing.simulator import SimulationFailed, Simulator, simulate
from obsray.testing.workloads import WORKLOADS

HERE = Path(__file__).resolve().parent
SCENARIOS = {path.stem: read_scenario(path) for path in sorted(HERE.glob("scenarios/*.toml"))}
SEEDS = int(os.environ.get("SIMULATION_SEEDS", "1"))
SMALL = [name for name in SCENARIOS if name.startswith("small_")]
SMALL_SEEDS = int(os.environ.get("SIMULATION_SMALL", "69"))
#: By command only: half a minute to some minutes.
LARGE = ["founded_1000", "founded_10000", "busy_200"]
PROCESSES = len(os.sched_getaffinity(0))


def seeds_of(name: str) -> range:
    """Each scenario has seeds of its own, so that together they see more; they go by its name, so that they stay the
    same when others are added."""
    first = 1 + crc32(name.encode()) % 1_000_000
    return range(first, first + (SMALL_SEEDS if name in SMALL else 1 if name == "founded_200" else SEEDS))


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest) -> Iterator[dict[str, list[Outcome]]]:
    """What became of all seeds of the scenarios that are tested in this run."""
    found: dict[str, list[Outcome]] = {
        item.callspec.params["name"]: []
        for item in request.session.items
        if "outcomes" in getattr(item, "fixturenames", ()) and item.path == request.path
    }
    pairs = [(SCENARIOS[name], seed) for name in found for seed in seeds_of(name)]
    # The long ones first, so that all processes end at about the same time.
    pairs.sort(key=lambda pair: pair[0].name in SMALL)
    for outcome in campaign(pairs, PROCESSES, twice=True):
        found[outcome.scenario].append(outcome)
    return found


def remembered() -> list[tuple[str, int]]:
    """Scenario and seed of each line of ``seeds.txt``."""
    lines = [line.split(maxsplit=2) for line in (HERE / "seeds.txt").read_text().splitlines()]
    return [(words[0], int(words[1])) for words in lines if words and words[0] != "#"]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in LARGE])
def test_every_seed_keeps_the_promises_and_runs_twice_the_same(name, outcomes):
    failures = [outcome.failure for outcome in outcomes[name] if outcome.failure]
    assert not failures, f"{len(failures)} of {len(outcomes[name])} seeds of {name}; the first:\n{failures[0]}"
    missing = set(SCENARIOS[name].expect_events)
    for outcome in outcomes[name]:
        assert outcome.result is not None
        missing &= set(outcome.result.missing_events)
    assert not missing, f"{name} is there for {missing}, but no seed led to it"


def test_a_usual_run_is_a_thousand_seeds():
    if "SIMULATION_SEEDS" not in os.environ and "SIMULATION_SMALL" not in os.environ:
        assert sum(len(seeds_of(name)) for name in SCENARIOS if name not in LARGE) >= 1000


def test_what_founders_know_is_the_same_whether_it_is_made_at_once_or_when_they_touch_it(monkeypatch):
    text = {
        "nodes": 12, "founded": True, "cpus": 1, "faults_ms": 400, "config": {"workers_prestart": 1},
        "workload": [
            {"name": "fixed", "tasks": 60, "run_ms": 20},
            {"name": "actors", "actors": 3, "calls": 8, "callers": 2, "cpus": 1},
        ],
        "fault": [
            {"name": "control_away", "mean_ms": 100, "away_ms_max": 200},
            {"name": "wrong_clocks", "wrong_ms_max": 50},
        ],
    }  # fmt: skip
    # Who was met first is told of things first, so some runs differ in that. If they knew other things, all would.
    seeds = range(1, 9)
    lazily = [simulate(make_scenario("founded", text), seed).digest for seed in seeds]
    whole = Founding.complete

    def complete(self: Founding, simulator: Simulator) -> None:
        whole(self, simulator)
        for node in simulator.nodes:
            node.meet_all()
            assert len(node.machine.peers.usable()) == len(node.machine.peers.living()) == 11

    monkeypatch.setattr(Founding, "complete", complete)
    at_once = (simulate(make_scenario("founded", text), seed).digest for seed in seeds)
    assert any(one == other for one, other in zip(lazily, at_once, strict=True))


def test_a_run_that_differs_from_the_one_before_it_is_told(monkeypatch):
    numbers = iter(range(1000))
    monkeypatch.setattr(EventLog, "hash", lambda self: f"{next(numbers):016x}")
    (outcome,) = campaign([(small(), 1)], twice=True)
    assert "two runs of one seed differ" in outcome.failure and "--seed 1 --scenario small --twice" in outcome.failure


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


@pytest.mark.timeout(600)
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
        answer, _ = command.communicate(timeout=300)
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
