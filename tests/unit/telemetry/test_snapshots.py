"""What a reader has folded is kept for the next one, which says the same; what is wrong with it counts as nothing."""

from __future__ import annotations

import itertools
import os
import random
import threading
from pathlib import Path

import pytest

from obsray.telemetry import asking, frozen, snapshots, table, tables
from obsray.telemetry.collector import Collector
from obsray.telemetry.events import EVENTS, ProcessKind
from obsray.telemetry.segments import Catalog
from obsray.telemetry.snapshots import KeptViews
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from tests.unit.telemetry.recording import open_ring, value_of

NS = 1_000_000_000


@pytest.fixture(autouse=True)
def few_records_are_kept_too(monkeypatch):
    monkeypatch.setattr(snapshots, "RECORDS_MIN", 1)


@pytest.fixture
def recorded(tmp_path):
    """A session that is over, whose ledger and tables hold something of most things."""
    return record_session(tmp_path / "s", tasks=100, live=False).directory


def read(directory):
    views = Views(Store.open(directory))
    views.refresh()
    return views


def emit_plausible(ring, chance, ids, count):
    """``count`` records of every kind: ids of few things, labels that exist."""
    events = [event for event in EVENTS.values() for _ in range(count)]
    chance.shuffle(events)
    for number, event in enumerate(events):
        values = []
        for field in event.fields:
            if field.code.startswith("id"):
                values.append(chance.choice(ids[field.code]))
            elif field.labels is not None:
                values.append(int(chance.choice(list(field.labels))))
            elif field.code == "str":
                values.append(ring.intern(value_of("str", chance)))
            elif field.code in ("u32", "u64", "i32"):
                values.append(chance.randrange(1000))
            else:
                values.append(value_of(field.code, chance))
        getattr(ring, event.name)(NS + number, *values)


def content(views):
    """All that the tables hold, as bytes."""
    return b"".join(bytes(memoryview(piece)) for piece in frozen.freeze(snapshots._tables(views), views.store.texts, 0))


def folded(directory: Path) -> int:
    """How many records a reader had to fold, which then keeps what came of it."""
    views = KeptViews(directory)
    records = views.refresh()
    views.keep()
    return records


@pytest.mark.parametrize("seed", [1, 2])
def test_who_goes_on_from_a_snapshot_holds_what_a_reader_holds_that_was_there_all_the_time(tmp_path, seed):
    print("seed", seed)
    chance = random.Random(seed)
    ring = open_ring(tmp_path, chance, ProcessKind.DRIVER)
    ids = {"id8": [chance.randbytes(8) for _ in range(3)]}
    ids["id16"] = [owner + bytes([1]) + chance.randrange(20).to_bytes(7) for owner in ids["id8"] for _ in range(4)]
    ids["id20"] = [task + bytes(4) for task in ids["id16"]]
    emit_plausible(ring, chance, ids, 2)
    faithful = read(tmp_path)
    assert snapshots.save(faithful, 1)
    emit_plausible(ring, chance, ids, 1)
    late = KeptViews(tmp_path)
    assert faithful.refresh() == late.refresh() == len(EVENTS)
    assert content(faithful) == content(late)


def test_tables_in_files_hold_what_tables_in_memory_hold_whoever_folded_them(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "MAPPED_ROWS_MIN", 0)
    monkeypatch.setattr(tables, "RELEASE_SECONDS", 0.0)
    print("seed", seed := random.randrange(1 << 32))
    chance = random.Random(seed)
    ring = open_ring(tmp_path, chance, ProcessKind.DRIVER)
    ids = {"id8": [chance.randbytes(8) for _ in range(3)]}
    ids["id16"] = [owner + bytes([1]) + chance.randrange(20).to_bytes(7) for owner in ids["id8"] for _ in range(4)]
    ids["id20"] = [task + bytes(4) for task in ids["id16"]]
    in_memory, in_file = Views(Store.open(tmp_path)), Views(Store.open(tmp_path))
    in_file.lie_in(tmp_path)
    for _ in range(5):
        emit_plausible(ring, chance, ids, 1)
        assert in_memory.refresh() == in_file.refresh() >= len(EVENTS)
        assert content(in_memory) == content(in_file)
    assert in_file.task_table.grid._mapped is not None
    assert snapshots.save(in_file, 1)
    late = KeptViews(tmp_path)
    late.lie_in(tmp_path)
    assert late.task_table.grid._mapped is not None
    emit_plausible(ring, chance, ids, 1)
    assert in_memory.refresh() == late.refresh() == len(EVENTS)
    assert content(in_memory) == content(late)


def test_answers_are_the_same_and_the_records_are_not_read_again(recorded):
    first = KeptViews(recorded)
    assert first.refresh() > 0
    assert not (recorded / snapshots.NAME).exists()  # nobody waits for that with an answer
    first.keep()
    second = KeptViews(recorded)
    assert second.refresh() == 0
    for views in (first, second):
        views.refresh()
    for question in ("functions", "actors", "workers", "nodes", "jobs", "ledger", "placement_groups", "books"):
        assert getattr(first, question)() == getattr(second, question)(), question
    assert first.tasks(limit=1000) == second.tasks(limit=1000)
    assert first.objects(limit=1000) == second.objects(limit=1000)
    for row in first.tasks(limit=5)["rows"]:
        assert first.story(row["task_id"]) == second.story(row["task_id"])


def test_what_was_stored_since_is_added_once(tmp_path):
    chance = random.Random(7)
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, 1 << 30)

    numbers = itertools.count(1)

    def more(count):
        for number in itertools.islice(numbers, count):
            ring.task_labelled(NS, ring.process + bytes([1]) + number.to_bytes(7), ring.intern("a"))

    more(50)
    collector.poll()
    collector.flush()
    more(30)  # in the ring alone when the snapshot is made
    assert folded(tmp_path) >= 80
    collector.poll()
    collector.flush()
    more(20)
    late = KeptViews(tmp_path)
    assert late.refresh() == 20
    assert len(late.task_table) == len(read(tmp_path).task_table) == 100
    assert late.samples.events_total == read(tmp_path).samples.events_total
    collector.close()


def test_a_snapshot_with_a_wrong_byte_is_thrown_away_and_made_anew(recorded):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    whole = KeptViews(recorded)
    records = whole.refresh()
    whole.keep()
    path = recorded / snapshots.NAME
    good = path.read_bytes()
    for cut in (0, 5, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:cut])
        assert folded(recorded) == records
        assert path.read_bytes() == good
    for _ in range(20):
        at = chance.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << chance.randrange(8))]) + good[at + 1 :])
        views = KeptViews(recorded)
        assert views.refresh() == records, at
        assert views.functions() == whole.functions()


def test_a_snapshot_of_other_code_or_of_records_that_were_deleted_since_does_not_count(recorded, monkeypatch):
    records = folded(recorded)
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "code", lambda: "another version")
        assert folded(recorded) == records
    assert folded(recorded) == records  # that of the other version does not count either
    assert folded(recorded) == 0
    refresh = Catalog.refresh

    def refresh_after_retention(catalog):
        changed = refresh(catalog)
        catalog.folded_rows = 5
        return changed

    monkeypatch.setattr(Catalog, "refresh", refresh_after_retention)
    assert folded(recorded) == records


def test_where_none_can_be_kept_everything_is_read(recorded, monkeypatch):
    monkeypatch.setattr(snapshots, "BYTES_MAX", 100)
    records = folded(recorded)
    assert not (recorded / snapshots.NAME).exists()
    monkeypatch.setattr(snapshots, "BYTES_MAX", 1 << 30)
    # Somebody is writing one.
    (recorded / f"{snapshots.NAME}.new").touch()
    assert folded(recorded) == records
    assert not (recorded / snapshots.NAME).exists()
    # It died.
    os.utime(recorded / f"{snapshots.NAME}.new", (0, 0))
    assert folded(recorded) == records
    assert folded(recorded) == 0
    assert sorted(path.name for path in recorded.glob(f"{snapshots.NAME}*")) == [snapshots.NAME]


def test_what_is_not_known_here_is_not_kept(recorded, monkeypatch):
    views = KeptViews(recorded)
    views.samples.latest["new"] = {bytes(8): {"value": object()}}
    assert views.refresh() > 0
    assert not (recorded / snapshots.NAME).exists()


@pytest.mark.parametrize("room", [False, True])
def test_what_is_kept_fits_into_what_the_session_may_keep(tmp_path, monkeypatch, room):
    chance = random.Random(9)
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, bytes_max=1 << 30 if room else 50_000)
    for number in range(500):
        ring.task_labelled(NS, ring.process + chance.randbytes(1) + number.to_bytes(7), ring.intern("a"))
    collector.close()
    assert 0 < collector.writer.catalog.bytes < 50_000
    monkeypatch.setattr(snapshots.frozen, "freeze", lambda *_: [bytes(50_000)])
    assert snapshots.save(read(tmp_path), 1) is room is (tmp_path / snapshots.NAME).exists()


@pytest.mark.parametrize("ends", [False, True])
def test_what_is_kept_goes_before_any_record_does(tmp_path, ends):
    chance = random.Random(8)
    ring = open_ring(tmp_path, chance)
    collector = Collector(tmp_path, bytes_max=200_000)
    path, numbers = tmp_path / snapshots.NAME, itertools.count(1)

    def more(count):
        for number in itertools.islice(numbers, count):
            ring.task_labelled(NS, ring.process + chance.randbytes(1) + number.to_bytes(7), ring.intern("a"))
        collector.poll()

    more(10)
    collector.flush()
    path.write_bytes(bytes(180_000))
    more(10)
    collector.flush()
    assert path.exists()
    more(4000)
    collector.close() if ends else collector.flush()
    assert 0 < collector.writer.catalog.bytes < 200_000
    assert not path.exists() and not collector.writer.catalog.folded_rows


def test_whoever_asks_has_the_answer_before_what_was_folded_is_kept(recorded, monkeypatch):
    order: list[str] = []
    answered = threading.Event()

    def save(views: KeptViews, records: int) -> bool:
        assert answered.wait(30) and records > 0
        order.append("kept")
        return False

    monkeypatch.setattr(snapshots, "save", save)
    monkeypatch.setattr(asking, "_open", None)
    assert asking.ask(recorded, lambda views: len(views.task_table)) > 0
    (keeps,) = [thread for thread in threading.enumerate() if thread.name == "obsray-keep"]
    order.append("answered")
    answered.set()
    keeps.join(30)
    asking.ask(recorded, lambda views: order.append("asked again"))
    assert order == ["answered", "kept", "asked again"]
    assert not [thread for thread in threading.enumerate() if thread.name == "obsray-keep"]
