"""Which jobs used each GPU lately, in files as dcgm-exporter reads them (``--hpc-job-mapping-dir``).

One file for each GPU, named by DCGM's number of it (NVML's index), with a job id a line: every series of DCGM then
carries the job (``hpc_job``). Using is running kernels, or holding memory, which is known without CUPTI too. Jobs, not
tasks: there are few of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from obsray.telemetry.columns import Array, Batch, Columns

#: A GPU that a job did not use for this long is not that job's any more.
RECENT_NS = 60_000_000_000


class GpuJobs:
    """``update`` folds a batch, ``write`` brings the files up to date."""

    def __init__(self, session: Path, directory: Path) -> None:
        self.directory = directory
        self._claims = session / "jobs"
        self._seen: dict[tuple[int, bytes], int] = {}
        self._written: dict[int, str] = {}
        #: A GPU's number at this node -> NVML's. They differ where CUDA_VISIBLE_DEVICES has names.
        self._indexes: dict[int, int] = {}

    def update(self, batch: Batch) -> None:
        """Fold when each worker last ran a kernel, or held memory, on which GPU."""
        if "gpu_found" in batch:
            found = batch["gpu_found"]
            indexes = zip(found["gpu"].tolist(), found["bus_index"].tolist(), strict=True)
            self._indexes.update({gpu: index for gpu, index in indexes if index >= 0})
        if "gpu_kernel" in batch:
            self._used(batch["gpu_kernel"], batch["gpu_kernel"]["ended_at"])
        if "gpu_process_sample" in batch:
            self._used(batch["gpu_process_sample"], batch["gpu_process_sample"]["time_ns"])

    def _used(self, columns: Columns, at: Array) -> None:
        words = np.ascontiguousarray(columns["worker"]).view("<u8")
        keys = np.stack([columns["gpu"].astype(np.uint64), words], axis=1)
        _, first, back = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        newest = np.zeros(len(first), np.uint64)
        np.maximum.at(newest, back.ravel(), at)
        for row, ended in zip(first.tolist(), newest.tolist(), strict=True):
            key = int(columns["gpu"][row]), columns["worker"][row].tobytes()
            self._seen[key] = max(self._seen.get(key, 0), ended)

    def write(self, now_ns: int) -> None:
        """Write the files of GPUs whose jobs changed. Raises OSError if the directory cannot be written to."""
        self._seen = {key: seen for key, seen in self._seen.items() if now_ns - seen < RECENT_NS}
        jobs: dict[int, set[str]] = {gpu: set() for gpu in self._written}
        for gpu, worker in self._seen:
            job = job_of(self._claims, worker)
            if job:
                jobs.setdefault(self._indexes.get(gpu, gpu), set()).add(job)
        for gpu, names in jobs.items():
            text = "".join(f"{name}\n" for name in sorted(names))
            if self._written.get(gpu) != text:
                self.directory.mkdir(parents=True, exist_ok=True)
                temporary = self.directory / f".{gpu}.{os.getpid()}.new"
                temporary.write_text(text)
                temporary.rename(self.directory / str(gpu))
                self._written[gpu] = text


def job_of(claims: Path, worker: bytes) -> str:
    """The job that a worker said it works for, as its id is written; empty if it said nothing."""
    try:
        return f"{int((claims / worker.hex()).read_text()):08x}"
    except (FileNotFoundError, ValueError):
        return ""
