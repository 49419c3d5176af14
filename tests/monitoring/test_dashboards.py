"""Dashboards: their structure, what they ask for, and that everything exported is shown or asked for somewhere."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml

from obsray.metrics.catalog import METRICS
from obsray.monitoring import grafana, objectives, prometheus_files
from obsray.monitoring.dashboards import listed
from tests.monitoring import live
from tests.monitoring.test_rules import FOREIGN, metrics_in

ROOT = Path(__file__).resolve().parents[2]
MODELS = {dashboard.uid: grafana.model(dashboard) for dashboard in listed.DASHBOARDS}
#: Units of Grafana (its value formats).
UNITS = {
    "short", "ops", "s", "µs", "percentunit", "bytes", "mbytes", "Bps", "celsius", "watt", "rotmhz",
}  # fmt: skip
FOREIGN_HERE = FOREIGN | {"ALERTS", "scrape_samples_scraped", "scrape_duration_seconds"}


def panels(model):
    return [panel for panel in model["panels"] if panel["type"] != "row"]


def queries(model):
    return [target["expr"] for panel in panels(model) for target in panel["targets"]]


def test_the_dashboards_that_are_promised_are_there():
    titles = {dashboard.title for dashboard in listed.DASHBOARDS}
    assert titles == {
        "Cluster overview", "Scheduler and decisions", "Tasks and functions", "Actors", "Object store and transfers",
        "Nodes", "GPU", "Control store", "Autoscaler", "Telemetry about itself", "Job cost and closed books",
        "Objectives and error budgets",
    }  # fmt: skip
    assert len(MODELS) == len(listed.DASHBOARDS), "uids are unique"
    assert all(re.fullmatch(r"obsray-[a-z]{2,20}", uid) for uid in MODELS)


@pytest.mark.parametrize("uid", MODELS)
def test_a_dashboard_is_well_formed(uid):
    model = MODELS[uid]
    assert model["description"] and model["tags"] == ["obsray"] and model["schemaVersion"] >= 36
    identifiers = [panel["id"] for panel in model["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    titles = [panel["title"] for panel in panels(model)]
    assert len(set(titles)) == len(titles) or uid == "obsray-slo"
    names = [variable["name"] for variable in model["templating"]["list"]]
    assert names[:2] == ["datasource", "cluster"] and names[-1] == "obsray_url"
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(model)))
    known = {*names, "__from", "__to", "__rate_interval", "__range", "__all"}
    assert used <= known, used - known
    assert set(names) <= used | {"datasource"}, "a variable that nothing asks for"


@pytest.mark.parametrize("uid", MODELS)
def test_no_two_panels_overlap_and_none_leaves_the_grid(uid):
    places = [panel["gridPos"] for panel in MODELS[uid]["panels"]]
    for place in places:
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["w"] > 0 and place["h"] > 0
    for a, b in itertools.combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


@pytest.mark.parametrize(
    ("uid", "panel"), [(uid, panel) for uid, model in MODELS.items() for panel in panels(model)],
    ids=lambda value: value if isinstance(value, str) else value["title"],
)  # fmt: skip
def test_a_panel_says_what_it_shows(uid, panel):
    assert panel["type"] in grafana.KINDS
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    letters = [target["refId"] for target in panel["targets"]]
    assert letters == sorted(set(letters)) and letters
    for target in panel["targets"]:
        assert target["expr"] and target["legendFormat"] and target["datasource"] == panel["datasource"]
        assert target["expr"].count("(") == target["expr"].count(")")
        assert "$C" not in target["expr"].replace("$__", "") and "$R" not in target["expr"]
        assert target["instant"] != target["range"]
        for window in re.findall(r"rate\([^\[\]]*\[([^\]]+)\]", re.sub(r'"[^"]*"', "", target["expr"])):
            assert window in ("$__rate_interval", "$__range"), "a fixed window hides data at other zooms"
    (link,) = panel["links"]
    assert link["url"].startswith("${obsray_url}/go?next=%2F")


@pytest.mark.parametrize("uid", MODELS)
def test_queries_name_metrics_that_exist(uid):
    exposed = {metric.exposed for metric in METRICS.values()} | {"obsray_build_info"} | FOREIGN_HERE
    for query in queries(MODELS[uid]):
        names = {name for name in metrics_in(query) if not name.startswith("DCGM_")}
        assert names <= exposed, (query, names - exposed)


def test_no_label_is_called_like_one_that_prometheus_gives():
    """It would be renamed (exported_job), and a query by that name would tell something else."""
    given = {"job", "instance", "cluster", "role", "node_id", "le", "quantile", "__name__"}
    assert not [metric.name for metric in METRICS.values() if given & set(metric.labels)]


def test_series_that_rules_record_are_recorded():
    recorded = {record.name for record in (*prometheus_files.RECORDS, *objectives.records())}
    for model in MODELS.values():
        for query in queries(model):
            assert set(re.findall(r"\b\w+:obsray_\w+:\w+", query)) <= recorded


def test_grafana_finds_dashboards_and_leads_from_an_exemplar_to_its_trace():
    sources = yaml.safe_load((ROOT / "grafana/provisioning/datasources/obsray.yaml").read_text())["datasources"]
    by_type = {source["type"]: source for source in sources}
    (destination,) = by_type["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert destination["name"] == "trace_id" and destination["datasourceUid"] == by_type["tempo"]["uid"]
    assert by_type["prometheus"]["uid"] == grafana.PROMETHEUS and by_type["prometheus"]["isDefault"]
    (provider,) = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/obsray.yaml").read_text())["providers"]
    assert provider["options"]["path"] == listed.FOLDER
    files = {path.stem for path in (ROOT / "grafana/dashboards").glob("*.json")}
    assert files == set(MODELS), "no file is left of a dashboard that is gone"


def test_runbooks_name_dashboards_that_exist():
    assert {alert.dashboard for alert in prometheus_files.alerts()} <= set(MODELS)


def test_recorded_gpu_samples_are_like_what_is_exposed():
    for line in live.GPU_METRICS.read_text().splitlines():
        found = re.fullmatch(r"(\w+)\{(.*)\} \S+", line)
        if found:
            labels = set(re.findall(r'(\w+)="', found[2]))
            assert labels == set(METRICS[found[1].removesuffix("_total")].labels)
