"""Moments as people write them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from obsray.telemetry.moments import moment_ns, said

NOW = int(datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC).timestamp() * 1e9)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("10m", -600), ("-10m", -600), ("1.5h ago", -5400), ("250ms", -0.25), ("now", 0), (NOW / 1e9 - 3, -3), (NOW, 0),
        (NOW // 10**6 - 50, -0.05), (str(NOW // 10**6), 0),
        ("2026-01-31T11:59:00+00:00", -60), (datetime(2026, 1, 31, 11, 0, tzinfo=UTC), -3600),
        ("+5s", -995), ("+5", -995),
    ],
)  # fmt: skip
def test_a_moment_is_understood(given, seconds):
    assert moment_ns(given, NOW, NOW - 1000 * 10**9) == pytest.approx(NOW + seconds * 1e9, abs=1e6)


def test_a_time_of_day_is_the_last_one():
    at = moment_ns(datetime.fromtimestamp(NOW / 1e9 - 5).strftime("%H:%M:%S"), NOW)
    assert at == NOW - 5 * 10**9
    later = moment_ns(datetime.fromtimestamp(NOW / 1e9 + 60).strftime("%H:%M:%S"), NOW)
    assert later < NOW


def test_what_is_said_is_understood_again():
    assert moment_ns(said(NOW + 123_000_000), NOW) == NOW + 123_000_000


@pytest.mark.parametrize("given", ["", "soon", "10 parsecs", None, True, -1, [1], "25:99"])
def test_what_is_no_moment_says_what_is(given):
    with pytest.raises(ValueError, match="10m"):
        moment_ns(given, NOW)
