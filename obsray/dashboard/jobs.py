"""Jobs over HTTP, under ``/api/jobs/``: commands that are submitted to the runtime, watched and stopped.

This process accepts a job (``job_submission/records.py``) and starts its supervisor, which does everything else and
outlives this process. Errors are ``{"error": ..., "detail": ...}``.

==========================================  =========================================================================
POST   /api/jobs/                           submit: ``entrypoint`` and optionally ``submission_id``, ``runtime_env``,
                                            ``metadata``, ``entrypoint_num_cpus``, ``_num_gpus``, ``_memory``,
                                            ``_resources``, ``_label_selector``; answers ``{"submission_id": ...}``
GET    /api/jobs/                           all jobs and drivers, the newest first
GET    /api/jobs/{id}                       one (submission id, or a driver's job id)
POST   /api/jobs/{id}/stop                  ``{"stopped": whether it had not ended yet}``
DELETE /api/jobs/{id}                       forget a job that has ended
GET    /api/jobs/{id}/logs                  ``{"logs": what its command printed}``
GET    /api/jobs/{id}/logs/tail             the same as text, going on until it has ended
GET    /api/packages/{protocol}/{name}      whether a package is here: 200 or 404
PUT    /api/packages/{protocol}/{name}      a package: files of a runtime_env, as ``package://<name>``
GET    /api/version                         versions
==========================================  =========================================================================
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from obsray import runtime_env as environments
from obsray.core import options as opts
from obsray.core.protocol.lifecycle import SubmittedJobState
from obsray.job_submission import records
from obsray.job_submission.details import DriverInfo, JobDetails, JobErrorType, JobStatus, JobType
from obsray.job_submission.records import PACKAGE_BYTES_MAX, PACKAGE_SCHEME, SubmittedJob
from obsray.telemetry import session_file
from obsray.telemetry.log_bounds import first_byte, missing

from . import plain_json
from .source import Source

PREFIX = "/api/jobs/"
PACKAGES = "packages"
BODY_BYTES_MAX = 4 << 20
ENTRYPOINT_CHARACTERS_MAX = 100_000
FOLLOW_SECONDS = 0.1
STARTING_SECONDS_MAX = 20.0
_PACKAGE = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.+-]{0,200}\.(zip|whl|py)")
_FIELDS = {
    "entrypoint", "submission_id", "job_id", "runtime_env", "metadata", "entrypoint_num_cpus", "entrypoint_num_gpus",
    "entrypoint_memory", "entrypoint_resources", "entrypoint_label_selector",
}  # fmt: skip

#: Supervisors of this process, so that the event loop does not forget them.
_watched: set[asyncio.Task[None]] = set()


def routes() -> list[BaseRoute]:
    return [
        Route(PREFIX, listing, methods=["GET"]),
        Route(PREFIX, submit, methods=["POST"]),
        Route(PREFIX + "{id}", details, methods=["GET"]),
        Route(PREFIX + "{id}", delete, methods=["DELETE"]),
        Route(PREFIX + "{id}/stop", stop, methods=["POST"]),
        Route(PREFIX + "{id}/logs", logs, methods=["GET"]),
        Route(PREFIX + "{id}/logs/tail", tail, methods=["GET"]),
        Route("/api/packages/{protocol}/{name}", has_package, methods=["GET"]),
        Route("/api/packages/{protocol}/{name}", put_package, methods=["PUT"]),
        Route("/api/version", versions, methods=["GET"]),
    ]


async def submit(request: Request) -> Response:
    """Accept a job."""
    session = _session(request)
    job = _accepted(session, await _json_body(request))
    _check_running(session)
    try:
        records.create(session, job)
    except FileExistsError:
        raise HTTPException(
            409, f"there is a job {job.submission_id!r} already: choose another submission_id, or delete that one"
        ) from None
    command = ["-P", "-m", "obsray.job_submission.supervisor", str(session), job.submission_id]
    with open(records.supervisor_log_path(session, job.submission_id), "ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    watch = asyncio.create_task(_watch(session, job.submission_id, process))
    _watched.add(watch)
    watch.add_done_callback(_watched.discard)
    return _json({"job_id": job.submission_id, "submission_id": job.submission_id})


async def _watch(session: Path, submission_id: str, process: Process) -> None:
    """A supervisor that could not even begin has nobody else to say so."""
    code = await process.wait()
    job = records.read(session, submission_id)
    if job is not None and job.supervisor_pid is None and not job.is_over:
        words = records.supervisor_log_path(session, submission_id).read_text(errors="replace")[-2000:]
        job.move(
            SubmittedJobState.FAILED, f"its supervisor ended with exit code {code}: {words}",
            JobErrorType.JOB_SUPERVISOR_ACTOR_START_FAILURE,
        )  # fmt: skip
        records.write(session, job)


def _accepted(session: Path, body: dict[str, Any]) -> SubmittedJob:
    """The job that a request asks for. Raises HTTPException for what cannot be."""
    unknown = sorted(body.keys() - _FIELDS)
    if unknown:
        raise HTTPException(
            400, f"{unknown[0]!r} is not a field of a job; the fields are: {', '.join(sorted(_FIELDS))}"
        )
    entrypoint = body.get("entrypoint")
    if not isinstance(entrypoint, str) or not entrypoint.strip():
        raise HTTPException(400, f"entrypoint={entrypoint!r}: must be a command (text)")
    if len(entrypoint) > ENTRYPOINT_CHARACTERS_MAX or "\0" in entrypoint:
        raise HTTPException(400, f"entrypoint: {ENTRYPOINT_CHARACTERS_MAX:,} characters at most, none of them NUL")
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise HTTPException(400, "metadata must be a dict of text to text")
    name = body.get("submission_id") or body.get("job_id")
    try:
        return SubmittedJob(
            submission_id=records.new_id() if name is None else records.check_id(name),
            entrypoint=entrypoint,
            metadata=metadata,
            runtime_env=environments.check(_with_packages(session, body.get("runtime_env") or {})),
            resources=_resources(body),
            submitted_at_ms=records.now_ms(),
        )
    except (TypeError, ValueError) as error:
        raise HTTPException(400, str(error)) from None


def _resources(body: dict[str, Any]) -> dict[str, Any]:
    """What the command needs, as options of an actor. Raises TypeError or ValueError."""
    given = {
        "num_cpus": body.get("entrypoint_num_cpus"), "num_gpus": body.get("entrypoint_num_gpus"),
        "memory": body.get("entrypoint_memory"), "resources": body.get("entrypoint_resources"),
        "label_selector": body.get("entrypoint_label_selector"),
    }  # fmt: skip
    found = {name: value for name, value in given.items() if value}
    opts.check(found, frozenset(given), "entrypoint")
    return found


def _with_packages(session: Path, env: Any) -> Any:
    """An environment whose packages are the files that were sent here."""
    if not isinstance(env, dict):
        return env
    found = dict(env)
    if isinstance(env.get("working_dir"), str):
        found["working_dir"] = _package_file(session, env["working_dir"])
    if isinstance(env.get("py_modules"), list):
        found["py_modules"] = [
            _package_file(session, module) if isinstance(module, str) else module for module in env["py_modules"]
        ]
    return found


def _package_file(session: Path, text: str) -> str:
    if not text.startswith(PACKAGE_SCHEME):
        return text
    path = _package_path(session, text.removeprefix(PACKAGE_SCHEME))
    if not path.exists():
        raise ValueError(f"{text}: this package is not here; PUT it to /api/packages/ first")
    return str(path)


async def listing(request: Request) -> Response:
    """All jobs and drivers, the newest first."""
    by_job, alone = await _drivers(request)
    submitted = [job.details(by_job.get(job.submission_id, [])) for job in records.read_all(_session(request))]
    found = [*submitted, *map(_driver, alone)]
    return _json([one.to_dict() for one in sorted(found, key=lambda one: -(one.start_time or 0))])


async def details(request: Request) -> Response:
    """One job, or a driver."""
    name = request.path_params["id"]
    job = records.read(_session(request), name)
    by_job, alone = await _drivers(request)
    if job is not None:
        return _json(job.details(by_job.get(name, [])).to_dict())
    for row in alone:
        if row["job_id"] == name:
            return _json(_driver(row).to_dict())
    for submission_id, rows in by_job.items():
        known = records.read(_session(request), submission_id)
        if known is not None and any(row["job_id"] == name for row in rows):
            return _json(known.details(rows).to_dict())
    raise _unknown(name)


async def stop(request: Request) -> Response:
    """End a job."""
    session, job = _session(request), _job(request)
    deadline = asyncio.get_running_loop().time() + STARTING_SECONDS_MAX
    while not job.is_over and job.supervisor_pid is None and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(FOLLOW_SECONDS)
        job = records.read(session, job.submission_id) or job
    supervisor = None if job.is_over else records.supervisor_of(job)
    if supervisor is None:
        return _json({"stopped": False})
    try:
        supervisor.send_signal(signal.SIGTERM)
    except psutil.NoSuchProcess:
        return _json({"stopped": False})
    return _json({"stopped": True})


async def delete(request: Request) -> Response:
    """Forget a job."""
    job = _job(request)
    if not job.is_over:
        raise HTTPException(409, f"job {job.submission_id!r} is {job.state.name}: stop it before it is deleted")
    records.remove(_session(request), job.submission_id)
    return _json({"deleted": True})


async def logs(request: Request) -> Response:
    """What the command printed."""
    path = records.log_path(_session(request), _job(request).submission_id)
    text = await asyncio.to_thread(_all_of, path)
    return _json({"logs": text})


def _all_of(path: Path) -> str:
    """What is kept of what the command printed."""
    try:
        with path.open("rb") as file:
            gone = first_byte(file.fileno())
            file.seek(gone)
            return (missing(gone) + "\n" if gone else "") + file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


async def tail(request: Request) -> Response:
    """What the command prints, as it comes."""
    return StreamingResponse(
        _follow(_session(request), _job(request).submission_id), media_type="text/plain; charset=utf-8"
    )


async def _follow(session: Path, submission_id: str) -> AsyncIterator[bytes]:
    path, offset = records.log_path(session, submission_id), 0
    while True:
        # Asked before reading: what is there once it is over is all there will be.
        job = records.read(session, submission_id)
        data, behind = await asyncio.to_thread(_read_from, path, offset)
        if data:
            offset = behind
            yield data
        elif job is None or job.is_over:
            return
        else:
            await asyncio.sleep(FOLLOW_SECONDS)


def _read_from(path: Path, offset: int) -> tuple[bytes, int]:
    """What stands in the file from ``offset`` on, or from where it begins by now; and where that ends."""
    try:
        with open(path, "rb") as file:
            gone = max(0, first_byte(file.fileno()) - offset)
            file.seek(offset + gone)
            data = file.read(1 << 20)
            return (missing(gone).encode() + b"\n" if gone else b"") + data, offset + gone + len(data)
    except FileNotFoundError:
        return b"", offset


async def has_package(request: Request) -> Response:
    """Whether a package is here."""
    path = _package_path(_session(request), request.path_params["name"])
    if not path.exists():
        raise HTTPException(404, f"no package {path.name}")
    return _json({"package": path.name})


async def put_package(request: Request) -> Response:
    """Keep a package."""
    path = _package_path(_session(request), request.path_params["name"])
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{records.new_id()}.part")
    size = 0
    try:
        with open(part, "wb") as file:
            async for piece in request.stream():
                size += len(piece)
                if size > PACKAGE_BYTES_MAX:
                    raise HTTPException(413, f"a package may have {PACKAGE_BYTES_MAX:,} bytes")
                file.write(piece)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return _json({"package": path.name, "bytes": size})


async def versions(request: Request) -> Response:
    """Versions of the API and of obsray."""
    session = _session(request)
    facts = session_file.read(session)
    return _json({"version": "4", "obsray_version": facts.get("version", ""), "session_name": session.name})


# --- the parts -------------------------------------------------------------------------------------------


def _session(request: Request) -> Path:
    source: Source = request.app.state.source
    return source.directory


def _job(request: Request) -> SubmittedJob:
    name = request.path_params["id"]
    job = records.read(_session(request), name)
    if job is None:
        raise _unknown(name)
    return job


def _unknown(name: str) -> HTTPException:
    return HTTPException(404, f"there is no job {name!r}; GET {PREFIX} (obsray job list) lists them")


def _check_running(session: Path) -> None:
    if not session_file.is_live(session):
        raise HTTPException(409, "this session has ended; start another one, and submit the job there")


def _package_path(session: Path, name: str) -> Path:
    if not _PACKAGE.fullmatch(name):
        raise HTTPException(400, f"{name!r} is not the name of a package")
    return session / records.DIRECTORY / PACKAGES / name


async def _json_body(request: Request) -> dict[str, Any]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_BYTES_MAX:
            raise HTTPException(413, f"a job may have {BODY_BYTES_MAX:,} bytes; send files as a package")
    try:
        found = json.loads(body)
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return found


async def _drivers(request: Request) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """The drivers that each submitted job has started, newest first, and those that came by themselves."""
    source: Source = request.app.state.source
    try:
        rows = await source.ask(lambda views: views.jobs(refresh=False), key="api/jobs")
    except FileNotFoundError:
        # Nothing is recorded yet.
        rows = []
    by_job: dict[str, list[dict[str, Any]]] = {}
    alone = []
    for row in rows:
        submission_id = records.submission_of(row)
        if submission_id is None:
            alone.append(row)
        elif row["namespace"] != records.NAMESPACE:
            by_job.setdefault(submission_id, []).append(row)
    return by_job, alone


def _driver(row: dict[str, Any]) -> JobDetails:
    """A driver that came by itself."""
    state = {"RUNNING": JobStatus.RUNNING, "SUCCEEDED": JobStatus.SUCCEEDED, "STOPPED": JobStatus.STOPPED}
    return JobDetails(
        type=JobType.DRIVER,
        job_id=row["job_id"],
        submission_id=None,
        status=state.get(row["state"], JobStatus.FAILED),
        entrypoint=row["entrypoint"],
        message=row["cause"],
        start_time=_ms(row["started_at_ns"]),
        end_time=_ms(row["ended_at_ns"]),
        metadata=json.loads(row["metadata"] or "{}"),
        driver_info=DriverInfo(row["job_id"], "127.0.0.1", str(row["pid"])),
    )


def _ms(time_ns: int | None) -> int | None:
    return None if time_ns is None else time_ns // 1_000_000


def _json(value: Any) -> Response:
    return Response(plain_json.dumps(value), media_type="application/json")
