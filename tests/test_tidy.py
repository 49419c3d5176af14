"""Habits of this code base that no other tool checks. Each failure names the file and the line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("obsray", "tests", "scripts", "benchmarks", "examples")
GENERATED = ("_pb2.py", "_pb2_grpc.py")
#: Words that say nothing about what a thing is.
EMPTY_WORDS = {"utils", "helper", "helpers", "manager"}
#: Names that programs written for Ray know.
FAMILIAR = {"cluster_utils", "node_manager_port"}
#: The one door a state goes through.
DOOR = "obsray/core/protocol/lifecycle.py"


def sources(folder: str = "") -> list[Path]:
    found = [path for name in FOLDERS for path in (ROOT / name).rglob("*.py") if not path.name.endswith(GENERATED)]
    return [path for path in found if path.is_relative_to(ROOT / folder)]


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(), str(path)))


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def defined_names(path: Path) -> Iterator[tuple[str, int]]:
    """Names that the file gives to things: classes, functions, arguments, assigned variables and attributes."""
    for node in nodes(path):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno
            case ast.Attribute(ctx=ast.Store()):
                yield node.attr, node.lineno


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def sleeps(path: Path) -> list[int]:
    """Lines that let a thread wait for time to pass.

    Between two looks at a condition (``while not there(): time.sleep(...)``) it is allowed: nobody can be told when
    another process has written something.
    """
    tree = ast.parse(path.read_text(), str(path))
    looks = [node for node in ast.walk(tree) if isinstance(node, ast.While) and not isinstance(node.test, ast.Constant)]
    between_looks = {id(node) for look in looks for node in ast.walk(look)}
    found = []
    for node in ast.walk(tree):
        if id(node) in between_looks:
            continue
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr="sleep")):
                found.append(node.lineno)
            case ast.ImportFrom(module="time", names=names) if any(name.name == "sleep" for name in names):
                found.append(node.lineno)
    return found


def swallowed(path: Path) -> list[int]:
    """Lines that drop any error whatever without a word."""
    found = []
    for node in nodes(path):
        if not isinstance(node, ast.ExceptHandler) or not all(isinstance(each, ast.Pass) for each in node.body):
            continue
        if node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")):
            found.append(node.lineno)
    return found


def state_assignments(path: Path) -> list[int]:
    """Lines that set ``something.state`` to a state of a lifecycle, which only ``advance`` does.

    What ``__init__`` gives to ``self`` is where a life begins, and no move.
    """
    tree = ast.parse(path.read_text(), str(path))
    births = {
        id(assignment)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef) and function.name == "__init__"
        for assignment in ast.walk(function)
        if isinstance(assignment, ast.Assign) and ast.unparse(assignment.targets[0]) == "self.state"
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in births:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else []
        if not any(isinstance(target, ast.Attribute) and target.attr == "state" for target in targets):
            continue
        assert isinstance(node, ast.Assign)
        value = node.value
        if isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name | ast.Attribute):
            owner = value.value.id if isinstance(value.value, ast.Name) else value.value.attr
            if owner.endswith("State"):
                found.append(node.lineno)
    return found


def test_no_name_is_made_of_empty_words():
    found = [
        place(path, line) + f" {name}"
        for path in sources()
        for name, line in defined_names(path)
        if words(name) & EMPTY_WORDS and name not in FAMILIAR
    ]
    found += [
        str(path.relative_to(ROOT))
        for path in sources()
        if words(path.stem) & EMPTY_WORDS and path.stem not in FAMILIAR
    ]
    assert found == []


def test_no_test_sleeps():
    assert [place(path, line) for path in sources("tests") for line in sleeps(path)] == []


def test_no_error_is_swallowed_whole():
    assert [place(path, line) for path in sources("obsray") for line in swallowed(path)] == []


def test_nothing_is_left_to_be_fixed_before_it_is_merged():
    mark = "FIX" + "ME"
    lines = [
        place(path, number)
        for path in sources()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if mark in line
    ]
    assert lines == []


def test_a_state_changes_only_through_its_lifecycle():
    found = [place(path, line) for path in sources("obsray") if path != ROOT / DOOR for line in state_assignments(path)]
    assert found == []


@pytest.mark.parametrize(
    ("check", "bad", "good"),
    [
        (sleeps, "import time\ntime.sleep(1)", "import time\ntime.monotonic()"),
        (sleeps, "\nfrom time import sleep", "\nfrom time import monotonic"),
        (sleeps, "while True:\n time.sleep(1)", "while not there():\n time.sleep(1)"),
        (swallowed, "try: f()\nexcept Exception: pass", "try: f()\nexcept ValueError: pass"),
        (swallowed, "try: f()\nexcept: pass", "try: f()\nexcept Exception: g()"),
        (state_assignments, "\na.b.state = TaskState.FAILED", "\na.state = before.state"),
        (state_assignments, "\nself.state = TaskState.FAILED", "def __init__(self):\n self.state = TaskState.QUEUED"),
        (state_assignments, "\ntask.state = lifecycle.TaskState.FAILED", "\nstate = TaskState.FAILED"),
    ],
)
def test_the_checks_find_what_they_look_for(tmp_path, check, bad, good):
    path = tmp_path / "sample.py"
    path.write_text(bad)
    assert check(path) == [2]
    path.write_text(good)
    assert check(path) == []


def test_words_are_found_in_every_style_of_name():
    assert words("TaskManager") == {"task", "manager"}
    assert words("make_helper2") == {"make", "helper"}
    assert words("HTTPServer") == {"http", "server"}
