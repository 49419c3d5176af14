"""The README is true: its example runs, its commands and its links exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str, page: str = README) -> list[str]:
    """Fenced blocks of this language, without the fences."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


COMMANDS = [line.partition("#")[0].split() for block in blocks("") for line in block.splitlines() if line.strip()]


def test_the_example_prints_what_its_comment_says(tmp_path):
    (example,) = blocks("python")
    program = tmp_path / "example.py"
    program.write_text(example)
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    (comment,) = re.findall(r"print\(.*\)  # (\d+)", example)
    assert ended.stdout.split()[-1] == comment


def test_getting_started_is_a_program_that_ends_as_it_says(tmp_path):
    page = (ROOT / "docs" / "getting-started.md").read_text()
    program = tmp_path / "program.py"
    program.write_text("".join(blocks("python", page)))
    ended = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert ended.stdout.splitlines() == ["[0, 1, 4, 9, 16, 25, 36, 49]", "140"], ended.stderr
    shown = blocks("", page)[0]
    for changes in (r"pid \d+", r"[0-9a-f]{32}", r'".*program.py"'):
        shown, ended.stderr = re.sub(changes, "", shown), re.sub(changes, "", ended.stderr)
    assert ended.stderr == shown


def test_the_readme_names_commands():
    assert {command[0] for command in COMMANDS} == {"make", "obsray"}


@pytest.mark.parametrize("target", [command[1] for command in COMMANDS if command[0] == "make"])
def test_every_make_target_named_exists(target):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    ended = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("verb", sorted({command[1] for command in COMMANDS if command[0] == "obsray"}))
def test_every_obsray_command_named_exists(verb):
    ended = subprocess.run(
        [sys.executable, "-m", "obsray", verb, "--help"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
    assert verb in ended.stdout


def test_the_demo_is_a_command():
    ended = subprocess.run(
        [sys.executable, "-m", "obsray.cli", "demo", "--help"], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr
    assert "--once" in ended.stdout


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)", README))
def test_every_file_linked_exists(link):
    assert (ROOT / link).exists()
