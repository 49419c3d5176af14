"""What a reader of a long session has folded, kept in the session's directory for the next one.

``KeptViews(directory)`` are the views of a session as ``Views(Store.open(directory))``, sooner. ``keep`` writes down
what they had to fold themselves, which takes half as long as folding it: whoever asks has the answer before. A snapshot
counts only if the same code made it, its checksums are right and nothing that it was made of has been deleted since;
otherwise it is as if there were none. Writers of records have nothing to do with it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from obsray.telemetry import frozen
from obsray.telemetry.rings import RingState
from obsray.telemetry.segments import SNAPSHOT
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.version import VERSION

#: The file, in the directory of the session.
NAME = SNAPSHOT
#: Fewer records than these are folded in a part of a second.
RECORDS_MIN = 300_000
#: A snapshot is written anew when so large a part of the records is not in it.
STALE_SHARE = 0.2
#: A larger snapshot is not kept, nor one that leaves less than so many times its size free on the disk, nor one with
#: which the session would be larger than its telemetry may be.
BYTES_MAX = 512 << 20
_FREE_TIMES = 4
#: After this a writer is taken for dead.
_WRITING_SECONDS = 60.0
#: Tables, by their names in ``Views``.
TABLES = (
    "task_table", "object_table", "process_table", "actor_table", "cluster_table", "lease_table", "group_table",
    "environment_table", "collective_table", "concurrency_table", "gpu_table", "gpus_table", "fault_table",
    "scaling_table", "log_table", "halt_table", "samples",
)  # fmt: skip

log = logging.getLogger("obsray.telemetry")


class KeptViews(Views):
    """The views of a session that goes on where an earlier reader had come to, and keeps what it had to fold itself.

    Raises FileNotFoundError if there is no such session.
    """

    def __init__(self, directory: Path | str) -> None:
        super().__init__(Store.open(directory))
        self._known = load(self)
        self._first = True
        #: How many records a snapshot would stand for that is worth keeping; 0: none is.
        self.unkept = 0

    def refresh(self) -> int:
        """Fold what is new; returns how many records that were."""
        count = super().refresh()
        # Once: who follows a session that lives need not write it down again and again.
        if self._first and count >= max(RECORDS_MIN, STALE_SHARE * (self._known + count)):
            self.unkept = self._known + count
        elif self.unkept:
            self.unkept += count
        self._first = False
        return count

    def keep(self) -> None:
        """Write down what was folded, if that was much and has not been written yet."""
        if self.unkept:
            save(self, self.unkept)
            self.unkept = 0

    def release(self) -> None:
        """Nobody has asked for a while: what was folded is kept, what questions have brought into memory leaves it."""
        self.keep()
        super().release()


def load(views: Views) -> int:
    """Fill fresh views with what was kept; returns how many records that stands for, 0 if there is nothing."""
    path, store = views.store.session_dir / NAME, views.store
    try:
        data = memoryview(path.read_bytes())
        facts, head = frozen.facts_of(data)
        if not _fits(facts, store):
            return 0
        rings = {process: RingState.from_json(process, state) for process, state in facts["rings"].items()}
        frozen.thaw(head, data, _tables(views), store.texts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not isinstance(error, FileNotFoundError):
            log.info("what was folded of %s is read anew: %s", store.session_dir.name, error)
        return 0
    store.go_on(facts["rows"], rings)
    return int(facts["records"])


def save(views: Views, records: int) -> bool:
    """Keep what views have folded, as of their last ``refresh``; False if it is not kept."""
    store = views.store
    path = store.session_dir / NAME
    temporary = path.with_name(f"{NAME}.new")
    try:
        rows, rings = store.come_to()
        facts = {
            "code": code(), "folded_rows": store.catalog.folded_rows, "records": records, "rows": rows,
            "rings": {state.process.hex(): state.to_json() for state in rings},
            "started_at_ns": store.session().get("started_at_ns"),
        }  # fmt: skip
        pieces = frozen.freeze(_tables(views), store.texts, facts)
        size = sum(memoryview(piece).nbytes for piece in pieces)
        if (
            size > BYTES_MAX
            or not _in_bound(store, size)
            or shutil.disk_usage(store.session_dir).free < _FREE_TIMES * size
        ):
            return False
        _forget_the_dead(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except (OSError, frozen.Unfreezable) as error:
        # The answer is there without it.
        log.info("what was folded of %s is not kept: %s", store.session_dir.name, error)
        return False
    try:
        with open(descriptor, "wb") as file:
            file.writelines(pieces)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        log.info("what was folded of %s is not kept: %s", store.session_dir.name, error)
        return False
    return True


@functools.cache
def code() -> str:
    """What made a snapshot: this version, and what its modules say."""
    found = hashlib.blake2b(VERSION.encode(), digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _tables(views: Views) -> dict[str, Any]:
    return {name: getattr(views, name) for name in TABLES}


def _fits(facts: dict[str, Any], store: Store) -> bool:
    """Whether it was made by this code, of what is still there."""
    if facts["code"] != code() or facts["started_at_ns"] != store.session().get("started_at_ns"):
        return False
    store.catalog.refresh()
    if facts["folded_rows"] != store.catalog.folded_rows:
        return False
    stored = store.catalog.stored()
    return all(rows <= stored.get(event, 0) for event, rows in facts["rows"].items())


def _in_bound(store: Store, size: int) -> bool:
    bound = store.catalog.bytes_max
    return not bound or store.catalog.bytes + size <= bound


def _forget_the_dead(temporary: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if time.time() - temporary.stat().st_mtime > _WRITING_SECONDS:
            temporary.unlink()
