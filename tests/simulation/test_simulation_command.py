"""``obsray sim`` as somebody new to it reads it: a verdict, how far it is, how to replay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obsray.cli import simulation
from obsray.cli.command import main


@pytest.fixture
def stuck(tmp_path: Path) -> str:
    """A scenario in a file whose tasks can never run."""
    path = tmp_path / "stuck.toml"
    path.write_text('cpus = 0\nfinish_within_ms = 200\n[[workload]]\nname = "no_ops"\ntasks = 2\n')
    return str(path)


def test_a_run_ends_with_a_verdict_and_its_digest(capsys):
    assert main(["sim", "--scenario", "small_pause", "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert told.endswith("all invariants hold\n") and "(equal for equal runs)" in told and "2 nodes" in told


def test_scenarios_are_named_by_a_pattern_and_each_is_told(capsys):
    assert main(["sim", "--scenario", "small_[cp]*", "--runs", "2", "--jobs", "1", "--twice"]) == 0
    told = capsys.readouterr().out
    for name in ("small_control", "small_crash", "small_cut", "small_pause"):
        assert f"{name} " in told and "2 seeds, 0 failed" in told
    assert "all invariants hold, and each seed run twice was the same run" in told


def test_several_processes_say_the_same_as_one(capsys):
    digests = []
    for jobs in ("1", "2"):
        assert main(["sim", "--scenario", "small_cut", "--runs", "4", "--jobs", jobs, "--json"]) == 0
        digests.append([run["digest"] for run in json.loads(capsys.readouterr().out)["runs"]])
    assert digests[0] == digests[1] and len(set(digests[0])) == 4


def test_a_failure_is_told_with_what_happened_and_the_command_that_replays_it(stuck, capsys):
    assert main(["sim", "--scenario", stuck, "--seed", "7"]) == 1
    told = capsys.readouterr().err
    assert "these waits do not end" in told and f"replay it: obsray sim --seed 7 --scenario {stuck}" in told
    assert "the last 40 lines of what happened" in told and "asked for" in told


def test_of_many_runs_the_first_that_fails_is_the_last_unless_one_wants_all(stuck, capsys):
    assert main(["sim", "--scenario", stuck, "--runs", "3", "--jobs", "1"]) == 1
    assert "1 of 1 runs failed; 2 were not run (--keep-going)" in capsys.readouterr().out
    assert main(["sim", "--scenario", stuck, "--runs", "3", "--jobs", "1", "--keep-going"]) == 1
    told = capsys.readouterr().out
    assert "3 of 3 runs failed; replay them:" in told and f"obsray sim --seed 3 --scenario {stuck}" in told


def test_whoever_waits_is_told_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(simulation, "TELL_SECONDS", 0.0)
    monkeypatch.setattr("obsray.testing.simulator.PROGRESS_STEPS", 50)
    assert main(["sim", "--scenario", "small_pause"]) == 0
    assert "steps, " in capsys.readouterr().err
    assert main(["sim", "--scenario", "small_pause", "--runs", "2", "--jobs", "1"]) == 0
    assert "1 of 2 runs, 0 failed, about" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--scenario", "nothing_*"], "no scenario is called like"),
        (["--scenario", "small_cut", "--runs", "0"], "there is nothing to run"),
        (["--scenario", "small_cut", "--seed", "-1"], "--seed -1: must be >= 0"),
        (["--scale", "--seed", "-1"], "--seed -1: must be >= 0"),
        (["--scenario", "small_cut", "--jobs", "0"], "nobody would run anything"),
        (["--scenario", "small_*", "--log"], "--log is for one run"),
        (["--scenario", "small_cut", "--about", "xyz"], "an id is hex digits"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(words, complaint, capsys):
    assert main(["sim", *words]) != 0
    assert complaint in capsys.readouterr().err
