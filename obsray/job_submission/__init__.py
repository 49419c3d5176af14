"""Jobs: commands that run on a cluster, submitted over HTTP (``obsray job`` does the same on the command line)."""

from typing import Any

from obsray.job_submission.details import DriverInfo, JobDetails, JobErrorType, JobInfo, JobStatus, JobType

__all__ = ["DriverInfo", "JobDetails", "JobErrorType", "JobInfo", "JobStatus", "JobSubmissionClient", "JobType"]


def __getattr__(name: str) -> Any:
    # Whoever only reads what became of jobs needs no client.
    if name == "JobSubmissionClient":
        from obsray.job_submission.client import JobSubmissionClient

        return JobSubmissionClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
