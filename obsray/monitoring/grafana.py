"""Dashboards of Grafana: the nouns, and how they become its JSON.

Queries are written with short words for what every dashboard filters by: ``$C`` the clusters, ``$N`` clusters and
nodes, ``$F`` clusters and functions that are chosen at its top; ``$R`` is Grafana's interval for rates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

#: The schema that Grafana 11 and later read without changing what is shown.
SCHEMA_VERSION = 39
COLUMNS = 24
PROMETHEUS, TEMPO = "prometheus", "tempo"
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WORDS = {
    "$C": 'cluster=~"$cluster"',
    "$N": 'cluster=~"$cluster", node=~"$node"',
    "$F": 'cluster=~"$cluster", fn=~"$fn"',
    "$R": "$__rate_interval",
}
KINDS = ("timeseries", "stat", "gauge", "bargauge", "table", "heatmap", "state-timeline", "piechart")

Query = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    ``queries``: (PromQL, legend). ``unit``: one of Grafana's. ``page``: the page of obsray's dashboard that has the
    single things behind it: those that were (``tasks:submitted_at_ns``: the column that says when) in the time that is
    shown, or all as they were at its end.
    ``good``: above 0 it is bad (``low``), below 1 it is bad (``high``), or neither.
    """

    title: str
    about: str
    unit: str
    queries: tuple[Query, ...]
    page: str
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stack: bool = False
    good: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard: rows of panels under titles. ``filters``: the variables it has besides the cluster."""

    uid: str
    title: str
    about: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    filters: tuple[str, ...] = ()

    @property
    def panels(self) -> list[Panel]:
        return [panel for _, panels in self.rows for panel in panels]


def expand(query: str) -> str:
    """The query with short words written out."""
    for word, meaning in _WORDS.items():
        query = query.replace(word, meaning)
    return query


def text(dashboard: Dashboard) -> str:
    """The file of a dashboard."""
    return json.dumps(model(dashboard), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def model(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": dashboard.uid,
        "title": f"obsray / {dashboard.title}",
        "description": dashboard.about,
        "tags": ["obsray"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "timezone": "browser",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables(dashboard)},
        "annotations": {"list": _annotations()},
        "links": [
            {
                "title": "Other dashboards", "type": "dashboards", "tags": ["obsray"], "asDropdown": True,
                "includeVars": True, "keepTime": True, "icon": "external link", "targetBlank": False,
                "tooltip": "", "url": "",
            },
            {
                "title": "obsray", "type": "link", "url": obsray_link(""), "icon": "external link",
                "targetBlank": True, "tooltip": "What obsray itself shows: single tasks, actors, objects, and why",
                "tags": [], "asDropdown": False, "includeVars": False, "keepTime": False,
            },
        ],
        "panels": _panels(dashboard),
    }  # fmt: skip


def obsray_link(page: str) -> str:
    """A link to a page of obsray's dashboard, for the time that is shown."""
    noun, _, column = page.partition(":")
    if column:
        bounds = [f"{column} >= FROM000000", f"{column} <= TO000000"]
        place = f"/{noun}?" + "&".join(f"where={quote(bound)}" for bound in bounds)
    else:
        place = f"/{noun}?from=FROM&to=TO"
    address = quote(place, safe="").replace("FROM", "${__from}").replace("TO", "${__to}")
    return "${obsray_url}/go?next=" + address


def _panels(dashboard: Dashboard) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    top = 0
    for title, panels in dashboard.rows:
        row = {
            "id": len(found) + 1, "type": "row", "title": title, "collapsed": False, "panels": [],
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
        }  # fmt: skip
        found.append(row)
        top += 1
        left = height = 0
        for panel in panels:
            if left + panel.width > COLUMNS:
                left, top = 0, top + height
                height = 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            found.append({"id": len(found) + 1, "gridPos": place, **_panel(panel)})
            left, height = left + panel.width, max(height, panel.height)
        top += height
    return found


def _panel(panel: Panel) -> dict[str, Any]:
    instant = panel.kind in ("table", "stat", "gauge", "bargauge", "piechart")
    targets = []
    for number, (query, legend) in enumerate(panel.queries):
        target: dict[str, Any] = {
            "refId": chr(ord("A") + number),
            "datasource": _DATASOURCE,
            "expr": expand(query),
            "legendFormat": legend,
            "editorMode": "code",
            "range": not instant,
            "instant": instant,
        }
        if "_bucket" in query and panel.kind == "timeseries":
            target["exemplar"] = True
        if panel.kind == "table":
            target["format"] = "table"
        if panel.kind == "heatmap":
            target["format"] = "heatmap"
        targets.append(target)
    made: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        "links": [{"title": "The same in obsray", "url": obsray_link(panel.page), "targetBlank": True}],
    }
    if panel.kind == "table":
        made["transformations"] = [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": _renamed(panel)}},
        ]
    return made


def _renamed(panel: Panel) -> dict[str, str]:
    return {f"Value #{chr(ord('A') + number)}": legend for number, (_, legend) in enumerate(panel.queries)} | (
        {"Value": panel.queries[0][1]} if len(panel.queries) == 1 else {}
    )


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.good == "low":
        steps.append({"color": "red", "value": 0.000001})
    if panel.good == "high":
        steps = [{"color": "red", "value": None}, {"color": "green", "value": 1}]
    made: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "thresholds" if panel.kind in ("stat", "gauge", "bargauge") else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [],
        "noValue": "–",
    }
    if panel.unit == "percentunit":
        made |= {"min": 0, "max": 1} if panel.kind in ("gauge", "bargauge") else {"min": 0}
    if panel.kind == "timeseries":
        made["custom"] = {
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stack else 8,
            "showPoints": "never",
            "spanNulls": False,
            "axisSoftMin": 0,
            "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
        }
    return made


def _options(panel: Panel) -> dict[str, Any]:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "timeseries":
        legend = {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "max"], "showLegend": True}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "table":
        return {"showHeader": True, "cellHeight": "sm", "footer": {"show": False, "reducer": ["sum"], "fields": ""}}
    if panel.kind == "heatmap":
        return {
            "calculate": False,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
            "yAxis": {"unit": panel.unit},
            "cellGap": 1,
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": True},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
        }
    if panel.kind == "state-timeline":
        return {"showValue": "auto", "mergeValues": True, "rowHeight": 0.9, "legend": {"showLegend": True}}
    if panel.kind == "piechart":
        legend = {"displayMode": "table", "placement": "right", "values": ["percent", "value"], "showLegend": True}
        return {"pieType": "donut", "reduceOptions": reduced, "legend": legend}
    made: dict[str, Any] = {"reduceOptions": reduced, "orientation": "auto"}
    if panel.kind == "stat":
        made |= {"colorMode": "value", "graphMode": "area", "textMode": "auto", "justifyMode": "auto"}
    if panel.kind == "bargauge":
        made |= {"displayMode": "gradient", "valueMode": "color", "showUnfilled": True}
    return made


def _variables(dashboard: Dashboard) -> list[dict[str, Any]]:
    queries = {
        "cluster": ("Cluster", "label_values(obsray_build_info, cluster)"),
        "node": ("Node", 'label_values(obsray_build_info{cluster=~"$cluster"}, node)'),
        "fn": ("Function", 'label_values(obsray_tasks_submitted_total{cluster=~"$cluster"}, fn)'),
    }
    found: list[dict[str, Any]] = [
        {
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "current": {"text": "Prometheus", "value": PROMETHEUS}, "hide": 0, "regex": "", "refresh": 1,
            "includeAll": False, "multi": False, "options": [],
        }
    ]  # fmt: skip
    for name in ("cluster", *dashboard.filters):
        label, query = queries[name]
        found.append(
            {
                "name": name, "label": label, "type": "query", "datasource": _DATASOURCE, "definition": query,
                "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "multi": True, "includeAll": True,
                "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]}, "hide": 0, "options": [],
                "regex": "",
            }
        )  # fmt: skip
    address = "http://127.0.0.1:8265"
    found.append(
        {
            "name": "obsray_url", "label": "obsray's dashboard", "type": "textbox", "query": address, "hide": 2,
            "current": {"text": address, "value": address},
            "options": [{"text": address, "value": address, "selected": True}],
        }
    )  # fmt: skip
    return found


ANNOTATIONS: tuple[tuple[str, str, str, str], ...] = (
    (
        "Nodes that died",
        'sum by (cluster) (increase(obsray_node_changes_total{cluster=~"$cluster", state="dead"}[1m])) > 0',
        "red",
        "a node of {{cluster}} died",
    ),
    (
        "Deploys",
        'count by (cluster, version) (obsray_build_info{cluster=~"$cluster"})'
        ' unless count by (cluster, version) (obsray_build_info{cluster=~"$cluster"} offset 1m)',
        "blue",
        "obsray {{version}} began in {{cluster}}",
    ),
    (
        "Critical alerts",
        'ALERTS{alertstate="firing", severity="critical", alertname=~"Obsray.*", cluster=~"$cluster|"}',
        "orange",
        "{{alertname}}",
    ),
)


def _annotations() -> list[dict[str, Any]]:
    builtin = {
        "name": "Annotations & Alerts", "builtIn": 1, "type": "dashboard", "enable": True, "hide": True,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"}, "iconColor": "rgba(0, 211, 255, 1)",
    }  # fmt: skip
    return [
        builtin,
        *(
            {
                "name": name, "datasource": _DATASOURCE, "expr": query, "enable": True, "iconColor": color,
                "titleFormat": title, "step": "15s", "hide": False,
            }
            for name, query, color, title in ANNOTATIONS
        ),
    ]  # fmt: skip
