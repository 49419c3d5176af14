"""Which file of the repository is made of what here: ``scripts/generate_docs.py`` writes them, a test compares them."""

from __future__ import annotations

from collections.abc import Callable

from obsray.monitoring import objectives, prometheus_files, runbooks


def files() -> dict[str, Callable[[], str]]:
    """Path in the repository -> what makes its text."""
    alerts = prometheus_files.alerts()
    found: dict[str, Callable[[], str]] = {
        "prometheus/obsray.rules.yml": prometheus_files.rules,
        "prometheus/prometheus.yml": prometheus_files.example,
        "docs/slo.md": objectives.markdown,
        "docs/runbooks/README.md": lambda: runbooks.index(alerts),
    }
    for alert in alerts:
        found[f"docs/runbooks/{alert.name}.md"] = lambda alert=alert: runbooks.page(alert)  # type: ignore[misc]
    return found
