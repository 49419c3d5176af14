"""Details may go, what they add up to does not."""

from __future__ import annotations

import random

import numpy as np
import pytest

from obsray.telemetry import segments
from obsray.telemetry.aggregates import Aggregates, quantile
from obsray.telemetry.columns import Columns, Texts, empty
from obsray.telemetry.events import BY_NAME, Outcome
from obsray.telemetry.segments import Catalog, SegmentWriter, read_batches
from obsray.telemetry.store import Store
from obsray.testing.recorded_session import record_session


def attempts(texts, chance, first, count):
    """Records of attempts of two functions, numbered from ``first`` on."""
    columns = empty(BY_NAME["task_ended"])
    arrays = {name: np.zeros(count, values.dtype) for name, values in columns.arrays.items()}
    arrays["sequence"] = np.arange(first, first + count, dtype=np.uint64)
    arrays["time_ns"] = arrays["sequence"] * np.uint64(1000) + np.uint64(10**18)
    arrays["task"] = np.frombuffer(chance.randbytes(16 * count), "V16")
    arrays["name"] = np.array([texts.code(chance.choice(["f", "g"])) for _ in range(count)], np.int32)
    arrays["run_seconds"] = np.array([chance.lognormvariate(-5, 2) for _ in range(count)], np.float32)
    arrays["outcome"] = np.array([chance.choice([0, 0, 0, int(Outcome.OOM)]) for _ in range(count)], np.uint8)
    return Columns(columns.event, arrays)


def test_what_retention_deletes_stays_in_sum(tmp_path, monkeypatch):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance, texts = random.Random(seed), Texts()
    monkeypatch.setattr(segments, "STREAM_BYTES_MAX", 20_000)
    writer = SegmentWriter(tmp_path, texts, bytes_max=150_000)
    told: list[tuple[str, float, int]] = []
    for number in range(12):
        part = attempts(texts, chance, 1 + number * 2000, 2000)
        told += zip(
            [texts[code] for code in part["name"]], part["run_seconds"].tolist(), part["outcome"].tolist(), strict=True
        )
        writer.append({"task_ended": part})
        writer.flush([])
        while writer.compact():
            pass
    catalog = Catalog(tmp_path)
    catalog.refresh()
    kept = sum(batch.num_rows for entry in catalog.files["task_ended"] for batch in read_batches(tmp_path, entry))
    assert 0 < kept < len(told) and catalog.folded_rows == len(told) - kept
    gone = told[: len(told) - kept]
    sums = Aggregates(tmp_path)
    assert sums.events == {"task_ended": len(gone)}
    for row in sums.rows():
        mine = [(seconds, outcome) for name, seconds, outcome in gone if name == row["name"]]
        assert row["attempts"] == len(mine) and row["failed"] == sum(outcome != 0 for _, outcome in mine)
        assert row["run_seconds"] == pytest.approx(sum(seconds for seconds, _ in mine))
        assert row["run_seconds_max"] == max(seconds for seconds, _ in mine)
        for share, name in ((0.5, "run_seconds_p50"), (0.99, "run_seconds_p99")):
            assert row[name] == pytest.approx(np.quantile([s for s, _ in mine], share, method="inverted_cdf"), rel=0.1)


def test_a_file_is_counted_once_although_the_collector_died_before_it_was_gone(tmp_path):
    texts = Texts()
    part = attempts(texts, random.Random(1), 1, 10)
    for _ in range(2):
        sums = Aggregates(tmp_path)
        sums.add("task_ended.000001.parquet", "task_ended", [part], texts)
        sums.write()
    assert sum(row["attempts"] for row in Aggregates(tmp_path).rows()) == 10


def test_nothing_has_no_quantile():
    assert quantile({}, 0.5) is None


def test_sums_are_a_table(tmp_path):
    import obsray.telemetry

    made = record_session(tmp_path, tasks=20, live=False)
    texts = Texts()
    sums = Aggregates(Store.open(made.directory).catalog.directory)
    sums.add("one", "task_ended", [attempts(texts, random.Random(1), 1, 50)], texts)
    sums.write()
    rows = obsray.telemetry.sql("FROM folded ORDER BY name", session=made.directory, format="rows")
    assert [row["name"] for row in rows] == ["f", "g"] and sum(row["attempts"] for row in rows) == 50


def test_a_small_bound_is_kept_too_while_records_come_and_after_the_end(tmp_path):
    chance, texts, bound = random.Random(3), Texts(), 300_000
    writer = SegmentWriter(tmp_path, texts, bytes_max=bound)
    for number in range(30):
        writer.append({"task_ended": attempts(texts, chance, 1 + number * 500, 500)})
        writer.flush([])
        while writer.compact():
            pass
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < bound
    writer.append({"task_ended": attempts(texts, chance, 20_000, 500)})
    writer.close([])
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < bound
    assert writer.catalog.folded_rows
