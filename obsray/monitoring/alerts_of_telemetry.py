"""Alerts about what watches: the records, the collectors, the dashboard."""

from __future__ import annotations

from obsray.monitoring.rules import CRITICAL, INFO, WARNING, Alert

_SELF = "obsray-telemetry"

ALERTS: tuple[Alert, ...] = (
    Alert(
        "ObsrayTelemetryDropping",
        CRITICAL,
        "sum by (cluster, node, stage) (increase(obsray_telemetry_events_dropped_total[10m])) > 0",
        "{{ $value | humanize }} records of node {{ $labels.node }} are lost ({{ $labels.stage }})",
        "Records were dropped (the disk is full, or the collector too far behind), or a killed process left a gap.",
        "What is shown is not everything; the ledger says of which process how much is missing.",
        ("obsray status", "obsray logs collector", "obsray list workers"),
        "Look whether the collector can store (obsray status): if not, make room on the disk of the session directory, "
        "and recording goes on by itself. Otherwise the machine is short of CPU for the collector.",
        _SELF,
        "1m",
    ),
    Alert(
        "ObsrayTelemetryLag",
        WARNING,
        "max by (cluster, node, exporter) (obsray_telemetry_export_lag_seconds) > 30",
        "Node {{ $labels.node }} is {{ $value | humanizeDuration }} late ({{ $labels.exporter }})",
        "The collector cannot store records that it has read (store), or an OTLP receiver takes no metrics (push).",
        "If the disk stays full, writers will have to drop records. What is pushed late says everything all the same.",
        ("obsray logs collector", "obsray status", "obsray list nodes"),
        "If it is the store, the disk is usually full; of pushing obsray status says what the receiver answers.",
        _SELF,
        "5m",
    ),
    Alert(
        "ObsrayTelemetryRingFilling",
        WARNING,
        "obsray_telemetry_ring_fill_ratio > 0.8",
        "A process of node {{ $labels.node }} has written {{ $value | humanizePercentage }} of what "
        "it may ahead of the collector",
        "The collector does not keep up with one process.",
        "When the ring is full its records are dropped, and counted.",
        ("obsray status", "obsray logs collector", "obsray list workers --sort=-cpu_seconds"),
        "The collector's CPU is taken by others, or the disk is slow.",
        _SELF,
        "2m",
    ),
    Alert(
        "ObsrayTelemetryIncomplete",
        WARNING,
        "increase(obsray_telemetry_incomplete_nodes_total[15m]) > 0",
        "{{ $value | humanize }} nodes went before the head had all of their records",
        "A node died with records that only it had.",
        "The last moments of that node are missing at the head; its own disk has them.",
        ("obsray list nodes --filter state=DEAD", "obsray status", "obsray logs collector"),
        "If the disk of that node is still there, its session directory has the rest: obsray status --session DIR.",
        _SELF,
    ),
    Alert(
        "ObsrayTelemetryOverheadHigh",
        INFO,
        "sum by (cluster) (rate(obsray_telemetry_cpu_seconds_total[10m]))\n"
        "  / sum by (cluster) (rate(obsray_process_cpu_seconds_total[10m])) > 0.1\n"
        "and sum by (cluster) (rate(obsray_telemetry_cpu_seconds_total[10m])) > 0.2",
        "Collecting takes {{ $value | humanizePercentage }} of the CPU time of obsray",
        "Collectors use more than a tenth of all CPU time.",
        "Very short tasks at a high rate; nothing is lost.",
        ("obsray status", "obsray list functions", "obsray list workers --sort=-cpu_seconds"),
        "Make tasks longer: a task that takes microseconds costs more to run than to do.",
        _SELF,
        "15m",
    ),
    Alert(
        "ObsrayCardinalityHigh",
        INFO,
        "max by (cluster, label) (obsray_metric_label_values / obsray_metric_label_values_limit) >= 0.8",
        "{{ $value | humanizePercentage }} of the values that {{ $labels.label }} may have are taken",
        "What comes beyond the limit has no series of its own and is counted as other.",
        "New functions, classes or shapes will not be told apart in metrics; lists and stories still do.",
        ("obsray list functions", "obsray list actors", "obsray status"),
        "Functions that are made in loops have a name each: give them one with .options(name=...).",
        _SELF,
        "15m",
    ),
    Alert(
        "ObsrayScrapeLarge",
        INFO,
        'scrape_samples_post_metric_relabeling{job="obsray"} > 20000',
        "A scrape of {{ $labels.instance }} has {{ $value }} samples",
        "One node serves very many series.",
        "Prometheus needs memory for each of them.",
        ("obsray list functions", "obsray status", "obsray list actors"),
        "Drop histograms that are not used with metric_relabel_configs, or use fewer tags in metrics of your own.",
        _SELF,
        "15m",
    ),
    Alert(
        "ObsrayDashboardErrors",
        WARNING,
        "sum by (cluster) (increase(obsray_dashboard_errors_total[10m])) > 5",
        "The dashboard failed to answer {{ $value | humanize }} requests",
        "Pages end in errors, or too many are asked at once.",
        "People see less than there is.",
        ("obsray logs dashboard", "obsray status", "obsray dashboard"),
        "Its log has the errors.",
        _SELF,
    ),
)
