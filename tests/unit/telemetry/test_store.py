"""What was recorded is what a reader gets: from the rings, from the store, and while one becomes the other."""

from __future__ import annotations

import os
import random
import time

import numpy as np
import pyarrow as pa
import pytest

from obsray.telemetry import segments, session_file
from obsray.telemetry import store as store_module
from obsray.telemetry.collector import Collector, own_ring
from obsray.telemetry.events import BY_NAME, ProcessKind
from obsray.telemetry.segments import Catalog, SegmentWriter, ahead
from obsray.telemetry.spine import SEGMENT_RECORDS
from obsray.telemetry.store import Store, find_session
from obsray.telemetry.views import Views
from tests.unit.telemetry.recording import Emitted, emit_many, open_ring


@pytest.fixture
def chance():
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    return random.Random(seed)


def merged(*emitted: Emitted) -> Emitted:
    found: Emitted = {}
    for one in emitted:
        for name, rows in one.items():
            found.setdefault(name, []).extend(rows)
    return found


def assert_same(store: Store, emitted: Emitted) -> None:
    for name, rows in emitted.items():
        table = store.events(name)
        found = {(row["process"], row["sequence"]): row for row in table.to_pylist()}
        assert len(found) == table.num_rows, f"{name} has a record twice"
        for row in rows:
            assert found[row["process"], row["sequence"]] == row


class Counter:
    """A fold that counts what it is given."""

    def __init__(self) -> None:
        self.seen: set[tuple[bytes, int]] = set()
        self.count = 0

    def __call__(self, batch) -> None:
        for columns in batch.values():
            self.count += len(columns)
            self.seen |= {(p.tobytes(), int(s)) for p, s in zip(columns["process"], columns["sequence"], strict=True)}


def test_every_kind_comes_back_as_it_was_emitted_from_ring_and_store(tmp_path, chance):
    rings = [open_ring(tmp_path, chance) for _ in range(3)]
    emitted = merged(*(emit_many(ring, 1000, chance) for ring in rings))
    assert set(emitted) == set(BY_NAME), "every kind was tried"
    assert_same(Store.open(tmp_path), emitted)
    collector = Collector(tmp_path, 1 << 30)
    collector.poll()
    collector.flush()
    emitted = merged(emitted, *(emit_many(ring, 500, chance) for ring in rings))
    assert_same(Store.open(tmp_path), emitted)  # half stored, half in the rings
    collector.close()
    assert_same(Store.open(tmp_path), emitted)


def test_a_live_reader_gets_each_record_once_however_reading_and_storing_interleave(tmp_path, chance):
    rings = [open_ring(tmp_path, chance) for _ in range(2)]
    collector, store, late = Collector(tmp_path, 1 << 30), Store.open(tmp_path), Store.open(tmp_path)
    fold, late_fold = Counter(), Counter()
    store.add_fold(fold)
    total = 2
    for _ in range(60):
        act = chance.randrange(5)
        if act < 2:
            count = chance.randrange(1, 400)
            emit_many(chance.choice(rings), count, chance)
            total += count
        elif act == 2:
            collector.poll()
        elif act == 3:
            collector.flush()
        else:
            store.refresh()
    store.refresh()
    late.refresh()
    late.add_fold(late_fold)
    assert (fold.count, len(fold.seen)) == (total, total)
    assert (late_fold.count, len(late_fold.seen)) == (total, total)


def test_a_reader_that_was_away_while_rings_were_deleted_misses_nothing(tmp_path, chance):
    ring = open_ring(tmp_path, chance)
    collector, store, fold = Collector(tmp_path, 1 << 30), Store.open(tmp_path), Counter()
    store.add_fold(fold)
    store.refresh()
    for round_ in range(3):
        for number in range(2 * SEGMENT_RECORDS):
            ring.user_mark(number + 1, bytes(16), 0, 0)
        while collector.poll():
            pass
        collector.flush()
        if round_ != 1:
            store.refresh()
    assert len(list((tmp_path / "rings").glob("*.ring"))) <= 2
    assert fold.count == len(fold.seen) == 6 * SEGMENT_RECORDS + 1


def overtake(
    store: Store, collector: Collector, ring, monkeypatch, times: int, records: int = 2 * SEGMENT_RECORDS
) -> list[int]:
    """Each time the reader has looked at what is stored, the collector stores and deletes all that there is, and so
    many records more: the first ``times`` times. Returns the marks, one for each record emitted."""
    marks: list[int] = []
    look, left = store.catalog.refresh, [times]

    def looked() -> bool:
        found = look()
        if left[0]:
            left[0] -= 1
            for _ in range(records):
                marks.append(len(marks) + 1)
                ring.user_mark(marks[-1], bytes(16), 0, 0)
            while collector.poll():
                pass
            collector.flush()
        return found

    monkeypatch.setattr(store.catalog, "refresh", looked)
    return marks


@pytest.mark.parametrize(
    "records", [SEGMENT_RECORDS // 3, SEGMENT_RECORDS - 1, SEGMENT_RECORDS + SEGMENT_RECORDS // 2, 2 * SEGMENT_RECORDS]
)
def test_a_reader_that_the_collector_overtakes_again_and_again_passes_over_nothing(
    tmp_path, chance, monkeypatch, records
):
    ring = open_ring(tmp_path, chance)
    collector, store, fold = Collector(tmp_path, 1 << 30), Store.open(tmp_path), Counter()
    store.add_fold(fold)
    store.refresh()
    marks = overtake(store, collector, ring, monkeypatch, times=12, records=records)
    while store.refresh():
        pass
    assert fold.count == len(fold.seen) == len(marks) + 1
    state = store.rings.readers[ring.process].state
    assert (state.gaps, state.dropped, state.position) == (0, 0, len(marks) + 1)


def test_a_question_that_the_collector_overtakes_is_answered_whole(tmp_path, chance, monkeypatch):
    ring = open_ring(tmp_path, chance)
    collector, store = Collector(tmp_path, 1 << 30), Store.open(tmp_path)
    marks = overtake(store, collector, ring, monkeypatch, times=7)
    for _ in range(4):  # each asks twice what is stored
        seen = store.events("user_mark")["time_ns"].to_pylist()
        assert seen == list(range(1, len(seen) + 1)) and len(seen) >= len(marks) - 2 * SEGMENT_RECORDS
    found = store.mentions({"user_mark": lambda columns: columns["time_ns"] > len(marks) - 100}, limit=200)
    assert [row["time_ns"] for row in found] == marks[-100:]
    ((_, records),) = [part for part in store.records(["user_mark"]) if part[0] == "user_mark"][-1:]
    assert records["time_ns"][-1].as_py() == marks[-1]


def test_a_ring_that_goes_between_looking_and_reading_is_read_from_what_is_stored(tmp_path, chance, monkeypatch):
    """A process ends, all of it is stored and its files are deleted, while somebody reads for the only time."""
    ring = open_ring(tmp_path, chance)
    collector, store, fold = Collector(tmp_path, 1 << 30), Store.open(tmp_path), Counter()
    emit_many(ring, 100, chance)
    store.add_fold(fold)
    look, ended = store.catalog.refresh, []

    def looked() -> bool:
        found = look()
        if not ended:
            ended.append(ring.close(2_000_000_000))
            collector.close()
        return found

    monkeypatch.setattr(store.catalog, "refresh", looked)
    store.refresh()
    assert not list((tmp_path / "rings").glob("*.ring"))
    assert fold.count == len(fold.seen) == 102
    store.refresh()
    assert fold.count == 102 and not store.rings.missing


def test_a_ring_file_that_somebody_else_deleted_is_counted(tmp_path, chance):
    ring = open_ring(tmp_path, chance)
    store, fold = Store.open(tmp_path), Counter()
    store.add_fold(fold)
    store.refresh()
    for number in range(3 * SEGMENT_RECORDS):
        ring.user_mark(number + 1, bytes(16), 0, 0)
    sorted((tmp_path / "rings").glob("*.ring"))[1].unlink()
    store.refresh()
    assert store.rings.readers[ring.process].state.gaps == SEGMENT_RECORDS
    assert fold.count == len(fold.seen) == 2 * SEGMENT_RECORDS + 1


def test_streams_become_parquet_under_a_readers_eyes(tmp_path, chance, monkeypatch):
    monkeypatch.setattr(segments, "STREAM_BYTES_MAX", 20_000)
    ring = open_ring(tmp_path, chance)
    collector, store, fold = Collector(tmp_path, 1 << 30), Store.open(tmp_path), Counter()
    store.add_fold(fold)
    emitted: Emitted = {}
    for _ in range(12):
        emitted = merged(emitted, emit_many(ring, 2000, chance))
        collector.poll()
        collector.flush()
        store.refresh()
    files = [entry for entries in collector.writer.catalog.files.values() for entry in entries]
    assert any(entry.format == "parquet" for entry in files)
    assert fold.count == len(fold.seen) == 24_001
    assert_same(Store.open(tmp_path), emitted)
    names = {path.name for path in (tmp_path / "telemetry").rglob("*.arrows")}
    assert names == {entry.name.removeprefix("live/") for entry in files if entry.format == "stream"}


def test_a_torn_last_batch_and_a_torn_commit_are_ignored(tmp_path, chance):
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, 1 << 30)
    emitted = emit_many(ring, 300, chance)
    collector.poll()
    collector.flush()
    for path in (tmp_path / "telemetry" / "live").iterdir():
        with open(path, "ab") as file:
            file.write(chance.randbytes(100))
    for path in (tmp_path / "telemetry").glob("commits-*"):
        with open(path, "ab") as file:
            file.write(b'{"files": {"task_submitted": {"na')
    emitted = merged(emitted, emit_many(ring, 300, chance))
    assert_same(Store.open(tmp_path), emitted)


def test_a_collector_killed_between_batch_and_commit_is_replaced_without_loss(tmp_path, chance, monkeypatch):
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, 1 << 30)
    emitted = emit_many(ring, 300, chance)
    collector.poll()
    collector.flush()
    emitted = merged(emitted, emit_many(ring, 300, chance))
    collector.poll()
    collector.writer._write_pending()  # and here it is killed: nothing was committed
    second = Collector(tmp_path, 1 << 30)
    emitted = merged(emitted, emit_many(ring, 300, chance))
    second.close()
    assert_same(Store.open(tmp_path), emitted)
    store = Store.open(tmp_path)
    fold = Counter()
    store.add_fold(fold)
    store.refresh()
    assert fold.count == len(fold.seen) == 901


def test_what_is_stored_and_deleted_is_not_kept_open(tmp_path, chance, monkeypatch):
    monkeypatch.setattr("obsray.telemetry.rings.process_alive", lambda *facts: False)
    monkeypatch.setattr("obsray.telemetry.collector.DEAD_LINGER_SECONDS", -1.0)
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, 1 << 30)
    emit_many(ring, 100, chance)
    ring.close(2_000_000_000)
    for _ in range(3):
        collector.poll()
        collector.flush()
    assert not list((tmp_path / "rings").glob(f"{ring.process.hex()}*.ring"))
    assert collector.rings.reader(ring.process).files() == []


def test_a_fold_that_fails_is_left_out_and_storing_goes_on(tmp_path, chance, caplog):
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, 1 << 30)
    given = []

    def broken(batch):
        given.append(batch)
        raise ZeroDivisionError

    collector.folds.append(broken)
    emitted: Emitted = {}
    for _ in range(2):
        emitted = merged(emitted, emit_many(ring, 100, chance))
        collector.poll()
    collector.close()
    assert len(given) == 1
    assert "given no more records" in caplog.text
    assert_same(Store.open(tmp_path), emitted)


def test_a_full_disk_loses_nothing(tmp_path, chance, monkeypatch):
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, 1 << 30)
    emitted = emit_many(ring, 300, chance)
    collector.poll()
    collector.flush()
    emitted = merged(emitted, emit_many(ring, 300, chance))
    collector.poll()
    real = segments.to_arrow
    calls = []

    def full(columns, texts):
        calls.append(columns)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        return real(columns, texts)

    monkeypatch.setattr(segments, "to_arrow", full)
    with pytest.raises(OSError, match="No space"):
        collector.flush()
    emitted = merged(emitted, emit_many(ring, 300, chance))
    collector.poll()
    collector.flush()
    collector.close()
    assert_same(Store.open(tmp_path), emitted)
    fold, store = Counter(), Store.open(tmp_path)
    store.add_fold(fold)
    store.refresh()
    assert fold.count == len(fold.seen) == 901


@pytest.mark.parametrize("fits", [0, 10])
def test_a_commit_that_does_not_fit_counts_for_nothing_and_is_said_until_one_does(
    tmp_path, chance, monkeypatch, caplog, fits
):
    ring, own = open_ring(tmp_path, chance), open_ring(tmp_path, chance, ProcessKind.COLLECTOR)
    collector = Collector(tmp_path, 1 << 30, own)
    marks = 0

    def mark() -> None:
        nonlocal marks
        for _ in range(100):
            marks += 1
            ring.user_mark(marks, bytes(16), 0, 0)
        collector.poll()

    def seen() -> Views:
        """What a new reader finds: each mark once."""
        views = Views(Store.open(tmp_path))
        assert views.store.events("user_mark")["time_ns"].to_pylist() == list(range(1, marks + 1))
        return views

    mark()
    collector.flush()
    real, full = os.write, True

    def write(fd, data):
        if not full or fd != collector.writer._commits:
            return real(fd, data)
        if fits:
            return real(fd, data[:fits])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    for _ in range(3):
        mark()
        with pytest.raises(OSError, match="No space"):
            collector.flush()
        assert collector.failing_since and not collector.due()
        (told,) = seen().ledger()["collectors"]
        assert told["unstored_since_ns"] and told["unstored_why"] == "No space left on device"
    assert caplog.text.count("cannot store telemetry") == 1 and collector.store_errors == 3
    full = False
    collector.flush()
    assert not collector.failing_since
    collector.poll()
    collector.flush()
    (told,) = seen().ledger()["collectors"]
    assert told["unstored_since_ns"] is told["unstored_why"] is None
    # Whoever goes on where this one ends finds all that was committed, and nothing twice.
    again = Collector(tmp_path, 1 << 30)
    assert again.poll() == 0
    seen()


def test_the_oldest_files_are_folded_away_and_counted(tmp_path, chance, monkeypatch):
    monkeypatch.setattr(segments, "STREAM_BYTES_MAX", 1000)
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, bytes_max=150_000)
    for _ in range(4):
        emit_many(ring, 3000, chance)
        collector.poll()
        collector.flush()
        while collector.writer.compact():
            pass
    catalog = Catalog(tmp_path / "telemetry")
    catalog.refresh()
    assert catalog.folded_rows > 0
    held = sum(entry.rows for entries in catalog.files.values() for entry in entries)
    assert held + catalog.folded_rows == catalog.rings[ring.process.hex()].records
    fold, store = Counter(), Store.open(tmp_path)
    store.add_fold(fold)
    store.refresh()
    assert fold.count == len(fold.seen) == held


def test_the_manifest_says_which_sequences_each_file_holds(tmp_path, chance):
    rings = [open_ring(tmp_path, chance) for _ in range(2)]
    collector = Collector(tmp_path, 1 << 30)
    emitted = merged(*(emit_many(ring, 400, chance) for ring in rings))
    collector.close()
    catalog = Catalog(tmp_path / "telemetry")
    catalog.refresh()
    assert catalog.finished
    for name, rows in emitted.items():
        entry = catalog.files[name][0]
        for ring in rings:
            numbers = [row["sequence"] for row in rows if row["process"] == ring.process]
            if name in ("ring_opened", "ring_closed"):
                continue
            assert entry.rings.get(ring.process.hex(), []) == ([min(numbers), max(numbers)] if numbers else [])


def test_rings_go_once_everything_is_stored_but_not_while_their_writer_lives(tmp_path, chance):
    ring = open_ring(tmp_path, chance)
    for number in range(3 * SEGMENT_RECORDS):
        ring.user_mark(number + 1, bytes(16), 0, 0)
    collector = Collector(tmp_path, 1 << 30)
    while collector.poll():
        pass
    assert len(list((tmp_path / "rings").glob("*.ring"))) == 4
    collector.flush()
    assert len(list((tmp_path / "rings").glob("*.ring"))) == 1


def test_the_collector_records_itself_and_the_processes_of_the_session(tmp_path, chance):
    open_ring(tmp_path, chance, ProcessKind.DRIVER)
    collector = Collector(tmp_path, 1 << 30, own_ring(tmp_path, bytes(8)))
    collector.poll()
    collector.sample()
    collector.close()
    store = Store.open(tmp_path)
    samples = store.events("process_sample").to_pylist()
    assert {row["pid"] for row in samples} == {os.getpid()}
    assert all(row["rss_bytes"] > row["unique_bytes"] > 1 << 20 for row in samples)
    assert store.events("collector_sample").num_rows == 2
    assert not list((tmp_path / "rings").glob(f"{collector.ring.process.hex()}*.ring"))


def test_a_table_of_a_kind_nobody_recorded_is_empty_and_an_unknown_kind_is_an_error(tmp_path, chance):
    open_ring(tmp_path, chance)
    store = Store.open(tmp_path)
    assert store.events("node_stopped").num_rows == 0
    assert store.events("node_stopped").schema.names[:3] == ["time_ns", "process", "sequence"]
    with pytest.raises(KeyError):
        store.events("no_such_event")


def test_a_directory_that_is_no_session_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        Store.open(tmp_path)


def test_a_live_session_is_preferred_to_a_newer_dead_one(tmp_path, monkeypatch):
    monkeypatch.setattr(session_file, "root", lambda: tmp_path)
    for name, pid, started in (("s_1", os.getpid(), 1), ("s_2", (1 << 22) + 1, 2), ("s_0", (1 << 22) + 1, 0)):
        (tmp_path / name / "rings").mkdir(parents=True)
        session_file.update(tmp_path / name, node_pid=pid, started_at_ns=started)
    assert find_session().name == "s_1"
    assert find_session("s_0").name == "s_0"
    assert find_session(tmp_path / "s_2").name == "s_2"
    session_file.update(tmp_path / "s_1", stopped_at_ns=5)
    assert find_session().name == "s_2"
    with pytest.raises(FileNotFoundError, match="s_9"):
        find_session("s_9")


def test_facts_of_several_processes_are_kept_together(tmp_path):
    session_file.update(tmp_path, node_pid=1, metrics_url=None)
    session_file.update(tmp_path, metrics_url="http://127.0.0.1:1/metrics")
    assert session_file.read(tmp_path) == {"node_pid": 1, "metrics_url": "http://127.0.0.1:1/metrics"}
    assert (tmp_path / "session.json").stat().st_mode & 0o777 == 0o600


def test_a_stream_is_plain_arrow_that_any_reader_opens(tmp_path, chance):
    ring = open_ring(tmp_path, chance)
    emitted = emit_many(ring, 4000, chance)
    collector = Collector(tmp_path, 1 << 30)
    collector.close()
    path = next((tmp_path / "telemetry" / "live").glob("task_submitted.*"))
    table = pa.ipc.open_stream(path).read_all()
    assert table.num_rows == len(emitted["task_submitted"])


def test_one_id_is_found_among_the_stored_and_the_unstored(tmp_path, chance):
    ring = open_ring(tmp_path, chance)
    first = emit_many(ring, 1500, chance)["task_submitted"][0]
    collector = Collector(tmp_path, 1 << 30)
    collector.poll()
    collector.flush()
    last = emit_many(ring, 1500, chance)["task_submitted"][-1]
    store = Store.open(tmp_path)
    for row in (first, last):
        found = store.about("task_submitted", "task", row["task"])
        assert [record["sequence"] for record in found] == [row["sequence"]]


def test_what_was_read_of_files_is_not_read_again_and_is_the_same(tmp_path, chance, monkeypatch):
    """Streams that grow, streams that become Parquet under a reader's eyes, files that go: always as a new reader."""
    monkeypatch.setattr(segments, "STREAM_BYTES_MAX", 20_000)
    ring = open_ring(tmp_path, chance)
    collector, store = Collector(tmp_path, 400_000), Store.open(tmp_path)
    seen = set()
    for step in range(12):
        emit_many(ring, 600, chance)
        collector.poll()
        collector.flush()
        while step % 3 == 2 and collector.writer.compact():
            pass
        if step == 6:
            store._decoded._bytes_max = 20_000  # hardly anything is kept from now on
        fresh = Store.open(tmp_path)
        for name in ("task_ended", "user_mark", "object_created"):
            kept, new = (
                [row for part in each.select(name) for row in part.rows(each.texts)] for each in (store, fresh)
            )
            assert kept == new
            before = store._decoded.batches_read
            assert [row for part in store.select(name) for row in part.rows(store.texts)] == new
            assert store._decoded.bytes <= store._decoded._bytes_max
            if step < 6:
                assert store._decoded.batches_read == before
        store.refresh()
        seen |= {entry.format for entries in store.catalog.files.values() for entry in entries}
    assert seen == {"stream", "parquet"} and store.catalog.folded_rows > 0
    # An answer that was not read to its end is no answer to the next one.
    store._decoded._bytes_max = 1 << 20
    next(iter(store._all("task_ended")))
    assert sum(map(len, store.select("task_ended"))) == sum(map(len, Store.open(tmp_path).select("task_ended")))


def test_two_writers_never_share_a_file_name(tmp_path):
    texts = store_module.Texts()
    first = SegmentWriter(tmp_path, texts, 1 << 30)
    first.close([])
    second = SegmentWriter(tmp_path, texts, 1 << 30)
    assert second.catalog.generation > first.catalog.generation
    second.close([])


def test_a_million_records_pass_in_seconds(tmp_path, chance):
    """A bound that only a mistake breaks; the rate itself is printed and benchmarked elsewhere."""
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, 1 << 30)
    total, spent = 0, 0.0
    task = np.arange(50_000)
    for _ in range(20):
        for number in task.tolist():
            ring.task_finished(number + 1, ring.process + number.to_bytes(8, "big"), 0, 0, 1, 0)
        began = time.perf_counter()
        while count := collector.poll():
            total += count
            if collector.due():
                collector.flush()
        spent += time.perf_counter() - began
    collector.close()
    print(f"{total / spent:,.0f} records/s")
    assert total == 1_000_001
    assert Store.open(tmp_path).events("task_finished", ["task"]).num_rows == 1_000_000
    assert spent < 60


def test_batches_are_read_ahead_in_order_and_errors_come_where_they_were():
    def batches(count, error=None):
        for number in range(count):
            yield pa.record_batch({"n": [number]})
        if error is not None:
            raise error

    assert [batch["n"][0].as_py() for batch in ahead(batches(10))] == list(range(10))
    found = ahead(batches(3, FileNotFoundError("compacted")))
    assert [next(found)["n"][0].as_py() for _ in range(3)] == [0, 1, 2]
    with pytest.raises(FileNotFoundError, match="compacted"):
        next(found)
    left = batches(5)
    stopped = ahead(left)
    next(stopped)
    stopped.close()
    assert list(left) == [], "nobody reads on where another one still reads"
