"""What holds for a whole driver program: ``obsray.job_config.JobConfig``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from obsray.runtime_env import check


class JobConfig:
    """Settings of one job, given as ``init(job_config=...)``.

    ``runtime_env``: what all its tasks and actors run in. ``metadata``: text about the job, name to value.
    ``ray_namespace``: where its actors are named. ``default_actor_lifetime``: "non_detached" or "detached".
    ``code_search_path``: directories added to what workers import from.
    Raises TypeError or ValueError for values that cannot be, and for what only other languages need.
    """

    def __init__(
        self,
        jvm_options: list[str] | None = None,
        code_search_path: list[str] | str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
    ) -> None:
        if jvm_options:
            raise ValueError("jvm_options: only Python runs here")
        paths = [code_search_path] if isinstance(code_search_path, str) else list(code_search_path or ())
        if not all(isinstance(path, str) for path in paths):
            raise TypeError("code_search_path must be a list of directories (str)")
        self.code_search_path = paths
        self.runtime_env: dict[str, Any] = {}
        self.metadata: dict[str, str] = {}
        self.ray_namespace: str | None = None
        self.set_runtime_env(runtime_env)
        for name, value in (metadata or {}).items():
            self.set_metadata(name, value)
        self.set_ray_namespace(ray_namespace)
        self.set_default_actor_lifetime(default_actor_lifetime)

    def set_runtime_env(self, runtime_env: Mapping[str, Any] | None) -> None:
        """Replace the environment. Raises as ``RuntimeEnv`` does."""
        self.runtime_env = check(runtime_env) if runtime_env else {}

    def set_metadata(self, key: str, value: str) -> None:
        """Add text about the job."""
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must be a dict of str to str, got {key!r}: {value!r}")
        self.metadata[key] = value

    def set_ray_namespace(self, ray_namespace: str | None) -> None:
        """Choose where the job's actors are named; None for a namespace of its own."""
        if ray_namespace is not None and (not isinstance(ray_namespace, str) or not ray_namespace):
            raise ValueError(f"namespace={ray_namespace!r}: must be text that is not empty, or None")
        self.ray_namespace = ray_namespace

    def set_default_actor_lifetime(self, default_actor_lifetime: str) -> None:
        """Choose the lifetime of actors that do not say theirs."""
        if default_actor_lifetime not in ("detached", "non_detached"):
            raise ValueError(f'default_actor_lifetime={default_actor_lifetime!r}: must be "detached" or "non_detached"')
        self.default_actor_lifetime = default_actor_lifetime

    def __repr__(self) -> str:
        shown = {name: value for name, value in vars(self).items() if value}
        return f"JobConfig({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @classmethod
    def of(cls, value: Any) -> JobConfig:
        """What ``init(job_config=...)`` was given: None, a JobConfig, or a dict of its arguments."""
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            try:
                return cls(**value)
            except TypeError as error:
                raise TypeError(f"job_config: {error}") from None
        raise TypeError(f"job_config must be a JobConfig or a dict, got {type(value).__name__}")


__all__ = ["JobConfig"]
