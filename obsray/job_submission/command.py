"""The command of a submitted job, where it runs: an actor that starts it, hands on what it prints and ends it.

The command is the leader of a session of its own, so that all it started can be signalled, and ends with the actor's
process, however that ends. Programs that it starts and that call ``init`` join the runtime of this node, and work in
the environment of the actor (``joining.submitted_job``).
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from obsray.core.runtime.environments import import_path
from obsray.core.runtime.joining import SUBMITTED_JOB, VARIABLES
from obsray.core.runtime.session import current_or_none
from obsray.core.runtime.zygote import THREAD_VARIABLES

#: Output travels in pieces of about this size, or sooner if no more comes.
PIECE_BYTES = 256 << 10
PIECE_SECONDS = 0.05

Told = bytes | dict[str, Any]


class Command:
    """An actor; ``stop`` may be called while ``run`` runs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False
        #: While it has time to end by itself.
        self._ending = False

    def run(self, entrypoint: str, metadata: dict[str, str], own: dict[str, bool]) -> Iterator[Told]:
        """First {"node": hex, "pid": int}, then what it prints, then {"exit_code": int} (negative: a signal).

        ``own``: "gpus": whether GPUs were reserved for it, and "threads": whether it says how many threads libraries
        use. Raises OSError if it cannot be started.
        """
        session = current_or_none()
        assert session is not None
        here = {"metadata": metadata, "environment": session.environments.inherited}
        variables = _variables(str(session.directory), json.dumps(here), import_path(session.place), own)
        command = [sys.executable, "-P", "-m", "obsray.job_submission.entry", str(os.getpid()), entrypoint]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=variables,
            start_new_session=True,
        ) as process:  # fmt: skip
            self._process = process
            try:
                if self._stopped:
                    _signal_all(process.pid, signal.SIGKILL)
                yield {"node": session.node_id.hex(), "pid": process.pid}
                yield from self._output(process)
            finally:
                _signal_all(process.pid, signal.SIGKILL)
        yield {"exit_code": process.returncode}

    def stop(self, seconds: float) -> None:
        """End the command: SIGTERM to all its processes, SIGKILL to those that are left after ``seconds``."""
        self._stopped = True
        process = self._process
        if process is None:
            return
        self._ending = True
        _signal_all(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while _is_any_left(process) and time.monotonic() < deadline:
            time.sleep(PIECE_SECONDS)
        _signal_all(process.pid, signal.SIGKILL)
        self._ending = False

    def _output(self, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        """What it prints, until it has ended; if it is being stopped, until all its processes have."""
        assert process.stdout is not None
        pipe, ended = process.stdout.fileno(), os.pidfd_open(process.pid)
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        poll.register(ended, select.POLLIN)
        piece, is_open, has_ended = b"", True, False
        try:
            while is_open:
                ready = {found for found, _ in poll.poll(PIECE_SECONDS * 1000 if piece or has_ended else None)}
                if ended in ready:
                    has_ended = True
                    poll.unregister(ended)
                    if not self._ending:
                        # Whatever it left running could go on printing for ever.
                        _signal_all(process.pid, signal.SIGKILL)
                if pipe in ready:
                    data = os.read(pipe, PIECE_BYTES)
                    piece, is_open = piece + data, bool(data)
                elif has_ended and not ready and not self._ending:
                    # Somebody outside its session holds the pipe.
                    is_open = False
                if piece and (not ready or not is_open or len(piece) >= PIECE_BYTES):
                    yield piece
                    piece = b""
            process.wait()
        finally:
            os.close(ended)


def _variables(session: str, submitted: str, path: list[str], own: dict[str, bool]) -> dict[str, str]:
    """The environment variables of the command: the worker's, but for what is true of workers only."""
    variables = dict(os.environ)
    if not own["gpus"]:
        # Nothing was reserved for it, which must not hide the GPUs of its tasks from it.
        variables.pop("CUDA_VISIBLE_DEVICES", None)
    if not own["threads"]:
        for name in THREAD_VARIABLES:
            variables.pop(name, None)
    before = [variables["PYTHONPATH"]] if variables.get("PYTHONPATH") else []
    search = [str(Path(sys.executable).parent), variables.get("PATH") or os.defpath]
    return {
        **variables,
        "PATH": os.pathsep.join(search),
        "PYTHONPATH": os.pathsep.join([*path, *before]),
        "PYTHONUNBUFFERED": "1",
        SUBMITTED_JOB: submitted,
        **dict.fromkeys(VARIABLES, session),
    }


def _signal_all(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return


def _is_any_left(leader: subprocess.Popen[bytes]) -> bool:
    # A leader that nobody has waited for would count as one of its session.
    leader.poll()
    try:
        os.killpg(leader.pid, 0)
    except ProcessLookupError:
        return False
    return True
