"""What is known about a job: ``JobStatus``, ``JobDetails`` and the words they are made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any


class JobStatus(StrEnum):
    """How far a job is."""

    #: Waiting for the resources of its program, or for its environment.
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    #: Ended because somebody asked for it.
    STOPPED = "STOPPED"
    #: Its program ended with exit code 0.
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    def is_terminal(self) -> bool:
        """Whether nothing changes any more."""
        return self in (JobStatus.STOPPED, JobStatus.SUCCEEDED, JobStatus.FAILED)


class JobErrorType(StrEnum):
    """Why a job has failed."""

    RUNTIME_ENV_SETUP_FAILURE = "RUNTIME_ENV_SETUP_FAILURE"
    JOB_SUPERVISOR_ACTOR_START_TIMEOUT = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
    JOB_SUPERVISOR_ACTOR_START_FAILURE = "JOB_SUPERVISOR_ACTOR_START_FAILURE"
    JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE = "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"
    JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE = "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"
    JOB_SUPERVISOR_ACTOR_DIED = "JOB_SUPERVISOR_ACTOR_DIED"
    JOB_ENTRYPOINT_COMMAND_START_ERROR = "JOB_ENTRYPOINT_COMMAND_START_ERROR"
    JOB_ENTRYPOINT_COMMAND_ERROR = "JOB_ENTRYPOINT_COMMAND_ERROR"


class JobType(StrEnum):
    """How a job came to the cluster."""

    #: A command that was submitted.
    SUBMISSION = "SUBMISSION"
    #: A program that joined by itself.
    DRIVER = "DRIVER"


@dataclass(frozen=True)
class DriverInfo:
    """The program of a job. ``id`` is the job's, ``node_ip_address`` where it runs, ``pid`` its process."""

    id: str
    node_ip_address: str
    pid: str


@dataclass(frozen=True)
class JobDetails:
    """A job as ``JobSubmissionClient.get_job_info`` tells it. Times are milliseconds since the epoch.

    ``job_id`` is that of the (first) driver that the command started, None before; ``message`` says how it stands, and
    after a failure why; ``driver_exit_code`` is None unless the command ended, and negative if a signal ended it.
    """

    type: JobType
    job_id: str | None
    submission_id: str | None
    status: JobStatus
    entrypoint: str
    message: str | None = None
    error_type: JobErrorType | None = None
    start_time: int | None = None
    end_time: int | None = None
    metadata: dict[str, str] | None = None
    runtime_env: dict[str, Any] | None = None
    driver_info: DriverInfo | None = None
    driver_agent_http_address: str | None = None
    driver_node_id: str | None = None
    driver_exit_code: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as they travel."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> JobDetails:
        """What ``to_dict`` made; names that are unknown here are left out. Raises KeyError, ValueError or TypeError."""
        known = {field.name for field in fields(cls)}
        found = {name: value for name, value in values.items() if name in known}
        found["type"], found["status"] = JobType(values["type"]), JobStatus(values["status"])
        if found.get("error_type"):
            found["error_type"] = JobErrorType(found["error_type"])
        if found.get("driver_info"):
            found["driver_info"] = DriverInfo(**found["driver_info"])
        return cls(**found)


#: The older name.
JobInfo = JobDetails
