"""What watches the GPUs of one node: ``python -m obsray.gpu_watch.process --session-dir DIR``, started by the node.

Samples them, waits for errors of the hardware meanwhile, and tells the node which GPU is not to be used, and when it is
well again (``obsray/gpu/health.py``). It ends with its node and is started again by it if it dies.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from obsray.config import Config
from obsray.core.runtime.questions import ask
from obsray.errors import RaySystemError
from obsray.gpu import nvml
from obsray.gpu.health import XIDS, Change, HealthRules, numbers_of
from obsray.gpu.nvml import Nvml, NvmlError
from obsray.gpu_watch.holders import Holders
from obsray.gpu_watch.sampler import ALL, Sampler, Watched
from obsray.ids import MARK_BYTES, WORKER_ID_BYTES, worker_id
from obsray.telemetry import session_file
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Emitter, Ring, Silent

#: Longest wait for an error of the hardware at a time; the end of the node is noticed in between.
WAIT_SECONDS_MAX = 0.2
#: How often the node's facts are looked for until they are there.
ANNOUNCED_SECONDS = 0.05
#: A GPU that was lost may need the library begun anew to be seen again.
AGAIN_SECONDS = 30.0

log = logging.getLogger("obsray.gpu-watch")


class Process:
    """The loop: wait for errors, look, tell."""

    def __init__(self, session: Path, config: Config, emitter: Emitter, node: bytes) -> None:
        self.session = session
        self.config = config
        self.emitter = emitter
        self.stopped = False
        self._parent = os.getppid()
        facts: list[dict[str, Any]] = session_file.read(session).get("gpus") or []
        gpus = [Watched(each["gpu"], each["uuid"]) for each in facts if each["uuid"]]
        self.sampler = Sampler(node, gpus, Holders(session / "rings"), emitter)
        self.rules = HealthRules(numbers_of(config.gpu_xids_fatal), config.gpu_recovery_seconds)
        self._events: Any = None
        self._begun_at = -AGAIN_SECONDS
        #: What the node has not been told yet, by GPU.
        self._untold: dict[int, Change] = {}
        self._asked = False

    def run(self) -> None:
        """Look until told to end."""
        next_at = time.monotonic()
        while not self.stopped and os.getppid() == self._parent:
            now = time.monotonic()
            if now >= next_at:
                next_at = max(next_at + self.config.sample_interval_seconds, now)
                self.look(now)
            self._wait(min(WAIT_SECONDS_MAX, max(0.0, next_at - time.monotonic())))
        self._leave()

    # --- the library ------------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> Nvml | None:
        """The library; begun anew now and then while a GPU is out of service."""
        current = self.sampler.nvml
        out = any(self.rules.is_out(gpu.number) for gpu in self.sampler.gpus)
        if (current is not None and not out) or now - self._begun_at < AGAIN_SECONDS:
            return current
        self._begun_at = now
        self._leave()
        found = nvml.load(self.config.nvml_library)
        if found is None:
            self.sampler.fail(time.time_ns(), ALL, "library", f"{self.config.nvml_library} cannot be used any more")
            return None
        self.sampler.begin(found)
        self._events = self._watch(found)
        return found

    def _watch(self, found: Nvml) -> Any:
        handles: list[Any] = []
        for gpu in self.sampler.gpus:
            try:
                gpu.handle = found.handle_of(gpu.uuid)
                gpu.whole = found.whole(gpu.handle)
            except NvmlError:
                continue  # the next look says so
            if all(gpu.whole.value != other.value for other in handles):
                handles.append(gpu.whole)
        try:
            return found.watch(handles) if handles else None
        except NvmlError as error:
            self.sampler.fail(time.time_ns(), ALL, "errors (Xid)", str(error))
            return None

    def _leave(self) -> None:
        current, self.sampler.nvml, self._events = self.sampler.nvml, None, None
        if current is not None:
            try:
                current.close()
            except NvmlError:
                pass  # nothing more is asked of it

    # --- looking ----------------------------------------------------------------------------------------------------

    def look(self, now: float) -> None:
        """Once: sample all, and tell the node what changed."""
        if not self._asked:
            self._learn(now)
        if self._begin(now) is None:
            return
        self.sampler.holders.look()
        for gpu in self.sampler.gpus:
            trouble = self.sampler.look(time.time_ns(), gpu, self.rules.is_out(gpu.number))
            self._changed(self.rules.looked(now, gpu.number, trouble))
        self._tell()

    def _wait(self, seconds: float) -> None:
        """Until the next look, or an error of the hardware."""
        found, events = self.sampler.nvml, self._events
        if found is None or events is None:
            time.sleep(seconds)
            return
        try:
            error = found.wait(events, int(seconds * 1000))
        except NvmlError as failure:
            self._events = None
            self.sampler.fail(time.time_ns(), ALL, "errors (Xid)", str(failure))
            return
        if error is None:
            return
        device, number = error
        for gpu in self.sampler.gpus:
            if gpu.whole is not None and gpu.whole.value == device:
                log.warning("GPU %d: Xid %d: %s", gpu.number, number, XIDS.get(number, "see NVIDIA's list"))
                self._changed(self.rules.xid(time.monotonic(), gpu.number, number))
        self._tell()

    # --- telling ----------------------------------------------------------------------------------------------------

    def _learn(self, now: float) -> None:
        """What the node has out of service already, from an earlier watch."""
        try:
            known = ask(self.session, "gpus")
        except (OSError, RaySystemError):
            return  # it is busy, or about to end; asked again at the next look
        self._asked = True
        for each in known:
            if each["state"] == "OUT_OF_SERVICE":
                self.rules.known_out(now, each["gpu"])

    def _changed(self, change: Change | None) -> None:
        if change is not None:
            said = "in service again" if change.healthy else f"out of service: {change.reason}"
            log.warning("GPU %d is %s", change.gpu, said)
            self._untold[change.gpu] = change

    def _tell(self) -> None:
        for gpu, change in list(self._untold.items()):
            facts: dict[str, Any] = {"gpu": gpu, "healthy": change.healthy, "reason": change.reason, "xid": change.xid}
            try:
                ask(self.session, "gpu_health", **facts)
            except (OSError, RaySystemError) as error:
                log.warning("the node cannot be told now: %r", error)
                return
            del self._untold[gpu]


def announced(session: Path) -> dict[str, Any] | None:
    """What the node has written down of itself and its GPUs. It starts this process while it still joins its cluster,
    so it may take a while; None if the node ends before."""
    parent = os.getppid()
    while not (found := session_file.read(session)).get("node"):
        if os.getppid() != parent:
            return None
        time.sleep(ANNOUNCED_SECONDS)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 ended in order, 1 cannot work."""
    parser = argparse.ArgumentParser(prog="python -m obsray.gpu_watch.process")
    parser.add_argument("--session-dir", type=Path, required=True)
    session: Path = parser.parse_args(arguments).session_dir
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = Config.from_environment()
    told = announced(session)
    if told is None:
        return 0
    node = bytes.fromhex(told["node"])
    me = worker_id(node, os.urandom(WORKER_ID_BYTES - MARK_BYTES))
    emitter: Emitter = (
        Silent() if config.telemetry == "off" else Ring(session / "rings", me, ProcessKind.GPU_WATCH, node)
    )
    process = Process(session, config, emitter, node)

    def stop(*_: Any) -> None:
        process.stopped = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        process.run()
    finally:
        emitter.close(time.time_ns())
    return 0


if __name__ == "__main__":
    sys.exit(main())
