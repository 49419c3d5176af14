"""Ctrl-C: heard soon wherever the driver is, and everything goes on or ends."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.programs import SOON_SECONDS, eventually, leftovers, views
from tests.integration.terminal import Terminal

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(120)

_START = """
import sys, threading, time, obsray
obsray.init(num_cpus=2, include_dashboard=False)

@obsray.remote
def slow(): time.sleep(600)

@obsray.remote
def quick(): return 1

@obsray.remote
def stubborn():
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

@obsray.remote
class Cup:
    def fill(self): pass

def say_when_it_waits():
    # Once the main thread has been at one place for a while.
    def look(thread=threading.get_ident()):
        before, since = None, 0
        while since < 20:
            time.sleep(0.01)
            frame = sys._current_frames()[thread]
            here = frame.f_code, frame.f_lasti
            before, since = here, since + 1 if here == before else 0
        print("waits", flush=True)
    threading.Thread(target=look).start()
"""


@pytest.fixture
def terminal(root: Path) -> Iterator[Callable[[str], Terminal]]:
    started: list[Terminal] = []

    def start(source: str) -> Terminal:
        (root / "program.py").write_text(source)
        started.append(Terminal(root, str(root / "program.py")))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.mark.parametrize(
    "busy",
    [
        "obsray.get([slow.remote() for _ in range(10)])",
        "while True: quick.remote()",
        "while True: cup.fill.remote()",
        "while True: obsray.put(1)",
        "while True: obsray.wait([waiting], timeout=0)",
        "while True: obsray.nodes()",
    ],
)
def test_a_program_ends_by_ctrl_c_and_leaves_nothing(terminal, root, busy):
    running = terminal(f"{_START}\ncup, waiting = Cup.remote(), slow.remote()\nprint('busy', flush=True)\n{busy}\n")
    running.see("busy\n")
    pressed = running.interrupt()
    running.see("KeyboardInterrupt")
    assert time.monotonic() - pressed < SOON_SECONDS
    assert running.end() != 0
    assert running.shown.count("Traceback") == 1, running.shown
    (directory,) = root.glob("obsray-*/s_*")
    rows = views(directory).tasks([("name", "=", "slow")], limit=1000)["rows"]
    assert {row["state"] for row in rows} == {"CANCELLED"}
    eventually(lambda: not leftovers(root))


def test_a_program_that_catches_it_goes_on_and_what_it_waited_for_is_cancelled(terminal):
    running = terminal(f"""{_START}
reference = slow.remote()
try:
    say_when_it_waits()
    obsray.get(reference)
except KeyboardInterrupt:
    print("caught", obsray.get(quick.remote()), flush=True)
try:
    obsray.get(reference)
except obsray.exceptions.TaskCancelledError:
    print("cancelled", obsray.get([quick.remote() for _ in range(3)]))
""")
    running.see("waits\n")
    running.interrupt()
    running.see("caught 1\n")
    running.see("cancelled [1, 1, 1]\n")
    assert running.end() == 0


def test_a_ctrl_c_that_nobody_catches_shows_the_programs_lines_alone(terminal):
    running = terminal(f"{_START}\nreference = slow.remote()\nsay_when_it_waits()\nobsray.get(reference)\n")
    running.see("waits\n")
    running.interrupt()
    assert running.end() == -signal.SIGINT
    shown = running.shown.partition("Traceback")[2]
    assert "obsray.get(reference)" in shown and "KeyboardInterrupt" in shown and "/obsray/" not in shown


def test_a_second_ctrl_c_ends_what_does_not_want_to_end(terminal, root):
    running = terminal(f"{_START}\nreference = stubborn.remote()\nprint('busy', flush=True)\nobsray.get(reference)\n")
    running.see("busy\n")
    running.interrupt()
    running.see("KeyboardInterrupt")
    running.interrupt()
    running.end()
    eventually(lambda: not leftovers(root))


#: Frees what has finalizers and callbacks of every kind: references, handles, views of arrays, generators, weak sets.
_CHURN = """
import os, random, sys, weakref
import numpy as np

class Freed:
    def __del__(self):
        for _ in range(20): pass

def items():
    try:
        for number in range(10): yield obsray.put(number)
    finally:
        for _ in range(20): pass

def churn(large, cup):
    while True:
        kept = [obsray.put(number) for number in range(10)]
        kept += [Freed() for _ in range(50)]
        watched = weakref.WeakSet(kept[10:])
        del kept
        next(items())
        for _ in range(10): quick.options(num_cpus=1), cup.fill.options(name="x"), obsray.get(large)
"""
PRESSES = 60


def test_no_ctrl_c_is_lost_whatever_is_being_freed_when_it_comes(terminal):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    running = terminal(f"""{_START}{_CHURN}
cup, large, caught = Cup.remote(), obsray.put(np.zeros(300_000, np.uint8)), 0
while caught < {PRESSES}:
    try:
        os.write(1, f"caught {{caught}};".encode())
        churn(large, cup)
    except KeyboardInterrupt:
        caught += 1
print("all heard", obsray.get(quick.remote()), flush=True)
""")
    for number in range(PRESSES):
        running.see(f"caught {number};")
        threading.Event().wait(chance.random() * 0.02)
        running.interrupt()
    running.see("all heard 1\n")
    assert running.end() == 0
    assert "Exception ignored" not in running.shown and "Error" not in running.shown, running.shown


def test_no_cancellation_is_lost_whatever_the_task_is_freeing_when_it_comes(terminal):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    running = terminal(
        f"""{_START}{_CHURN}
cup, small, chance = Cup.remote(), obsray.put(1), random.Random({seed})
churns = obsray.remote(num_cpus=2, max_retries=0)(churn)
for _ in range(20):
    reference = churns.remote([small], cup)
    obsray.wait([reference], timeout=chance.random() * 0.1)
    obsray.cancel(reference)
    try:
        obsray.get(reference, timeout=30)
    except obsray.exceptions.TaskCancelledError:
        pass
print("all cancelled", obsray.get(quick.remote()), flush=True)
""".replace("obsray.get(large)", "obsray.get(large[0])")
    )
    running.see("all cancelled 1\n")
    assert running.end() == 0


def test_a_cancellation_waits_for_an_import_so_that_the_module_is_whole_for_who_comes_next(terminal, root):
    (root / "halfway.py").write_text("""
import pathlib, time
here = pathlib.Path(__file__).parent
with open(here / "imports", "a") as file:
    file.write("x")
while not (here / "go").exists():
    time.sleep(0.01)
""")
    running = terminal(f"""
import pathlib, sys, threading, time
sys.path.insert(0, {str(root)!r})
import obsray
obsray.init(num_cpus=1, include_dashboard=False)

@obsray.remote(max_retries=0)
def imports():
    first = "halfway" not in sys.modules
    import halfway
    time.sleep(60 if first else 0)  # the cancellation comes in here
    return "whole"

here, reference = pathlib.Path({str(root)!r}), imports.remote()
while not (here / "imports").exists():
    time.sleep(0.01)
obsray.cancel(reference)
threading.Timer(0.5, (here / "go").touch).start()
try:
    obsray.get(reference)
except obsray.exceptions.TaskCancelledError:
    print("cancelled", obsray.get(imports.remote()), (here / "imports").read_text(), flush=True)
""")
    running.see("cancelled whole x\n")
    assert running.end() == 0


def test_init_can_be_interrupted_and_tried_again(terminal, root):
    running = terminal("""
import obsray
try:
    print("busy", flush=True)
    while True:
        obsray.init(num_cpus=1, include_dashboard=False)
        obsray.shutdown()
except KeyboardInterrupt:
    obsray.shutdown()
obsray.init(num_cpus=1, include_dashboard=False)
print("again", obsray.get(obsray.put(3)), flush=True)
""")
    running.see("busy\n")
    running.interrupt()
    running.see("again 3\n")
    assert running.end() == 0
    eventually(lambda: not leftovers(root))
