"""What others' programs take in their configuration, as far as it is used here: no field besides these.

Written from their documentation: the CRDs of the Prometheus operator (v1), Tempo's manifest of all options (2.8), and
the configuration of the OpenTelemetry collector and of the parts used here (contrib 0.159). A field that is not listed
may still exist there; whoever uses it looks it up first.
"""

from __future__ import annotations

from typing import Any

STRING, BOOLEAN, INTEGER = {"type": "string"}, {"type": "boolean"}, {"type": "integer"}
DURATION = {"type": "string", "pattern": r"^([0-9]+(ms|s|m|h|d|w|y))+$"}
STRINGS = {"type": "object", "additionalProperties": STRING}
ADDRESS = {"type": "string", "pattern": r"^[\w.-]+:[0-9]{2,5}$"}
URL = {"type": "string", "pattern": r"^https?://[\w.-]+(:[0-9]+)?(/\S*)?$"}


def fields(*required: str, **properties: Any) -> dict[str, Any]:
    """An object with these fields and no others."""
    return {
        "type": "object", "properties": properties, "required": list(required), "additionalProperties": False
    }  # fmt: skip


def listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


def named(pattern: str, value: dict[str, Any]) -> dict[str, Any]:
    """Parts of the collector: ``kind`` or ``kind/name``."""
    return {"type": "object", "patternProperties": {pattern: value}, "additionalProperties": False}


# --- Prometheus operator -------------------------------------------------------------------------------------

_METADATA = fields("name", name={"type": "string", "pattern": "^[a-z0-9-]{1,63}$"}, labels=STRINGS, namespace=STRING)
_RELABELING = fields(
    sourceLabels=listed({"type": "string", "pattern": "^[a-zA-Z_][a-zA-Z0-9_]*$"}), separator=STRING,
    targetLabel=STRING, regex=STRING, replacement=STRING, modulus=INTEGER,
    action={"enum": ["replace", "keep", "drop", "labelmap", "labeldrop", "labelkeep", "hashmod"]},
)  # fmt: skip
_ENDPOINT = fields(
    "port", port=STRING, path=STRING, interval=DURATION, scrapeTimeout=DURATION, scheme={"enum": ["http", "https"]},
    honorLabels=BOOLEAN, relabelings=listed(_RELABELING), metricRelabelings=listed(_RELABELING),
    authorization=fields("credentials", type=STRING, credentials=fields("key", name=STRING, key=STRING)),
)  # fmt: skip
_SELECTOR = fields("matchLabels", matchLabels=STRINGS)
_NAMESPACES = fields(any=BOOLEAN, matchNames=listed(STRING))
_RULE = fields(
    "expr", record=STRING, alert=STRING, expr=STRING, keep_firing_for=DURATION, labels=STRINGS, annotations=STRINGS,
    **{"for": DURATION},
)  # fmt: skip
_RULE["oneOf"] = [{"required": ["record"]}, {"required": ["alert"]}]


def _object(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    version = {"const": "monitoring.coreos.com/v1"}
    return fields(
        "apiVersion", "kind", "metadata", "spec",
        apiVersion=version, kind={"const": kind}, metadata=_METADATA, spec=spec,
    )  # fmt: skip


OPERATOR = {
    "ServiceMonitor": _object(
        "ServiceMonitor",
        fields(
            "selector", "endpoints", selector=_SELECTOR, endpoints=listed(_ENDPOINT), namespaceSelector=_NAMESPACES
        ),
    ),
    "PodMonitor": _object(
        "PodMonitor",
        fields(
            "selector", "podMetricsEndpoints", selector=_SELECTOR, podMetricsEndpoints=listed(_ENDPOINT),
            namespaceSelector=_NAMESPACES,
        ),
    ),
    "PrometheusRule": _object(
        "PrometheusRule",
        fields("groups", groups=listed(fields("name", "rules", name=STRING, interval=DURATION, rules=listed(_RULE)))),
    ),
}  # fmt: skip

# --- Tempo and the OpenTelemetry collector --------------------------------------------------------------------

_OTLP = fields("protocols", protocols=fields(grpc=fields(endpoint=ADDRESS), http=fields(endpoint=ADDRESS)))
TEMPO = fields(
    "server", "distributor", "storage",
    server=fields(http_listen_port=INTEGER, http_listen_address=STRING, grpc_listen_port=INTEGER, log_level=STRING),
    distributor=fields("receivers", receivers=fields(otlp=_OTLP)),
    ingester=fields(max_block_duration=DURATION, trace_idle_period=DURATION),
    compactor=fields(compaction=fields(block_retention=DURATION)),
    storage=fields(
        "trace",
        trace=fields(
            "backend", "wal", backend={"enum": ["local", "s3", "gcs", "azure"]}, wal=fields(path=STRING),
            local=fields(path=STRING),
        ),
    ),
)  # fmt: skip
_PIPELINE = fields(
    "receivers", "exporters", receivers=listed(STRING), processors=listed(STRING), exporters=listed(STRING)
)  # fmt: skip
_READER = fields(
    "pull", pull=fields("exporter", exporter=fields("prometheus", prometheus=fields(host=STRING, port=INTEGER)))
)  # fmt: skip
COLLECTOR = fields(
    "receivers", "exporters", "service",
    receivers=named("^otlp$", _OTLP),
    processors=fields(
        memory_limiter=fields(
            "check_interval", check_interval=DURATION, limit_mib=INTEGER, limit_percentage=INTEGER,
            spike_limit_mib=INTEGER, spike_limit_percentage=INTEGER,
        ),
        batch=fields(timeout=DURATION, send_batch_size=INTEGER, send_batch_max_size=INTEGER),
    ),
    exporters={
        "type": "object",
        "patternProperties": {
            "^otlp(/[a-z]+)?$": fields("endpoint", endpoint=ADDRESS, tls=fields(insecure=BOOLEAN, ca_file=STRING)),
            "^prometheusremotewrite$": fields(
                "endpoint", endpoint=URL, resource_to_telemetry_conversion=fields(enabled=BOOLEAN)
            ),
        },
        "additionalProperties": False,
    },
    extensions=fields(health_check=fields(endpoint=ADDRESS)),
    service=fields(
        "pipelines", extensions=listed(STRING), pipelines=named("^(traces|metrics|logs)(/[a-z]+)?$", _PIPELINE),
        telemetry=fields(metrics=fields(level=STRING, readers=listed(_READER))),
    ),
)  # fmt: skip
