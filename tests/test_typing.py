"""What type checkers make of programs that use obsray: what is right passes, what is wrong does not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Checked as one file. A line that ends in ``# error`` must be one, and no other may.
PROGRAM = """
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, assert_type

import obsray
from obsray import ActorHandle, ObjectRef, ObjectRefGenerator


@obsray.remote
def add(x: int, y: int = 0, *, scale: float = 1.0) -> float:
    return (x + y) * scale


@obsray.remote(num_cpus=2, max_retries=0)
def name(x: int) -> str:
    return str(x)


@obsray.remote
def total(*numbers: int) -> int:
    return sum(numbers)


@obsray.remote(num_returns=2)
def split(text: str) -> tuple[str, str]:
    return text[:1], text[1:]


@obsray.remote(num_returns=0)
def tell(text: str) -> None: ...


@obsray.remote
def count(to: int) -> Iterator[int]:
    yield from range(to)


@obsray.remote(num_cpus=1)
def count_too(to: int) -> Generator[str, None, None]:
    yield str(to)


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    @obsray.method(num_returns=1)
    def add(self, amount: int) -> int:
        self.value += amount
        return self.value

    async def later(self) -> int:
        return self.value


class Other:
    async def items(self) -> AsyncIterator[int]:
        yield 1


# mypy takes no notice of what a decorator makes of a class; called, it does.
CounterActor = obsray.remote(Counter)
OtherActor = obsray.remote(num_cpus=1)(Other)


def main() -> None:
    one = obsray.put(1)
    assert_type(one, ObjectRef[int])
    assert_type(add.remote(1), ObjectRef[float])
    assert_type(obsray.get(add.remote(1, 2, scale=0.5)), float)
    assert_type(obsray.get(name.remote(1)), str)
    assert_type(obsray.get([name.remote(1), name.remote(2)]), list[str])
    assert_type(obsray.get([name.remote(i) for i in range(3)], timeout=1), list[str])
    assert_type(obsray.get(one), int)
    # References where values are.
    assert_type(add.remote(one), ObjectRef[float])
    assert_type(add.remote(one, 1), ObjectRef[float])
    assert_type(add.remote(1, one), ObjectRef[float])
    assert_type(add.remote(one, one, scale=2.0), ObjectRef[float])
    assert_type(add.remote(one, y=1), ObjectRef[float])
    assert_type(name.remote(total.remote(1, 2, 3)), ObjectRef[str])
    assert_type(total.remote(one, 2, one), ObjectRef[int])
    # Options.
    assert_type(name.options(num_cpus=1).remote(1), ObjectRef[str])
    assert_type(split.remote("ab"), list[ObjectRef[Any]])
    assert_type(name.options(num_returns=3).remote(1), list[ObjectRef[Any]])
    assert_type(name.options(num_returns=0).remote(1), None)
    # Generators.
    assert_type(count.remote(3), ObjectRefGenerator[int])
    for item in count.remote(3):
        assert_type(obsray.get(item), int)
    assert_type([obsray.get(item) for item in count_too.remote(one)], list[str])
    # Wait keeps what the references are to.
    ready, rest = obsray.wait([name.remote(1)], num_returns=1)
    assert_type(ready, list[ObjectRef[str]])
    assert_type(rest, list[ObjectRef[str]])
    # Actors.
    counter = CounterActor.remote(1)
    assert_type(counter, ActorHandle[Counter])
    assert_type(obsray.get(counter.add.remote(1)), Any)
    assert_type(counter.later.options(num_returns=1).remote(), Any)
    obsray.kill(counter)
    OtherActor.options(name="other").remote()
    found: ActorHandle[Any] = obsray.get_actor("other")
    obsray.kill(found)
    # An object where less is asked for.
    anything: ObjectRef[object] = one
    obsray.cancel(anything)


async def also() -> None:
    assert_type(await add.remote(1), float)
    async for item in count.remote(3):
        assert_type(await item, int)
    assert_type(add.remote(1).future().result(), float)


def wrong() -> None:
    one, text = obsray.put(1), obsray.put("a")
    add.remote("a")  # error
    add.remote()  # error
    add.remote(1, 2, 3)  # error
    add.remote(1, colour=2)  # error
    add.remote(one, "a")  # error
    add.remote(one, scale="a")  # error
    name.remote(1, 2)  # error
    number: int = obsray.get(name.remote(1))  # error
    reference: ObjectRef[int] = name.remote(1)  # error
    obsray.get((one, one))  # error
    obsray.get(1)  # error
    obsray.wait(one)  # error
    obsray.wait([1])  # error
    obsray.kill(one)  # error
    obsray.get(one, 5)  # error
    add.remotee(1)  # error
"""


def test_a_type_checker_understands_programs_and_finds_their_mistakes(tmp_path):
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = true\nmypy_path = {ROOT}\n[mypy-cloudpickle.*]\nignore_missing_imports = true\n"
    )
    options = ["--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(ROOT / ".mypy_cache")]
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--follow-imports", "silent", str(program)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = {int(number) for number in re.findall(r"program\.py:(\d+): error", ended.stdout)}
    lines = PROGRAM.splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert found == expected, ended.stdout + ended.stderr


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "obsray" / "py.typed").exists()
