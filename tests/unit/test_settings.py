"""A setting that cannot be meant is refused before anything starts."""

from __future__ import annotations

import pytest

from obsray.config import TELEMETRY_BYTES_MIN, Config


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sessions_max": -1}, "sessions_max=-1 is below 0"),
        ({"lease_linger_seconds": -0.5}, "lease_linger_seconds=-0.5 is below 0"),
        ({"telemetry_bytes_max": -1}, "telemetry_bytes_max=-1 is below 0"),
        ({"telemetry_bytes_max": 10}, "give 1048576"),
        ({"sessions_max": "many"}, "is not int"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Config.from_environment(**settings)


def test_the_least_that_can_be_meant_is_taken():
    found = Config.from_environment(sessions_max=0, telemetry_bytes_max=TELEMETRY_BYTES_MIN)
    assert (found.sessions_max, found.telemetry_bytes_max) == (0, TELEMETRY_BYTES_MIN)
