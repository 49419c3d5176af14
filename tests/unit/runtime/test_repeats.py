"""What of the workers' output a terminal gets."""

from __future__ import annotations

import pytest

from obsray.core.runtime.repeats import LINES_MAX, Repeats, harmless


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain ✓ text\twith a tab", "plain ✓ text\twith a tab"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]52;c;Y2xpcGJvYXJk\x1b\\text", "text"),
        ("\x1bP1$r\x1b\\a\x07b\x08c\x9b2Jd\u202ee", "abc2Jde"),
    ],
)
def test_colours_stay_and_nothing_else_reaches_the_terminal(line, shown):
    assert harmless(line) == shown


def test_a_line_of_many_workers_is_shown_once_and_counted():
    repeats = Repeats(5.0)
    assert repeats.shows("out", "ready", "a", "(a) ", 0.0)
    assert not repeats.shows("out", "ready", "b", "(b) ", 1.0)
    assert not repeats.shows("out", "ready", "c", "(c) ", 2.0)
    assert repeats.shows("out", "ready", "a", "(a) ", 2.0)  # its own repetition is its own business
    assert repeats.shows("err", "ready", "b", "(b) ", 2.0) and repeats.shows("out", "done", "b", "(b) ", 2.0)
    assert repeats.due(4.9) == []
    assert repeats.due(5.0) == [("out", "(c) ready [repeated 2x across the cluster]")]
    assert repeats.shows("out", "ready", "b", "(b) ", 6.0)


def test_lines_that_differ_in_numbers_only_are_the_same_and_bare_numbers_are_always_shown():
    repeats = Repeats(5.0)
    assert repeats.shows("out", "shard 1 of 64: 0x7f read", "a", "(a) ", 0.0)
    assert not repeats.shows("out", "shard 2 of 64: 0x80 read", "b", "(b) ", 0.0)
    assert not repeats.shows("out", "shard 3 of 64: 0x81 read", "c", "(c) ", 0.0)
    assert repeats.shows("out", "shard 3 of 64: 0x81 lost", "c", "(c) ", 0.0)
    assert all(repeats.shows("out", "12 3.5", worker, "", 0.0) for worker in "abc")
    assert repeats.due(None) == [("out", "(c) shard 3 of 64: 0x81 read [repeated 2x across the cluster]")]


def test_at_the_end_everything_held_back_is_told_and_a_single_repetition_is_just_shown():
    repeats = Repeats(5.0)
    repeats.shows("out", "ready", "a", "(a) ", 0.0)
    repeats.shows("out", "ready", "b", "(b) ", 0.0)
    assert repeats.due(None) == [("out", "(b) ready")] and repeats.due(None) == []


def test_nothing_is_held_back_if_that_is_wanted_and_memory_is_bounded():
    off, on = Repeats(0.0), Repeats(5.0)
    assert all(off.shows("out", "same", worker, "", 0.0) for worker in "abc")
    letters = str.maketrans("0123456789", "abcdefghij")
    for number in range(LINES_MAX + 10):
        assert on.shows("out", f"{number}".translate(letters), "a", "", 0.0)
    assert len(on._seen) == LINES_MAX
