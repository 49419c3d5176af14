"""The process that looks after one submitted job: ``python -m obsray.job_submission.supervisor SESSION ID``.

It is a driver like any other: it asks for the resources of the job's command, has an actor run it (``command.py``), and
writes down what it prints and how it ends. SIGTERM ends the job. It needs neither the dashboard nor whoever submitted
the job; if the runtime ends, the job has failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

import obsray
from obsray.core.api import session
from obsray.core.protocol.lifecycle import SubmittedJobState
from obsray.core.runtime.zygote import THREAD_VARIABLES
from obsray.errors import GetTimeoutError, RayError, RuntimeEnvSetupError
from obsray.job_submission import records
from obsray.job_submission.command import Command
from obsray.job_submission.details import JobErrorType
from obsray.job_submission.records import SubmittedJob
from obsray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SHOWN_CHARACTERS_MAX = 20_000
#: On top of what the command gets: for its last words.
LAST_WORDS_SECONDS = 10.0
TEXT_CHARACTERS_MAX = 400


class Supervisor:
    """One job, from the moment that it is accepted."""

    def __init__(self, directory: Path, job: SubmittedJob) -> None:
        self._session = directory
        self._job = job
        self._changed = threading.Event()
        self._stop_wanted = False
        self._over = False
        self._problem: BaseException | None = None
        self._output = open(
            os.open(records.log_path(directory, job.submission_id), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab"
        )

    def run(self) -> None:
        """Look after the job until it is over."""
        job = self._job
        # Before anybody knows of this process: a signal must find it ready.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        job.supervisor_pid, job.supervisor_started_at = os.getpid(), psutil.Process().create_time()
        job.message = records.WAITS
        records.write(self._session, job)
        try:
            obsray.init(
                address=str(self._session), namespace=records.NAMESPACE, log_to_driver=False, configure_logging=False,
                job_config={"metadata": {records.SUBMISSION_ID: job.submission_id}},
            )  # fmt: skip
            self._look_after()
        except (RayError, RuntimeError, OSError, ValueError, TypeError) as error:
            self._failed(error)
        records.write(self._session, job)
        obsray.shutdown()
        self._output.close()

    def _on_signal(self, number: int, frame: object) -> None:
        self._stop_wanted = True
        self._changed.set()

    def _look_after(self) -> None:
        job, emitter = self._job, session().emitter
        emitter.job_submitted(
            time.time_ns(), emitter.intern(job.submission_id), emitter.intern(job.entrypoint[:2000]),
            emitter.intern(str(job.metadata)[:500] if job.metadata else ""),
        )  # fmt: skip
        command = self._actor()
        reader = threading.Thread(target=self._read, args=(command,), name="obsray-job", daemon=True)
        reader.start()
        self._wait(command)
        if self._problem is not None:
            self._failed(self._problem)
        if not job.is_over:
            # Nothing was heard of it within the time that a stop may take.
            job.move(SubmittedJobState.STOPPED, "It was stopped; it did not say how it ended.")
        emitter.submitted_job_ended(
            time.time_ns(), emitter.intern(job.submission_id), emitter.intern(job.state.name),
            0 if job.exit_code is None else job.exit_code,
            (records.now_ms() - (job.started_at_ms or records.now_ms())) / 1000,
            emitter.intern(job.message[:2000] if job.state == SubmittedJobState.FAILED else ""),
        )  # fmt: skip

    def _actor(self) -> Any:
        """The actor that runs the command, where its resources are; without any it runs at the head."""
        job = self._job
        options: dict[str, Any] = {"num_cpus": 0, **job.resources, "max_concurrency": 2}
        if job.runtime_env:
            options["runtime_env"] = job.runtime_env
        if not job.resources:
            node = obsray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=False)
        return obsray.remote(Command).options(**options).remote()

    def _wait(self, command: Any) -> None:
        """Until the job is over, or has been stopped."""
        config = session().config
        deadline = time.monotonic() + config.job_start_seconds_max
        while not self._over and not self._stop_wanted:
            waiting = self._job.started_at_ms is None
            self._changed.wait(max(deadline - time.monotonic(), 0) if waiting else None)
            self._changed.clear()
            if waiting and self._job.started_at_ms is None and time.monotonic() >= deadline:
                self._problem = GetTimeoutError(
                    f"the command did not start within {config.job_start_seconds_max:g} s (job_start_seconds_max): "
                    f"{records.WAITS}"
                )
                return
        if self._over:
            return
        if self._job.started_at_ms is None:
            obsray.kill(command)
            self._job.move(SubmittedJobState.STOPPED, "It was stopped before its command had started.")
            return
        command.stop.remote(config.job_stop_seconds)
        deadline = time.monotonic() + config.job_stop_seconds + LAST_WORDS_SECONDS
        while not self._over and time.monotonic() < deadline:
            self._changed.wait(max(deadline - time.monotonic(), 0))
            self._changed.clear()

    def _read(self, command: Any) -> None:
        """What the command says, on a thread of its own; a signal reaches the main thread alone."""
        own = {
            "gpus": bool(self._job.resources.get("num_gpus")),
            "threads": not set(THREAD_VARIABLES).isdisjoint(self._job.runtime_env.get("env_vars") or {}),
        }
        # What is recorded of a driver's metadata is cut; the job's own are in its file.
        metadata = {**self._job.metadata, records.SUBMISSION_ID: self._job.submission_id}
        if len(json.dumps(metadata)) > TEXT_CHARACTERS_MAX:
            metadata = {records.SUBMISSION_ID: self._job.submission_id}
        run = command.run.options(num_returns="streaming")
        try:
            for told in run.remote(self._job.entrypoint, metadata, own):
                self._heard(obsray.get(told))
        except BaseException as error:
            self._problem = error
        finally:
            self._over = True
            self._changed.set()

    def _heard(self, told: Any) -> None:
        job = self._job
        if isinstance(told, bytes):
            self._output.write(told)
            self._output.flush()
        elif "node" in told:
            job.started_at_ms, job.node_id = records.now_ms(), told["node"]
            job.move(SubmittedJobState.RUNNING, "Its command runs.")
            records.write(self._session, job)
            emitter = session().emitter
            emitter.submitted_job_started(
                time.time_ns(), emitter.intern(job.submission_id), bytes.fromhex(told["node"]), told["pid"],
                (job.started_at_ms - job.submitted_at_ms) / 1000,
            )  # fmt: skip
            self._changed.set()
        else:
            self._ended(told["exit_code"])

    def _ended(self, code: int) -> None:
        job = self._job
        job.exit_code = code
        if self._stop_wanted:
            job.move(SubmittedJobState.STOPPED, f"It was stopped; {_how(code)}.")
        elif code == 0:
            job.move(SubmittedJobState.SUCCEEDED, "Its command ended with exit code 0.")
        else:
            job.move(
                SubmittedJobState.FAILED, f"Its command failed: {_how(code)}.\n{self._last_words()}",
                JobErrorType.JOB_ENTRYPOINT_COMMAND_ERROR,
            )  # fmt: skip

    def _last_words(self) -> str:
        with records.log_path(self._session, self._job.submission_id).open("rb") as printed:
            printed.seek(max(0, os.fstat(printed.fileno()).st_size - SHOWN_CHARACTERS_MAX))
            text = printed.read()
        if not text:
            return "It had printed nothing."
        return f"The last it printed (at most {SHOWN_CHARACTERS_MAX:,} characters):\n{text.decode(errors='replace')}"

    def _failed(self, error: BaseException) -> None:
        job = self._job
        if job.is_over:
            return
        if self._stop_wanted:
            job.move(SubmittedJobState.STOPPED, "It was stopped.")
            return
        started = job.started_at_ms is not None
        if isinstance(error, RuntimeEnvSetupError):
            kind = JobErrorType.RUNTIME_ENV_SETUP_FAILURE
        elif isinstance(error, GetTimeoutError):
            kind = JobErrorType.JOB_SUPERVISOR_ACTOR_START_TIMEOUT
        elif started:
            kind = JobErrorType.JOB_SUPERVISOR_ACTOR_DIED
        elif isinstance(error, OSError):
            kind = JobErrorType.JOB_ENTRYPOINT_COMMAND_START_ERROR
        else:
            kind = JobErrorType.JOB_SUPERVISOR_ACTOR_START_FAILURE
        job.move(SubmittedJobState.FAILED, f"{type(error).__name__}: {error}", kind)


def _how(code: int) -> str:
    if code >= 0:
        return f"it ended with exit code {code}"
    return f"it was ended by signal {-code} ({signal.Signals(-code).name})"


def main() -> int:
    """Exit code 2: there is no such job to look after."""
    directory, submission_id = Path(sys.argv[1]), sys.argv[2]
    job = records.read(directory, submission_id)
    if job is None or job.is_over:
        print(f"{submission_id}: no job of {directory} that waits", file=sys.stderr)
        return 2
    Supervisor(directory, job).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
