"""``obsray job``: commands that run on a cluster as jobs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from obsray.cli import output
from obsray.cli.sessions import Problem
from obsray.dashboard import plain_json, units
from obsray.dashboard.tables import Column

if TYPE_CHECKING:
    from obsray.job_submission.client import JobSubmissionClient
    from obsray.job_submission.details import JobDetails

_EXAMPLES = """examples:
  obsray job submit -- python train.py --epochs 3        run it on the newest runtime of this user, show its output
  obsray job submit --working-dir . --no-wait -- python train.py
  obsray job list
  obsray job logs obsray_w2F4kqXcT8mZbH3L -f
  obsray job stop obsray_w2F4kqXcT8mZbH3L
"""
FOLLOW_SECONDS = 0.2
#: Nanoseconds in a millisecond.
_NS = 1_000_000
_COLUMNS = (
    Column("id", "Submitted job"),
    Column("state", "State", "state"),
    Column("driver", "Driver's job"),
    Column("started", "Since", "clock"),
    Column("seconds", "For", "seconds"),
    Column("entrypoint", "Command"),
)


def add(verbs: Any, run: Callable[[argparse.Namespace], int]) -> None:
    """Add the command to a parser's ``verbs``."""
    text = "Run commands on the runtime as jobs: submit, list, status, logs, stop, delete."
    made = verbs.add_parser(
        "job", help=text, description=text, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--address", metavar="ADDRESS",
        help="http://host:port of the dashboard, host:port of a cluster, or a session directory (default: the newest)",
    )  # fmt: skip
    common.add_argument("--headers", type=_object, metavar="JSON", help="headers of every request")
    common.add_argument("--verify", metavar="FILE", help="for https: a file of certificates, or 'false'")
    common.add_argument("--json", action="store_true", help="answer in JSON")
    things = made.add_subparsers(title="what to do", metavar="WHAT", dest="what", required=True)

    def what(name: str, about: str, one_job: bool = True) -> argparse.ArgumentParser:
        found: argparse.ArgumentParser = things.add_parser(name, help=about, description=about, parents=[common])
        if one_job:
            found.add_argument("id", help="submission id")
        found.set_defaults(run=run)
        return found

    _add_submit(what("submit", "Submit a command; its output is shown until it has ended.", one_job=False))
    what("list", "All jobs, and programs that joined by themselves.", one_job=False)
    what("status", "How far a job is, and why.")
    logs = what("logs", "What the command of a job printed.")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as more is printed, until it has ended")
    end = what("stop", "End a job.")
    end.add_argument("--no-wait", action="store_true", help="do not wait until it has ended")
    what("delete", "Forget a job that has ended, and what it printed.")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("entrypoint", nargs=argparse.REMAINDER, help="the command, after '--'")
    parser.add_argument("--submission-id", "--job-id", metavar="ID", help="the name of the job (default: a new one)")
    parser.add_argument("--runtime-env", metavar="FILE", help="a JSON file with the runtime_env")
    parser.add_argument("--runtime-env-json", type=_object, metavar="JSON", help="the runtime_env")
    parser.add_argument("--working-dir", metavar="DIR", help="a directory or .zip file to copy and work in")
    parser.add_argument("--metadata-json", type=_object, metavar="JSON", help="text about the job, name to value")
    parser.add_argument("--entrypoint-num-cpus", type=float, metavar="N", help="CPUs for the command itself")
    parser.add_argument("--entrypoint-num-gpus", type=float, metavar="N", help="GPUs for the command itself")
    parser.add_argument("--entrypoint-memory", type=int, metavar="BYTES", help="memory for the command itself")
    parser.add_argument("--entrypoint-resources", type=_object, metavar="JSON", help="other resources for it")
    parser.add_argument(
        "--entrypoint-label-selector", type=_object, metavar="JSON", help="labels of the node it is to run at"
    )
    parser.add_argument("--no-wait", action="store_true", help="do not wait for its end")


def run(options: argparse.Namespace) -> int:
    """Do it. Raises Problem."""
    from obsray.job_submission.client import JobSubmissionClient

    try:
        verify: Any = False if str(options.verify).lower() == "false" else options.verify
        client = JobSubmissionClient(options.address, headers=options.headers, verify=verify)
        return _DO[options.what](client, options)
    except (ConnectionError, RuntimeError, ValueError, TypeError) as error:
        raise Problem(str(error).removeprefix("Request failed with status code 404: ")) from None


def _submit(client: JobSubmissionClient, options: argparse.Namespace) -> int:
    words = options.entrypoint[1:] if options.entrypoint[:1] == ["--"] else options.entrypoint
    if not words:
        raise Problem("there is no command", "As in: obsray job submit -- python program.py")
    submission_id = client.submit_job(
        # One word is a line for the shell; several are a command with its arguments.
        entrypoint=words[0] if len(words) == 1 else shlex.join(words),
        submission_id=options.submission_id,
        runtime_env=_environment(options),
        metadata=options.metadata_json,
        entrypoint_num_cpus=options.entrypoint_num_cpus,
        entrypoint_num_gpus=options.entrypoint_num_gpus,
        entrypoint_memory=options.entrypoint_memory,
        entrypoint_resources=options.entrypoint_resources,
        entrypoint_label_selector=options.entrypoint_label_selector,
    )
    if options.json:
        print(plain_json.dumps({"submission_id": submission_id}), flush=True)
    else:
        print(f"job {submission_id} was submitted to {client.get_address()}", flush=True)
        print(
            f"  obsray job status {submission_id}\n  obsray job logs {submission_id} --follow\n"
            f"  obsray job stop {submission_id}",
            flush=True,
        )
    if options.no_wait:
        return 0
    if not options.json:
        for piece in client.follow_job_logs(submission_id):
            print(piece, end="", flush=True)
    return _told(_wait(client, submission_id), options)


def _environment(options: argparse.Namespace) -> dict[str, Any]:
    if options.runtime_env and options.runtime_env_json:
        raise Problem("give --runtime-env or --runtime-env-json, not both")
    found = dict(options.runtime_env_json or {})
    if options.runtime_env:
        try:
            with open(options.runtime_env) as file:
                found = _object(file.read())
        except (OSError, argparse.ArgumentTypeError) as error:
            raise Problem(f"--runtime-env {options.runtime_env}: {error}", "It must be a file with JSON.") from None
    if options.working_dir:
        found["working_dir"] = options.working_dir
    return found


def _wait(client: JobSubmissionClient, submission_id: str) -> JobDetails:
    while not (job := client.get_job_info(submission_id)).status.is_terminal():
        time.sleep(FOLLOW_SECONDS)
    return job


def _told(job: JobDetails, options: argparse.Namespace) -> int:
    """Say how a job stands; the exit code says whether it is well."""
    if options.json:
        print(plain_json.dumps(job.to_dict()), flush=True)
    else:
        print(f"job {job.submission_id or job.job_id}: {job.status}", file=sys.stderr, flush=True)
        if job.message and job.status != "SUCCEEDED":
            # What it printed has been shown, or is asked for with "logs".
            print(f"        {units.plain(job.message.splitlines()[0])}", file=sys.stderr, flush=True)
    return 0 if job.status in ("SUCCEEDED", "RUNNING", "PENDING") else 1


def _status(client: JobSubmissionClient, options: argparse.Namespace) -> int:
    job = client.get_job_info(options.id)
    if options.json:
        print(plain_json.dumps(job.to_dict()))
        return 0
    says, _, more = (job.message or "").partition("\n")
    facts = {
        "job": job.submission_id or job.job_id, "status": job.status, "says": says, "command": job.entrypoint,
        "driver": job.driver_info and f"job {job.driver_info.id}, process {job.driver_info.pid}",
        "node": job.driver_node_id, "exit code": job.driver_exit_code, "error": job.error_type,
        "submitted": job.start_time and units.moment(job.start_time * _NS),
        "ended": job.end_time and units.moment(job.end_time * _NS),
        "metadata": job.metadata and ", ".join(f"{name}={text}" for name, text in job.metadata.items()),
        "environment": job.runtime_env and json.dumps(job.runtime_env, default=str),
    }  # fmt: skip
    pairs = [(name, units.plain(str(value))) for name, value in facts.items() if value not in (None, "", {})]
    print(output.facts(pairs, output.is_coloured(sys.stdout)))
    for line in more.splitlines():
        print(units.plain(line))
    return 0


def _list(client: JobSubmissionClient, options: argparse.Namespace) -> int:
    jobs = client.list_jobs()
    if options.json:
        print(plain_json.dumps([job.to_dict() for job in jobs]))
        return 0
    if not jobs:
        print("no job was submitted, and no program has joined")
        return 0
    rows = [
        {
            "id": job.submission_id or "", "state": job.status.value, "driver": job.job_id,
            "entrypoint": job.entrypoint,
            "started": job.start_time and job.start_time * _NS,
            "seconds": ((job.end_time or time.time_ns() // _NS) - job.start_time) / 1000 if job.start_time else None,
        }
        for job in jobs
    ]  # fmt: skip
    print(output.table(_COLUMNS, rows, output.width(), output.is_coloured(sys.stdout)))
    return 0


def _logs(client: JobSubmissionClient, options: argparse.Namespace) -> int:
    pieces = client.follow_job_logs(options.id) if options.follow else [client.get_job_logs(options.id)]
    for piece in pieces:
        print(piece, end="", flush=True)
    return 0


def _stop(client: JobSubmissionClient, options: argparse.Namespace) -> int:
    if not client.stop_job(options.id):
        print(f"job {options.id} had ended already", file=sys.stderr)
        return 0
    if not options.no_wait:
        job = _wait(client, options.id)
        print(plain_json.dumps(job.to_dict()) if options.json else f"job {options.id}: {job.status}")
    return 0


def _delete(client: JobSubmissionClient, options: argparse.Namespace) -> int:
    client.delete_job(options.id)
    print(f"job {options.id} is forgotten")
    return 0


_DO: dict[str, Callable[[JobSubmissionClient, argparse.Namespace], int]] = {
    "submit": _submit, "list": _list, "status": _status, "logs": _logs, "stop": _stop, "delete": _delete,
}  # fmt: skip


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError("must be a JSON object, as in '{\"name\": 1}'")
    return found
