"""Functions that travel by value keep what a traceback needs."""

from __future__ import annotations

import linecache
import traceback

from obsray import causes
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


def test_lines_of_a_cell_are_added_where_the_cell_is_known(monkeypatch):
    cell = "def f(x):\n    return 1 // x\n"
    monkeypatch.setitem(linecache.cache, "<cell 7>", (len(cell), None, cell.splitlines(keepends=True), "<cell 7>"))
    text = 'Traceback:\n  File "<cell 7>", line 2, in f\n  File "<other>", line 3, in g\nValueError: no'
    lines = causes.with_sources(text).splitlines()
    assert lines[1:4] == ['  File "<cell 7>", line 2, in f', "    return 1 // x", '  File "<other>", line 3, in g']
    assert causes.with_sources(causes.with_sources(text)) == causes.with_sources(text)
