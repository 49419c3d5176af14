"""Words for people: numbers, times, ids and conditions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obsray.dashboard import units
from obsray.dashboard.conditions import OPERATORS, BadCondition, make, matches, ordered, parse
from obsray.dashboard.identifiers import UnknownId, anything, resolve
from obsray.dashboard.plain_json import dumps
from obsray.dashboard.tables import TABLES, TASKS

COLUMNS = ("name", "state", "run_seconds", "result_bytes", "submitted_at_ns", "attempt", "bytes")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"), (float("nan"), "–"), (0, "0 s"), (4e-9, "4 ns"), (4.12e-4, "412 µs"), (0.0031, "3.1 ms"),
        (0.9999, "1000 ms"), (1.25, "1.25 s"), (99.9, "99.9 s"), (245, "4 min 5 s"), (7384, "2 h 3 min"),
        (200000, "2 d 7 h"), (-0.5, "-500 ms"),
    ],
)  # fmt: skip
def test_durations_have_three_digits_and_a_unit(value, text):
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (52_000_000, "49.6 MiB"),
        (1 << 40, "1 TiB"),
    ],
)
def test_sizes_are_binary(value, text):
    assert units.size(value) == text


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_no_duration_and_no_size_is_too_odd_to_be_shown(value):
    assert len(units.seconds(value)) < 400 and units.size(value) and units.rate(value) and units.count(value)


@given(st.text(max_size=200))
def test_plain_text_holds_nothing_that_steers_a_terminal(text):
    shown = units.plain(text)
    assert all(character.isprintable() or character == "\ufffd" or ord(character) > 0x9F for character in shown)
    assert "\x1b" not in shown and "\n" not in shown and units.plain(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"), ("\x1b]0;title\x07x", "x"), ("a\rb", "a\ufffdb"), ("\u202etxt", "\ufffdtxt"),
        ("\x9b31m", "\ufffd31m"), ("plain – text", "plain – text"), ("a\x00b", "a\ufffdb"),
    ],
)  # fmt: skip
def test_escape_sequences_are_taken_out_whole(text, shown):
    assert units.plain(text) == shown


@pytest.mark.parametrize(
    ("identifier", "shown"),
    [
        ("3fa2c1d0aa00bb11" + f"{42:016x}", "3fa2c1d0:42"),
        ("3fa2c1d0aa00bb11" + "02" + f"{7:014x}", "3fa2c1d0:a7"),
        ("3fa2c1d0aa00bb11" + f"{42:016x}" + f"{1:08x}", "3fa2c1d0:42[1]"),
        ("3fa2c1d0aa00bb11", "3fa2c1d0aa00bb11"),
        (None, "–"),
        ("z" * 32, "zzzzzzzzzzzzzzz…"),
    ],
)
def test_ids_have_a_short_form(identifier, shown):
    assert units.short_id(identifier) == shown


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("state=FAILED", ("state", "=", "FAILED")),
        ("state == FAILED", ("state", "=", "FAILED")),
        ("name contains load shard", ("name", "contains", "load shard")),
        ("name=contains", ("name", "=", "contains")),
        ("run_seconds > 250ms", ("run_seconds", ">", 0.25)),
        ("run_seconds<=1.5", ("run_seconds", "<=", 1.5)),
        ("run_seconds >= 2 min", ("run_seconds", ">=", 120.0)),
        ("result_bytes >= 10MB", ("result_bytes", ">=", 10_000_000)),
        ("bytes != 1 KiB", ("bytes", "!=", 1024)),
        ("submitted_at_ns > 1795462629456990058", ("submitted_at_ns", ">", 1795462629456990058)),
        ("attempt in 1, 2", ("attempt", "in", [1, 2])),
        ("state in FAILED,CANCELLED", ("state", "in", ["FAILED", "CANCELLED"])),
    ],
)
def test_conditions_are_read_as_people_write_them(text, condition):
    assert parse(text, COLUMNS) == condition


@given(st.text(max_size=300))
def test_any_text_is_a_condition_or_a_refusal_with_a_reason(text):
    try:
        column, operator, _ = parse(text, COLUMNS)
    except BadCondition as error:
        assert len(str(error)) > 10
    else:
        assert column in COLUMNS and operator in OPERATORS


@given(st.sampled_from(COLUMNS), st.sampled_from(OPERATORS), st.text(max_size=40))
def test_what_was_read_can_be_applied_to_any_row(column, operator, value):
    try:
        condition = make(column, operator, value, COLUMNS)
    except BadCondition:
        return
    for found in (None, 0, 1.5, "FAILED", math.inf):
        assert matches({column: found}, [condition]) in (True, False)


@given(st.lists(st.one_of(st.none(), st.integers(), st.text(max_size=3))))
def test_ordering_loses_no_row_and_puts_the_unknown_last(values):
    for sort in ("x", "-x"):
        found = [row["x"] for row in ordered([{"x": value} for value in values], sort)]
        assert sorted(map(repr, found)) == sorted(map(repr, values))
        known = sum(value is not None for value in values)
        assert all(value is None for value in found[known:])


def test_json_is_strict():
    assert dumps({"a": float("nan"), "b": [math.inf, 1.5], 3: ("x",)}) == '{"a": null, "b": [null, 1.5], "3": ["x"]}'


def test_every_table_can_sort_by_the_order_it_starts_with():
    for table in TABLES.values():
        assert table.sort.removeprefix("-") in table.keys
        assert len(set(table.keys)) == len(table.keys)
    assert "run_seconds" in TASKS.keys


def test_ids_may_be_cut_short_as_long_as_they_are_unique():
    from fake_views import OWNER, FakeViews, task_id, worker_id

    view = FakeViews(300)
    assert resolve(view, "tasks", task_id(42)) == task_id(42)
    assert resolve(view, "tasks", f"{OWNER[:8]}:42") == task_id(42)
    # Only task 256 and its sixteen neighbours begin like this, and the session ends at 299.
    assert resolve(FakeViews(257), "tasks", task_id(256)[:31]) == task_id(256)
    assert anything(view, worker_id(3)[:6]) == ("workers", worker_id(3))
    assert anything(view, f"{OWNER[:8]}:a1") == ("actors", f"{OWNER}0200000000000001")
    # A worker's full id begins all ids of what it owns and still means the worker.
    assert anything(view, OWNER) == ("workers", OWNER)
    for text, reason in (
        (OWNER[:6], "20 or more"),
        ("ffff", "no thing"),
        ("", "no thing"),
        ("x'; --", "no thing"),
        ("3f", "no thing"),
    ):
        with pytest.raises(UnknownId, match=reason):
            anything(view, text)
