"""The parts of ``obsray.util`` that need no runtime."""

from __future__ import annotations

import io
import subprocess
import sys
import threading

import pytest

from obsray import util
from obsray.util import state
from obsray.util.state import listing
from obsray.util.state import rows as state_rows


def test_importing_util_loads_none_of_its_modules():
    code = "import sys, obsray.util; print(*[name for name in sys.modules if name.startswith('obsray.')])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.split()) == (0, ["obsray.version", "obsray.util"]), ended.stderr


@pytest.mark.parametrize("name", util.__all__)
def test_every_public_name_is_there(name):
    assert getattr(util, name).__doc__


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = util.no_such_name


def test_log_once_is_true_once_for_each_key():
    assert [util.log_once(("a", 1)), util.log_once(("a", 1)), util.log_once(("a", 2))] == [True, False, True]


def test_the_innermost_part_that_cannot_be_pickled_is_named():
    class Holder:
        def __init__(self):
            self.name = "fine"
            self.inner = {"deep": [threading.Lock()]}

    out = io.StringIO()
    ok, failures = util.inspect_serializability(Holder(), name="holder", print_file=out)
    (failure,) = failures
    assert not ok and failure.name == "[0]"
    assert "holder" in out.getvalue() and "fine" not in out.getvalue()


def test_inspection_ends_on_values_that_contain_themselves():
    loop: list[object] = [threading.Lock()]
    loop.append(loop)
    ok, failures = util.inspect_serializability(loop, depth=50, print_file=io.StringIO())
    assert not ok and {failure.name for failure in failures} == {"[0]"}


def test_a_row_is_attributes_and_keys():
    row = state_rows.JobState(
        job_id="1", type="DRIVER", status="RUNNING", entrypoint="x", namespace="", pid=1, start_time=1.0,
        end_time=None, tasks=3, driver_id="d",
    )  # fmt: skip
    assert row.tasks == row["tasks"] == row.get("tasks") == row.asdict()["tasks"] == 3
    assert "tasks" in row and "nothing" not in row and list(row) == list(row.asdict())
    assert row.without_detail().driver_id is None and row.without_detail().tasks == 3
    with pytest.raises(KeyError):
        row["asdict"]


@pytest.mark.parametrize(
    "wrong", [("name", "~", "x"), ("nothing", "=", "x"), ("without_detail", "=", "x"), ("name", "="), ()]
)
def test_a_wrong_filter_is_an_error_that_says_what_would_be_right(wrong):
    with pytest.raises(ValueError, match="filter"):
        listing.check(state.TaskState, [wrong], 1, True, None, None, None, None)


@pytest.mark.parametrize(
    ("found", "operator", "value", "holds"),
    [
        ("a", "=", "a", True), ("a", "=", "A", True), (True, "=", "true", True), (7, "=", "7", True),
        (7, "!=", 7, False), (None, "=", "None", False), (None, "!=", "x", True), (None, "=", None, True),
    ],
)  # fmt: skip
def test_values_are_compared_as_people_write_them(found, operator, value, holds):
    assert listing._holds(found, operator, value) is holds
