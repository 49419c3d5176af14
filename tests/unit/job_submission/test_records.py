"""What a session keeps of submitted jobs."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from obsray.core.protocol.lifecycle import IllegalTransition, SubmittedJobState
from obsray.job_submission import JobDetails, JobStatus, records
from obsray.job_submission.records import SubmittedJob


def job(name: str = "mine", **facts: object) -> SubmittedJob:
    return SubmittedJob(name, "python x.py", submitted_at_ms=records.now_ms(), **facts)  # type: ignore[arg-type]


def test_a_job_is_kept_once_under_its_name(tmp_path):
    records.create(tmp_path, job(metadata={"a": "b"}))
    with pytest.raises(FileExistsError):
        records.create(tmp_path, job())
    found = records.read(tmp_path, "mine")
    assert found is not None and found.metadata == {"a": "b"} and found.state == SubmittedJobState.PENDING
    assert [path.name for path in (tmp_path / records.DIRECTORY).iterdir()] == ["mine.json"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", ".hidden", "a b", "é", "x" * 129, "a\n", "-x"])
def test_an_id_cannot_lead_out_of_the_directory(tmp_path, name):
    with pytest.raises(ValueError, match="submission_id"):
        records.check_id(name)
    assert records.read(tmp_path, name) is None


def test_an_id_is_text():
    with pytest.raises(TypeError, match="must be text"):
        records.check_id(7)


def test_a_supervisor_that_is_gone_without_a_word_means_that_the_job_has_failed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = psutil.Process(process.pid).create_time()
        records.create(tmp_path, job(supervisor_pid=process.pid, supervisor_started_at=started))
        found = records.read(tmp_path, "mine")
        assert found is not None and not found.is_over and records.supervisor_of(found) is not None
        process.kill()
    found = records.read(tmp_path, "mine")
    assert found is not None and found.state == SubmittedJobState.FAILED
    assert found.error_type == "JOB_SUPERVISOR_ACTOR_DIED" and "gone" in found.message


def test_another_process_with_its_pid_is_not_the_supervisor(tmp_path):
    records.create(tmp_path, job(supervisor_pid=os.getpid(), supervisor_started_at=1.0))
    found = records.read(tmp_path, "mine")
    assert found is not None and found.state == SubmittedJobState.FAILED and records.supervisor_of(found) is None


def test_a_supervisor_that_never_came_is_not_waited_for_for_ever(tmp_path):
    late = job()
    late.submitted_at_ms -= int(records.SUPERVISOR_SECONDS_MAX * 1000) + 1
    records.create(tmp_path, late)
    found = records.read(tmp_path, "mine")
    assert found is not None and found.state == SubmittedJobState.FAILED


def test_what_is_over_stays_as_it_is():
    ended = job()
    ended.move(SubmittedJobState.RUNNING, "")
    assert ended.ended_at_ms is None
    ended.move(SubmittedJobState.SUCCEEDED, "well")
    assert ended.ended_at_ms is not None
    with pytest.raises(IllegalTransition):
        ended.move(SubmittedJobState.FAILED, "no")


def test_jobs_are_listed_newest_first_and_forgotten_with_their_output(tmp_path):
    (tmp_path / "logs").mkdir()
    for number in range(3):
        one = job(f"j{number}")
        one.submitted_at_ms += number
        records.create(tmp_path, one)
        records.log_path(tmp_path, one.submission_id).write_text("x")
    assert [one.submission_id for one in records.read_all(tmp_path)] == ["j2", "j1", "j0"]
    records.remove(tmp_path, "j1")
    assert [one.submission_id for one in records.read_all(tmp_path)] == ["j2", "j0"]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["job-driver-j0.log", "job-driver-j2.log"]


def test_details_travel_and_name_the_first_driver():
    drivers = [{"job_id": "00000003", "pid": 30}, {"job_id": "00000002", "pid": 20}]
    told = job(metadata={"a": "b"}, exit_code=0).details(drivers)
    assert told.job_id == "00000002" and told.driver_info is not None and told.driver_info.pid == "20"
    assert JobDetails.from_dict({**told.to_dict(), "of_tomorrow": 1}) == told
    assert told.status is JobStatus.PENDING and str(told.status) == "PENDING" and told.status == "PENDING"


def test_a_driver_knows_the_job_it_belongs_to():
    assert records.submission_of({"metadata": '{"job_submission_id": "x"}'}) == "x"
    for metadata in ("", "{}", '{"job_submission_id": "x', '{"job_submission_id": 3}'):
        assert records.submission_of({"metadata": metadata}) is None
