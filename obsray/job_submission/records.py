"""What a session keeps of the jobs submitted to it: one file a job, ``jobs_submitted/<submission id>.json``.

Whoever accepts a job makes the file; from then on only the job's supervisor (``supervisor.py``) writes it, by renaming,
so that a reader never sees half of it. A supervisor that is gone without having said how its job ended is recognised by
its process: readers are then told that the job has failed.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil

from obsray.core.protocol.lifecycle import SubmittedJobState, advance
from obsray.job_submission.details import DriverInfo, JobDetails, JobErrorType, JobStatus, JobType

DIRECTORY = "jobs_submitted"
ID_CHARACTERS_MAX = 128
#: How a runtime_env names a file that was sent as a package, and how large one may be.
PACKAGE_SCHEME = "package://"
PACKAGE_BYTES_MAX = 512 << 20
#: Where the drivers that look after jobs have their actors.
NAMESPACE = "obsray_jobs"
#: In the metadata of every driver that belongs to a job.
SUBMISSION_ID = "job_submission_id"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_RANDOM = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
#: How long a supervisor may take until it says that it is there.
SUPERVISOR_SECONDS_MAX = 60.0
#: What is said of a job that has not started.
WAITS = "The command is waiting for resources, or for its environment to be made: obsray list actors, obsray status."
_LOST = "the process that looked after this job is gone without a word (killed?), and the job with it"


@dataclass
class SubmittedJob:
    """One job: what was asked for, and what became of it. Times are milliseconds since the epoch."""

    submission_id: str
    entrypoint: str
    metadata: dict[str, str] = field(default_factory=dict)
    runtime_env: dict[str, Any] = field(default_factory=dict)
    #: As in ``Actor.options``: "num_cpus", "num_gpus", "memory", "resources", "label_selector".
    resources: dict[str, Any] = field(default_factory=dict)
    state: SubmittedJobState = SubmittedJobState.PENDING
    message: str = ""
    error_type: str | None = None
    submitted_at_ms: int = 0
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    exit_code: int | None = None
    node_id: str | None = None
    supervisor_pid: int | None = None
    #: With the pid it names the process: pids come again.
    supervisor_started_at: float | None = None

    def move(self, state: SubmittedJobState, message: str, error_type: JobErrorType | None = None) -> None:
        """Go on to ``state``. Raises IllegalTransition."""
        advance(self, state)
        self.message = message
        self.error_type = None if error_type is None else error_type.value
        if state != SubmittedJobState.RUNNING:
            self.ended_at_ms = now_ms()

    @property
    def is_over(self) -> bool:
        """Whether nothing changes any more."""
        return self.state not in (SubmittedJobState.PENDING, SubmittedJobState.RUNNING)

    def details(self, drivers: list[dict[str, Any]]) -> JobDetails:
        """The job for people. ``drivers``: rows of ``Views.jobs`` that belong to it, newest first."""
        driver = drivers[-1] if drivers else None
        return JobDetails(
            type=JobType.SUBMISSION,
            job_id=driver["job_id"] if driver else None,
            submission_id=self.submission_id,
            status=JobStatus[self.state.name],
            entrypoint=self.entrypoint,
            message=self.message or (WAITS if self.state is SubmittedJobState.PENDING else None),
            error_type=JobErrorType(self.error_type) if self.error_type else None,
            start_time=self.submitted_at_ms,
            end_time=self.ended_at_ms,
            metadata=self.metadata,
            runtime_env=self.runtime_env,
            driver_info=None if driver is None else DriverInfo(driver["job_id"], "127.0.0.1", str(driver["pid"])),
            driver_node_id=self.node_id,
            driver_exit_code=self.exit_code,
        )


def submission_of(driver: dict[str, Any]) -> str | None:
    """The job that a driver (a row of ``Views.jobs``) belongs to."""
    try:
        found = json.loads(driver["metadata"] or "{}").get(SUBMISSION_ID)
    except ValueError:
        # Long metadata is cut.
        return None
    return found if isinstance(found, str) else None


def new_id() -> str:
    """A submission id that nobody else has."""
    return "obsray_" + "".join(secrets.choice(_RANDOM) for _ in range(16))


def check_id(name: Any) -> str:
    """A submission id that somebody chose. Raises TypeError or ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"submission_id={name!r}: must be text")
    if len(name) > ID_CHARACTERS_MAX or not _ID.fullmatch(name):
        raise ValueError(
            f"submission_id={name!r}: letters, digits, '_', '-' and '.', beginning with a letter or digit, "
            f"{ID_CHARACTERS_MAX} at most"
        )
    return name


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def log_path(session: Path, submission_id: str) -> Path:
    """What the job's command printed."""
    return session / "logs" / f"job-driver-{submission_id}.log"


def supervisor_log_path(session: Path, submission_id: str) -> Path:
    """What its supervisor had to say."""
    return session / "logs" / f"job-supervisor-{submission_id}.log"


def create(session: Path, job: SubmittedJob) -> None:
    """Keep a new job. Raises FileExistsError if there is one of that name."""
    (session / DIRECTORY).mkdir(mode=0o700, exist_ok=True)
    part = _write_part(session, job)
    try:
        os.link(part, _path(session, job.submission_id))
    finally:
        part.unlink()


def write(session: Path, job: SubmittedJob) -> None:
    """Keep what became of a job."""
    _write_part(session, job).rename(_path(session, job.submission_id))


def read(session: Path, submission_id: str) -> SubmittedJob | None:
    """The job, or None if there is none of that name."""
    try:
        values = json.loads(_path(session, check_id(submission_id)).read_text())
    except (FileNotFoundError, ValueError, TypeError):
        return None
    known = {item.name for item in fields(SubmittedJob)}
    values["state"] = SubmittedJobState[values["state"]]
    job = SubmittedJob(**{name: value for name, value in values.items() if name in known})
    if not job.is_over and not _is_looked_after(job):
        job.move(SubmittedJobState.FAILED, _LOST, JobErrorType.JOB_SUPERVISOR_ACTOR_DIED)
    return job


def read_all(session: Path) -> Iterator[SubmittedJob]:
    """All jobs, those submitted last first."""
    found = (read(session, path.stem) for path in (session / DIRECTORY).glob("*.json"))
    yield from sorted((job for job in found if job is not None), key=lambda job: -job.submitted_at_ms)


def remove(session: Path, submission_id: str) -> None:
    """Forget a job and what it printed."""
    for path in (
        _path(session, submission_id), log_path(session, submission_id), supervisor_log_path(session, submission_id)
    ):  # fmt: skip
        path.unlink(missing_ok=True)


def supervisor_of(job: SubmittedJob) -> psutil.Process | None:
    """The process that looks after the job, if it is there."""
    if job.supervisor_pid is None:
        return None
    try:
        process = psutil.Process(job.supervisor_pid)
        if process.create_time() != job.supervisor_started_at or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    return process


def _is_looked_after(job: SubmittedJob) -> bool:
    if job.supervisor_pid is None:
        return now_ms() - job.submitted_at_ms < SUPERVISOR_SECONDS_MAX * 1000
    return supervisor_of(job) is not None


def _path(session: Path, submission_id: str) -> Path:
    return session / DIRECTORY / f"{submission_id}.json"


def _write_part(session: Path, job: SubmittedJob) -> Path:
    part = session / DIRECTORY / f"{job.submission_id}.{os.getpid()}.{secrets.token_hex(4)}.part"
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({**asdict(job), "state": job.state.name}, file, indent=1)
    return part
