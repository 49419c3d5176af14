"""In a notebook: a real kernel runs the cells, and what people see is what the kernel sends them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from queue import Empty
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from tests.integration.programs import PATIENCE_SECONDS, ROOT, SOON_SECONDS

pytestmark = pytest.mark.timeout(120)


class Notebook:
    """A kernel whose sessions lie below a directory of the test."""

    def __init__(self, root: Any) -> None:
        self.kernel = KernelManager()
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
        self.kernel.start_kernel(cwd=str(root), env={**os.environ, "TMPDIR": str(root), "PYTHONPATH": path})
        self.client = self.kernel.client()
        self.client.start_channels()
        self.client.wait_for_ready(PATIENCE_SECONDS)

    def start(self, cell: str) -> str:
        """Begin a cell; returns its number."""
        return str(self.client.execute(cell))

    def messages(self, number: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What a cell shows, as (kind, content), until it has ended."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=0.1)
            except Empty:
                continue
            if message["parent_header"].get("msg_id") != number:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return
            yield message["msg_type"], message["content"]
        raise AssertionError(f"the cell did not end within {PATIENCE_SECONDS} s")

    def run(self, cell: str) -> Any:
        """The plain text of a cell's value, or its error as the notebook shows it; None if it shows neither."""
        shown = None
        for kind, content in self.messages(self.start(cell)):
            if kind == "execute_result":
                shown = content["data"]["text/plain"]
            elif kind == "error":
                shown = "\n".join(content["traceback"])
        return shown

    def hear(self, text: str) -> str:
        """What cells print, until ``text`` is among it: it may come after the cell has ended."""
        said, deadline = "", time.monotonic() + PATIENCE_SECONDS
        while text not in said and time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=0.1)
            except Empty:
                continue
            if message["msg_type"] == "stream":
                said += message["content"]["text"]
        return said

    def close(self) -> None:
        self.client.stop_channels()
        self.kernel.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    found = Notebook(tmp_path_factory.mktemp("notebook"))
    found.run("import obsray, asyncio, time\ncontext = obsray.init(num_cpus=2, include_dashboard=False)")
    yield found
    found.run("obsray.shutdown()")
    found.close()


def test_what_a_cell_defines_anew_is_what_the_next_call_runs(notebook):
    notebook.run("def scale(x): return x * 3\n@obsray.remote\ndef f(x): return scale(x)")
    assert notebook.run("obsray.get(f.remote(2))") == "6"
    notebook.run("def scale(x): return x + 100")
    assert notebook.run("obsray.get(f.remote(2))") == "102"


def test_an_actor_class_of_a_cell_works_and_its_handle_says_how_it_is(notebook):
    notebook.run(
        "@obsray.remote\nclass Counter:\n    def __init__(self): self.n = 0\n"
        "    def add(self): self.n += 1; return self.n\ncounter = Counter.remote()"
    )
    assert notebook.run("obsray.get([counter.add.remote() for _ in range(3)])") == "[1, 2, 3]"
    assert notebook.run("counter").startswith("ActorHandle(Counter, ") and "alive" in notebook.run("counter")


def test_references_are_awaited_at_the_top_of_a_cell(notebook):
    notebook.run("@obsray.remote\ndef double(x): return 2 * x")
    assert notebook.run("await double.remote(4)") == "8"
    assert notebook.run("await asyncio.gather(*[double.remote(x) for x in range(3)])") == "[0, 2, 4]"


def test_bars_of_a_cell_and_of_its_tasks_are_one_output_that_changes(notebook):
    number = notebook.start(
        "from obsray.experimental.tqdm_ray import instance, tqdm\n"
        "@obsray.remote\ndef rows(): return sum(tqdm(range(3), desc='rows', flush_interval_s=0))\n"
        "with tqdm(total=1, desc='all') as bar:\n"
        "    obsray.get(rows.remote()); bar.update()\n"
        "    while len(instance()._owners) < 2 or len(instance()._bars) > 1: time.sleep(0.01)"
    )
    outputs: dict[str, list[str]] = {}
    for kind, content in notebook.messages(number):
        assert kind != "error", content
        if kind in ("display_data", "update_display_data"):
            outputs.setdefault(content["transient"]["display_id"], []).append(content["data"]["text/plain"])
    (states,) = outputs.values()
    assert states[0].startswith("all:   0%|") and "\n" not in states[0]
    rows, everything = states[-1].split("\n")
    assert re.match(r"\(rows pid=\d+\) rows: 100%\|█{10}\| 3/3 \[", rows) and everything.startswith("all: 100%|")


def test_an_error_shows_the_lines_of_the_cells(notebook):
    notebook.run("@obsray.remote\ndef parse(text):\n    return int(text)")
    shown = notebook.run('obsray.get(parse.remote("seven"))')
    assert "return int(text)" in shown and "obsray story" in shown
    assert "values.py" not in shown and "executor.py" not in shown


def test_interrupting_a_cell_returns_and_the_runtime_goes_on(notebook):
    notebook.run("@obsray.remote\ndef says(path):\n    open(path, 'w').close()\n    time.sleep(60)")
    number = notebook.start(
        "import os\nreference = says.remote(os.path.join(context.address_info['session_dir'], 'began'))\n"
        "while not os.path.exists(os.path.join(context.address_info['session_dir'], 'began')): time.sleep(0.01)\n"
        "import threading\nthreading.Timer(0.3, print, ['waiting']).start()\nobsray.get(reference)"
    )
    began, errors, shown = 0.0, [], ""
    for kind, content in notebook.messages(number):
        if kind == "stream" and "waiting" in content["text"]:
            began = time.monotonic()
            notebook.kernel.interrupt_kernel()
        elif kind == "error":
            errors.append(content["ename"])
            shown += "\n".join(content["traceback"])
    assert errors == ["KeyboardInterrupt"] and time.monotonic() - began < 2 * SOON_SECONDS
    # The lines of the cell, and not where in the runtime it came.
    assert "obsray.get(reference)" in shown and "/obsray/core/" not in shown
    assert "TaskCancelledError" in notebook.run("obsray.get(reference)")
    assert notebook.run("obsray.get(double.remote(1))") == "2"


def test_interrupts_never_meet_the_runtime_in_the_middle_also_in_later_cells(notebook):
    """The kernel puts Python's own handler back before each cell."""
    handler = "import signal\nsignal.getsignal(signal.SIGINT).__name__"
    assert [notebook.run(handler) for _ in range(2)] == ["'on_interrupt'"] * 2
    assert notebook.run(f"obsray.shutdown()\n{handler}") == notebook.run(handler) == "'default_int_handler'"
    again = "context = obsray.init(num_cpus=2, include_dashboard=False)\n"
    assert notebook.run(again + handler) == notebook.run(handler) == "'on_interrupt'"
    assert notebook.run("obsray.get(double.remote(2))") == "4"


def test_what_tasks_print_appears_in_the_notebook(notebook):
    notebook.start("@obsray.remote\ndef says():\n    print('hello from a task')\nobsray.get(says.remote())")
    assert "hello from a task" in notebook.hear("hello from a task")
