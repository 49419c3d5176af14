"""docs/reliability.md and the tests say the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text()
ROWS = {
    cells[0].strip(): cells
    for line in PAGE.partition("## The checks")[2].partition("\n## ")[0].splitlines()
    if re.match(r"\| [A-G]\d+ \|", line) and (cells := line.strip("|").split("|"))
}
CHECKS = [
    *(f"A{number}" for number in range(1, 15)), *(f"B{number}" for number in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12)),
    *(f"C{number}" for number in range(1, 9)), *(f"E{number}" for number in range(1, 5)), "G3", "G4",
]  # fmt: skip


def named_tests(path: Path) -> dict[str, str]:
    """Names and docstrings of the tests in a file."""
    body = ast.parse(path.read_text()).body
    return {
        node.name: ast.get_docstring(node) or ""
        for node in body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_check_has_a_row():
    assert list(ROWS) == CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_every_row_says_what_fails_what_is_promised_and_which_test_shows_it(check):
    _, fault, promise, tests = ROWS[check]
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
    assert fault.strip() and promise.strip() and named
    for path, name in named:
        assert name in named_tests(ROOT / path), f"{path}::{name} does not exist"


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("test_*.py")), ids=lambda path: path.name)
def test_every_test_here_is_listed_and_belongs_to_the_checks_that_it_names(path):
    if path == Path(__file__):
        return
    for name, text in named_tests(path).items():
        reference = f"`{path.relative_to(ROOT)}::{name}`"
        listed = {check for check, cells in ROWS.items() if reference in cells[3]}
        assert listed, f"{reference} is in no row"
        said = set(re.findall(r"\b[A-G]\d+\b", text.partition(":")[0].partition(".")[0]))
        assert said <= listed, f"{reference} says {sorted(said)} and is listed under {sorted(listed)}"
