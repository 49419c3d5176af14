"""``client(address).connect()``: another way to write ``init``. There is no proxy between a driver and the runtime."""

from __future__ import annotations

from typing import Any

from obsray.core import api


class ClientBuilder:
    """Collects what ``init`` is to be called with; each method returns the builder."""

    def __init__(self, address: str | None = None) -> None:
        if address is not None and address.startswith("ray://"):
            raise ValueError(
                f"client({address!r}): there is no client proxy; use client() or init() for a runtime on this machine"
            )
        self._options: dict[str, Any] = {"address": address}

    def env(self, env: dict[str, Any]) -> ClientBuilder:
        """The runtime environment of the job."""
        self._options["runtime_env"] = env
        return self

    def namespace(self, namespace: str) -> ClientBuilder:
        """The namespace of named actors."""
        self._options["namespace"] = namespace
        return self

    def connect(self) -> Any:
        """Call ``init``; returns its context. Raises as ``init`` does."""
        return api.init(**{name: value for name, value in self._options.items() if value is not None})


def client(address: str | None = None) -> ClientBuilder:
    """A builder of a connection. Raises ValueError for ``ray://`` addresses."""
    return ClientBuilder(address)


def connect(conn_str: str | None = None, namespace: str | None = None, **options: Any) -> Any:
    """``init(address=conn_str, ...)``; returns its context. Raises ValueError for ``ray://`` addresses."""
    builder = ClientBuilder(conn_str)
    if namespace is not None:
        builder.namespace(namespace)
    builder._options.update(options)
    return builder.connect()


def disconnect() -> None:
    """``shutdown()``."""
    api.shutdown()


__all__ = ["ClientBuilder", "client", "connect", "disconnect"]
