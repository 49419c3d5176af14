"""Which file of the repository is made of what here: ``scripts/generate_docs.py`` writes them, a test compares them."""

from __future__ import annotations

from collections.abc import Callable

from obsray.monitoring import deployment, grafana, objectives, prometheus_files, runbooks
from obsray.monitoring.dashboards import listed


def files() -> dict[str, Callable[[], str]]:
    """Path in the repository -> what makes its text."""
    alerts = prometheus_files.alerts()
    found: dict[str, Callable[[], str]] = {
        "prometheus/obsray.rules.yml": prometheus_files.rules,
        "prometheus/prometheus.yml": prometheus_files.example,
        "docs/slo.md": objectives.markdown,
        "docs/runbooks/README.md": lambda: runbooks.index(alerts),
    }
    found["grafana/provisioning/datasources/obsray.yaml"] = listed.datasources
    found["grafana/provisioning/dashboards/obsray.yaml"] = listed.provider
    found["deploy/compose/prometheus.yml"] = deployment.compose_prometheus
    for name, made in deployment.kubernetes().items():
        path = f"deploy/kubernetes/monitoring/{name}"
        found[path] = lambda made=made: deployment.kubernetes_text(made)  # type: ignore[misc]
    for dashboard in listed.DASHBOARDS:
        path = f"grafana/dashboards/{dashboard.uid}.json"
        found[path] = lambda dashboard=dashboard: grafana.text(dashboard)  # type: ignore[misc]
    for alert in alerts:
        found[f"docs/runbooks/{alert.name}.md"] = lambda alert=alert: runbooks.page(alert)  # type: ignore[misc]
    return found
