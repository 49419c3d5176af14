"""Shell: the life of a worker process, from the fork to its exit."""

from __future__ import annotations

import atexit
import faulthandler
import os
import sys
from pathlib import Path
from typing import Any

from obsray.config import Config
from obsray.core.runtime.environments import enter
from obsray.core.runtime.executor import Executor
from obsray.core.runtime.log_follower import claim_output
from obsray.core.runtime.output import Streams
from obsray.core.runtime.session import Session, set_before_joining, set_current
from obsray.core.runtime.submission import Submission
from obsray.core.runtime.termination import die
from obsray.core.system.title import Title
from obsray.errors import LocalRayletDiedError
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import prepare

# Here, because this module is imported once by the process that all workers are forked from.
prepare()


def main(session_dir: str, worker_id: bytes, place: dict[str, Any]) -> None:
    """Join the runtime of ``session_dir`` as worker ``worker_id`` and serve until told to exit.

    ``place``: what the node has prepared for this process, {} for nothing special.
    """
    # Code that crashes the process leaves its stack in the log, and so in the error that its caller gets.
    faulthandler.enable(file=2, all_threads=False)
    if place:
        claim_output(Path(session_dir), worker_id, place.get("job") or 0)
        set_before_joining(True)
        enter(place)
        set_before_joining(False)
    try:
        session = Session(Path(session_dir), worker_id, ProcessKind.WORKER, Config.from_environment())
    except (OSError, LocalRayletDiedError):
        if (Path(session_dir) / "sockets" / "node.sock").exists():
            raise
        # The runtime ended before this process could join it.
        return
    set_current(session)
    session.place = place
    session.environments.inherited = dict(place.get("description") or {})
    # What breakpoint() calls: nobody types into a worker, so it waits for `obsray debug`.
    os.environ.setdefault("PYTHONBREAKPOINT", "obsray.util.pdb.set_trace")
    Submission(session)
    executor = Executor(session)
    executor.hide_devices()
    executor.title = Title().show
    executor.show_title()
    if session.config.telemetry != "off":
        executor.output = Streams(executor)
    session.start()
    try:
        executor.run()
        executor.termination.ending = True
        # What user code registered; it may still use the runtime.
        atexit._run_exitfuncs()
    finally:
        executor.close_capture()
        session.close()
    if executor.termination.asked:
        die()
    # Threads of user code must not keep a process alive that nobody can reach any more.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
