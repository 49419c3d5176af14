"""All dashboards, and the files by which Grafana finds them."""

from __future__ import annotations

from typing import Any

from obsray.monitoring import yaml_text
from obsray.monitoring.dashboards import machines, work
from obsray.monitoring.grafana import PROMETHEUS, TEMPO, Dashboard

DASHBOARDS: tuple[Dashboard, ...] = (
    machines.CLUSTER,
    work.SCHEDULER,
    work.TASKS,
    work.ACTORS,
    machines.OBJECTS,
    machines.NODES,
    machines.GPU,
    machines.CONTROL,
    machines.AUTOSCALER,
    machines.TELEMETRY,
    work.JOBS,
    machines.SLO,
)
_MADE = "Made from obsray/monitoring by scripts/generate_docs.py; do not edit."
#: Where the dashboards lie in the container of Grafana.
FOLDER = "/var/lib/grafana/dashboards/obsray"


def datasources() -> str:
    """``grafana/provisioning/datasources/obsray.yaml``: an exemplar leads to its trace."""
    prometheus: dict[str, Any] = {
        "name": "Prometheus",
        "uid": PROMETHEUS,
        "type": "prometheus",
        "access": "proxy",
        "url": "$PROMETHEUS_URL",
        "isDefault": True,
        "jsonData": {
            "httpMethod": "POST",
            "timeInterval": "15s",
            "exemplarTraceIdDestinations": [{"name": "trace_id", "datasourceUid": TEMPO, "urlDisplayLabel": "Trace"}],
        },
    }
    tempo: dict[str, Any] = {
        "name": "Tempo",
        "uid": TEMPO,
        "type": "tempo",
        "access": "proxy",
        "url": "$TEMPO_URL",
        "jsonData": {
            "tracesToMetrics": {"datasourceUid": PROMETHEUS},
            "serviceMap": {"datasourceUid": PROMETHEUS},
            "nodeGraph": {"enabled": True},
        },
    }
    return yaml_text.dump({"apiVersion": 1, "datasources": [prometheus, tempo]}, _MADE)


def provider() -> str:
    """``grafana/provisioning/dashboards/obsray.yaml``."""
    made = {
        "name": "obsray",
        "folder": "obsray",
        "folderUid": "obsray",
        "type": "file",
        "disableDeletion": True,
        "allowUiUpdates": False,
        "updateIntervalSeconds": 30,
        "options": {"path": FOLDER, "foldersFromFilesStructure": False},
    }
    return yaml_text.dump({"apiVersion": 1, "providers": [made]}, _MADE)
