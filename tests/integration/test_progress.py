"""How far a ``get`` has come, for who asks for it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import obsray
from obsray import exceptions
from obsray.core.runtime import unplaceable
from tests.integration.programs import eventually
from tests.integration.terminal import Screen, Terminal

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[None]:
    with obsray.init(num_cpus=1, include_dashboard=False, log_to_driver=False):
        yield


@obsray.remote
def wait_for(path: str, then: str = "") -> str:
    while not Path(path).exists():
        time.sleep(0.01)
    if then:
        raise ValueError(then)
    return path


def test_it_counts_and_says_why_nothing_moves(tmp_path, capsys):
    gate = tmp_path / "gate"
    blocked = [wait_for.remote(str(gate)) for _ in range(3)] + [obsray.put(1)]
    with pytest.raises(exceptions.GetTimeoutError):
        obsray.get(blocked, timeout=1.6, progress=True)
    shown = capsys.readouterr().err
    assert "\rget [####............] 1/4" in shown and shown.endswith("\n")
    assert re.search(r"nothing for [1-9]", shown) and "waiting for CPU:1" in shown and "obsray get task" in shown
    gate.touch()
    assert len(obsray.get(blocked, progress=True)) == 4


def test_it_says_how_many_failed(tmp_path, capsys):
    references = [wait_for.remote(str(tmp_path), "no"), wait_for.remote(str(tmp_path / "never"))]
    # Also if that was known before anybody waited.
    obsray.wait(references, timeout=60)
    try:
        ready, rest = obsray.wait(references, num_returns=2, timeout=3, progress=True)
        assert (ready, rest) == (references[:1], references[1:])
        assert "1/2, 1 failed" in capsys.readouterr().err
    finally:
        obsray.cancel(references[1], force=True)


def test_nothing_is_shown_unasked_or_for_what_is_there(capsys):
    obsray.get([obsray.put(1)] * 3, progress=True)
    obsray.wait([obsray.put(1)], progress=True)
    obsray.get(obsray.remote(lambda: threading.Event().wait(0.5)).remote())
    assert capsys.readouterr().err == ""


PROGRAM = """
import obsray, time
obsray.init(num_cpus=2, include_dashboard=False)
obsray.get([obsray.remote(lambda: time.sleep(0.2)).remote() for _ in range(6)])
"""


@pytest.mark.parametrize(("setting", "shown"), [("1", True), ("0", False)])
def test_the_setting_shows_it_on_a_terminal(root, setting, shown):
    (root / "program.py").write_text(PROGRAM)
    terminal = Terminal(root, str(root / "program.py"), OBSRAY_PROGRESS=setting)
    assert terminal.end() == 0
    assert ("6/6" in terminal.shown) == shown, terminal.shown
    terminal.close()


BARS = """
import os, pathlib, sys, time
import obsray
from obsray.experimental.tqdm_ray import tqdm
obsray.init(num_cpus=3, include_dashboard=False)

@obsray.remote
def rows(number, gate):
    for each in tqdm(range(4), desc=f"rows {number}", flush_interval_s=0):
        while each == 2 and not os.path.exists(gate):
            time.sleep(0.01)

@obsray.remote
class Dies:
    def begin(self):
        self.bar = tqdm(total=8, desc="lost")
        self.bar.update(3)
        self.bar.refresh()
    def end(self):
        os._exit(1)

gate, dies = sys.argv[1], Dies.remote()
obsray.get(dies.begin.remote())
whole = tqdm(total=2, desc="whole")
all_rows = [rows.remote(number, gate) for number in range(2)]
print("before")
while not os.path.exists(gate):
    time.sleep(0.01)
print("after")
dies.end.remote()
for done in all_rows:
    obsray.get(done)
    whole.update()
whole.close()
"""


def test_the_driver_draws_the_bars_of_all_its_tasks_together_below_what_it_prints(root):
    (root / "bars.py").write_text(BARS)
    terminal = Terminal(root, str(root / "bars.py"), str(root / "gate"), TERM="xterm")
    stand = ["lost:  37%", "rows 0:  50%", "rows 1:  50%", "whole:   0%"]
    try:
        eventually(lambda: all(any(bar in line for line in terminal.look()) for bar in stand))
        lines = terminal.look()
        assert [line for line in lines if "|" not in line][-1] == "before" == lines[-5], lines
        (root / "gate").touch()
        assert terminal.end() == 0
    finally:
        terminal.close()
    lines = Screen.of(terminal.shown)
    assert lines.count("before") == lines.count("after") == 1
    bars = sorted(re.sub(r"^\(.*?\) ", "", line)[:11] for line in lines if "|" in line)
    assert bars == ["lost:  37%|", "rows 0: 100", "rows 1: 100", "whole: 100%"], lines


def test_a_driver_that_waits_for_what_no_node_has_is_told_so_once(monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(unplaceable, "AFTER_SECONDS", 0.1)

    @obsray.remote(num_cpus=0, num_gpus=3)
    def wants_much():
        return 1

    @obsray.remote(resources={"nowhere": 1})
    class Elsewhere:
        pass

    @obsray.remote(num_cpus=0)
    def needs(value):
        return value

    much = wants_much.remote()
    for reference in (needs.remote(much), much, Elsewhere.remote().__ray_ready__.remote()):
        with pytest.raises(exceptions.GetTimeoutError):
            obsray.get(reference, timeout=1)

    def heard():
        return [record.getMessage() for record in caplog.records if record.name == "obsray.scheduling"]

    said = heard()
    assert len(said) == 2
    assert said[0].startswith("wants_much needs GPU:3, and no node has that (the most that one has: GPU 0). It waits")
    assert f"`obsray why {much.task_id().hex()}`" in said[0]
    assert said[1].startswith("actor Elsewhere needs CPU:1 nowhere:1, and no node has that")
    runs = wait_for.remote(str(tmp_path / "go"))
    with pytest.raises(exceptions.GetTimeoutError):
        obsray.get([needs.remote(runs), wait_for.remote(str(tmp_path / "go"))], timeout=1)
    assert heard() == said, "what runs, or could, is not spoken of"
    (tmp_path / "go").touch()
    obsray.get(runs, timeout=60)
    obsray.cancel(much)
