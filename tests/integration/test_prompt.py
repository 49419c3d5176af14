"""At a prompt: things are defined anew, looked at, and go wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import obsray
from obsray.util.queue import Queue
from tests.integration.programs import ROOT
from tests.integration.terminal import Terminal

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(120)


class Prompt:
    """A Python prompt on a terminal."""

    def __init__(self, root: Path) -> None:
        self.terminal = Terminal(root, "-i", "-q")
        self.terminal.see(">>> ")

    def enter(self, block: str) -> str:
        """Type a statement. Returns what was shown until the next prompt."""
        lines = block.strip("\n").splitlines()
        for line in lines[:-1]:
            self.terminal.type(line + "\n")
            self.terminal.see("... ")
        self.terminal.type(lines[-1] + "\n")
        if len(lines) > 1 or block.startswith(("def ", "class ")):
            self.terminal.see("... ")
            self.terminal.type("\n")
        return self.terminal.see(">>> ").partition("\n")[2].rpartition(">>> ")[0].strip()


@pytest.fixture
def prompt(root: Path) -> Iterator[Prompt]:
    found = Prompt(root)
    found.enter("import obsray, dataclasses, enum")
    found.enter("context = obsray.init(num_cpus=2, include_dashboard=False)")
    yield found
    found.terminal.close()


def test_what_is_defined_anew_is_what_later_calls_run(prompt):
    prompt.enter("factor = 10")
    prompt.enter("class Base:\n    def times(self): return factor")
    prompt.enter("def help_me(x): return x + Base().times()")
    prompt.enter("@obsray.remote\ndef inner(x): return help_me(x)")
    prompt.enter("@obsray.remote\ndef outer(x): return obsray.get(inner.remote(x))")
    prompt.enter("@obsray.remote\nclass Keeper:\n    def look(self): return help_me(0)")
    look = "[obsray.get(f.remote(1)) for f in (inner, outer)] + [obsray.get(Keeper.remote().look.remote())]"
    assert prompt.enter(look) == "[11, 11, 10]"
    prompt.enter("factor = 20")
    assert prompt.enter(look) == "[21, 21, 20]"
    prompt.enter("def help_me(x): return -x")
    assert prompt.enter(look) == "[-1, -1, 0]"
    prompt.enter("@obsray.remote\ndef inner(x): return 'new'")
    assert prompt.enter(look) == "['new', 'new', 0]"
    prompt.enter("@obsray.remote\nclass Keeper:\n    def look(self): return 'newer'")
    assert prompt.enter(look) == "['new', 'new', 'newer']"


def test_classes_of_the_prompt_travel_and_come_back_as_themselves(prompt):
    prompt.enter("@dataclasses.dataclass\nclass Point:\n    x: int")
    prompt.enter("class Colour(enum.Enum):\n    RED = 1")
    prompt.enter("@obsray.remote\ndef move(p): return Point(p.x + 1), Colour.RED")
    prompt.enter("point, colour = obsray.get(move.remote(Point(1)))")
    assert prompt.enter("type(point) is Point, point == Point(2), colour is Colour.RED") == "(True, True, True)"
    assert prompt.enter("obsray.get((lambda f: f.remote(3))(obsray.remote(lambda x: x * 2)))") == "6"
    prompt.enter("@dataclasses.dataclass\nclass Point:\n    x: int\n    y: int = 5")
    assert prompt.enter("obsray.get(move.remote(Point(1)))[0]") == "Point(x=2, y=5)"


def test_an_error_at_the_prompt_has_no_frames_of_the_runtime_and_names_the_next_command(prompt):
    prompt.enter("@obsray.remote\ndef fail(x):\n    raise ValueError('the reason')")
    shown = prompt.enter("obsray.get(fail.remote(1))")
    assert "ValueError: the reason" in shown and "obsray story " in shown and "in fail" in shown
    assert "obsray/core" not in shown
    prompt.enter("import time")
    prompt.enter("slow = obsray.remote(lambda: time.sleep(600))")
    prompt.terminal.type("print('waiting'), obsray.get(slow.remote())\n")
    prompt.terminal.see("\nwaiting\n")
    prompt.terminal.interrupt()
    assert "KeyboardInterrupt" in prompt.terminal.see(">>> ")
    assert prompt.enter("obsray.get(obsray.put(1))") == "1"


PROGRAM = """
import obsray, sys
obsray.init(num_cpus=1, include_dashboard=False)

def helper(x):
    try:
        {}["missing"]
    except KeyError as error:
        raise ValueError("the reason") from error

@obsray.remote
def inner(x): return helper(x)

@obsray.remote
def outer(x): return obsray.get(inner.remote(x))

def main():
    obsray.get(outer.remote(1))

main()
"""


def test_the_traceback_of_a_script_shows_the_users_lines_alone(root):
    (root / "program.py").write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, "program.py"], cwd=root, capture_output=True, text=True, timeout=50,
        env={"PYTHONPATH": str(ROOT), "TMPDIR": str(root), "PATH": ""},
    )  # fmt: skip
    assert ended.returncode == 1
    assert "obsray/core" not in ended.stderr and "cloudpickle" not in ended.stderr, ended.stderr
    order = ["in main", "obsray.errors.RayTaskError(ValueError)", "in outer", "KeyError: 'missing'", "direct cause"]
    order += ["in inner", "ValueError: the reason", "\ntrace ", "`obsray story "]
    places = [ended.stderr.find(text) for text in order]
    assert -1 not in places and places == sorted(places), ended.stderr


def test_a_short_program_says_nothing_of_its_own(root):
    for name in ("json", "random", "queue"):
        # Where the program is started, not where it lies.
        (root / f"{name}.py").write_text("raise RuntimeError('not the one of the standard library')")
    code = "import obsray; obsray.init(num_cpus=2, include_dashboard=False)"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=root, capture_output=True, text=True, timeout=50,
        env={"PYTHONPATH": str(ROOT), "TMPDIR": str(root), "PATH": ""},
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_where_the_dashboard_is_is_said_once_to_a_person_unless_they_do_not_want_it(root: Path) -> None:
    announcing = "any(t.name == 'obsray-announcement' for t in __import__('threading').enumerate())"
    terminal = Terminal(
        root, "-c",
        "import obsray\n"
        "for options in ({'logging_level': 'WARNING'}, {'configure_logging': False}, {'log_to_driver': False},\n"
        "                {'include_dashboard': False}):\n"
        "    with obsray.init(num_cpus=1, **options):\n"
        f"        print(options, 'announced:', {announcing})\n"
        "context = obsray.init(num_cpus=1)\n"
        "print('ready', flush=True)\n"
        "print(context.session.token.hex(), input())\n",
    )  # fmt: skip
    try:
        shown = terminal.see("ready\n")
        assert shown.count("announced: False") == 4 and "Dashboard" not in shown
        where = terminal.see("the link that opens it)\n").splitlines()[-1]
        assert re.match(r"Started a runtime on this machine\. Dashboard: http://127\.0\.0\.1:\d+ \(", where)
        terminal.type("\n")
        assert terminal.end() == 0
        assert terminal.shown.count("Dashboard:") == 1 and terminal.shown.split()[-1] not in where
    finally:
        terminal.close()


def test_where_the_dashboard_is_goes_to_the_log_if_that_shows_it(root: Path) -> None:
    code = (
        "import obsray, sys\n"
        "with obsray.init(num_cpus=1, logging_config=obsray.LoggingConfig(encoding='JSON')) as context:\n"
        "    context._announcing.join()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=90,
        env={"PYTHONPATH": str(ROOT), "TMPDIR": str(root), "PATH": ""},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    said = [json.loads(line)["message"] for line in ended.stderr.splitlines()]
    assert sum("Dashboard: http://127.0.0.1:" in line for line in said) == 1


def test_what_is_shown_of_things_says_how_they_are_and_asks_nobody(root):
    @obsray.remote(num_cpus=1)
    def add(x: int) -> int:
        return x + 1

    @obsray.remote
    class Cup:
        def fill(self) -> int:
            return 1 // 0

    with obsray.init(num_cpus=1, include_dashboard=False, _temp_dir=str(root)) as context:
        cup = Cup.remote()
        here, queue = obsray.get_runtime_context(), Queue(maxsize=7)
        assert f"node_id=NodeID({here.get_node_id()})" in repr(here) and "task_id" not in repr(here)
        assert repr(queue).startswith("Queue(maxsize=7, actor=ActorHandle(")
        assert "pending" in repr(cup) and repr(add).endswith("add with num_cpus=1>")
        reference, failed = add.remote(1), cup.fill.remote()
        obsray.wait([reference, failed], num_returns=2)
        assert "ready, " in repr(reference) and "failed" in repr(failed) and ", alive" in repr(cup)
        assert "bytes stored" in repr(obsray.put(bytes(1 << 20)))
        assert str(reference) == str(reference) and reference.hex() in repr(reference)
        with context.session.lock:
            # Whoever shows something must not need it.
            repr([reference, failed, cup, context, add, queue])
        assert context.session.directory.name in context._repr_html_()
        assert context.session.token.hex() not in context._repr_html_()
    assert "ended" in repr(cup) and "ended" in repr(context) and "ended" in context._repr_html_()
    assert reference.hex() in repr(reference)
