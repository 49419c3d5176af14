"""The autoscaler's process: ``python -m obsray.autoscaler.process --session-dir DIR``, beside the node of the head.

Asks the head's node what waits, decides, has the provider start and end nodes, records why. It ends with its node, and
is started again by it if it dies; nodes stay meanwhile.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from obsray.autoscaler import local
from obsray.autoscaler.demand import Provided, read_view
from obsray.autoscaler.machine import Action, Autoscaler, End, Leave, Start
from obsray.autoscaler.provider import ClusterFacts, Provider, provider_class
from obsray.autoscaler.settings import Settings, parse
from obsray.config import Config
from obsray.core.node.nursery import LIFELINE_FD, SETTINGS
from obsray.core.runtime.questions import ask
from obsray.errors import RaySystemError
from obsray.ids import MARK_BYTES, NODE_ID_BYTES, WORKER_ID_BYTES, worker_id
from obsray.telemetry import live_stacks, session_file
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Emitter, Ring, Silent

#: What has waited for less is not told: most of it gets a worker in that time.
WAITED_SECONDS = 0.3
#: The head's node may be busy; a look that cannot be had is left out.
ANSWER_SECONDS_MAX = 10.0

log = logging.getLogger("obsray.autoscaler")


class Process:
    """The loop around an ``Autoscaler``."""

    def __init__(self, session: Path, machine: Autoscaler, provider: Provider, interval_seconds: float) -> None:
        self.session = session
        self.machine = machine
        self.provider = provider
        self.interval_seconds = interval_seconds
        self.stopped = threading.Event()
        self._parent = os.getppid()
        self._silent = False
        #: Nodes that the provider would not even begin to start.
        self._refused: dict[bytes, Provided] = {}

    def run(self) -> None:
        """Look, decide, do, until told to end."""
        while not self.stopped.is_set() and os.getppid() == self._parent:
            try:
                self.look()
                self._silent = False
            except (OSError, RaySystemError) as error:
                # The node is busy, or about to end. What is not known is not decided.
                if not self._silent:
                    log.warning("the head's node does not say what waits: %r", error)
                self._silent = True
            except Exception:
                # Code of a user may be behind it. What could not be done now is tried at the next look.
                log.exception("a look failed")
            self.stopped.wait(self.interval_seconds)

    def look(self) -> None:
        """Once: ask, decide, do."""
        answer = ask(self.session, "demand", ANSWER_SECONDS_MAX, waited_seconds=WAITED_SECONDS)
        began = time.monotonic()
        provided = [*self.provider.nodes(), *self._refused.values()]
        actions = self.machine.look(began, time.time_ns(), read_view(answer), provided)
        self.machine.sample(began, time.time_ns(), time.monotonic() - began)
        for action in actions:
            try:
                self._do(action)
            except Exception:
                # One that fails must not keep the others from being done; the next looks show what it did not do.
                log.exception("%r failed", action)

    def _do(self, action: Action) -> None:
        match action:
            case Start(node, kind):
                log.info("start %s as a node of type %s", node.hex(), kind.name)
                try:
                    self.provider.launch(node, kind)
                except Exception as error:
                    # Code of a user may be behind it; whatever it is, it counts as a node that did not start.
                    log.exception("the provider does not start %s", node.hex())
                    self._refused[node] = Provided(node, kind.name, str(error) or type(error).__name__)
            case End(node):
                self._refused.pop(node, None)
                self.provider.terminate(node)
            case Leave(node, why):
                log.info("node %s shall leave: %s", node.hex(), why)
                try:
                    ask(self.session, "drain", node=node, reason=why, if_idle=True)
                except RaySystemError as error:
                    # It is gone already, or cannot be reached now: the next look shows.
                    log.info("node %s cannot be told to leave now: %s", node.hex(), error)


def provider_of(settings: Settings, cluster: ClusterFacts) -> Provider:
    """The provider that the settings name. Raises ValueError with a sentence if there is none such."""
    make = provider_class(settings)
    return local.LocalProvider(cluster, LIFELINE_FD) if make is None else make(settings.provider, cluster)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 ended in order, 1 cannot work."""
    parser = argparse.ArgumentParser(prog="python -m obsray.autoscaler.process")
    parser.add_argument("--session-dir", type=Path, required=True)
    session: Path = parser.parse_args(arguments).session_dir
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = Config.from_environment()
    facts = session_file.read(session)
    node = bytes.fromhex(facts.get("node") or "00" * NODE_ID_BYTES)
    me = worker_id(node, os.urandom(WORKER_ID_BYTES - MARK_BYTES))
    settings = parse(json.loads((session / SETTINGS).read_bytes()), SETTINGS)
    provider = provider_of(settings, ClusterFacts(session))
    emitter: Emitter = (
        Silent() if config.telemetry == "off" else Ring(session / "rings", me, ProcessKind.AUTOSCALER, node)
    )
    live_stacks.listen(session / "rings", me)
    machine = Autoscaler(settings, emitter, lambda: os.urandom(NODE_ID_BYTES))
    process = Process(session, machine, provider, config.autoscaler_interval_seconds)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stopped.set())
    try:
        process.run()
        provider.close()
    finally:
        emitter.close(time.time_ns())
    return 0


if __name__ == "__main__":
    sys.exit(main())
