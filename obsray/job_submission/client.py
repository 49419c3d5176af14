"""``JobSubmissionClient``: commands that run on a cluster as jobs, over HTTP."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

from obsray.job_submission.connection import Server
from obsray.job_submission.details import JobDetails, JobStatus
from obsray.job_submission.records import PACKAGE_BYTES_MAX


class JobSubmissionClient:
    """Submit, watch and stop jobs of a runtime.

    ``address``: ``http://host:port`` of the dashboard, ``host:port`` of a cluster of which a node runs on this machine,
    a session directory, ``"auto"`` for the newest runtime of this user; None: OBSRAY_API_SERVER_ADDRESS or
    OBSRAY_ADDRESS, else the newest. The session's key is found if the session is one of this user on this machine;
    elsewhere (through a tunnel) give it as OBSRAY_TOKEN or in ``headers``. ``metadata`` is added to that of every job.
    ``verify`` (False, or a file of certificates) is for ``https://``.

    Raises ConnectionError if no dashboard answers, RuntimeError if it refuses, ValueError for what is not offered.
    """

    def __init__(
        self,
        address: str | None = None,
        create_cluster_if_needed: bool = False,
        cookies: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        verify: bool | str | None = True,
    ) -> None:
        if create_cluster_if_needed:
            raise ValueError("create_cluster_if_needed is not offered: start one with 'obsray start --head' first")
        sent = dict(headers or {})
        if cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        self._metadata = dict(metadata or {})
        self._server = Server(address, sent, verify)
        self._server.ask("GET", "/api/version")

    def get_address(self) -> str:
        """The dashboard's address."""
        return self._server.url

    def get_version(self) -> str:
        """The version of obsray that answers there."""
        return str(self._server.ask("GET", "/api/version")["obsray_version"])

    def submit_job(
        self,
        *,
        entrypoint: str,
        job_id: str | None = None,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
        submission_id: str | None = None,
        entrypoint_num_cpus: float | None = None,
        entrypoint_num_gpus: float | None = None,
        entrypoint_memory: int | None = None,
        entrypoint_resources: Mapping[str, float] | None = None,
        entrypoint_label_selector: Mapping[str, str] | None = None,
    ) -> str:
        """Have a command run on the cluster; returns its submission id.

        ``entrypoint`` is a line for the shell. Programs in it that call ``init()`` join the cluster, and they and all
        their tasks work in ``runtime_env``; files of it are sent from here. ``submission_id`` (``job_id`` is its older
        name) is chosen for you if you leave it out. With ``entrypoint_*`` the command itself gets resources and runs at
        any node that has them; without, it runs at the head and needs none.

        Raises TypeError or ValueError for an environment that cannot be sent, RuntimeError if the job is refused.
        """
        if submission_id is not None and job_id is not None and submission_id != job_id:
            raise ValueError("give submission_id alone: job_id is its older name")
        body = {
            "entrypoint": entrypoint, "submission_id": submission_id if submission_id is not None else job_id,
            "runtime_env": self._sent(runtime_env) if runtime_env else {},
            "metadata": {**self._metadata, **(metadata or {})},
            "entrypoint_num_cpus": entrypoint_num_cpus, "entrypoint_num_gpus": entrypoint_num_gpus,
            "entrypoint_memory": entrypoint_memory, "entrypoint_resources": entrypoint_resources,
            "entrypoint_label_selector": entrypoint_label_selector,
        }  # fmt: skip
        answer = self._server.ask("POST", "/api/jobs/", {name: value for name, value in body.items() if value})
        return str(answer["submission_id"])

    def stop_job(self, job_id: str) -> bool:
        """End a job: SIGTERM to its command, SIGKILL after a few seconds. False if it had ended already.

        Returns at once; ``get_job_status`` says when it is over. Raises RuntimeError if there is no such job.
        """
        return bool(self._server.ask("POST", f"/api/jobs/{job_id}/stop")["stopped"])

    def delete_job(self, job_id: str) -> bool:
        """Forget a job that has ended, and its output. Raises RuntimeError if there is none, or it has not ended."""
        return bool(self._server.ask("DELETE", f"/api/jobs/{job_id}")["deleted"])

    def get_job_info(self, job_id: str) -> JobDetails:
        """All about a job, by its submission id or that of its driver. Raises RuntimeError if there is none."""
        return JobDetails.from_dict(self._server.ask("GET", f"/api/jobs/{job_id}"))

    def list_jobs(self) -> list[JobDetails]:
        """Jobs, and drivers that joined by themselves, the newest first."""
        return [JobDetails.from_dict(values) for values in self._server.ask("GET", "/api/jobs/")]

    def get_job_status(self, job_id: str) -> JobStatus:
        """How far a job is. Raises RuntimeError if there is none."""
        return self.get_job_info(job_id).status

    def get_job_logs(self, job_id: str) -> str:
        """What its command printed so far. Raises RuntimeError if there is no such job."""
        return str(self._server.ask("GET", f"/api/jobs/{job_id}/logs")["logs"])

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        """What its command prints, as it comes, until it has ended. Raises RuntimeError if there is no such job."""
        pieces = self.follow_job_logs(job_id)
        while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
            yield piece

    def follow_job_logs(self, job_id: str) -> Iterator[str]:
        """``tail_job_logs`` for programs without an event loop."""
        return self._server.text(f"/api/jobs/{job_id}/logs/tail")

    def _sent(self, env: Mapping[str, Any]) -> dict[str, Any]:
        from obsray.job_submission.packing import packed

        with tempfile.TemporaryDirectory(prefix="obsray-package-") as directory:
            return packed(env, Path(directory), PACKAGE_BYTES_MAX, self._send)

    def _send(self, file: Path, name: str) -> None:
        self._server.ask("PUT", f"/api/packages/package/{name}", file)
