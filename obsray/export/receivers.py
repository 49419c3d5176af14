"""Where spans go: OTLP over gRPC or HTTP, as the standard ``OTEL_*`` variables say."""

from __future__ import annotations

import gzip
import http.client
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

_METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_PROTOCOLS = ("http/protobuf", "grpc")
_RETRYABLE_STATUS = frozenset({408, 429, 500, 502, 503, 504})


class SettingError(ValueError):
    """A variable that cannot be followed; the text says what it may be."""


class Unavailable(Exception):
    """The receiver cannot take spans now; later it may."""


class Refused(Exception):
    """The receiver will never take these spans."""


class Receiver(Protocol):
    """Takes encoded requests."""

    name: str

    def send(self, data: bytes) -> None:
        """Deliver one request. Raises Unavailable or Refused."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What the ``OTEL_*`` variables say about traces. ``endpoint`` is "" if nothing is to be sent."""

    endpoint: str = ""
    protocol: str = "http/protobuf"
    headers: tuple[tuple[str, str], ...] = ()
    timeout_seconds: float = 10.0
    compression: str = "none"
    certificate: str = ""
    insecure: bool = True
    ratio: float = 1.0
    batch_spans: int = 512
    #: Variables that were said and do not hold here.
    ignored: tuple[str, ...] = field(default=())

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Out of the environment. Raises SettingError."""

        def said(name: str, default: str = "") -> str:
            general = environment.get(f"OTEL_EXPORTER_OTLP_{name}", default)
            return environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", general).strip()

        if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            return cls()
        if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() not in ("otlp", ""):
            return cls()
        protocol = said("PROTOCOL", "http/protobuf")
        if protocol not in _PROTOCOLS:
            raise SettingError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: must be one of {', '.join(_PROTOCOLS)}")
        compression = said("COMPRESSION", "none") or "none"
        if compression not in ("none", "gzip"):
            raise SettingError(f"OTEL_EXPORTER_OTLP_COMPRESSION={compression!r}: must be none or gzip")
        endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
        if not endpoint and environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip():
            endpoint = environment["OTEL_EXPORTER_OTLP_ENDPOINT"].strip()
            if protocol != "grpc":
                endpoint = endpoint.rstrip("/") + "/v1/traces"
        if endpoint and protocol != "grpc" and urlsplit(endpoint).scheme not in ("http", "https"):
            raise SettingError(f"OTEL_EXPORTER_OTLP_ENDPOINT={endpoint!r}: must begin with http:// or https://")
        return cls(
            endpoint, protocol, tuple(_headers(said("HEADERS"))), _number("TIMEOUT", said("TIMEOUT", "10000")) / 1000,
            compression, said("CERTIFICATE"), _insecure(endpoint, said("INSECURE")), _ratio(environment),
            int(_number("BATCH", environment.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "512"))) or 512,
        )  # fmt: skip


def _headers(text: str) -> list[tuple[str, str]]:
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return [(unquote(key.strip()).lower(), unquote(value.strip())) for key, _, value in pairs]


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise SettingError(f"OTEL_..._{name}={text!r}: must be a number above 0")
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

    def send(self, data: bytes) -> None:
        if self._settings.compression == "gzip":
            data = gzip.compress(data, 1)
        try:
            connection = self._connection or self._open()
            target = self._parts.path or "/v1/traces"
            connection.request("POST", target, body=data, headers=self._headers)
            answer = connection.getresponse()
            said = answer.read(2048)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Unavailable(f"{self.name}: {error or type(error).__name__}") from None
        if answer.status >= 300:
            told = f"{self.name} answered {answer.status}: {said[:200]!r}"
            if answer.status in _RETRYABLE_STATUS:
                raise Unavailable(told)
            raise Refused(told)

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
        self._call: Any = self._channel.unary_unary(_METHOD, request_serializer=None, response_deserializer=None)
        self._settings = settings
        self._compression = grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression

    def send(self, data: bytes) -> None:
        grpc = self._grpc
        try:
            self._call(
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

    def close(self) -> None:
        self._channel.close()
