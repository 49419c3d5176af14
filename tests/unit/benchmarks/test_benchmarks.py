"""The benchmarks' own arithmetic and honesty: medians, failures, budgets, the order of a run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import table, turns
from benchmarks.budgets import BUDGETS, Budget
from benchmarks.runner import ROOT, plan, run_sample
from benchmarks.suite import BENCHMARKS, GROUPS
from benchmarks.targets import TARGETS


def sample(target, benchmark, **facts):
    return {"round": 0, "target": target, "benchmark": benchmark, "limit": 0.0, **facts}


def test_every_budget_is_about_a_benchmark():
    assert {budget.benchmark for budget in BUDGETS} <= set(BENCHMARKS)
    assert {budget.relation for budget in BUDGETS} <= {"at least", "at most"}


def test_every_benchmark_belongs_to_a_group():
    assert {benchmark.group for benchmark in BENCHMARKS.values()} == set(GROUPS)


def test_targets_alternate_and_take_turns_to_begin():
    order = [(number, target) for number, target, _ in plan(["tasks_sync"], ["obsray", "ray"], 2)]
    assert order == [(0, "obsray"), (0, "ray"), (1, "ray"), (1, "obsray")]


def test_a_library_is_not_asked_for_what_it_does_not_offer():
    steps = list(plan(["actor_sync", "tasks_sync"], ["pool"], 1))
    assert steps == [(0, "pool", ["tasks_sync"])]


def test_a_benchmark_that_failed_once_has_no_median():
    outcome = table.Outcome([sample("ray", "tasks_sync", value=5.0), sample("ray", "tasks_sync", error="boom")])
    assert outcome.median("ray", "tasks_sync") is None
    text = table.markdown(outcome, [], 2)
    assert "**failed**" in text and "Ray, task round trip, sync: 1 × boom" in text


def test_the_ratio_is_above_one_where_obsray_is_better():
    outcome = table.Outcome(
        [
            sample("obsray", "tasks_sync", value=20.0),
            sample("ray", "tasks_sync", value=10.0),
            sample("obsray", "import_seconds", value=0.1),
            sample("ray", "import_seconds", value=0.5),
        ]
    )
    rows = table.medians_table(outcome)
    assert [row.split("|")[-2].strip() for row in rows if "sync" in row or "import" in row] == ["5", "2"]


@pytest.mark.parametrize(("measured", "verdict"), [(20.0, "kept"), (19.0, "**missed**")])
def test_a_budget_is_kept_or_missed_by_the_measured_ratio(measured, verdict):
    outcome = table.Outcome([sample("obsray", "tasks_sync", value=measured), sample("ray", "tasks_sync", value=1.0)])
    (line,) = [line for line in table.budget_table(outcome) if "round trip" in line]
    assert verdict in line


def test_a_budget_of_which_a_part_is_missing_is_not_measured():
    budget = Budget("tasks_sync", "at least", 20, against="ray")
    assert budget.measured(lambda target, name: 5.0 if target == "obsray" else None, None) is None


def test_lost_events_are_a_missed_budget():
    runtime = {"version": "1", "events_recorded": 1_000, "events_lost": 3}
    outcome = table.Outcome([{"round": 0, "target": "obsray", "runtime": runtime}])
    assert table.budget_table(outcome)[-1].endswith("| 0 | 3 | **missed** |")


def test_what_telemetry_costs_is_measured_in_turns_next_to_each_other(monkeypatch):
    turn = []

    class Machine:
        """Becomes slower by a tenth from turn to turn; telemetry costs a tenth."""

        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def seconds(self, batches):
            turn.append("off")
            return 1 + 0.1 * len(turn)

    def with_telemetry(task, batches):
        turn.append("on")
        return 1.1 * (1 + 0.1 * len(turn))

    monkeypatch.setattr(turns, "Counterpart", Machine)
    monkeypatch.setattr(turns, "seconds_of", with_telemetry)
    monkeypatch.setattr(turns, "REST_SECONDS", 0)
    monkeypatch.setitem(turns.WORK, "nothing", lambda api, run: lambda: None)
    found = turns.ratios(None, None, "nothing", 1, 2)
    assert found == pytest.approx([1 / 1.1] * 2)
    assert turn == ["off", "on", "off", "off", "on", "off", "on", "on", "off"]
    assert turns.spread(found)["turns"] == 8


def test_only_the_generated_section_is_replaced():
    document = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    assert table.replace_section(document, "new") == f"before\n{table.BEGIN}\n\nnew\n{table.END}\nafter\n"
    with pytest.raises(ValueError, match="markers"):
        table.replace_section("nothing here", "new")
    assert table.BEGIN in (ROOT / "docs/benchmarks.md").read_text()


def test_a_sample_runs_in_a_process_of_its_own_and_leaves_none_behind():
    lines = run_sample(TARGETS["pool"], ["tasks_sync"], ["--cpus", "1", "--spins-per-ms", "100", "--quick"], "")
    (value,) = [line["value"] for line in lines if line.get("benchmark") == "tasks_sync"]
    assert value > 0
    assert lines[-1] == {"ending": "ended", "leftover_processes": 0}


def test_a_sample_that_cannot_start_is_an_error_with_its_last_words():
    lines = run_sample(TARGETS["pool"], ["tasks_sync"], ["--cpus", "none"], "")
    (line,) = [line for line in lines if line.get("benchmark") == "tasks_sync"]
    assert line["error"].startswith("exit code 2") and "invalid int value" in line["error"]


def test_an_unknown_name_is_refused():
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "no_such"], capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == 2 and "no_such" in ended.stderr
