"""How Prometheus finds obsray where containers run: Docker Compose, and the Prometheus operator of Kubernetes."""

from __future__ import annotations

from typing import Any

from obsray.monitoring import prometheus_files, yaml_text

METRICS_PORT = 9464
#: What every object is labelled with so that a Prometheus of the usual chart selects it; its release may have another
#: name.
RELEASE = "prometheus"
_MADE = "Made from obsray/monitoring by scripts/generate_docs.py; do not edit."
_NAME = {"app.kubernetes.io/name": "obsray"}


def compose_prometheus() -> str:
    """``deploy/compose/prometheus.yml``: nodes are found by the names of their services."""

    def discovered(job: str, names: list[str], port: int, **more: Any) -> dict[str, Any]:
        found = {"names": names, "type": "A", "port": port, "refresh_interval": "10s"}
        return {"job_name": job, **more, "dns_sd_configs": [found]}

    nodes = discovered(
        "obsray",
        ["head", "worker", "gpu-worker"],
        METRICS_PORT,
        authorization={"type": "Bearer", "credentials_file": "/credentials/metrics_token"},
    )
    nodes["relabel_configs"] = [
        {"target_label": "cluster", "replacement": "compose"},
        {
            "source_labels": ["__meta_dns_name"],
            "regex": "head",
            "target_label": "role",
            "replacement": "head",
        },
        {"source_labels": ["__meta_dns_name"], "regex": ".*worker", "target_label": "role", "replacement": "node"},
    ]
    made = {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["obsray.rules.yml"],
        "scrape_configs": [
            nodes,
            discovered("dcgm", ["dcgm-exporter"], 9400),
            discovered("otel-collector", ["otel-collector"], 8888),
            discovered("tempo", ["tempo"], 3200),
        ],
    }
    return yaml_text.dump(made, _MADE)


def kubernetes() -> dict[str, dict[str, Any]]:
    """File below ``deploy/kubernetes/monitoring/`` -> the object in it."""
    return {
        "head-servicemonitor.yaml": _monitor(
            "ServiceMonitor", "obsray-head", {**_NAME, "app.kubernetes.io/component": "head"}, "head"
        ),
        "workers-podmonitor.yaml": _monitor(
            "PodMonitor", "obsray-workers", {**_NAME, "app.kubernetes.io/component": "worker"}, "node"
        ),
        "dcgm-podmonitor.yaml": _dcgm(),
        "prometheusrule.yaml": {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": _metadata("obsray"),
            "spec": {"groups": prometheus_files.groups()},
        },
    }


def kubernetes_text(made: dict[str, Any]) -> str:
    """One of those files."""
    return yaml_text.dump(
        made, f"{_MADE}\nThe label 'release' is what your Prometheus selects by; change it if yours differs."
    )


def _metadata(name: str) -> dict[str, Any]:
    return {"name": name, "labels": {**_NAME, "release": RELEASE}}


def _common() -> list[dict[str, Any]]:
    return [
        {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "kubernetes_node"},
        {"sourceLabels": ["__meta_kubernetes_pod_name"], "targetLabel": "pod"},
        {"sourceLabels": ["__meta_kubernetes_pod_label_obsray_io_cluster"], "targetLabel": "cluster"},
    ]


def _monitor(kind: str, name: str, selected: dict[str, str], role: str) -> dict[str, Any]:
    endpoint = {
        "port": "metrics",
        "path": "/metrics",
        "interval": "15s",
        # The secret holds what 'obsray metrics --credential-of' prints, not the cluster's token.
        "authorization": {"type": "Bearer", "credentials": {"name": "obsray-metrics", "key": "token"}},
        "relabelings": [
            *_common(),
            {"targetLabel": "job", "replacement": "obsray"},
            {"targetLabel": "role", "replacement": role},
        ],
    }
    endpoints = "endpoints" if kind == "ServiceMonitor" else "podMetricsEndpoints"
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": kind,
        "metadata": _metadata(name),
        "spec": {"selector": {"matchLabels": selected}, endpoints: [endpoint]},
    }


def _dcgm() -> dict[str, Any]:
    endpoint = {
        "port": "metrics",
        "path": "/metrics",
        "interval": "15s",
        # Labels of the exporter (its hpc_job among them) hold instead of those of its own pod.
        "honorLabels": True,
        "relabelings": [
            {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "kubernetes_node"},
            {"targetLabel": "job", "replacement": "dcgm"},
        ],
    }
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": _metadata("obsray-dcgm-exporter"),
        "spec": {
            "namespaceSelector": {"any": True},
            "selector": {"matchLabels": {"app.kubernetes.io/name": "dcgm-exporter"}},
            "podMetricsEndpoints": [endpoint],
        },
    }
