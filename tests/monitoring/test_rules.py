"""The rules are what Prometheus accepts, every alert fires when it should and not otherwise, and its page helps."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from obsray.cli import main
from obsray.metrics.catalog import METRICS
from obsray.monitoring import objectives, prometheus_files, rules, yaml_text
from obsray.telemetry.events import LeaseOutcome, Outcome
from obsray.testing.recorded_session import record_session
from tests.monitoring import rule_cases

ROOT = Path(__file__).resolve().parents[2]
ALERTS = prometheus_files.alerts()
#: Names in a query that are no metrics of ours.
FOREIGN = {"up", "scrape_samples_post_metric_relabeling"}


def promtool(*arguments):
    tool = shutil.which("promtool")
    assert tool, "promtool is missing: apt-get install prometheus"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=110, cwd=ROOT / "prometheus")


def metrics_in(query):
    """The names of metrics in a query, without the suffixes of histograms."""
    bare = re.sub(r'"[^"]*"', "", query)
    found = set()
    for name in re.findall(r"\b((?:obsray_|DCGM_|scrape_)\w+|up)\b(?!:)", re.sub(r"\S+:\S+", "", bare)):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        found.add(base if base in METRICS else name)
    return found


def test_prometheus_accepts_the_rules():
    checked = promtool("check", "rules", "obsray.rules.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"SUCCESS: {sum(len(group['rules']) for group in prometheus_files.groups())} rules" in checked.stdout


def test_every_alert_fires_when_it_should_and_not_otherwise():
    tested = promtool("test", "rules", "obsray.test.yml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_case_that_fires_and_one_that_does_not():
    assert {case.name for case in rule_cases.CASES} == {alert.name for alert in ALERTS}
    assert {case.name for case in rule_cases.CASES if not case.quiet} == {"ObsrayWatchdog"}
    assert len(ALERTS) >= 30
    assert rule_cases.FILE.read_text() == rule_cases.text(), "run python -m tests.monitoring.rule_cases"


def test_a_case_that_is_wrong_is_noticed(tmp_path):
    """The tool that says yes says no as well."""
    shutil.copy(ROOT / "prometheus" / "obsray.rules.yml", tmp_path)
    wrong = yaml.safe_load(rule_cases.FILE.read_text())
    (group,) = [group for group in wrong["tests"] if "ObsrayGpuXid" in str(group) and group["name"] == "fires"]
    wrong["tests"] = [{**group, "promql_expr_test": [], "input_series": []}]
    wrong["tests"][0]["promql_expr_test"] = [each for each in group["promql_expr_test"] if "Xid" in each["expr"]]
    (tmp_path / "wrong.test.yml").write_text(yaml.safe_dump(wrong))
    assert promtool("test", "rules", str(tmp_path / "wrong.test.yml")).returncode != 0


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_what_a_person_needs(alert):
    assert re.fullmatch(r"Obsray[A-Z]\w+", alert.name)
    assert alert.severity in rules.SEVERITIES
    for text in (alert.meaning, alert.impact, alert.remedy):
        assert text[0].isupper() and text.endswith("."), text
    assert alert.summary and "\n" not in alert.summary
    page = ROOT / "docs" / "runbooks" / f"{alert.name}.md"
    assert alert.rule["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{page.name}")
    assert all(heading in page.read_text() for heading in ("## Meaning", "## Impact", "## First commands"))


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    return str(record_session(tmp_path_factory.mktemp("session")).directory)


@pytest.mark.parametrize("command", sorted({command for alert in ALERTS for command in alert.commands}))
def test_the_commands_of_a_runbook_work(command, session, capsys, monkeypatch, tmp_path):
    """Those that read are run on a recorded session; of the others their arguments are understood."""
    monkeypatch.chdir(tmp_path)
    program, *words = shlex.split(command)
    assert program == "obsray"
    if words[0] in ("status", "list", "memory", "timeline", "gpu"):
        code = main([*words, "--session", session])
    else:
        assert words[0] in ("story", "why", "logs", "dashboard", "hangs", "stack")
        code = main([*words, "--help"])
    assert code == 0, capsys.readouterr()


def test_rules_name_metrics_that_exist_and_counters_by_their_exposed_name():
    exposed = {metric.exposed for metric in METRICS.values()} | FOREIGN
    for each in [*prometheus_files.RECORDS, *objectives.records(), *ALERTS]:
        names = {name for name in metrics_in(each.expr) if not name.startswith("DCGM_")}
        assert names <= exposed, (each.name, names - exposed)


def test_recorded_series_are_named_level_metric_operations_and_what_is_asked_for_is_recorded():
    recorded = {record.name for record in (*prometheus_files.RECORDS, *objectives.records())}
    for name in recorded:
        assert re.fullmatch(r"\w+:obsray_\w+:\w+", name)
    asked = {name for alert in ALERTS for name in re.findall(r"\b\w+:obsray_\w+:\w+", alert.expr)}
    assert asked <= recorded


def test_words_in_rules_are_those_of_the_events():
    assert set(objectives.BAD_OUTCOMES) <= {outcome.name.lower() for outcome in Outcome}
    good = {outcome.name.lower() for outcome in Outcome} - set(objectives.BAD_OUTCOMES)
    assert good == {
        "ok",
        "app_error",
        "cancelled",
        "unschedulable",
        "placement_removed",
        "nested_too_deep",
        "owner_died",
    }
    assert LeaseOutcome.SPILLED.name == "SPILLED"


def test_shortened_rules_are_valid_and_wait_seconds_at_most(tmp_path):
    text = prometheus_files.shortened(prometheus_files.rules(), 150)
    (tmp_path / "short.yml").write_text(text)
    assert promtool("check", "rules", str(tmp_path / "short.yml")).returncode == 0
    waits = [rule["for"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "for" in rule]
    assert waits and all(int(wait.removesuffix("s")) <= 6 for wait in waits)


def test_the_example_configuration_is_valid(tmp_path):
    (tmp_path / "metrics_token").write_text("0" * 64)
    shutil.copy(ROOT / "prometheus" / "obsray.rules.yml", tmp_path)
    text = (ROOT / "prometheus" / "prometheus.yml").read_text().replace("/etc/obsray/", f"{tmp_path}/")
    (tmp_path / "prometheus.yml").write_text(text)
    checked = promtool("check", "config", str(tmp_path / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


VALUES = [
    {
        "a": [
            1,
            2.5,
            True,
            None,
            "yes",
            "no",
            "on",
            "5m",
            "15",
            "1e3",
            "0x1f",
            "",
            " x ",
            "a: b",
            "- c",
            "#d",
            "it's",
            "ü",
        ]
    },
    {"empty": {}, "list": [], "nested": [{"a": [{"b": "c\nd\n  e"}]}, ["x", ["y"]]]},
    [{"k": "line\n"}, {"k": "a\n\nb"}, "~", "null", "{x}", "[y]", "*z", "&z", "!t", "%p", "@q", "`r", "a #b", "tab\t"],
]


@pytest.mark.parametrize("value", VALUES)
def test_what_is_written_as_yaml_is_read_as_the_same(value):
    assert yaml.safe_load(yaml_text.dump(value, "two\nlines")) == value
