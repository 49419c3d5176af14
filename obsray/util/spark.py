"""Names of Ray on Spark, refused."""

from __future__ import annotations

from typing import Any, NoReturn


def setup_ray_cluster(*_: Any, **__: Any) -> NoReturn:
    """Refused with NotImplementedError."""
    raise NotImplementedError("obsray does not start inside Spark executors: call obsray.init() in the driver program")


def shutdown_ray_cluster() -> NoReturn:
    """Refused with NotImplementedError."""
    raise NotImplementedError("there is no cluster inside Spark to shut down: obsray.shutdown() ends a runtime")


__all__ = ["setup_ray_cluster", "shutdown_ray_cluster"]
