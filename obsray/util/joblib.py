"""joblib on the runtime: ``register_ray()``, then ``with joblib.parallel_backend("ray"):``. Needs joblib."""

from __future__ import annotations

from typing import Any

from joblib import parallel_backend, register_parallel_backend
from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase, PoolManagerMixin

from obsray.core import api
from obsray.util.multiprocessing import Pool


class RuntimeBackend(PoolManagerMixin, AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Runs the batches of ``joblib.Parallel`` in a pool of actors. ``ray_remote_args`` are options of the actors."""

    supports_retrieve_callback = True
    supports_return_generator = False

    def __init__(self, *args: Any, ray_remote_args: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._remote_args = ray_remote_args

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many processes ``n_jobs`` means: None and -1 all CPUs of the runtime, -2 all but one, and so on."""
        if n_jobs == 0:
            raise ValueError("n_jobs=0: must not be 0")
        cpus = max(1, int(api.cluster_resources().get("CPU", 1)))
        if n_jobs is None:
            return cpus
        return min(n_jobs, cpus) if n_jobs > 0 else max(1, cpus + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Start the processes; called by joblib."""
        size = self.effective_n_jobs(n_jobs)
        self._pool = Pool(size, ray_remote_args=self._remote_args)
        self.parallel = parallel
        return size

    def terminate(self) -> None:
        """End the processes; called by joblib."""
        super().terminate()
        self.reset_batch_stats()


def register_ray() -> None:
    """Make the backend known to joblib as ``"ray"``."""
    register_parallel_backend("ray", RuntimeBackend)


__all__ = ["RuntimeBackend", "parallel_backend", "register_ray"]
