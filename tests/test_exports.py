"""The public surface: everything in ``obsray.__all__`` is there, documented and meant to be there."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

if not (Path(__file__).resolve().parent.parent / "obsray/__init__.py").exists():
    pytest.skip("the public package is not there", allow_module_level=True)

import obsray

#: Adding a name is a decision: it is added here, too. Removing one breaks programs.
GOLDEN = Path(__file__).resolve().parent / "golden/exports.txt"


def test_the_public_names_are_sorted_and_are_those_that_were_agreed():
    assert list(obsray.__all__) == sorted(obsray.__all__)
    assert len(set(obsray.__all__)) == len(obsray.__all__)
    assert sorted(obsray.__all__) == GOLDEN.read_text().split(), f"if this is meant, write it to {GOLDEN}"


@pytest.mark.parametrize("name", sorted(obsray.__all__))
def test_a_public_name_exists_and_says_what_it_is(name):
    value = getattr(obsray, name)
    if isinstance(value, str | int | float | tuple):
        return
    assert inspect.getdoc(value), f"obsray.{name} has no docstring"


def test_nothing_else_looks_public():
    ours = {
        name
        for name, value in vars(obsray).items()
        if not name.startswith("_") and str(getattr(value, "__module__", "")).startswith("obsray")
    }
    assert ours <= set(obsray.__all__)


def test_dir_shows_the_public_names():
    assert set(obsray.__all__) <= set(dir(obsray))


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = obsray.no_such_name


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"numpy", "pyarrow", "grpc", "asyncio", "starlette", "uvicorn", "psutil"}
    code = f"import sys, obsray; print(*sorted({heavy!r} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout.split()) == (0, []), ended.stderr
