"""What `ps` shows of a process that says what it does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from obsray.core.system.title import Title

PROGRAM = """
import sys
from obsray.core.system.title import Title
title = Title()
print("ready", flush=True)
for line in sys.stdin:
    title.show(eval(line))
    print("shown", flush=True)
"""


@pytest.fixture
def process():
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "some", "more"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        # Before it is there, the kernel may know nothing of its arguments.
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        assert process.wait(60) == 0


def shown(process: subprocess.Popen[str], text: str) -> tuple[str, str, str]:
    """Command line, short name and the environment's first variable once the process is called ``text``."""
    process.stdin.write(f"{text!r}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "shown\n"
    proc = Path(f"/proc/{process.pid}")
    line, short, variables = ((proc / name).read_text() for name in ("cmdline", "comm", "environ"))
    return line.rstrip("\0"), short.rstrip("\n"), variables.split("\0")[0]


def test_the_command_line_and_the_short_name_say_it_and_nothing_else_is_touched(process):
    proc = Path(f"/proc/{process.pid}")
    room = len((proc / "cmdline").read_bytes()) - 1
    first = (proc / "environ").read_text().split("\0")[0]
    assert shown(process, "obsray::train") == ("obsray::train", "obsray::train", first)
    assert shown(process, "obsray::f") == ("obsray::f", "obsray::f", first), "nothing of the longer one is left"
    assert shown(process, "two\nlines\0é") == ("two lines é", "two lines é", first)
    assert shown(process, "abcdefghijklmné") == ("abcdefghijklmné", "abcdefghijklmn", first), "no half characters"
    line, short, variable = shown(process, "x" * 5000)
    assert line == "x" * room and short == "x" * 15 and variable == first


@pytest.mark.parametrize("stat", [None, b"", b"1 (a) S 1 2", b"1 (a) S" + b" 0" * 60, b"1 (a) S" + b" 9" * 60])
def test_where_it_is_not_known_where_the_arguments_lie_nothing_is_written_there(tmp_path, stat):
    if stat is not None:
        (tmp_path / "stat").write_bytes(stat)
        (tmp_path / "cmdline").write_bytes(b"python\0")
    title = Title(tmp_path)
    title.show("obsray::f")
    assert title._size == 0 and (tmp_path / "comm").read_bytes() == b"obsray::f"
    (tmp_path / "comm").unlink()
    (tmp_path / "comm").mkdir()
    title.show("obsray::g")
    title.show("obsray::h")
