"""``prometheus/``: recording rules, alerting rules and configuration."""

from __future__ import annotations

import re
from typing import Any

from obsray.monitoring import (
    alerts_of_nodes,
    alerts_of_objects,
    alerts_of_telemetry,
    alerts_of_work,
    objectives,
    yaml_text,
)
from obsray.monitoring.rules import Alert, Record

SCRAPE_SECONDS = 15
_MADE = "Made from obsray/monitoring by scripts/generate_docs.py; do not edit."

RECORDS: tuple[Record, ...] = (
    Record(
        "fn:obsray_task_duration_seconds:mean5m",
        "sum by (cluster, fn) (rate(obsray_task_duration_seconds_sum[5m]))\n"
        "  / sum by (cluster, fn) (rate(obsray_task_duration_seconds_count[5m]))",
    ),
    Record(
        "instance_fn:obsray_task_duration_seconds:mean5m",
        "sum by (cluster, instance, fn) (rate(obsray_task_duration_seconds_sum[5m]))\n"
        "  / sum by (cluster, instance, fn) (rate(obsray_task_duration_seconds_count[5m]))",
    ),
    Record(
        "instance_fn:obsray_task_duration_seconds:rate5m",
        "sum by (cluster, instance, fn) (rate(obsray_task_duration_seconds_count[5m]))",
    ),
    # How often all other instances ran it, and how long that took them.
    Record(
        "instance_fn:obsray_task_duration_seconds:rate5m_elsewhere",
        "sum by (cluster, fn) (rate(obsray_task_duration_seconds_count[5m]))\n"
        "  - on (cluster, fn) group_right () instance_fn:obsray_task_duration_seconds:rate5m",
    ),
    Record(
        "instance_fn:obsray_task_duration_seconds:mean5m_elsewhere",
        "(\n  sum by (cluster, fn) (rate(obsray_task_duration_seconds_sum[5m]))\n"
        "  - on (cluster, fn) group_right ()\n"
        "  sum by (cluster, instance, fn) (rate(obsray_task_duration_seconds_sum[5m]))\n"
        ") / instance_fn:obsray_task_duration_seconds:rate5m_elsewhere",
    ),
    Record(
        "cluster:obsray_task_queue_seconds:p99_5m",
        "histogram_quantile(0.99, sum by (cluster, le) (rate(obsray_task_queue_seconds_bucket[5m])))",
    ),
    Record(
        "fn_outcome:obsray_tasks_finished:rate5m",
        "sum by (cluster, fn, outcome) (rate(obsray_tasks_finished_total[5m]))",
    ),
    Record(
        "node_activity:obsray_worker_seconds:ratio_rate5m",
        "rate(obsray_worker_seconds_total[5m])\n"
        "  / on (cluster, node) group_left () sum by (cluster, node) (rate(obsray_worker_seconds_total[5m]))",
    ),
)


def alerts() -> list[Alert]:
    """All of them, in the order of the file."""
    modules = (alerts_of_nodes, alerts_of_work, alerts_of_objects, alerts_of_telemetry)
    return [*(alert for module in modules for alert in module.ALERTS), *objectives.alerts()]


def groups() -> list[dict[str, Any]]:
    """The groups of the rule file."""

    def recorded(records: list[Record]) -> list[dict[str, object]]:
        return [{"record": each.name, "expr": each.expr} for each in records]

    def alerting(name: str, found: list[Alert]) -> dict[str, Any]:
        return {"name": name, "rules": [alert.rule for alert in found]}

    return [
        {"name": "obsray-records", "interval": "30s", "rules": recorded(list(RECORDS))},
        {"name": "obsray-slo-records", "interval": "30s", "rules": recorded(objectives.records())},
        alerting("obsray-nodes", list(alerts_of_nodes.ALERTS)),
        alerting("obsray-work", list(alerts_of_work.ALERTS)),
        alerting("obsray-objects", list(alerts_of_objects.ALERTS)),
        alerting("obsray-telemetry", list(alerts_of_telemetry.ALERTS)),
        alerting("obsray-slo", objectives.alerts()),
    ]


def rules() -> str:
    """``prometheus/obsray.rules.yml``."""
    return yaml_text.dump({"groups": groups()}, _MADE)


def config(
    rule_files: list[str], targets_file: str, token_file: str, url: str = "", scrape_seconds: float = SCRAPE_SECONDS
) -> dict[str, Any]:
    """A configuration of Prometheus for one cluster. ``url``: ask the dashboard there for targets, read no file."""
    credentials = {"type": "Bearer", "credentials_file": token_file}
    interval = f"{round(scrape_seconds * 1000)}ms" if scrape_seconds < 1 else f"{scrape_seconds:g}s"
    discovered: dict[str, Any] = (
        {
            "http_sd_configs": [
                {"url": f"{url}/api/prometheus/sd", "refresh_interval": interval, "authorization": credentials}
            ]
        }
        if url
        else {"file_sd_configs": [{"files": [targets_file], "refresh_interval": interval}]}
    )
    scrape = {
        "job_name": "obsray",
        "authorization": credentials,
        **discovered,
        "relabel_configs": [
            {"source_labels": ["__meta_obsray_node_id"], "regex": "(.{8}).*", "target_label": "node_id"}
        ],
    }
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": rule_files,
        "scrape_configs": [scrape],
    }


def example() -> str:
    """``prometheus/prometheus.yml``: for a cluster whose targets file and credential are mounted beside it."""
    made = config(["obsray.rules.yml"], "targets/*.json", "/etc/obsray/metrics_token")
    made["scrape_configs"].append(
        {"job_name": "dcgm", "file_sd_configs": [{"files": ["dcgm-targets/*.json"], "refresh_interval": "1m"}]}
    )
    made["alerting"] = {"alertmanagers": [{"file_sd_configs": [{"files": ["alertmanagers/*.json"]}]}]}
    comment = (
        f"{_MADE}\n"
        "For a running session use `obsray metrics --prometheus DIR` instead: it writes one with the right paths.\n"
        "Exemplars need: prometheus --enable-feature=exemplar-storage"
    )
    return yaml_text.dump(made, comment)


def shortened(text: str, factor: float, least: int = 3, most: int = 1 << 30) -> str:
    """Rules whose durations are divided by ``factor``, for tests that cannot wait: at least ``least`` and at most
    ``most`` seconds for ranges, and at least 1 s else."""

    def seconds(value: str) -> float:
        return float(value[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[value[-1]] / factor

    text = re.sub(r"\[(\d+[smhd])\]", lambda m: f"[{min(most, max(least, round(seconds(m[1]))))}s]", text)
    text = re.sub(r"offset (\d+[smhd])", lambda m: f"offset {max(least, round(seconds(m[1])))}s", text)
    text = re.sub(
        r"(for|keep_firing_for|interval): '?(\d+[smhd])'?", lambda m: f"{m[1]}: {max(1, round(seconds(m[2])))}s", text
    )
    return text
