"""The parameters of ``init``: what they may be, and what to do instead where something is not offered."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Mapping
from typing import Any

from obsray import runtime_env as environments
from obsray.core.protocol.labels import said
from obsray.job_config import JobConfig
from obsray.logging_config import LoggingConfig, level_of

#: Parameters of Ray that have no effect to offer -> what is there instead. Given as None or False they are accepted.
INSTEAD: dict[str, str] = {
    "local_mode": "tasks always run in worker processes; call the plain function to debug it",
    "enable_resource_isolation": "start the program in a container or systemd scope with the limits you want",
    "cgroup_path": "start the program in that cgroup; its limits are respected",
    "system_reserved_cpu": "give num_cpus what tasks may use",
    "system_reserved_memory": "give _memory what tasks may use",
    "proxy_server_url": "the dashboard reads ended sessions itself: obsray dashboard",
    "object_spilling_directory": "spilled objects lie in the session directory: set _temp_dir",
    "_plasma_directory": "objects lie in anonymous shared memory",
    "_tracing_startup_hook": "every task is recorded with its trace already",
    "_metrics_export_port": "say it as a setting: _system_config={'metrics_address': '127.0.0.1:PORT'}",
    "_node_ip_address": "everything listens on this machine alone",
    "storage": "it was removed from Ray as well",
}
LOOPBACK = ("127.0.0.1", "localhost")
_OF_THE_DASHBOARD = ("include_dashboard", "dashboard_host", "dashboard_port")
#: Accepted: they say what is so anyway, or are for a Redis, which neither Ray starts, and libraries pass them by habit.
_ANYWAY = ("_enable_object_reconstruction", "_redis_username", "_redis_password")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def refuse(unknown: Mapping[str, Any], known: list[str]) -> None:
    """Raise RuntimeError for parameters that do not exist or have no effect here."""
    for name, value in unknown.items():
        if name in _ANYWAY:
            continue
        if name in INSTEAD:
            if value is None or value is False:
                continue
            raise RuntimeError(f"init({name}={value!r}) is not offered: {INSTEAD[name]}")
        close = difflib.get_close_matches(name, known, 1)
        meant = f"; did you mean {close[0]!r}?" if close else f"; the parameters are: {', '.join(known)}"
        raise RuntimeError(f"init() has no parameter {name!r}{meant}")


def refuse_when_joining(given: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for what only whoever starts a runtime can decide; ``given``: how the address was.

    What is about the dashboard alone, which this program can do with or without, is a RuntimeWarning.
    """
    decided = [name for name, value in options.items() if value is not None]
    shown = [name for name in decided if name in _OF_THE_DASHBOARD]
    decided = [name for name in decided if name not in shown]
    if shown and not decided:
        warnings.warn(
            f"{given}: {' and '.join(shown)} makes no difference when connecting to an existing cluster: whoever "
            "started it has decided that",
            RuntimeWarning,
            stacklevel=3,
        )
    if decided:
        names = "num_cpus and num_gpus" if decided[0] in ("num_cpus", "num_gpus") else " and ".join(decided)
        raise ValueError(
            f"{given}: when connecting to an existing cluster, {names} must not be provided (here: "
            f"{', '.join(decided)}): whoever started it has decided that. Leave it out, or say address='local' to "
            "start a runtime for this program"
        )


def labels_of(labels: Any) -> dict[str, str]:
    """The labels of a node that starts here, checked. Raises TypeError or ValueError."""
    if labels is not None and not isinstance(labels, dict):
        raise TypeError(f"labels must be a dict of strings to strings, got {type(labels).__name__}")
    return said(labels or {}, os.environ)


def check_gpus(gpus: float | None) -> None:
    """Raise ValueError for GPUs that this program cannot see."""
    if gpus is None:
        return
    if gpus != int(gpus):
        raise ValueError(f"num_gpus={gpus}: a machine has a whole number of GPUs")
    visible = os.environ.get(_VISIBLE)
    if visible is not None:
        words = [word for word in visible.split(",") if word.strip() and word.strip() != "NoDevFiles"]
        # CUDA shows none from the first on that is none, and "-1" is how to say that there shall be none.
        words = words[: next((at for at, word in enumerate(words) if word.strip().startswith("-")), len(words))]
        if gpus > len(words):
            raise ValueError(
                f"num_gpus={gpus}, but {_VISIBLE}={visible!r} shows {len(words)}; unset it or ask for no more than that"
            )


def check_dashboard(host: str, port: int | None) -> None:
    """Raise ValueError for a dashboard that would listen where it must not (docs/security.md)."""
    if host not in LOOPBACK:
        raise ValueError(
            f"dashboard_host={host!r}: the dashboard listens on 127.0.0.1 only, as whoever reaches it may read "
            "everything; from elsewhere use a tunnel: ssh -L 8265:127.0.0.1:8265 machine"
        )
    if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 65536):
        raise ValueError(f"dashboard_port={port!r}: must be a port, 0 to 65535")


def logging_of(
    configure: bool, level: int | str | None, form: str | None, config: LoggingConfig | None
) -> dict[str, Any]:
    """What workers and driver do with log records, as it travels. Raises TypeError or ValueError."""
    if config is not None and not isinstance(config, LoggingConfig):
        raise TypeError(f"logging_config must be an obsray.LoggingConfig, got {type(config).__name__}")
    if form is not None and not isinstance(form, str):
        raise TypeError(f"logging_format={form!r}: must be text")
    found: dict[str, Any] = {"logging": None if config is None else config.to_dict()}
    number = None if level is None else level_of(level)
    if configure and (number is not None or form is not None):
        found |= {"level": number, "format": form}
    return found


def job_of(job_config: Any, namespace: str | None, runtime_env: Any) -> tuple[JobConfig, str | None, dict[str, Any]]:
    """The job's settings, its namespace (None for one of its own) and its environment. Raises TypeError, ValueError.

    What ``init`` says itself wins over its ``job_config``.
    """
    job = JobConfig.of(job_config)
    if namespace is not None:
        if not isinstance(namespace, str) or not namespace:
            raise ValueError(f"namespace={namespace!r}: must be text that is not empty, or None")
    else:
        namespace = job.ray_namespace
    env = environments.check(runtime_env) if runtime_env else job.runtime_env
    return job, namespace, dict(env)
