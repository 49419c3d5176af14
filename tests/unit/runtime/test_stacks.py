"""Stacks as text: user code without the runtime around it, bounded."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from obsray.config import Config
from obsray.core.runtime import stacks
from obsray.core.runtime.executor import call_user_code
from obsray.core.runtime.stacks import DEPTH_MAX, StackTexts, points_of, points_of_awaiting
from obsray.core.runtime.watcher import Watcher
from obsray.telemetry.spine import Silent


def own_points() -> list[Any]:
    """Where the caller is: what is on top of that is the walk itself."""
    points = points_of(threading.get_ident())
    while points.pop(0)[0] is not own_points.__code__:
        pass
    return points


def here(depth: int = 0) -> list[Any]:
    return here(depth - 1) if depth else own_points()


def test_only_what_a_task_called_is_told() -> None:
    text = StackTexts().text(call_user_code(here, (), {}), task=True)
    assert text.startswith("here (runtime/test_stacks.py:") and "\n" not in text
    # Of a driver all of it is.
    assert "test_only_what_a_task_called_is_told" in StackTexts().text(here(), task=False)


def test_a_task_that_is_not_in_user_code_says_what_the_runtime_does() -> None:
    assert StackTexts().text(own_points(), task=True).startswith(stacks.NOT_USER_CODE)


def test_a_deep_stack_keeps_its_ends_and_says_what_is_left_out() -> None:
    lines = StackTexts().text(call_user_code(here, (500,), {}), task=True).split("\n")
    assert len(lines) == DEPTH_MAX + 1
    assert f"({501 - DEPTH_MAX} frames left out)" in lines


def test_the_same_place_is_turned_into_text_once() -> None:
    texts = StackTexts()
    found = [texts.text(points, True) for points in (call_user_code(here, (), {}) for _ in range(3))]
    assert len(set(found)) == 1 and len(texts._known) == 1


def test_a_suspended_coroutine_is_where_it_awaits() -> None:
    async def inner() -> None:
        await asyncio.sleep(3600)

    async def outer() -> None:
        await inner()

    async def look() -> str:
        task = asyncio.get_running_loop().create_task(outer())
        await asyncio.sleep(0)
        text = StackTexts().text(points_of_awaiting(task.get_coro()), task=False)
        task.cancel()
        return text

    names = [line.partition(" ")[0].rpartition(".")[2] for line in asyncio.run(look()).split("\n")]
    assert names == ["outer", "inner", "sleep"]


def test_installed_packages_keep_their_name() -> None:
    assert stacks.place_of("/x/lib/python3/site-packages/numpy/core/a.py") == "numpy/core/a.py"
    assert stacks.place_of("<string>") == "<string>" and stacks.place_of("/home/me/deep/work.py") == "deep/work.py"


def test_a_sampler_that_fails_is_left_alone_and_the_watcher_goes_on(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("a surprise")

    watched: Any = SimpleNamespace(
        directory=tmp_path, emitter=Silent(), ownership=SimpleNamespace(unseen=None), lock=None
    )
    watcher = Watcher(watched, Config(profile_hz=0))
    watcher.sampler = SimpleNamespace(look=fail)  # type: ignore[assignment]
    assert watcher.observe(0.1) == 0.1
    assert watcher.sampler is None
    assert watcher.observe(0.2) == 0.2


RESTLESS = """
import sys, threading, time
from obsray.core.runtime.stacks import points_of, threads

sys.setswitchinterval(1e-6)  # another thread runs between any two steps
over, depths = threading.Event(), set()

def watch(ident):
    while not over.is_set():
        assert ident in threads()
        depths.add(len(points_of(ident)))

def values(count):
    for _ in range(count):
        yield from (x for x in range(3))

def down(depth):
    try:
        if depth % 7 == 3:
            raise ValueError
        return down(depth - 1) if depth else sum(values(3))
    except ValueError:
        return down(depth - 1)

watcher = threading.Thread(target=watch, args=(threading.get_ident(),))
watcher.start()
ends, depth = time.monotonic() + 2, 0
while time.monotonic() < ends or len(depths) < 20:
    depth = (depth + 1) % 60
    down(depth)
over.set()
watcher.join()
"""


def test_stacks_of_a_thread_that_never_rests_can_be_taken_at_any_time() -> None:
    ended = subprocess.run([sys.executable, "-c", RESTLESS], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr
