"""Where spans and metrics go: OTLP over gRPC or HTTP, as the standard ``OTEL_*`` variables say."""

from __future__ import annotations

import gzip
import http.client
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import unquote, urlsplit

Signal = Literal["traces", "metrics"]
_METHODS: dict[Signal, str] = {
    "traces": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
}
#: Most bytes of a receiver's answer that are read.
_ANSWER_BYTES_MAX = 64 << 10
_PROTOCOLS = ("http/protobuf", "grpc")
_RETRYABLE_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class SettingError(ValueError):
    """A variable that cannot be followed; the text says what it may be."""


class Unavailable(Exception):
    """The receiver cannot take anything now; later it may."""


class Refused(Exception):
    """The receiver will never take this."""


class Receiver(Protocol):
    """Takes encoded requests."""

    name: str

    def send(self, data: bytes) -> bytes:
        """Deliver one request; returns the answer (``rejected`` reads it). Raises Unavailable or Refused."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What the ``OTEL_*`` variables say about one signal. ``endpoint`` is "" if nothing is to be sent."""

    signal: Signal = "traces"
    endpoint: str = ""
    protocol: str = "http/protobuf"
    headers: tuple[tuple[str, str], ...] = ()
    timeout_seconds: float = 10.0
    compression: str = "none"
    certificate: str = ""
    insecure: bool = True
    ratio: float = 1.0
    batch_spans: int = 512
    #: Of metrics: how often, and whether points of histograms carry the trace of one task.
    interval_seconds: float = 60.0
    exemplars: bool = True

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ, signal: Signal = "traces") -> Settings:
        """Out of the environment. Raises SettingError."""
        own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_"

        def said(name: str, default: str = "") -> str:
            general = environment.get(f"OTEL_EXPORTER_OTLP_{name}", default)
            return environment.get(f"{own}{name}", general).strip()

        if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return cls(signal)
        exporters = environment.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").split(",")
        if not {"otlp", ""} & {exporter.strip() for exporter in exporters}:
            return cls(signal)
        protocol = said("PROTOCOL", "http/protobuf")
        if protocol not in _PROTOCOLS:
            raise SettingError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: must be one of {', '.join(_PROTOCOLS)}")
        compression = said("COMPRESSION", "none") or "none"
        if compression not in ("none", "gzip"):
            raise SettingError(f"OTEL_EXPORTER_OTLP_COMPRESSION={compression!r}: must be none or gzip")
        endpoint = environment.get(f"{own}ENDPOINT", "").strip()
        if not endpoint and environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip():
            endpoint = environment["OTEL_EXPORTER_OTLP_ENDPOINT"].strip()
            if protocol != "grpc":
                endpoint = endpoint.rstrip("/") + f"/v1/{signal}"
        if endpoint and protocol != "grpc" and urlsplit(endpoint).scheme not in ("http", "https"):
            raise SettingError(f"the endpoint must begin with http:// or https://, not {endpoint!r}")
        common = (
            signal, endpoint, protocol, tuple(_headers(said("HEADERS"))),
            _number("EXPORTER_OTLP_TIMEOUT", said("TIMEOUT", "10000")) / 1000,
            compression, said("CERTIFICATE"), _insecure(endpoint, said("INSECURE")),
        )  # fmt: skip
        if signal == "metrics":
            return cls(*common, **_of_metrics(environment))
        batch = environment.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512")
        return cls(*common, _ratio(environment), int(_number("BSP_MAX_EXPORT_BATCH_SIZE", batch)) or 512)


def _of_metrics(environment: Mapping[str, str]) -> dict[str, Any]:
    """What is said of metrics alone. Raises SettingError for what is not made here, with who makes it."""
    name = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
    preference = environment.get(name, "").strip().lower()
    if preference not in ("", "cumulative"):
        raise SettingError(
            f"{name}={preference!r}: must be cumulative; for sums of intervals put the processor cumulativetodelta "
            "of an OpenTelemetry collector in between"
        )
    name = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    aggregation = environment.get(name, "").strip().lower()
    if aggregation not in ("", "explicit_bucket_histogram"):
        raise SettingError(
            f"{name}={aggregation!r}: must be explicit_bucket_histogram; buckets are those of docs/metrics.md"
        )
    name = "OTEL_METRICS_EXEMPLAR_FILTER"
    chosen = environment.get(name, "").strip().lower() or "trace_based"
    if chosen not in ("trace_based", "always_on", "always_off"):
        raise SettingError(f"{name}={chosen!r}: must be trace_based, always_on or always_off")
    interval = environment.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip() or "60000"
    return {
        "interval_seconds": _number("METRIC_EXPORT_INTERVAL", interval) / 1000, "exemplars": chosen != "always_off"
    }  # fmt: skip


def _headers(text: str) -> list[tuple[str, str]]:
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return [(unquote(key.strip()).lower(), unquote(value.strip())) for key, _, value in pairs]


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise SettingError(f"OTEL_{name}={text!r}: must be a number above 0")
    return value


def _insecure(endpoint: str, text: str) -> bool:
    scheme = urlsplit(endpoint).scheme
    return scheme == "http" if scheme in ("http", "https") else text.lower() == "true" or not text


def _ratio(environment: Mapping[str, str]) -> float:
    sampler = environment.get("OTEL_TRACES_SAMPLER", "parentbased_always_on").strip()
    kind = sampler.removeprefix("parentbased_")
    if kind == "always_on":
        return 1.0
    if kind == "always_off":
        return 0.0
    if kind == "traceidratio":
        text = environment.get("OTEL_TRACES_SAMPLER_ARG", "1.0")
        try:
            ratio = float(text)
        except ValueError:
            ratio = -1.0
        if 0 <= ratio <= 1:
            return ratio
        raise SettingError(f"OTEL_TRACES_SAMPLER_ARG={text!r}: must be between 0 and 1")
    raise SettingError(
        f"OTEL_TRACES_SAMPLER={sampler!r}: must be always_on, always_off or traceidratio, or parentbased_*"
    )


def receiver(settings: Settings) -> Receiver:
    """What ``settings`` name. Raises SettingError."""
    if not settings.endpoint:
        raise SettingError("no endpoint: set OTEL_EXPORTER_OTLP_ENDPOINT, e.g. http://localhost:4318")
    return OverGrpc(settings) if settings.protocol == "grpc" else OverHttp(settings)


class OverHttp:
    """OTLP over HTTP, protobuf in the body; one connection that is opened again when it breaks."""

    def __init__(self, settings: Settings) -> None:
        self.name = settings.endpoint
        self._settings = settings
        self._parts = urlsplit(settings.endpoint)
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"content-type": "application/x-protobuf", **dict(settings.headers)}
        if settings.compression == "gzip":
            self._headers["content-encoding"] = "gzip"

    def send(self, data: bytes) -> bytes:
        if self._settings.compression == "gzip":
            data = gzip.compress(data, 1)
        try:
            connection = self._connection or self._open()
            target = self._parts.path or f"/v1/{self._settings.signal}"
            connection.request("POST", target, body=data, headers=self._headers)
            answer = connection.getresponse()
            said: bytes = answer.read(_ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unavailable(f"{self.name}: {error or type(error).__name__}") from None
        if answer.status >= 300:
            told = f"{self.name} answered {answer.status}: {said[:200]!r}"
            if answer.status in _RETRYABLE_STATUS:
                raise Unavailable(told)
            raise Refused(told)
        return said

    def _open(self) -> http.client.HTTPConnection:
        host, timeout = self._parts.hostname or "localhost", self._settings.timeout_seconds
        if self._parts.scheme == "https":
            context = ssl.create_default_context(cafile=self._settings.certificate or None)
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, self._parts.port, timeout=timeout, context=context
            )
        else:
            made = http.client.HTTPConnection(host, self._parts.port, timeout=timeout)
        self._connection = made
        return made

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class OverGrpc:
    """OTLP over gRPC; the bytes are already what the service wants."""

    def __init__(self, settings: Settings) -> None:
        import grpc

        self.name = settings.endpoint
        self._grpc = grpc
        parts = urlsplit(settings.endpoint)
        address = parts.netloc if parts.scheme in ("http", "https") else settings.endpoint
        options = [("grpc.max_send_message_length", 64 << 20)]
        if settings.insecure:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            roots = None
            if settings.certificate:
                with open(settings.certificate, "rb") as file:
                    roots = file.read()
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(roots), options=options)
        self._call: Any = self._channel.unary_unary(_METHODS[settings.signal])
        self._settings = settings
        self._compression = grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression

    def send(self, data: bytes) -> bytes:
        grpc = self._grpc
        try:
            answer: bytes = self._call(
                data, timeout=self._settings.timeout_seconds, metadata=self._settings.headers or None,
                compression=self._compression,
            )  # fmt: skip
        except grpc.RpcError as error:
            code = error.code()
            told = f"{self.name}: {code.name.lower()}: {error.details()}"
            retryable = {
                grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED,
                grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
                grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED,
            }  # fmt: skip
            if code in retryable:
                raise Unavailable(told) from None
            raise Refused(told) from None
        return answer

    def close(self) -> None:
        self._channel.close()


def rejected(answer: bytes) -> tuple[int, str]:
    """How much of what a request held the receiver threw away (``partial_success``), and what it says of that."""
    count, told = 0, ""
    for number, value in _fields(dict(_fields(answer)).get(1, b"")):
        if number == 1 and isinstance(value, int):
            count = value
        elif number == 2 and isinstance(value, bytes):
            told = value.decode("utf-8", "replace")
    return count, told


def _fields(data: int | bytes) -> list[tuple[int, int | bytes]]:
    """The numbers and byte fields of a protobuf message; nothing of one that is damaged."""
    if isinstance(data, int):
        return []
    found: list[tuple[int, int | bytes]] = []
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    try:
        while at < len(data):
            tag = varint()
            if tag & 7 == 0:
                found.append((tag >> 3, varint()))
            elif tag & 7 == 2:
                size = varint()
                found.append((tag >> 3, data[at : at + size]))
                at += size
            else:
                return []
    except IndexError:
        return []
    return found
