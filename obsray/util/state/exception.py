"""Names that programs know from ``ray.util.state.exception``."""

from __future__ import annotations


class RayStateApiException(Exception):
    """A question about state that cannot be answered."""


class DataSourceUnavailable(RayStateApiException):
    """Part of the answer is missing. obsray's answers come from one place and are complete, so it is never raised."""


class StateTimeoutError(RayStateApiException, TimeoutError):
    """The answer was not there within ``timeout`` seconds."""


__all__ = ["DataSourceUnavailable", "RayStateApiException", "StateTimeoutError"]
