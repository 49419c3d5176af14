"""What type checkers make of programs that use obsray: what is right passes, what is wrong does not."""

from __future__ import annotations

import os
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


# Without its plugin mypy takes no notice of what a decorator makes of a class; called, it does.
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
    assert_type(counter.later.options(num_returns=1).remote(), ObjectRef[Any])
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


#: The same with the plugin: decorators make actor classes of classes, and their methods have types.
CLASSES = """
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, assert_type, overload

import obsray
from obsray import ActorHandle, ObjectRef, ObjectRefGenerator

T = TypeVar("T")


@obsray.remote
class Counter:
    LIMIT = 10

    def __init__(self, start: int = 0, *, name: str = "") -> None:
        self.value = start

    def add(self, amount: int, *, twice: bool = False) -> int:
        self.value += amount
        return self.value

    async def later(self) -> str:
        return str(self.value)

    def count(self, to: int) -> Iterator[int]:
        yield from range(to)

    async def stream(self) -> AsyncIterator[str]:
        yield ""

    def iterator(self) -> Iterator[int]:
        return iter([])

    @obsray.method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return 1, 2

    @obsray.method(num_returns=0)
    def tell(self, text: str) -> None: ...

    @obsray.method(concurrency_group="io")
    def read(self, path: str) -> bytes:
        return b""

    @obsray.method
    def bare(self, path: str) -> bytes:
        return b""

    @staticmethod
    def fixed(x: int) -> int:
        return x

    @classmethod
    def of_class(cls, x: int) -> int:
        return x

    @property
    def size(self) -> int:
        return 1

    def keep(self, value: T) -> T:
        return value

    @overload
    def both(self, x: int) -> int: ...
    @overload
    def both(self, x: str) -> str: ...
    def both(self, x: Any) -> Any:
        return x

    def handle(self) -> "ActorHandle[Counter]":
        found: ActorHandle[Counter] = obsray.get_runtime_context().current_actor
        return found


@obsray.remote(num_cpus=1, max_restarts=2)
class Store(Generic[T]):
    def __init__(self, first: T) -> None:
        self.value = first

    def get(self) -> T:
        return self.value


@obsray.remote
@dataclass
class Point:
    x: int
    y: int = 0

    def moved(self, by: int) -> int:
        return self.x + by


class Plain:
    def __init__(self, size: int) -> None:
        self.size = size

    def run(self, x: float) -> str:
        return ""

    @obsray.method(num_returns=3)
    def three(self) -> list[int]:
        return [1, 2, 3]


class Derived(Plain):
    def more(self) -> int:
        return 1


PlainActor = obsray.remote(Derived)
SmallActor = obsray.remote(num_cpus=0)(Plain)


@obsray.remote
def use(counter: ActorHandle[Counter], x: int, *, y: int = 0) -> int:
    return obsray.get(counter.add.remote(x))


def right() -> None:
    one = obsray.put(1)
    counter = Counter.remote(1, name="a")
    assert_type(counter, ActorHandle[Counter])
    Counter.remote(one)
    Counter.options(num_cpus=2, name="b").remote(1)
    assert_type(Counter.options(num_cpus=2).remote(one), ActorHandle[Counter])
    assert_type(counter.add.remote(1), ObjectRef[int])
    assert_type(obsray.get(counter.add.remote(one, twice=True)), int)
    assert_type(counter.add.options(name="x").remote(1), ObjectRef[int])
    assert_type(counter.later.remote(), ObjectRef[str])
    assert_type(counter.count.remote(3), ObjectRefGenerator[int])
    assert_type(counter.stream.remote(), ObjectRefGenerator[str])
    assert_type(counter.iterator.remote(), ObjectRef[Iterator[int]])
    assert_type(counter.pair.remote(), list[ObjectRef[Any]])
    assert_type(counter.tell.remote("a"), None)
    assert_type(counter.read.remote("a"), ObjectRef[bytes])
    assert_type(counter.bare.remote("a"), ObjectRef[bytes])
    assert_type(counter.fixed.remote(1), ObjectRef[int])
    assert_type(counter.of_class.remote(1), ObjectRef[int])
    counter.keep.remote("a")
    counter.both.remote("a")
    assert_type(counter.handle.remote(), ObjectRef[ActorHandle[Counter]])
    assert_type(counter.__ray_ready__.remote(), Any)
    store = Store.remote(1)
    assert_type(store, ActorHandle[Store[int]])
    assert_type(obsray.get(store.get.remote()), int)
    point = Point.remote(1, y=2)
    assert_type(obsray.get(point.moved.remote(by=one)), int)
    plain = PlainActor.remote(1)
    assert_type(plain, ActorHandle[Derived])
    assert_type(obsray.get(plain.run.remote(1.0)), str)
    assert_type(plain.three.remote(), list[ObjectRef[Any]])
    assert_type(plain.more.remote(), ObjectRef[int])
    assert_type(SmallActor.options(num_cpus=1).remote(one), ActorHandle[Plain])
    assert_type(use.remote(counter, one, y=one), ObjectRef[int])
    print(Counter.LIMIT)
    found: ActorHandle[Any] = obsray.get_actor("b")
    found.whatever.remote(1, 2)
    obsray.kill(counter)

    @obsray.remote
    class Local:
        def f(self, x: int) -> int:
            return x

    assert_type(obsray.get(Local.remote().f.remote(1)), int)
    Local.remote().f.remote("a")  # error
    Local.remote(1)  # error
    Local()  # error


async def also(counter: ActorHandle[Counter]) -> None:
    assert_type(await counter.later.remote(), str)
    async for item in counter.stream.remote():
        assert_type(await item, str)


def wrong() -> None:
    text = obsray.put("a")
    counter = Counter.remote("a")  # error
    Counter.remote(1, 2)  # error
    Counter.remote(text)  # error
    Counter.remote(colour=1)  # error
    Counter.options(num_cpus=1).remote("a")  # error
    Counter(1)  # error
    Counter.remot(1)  # error
    counter.add.remote("a")  # error
    counter.add.remote(text)  # error
    counter.add.remote()  # error
    counter.add.remote(1, thrice=True)  # error
    counter.add(1)  # error
    counter.add.remoote(1)  # error
    counter.nothing.remote()  # error
    counter.size.remote()  # error
    counter.value.remote()  # error
    print(counter.value + 1)  # error
    number: str = obsray.get(counter.add.remote(1))  # error
    PlainActor.remote("a")  # error
    PlainActor.remote(1).run.remote("a")  # error
    SmallActor.options(num_cpus=1).remote("a")  # error
    Point.remote("a")  # error
    use.remote(counter, 1, y=text)  # error
    use.remote(1, 1)  # error


class Bigger(Counter):  # error
    pass
"""

#: A module that was checked before: mypy has it from its cache and keeps no decorators there.
IMPORTED = """
import obsray

@obsray.remote
class Cutter:
    @obsray.method(num_returns=2)
    def cut(self, text: str) -> tuple[str, str]:
        return text[:1], text[1:]
"""
IMPORTING = """
from typing import Any, assert_type

import cutters
from obsray import ObjectRef

assert_type(cutters.Cutter.remote().cut.remote("ab"), list[ObjectRef[Any]])
cutters.Cutter.remote().cut.remote(1)  # error
cutters.Cutter().cut("ab")  # error
"""


def check(directory: Path, program: str, plugin: bool) -> None:
    """Has mypy check a program: lines that end in ``# error`` must be errors, and no other may."""
    pytest.importorskip("mypy")
    (directory / "program.py").write_text(program)
    (directory / "mypy.ini").write_text(
        f"[mypy]\nstrict = true\nmypy_path = {ROOT}\n{'plugins = obsray.mypy' if plugin else ''}\n"
        "[mypy-cloudpickle.*]\nignore_missing_imports = true\n"
    )
    # Apart from the cache of the checks of the package itself, which has no plugin.
    cache = ROOT / ".mypy_cache" / ("plugin" if plugin else "plain")
    options = ["--config-file", "mypy.ini", "--cache-dir", str(cache), "--follow-imports", "silent"]
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "program.py"], env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=directory, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    found = {int(number) for number in re.findall(r"program\.py:(\d+): error", ended.stdout)}
    lines = program.splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# error")}
    assert found == expected, ended.stdout + ended.stderr


def test_a_type_checker_understands_programs_and_finds_their_mistakes(tmp_path):
    check(tmp_path, PROGRAM, plugin=False)


@pytest.mark.timeout(300)
def test_with_the_plugin_decorated_classes_and_calls_of_methods_have_types(tmp_path):
    check(tmp_path, CLASSES, plugin=True)


@pytest.mark.timeout(300)
def test_the_plugin_knows_classes_of_modules_that_were_checked_before(tmp_path):
    (tmp_path / "cutters.py").write_text(IMPORTED)
    check(tmp_path, IMPORTING, plugin=True)
    # Changed, so that it is checked once more; the other module is not.
    check(tmp_path, IMPORTING + "print()\n", plugin=True)


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "obsray" / "py.typed").exists()
