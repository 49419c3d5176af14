"""What Prometheus asks the dashboard, and what its credential does not open."""

from __future__ import annotations

import json

import pytest
from fake_views import TOKEN
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from obsray.metrics.catalog import METRICS
from obsray.metrics.targets import FILE
from obsray.telemetry import credential

SCRAPER = {"authorization": f"Bearer {credential.of(bytes.fromhex(TOKEN))}"}


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_the_dashboard_serves_its_part_of_the_catalogue(stranger):
    assert stranger.get("/metrics", headers=SCRAPER).status_code == 200
    found = families(stranger.get("/metrics", headers=SCRAPER).text)
    assert set(found) == {name for name, metric in METRICS.items() if metric.served_by == "dashboard"}
    counted = {(s.labels["route"], s.labels["status"]): s.value for s in found["obsray_dashboard_requests"].samples}
    assert counted["scraping.metrics", "200"] == 1


def test_what_people_ask_for_makes_no_series(client):
    for number in range(20):
        client.get(f"/tasks/{number:032x}")
        client.get(f"/no/such/page/{number}")
        client.get(f"/static/nothing-{number}.js")
    found = families(client.get("/metrics").text)
    routes = {sample.labels["route"] for sample in found["obsray_dashboard_requests"].samples}
    assert len(routes) <= 3, routes


def test_targets_are_what_the_head_wrote_down(stranger, session_directory):
    assert stranger.get("/api/prometheus/sd", headers=SCRAPER).json() == []
    entries = [{"targets": ["127.0.0.1:1"], "labels": {"role": "node"}}]
    (session_directory / FILE).write_text(json.dumps(entries))
    answer = stranger.get("/api/prometheus/sd", headers=SCRAPER)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == entries


@pytest.mark.parametrize("path", ["/", "/tasks", "/api/v1/overview", "/api/v1/tasks", "/static/app.js"])
def test_the_credential_for_metrics_opens_nothing_else(stranger, path):
    assert stranger.get(path, headers=SCRAPER).status_code == 401


def test_a_scraper_without_a_credential_is_turned_away(stranger):
    for path in ("/metrics", "/api/prometheus/sd"):
        assert stranger.get(path).status_code == 401
        assert stranger.get(path, headers={"authorization": "Bearer " + "0" * 64}).status_code == 401
