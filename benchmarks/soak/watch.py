"""What is measured while it runs, and what must hold of it at the end."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks.quiet import OTHERS_MAX, Quiet
from benchmarks.soak.faults import service
from obsray.cluster_utils import Cluster
from obsray.core.api import session
from obsray.telemetry import session_file

SAMPLE_SECONDS = 1.0
BOOKS_SECONDS = 30.0
#: Of the first fifth's throughput, the last one has at least this share.
THROUGHPUT_MIN = 0.9
#: What others leave of the processors counts as this much at least.
LEFT_MIN = 0.2
#: A process may hold so much more at the end than after the first fifth, whichever is more.
RSS_GROWTH_MAX, RSS_GROWTH_BYTES_MAX = 0.15, 32 << 20
DESCRIPTORS_MORE_MAX = 16
#: Nothing is held between two rounds.
STORE_BYTES_LEFT_MAX = 1 << 20


@dataclass
class Sample:
    """One look. ``done``: operations so far. By role of the process: bytes and open files."""

    at: float
    done: int
    rss_bytes: dict[str, int]
    descriptors: dict[str, int]
    shared_files: int
    store_bytes: int
    #: The share of the processors that others had since the last look.
    others: float = 0.0


@dataclass
class Finding:
    """One thing that must hold: what it is, what was found, whether that is well."""

    what: str
    found: str
    well: bool


@dataclass
class Watch:
    """Samples in the background. ``books``: what the records said, each time they were asked."""

    cluster: Cluster
    done: Callable[[], int]
    books_seconds: float = BOOKS_SECONDS
    samples: list[Sample] = field(default_factory=list)
    books: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._began = time.monotonic()
        self._quiet = Quiet()
        # The first time it reads everything: that must be over before memory is compared.
        self._books_at = 0.0
        self._thread = threading.Thread(target=self._run, name="soak-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Enough."""
        self._over.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.samples.append(self._look())
            if self.samples[-1].at >= self._books_at:
                self._books_at = self.samples[-1].at + self.books_seconds
                self.read_books()

    def _look(self) -> Sample:
        rss, descriptors = dict[str, int](), dict[str, int]()
        head = self.cluster.head_node
        assert head is not None
        for role, process in (
            ("program", psutil.Process()), ("head node", psutil.Process(head.pid)),
            ("control store", service(head, "control")), ("collector", service(head, "collector")),
            ("dashboard", service(head, "dashboard")),
        ):  # fmt: skip
            try:
                if process is not None:
                    rss[role], descriptors[role] = process.memory_info().rss, process.num_fds()
            except psutil.Error:
                continue
        shared = sum("obsray" in name for name in os.listdir("/dev/shm"))
        store = session().request("store")
        others, self._quiet = self._quiet.others(), Quiet()
        return Sample(
            time.monotonic() - self._began,
            self.done(),
            rss,
            descriptors,
            shared,
            int(store.get("used_bytes", 0)),
            others,
        )

    def read_books(self) -> dict[str, Any]:
        """What the records say now: lost events, and tasks submitted against what became of them.

        The dashboard is asked, which reads what is new; a command would read everything from the beginning each time.
        """
        head = self.cluster.head_node
        assert head is not None
        directory = Path(head.session_dir)
        book: dict[str, Any]
        try:
            address = f"{session_file.read(directory)['dashboard_url']}/api/v1/ledger"
            token = (directory / "token").read_bytes().hex()
            asked = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(asked, timeout=120) as answer:
                ledger = json.load(answer)
            book = {**ledger["totals"], **ledger["tasks"]}
        except (OSError, KeyError, ValueError) as error:
            book = {"error": repr(error)}
        self.books.append(book)
        return book

    # --- at the end -------------------------------------------------------------------------------------------

    def fifths(self) -> list[list[Sample]]:
        """The samples in five parts of the time."""
        total = self.samples[-1].at if self.samples else 0.0
        parts: list[list[Sample]] = [[] for _ in range(5)]
        for sample in self.samples:
            parts[min(4, int(5 * sample.at / total))].append(sample)
        return parts

    def rates(self) -> list[float]:
        """Operations a second in each fifth."""
        found, before = [], Sample(0.0, 0, {}, {}, 0, 0)
        for part in self.fifths():
            last = part[-1] if part else before
            found.append((last.done - before.done) / max(1e-9, last.at - before.at))
            before = last
        return found

    def others(self) -> list[float]:
        """The share of the processors that others had in each fifth."""
        return [sum(each.others for each in part) / max(1, len(part)) for part in self.fifths()]

    def findings(self) -> list[Finding]:
        """Everything that must hold."""
        rates, parts, others = self.rates(), self.fifths(), self.others()
        # On a machine that is shared: of the processors that others have left.
        ratio = rates[4] / max(1e-9, rates[0]) * max(LEFT_MIN, 1 - others[0]) / max(LEFT_MIN, 1 - others[4])
        taken = f", others had {' '.join(f'{share:.0%}' for share in others)}" if max(others) > OTHERS_MAX else ""
        found = [
            Finding(
                f"throughput of the last fifth, at least {THROUGHPUT_MIN:.0%} of the first",
                f"{' '.join(f'{rate:.0f}' for rate in rates)} operations/s{taken}: {ratio:.0%}",
                ratio >= THROUGHPUT_MIN,
            )
        ]
        for role in sorted({role for sample in self.samples for role in sample.rss_bytes}):
            early, late = (_median([each.rss_bytes.get(role) for each in part]) for part in (parts[1], parts[4]))
            well = late - early <= max(RSS_GROWTH_BYTES_MAX, RSS_GROWTH_MAX * early)
            found.append(
                Finding(f"memory of the {role}", f"{early / 1e6:.0f} MB, at the end {late / 1e6:.0f} MB", well)
            )
            early, late = (_median([each.descriptors.get(role) for each in part]) for part in (parts[1], parts[4]))
            well = late - early <= DESCRIPTORS_MORE_MAX
            found.append(Finding(f"open files of the {role}", f"{early:.0f}, then {late:.0f}", well))
        early, late = (_median([each.shared_files for each in part]) for part in (parts[1], parts[4]))
        found.append(Finding("files in shared memory", f"{early:.0f}, then {late:.0f}", late <= early))
        least = min((sample.store_bytes for sample in parts[4]), default=0)
        found.append(
            Finding("objects left in the store", f"{least / 1e6:.1f} MB at the least", least <= STORE_BYTES_LEFT_MAX)
        )
        lost = [book.get("events_lost", -1) for book in self.books]
        found.append(Finding("events lost", f"{max(lost, default=-1)}", bool(lost) and not any(lost)))
        uneven = [book for book in self.books if not book.get("balance_ok")]
        found.append(
            Finding(
                "submitted = finished + failed + cancelled + pending",
                f"{len(self.books) - len(uneven)} of {len(self.books)} times" + (f": {uneven[0]}" if uneven else ""),
                bool(self.books) and not uneven,
            )
        )
        return found


def _median(values: list[int | None]) -> float:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else 0.0


def write(path: Path, watch: Watch, findings: list[Finding], facts: dict[str, Any]) -> None:
    """Everything as JSON, for whoever wants to draw it."""
    path.write_text(
        json.dumps(
            {
                **facts,
                "rates": watch.rates(),
                "findings": [vars(finding) for finding in findings],
                "samples": [vars(sample) for sample in watch.samples],
                "books": watch.books,
            },
            indent=1,
        )
    )
