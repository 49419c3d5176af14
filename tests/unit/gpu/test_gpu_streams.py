"""From a worker's raw buffers to stored events, whatever ends in between."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from obsray.gpu import chunks
from obsray.gpu.capture import Capture
from obsray.gpu.words import Attribution, Level
from obsray.telemetry.collector import Collector
from obsray.telemetry.columns import Columns
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.gpu_streams import demangled, stream_id
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store, joined
from obsray.telemetry.views import Views
from tests.unit.gpu.captures import STEPS, buffers, parsed, run, task
from tests.unit.gpu.fake_cupti import FakeCupti

WORKER = bytes.fromhex("00112233445566aa")
NAMES = {int(pointer, 16): text for pointer, text in run("step")["kernel_names"].items()}


@pytest.fixture
def session(tmp_path: Path) -> Path:
    for name in ("rings", "telemetry"):
        (tmp_path / name).mkdir()
    return tmp_path


class Worker:
    """A worker that trains: its ring, its capture, and the recorded run played back."""

    def __init__(self, session: Path) -> None:
        self.ring = Ring(session / "rings", WORKER, ProcessKind.WORKER)
        self.library = FakeCupti()
        self.capture = Capture(
            self.library, Level.KERNELS, session / "rings", WORKER, self.ring, (3,), 64 << 20, 0.25, 0.1
        )
        self.function = self.ring.intern("train")

    def marks(self, ended: int = STEPS) -> None:
        """The steps as tasks; those from ``ended`` on have not ended."""
        writer = self.capture._writer
        assert writer is not None
        for number, one in enumerate(run("step")["tasks"]):
            end = one["end_ns"] if number < ended else 0
            mark = (one["external_id"], one["start_ns"], end, 555987264, 0, 0, self.function, 0, task(number))
            writer.write(chunks.MARKS, chunks.MARK.pack(*mark))

    def buffer(self, number: int) -> None:
        writer = self.capture._writer
        assert writer is not None
        entries = [chunks.name_entry(chunks.KERNEL_NAMES, key, text.encode()) for key, text in NAMES.items()]
        writer.write(chunks.NAMES, b"".join(entries))
        tasks = run("step")["tasks"]
        writer.write(chunks.BUFFER, buffers("step")[number], tasks[0]["start_ns"], tasks[-1]["end_ns"])

    def close(self) -> None:
        self.capture.close()
        self.ring.close(time.time_ns())


def played(session: Path) -> None:
    worker = Worker(session)
    worker.marks()
    worker.buffer(0)
    worker.buffer(1)
    worker.close()


def collected(session: Path) -> Collector:
    collector = Collector(session, 1 << 30)
    while collector.poll():
        pass
    collector.flush()
    return collector


def kernels(session: Path) -> Columns:
    return joined(Store.open(session).select("gpu_kernel"), "gpu_kernel")


def test_every_kernel_is_stored_once_under_its_task_with_its_function_and_name(session: Path) -> None:
    played(session)
    collected(session).close()
    store = Store.open(session)
    found = joined(store.select("gpu_kernel"), "gpu_kernel")
    assert Counter(value.tobytes() for value in found["task"]) == {task(number): 132 for number in range(STEPS)}
    assert {store.texts[code] for code in np.unique(found["function"]).tolist()} == {"train"}
    names = {store.texts[code] for code in np.unique(found["kernel"]).tolist()}
    assert names == {demangled(name)[:1000] for name in NAMES.values()}
    assert set(found["gpu"].tolist()) == {3}, "the node's number, not the place in the worker's list"
    assert (found["attributed_by"] != Attribution.NONE).all()
    copies = joined(store.select("gpu_copy"), "gpu_copy")
    assert sum(any(value.tobytes()) for value in copies["task"]) == STEPS * 9
    assert not list((session / "rings").glob("*.gpu")), "what is stored is gone from the rings"


def test_what_was_written_before_a_kill_is_stored(session: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.unit.gpu.test_gpu_streams import Worker\n"
        "worker = Worker(Path(sys.argv[1])); worker.marks(ended=0); worker.buffer(0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run([sys.executable, "-c", code, str(session)], cwd=root, env=environment, check=False)
    assert ended.returncode == -9
    path = chunks.files(session / "rings", WORKER)[0]
    with open(path, "ab") as file:
        file.write(b"OGPU" + bytes(20))  # a chunk cut short
    collected(session).close()
    found = kernels(session)
    assert len(found) > 300
    assert not list((session / "rings").glob("*.gpu"))


def test_a_collector_that_takes_over_stores_nothing_twice_and_loses_nothing(session: Path) -> None:
    worker = Worker(session)
    worker.marks()
    worker.buffer(0)
    first = Collector(session, 1 << 30)
    first.poll()
    first.poll()
    first.flush()  # and it is killed
    before = len(kernels(session))
    assert before > 0, "a buffer that is old enough does not wait"
    worker.buffer(1)
    worker.close()
    collected(session).close()
    found = kernels(session)
    assert len(found) == STEPS * 132
    assert len(np.unique(found["sequence"])) == len(found)
    assert (found["attributed_by"] != Attribution.NONE).all()


def test_a_reader_that_follows_gets_each_record_once(session: Path) -> None:
    worker = Worker(session)
    worker.marks()
    collector = Collector(session, 1 << 30)
    store = Store.open(session)
    seen: list[Columns] = []
    store.add_fold(lambda batch: seen.extend([batch["gpu_kernel"]] if "gpu_kernel" in batch else []))
    for number in (0, 1):
        worker.buffer(number)
        collector.poll()
        store.refresh()
        collector.flush()
        store.refresh()
        store.refresh()
    worker.close()
    collector.poll()
    collector.close()
    store.refresh()
    assert sum(map(len, seen)) == STEPS * 132


def test_lost_records_are_in_the_ledger_and_the_books_balance(session: Path) -> None:
    worker = Worker(session)
    worker.marks()
    worker.capture._writer.lose(70)  # type: ignore[union-attr]
    worker.buffer(0)
    worker.close()
    collected(session).close()
    rings = {row["process"]: row for row in Views(Store.open(session)).ledger()["rings"]}
    row = rings[stream_id(WORKER).hex()]
    assert row["kind"] == "gpu_stream" and row["dropped"] == 70
    assert row["last_sequence"] == row["stored"] + row["gaps"] + row["dropped"]
    assert stream_id(stream_id(WORKER)) == WORKER


def test_records_that_cannot_be_read_or_have_no_times_are_counted(session: Path) -> None:
    worker = Worker(session)
    worker.marks()
    data = bytearray(buffers("step")[0])
    start = int(parsed("step")[0].kernels["start"][0])
    place = data.index(start.to_bytes(8, "little"))
    data[place : place + 24] = bytes(24)  # not ended when it was given back
    data[-40:-36] = b"\xff" * 4  # and the last record is none
    tasks = run("step")["tasks"]
    worker.capture._writer.write(chunks.BUFFER, bytes(data), tasks[0]["start_ns"], tasks[-1]["end_ns"])  # type: ignore[union-attr]
    worker.close()
    lost: list[Any] = []
    collector = Collector(session, 1 << 30)
    collector.gpu._lost = lambda *values: lost.append(values)
    collector.poll()
    collector.close()
    assert sorted((records, stage.name) for _, records, stage in lost) == [(1, "CUPTI"), (1, "READING")]
    rings = {row["process"]: row for row in Views(Store.open(session)).ledger()["rings"]}
    assert rings[stream_id(WORKER).hex()]["dropped"] == 2


def test_a_buffer_of_an_unknown_version_is_not_read_and_nothing_breaks(session: Path) -> None:
    worker = Worker(session)
    worker.marks()
    worker.capture._writer.version = 7  # type: ignore[union-attr]
    worker.buffer(0)
    worker.close()
    collected(session).close()
    assert len(kernels(session)) == 0


def test_files_of_a_worker_that_goes_on_are_deleted_as_they_are_stored(
    session: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "FILE_BYTES", 1000)
    worker = Worker(session)
    worker.marks()
    for _ in range(4):
        worker.buffer(0)
    assert len(chunks.files(session / "rings", WORKER)) >= 4
    collected(session)
    assert len(chunks.files(session / "rings", WORKER)) == 1
    worker.buffer(1)
    worker.close()
    collector = collected(session)
    collector.close()
    assert not chunks.files(session / "rings", WORKER)


def test_facts_are_plain_json(session: Path) -> None:
    Worker(session)
    first = chunks.read(chunks.files(session / "rings", WORKER)[0], 0)[0][0]
    assert json.loads(bytes(first.payload)) == {"devices": [3], "level": "kernels", "library": "/fake/libcupti.so"}


def test_names_of_cplusplus_are_shown_as_written() -> None:
    assert demangled("_Z3addiPf") == "add(int, float*)"
    assert demangled("ampere_sgemm_128x64_tn") == "ampere_sgemm_128x64_tn"
    assert demangled("_Znonsense") == "_Znonsense"


def test_cut_and_damaged_files_become_no_work_that_never_was(session: Path) -> None:
    """All the way to stored events: what is read of hurt files are the kernels that ran, but for the bytes that were
    changed, and the collector goes on."""
    whole = session / "whole"
    for name in ("rings", "telemetry"):
        (whole / name).mkdir(parents=True)
    played(whole)
    collected(whole).close()
    starts = kernels(whole)["time_ns"].tolist()
    chance, totals = random.Random(5), []
    for number in range(12):
        hurt = session / str(number)
        for name in ("rings", "telemetry"):
            (hurt / name).mkdir(parents=True)
        played(hurt)
        path = chunks.files(hurt / "rings", WORKER)[0]
        data = bytearray(path.read_bytes())
        if number % 2:
            data = data[: chance.randrange(len(data))]
        damaged = 0 if number % 2 else chance.randrange(1, 30)
        for _ in range(damaged):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(bytes(data))
        collected(hurt).close()
        found = kernels(hurt)["time_ns"].tolist()
        assert len(set(found) - set(starts)) <= damaged and len(found) <= len(starts), f"session {number}"
        assert len(set(found)) == len(found) or damaged, "none of them twice"
        totals.append(len(found))
    assert max(totals) > 0, "some of them is read"
