"""Functions that travel by value keep what a traceback needs."""

from __future__ import annotations

import traceback

from obsray.core.runtime.serialization import deserialize, dump_function


def test_code_that_travels_by_value_keeps_the_name_of_its_file_also_inside():
    def outer():
        def inner():
            raise ValueError("here")

        inner()

    try:
        deserialize(dump_function(outer))()
    except ValueError as error:
        frames = traceback.extract_tb(error.__traceback__)
    assert [frame.filename for frame in frames] == [__file__] * 3
    assert [frame.name for frame in frames][1:] == ["outer", "inner"]
